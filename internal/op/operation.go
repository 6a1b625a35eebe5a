package op

import (
	"encoding/json"
	"fmt"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// State is how far an operation has come.
type State string

// The states of an operation. All but Running and Cancelling are ends.
const (
	Running    State = "running"
	Cancelling State = "cancelling" // a person asked to stop; what runs is being stopped
	Done       State = "done"
	Failed     State = "failed"
	Partly     State = "partly"  // some instances are done, some are not
	Unknown    State = "unknown" // nodes went out of reach, and what they did is not known
	Cancelled  State = "cancelled"
)

// Ended tells whether s is an end.
func (s State) Ended() bool {
	switch s {
	case Done, Failed, Partly, Unknown, Cancelled:
		return true
	case Running, Cancelling:
		return false
	}
	return false
}

// New describes an operation to be submitted.
type New struct {
	Kind      string     // what it is for: "deploy", "backup", "restore", "recover", "drill"
	Title     string     // for the reader: "restore acme from 7f3c2a"
	Graph     step.Graph // validated by Submit
	Actor     string     // who asked
	Plan      string     // fingerprint of the plan it carries out, or ""
	Instances []string   // leased to it until it ends
	Params    any        // kept as JSON for later readers
	Resume    string     // the command that goes on from a bad end, shown with it

	// Preempt takes instances away from operations that hold them: their remaining steps for it are cancelled. It is
	// for recovery, which must not wait for the backup of a site that is gone.
	Preempt bool
	// Patience is how long a node may be out of reach before the operation stops waiting for it; 0 = DefaultPatience.
	Patience time.Duration
}

// DefaultPatience is how long an operation waits for a node that is out of reach.
const DefaultPatience = 2 * time.Minute

// Operation is one durable run.
type Operation struct {
	ID        string          `json:"id"`
	Kind      string          `json:"kind"`
	Title     string          `json:"title"`
	Actor     string          `json:"actor"`
	Plan      string          `json:"plan,omitempty"`
	Params    json.RawMessage `json:"params,omitempty"`
	Resume    string          `json:"resume,omitempty"`
	State     State           `json:"state"`
	Why       string          `json:"why,omitempty"` // the first failure, or who cancelled it
	Counts    Counts          `json:"counts"`
	Patience  time.Duration   `json:"-"`
	CreatedAt time.Time       `json:"created_at"`
	EndedAt   time.Time       `json:"ended_at,omitzero"`
	Seq       int64           `json:"seq"` // of its newest event
}

// Counts says how the steps and the instances of an operation came out. Steps that clear up are not counted.
type Counts struct {
	Steps         int `json:"steps"`
	Done          int `json:"done"`
	Failed        int `json:"failed"`
	Refused       int `json:"refused"`
	Unknown       int `json:"unknown"`
	Cancelled     int `json:"cancelled"`
	Instances     int `json:"instances"`
	InstancesDone int `json:"instances_done"`
}

// Err is what a command that waited for the operation ends with: nil when it is done, and while it runs.
func (o Operation) Err() error {
	hint := o.Resume
	if hint == "" {
		hint = "holdfast op show " + o.ID
	}
	switch o.State {
	case Running, Cancelling, Done:
		return nil
	case Partly:
		return problem.New(problem.Partial, hint, "operation %s (%s) did %d of %d instances: %s", o.ID, o.Title, o.Counts.InstancesDone, o.Counts.Instances, o.Why)
	case Unknown:
		return problem.New(problem.Unreachable, hint, "operation %s (%s) ended without knowing what %d steps did: %s", o.ID, o.Title, o.Counts.Unknown, o.Why)
	case Cancelled:
		return problem.New(problem.Conflict, hint, "operation %s (%s) was cancelled: %s", o.ID, o.Title, o.Why)
	case Failed:
		return problem.New(problem.Internal, hint, "operation %s (%s) did not finish: %s", o.ID, o.Title, o.Why)
	}
	return fmt.Errorf("operation %s has the state %q", o.ID, o.State)
}

// Step is one piece of an operation, with where it stands now. Args and Result are filled only by Show.
type Step struct {
	ID         string          `json:"id"`
	Node       string          `json:"node,omitempty"`   // as planned; "" = the server, "@claim:ID" = where that claim placed it
	Placed     string          `json:"placed,omitempty"` // the node it really went to; for a claim: the node it chose
	Needs      []string        `json:"needs,omitempty"`
	OnFailure  bool            `json:"on_failure,omitempty"`
	Kind       step.Kind       `json:"kind"`
	Instance   string          `json:"instance,omitempty"`
	Title      string          `json:"title"`
	Args       json.RawMessage `json:"-"` // may hold what is sealed to a node; not for pages
	State      step.State      `json:"state"`
	Attempt    int             `json:"attempt"`
	Note       string          `json:"note,omitempty"`
	DoneBytes  int64           `json:"done_bytes,omitempty"`
	TotalBytes int64           `json:"total_bytes,omitempty"`
	Result     json.RawMessage `json:"-"` // may hold what is sealed to the server; not for pages
	Error      string          `json:"error,omitempty"`
	ErrorKind  problem.Kind    `json:"error_kind,omitempty"`
	Hint       string          `json:"hint,omitempty"`
	NotBefore  time.Time       `json:"not_before,omitzero"` // a retry waits until then
	SentAt     time.Time       `json:"sent_at,omitzero"`    // of this attempt
	StartedAt  time.Time       `json:"started_at,omitzero"` // of the first attempt
	EndedAt    time.Time       `json:"ended_at,omitzero"`   // when it was settled
	UnknownAt  time.Time       `json:"unknown_at,omitzero"` // since when its node is out of reach
	CancelAt   time.Time       `json:"-"`                   // when its node was first asked to stop it
	CancelWhy  string          `json:"-"`
}

// OrderID names the attempt that is under way.
func (s Step) OrderID(operation string) string {
	return fmt.Sprintf("%s/%s/%d", operation, s.ID, s.Attempt)
}

// Settled tells whether nothing more is waited for.
func (s Step) Settled() bool {
	return s.State.Final() || s.State == step.Unknown && !s.EndedAt.IsZero()
}

// doer is the node that the attempt under way was sent to, or "" for the server.
func (s Step) doer() string {
	if s.Node == "" {
		return ""
	}
	return s.Placed
}

func (s Step) inFlight() bool {
	switch s.State {
	case step.Sent, step.Running:
		return true
	case step.Unknown:
		return !s.Settled()
	case step.Waiting, step.Done, step.Failed, step.Refused, step.Cancelled, step.Skipped:
		return false
	}
	return false
}

// Event is one thing that happened. An event without a step is about the operation itself.
type Event struct {
	ID         int64     `json:"id"` // grows over all operations in the order of commits, without a gap
	Operation  string    `json:"operation"`
	Seq        int64     `json:"seq"` // grows by one in its operation
	At         time.Time `json:"at"`
	Step       string    `json:"step,omitempty"`
	Instance   string    `json:"instance,omitempty"`
	Kind       step.Kind `json:"kind,omitempty"`
	Node       string    `json:"node,omitempty"`
	Attempt    int       `json:"attempt,omitempty"`
	State      string    `json:"state"` // a State, or a step.State when Step is set
	Note       string    `json:"note,omitempty"`
	DoneBytes  int64     `json:"done_bytes,omitempty"`
	TotalBytes int64     `json:"total_bytes,omitempty"`
	Error      string    `json:"error,omitempty"`
	Hint       string    `json:"hint,omitempty"`
}
