package op

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/uptrace/bun"

	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/problem"
)

type placementRow struct {
	bun.BaseModel `bun:"table:placements,alias:p"`
	Instance      string `bun:",pk"`
	Node          string
	Site          string
	Epoch         int64
	Slot          string
	Spec          string
	Release       string
	Retired       bool
	Since         db.Time
	Former        db.JSON[[]string]
	Booted        bool
	HomeSite      string
	HomeNode      string
}

func (r placementRow) placement() fleet.Placement {
	return fleet.Placement{
		Instance: r.Instance, Node: r.Node, Site: r.Site, Epoch: r.Epoch, Slot: r.Slot, Spec: r.Spec, Release: r.Release, Retired: r.Retired, Since: r.Since.Time, Booted: r.Booted,
		Home: fleet.Place{Site: r.HomeSite, Node: r.HomeNode},
	}
}

// Placements reads where every instance is placed.
func Placements(ctx context.Context, in bun.IDB) (map[string]fleet.Placement, error) {
	var rows []placementRow
	if err := in.NewSelect().Model(&rows).Scan(ctx); err != nil {
		return nil, fmt.Errorf("read placements: %w", err)
	}
	all := make(map[string]fleet.Placement, len(rows))
	for _, r := range rows {
		all[r.Instance] = r.placement()
	}
	return all, nil
}

// Former reads, for every instance, the nodes that held it before: they may hold a copy that must stay fenced.
func Former(ctx context.Context, in bun.IDB) (map[string][]string, error) {
	var rows []placementRow
	if err := in.NewSelect().Model(&rows).Column("instance", "former").Scan(ctx); err != nil {
		return nil, fmt.Errorf("read former placements: %w", err)
	}
	all := make(map[string][]string, len(rows))
	for _, r := range rows {
		all[r.Instance] = r.Former.V
	}
	return all, nil
}

// PlacementOf reads one placement; ok is false when the instance was never placed.
func PlacementOf(ctx context.Context, in bun.IDB, instance string) (p fleet.Placement, ok bool, err error) {
	row, ok, err := placementOf(ctx, in, instance)
	return row.placement(), ok, err
}

func placementOf(ctx context.Context, in bun.IDB, instance string) (placementRow, bool, error) {
	var row placementRow
	err := in.NewSelect().Model(&row).Where("instance = ?", instance).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return row, false, nil
	}
	if err != nil {
		return row, false, fmt.Errorf("read placement of %s: %w", instance, err)
	}
	return row, true, nil
}

// home is from where an instance was taken that goes to a node. Who is away and is taken further, or starts anew where
// it is, keeps its home; who goes where a plan says is at home there.
func (r placementRow) home(node string, away bool) fleet.Place {
	switch {
	case r.HomeSite != "" && (away || node == r.Node):
		return fleet.Place{Site: r.HomeSite, Node: r.HomeNode}
	case away && r.Node != "" && node != r.Node:
		return fleet.Place{Site: r.Site, Node: r.Node}
	}
	return fleet.Place{}
}

// place moves the instance's one writer: a new epoch, in one row. Away says that no fleet file has it there.
func place(ctx context.Context, tx db.Tx, to fleet.Placement, away bool) (fleet.Placement, error) {
	row, ok, err := placementOf(ctx, tx, to.Instance)
	if err != nil {
		return to, err
	}
	former := row.Former.V
	if ok && row.Node != to.Node && !slices.Contains(former, row.Node) {
		former = append(former, row.Node)
	}
	floor, err := counter(ctx, tx, floorCounter)
	if err != nil {
		return to, err
	}
	to.Epoch, to.Since, to.Retired = max(row.Epoch, floor)+1, tx.Now, false
	to.Home = row.home(to.Node, away)
	next := placementRow{
		Instance: to.Instance, Node: to.Node, Site: to.Site, Epoch: to.Epoch, Slot: to.Slot, Spec: to.Spec, Release: to.Release, Since: db.At(tx.Now), Former: db.Of(former),
		HomeSite: to.Home.Site, HomeNode: to.Home.Node,
	}
	_, err = tx.NewInsert().Model(&next).On("CONFLICT (instance) DO UPDATE").
		Set("node = excluded.node, site = excluded.site, epoch = excluded.epoch, slot = excluded.slot, spec = excluded.spec").
		Set("release = excluded.release, retired = excluded.retired, since = excluded.since, former = excluded.former").
		Set("home_site = excluded.home_site, home_node = excluded.home_node").Exec(ctx)
	if err != nil {
		return to, fmt.Errorf("place instance %s on %s: %w", to.Instance, to.Node, err)
	}
	return to, moved(ctx, tx)
}

// moved counts a change of any placement.
func moved(ctx context.Context, tx db.Tx) error {
	if _, err := tx.NewRaw("UPDATE operation_counter SET value = value + 1 WHERE name = 'placements'").Exec(ctx); err != nil {
		return fmt.Errorf("count a change of placements: %w", err)
	}
	return nil
}

// Moves is how often any placement has changed; what is derived from placements is derived again when it grows.
func Moves(ctx context.Context, in bun.IDB) (n int64, err error) {
	if err := in.NewRaw("SELECT value FROM operation_counter WHERE name = 'placements'").Scan(ctx, &n); err != nil {
		return 0, fmt.Errorf("read how often placements changed: %w", err)
	}
	return n, nil
}

// applied records what now runs in the active slot of an instance.
func applied(ctx context.Context, tx db.Tx, instance, node, slot, spec, release string) error {
	_, err := tx.NewRaw("UPDATE placements SET spec = ?, release = ?, booted = ? WHERE instance = ? AND node = ? AND slot = ?", spec, release, true, instance, node, slot).Exec(ctx)
	if err != nil {
		return fmt.Errorf("record what runs of %s: %w", instance, err)
	}
	return moved(ctx, tx)
}

// retired records that an instance was stopped to stay stopped.
func retired(ctx context.Context, tx db.Tx, instance, node string) error {
	if _, err := tx.NewRaw("UPDATE placements SET retired = ? WHERE instance = ? AND node = ?", true, instance, node).Exec(ctx); err != nil {
		return fmt.Errorf("record that %s is retired: %w", instance, err)
	}
	return moved(ctx, tx)
}

// rebuiltSlot is the first slot that a rebuilt server gives to an instance of which no node told it anything: a node
// that comes back later may hold slots of the lost server's numbering.
const rebuiltSlot = 1000

// NextSlot gives out a slot name that no copy of the instance has ever had: s2, s3, ... The first copy is s1.
func NextSlot(ctx context.Context, tx db.Tx, instance string) (string, error) {
	var last int64
	floor, err := counter(ctx, tx, floorCounter)
	if err != nil {
		return "", err
	}
	next := int64(2)
	if floor > 0 {
		next = rebuiltSlot
	}
	err = tx.NewRaw(`INSERT INTO instance_slots (instance, last) VALUES (?, ?)
		ON CONFLICT (instance) DO UPDATE SET last = instance_slots.last + 1 RETURNING last`, instance, next).Scan(ctx, &last)
	if err != nil {
		return "", fmt.Errorf("name a slot for %s: %w", instance, err)
	}
	return fmt.Sprintf("s%d", last), nil
}

type specRow struct {
	bun.BaseModel `bun:"table:specs,alias:sp"`
	Instance      string `bun:",pk"`
	Fingerprint   string `bun:",pk"`
	Spec          db.JSON[fleet.Spec]
	At            db.Time
}

func putSpec(ctx context.Context, tx db.Tx, instance string, spec fleet.Spec) error {
	row := specRow{Instance: instance, Fingerprint: spec.Fingerprint, Spec: db.Of(spec), At: db.At(tx.Now)}
	if _, err := tx.NewInsert().Model(&row).On("CONFLICT (instance, fingerprint) DO UPDATE").Set("at = excluded.at").Exec(ctx); err != nil {
		return fmt.Errorf("keep spec of %s: %w", instance, err)
	}
	return nil
}

// AppliedSpecs reads the rendered spec of every placed instance, or of those named: what was last applied to it.
func AppliedSpecs(ctx context.Context, in bun.IDB, instances ...string) (map[string]fleet.Spec, error) {
	var rows []specRow
	q := in.NewSelect().Model(&rows).Join("JOIN placements AS p ON p.instance = sp.instance AND p.spec = sp.fingerprint")
	if len(instances) > 0 {
		q = q.Where("sp.instance IN (?)", bun.List(instances))
	}
	if err := q.Scan(ctx); err != nil {
		return nil, fmt.Errorf("read specs: %w", err)
	}
	all := make(map[string]fleet.Spec, len(rows))
	for _, r := range rows {
		all[r.Instance] = r.Spec.V
	}
	return all, nil
}

// SpecOf reads one rendered spec by its fingerprint.
func SpecOf(ctx context.Context, in bun.IDB, instance, fingerprint string) (fleet.Spec, error) {
	var row specRow
	err := in.NewSelect().Model(&row).Where("instance = ? AND fingerprint = ?", instance, fingerprint).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return fleet.Spec{}, problem.New(problem.NotFound, "holdfast apply -f DIR", "the server holds no rendered spec %.12s of instance %s", fingerprint, instance)
	}
	if err != nil {
		return fleet.Spec{}, fmt.Errorf("read spec of %s: %w", instance, err)
	}
	return row.Spec.V, nil
}
