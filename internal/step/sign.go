package step

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"holdfast/internal/problem"
)

// Purpose is the first line of what is signed, so that a signature for one purpose is worth nothing for another.
type Purpose string

// The purposes of the order key.
const (
	ForOrder   Purpose = "holdfast order v1\n"   // payload: Order
	ForSetting Purpose = "holdfast setting v1\n" // payload: a setting of the agent link
)

// Skew is how far a node's clock may be behind the server's before it refuses an order as not yet issued.
const Skew = 5 * time.Minute

// Sign writes payload as JSON and signs exactly those bytes for the purpose.
func Sign(key ed25519.PrivateKey, purpose Purpose, payload any) (Signed, error) {
	raw, err := json.Marshal(payload)
	if err != nil {
		return Signed{}, fmt.Errorf("encode what is to be signed: %w", err)
	}
	public := key.Public().(ed25519.PublicKey)
	return Signed{Payload: raw, Signature: ed25519.Sign(key, signedBytes(purpose, raw)), KeyID: KeyID(public)}, nil
}

// Verify checks the signature over the payload's bytes and only then reads them into what into points to. Unknown
// fields are let pass: a newer server may say more than this node understands.
func Verify(key ed25519.PublicKey, purpose Purpose, signed Signed, into any) error {
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, signedBytes(purpose, signed.Payload), signed.Signature) {
		return problem.New(problem.Denied, "", "signature of key %s does not hold: this node trusts key %s", signed.KeyID, KeyID(key))
	}
	if err := json.Unmarshal(signed.Payload, into); err != nil {
		return problem.Wrap(err, problem.Invalid, "", "signed payload cannot be read")
	}
	return nil
}

// OpenOrder verifies a signed order and that it is for this node, now, and of a kind that a node does. What only the
// journal knows (epoch, replay) is left to the caller. A refusal is a problem.Error whose text the server shows.
func OpenOrder(key ed25519.PublicKey, signed Signed, node string, now time.Time) (Order, error) {
	var order Order
	if err := Verify(key, ForOrder, signed, &order); err != nil {
		return Order{}, err
	}
	return order, order.checkFor(node, now)
}

func (o Order) checkFor(node string, now time.Time) error {
	switch {
	case o.Node != node:
		return problem.New(problem.Denied, "", "order %s is for node %s, this is %s", o.ID, o.Node, node)
	case now.After(o.ExpiresAt):
		return problem.New(problem.Stale, "", "order %s ended %s ago", o.ID, now.Sub(o.ExpiresAt).Round(time.Second))
	case o.IssuedAt.After(now.Add(Skew)):
		return problem.New(problem.Denied, "set the clock of the node", "order %s is issued %s in the future", o.ID, o.IssuedAt.Sub(now).Round(time.Second))
	case !o.Step.Kind.OnNode():
		return problem.New(problem.Invalid, "upgrade the agent of "+node, "order %s has the kind %q, which this node does not know", o.ID, o.Step.Kind)
	}
	return nil
}

// OnNode tells whether k is a kind that a node does.
func (k Kind) OnNode() bool {
	switch k {
	case Stage, Boot, Ready, Checks, Switch, Stop, Fence, Discard, Backup, Fetch, Load, Arm, Fire, Undo, Prune, Survey:
		return true
	case Claim, Route, Release, Tell, Adopt:
		return false
	}
	return false
}

// KeyID is the first eight bytes of the key's SHA-256, in hex: enough to tell keys apart in a message.
func KeyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

func signedBytes(purpose Purpose, payload []byte) []byte {
	return append([]byte(purpose), payload...)
}
