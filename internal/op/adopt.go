package op

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/uptrace/bun"

	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// Adopted is what a rebuilt server takes for the place of an instance.
type Adopted struct {
	fleet.Placement
	Former  []string   `json:"former,omitempty"` // other nodes that hold a copy
	LastNo  int64      `json:"last_slot"`        // highest number of any slot seen
	Content fleet.Spec `json:"-"`                // of what runs, or of the newest copy seen
}

// Surveys reads what the nodes of an operation have told, by node.
func Surveys(ctx context.Context, in bun.IDB, operation string) (map[string]step.SurveyResult, error) {
	steps, err := Whole(ctx, in, operation)
	if err != nil {
		return nil, err
	}
	found := map[string]step.SurveyResult{}
	for _, s := range steps {
		var result step.SurveyResult
		if s.Kind != step.Survey || s.State != step.Done {
			continue
		}
		if err := json.Unmarshal(s.Result, &result); err != nil {
			return nil, problem.Wrap(err, problem.Invalid, "upgrade the agent of node "+s.Placed, "what node %s told cannot be read", s.Placed)
		}
		all := found[s.Placed]
		all.Instances = append(all.Instances, result.Instances...)
		all.Repositories = append(all.Repositories, result.Repositories...)
		found[s.Placed] = all
	}
	return found, nil
}

// Adopt writes the place of an instance that has none yet, or whose writer had not been seen; it tells whether it did.
// A place that this server gave itself is never changed by it.
func Adopt(ctx context.Context, tx db.Tx, a Adopted) (taken bool, err error) {
	before, placed, err := placementOf(ctx, tx, a.Instance)
	if err != nil || placed && (before.Slot != "" || before.Retired || a.Slot == "" || before.Epoch > a.Epoch) {
		return false, err
	}
	row := placementRow{
		Instance: a.Instance, Node: a.Node, Site: a.Site, Epoch: a.Epoch, Slot: a.Slot, Spec: a.Spec, Release: a.Release, Retired: a.Retired,
		Since: db.At(tx.Now), Former: db.Of(a.Former), Booted: a.Booted,
	}
	if _, err := tx.NewDelete().Model((*placementRow)(nil)).Where("instance = ?", a.Instance).Exec(ctx); err != nil {
		return false, fmt.Errorf("adopt instance %s: %w", a.Instance, err)
	}
	if _, err := tx.NewInsert().Model(&row).Exec(ctx); err != nil {
		return false, fmt.Errorf("adopt instance %s: %w", a.Instance, err)
	}
	if err := raiseSlot(ctx, tx, a.Instance, a.LastNo); err != nil {
		return false, err
	}
	if a.Spec != "" {
		if err := putSpec(ctx, tx, a.Instance, a.Content); err != nil {
			return false, err
		}
	}
	return true, moved(ctx, tx)
}

func raiseSlot(ctx context.Context, tx db.Tx, instance string, last int64) error {
	_, err := tx.NewRaw(`INSERT INTO instance_slots (instance, last) VALUES (?, ?)
		ON CONFLICT (instance) DO UPDATE SET last = CASE WHEN instance_slots.last < excluded.last THEN excluded.last ELSE instance_slots.last END`, instance, max(last, 1)).Exec(ctx)
	if err != nil {
		return fmt.Errorf("note the slots of %s: %w", instance, err)
	}
	return nil
}

// Counters of a server that was rebuilt.
const (
	floorCounter    = "epoch_floor"
	adoptingCounter = "adopting"
)

// BeginAdopting marks a server as rebuilt: until EndAdopting it hands out no leases, routes, grants or probes, since it
// does not know yet what they should say, and makes no plans. Every epoch that it gives out from now on is above all
// that the lost server ever gave, because it counts from the present second.
func BeginAdopting(ctx context.Context, tx db.Tx) error {
	for name, value := range map[string]int64{floorCounter: tx.Now.Unix(), adoptingCounter: 1} {
		_, err := tx.NewRaw(`INSERT INTO operation_counter (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value).Exec(ctx)
		if err != nil {
			return fmt.Errorf("mark the server as rebuilt: %w", err)
		}
	}
	return nil
}

// EndAdopting lets the server speak again.
func EndAdopting(ctx context.Context, tx db.Tx) error {
	if _, err := tx.NewRaw("UPDATE operation_counter SET value = 0 WHERE name = ?", adoptingCounter).Exec(ctx); err != nil {
		return fmt.Errorf("mark the server as whole: %w", err)
	}
	return moved(ctx, tx)
}

// Adopting tells whether the server was rebuilt and has not yet taken over what is.
func Adopting(ctx context.Context, in bun.IDB) (bool, error) {
	n, err := counter(ctx, in, adoptingCounter)
	return n > 0, err
}

// counter reads a counter; one that was never set is 0.
func counter(ctx context.Context, in bun.IDB, name string) (n int64, err error) {
	if err := in.NewRaw("SELECT COALESCE(MAX(value), 0) FROM operation_counter WHERE name = ?", name).Scan(ctx, &n); err != nil {
		return 0, fmt.Errorf("read counter %s: %w", name, err)
	}
	return n, nil
}
