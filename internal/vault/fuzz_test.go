package vault_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"testing"
	"time"

	"holdfast/internal/vault"
	"holdfast/internal/vault/internal/seal"
	"holdfast/internal/vault/vaulttest"
)

// FuzzEpochIdentity feeds what an envelope could hold.
func FuzzEpochIdentity(f *testing.F) {
	p := newPlaceIn(f, &vaulttest.Memory{})
	text, err := p.identities(f, "")[0].MarshalText()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("# hash-key 00\nAGE-SECRET-KEY-1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var id vault.EpochIdentity
		if id.UnmarshalText(data) != nil {
			return
		}
		again, err := id.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var same vault.EpochIdentity
		if err := same.UnmarshalText(again); err != nil || same.Epoch != id.Epoch || same.Fingerprint() != id.Fingerprint() {
			t.Fatalf("what was read does not read again: %v", err)
		}
	})
}

// FuzzEnvelope feeds hostile messages in place of the envelopes, to both who open them.
func FuzzEnvelope(f *testing.F) {
	recipient, identity, err := vault.NewCustodian()
	if err != nil {
		f.Fatal(err)
	}
	people := vaulttest.NewKey(f)
	r, _, err := vault.Init(f.Context(), &vaulttest.Memory{}, vault.InitOptions{Recipients: []string{people.Public}, Custodians: []string{recipient}})
	if err != nil {
		f.Fatal(err)
	}
	envelopes, err := r.Envelopes(f.Context(), "")
	if err != nil {
		f.Fatal(err)
	}
	true1 := envelopes[0]
	f.Add(true1.PGP[0], true1.Age[0])
	f.Add(true1.Age[0], true1.PGP[0])
	f.Fuzz(func(t *testing.T, pgp, age []byte) {
		e := vault.Envelope{Epoch: true1.Epoch, PGP: [][]byte{pgp}, Age: [][]byte{age}}
		for _, open := range []func() (vault.EpochIdentity, error){
			func() (vault.EpochIdentity, error) { return vault.OpenEnvelopePGP(e, people.Secret, nil) },
			func() (vault.EpochIdentity, error) { return vault.OpenEnvelopeAge(e, identity) },
		} {
			id, err := open()
			if err == nil && id.Epoch != true1.Epoch {
				t.Fatalf("it opened epoch %s", id.Epoch)
			}
			if err != nil && !errors.Is(err, vault.ErrWrongKey) && !errors.Is(err, vault.ErrDamaged) {
				t.Fatalf("an error without a kind: %v", err)
			}
		}
	})
}

// FuzzRecipient feeds what a person could give as a public or secret key.
func FuzzRecipient(f *testing.F) {
	key := vaulttest.NewKey(f)
	f.Add(key.Public)
	f.Add(key.Secret)
	now := time.Now()
	f.Fuzz(func(t *testing.T, text string) {
		if vault.CheckRecipient(text, now) == nil {
			if _, _, err := vault.Init(t.Context(), &vaulttest.Memory{}, vault.InitOptions{Recipients: []string{text}, Now: now}); err != nil {
				t.Fatalf("a key that was found good cannot be sealed to: %v", err)
			}
		}
		_, _ = vault.Locked(text)
	})
}

// FuzzReadableObjects feeds hostile bytes, under right names, to all that is read without a key: snapshots, index
// files, condemnations, proofs, locks. None may end in a panic, none may make prune delete what a true snapshot needs.
func FuzzReadableObjects(f *testing.F) {
	p, store, _ := smallPlaceIn(f)
	for _, name := range store.Names() {
		folder, _, deep := strings.Cut(name, "/")
		if deep {
			f.Add(folder, store.Body(name))
		}
	}
	f.Add("condemned", fmt.Appendf(nil, `{"format":1,"time":"2020-01-01T00:00:00Z","packs":[%q]}`, strings.Repeat("0", 64)))
	f.Add("proofs", []byte(`{"format":1,"snapshot":"x","time":"2020-01-01T00:00:00Z"}`))
	f.Add("locks", []byte(`{"kind":"backup"}`))
	ids := p.identities(f, "")
	all, err := p.repo.ListSnapshots(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, folder string, body []byte) {
		hash := seal.Name(body)
		name := map[string]string{"snapshots": hash + ".json", "index": hash, "manifests": hash, "packs": hash, "locks": strings.Repeat("A", 26) + ".json",
			"condemned": "20200101T000000." + hash[:32] + ".json", "proofs": all[0].ID + "." + hash[:32] + ".json", "epochs": all[0].Epoch + "." + hash[:32] + ".json"}[folder]
		if name == "" {
			return
		}
		s := store.Clone()
		if err := s.Put(t.Context(), folder+"/"+name, body); err != nil && !errors.Is(err, vault.ErrExists) {
			t.Fatal(err)
		}
		r, err := vault.Open(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = r.Check(t.Context(), vault.CheckOptions{Identities: ids})
		_, _ = r.Stats(t.Context())
		_, _ = r.Epochs(t.Context())
		plan, err := r.PlanPrune(t.Context(), vault.PruneOptions{Keep: vault.Keep{Last: 1000}, Now: time.Now()})
		if err != nil {
			return
		}
		for _, d := range append(plan.Delete, plan.Condemn...) {
			for _, info := range all {
				if d.Object == info.Manifest || strings.Contains(strings.Join(info.Packs, " "), path.Base(d.Object)) {
					t.Fatalf("%s would go: %s", d.Object, d.Why)
				}
			}
		}
		var copied vaulttest.Memory
		_, _ = r.Copy(t.Context(), &copied, vault.CopyOptions{})
	})
}

// FuzzConfig feeds hostile bytes as the description of a repository, and as what a machine kept of it.
func FuzzConfig(f *testing.F) {
	_, store, _ := smallPlaceIn(f)
	f.Add(store.Body("config.json"))
	f.Add([]byte(`{"format":2}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		s := store.Clone()
		s.Set("config.json", body)
		r, err := vault.Open(t.Context(), s)
		if err != nil {
			return
		}
		var k vault.Known
		if json.Unmarshal(body, &k) == nil {
			_ = r.Expect(k)
		}
		_, _ = r.ListSnapshots(t.Context())
	})
}
