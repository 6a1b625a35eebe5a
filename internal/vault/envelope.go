package vault

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"holdfast/internal/vault/internal/seal"
)

// Envelope holds the sealed identity of one epoch: PGP for people, Age for the custodian.
// Each is a list because a rotation of keys adds envelopes and rewrites none.
type Envelope struct {
	Epoch string   `json:"epoch"`
	PGP   [][]byte `json:"pgp"` // armored OpenPGP messages
	Age   [][]byte `json:"age"` // age files
}

// storeEnvelopes seals an identity to people and custodians.
func (r *Repository) storeEnvelopes(ctx context.Context, id EpochIdentity, recipients, custodians []string, now time.Time) error {
	if len(recipients)+len(custodians) == 0 {
		return errors.New("seal epoch: no recipient and no custodian: nobody could ever restore")
	}
	text, err := id.MarshalText()
	if err != nil {
		return err
	}
	if len(recipients) > 0 {
		body, err := sealPGP(text, recipients, now)
		if err != nil {
			return err
		}
		if err := put(ctx, r.store, namedBy(epochFolder, id.Epoch, ".asc", body), body); err != nil {
			return err
		}
	}
	if len(custodians) > 0 {
		body, err := sealAge(text, custodians)
		if err != nil {
			return err
		}
		return put(ctx, r.store, namedBy(epochFolder, id.Epoch, ".age", body), body)
	}
	return nil
}

// namedBy makes a name that carries the hash of the body.
func namedBy(folder, stem, ext string, body []byte) string {
	return folder + "/" + stem + "." + seal.Name(body)[:32] + ext
}

// putNamed stores v as JSON under a name that carries its hash.
func (r *Repository) putNamed(ctx context.Context, folder, stem, ext string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return put(ctx, r.store, namedBy(folder, stem, ext, body), body)
}

// cutNamed takes a name apart.
func cutNamed(name string) (stem, hash, ext string) {
	ext = path.Ext(name)
	stem, hash, _ = strings.Cut(strings.TrimSuffix(path.Base(name), ext), ".")
	return stem, hash, ext
}

// readNamed reads an object and holds its bytes against the hash in its name.
func (r *Repository) readNamed(ctx context.Context, name string) ([]byte, error) {
	body, err := read(ctx, r.store, name)
	if err != nil {
		return nil, err
	}
	_, hash, _ := cutNamed(name)
	if len(hash) != 32 || seal.Name(body)[:32] != hash {
		return nil, fmt.Errorf("%s: its bytes differ from its name: %w", name, ErrDamaged)
	}
	return body, nil
}

// Reseal adds envelopes of an epoch for other recipients and custodians: how a recovery key is
// changed without writing a pack again. The old envelopes stay until the vault deletes them.
func (r *Repository) Reseal(ctx context.Context, id EpochIdentity, recipients, custodians []string, now time.Time) error {
	if id.Repository != r.config.ID {
		return fmt.Errorf("reseal epoch %s: %w: it is of another repository", id.Epoch, ErrWrongKey)
	}
	return r.storeEnvelopes(ctx, id, recipients, custodians, now)
}

// Envelopes gives the envelopes of the epochs a snapshot needs; of all epochs when snapshot is empty.
func (r *Repository) Envelopes(ctx context.Context, snapshot string) ([]Envelope, error) {
	var needed []string
	if snapshot != "" {
		info, err := r.Snapshot(ctx, snapshot)
		if err != nil {
			return nil, err
		}
		needed = info.Epochs
	}
	all, err := r.store.List(ctx, epochFolder)
	if err != nil {
		return nil, fmt.Errorf("list epochs: %w", err)
	}
	found := map[string]*Envelope{}
	for _, o := range all {
		if err := r.addEnvelope(ctx, found, needed, o.Name); err != nil {
			return nil, err
		}
	}
	out := make([]Envelope, 0, len(found))
	for _, e := range found {
		out = append(out, *e)
	}
	slices.SortFunc(out, func(a, b Envelope) int { return strings.Compare(a.Epoch, b.Epoch) })
	return out, missingEpochs(needed, found)
}

func (r *Repository) addEnvelope(ctx context.Context, found map[string]*Envelope, needed []string, name string) error {
	stem, _, ext := cutNamed(name)
	if ext == ".json" || (needed != nil && !slices.Contains(needed, stem)) {
		return nil
	}
	body, err := r.readNamed(ctx, name)
	if err != nil {
		return err
	}
	e := found[stem]
	if e == nil {
		e = &Envelope{Epoch: stem}
		found[stem] = e
	}
	if ext == ".asc" {
		e.PGP = append(e.PGP, body)
	} else {
		e.Age = append(e.Age, body)
	}
	return nil
}

func missingEpochs(needed []string, found map[string]*Envelope) error {
	for _, id := range needed {
		if found[id] == nil {
			return fmt.Errorf("epoch %s: no envelope: %w", id, ErrDamaged)
		}
	}
	return nil
}

// Fingerprints reads armored public keys and returns their fingerprints in hex.
func Fingerprints(armored []string) ([]string, error) {
	var out []string
	for _, key := range armored {
		e, err := readPublic(key)
		if err != nil {
			return nil, err
		}
		out = append(out, fmt.Sprintf("%X", e.PrimaryKey.Fingerprint))
	}
	return out, nil
}

func readPublic(armored string) (*openpgp.Entity, error) {
	list, err := openpgp.ReadArmoredKeyRing(strings.NewReader(armored))
	if err != nil {
		return nil, fmt.Errorf("read recipient: not an armored OpenPGP public key: %w", err)
	}
	if len(list) != 1 {
		return nil, fmt.Errorf("read recipient: %d keys in one file, want 1", len(list))
	}
	return list[0], nil
}

// CheckRecipient tells why a public key cannot be a recipient now: it is revoked, expired, too short, or cannot encrypt.
func CheckRecipient(armored string, now time.Time) error {
	_, err := usable(armored, now)
	return err
}

func usable(armored string, now time.Time) (*openpgp.Entity, error) {
	e, err := readPublic(armored)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%X", e.PrimaryKey.Fingerprint)
	if e.Revoked(now) {
		return nil, fmt.Errorf("recipient %s: %w: the key is revoked", name, ErrWrongKey)
	}
	if self, _ := e.PrimarySelfSignature(); self != nil && e.PrimaryKey.KeyExpired(self, now) {
		return nil, fmt.Errorf("recipient %s: %w: the key expired", name, ErrWrongKey)
	}
	key, ok := e.EncryptionKey(now)
	if !ok {
		return nil, fmt.Errorf("recipient %s: %w: it has no valid key to encrypt to (expired or revoked subkey, or made for signing only)", name, ErrWrongKey)
	}
	if bits, err := key.PublicKey.BitLength(); err == nil && key.PublicKey.PubKeyAlgo == packet.PubKeyAlgoRSA && bits < 2048 {
		return nil, fmt.Errorf("recipient %s: %w: RSA of %d bits is too short", name, ErrWrongKey, bits)
	}
	return e, nil
}

// sealPGP encrypts text in the form that GnuPG 2.2 reads: no AEAD, no compression.
func sealPGP(text []byte, recipients []string, now time.Time) ([]byte, error) {
	var to []*openpgp.Entity
	for _, r := range recipients {
		e, err := usable(r, now)
		if err != nil {
			return nil, err
		}
		to = append(to, e)
	}
	var out bytes.Buffer
	a, err := armor.Encode(&out, openpgp.MessageType, nil)
	if err != nil {
		return nil, fmt.Errorf("seal to recipients: %w", err)
	}
	config := &packet.Config{DefaultCipher: packet.CipherAES256, DefaultHash: crypto.SHA256, Time: func() time.Time { return now }}
	w, err := openpgp.Encrypt(a, to, nil, &openpgp.FileHints{IsBinary: true}, config)
	if err != nil {
		return nil, fmt.Errorf("seal to recipients: %w", err)
	}
	_, err = w.Write(text)
	if err := errors.Join(err, w.Close(), a.Close()); err != nil {
		return nil, fmt.Errorf("seal to recipients: %w", err)
	}
	return append(out.Bytes(), '\n'), nil
}

func sealAge(text []byte, custodians []string) ([]byte, error) {
	var to []age.Recipient
	for _, c := range custodians {
		r, err := age.ParseX25519Recipient(c)
		if err != nil {
			return nil, fmt.Errorf("read custodian %.80q: %w", c, err)
		}
		to = append(to, r)
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to...)
	if err != nil {
		return nil, fmt.Errorf("seal to custodians: %w", err)
	}
	_, err = w.Write(text)
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("seal to custodians: %w", err)
	}
	return out.Bytes(), nil
}

// OpenEnvelopePGP opens the envelope for people with their armored secret key; the passphrase
// is used when the key has one. The error is ErrWrongKey when none of the messages is for this key.
func OpenEnvelopePGP(envelope Envelope, secretKey string, passphrase []byte) (EpochIdentity, error) {
	ring, err := openpgp.ReadArmoredKeyRing(strings.NewReader(secretKey))
	if err != nil {
		return EpochIdentity{}, fmt.Errorf("read secret key: %w: %w", ErrWrongKey, err)
	}
	if err := unlock(ring, passphrase); err != nil {
		return EpochIdentity{}, err
	}
	last := errors.New("it has no message for people")
	for _, message := range envelope.PGP {
		text, err := openPGP(message, ring)
		if err == nil {
			return parseIdentity(text, envelope.Epoch)
		}
		last = err
	}
	if errors.Is(last, ErrDamaged) {
		return EpochIdentity{}, fmt.Errorf("open envelope of epoch %s: %w", envelope.Epoch, last)
	}
	return EpochIdentity{}, fmt.Errorf("open envelope of epoch %s: %w: %w", envelope.Epoch, ErrWrongKey, last)
}

// unlock decrypts the secret keys with the passphrase.
func unlock(ring openpgp.EntityList, passphrase []byte) error {
	for _, e := range ring {
		if e.PrivateKey == nil {
			return fmt.Errorf("read secret key: %w: this is a public key", ErrWrongKey)
		}
		keys := []*packet.PrivateKey{e.PrivateKey}
		for _, s := range e.Subkeys {
			keys = append(keys, s.PrivateKey)
		}
		for _, k := range keys {
			if k == nil || !k.Encrypted || k.Dummy() {
				continue
			}
			if len(passphrase) == 0 {
				return fmt.Errorf("unlock secret key: %w: it has a passphrase and none was given", ErrWrongKey)
			}
			if err := k.Decrypt(passphrase); err != nil {
				return fmt.Errorf("unlock secret key: %w: the passphrase does not open it", ErrWrongKey)
			}
		}
	}
	return nil
}

func openPGP(message []byte, ring openpgp.EntityList) ([]byte, error) {
	block, err := armor.Decode(bytes.NewReader(message))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	md, err := openpgp.ReadMessage(block.Body, ring, nil, nil)
	if errors.Is(err, pgperrors.ErrKeyIncorrect) {
		return nil, errors.New("it is sealed to other keys")
	}
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(md.UnverifiedBody, 1<<16))
}

// OpenEnvelopeAge opens the envelope for the custodian with his identity, AGE-SECRET-KEY-1...
func OpenEnvelopeAge(envelope Envelope, identity string) (EpochIdentity, error) {
	ids, err := age.ParseIdentities(strings.NewReader(identity))
	if err != nil {
		return EpochIdentity{}, fmt.Errorf("read custodian identity: %w: not an age identity", ErrWrongKey)
	}
	for _, message := range envelope.Age {
		r, err := age.Decrypt(bytes.NewReader(message), ids...)
		if err != nil {
			continue
		}
		text, err := io.ReadAll(io.LimitReader(r, 1<<16))
		if err != nil {
			return EpochIdentity{}, fmt.Errorf("open envelope of epoch %s: %w: %w", envelope.Epoch, ErrDamaged, err)
		}
		return parseIdentity(text, envelope.Epoch)
	}
	return EpochIdentity{}, fmt.Errorf("open envelope of epoch %s: %w: it is not sealed to this custodian", envelope.Epoch, ErrWrongKey)
}

func parseIdentity(text []byte, epoch string) (EpochIdentity, error) {
	var id EpochIdentity
	if err := id.UnmarshalText(text); err != nil {
		return id, err
	}
	if id.Epoch != epoch {
		return id, fmt.Errorf("open envelope of epoch %s: %w: it holds epoch %s", epoch, ErrDamaged, id.Epoch)
	}
	return id, nil
}
