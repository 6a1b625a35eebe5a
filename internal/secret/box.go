package secret

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"holdfast/internal/db"
	"holdfast/internal/problem"
)

// Keeper guards the data key. It is an interface so that a node's slim build carries no key service; package
// secret/keeper opens one from a URL.
type Keeper interface {
	Encrypt(ctx context.Context, plaintext []byte) ([]byte, error)
	Decrypt(ctx context.Context, ciphertext []byte) ([]byte, error)
}

// Box seals bytes at rest. It asks the Keeper once, at OpenBox, and works locally from then on.
type Box struct{ aead cipher.AEAD }

// OpenBox opens the data key of the database with the keeper, and makes one in a database that has none. A keeper
// that does not open it gives its own problem, or one of kind WrongKey.
func OpenBox(ctx context.Context, d *db.DB, keeper Keeper) (*Box, error) {
	var key []byte
	err := d.Tx(ctx, func(ctx context.Context, tx db.Tx) (err error) {
		sealed, err := loadDataKey(ctx, tx)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			key, err = makeDataKey(ctx, tx, keeper)
			return err
		case err != nil:
			return fmt.Errorf("read the data key: %w", err)
		}
		key, err = openDataKey(ctx, keeper, sealed)
		return err
	})
	if err != nil {
		return nil, err
	}
	aead, err := chacha20poly1305.NewX(key)
	return &Box{aead}, err
}

// OpenSealed opens a data key that a keeper has sealed, as SealedDataKey gives it, without a database.
func OpenSealed(ctx context.Context, keeper Keeper, sealed []byte) (*Box, error) {
	key, err := openDataKey(ctx, keeper, sealed)
	if err != nil {
		return nil, err
	}
	aead, err := chacha20poly1305.NewX(key)
	return &Box{aead}, err
}

// SealedDataKey reads the data key of the database as the keeper has sealed it.
func SealedDataKey(ctx context.Context, tx db.Tx) ([]byte, error) {
	sealed, err := loadDataKey(ctx, tx)
	if err != nil {
		return nil, fmt.Errorf("read the data key: %w", err)
	}
	return sealed, nil
}

func makeDataKey(ctx context.Context, tx db.Tx, keeper Keeper) ([]byte, error) {
	key := make([]byte, chacha20poly1305.KeySize)
	rand.Read(key) // never fails: crypto/rand ends the program instead
	sealed, err := keeper.Encrypt(ctx, key)
	if explained(err) {
		return nil, err
	}
	if err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "look at the key service that --key-file or HOLDFAST_KEY names", "data key was not sealed")
	}
	return key, insertDataKey(ctx, tx, sealed)
}

func openDataKey(ctx context.Context, keeper Keeper, sealed []byte) ([]byte, error) {
	key, err := keeper.Decrypt(ctx, sealed)
	if explained(err) {
		return nil, err
	}
	if err != nil {
		return nil, problem.Wrap(err, problem.WrongKey, "start with the key that this database was made with (--key-file or HOLDFAST_KEY)",
			"the given key does not open the secrets in this database")
	}
	return key, nil
}

// explained tells whether the keeper has said for a person why it failed.
func explained(err error) bool {
	_, ok := errors.AsType[*problem.Error](err)
	return ok
}

// Seal encrypts plaintext. Label says what it is ("instance/acme/db_password/1"); Open asks for the same one.
func (b *Box) Seal(label string, plaintext []byte) []byte {
	nonce := make([]byte, b.aead.NonceSize(), b.aead.NonceSize()+len(plaintext)+b.aead.Overhead())
	rand.Read(nonce) // never fails: crypto/rand ends the program instead
	return b.aead.Seal(nonce, nonce, plaintext, []byte(label))
}

// Open decrypts what Seal made for label. Bytes that were changed or moved from another label give kind Corrupt.
func (b *Box) Open(label string, sealed []byte) ([]byte, error) {
	if len(sealed) < b.aead.NonceSize() {
		return nil, corrupt(label)
	}
	nonce, rest := sealed[:b.aead.NonceSize()], sealed[b.aead.NonceSize():]
	plaintext, err := b.aead.Open(nil, nonce, rest, []byte(label))
	if err != nil {
		return nil, corrupt(label)
	}
	return plaintext, nil
}

func corrupt(label string) error {
	return problem.New(problem.Corrupt, "restore the control database from its last backup", "secret %s does not open: its bytes are not what was sealed", label)
}
