package observe

import (
	"context"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"holdfast/internal/db"
	"holdfast/internal/link"
)

// ResultsOf reads the answers about some instances that were asked from since to until, in the order in which they
// were asked.
func ResultsOf(ctx context.Context, in bun.IDB, instances []string, since, until time.Time) ([]Result, error) {
	if len(instances) == 0 {
		return nil, nil
	}
	var rows []resultRow
	err := in.NewSelect().Model(&rows).Where("instance IN (?) AND at BETWEEN ? AND ?", bun.List(instances), db.At(since), db.At(until)).
		OrderBy("at", bun.OrderAsc).OrderBy("id", bun.OrderAsc).Scan(ctx)
	if err != nil {
		return nil, fmt.Errorf("read probe results of %d instances: %w", len(instances), err)
	}
	return shownResults(rows), nil
}

// EventsOf reads everything that nodes ever said about some instances, and what happened on some nodes at or later
// than since, in the order of the nodes' clocks.
func EventsOf(ctx context.Context, in bun.IDB, instances, nodes []string, since time.Time) ([]Event, error) {
	var rows []eventRow
	err := in.NewSelect().Model(&rows).Where("instance IN (?) OR node IN (?) AND at >= ?", bun.List(some(instances)), bun.List(some(nodes)), db.At(since)).
		OrderBy("at", bun.OrderAsc).OrderBy("id", bun.OrderAsc).Scan(ctx)
	if err != nil {
		return nil, fmt.Errorf("read events of %d instances: %w", len(instances), err)
	}
	return shownEvents(rows), nil
}

// some keeps a list from being empty, which SQL has no word for; no name is a line break.
func some(names []string) []string {
	if len(names) == 0 {
		return []string{"\n"}
	}
	return names
}

func shownEvents(rows []eventRow) []Event {
	all := make([]Event, len(rows))
	for i, r := range rows {
		all[i] = Event{ID: r.ID, Node: r.Node, SeenAt: r.SeenAt.Time, Event: link.Event{
			Kind: r.Kind, Instance: r.Instance, Epoch: r.Epoch, Note: r.Note, Labels: r.Labels.V, At: r.At.Time,
		}}
	}
	return all
}

// Sites tells in which site each node is.
func Sites(ctx context.Context, in bun.IDB) (map[string]string, error) {
	rows, err := readHeads(ctx, in)
	sites := make(map[string]string, len(rows))
	for _, r := range rows {
		sites[r.Node] = r.Site
	}
	return sites, err
}
