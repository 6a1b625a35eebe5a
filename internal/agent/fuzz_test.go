package agent

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"holdfast/internal/step"
)

// FuzzDeliveries takes whatever a broken or hostile server may send: nothing is done that was not signed, and every
// order gets an answer.
func FuzzDeliveries(f *testing.F) {
	seed := sha256.Sum256([]byte("order key"))
	key := ed25519.NewKeyFromSeed(seed[:])
	good, err := json.Marshal(orderOf("x", nil))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, true, false)
	f.Add([]byte(`{"id":"a","node":"a1"}`), true, false)
	f.Add([]byte(`{"kind":"leases","node":"a1","generation":1,"boot_id":"boot-1","body":"e30="}`), true, true)
	f.Add([]byte(`{`), false, false)
	j, err := hurried(f.Context(), f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = j.Close() })
	id := &Identity{Node: "a1", OrderKey: key.Public().(ed25519.PublicKey)}
	world := newWorld()
	log := slog.New(slog.DiscardHandler)
	o := &orders{identity: id, journal: j, spool: NewSpool(j, nil), steps: world, now: time.Now, log: log, root: f.Context(),
		broken: make(chan error, 1), running: map[string]*work{}, tails: map[string]*work{}}
	s := newSettings(Config{Identity: id, Journal: j, Spool: o.spool, BootID: "boot-1", Log: log})
	f.Fuzz(func(t *testing.T, payload []byte, signed, setting bool) {
		purpose := step.ForOrder
		if setting {
			purpose = step.ForSetting
		}
		d := step.Signed{Payload: payload, KeyID: "k"}
		if signed {
			d.Signature = ed25519.Sign(key, append([]byte(purpose), payload...))
		}
		before := len(world.effects)
		take := o.take
		if setting {
			take = s.take
		}
		seq, err := j.LastSeq(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := take(t.Context(), d); err != nil {
			t.Fatalf("the journal failed: %v", err)
		}
		o.all.Wait()
		after, err := j.LastSeq(t.Context())
		if err != nil || !setting && after == seq {
			t.Fatalf("an order got no answer: %v", err)
		}
		if len(world.effects) > before && (!signed || setting) {
			t.Fatal("something was done that nobody signed as an order")
		}
	})
}
