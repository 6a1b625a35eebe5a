// Package observe takes in what nodes report, and turns what is known into what nodes are to hold.
//
// Words: a report is one thing a node tells, numbered by the node; facts are a node's word about itself, whole, of
// which the newest counts; the inventory is the newest facts of all nodes with the placements; a result is one answer
// of a probe; an event is something that happened on a node; a setting is a document that a node holds in its newest
// generation, derived here from placements and inventory: leases, routes, probes and grants.
//
// Invariant: each report of a node is taken once and in order, in one transaction with everything that follows from
// it; results and events are only appended; settings are a pure function of what is in the database.
package observe

import (
	"context"
	"log/slog"
	"time"

	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/op"
	"holdfast/internal/step"
)

// Silent is how long a node may say nothing before it counts as out of reach. Nodes report each 5 seconds.
const Silent = 15 * time.Second

// Observer takes reports in.
type Observer struct {
	DB *db.DB
	// Fold takes the updates among the reports; op.Folder has it. It is called last in the transaction.
	Fold func(ctx context.Context, tx db.Tx, node string, updates []step.Update) error
	Log  *slog.Logger

	gathering // batches on their way into one transaction
}

// Intake commits the reports of one node that are new, in order, and tells through which number all are taken now.
// Numbers may have holes: a node drops facts and progress that newer ones replace. No reports at all asks only for
// the number.
func (o *Observer) Intake(ctx context.Context, node string, reports []link.Report) (through int64, err error) {
	if len(reports) == 0 {
		return o.through(ctx, node)
	}
	return o.share(ctx, &parcel{node: node, reports: reports})
}

// commit takes one node's batch in the caller's transaction.
func (o *Observer) commit(ctx context.Context, tx db.Tx, b *parcel) (err error) {
	if b.through, err = lockNode(ctx, tx, b.node); err != nil {
		return err
	}
	news := sift(b.node, b.through, b.reports)
	if b.through = max(b.through, news.last); news.last == 0 {
		return nil
	}
	return o.take(ctx, tx, b.node, news)
}

// news is a batch sorted by what it is about.
type news struct {
	last    int64
	facts   *fleet.NodeFacts
	updates []step.Update
	results []link.Result
	events  []link.Event
}

// sift leaves out what was taken before and what another node would have to say.
func sift(node string, through int64, reports []link.Report) (n news) {
	for _, r := range reports {
		if r.Seq <= max(through, n.last) {
			continue
		}
		n.last = r.Seq
		switch {
		case r.Facts != nil && r.Facts.Node == node:
			n.facts = r.Facts
		case r.Update != nil:
			n.updates = append(n.updates, *r.Update)
		case r.Result != nil && r.Result.Inconclusive: // the prober was in trouble: it says nothing of the instance
		case r.Result != nil:
			n.results = append(n.results, *r.Result)
		case r.Event != nil:
			n.events = append(n.events, *r.Event)
		}
	}
	return n
}

func (o *Observer) take(ctx context.Context, tx db.Tx, node string, n news) error {
	if err := advance(ctx, tx, node, n.last); err != nil {
		return err
	}
	if n.facts != nil {
		if err := putFacts(ctx, tx, *n.facts); err != nil {
			return err
		}
	}
	if err := putResults(ctx, tx, node, n.results); err != nil {
		return err
	}
	if err := putEvents(ctx, tx, node, n.events); err != nil {
		return err
	}
	if len(n.updates) == 0 {
		return nil
	}
	return o.Fold(ctx, tx, node, n.updates)
}

// Inventory reads the newest facts of every node and all placements. An instance on a node that has been silent for
// longer than Silent has the state unknown.
func (o *Observer) Inventory(ctx context.Context) (fleet.Inventory, error) {
	nodes, err := readFacts(ctx, o.DB)
	if err != nil {
		return fleet.Inventory{}, err
	}
	placements, err := op.Placements(ctx, o.DB)
	if err != nil {
		return fleet.Inventory{}, err
	}
	inventory := fleet.Inventory{Nodes: map[string]fleet.NodeFacts{}, Placements: placements}
	for _, facts := range nodes {
		inventory.Nodes[facts.Node] = aged(facts, o.DB.Now())
	}
	return inventory, nil
}

// Node reads one node's newest facts; kind NotFound when it never reported any.
func (o *Observer) Node(ctx context.Context, node string) (fleet.NodeFacts, error) {
	facts, err := readNode(ctx, o.DB, node)
	if err != nil {
		return facts, err
	}
	return aged(facts, o.DB.Now()), nil
}

// aged marks what cannot be known now about a node that has been silent.
func aged(facts fleet.NodeFacts, now time.Time) fleet.NodeFacts {
	if now.Sub(facts.SeenAt) <= Silent {
		return facts
	}
	for name, instance := range facts.Instances {
		instance.State = fleet.StateUnknown
		facts.Instances[name] = instance
	}
	return facts
}

// Nodes is the view of all nodes that operations need: where they are, whether they can be reached now.
func (o *Observer) Nodes(ctx context.Context) (map[string]op.Node, error) {
	rows, err := readHeads(ctx, o.DB)
	if err != nil {
		return nil, err
	}
	nodes, now := make(map[string]op.Node, len(rows)), o.DB.Now()
	for _, r := range rows {
		nodes[r.Node] = op.Node{Site: r.Site, SealTo: r.SealTo, Reachable: now.Sub(r.SeenAt.Time) <= Silent}
	}
	return nodes, nil
}
