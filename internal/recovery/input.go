package recovery

import (
	"encoding/json"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/step"
)

// Kind tells a rehearsal from the real thing.
type Kind string

// The kinds of a run.
const (
	Drill Kind = "drill"
	Real  Kind = "recovery"
)

// Member is one instance in the scope of a run, as it was when the run began.
type Member struct {
	Instance string        `json:"instance"`
	Tier     string        `json:"tier"`
	Rank     int           `json:"rank"` // of its tier; 0 is rebuilt first
	RTO      time.Duration `json:"rto"`
	RPO      time.Duration `json:"rpo"`
	FromNode string        `json:"from_node"`
	FromSite string        `json:"from_site"`
	Epoch    int64         `json:"epoch"` // before the run
}

// Snapshot is one point to return to, as the catalogue knows it.
type Snapshot struct {
	ID         string    `json:"id"`
	Instance   string    `json:"instance"`
	TakenAt    time.Time `json:"taken_at"`
	Bytes      int64     `json:"bytes"`
	CanaryFrom int64     `json:"canary_from"` // newest tick before the dump began
	CanaryTo   int64     `json:"canary_to"`   // newest when it had ended; 0 = not known
	Vault      string    `json:"vault"`       // the vault node that holds it
	Release    string    `json:"release"`
	Custodian  bool      `json:"custodian"` // it opens without a person
}

// EventKind names what happened to a run.
type EventKind string

// The events of a run. Their text is in the database and in scorecards, and is kept stable.
const (
	EventStarted   EventKind = "started"
	EventLinted    EventKind = "linted"
	EventArming    EventKind = "arming" // Note: the operation that arms
	EventArmed     EventKind = "armed"
	EventFiring    EventKind = "firing" // Note: the operation that fires
	EventFired     EventKind = "fired"  // At: when the node fired
	EventDetected  EventKind = "detected"
	EventDeclared  EventKind = "declared" // Note: the operation that recovers
	EventRecovered EventKind = "recovered"
	EventNormal    EventKind = "normal"  // every member is back to normal
	EventUndoing   EventKind = "undoing" // Note: the operation that ends the fault early
	EventUndone    EventKind = "undone"  // At: when the node's fault had ended
	EventResidue   EventKind = "residue" // Note: what the fault left behind; "" = nothing
	EventCounted   EventKind = "counted"
	EventAborted   EventKind = "aborted"
	EventFailed    EventKind = "failed"
	EventScored    EventKind = "scored"
)

// Event is one thing that happened to a run. Node is set where it happened on one node.
type Event struct {
	At     time.Time `json:"at"`
	Kind   EventKind `json:"kind"`
	Node   string    `json:"node,omitempty"`
	Note   string    `json:"note,omitempty"`
	Counts *Counts   `json:"counts,omitempty"`
}

// Counts is what somebody outside counted in the restored data and what should have been there. Nil = not counted.
type Counts struct {
	DocumentsExpected *int64 `json:"documents_expected"`
	DocumentsFound    *int64 `json:"documents_found"`
	FilesExpected     *int64 `json:"files_expected"`
	FilesFound        *int64 `json:"files_found"`
}

// ProbeResult is one answer that an outside probe got for one instance.
type ProbeResult struct {
	Instance string        `json:"instance"`
	Probe    string        `json:"probe"` // the node that asked
	OK       bool          `json:"ok"`
	At       time.Time     `json:"at"`       // when it was asked
	Took     time.Duration `json:"took"`     // until the answer, or the timeout
	Interval time.Duration `json:"interval"` // between two questions: the error of every downtime
}

// NodeEvent is what a node said of itself, with its own clock.
type NodeEvent struct {
	Node     string    `json:"node"`
	Kind     string    `json:"kind"` // serving_started, serving_stopped, fenced, boot, fault_fired, undo_fired, ...
	Instance string    `json:"instance,omitempty"`
	Epoch    int64     `json:"epoch,omitempty"`
	Note     string    `json:"note,omitempty"`
	At       time.Time `json:"at"`
}

// The events of nodes that scoring reads.
const (
	NodeServingStarted = "serving_started"
	NodeServingStopped = "serving_stopped"
	NodeFenced         = "fenced"
	NodeBoot           = "boot"
	NodeFaultFired     = "fault_fired"
	NodeUndoFired      = "undo_fired"
)

// StepRecord is one step of the recovery's operation: when it began to run, when it ended and how.
type StepRecord struct {
	ID        string          `json:"id"`
	Kind      step.Kind       `json:"kind"`
	Instance  string          `json:"instance"`
	Node      string          `json:"node"`
	State     step.State      `json:"state"`
	StartedAt time.Time       `json:"started_at"` // zero: it never ran
	EndedAt   time.Time       `json:"ended_at"`   // zero: it has not ended
	Result    json.RawMessage `json:"result,omitempty"`
	Error     string          `json:"error,omitempty"`
}

// Command is an order that a person gave while the run went on, outside the plan.
type Command struct {
	At    time.Time `json:"at"`
	Actor string    `json:"actor"`
	What  string    `json:"what"`
}

// Input is everything a scorecard is computed from.
type Input struct {
	ID         string
	Kind       Kind
	Plan       fleet.RecoveryPlan
	Scenario   string
	Fault      string // cut, kill, stop; "" when it was not a drill's
	Members    []Member
	Events     []Event
	Results    []ProbeResult
	NodeEvents []NodeEvent
	Steps      []StepRecord
	Snapshots  map[string]Snapshot // by instance: the one that was restored
	// Commands is what people ordered meanwhile; nil means that nobody looked, an empty slice that there was nothing.
	Commands []Command
	Now      time.Time
	// Until ends what probes saw for this run; zero = Now. What happens to an instance after the run is not its score.
	Until time.Time

	byInstance map[string][]ProbeResult // Results, sorted by Score
}
