// Package agent is the node's process: it takes signed orders, does their steps, keeps a journal, and reports.
//
// Words: an Engine runs the services of a slot (exec: supervised processes, docker: containers); a slot is one copy
// of an instance's data and processes, exactly one of which is active; the journal holds orders taken, results and
// unsent reports; a lease says who may serve an instance and at which epoch.
//
// Invariant: the node obeys only what it can check, an order has one effect however often it arrives, and an
// instance is served here only under the newest epoch this node has heard of, and only if that epoch names this node.
package agent

import (
	"context"
	"encoding/json"
	"io"

	"holdfast/internal/fleet"
	"holdfast/internal/step"
)

// Progress tells how far a step has come; it may be called often and from any goroutine.
type Progress func(note string, doneBytes, totalBytes int64)

// Steps does the steps of one node. Do may be called again for the same order after a crash; Done tells, without
// changing anything, whether the order's effect already stands, and with which result.
type Steps interface {
	Do(ctx context.Context, order step.Order, progress Progress) (json.RawMessage, error)
	Done(ctx context.Context, order step.Order) (result json.RawMessage, done bool, err error)
}

// Slot is one copy of an instance on this node, as an engine is asked to run it. All texts of Spec are resolved.
type Slot struct {
	Instance string
	Name     string            // "s1", "s2", ...
	Dir      string            // the slot's own directory: state/, logs/, run/
	Spec     fleet.Spec        // references resolved
	Ports    map[string]int    // "service.port" or "service.port.REPLICA" -> allotted port on the node
	States   map[string]string // state name -> absolute folder on the node
}

// Engine runs the services of slots. Every method may be repeated and is then a no-op; a slot's services are known
// to the engine by (instance, slot), so that an engine finds them again after the agent restarted.
type Engine interface {
	// Check stages the spec: images pulled or artefacts present and of the pinned digest. It stops nothing.
	Check(ctx context.Context, spec fleet.Spec) error
	// Up brings the slot's services to the spec, in start order, waiting for readiness where a Need asks for it;
	// only limits it to the named services. What differs is stopped first, dependants before dependencies.
	Up(ctx context.Context, slot Slot, only ...string) error
	// Down stops the slot's services in reverse order, all or only those named; the data stays.
	Down(ctx context.Context, slot Slot, only ...string) error
	// Status tells what runs.
	Status(ctx context.Context, slot Slot) ([]fleet.ServiceFacts, error)
	// Run executes command where the named service sees its files (docker: in its container), with the service's environment.
	Run(ctx context.Context, slot Slot, command fleet.Command, in io.Reader, out io.Writer) error
}
