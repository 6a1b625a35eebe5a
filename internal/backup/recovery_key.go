package backup

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/uptrace/bun"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// Sealed is what a person with a recovery key needs to open a snapshot on their own machine, and for whom to seal what
// they opened. Nothing of it is secret without the key.
type Sealed struct {
	Snapshot  Snapshot          `json:"snapshot"`
	Node      string            `json:"node"`
	SealTo    string            `json:"seal_to"`   // age recipient of the node that will restore
	Envelopes map[string][]byte `json:"envelopes"` // epoch id -> armored OpenPGP message
}

// ForPeople gathers the envelopes of a snapshot that recovery keys open.
func ForPeople(ctx context.Context, in bun.IDB, s Snapshot, node, sealTo string) (Sealed, error) {
	held, err := envelopesOf(ctx, in, s.Instance)
	if err != nil {
		return Sealed{}, err
	}
	out := Sealed{Snapshot: s, Node: node, SealTo: sealTo, Envelopes: map[string][]byte{}}
	for _, epoch := range s.Epochs {
		message := held[epochKey{s.Instance, s.Vault, epoch}].People
		if len(message) == 0 {
			return Sealed{}, problem.New(problem.WrongKey, "holdfast restore instance/"+s.Instance+" --snapshot "+s.Short(),
				"snapshot %s of %s has no envelope for a recovery key", s.Short(), s.Instance)
		}
		out.Envelopes[epoch] = message
	}
	return out, nil
}

// OpenForNode opens the envelopes with a person's armored secret key and seals what they hold to the node of the
// restore. It runs where the person is: neither the key nor an identity goes to the server readable.
func (s Sealed) OpenForNode(secretKey string, passphrase []byte) ([]byte, error) {
	identities := map[string]vault.EpochIdentity{}
	for _, epoch := range slices.Sorted(maps.Keys(s.Envelopes)) {
		identity, err := vault.OpenEnvelopePGP(vault.Envelope{Epoch: epoch, PGP: [][]byte{s.Envelopes[epoch]}}, secretKey, passphrase)
		if errors.Is(err, vault.ErrWrongKey) {
			return nil, problem.Wrap(err, problem.WrongKey, "holdfast backup list instance/"+s.Snapshot.Instance, "snapshot %s of %s was not opened", s.Snapshot.Short(), s.Snapshot.Instance)
		}
		if err != nil {
			return nil, problem.Wrap(err, problem.Corrupt, "holdfast backup list instance/"+s.Snapshot.Instance, "snapshot %s of %s was not opened", s.Snapshot.Short(), s.Snapshot.Instance)
		}
		identities[epoch] = identity
	}
	return sealIdentities(s.SealTo, identities)
}
