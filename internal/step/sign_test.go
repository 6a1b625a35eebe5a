package step

import (
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var issued = time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)

func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune(seed)), ed25519.SeedSize)))
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func order() Order {
	return Order{
		ID: "op1/acme/boot/1", Node: "a1", Epoch: 3, Nonce: "n", IssuedAt: issued, ExpiresAt: issued.Add(time.Minute),
		Step: Step{Kind: Boot, Instance: "acme", Args: []byte(`{}`), Note: "boot acme"},
	}
}

func TestOpenOrderRefuses(t *testing.T) {
	now := issued.Add(time.Second)
	cases := []struct {
		name string
		with func(o *Order)
		key  ed25519.PrivateKey
		now  time.Time
		want string // "" = taken
	}{
		{"its own", func(*Order) {}, key('a'), now, ""},
		{"another node's", func(o *Order) { o.Node = "b1" }, key('a'), now, "order op1/acme/boot/1 is for node b1, this is a1"},
		{"an expired one", func(*Order) {}, key('a'), issued.Add(2 * time.Minute), "order op1/acme/boot/1 ended 1m0s ago"},
		{"one from the future", func(*Order) {}, key('a'), issued.Add(-time.Hour), "order op1/acme/boot/1 is issued 1h0m0s in the future"},
		{"one within the skew", func(*Order) {}, key('a'), issued.Add(-time.Minute), ""},
		{"another key's", func(*Order) {}, key('b'), now, "signature of key " + KeyID(public(key('b'))) + " does not hold: this node trusts key " + KeyID(public(key('a')))},
		{"a kind of the server", func(o *Order) { o.Step.Kind = Claim }, key('a'), now, `order op1/acme/boot/1 has the kind "claim", which this node does not know`},
		{"an unknown kind", func(o *Order) { o.Step.Kind = "shell" }, key('a'), now, `order op1/acme/boot/1 has the kind "shell", which this node does not know`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			o := order()
			c.with(&o)
			signed, err := Sign(c.key, ForOrder, o)
			if err != nil {
				t.Fatal(err)
			}
			_, err = OpenOrder(public(key('a')), signed, "a1", c.now)
			if got := text(err); got != c.want {
				t.Fatalf("got %q, want %q", got, c.want)
			}
		})
	}
}

// A signature holds for exactly its bytes and its purpose.
func TestAnyChangeBreaksTheSignature(t *testing.T) {
	signed, err := Sign(key('a'), ForOrder, order())
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(public(key('a')), ForSetting, signed, new(Order)); err == nil {
		t.Fatal("an order was taken as a setting")
	}
	rapid.Check(t, func(t *rapid.T) {
		bent := Signed{Payload: append([]byte{}, signed.Payload...), Signature: append([]byte{}, signed.Signature...)}
		target := bent.Payload
		if rapid.Bool().Draw(t, "in the signature") {
			target = bent.Signature
		}
		target[rapid.IntRange(0, len(target)-1).Draw(t, "byte")] ^= byte(rapid.IntRange(1, 255).Draw(t, "flip"))
		if err := Verify(public(key('a')), ForOrder, bent, new(Order)); err == nil {
			t.Fatalf("a bent order was taken: %s", bent.Payload)
		}
	})
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
