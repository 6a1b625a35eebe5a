// Package step is one piece of work on one node, as plain versioned data, and the signed order that carries it.
//
// Words: a Step is a kind with JSON arguments and a note for the reader; an Order binds a step to one node, instance
// and epoch, with a nonce and an end, and is signed by the server's order key (Ed25519). A slot is one copy of an
// instance's data and processes on a node: restores go into a new slot beside the active one.
//
// Invariant: the list of kinds is closed. There is no free shell among them, and a node refuses an order whose
// signature, node, epoch or end does not hold.
package step

import (
	"encoding/json"
	"time"

	"holdfast/internal/fleet"
)

// Kind names what a step does. Its text is on the wire and in journals, and is kept stable.
type Kind string

// Kinds that a node does.
const (
	Stage   Kind = "stage"   // Stage{}: artefacts or images present and checked, memory, disk and ports suffice; stops nothing
	Boot    Kind = "boot"    // BootArgs: bring the slot's services to the spec, in order
	Ready   Kind = "ready"   // SlotArgs: wait until every service of the slot is ready
	Checks  Kind = "checks"  // SlotArgs: readiness and every invariant of the data; the result is ChecksResult
	Switch  Kind = "switch"  // SwitchArgs: the slot becomes the active one under the epoch; other slots stop, their data stays
	Stop    Kind = "stop"    // StopArgs: stop the services and keep the data (retire, move away)
	Fence   Kind = "fence"   // FenceArgs: below this epoch serve nothing and delete nothing
	Discard Kind = "discard" // SlotArgs: remove a slot that is not active and never was
	Backup  Kind = "backup"  // BackupArgs: dump every state, one snapshot; the result is BackupResult
	Fetch   Kind = "fetch"   // FetchArgs: bring a snapshot into a new slot; the result is FetchResult
	Load    Kind = "load"    // SlotArgs: start what is needed to load, load every dump, stop it again
	Arm     Kind = "arm"     // FaultArgs: write the fault's own end to disk and start its timer; fires nothing
	Fire    Kind = "fire"    // FaultArgs: inject the armed fault
	Undo    Kind = "undo"    // FaultArgs: end the fault now
	Prune   Kind = "prune"   // PruneArgs: on a vault, let go what the instance need not keep; the result is PruneResult
	Survey  Kind = "survey"  // SurveyArgs: tell what the node holds, for a server that was rebuilt; the result is SurveyResult
)

// Kinds that the server does itself, between node steps.
const (
	Claim   Kind = "claim"   // ClaimArgs: place the instance on a node at a new epoch; fences every other node
	Route   Kind = "route"   // RouteArgs: wait until the edge answers for the instance from its new place
	Release Kind = "release" // ReleaseArgs: open the custodian's envelopes for exactly one fetch order
	Tell    Kind = "tell"    // TellArgs: a communication of a recovery plan
	Adopt   Kind = "adopt"   // Adopt{}: take what the surveys of the same operation found for what is
)

// Step is one piece of work. Args is the JSON of the kind's argument type.
type Step struct {
	Kind     Kind            `json:"kind"`
	Instance string          `json:"instance,omitempty"`
	Args     json.RawMessage `json:"args"`
	Note     string          `json:"note"` // for the reader: "restore acme beside, from snapshot 7f3c"
}

// SlotArgs names a slot of the step's instance.
type SlotArgs struct {
	Slot   string        `json:"slot"`
	Within time.Duration `json:"within,omitempty"`
}

// StageArgs asks whether the node can run the spec.
type StageArgs struct {
	Spec fleet.Spec `json:"spec"`
}

// BootArgs brings up a slot. Secrets is the age message, sealed to the node, of the JSON object name -> value.
type BootArgs struct {
	Spec       fleet.Spec `json:"spec"`
	Slot       string     `json:"slot"`
	Secrets    []byte     `json:"secrets,omitempty"`
	Neutralise bool       `json:"neutralise,omitempty"` // a rehearsal copy: run the neutralise hook before anything else may act
	Restored   bool       `json:"restored,omitempty"`   // run the after_restore hook once it is ready
	Beside     bool       `json:"beside,omitempty"`     // a slot that does not serve before a switch: it may start where another node is the holder
}

// SwitchArgs makes a slot the active one.
type SwitchArgs struct {
	Slot  string `json:"slot"`
	Epoch int64  `json:"epoch"`
}

// StopArgs stops an instance and says why; Retire is true when it is to stay stopped over restarts.
type StopArgs struct {
	Retire bool   `json:"retire"`
	Why    string `json:"why"`
}

// FenceArgs gives the lowest epoch that may serve here.
type FenceArgs struct {
	Epoch int64  `json:"epoch"` // the current epoch of the instance
	Node  string `json:"node"`  // the one node that may serve at it
}

// Repository says where an instance's backups live and how the node gets there.
type Repository struct {
	URL       string `json:"url"`                  // sftp://INSTANCE@host:port/INSTANCE, a path, or s3://endpoint/bucket/prefix
	HostKey   string `json:"host_key,omitempty"`   // SSH host key of the vault, authorized_keys form
	WriterKey []byte `json:"writer_key,omitempty"` // sealed to the node; empty on the very first backup
}

// BackupArgs asks for one snapshot.
type BackupArgs struct {
	Repository Repository `json:"repository"`
	Spec       fleet.Spec `json:"spec"`
	Custodians []string   `json:"custodians,omitempty"` // age recipients
	ReplyTo    string     `json:"reply_to,omitempty"`   // age recipient of the server: what must not be read in between is sealed to it
	Rotate     bool       `json:"rotate,omitempty"`     // begin the next epoch with a new writer key first, and tell it
}

// SnapshotOf stands for the snapshot that a backup step of the same operation makes. It may be the Snapshot of
// ReleaseArgs and FetchArgs; once the backup is done, its snapshot stands there.
func SnapshotOf(backupStep string) string { return "@backup:" + backupStep }

// BackupResult is what a finished backup reports; it feeds the catalogue.
type BackupResult struct {
	Snapshot   string            `json:"snapshot"`
	TakenAt    time.Time         `json:"taken_at"` // start of the dump
	EndedAt    time.Time         `json:"ended_at"`
	Bytes      int64             `json:"bytes"` // of the instance's data
	AddedBytes int64             `json:"added_bytes"`
	Files      int64             `json:"files"`
	CanaryFrom int64             `json:"canary_from"`        // newest canary sequence before the dump began
	CanaryTo   int64             `json:"canary_to"`          // newest when it had ended
	Envelopes  map[string][]byte `json:"envelopes"`          // epoch id -> the custodian's age envelope, for every epoch the snapshot needs
	Recovery   map[string][]byte `json:"recovery,omitempty"` // epoch id -> the OpenPGP message to the recovery keys, for a restore by a person
	WriterKey  []byte            `json:"writer_key,omitempty"`
	Release    string            `json:"release"`
	Notes      []string          `json:"notes,omitempty"` // files that changed or vanished while read
}

// FetchArgs brings a snapshot into a slot. Identities is an age message, sealed to the node, of the JSON object
// epoch id -> identity; it opens exactly the epochs that the snapshot needs.
type FetchArgs struct {
	Repository Repository `json:"repository"`
	Snapshot   string     `json:"snapshot"`
	Slot       string     `json:"slot"`
	Identities []byte     `json:"identities"`
	Spec       fleet.Spec `json:"spec"`
	Expect     string     `json:"expect,omitempty"` // the release that the snapshot must be of; "" = any
}

// FetchResult is what came.
type FetchResult struct {
	Bytes     int64     `json:"bytes"`
	Files     int64     `json:"files"`
	CanarySeq int64     `json:"canary_seq"` // newest canary tick found in the snapshot
	CanaryAt  time.Time `json:"canary_at"`
	Release   string    `json:"release"`
	Secrets   []byte    `json:"secrets,omitempty"` // the snapshot's secrets, sealed to the server
}

// ChecksResult counts what held.
type ChecksResult struct {
	Passed    int      `json:"passed"`
	Required  int      `json:"required"`
	Failures  []string `json:"failures,omitempty"`
	CanarySeq int64    `json:"canary_seq"`
}

// FaultArgs describes a fault with its own end. Fault is "cut" (drop all but the management path), "kill" (SIGKILL
// the stacks and the engine), or "stop" (pause them).
type FaultArgs struct {
	ID    string        `json:"id"` // the drill
	Fault string        `json:"fault"`
	For   time.Duration `json:"for"` // the end is this long after firing, on the node's monotonic clock
	Allow []string      `json:"allow,omitempty"`
}

// ClaimArgs moves an instance's one writer to Node.
type ClaimArgs struct {
	Node    string `json:"node"`
	Slot    string `json:"slot"`
	Spec    string `json:"spec"`
	Release string `json:"release"`
	Away    bool   `json:"away,omitempty"` // the fleet files do not say so: it stays there until somebody sends it home
}

// RouteArgs waits for the edge.
type RouteArgs struct {
	Within time.Duration `json:"within"`
}

// ReleaseArgs names the snapshot whose epochs are opened and the one step that may use them.
type ReleaseArgs struct {
	Snapshot string `json:"snapshot"`
	ForStep  string `json:"for_step"`
}

// TellArgs is a communication.
type TellArgs struct {
	Event    string   `json:"event"`
	Audience string   `json:"audience"`
	To       []string `json:"to"`
	Text     string   `json:"text"`
}

// Order is a step bound to one node, and is what a node checks before it does anything.
type Order struct {
	ID        string    `json:"id"` // operation/step/attempt
	Operation string    `json:"operation"`
	StepID    string    `json:"step_id"`
	Attempt   int       `json:"attempt"`
	Node      string    `json:"node"`
	Epoch     int64     `json:"epoch"` // of the instance; a node refuses one below what it knows
	Nonce     string    `json:"nonce"`
	IssuedAt  time.Time `json:"issued_at"`
	ExpiresAt time.Time `json:"expires_at"`
	Step      Step      `json:"step"`
}

// Signed is an order or a setting in its exact signed bytes. Payload is JSON, and is verified before it is parsed.
type Signed struct {
	Payload   []byte `json:"payload"`
	Signature []byte `json:"signature"` // Ed25519 over the Purpose line + Payload, see Sign
	KeyID     string `json:"key_id"`
}

// State is how far a step has come, as the node tells it.
type State string

// The states of a step. Unknown is the server's word for a node out of reach and is never rounded.
const (
	Waiting   State = "waiting"   // for what it needs
	Sent      State = "sent"      // handed to the link
	Running   State = "running"   // the node has journaled it
	Done      State = "done"      //
	Failed    State = "failed"    // the node tried and says why
	Refused   State = "refused"   // the node did not try, and says why
	Unknown   State = "unknown"   // the node is out of reach while it ran
	Cancelled State = "cancelled" //
	Skipped   State = "skipped"   // a step for the case of failure, and nothing failed
)

// Update is a node's word about one order. The last Update of an order has a final State and stays in the journal.
type Update struct {
	OrderID    string          `json:"order_id"`
	Operation  string          `json:"operation"`
	StepID     string          `json:"step_id"`
	Attempt    int             `json:"attempt"`
	State      State           `json:"state"`
	Note       string          `json:"note,omitempty"` // progress in words
	DoneBytes  int64           `json:"done_bytes,omitempty"`
	TotalBytes int64           `json:"total_bytes,omitempty"`
	Result     json.RawMessage `json:"result,omitempty"`
	Error      string          `json:"error,omitempty"`
	ErrorKind  string          `json:"error_kind,omitempty"` // a problem.Kind
	Hint       string          `json:"hint,omitempty"`
	Retryable  bool            `json:"retryable,omitempty"`
	At         time.Time       `json:"at"` // node clock
}

// Final tells whether s ends an attempt.
func (s State) Final() bool {
	switch s {
	case Done, Failed, Refused, Cancelled, Skipped:
		return true
	case Waiting, Sent, Running, Unknown:
		return false
	}
	return false
}
