package vault

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"filippo.io/age"

	"holdfast/internal/vault/internal/seal"
)

// WriterKey is all that a machine needs to add snapshots to one repository: the hash key,
// by which it recognises what is stored, and the public half of an epoch. It cannot decrypt
// anything. It prints as [sealed]; its JSON form is for a file that only its owner reads.
type WriterKey struct {
	Format     int       `json:"format"`
	Repository string    `json:"repository"` // ID of the repository
	Instance   string    `json:"instance"`
	HashKey    []byte    `json:"hash_key"`
	Epoch      string    `json:"epoch"`
	Recipient  string    `json:"recipient"` // of the epoch: age1...
	Began      time.Time `json:"began"`     // when the epoch did
	// Recipients and Custodians are pinned here: new epochs are sealed to them, whatever the store says.
	Recipients []string `json:"recipients"` // armored OpenPGP public keys
	Custodians []string `json:"custodians,omitempty"`
}

// String hides the key.
func (WriterKey) String() string { return "[sealed]" }

// GoString hides the key.
func (WriterKey) GoString() string { return "[sealed]" }

// LogValue hides the key.
func (WriterKey) LogValue() slog.Value { return slog.StringValue("[sealed]") }

// ParseWriterKey reads the JSON form.
func ParseWriterKey(data []byte) (WriterKey, error) {
	var k WriterKey
	if err := json.Unmarshal(data, &k); err != nil {
		return k, fmt.Errorf("read writer key: %w: %w", ErrWrongKey, err)
	}
	if k.Format > 1 {
		return k, fmt.Errorf("read writer key: format %d: %w", k.Format, ErrNewerFormat)
	}
	if len(k.HashKey) != 32 {
		return k, fmt.Errorf("read writer key: hash key of %d bytes, want 32: %w", len(k.HashKey), ErrWrongKey)
	}
	return k, nil
}

func (k WriterKey) keys() *seal.Keys { return seal.Derive([32]byte(k.HashKey)) }

// writerName is the public name of all writers that share a hash key.
func writerName(keys *seal.Keys) string { return keys.MAC("writer", nil).String()[:16] }

// EpochIdentity opens the packs and manifests of one epoch. It is what an envelope holds.
// It prints as [sealed]; MarshalText gives it away, as a file that age takes with -i.
type EpochIdentity struct {
	Repository string
	Epoch      string
	hashKey    [32]byte
	identity   *age.X25519Identity
}

// String hides the identity.
func (EpochIdentity) String() string { return "[sealed]" }

// GoString hides the identity.
func (EpochIdentity) GoString() string { return "[sealed]" }

// LogValue hides the identity.
func (EpochIdentity) LogValue() slog.Value { return slog.StringValue("[sealed]") }

func (e EpochIdentity) keys() *seal.Keys { return seal.Derive(e.hashKey) }

// MarshalText gives the secret: an age identity file whose comments say what it belongs to.
func (e EpochIdentity) MarshalText() ([]byte, error) {
	if e.identity == nil {
		return nil, fmt.Errorf("write epoch identity: %w: it is empty", ErrWrongKey)
	}
	return fmt.Appendf(nil, "# holdfast vault epoch identity: opens the packs of one epoch, keep it secret\n"+
		"# repository %s\n# epoch %s\n# hash-key %s\n%s\n", e.Repository, e.Epoch, hex.EncodeToString(e.hashKey[:]), e.identity), nil
}

// UnmarshalText reads what MarshalText wrote.
func (e *EpochIdentity) UnmarshalText(text []byte) error {
	found := map[string]string{}
	lines := bufio.NewScanner(strings.NewReader(string(text)))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if comment, ok := strings.CutPrefix(line, "# "); ok {
			key, value, _ := strings.Cut(comment, " ")
			found[key] = value
		} else if line != "" {
			found["identity"] = line
		}
	}
	id, err := age.ParseX25519Identity(found["identity"])
	if err != nil {
		return fmt.Errorf("read epoch identity: %w: %w", ErrWrongKey, err)
	}
	hashKey, err := hex.DecodeString(found["hash-key"])
	if err != nil || len(hashKey) != 32 {
		return fmt.Errorf("read epoch identity: %w: no hash key in it", ErrWrongKey)
	}
	got := EpochIdentity{Repository: found["repository"], Epoch: found["epoch"], hashKey: [32]byte(hashKey), identity: id}
	if epochName(id.Recipient().String()) != got.Epoch {
		return fmt.Errorf("read epoch identity: %w: it is not of epoch %.40q", ErrWrongKey, got.Epoch)
	}
	*e = got
	return nil
}

// epochName binds an epoch to its public key: no store can give another key under the same name.
func epochName(recipient string) string { return seal.Name([]byte(recipient))[:16] }

// epoch is the readable part of an epoch: epochs/<id>.<hash>.json.
type epoch struct {
	Format     int       `json:"format"`
	ID         string    `json:"id"`
	Recipient  string    `json:"recipient"`
	Writer     string    `json:"writer"`
	Began      time.Time `json:"began"`
	Recipients []string  `json:"recipients"` // fingerprints
	Custodians []string  `json:"custodians,omitempty"`
}

// beginEpoch makes a key pair, stores its identity in envelopes only, and returns the key to write with.
func (r *Repository) beginEpoch(ctx context.Context, hashKey [32]byte, recipients, custodians []string, now time.Time) (WriterKey, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return WriterKey{}, fmt.Errorf("begin epoch: %w", err)
	}
	public := id.Recipient().String()
	secret := EpochIdentity{Repository: r.config.ID, Epoch: epochName(public), hashKey: hashKey, identity: id}
	if err := r.storeEnvelopes(ctx, secret, recipients, custodians, now); err != nil {
		return WriterKey{}, fmt.Errorf("begin epoch: %w", err)
	}
	about := epoch{Format: 1, ID: secret.Epoch, Recipient: public, Writer: writerName(secret.keys()), Began: now.UTC(), Custodians: custodians}
	if about.Recipients, err = Fingerprints(recipients); err != nil {
		return WriterKey{}, err
	}
	if err := r.putNamed(ctx, epochFolder, secret.Epoch, ".json", about); err != nil {
		return WriterKey{}, fmt.Errorf("begin epoch: %w", err)
	}
	return WriterKey{
		Format: 1, Repository: r.config.ID, Instance: r.config.Instance, HashKey: hashKey[:],
		Epoch: about.ID, Recipient: public, Began: about.Began, Recipients: recipients, Custodians: custodians,
	}, nil
}

// Join makes a key for one more writer. It shares no chunks with other writers, and needs no secret.
func (r *Repository) Join(ctx context.Context, recipients, custodians []string, now time.Time) (WriterKey, error) {
	return r.beginEpoch(ctx, seal.NewHashKey(), recipients, custodians, now)
}

// Rotate begins the next epoch of a writer, sealed to the recipients pinned in its key. What is
// stored stays recognised. The caller keeps the returned key instead of the old one.
func (r *Repository) Rotate(ctx context.Context, key WriterKey, now time.Time) (WriterKey, error) {
	if err := r.owns(key); err != nil {
		return WriterKey{}, err
	}
	return r.beginEpoch(ctx, [32]byte(key.HashKey), key.Recipients, key.Custodians, now)
}

// Recover makes a writer key from an opened envelope: for a machine that takes over from a lost one.
func (r *Repository) Recover(ctx context.Context, id EpochIdentity, recipients, custodians []string, now time.Time) (WriterKey, error) {
	if id.Repository != r.config.ID {
		return WriterKey{}, fmt.Errorf("recover writer key: %w: the identity is of another repository", ErrWrongKey)
	}
	return r.beginEpoch(ctx, id.hashKey, recipients, custodians, now)
}

func (r *Repository) owns(key WriterKey) error {
	if key.Repository != r.config.ID || len(key.HashKey) != 32 {
		return fmt.Errorf("use writer key: %w: it is of repository %.16s, this is %.16s", ErrWrongKey, key.Repository, r.config.ID)
	}
	return nil
}
