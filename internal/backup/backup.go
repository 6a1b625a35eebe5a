// Package backup keeps the catalogue of snapshots: when one is due, what there is to return to, and who may open it.
//
// Words: a snapshot is one point to return to; its envelopes hold the identities of the epochs that it needs, sealed
// to people (OpenPGP) and, where the instance allows it, to the custodian (age), whose key the server holds sealed; a
// release is the leave to open the custodian's envelopes of one snapshot for one step on one node; a proof is a
// restore of that very snapshot whose checks held.
//
// Invariant: an identity is open only in memory, between an envelope and the message sealed to the node that a
// release names; without a release of this operation nothing is opened. A snapshot without a proof has no status.
package backup

import (
	"time"
)

// Snapshot is one point to return to. It says what was reported; only Proof says that it was really restored.
type Snapshot struct {
	ID         string    `json:"id"`
	Instance   string    `json:"instance"`
	Node       string    `json:"node"`  // where it was taken
	Vault      string    `json:"vault"` // the vault node that holds it
	Release    string    `json:"release"`
	Spec       string    `json:"spec"` // fingerprint of what ran
	Operation  string    `json:"operation"`
	TakenAt    time.Time `json:"taken_at"`
	EndedAt    time.Time `json:"ended_at"`
	Bytes      int64     `json:"bytes"` // of the instance's data
	AddedBytes int64     `json:"added_bytes"`
	Files      int64     `json:"files"`
	CanaryFrom int64     `json:"canary_from"` // newest tick before the dump began
	CanaryTo   int64     `json:"canary_to"`   // newest when it had ended; 0 = not known
	Epochs     []string  `json:"epochs"`
	Custodian  bool      `json:"custodian"`          // the custodian can open all its epochs
	People     bool      `json:"people"`             // a recovery key can open all its epochs
	Notes      []string  `json:"notes,omitempty"`    // files that changed or vanished while read
	Proof      Proof     `json:"proof,omitzero"`     // zero: never restored, no status
	PrunedAt   time.Time `json:"pruned_at,omitzero"` // the vault has let it go
}

// ProofLevel says how much of a restore was really done and checked.
type ProofLevel string

// Restored is the level of a snapshot that was restored on a node, booted, ready, and whose every check held.
const Restored ProofLevel = "restored"

// Proof is that a snapshot was restored, and when.
type Proof struct {
	Level ProofLevel `json:"level"`
	At    time.Time  `json:"at"`
}
