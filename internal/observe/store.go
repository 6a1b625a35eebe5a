package observe

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/problem"
)

func (o *Observer) through(ctx context.Context, node string) (through int64, err error) {
	err = o.DB.NewRaw("SELECT through FROM node_reports WHERE node = ?", node).Scan(ctx, &through)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("read report number of node %s: %w", node, err)
	}
	return through, nil
}

// lockNode takes the node's row for this transaction and notes that it was heard.
func lockNode(ctx context.Context, tx db.Tx, node string) (through int64, err error) {
	err = tx.NewRaw(`INSERT INTO node_reports (node, through, seen_at) VALUES (?, 0, ?)
		ON CONFLICT (node) DO UPDATE SET seen_at = excluded.seen_at RETURNING through`, node, db.At(tx.Now)).Scan(ctx, &through)
	if err != nil {
		return 0, fmt.Errorf("lock reports of node %s: %w", node, err)
	}
	return through, nil
}

func advance(ctx context.Context, tx db.Tx, node string, through int64) error {
	if _, err := tx.NewRaw("UPDATE node_reports SET through = ? WHERE node = ?", through, node).Exec(ctx); err != nil {
		return fmt.Errorf("advance reports of node %s: %w", node, err)
	}
	return nil
}

type factsRow struct {
	bun.BaseModel `bun:"table:node_facts,alias:f"`
	Node          string `bun:",pk"`
	Site          string
	SealTo        string
	SeenAt        db.Time
	Shape         string
	Facts         db.JSON[fleet.NodeFacts]
}

func putFacts(ctx context.Context, tx db.Tx, facts fleet.NodeFacts) error {
	facts.SeenAt = tx.Now
	var before string
	err := tx.NewRaw("SELECT shape FROM node_facts WHERE node = ?", facts.Node).Scan(ctx, &before)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("read facts of node %s: %w", facts.Node, err)
	}
	row := factsRow{Node: facts.Node, Site: facts.Site, SealTo: facts.SealTo, SeenAt: db.At(tx.Now), Shape: shape(facts), Facts: db.Of(facts)}
	_, err = tx.NewInsert().Model(&row).On("CONFLICT (node) DO UPDATE").
		Set("site = excluded.site, seal_to = excluded.seal_to, seen_at = excluded.seen_at, shape = excluded.shape, facts = excluded.facts").Exec(ctx)
	if err != nil {
		return fmt.Errorf("write facts of node %s: %w", facts.Node, err)
	}
	if before == row.Shape {
		return nil
	}
	_, err = count(ctx, tx, "shape", 1)
	return err
}

// shape is a digest of the facts that settings are derived from: it does not change with time, load or free space.
func shape(f fleet.NodeFacts) string {
	type instance struct {
		Epoch     int64
		Slot      string
		Serving   bool
		Endpoints []string
	}
	instances := map[string]instance{}
	for name, i := range f.Instances {
		instances[name] = instance{i.Epoch, i.Slot, serves(i), i.Endpoints}
	}
	raw, err := json.Marshal([]any{f.Site, f.Roles, f.Capability, f.Address, f.SSHKey, f.VaultAddr, f.VaultKey, f.EdgeAddr, instances})
	if err != nil {
		panic(err) // texts, numbers and maps of them: cannot happen
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8])
}

func readFacts(ctx context.Context, in bun.IDB) ([]fleet.NodeFacts, error) {
	var rows []factsRow
	if err := in.NewSelect().Model(&rows).OrderBy("node", bun.OrderAsc).Scan(ctx); err != nil {
		return nil, fmt.Errorf("read facts of nodes: %w", err)
	}
	seen, err := readSeen(ctx, in)
	if err != nil {
		return nil, err
	}
	all := make([]fleet.NodeFacts, len(rows))
	for i, r := range rows {
		all[i] = r.Facts.V
		all[i].SeenAt = seen[r.Node]
	}
	return all, nil
}

func readNode(ctx context.Context, in bun.IDB, node string) (fleet.NodeFacts, error) {
	var row factsRow
	err := in.NewSelect().Model(&row).Where("node = ?", node).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return fleet.NodeFacts{}, problem.New(problem.NotFound, "holdfast get nodes", "node %s has reported nothing yet", node)
	}
	if err != nil {
		return fleet.NodeFacts{}, fmt.Errorf("read facts of node %s: %w", node, err)
	}
	var seen db.Time
	if err := in.NewRaw("SELECT seen_at FROM node_reports WHERE node = ?", node).Scan(ctx, &seen); err != nil {
		return fleet.NodeFacts{}, fmt.Errorf("read when node %s was heard: %w", node, err)
	}
	row.Facts.V.SeenAt = seen.Time
	return row.Facts.V, nil
}

// readSeen tells when each node was last heard at all.
func readSeen(ctx context.Context, in bun.IDB) (map[string]time.Time, error) {
	rows, err := readHeads(ctx, in)
	seen := make(map[string]time.Time, len(rows))
	for _, r := range rows {
		seen[r.Node] = r.SeenAt.Time
	}
	return seen, err
}

type headRow struct {
	Node   string
	Site   string
	SealTo string
	SeenAt db.Time
}

func readHeads(ctx context.Context, in bun.IDB) ([]headRow, error) {
	var rows []headRow
	err := in.NewRaw(`SELECT f.node AS node, f.site AS site, f.seal_to AS seal_to, r.seen_at AS seen_at
		FROM node_facts f JOIN node_reports r ON r.node = f.node`).Scan(ctx, &rows)
	if err != nil {
		return nil, fmt.Errorf("read nodes: %w", err)
	}
	return rows, nil
}

// count moves a counter on by n and returns where it stands. Its row lock makes numbers grow in the order of commits.
func count(ctx context.Context, tx db.Tx, name string, n int) (value int64, err error) {
	err = tx.NewRaw("UPDATE observe_counter SET value = value + ? WHERE name = ? RETURNING value", n, name).Scan(ctx, &value)
	if err != nil {
		return 0, fmt.Errorf("count %s: %w", name, err)
	}
	return value, nil
}

type resultRow struct {
	bun.BaseModel `bun:"table:probe_results,alias:pr"`
	ID            int64 `bun:",pk"`
	Node          string
	Question      string
	Instance      string
	OK            bool `bun:"ok"`
	Status        int64
	TookUS        int64 `bun:"took_us"`
	Error         string
	At            db.Time
}

func putResults(ctx context.Context, tx db.Tx, node string, results []link.Result) error {
	if len(results) == 0 {
		return nil
	}
	last, err := count(ctx, tx, "results", len(results))
	if err != nil {
		return err
	}
	rows := make([]resultRow, len(results))
	for i, r := range results {
		rows[i] = resultRow{
			ID: last - int64(len(results)-i) + 1, Node: node, Question: r.Check, Instance: r.Instance, OK: r.OK, Status: int64(r.Status),
			TookUS: r.Took.Microseconds(), Error: r.Error, At: db.At(r.At),
		}
	}
	if _, err := tx.NewInsert().Model(&rows).Exec(ctx); err != nil {
		return fmt.Errorf("append probe results of node %s: %w", node, err)
	}
	return nil
}

type eventRow struct {
	bun.BaseModel `bun:"table:node_events,alias:ne"`
	ID            int64 `bun:",pk"`
	Node          string
	Kind          string
	Instance      string
	Epoch         int64
	Note          string
	Labels        db.JSON[map[string]string]
	At            db.Time
	SeenAt        db.Time
}

func putEvents(ctx context.Context, tx db.Tx, node string, events []link.Event) error {
	if len(events) == 0 {
		return nil
	}
	last, err := count(ctx, tx, "events", len(events))
	if err != nil {
		return err
	}
	rows := make([]eventRow, len(events))
	for i, e := range events {
		rows[i] = eventRow{
			ID: last - int64(len(events)-i) + 1, Node: node, Kind: e.Kind, Instance: e.Instance, Epoch: e.Epoch, Note: e.Note, Labels: db.Of(e.Labels),
			At: db.At(e.At), SeenAt: db.At(tx.Now),
		}
	}
	if _, err := tx.NewInsert().Model(&rows).Exec(ctx); err != nil {
		return fmt.Errorf("append events of node %s: %w", node, err)
	}
	return nil
}

// Result is one answer of a probe, as kept.
type Result struct {
	ID   int64  `json:"id"` // grows over all results in the order of commits, without a gap
	Node string `json:"node"`
	link.Result
}

// Event is something that happened on a node, as kept. At is the node's clock, SeenAt the server's.
type Event struct {
	ID     int64     `json:"id"` // grows over all events in the order of commits, without a gap
	Node   string    `json:"node"`
	SeenAt time.Time `json:"seen_at"`
	link.Event
}

// Results reads answers after the one numbered after that were asked at or later than since, oldest first.
func Results(ctx context.Context, in bun.IDB, after int64, since time.Time, limit int64) ([]Result, error) {
	var rows []resultRow
	err := in.NewSelect().Model(&rows).Where("id > ? AND at >= ?", after, db.At(since)).OrderBy("id", bun.OrderAsc).Limit(limit).Scan(ctx)
	if err != nil {
		return nil, fmt.Errorf("read probe results: %w", err)
	}
	return shownResults(rows), nil
}

// Latest reads the newest answer of each prober to each question about each instance, asked at or later than since.
func Latest(ctx context.Context, in bun.IDB, since time.Time) ([]Result, error) {
	var rows []resultRow
	err := in.NewRaw(`SELECT * FROM probe_results WHERE id IN
		(SELECT max(id) FROM probe_results WHERE at >= ? GROUP BY node, question, instance) ORDER BY id`, db.At(since)).Scan(ctx, &rows)
	if err != nil {
		return nil, fmt.Errorf("read newest probe results: %w", err)
	}
	return shownResults(rows), nil
}

func shownResults(rows []resultRow) []Result {
	all := make([]Result, len(rows))
	for i, r := range rows {
		all[i] = Result{ID: r.ID, Node: r.Node, Result: link.Result{
			Check: r.Question, Instance: r.Instance, OK: r.OK, Status: int(r.Status), Took: time.Duration(r.TookUS) * time.Microsecond, Error: r.Error, At: r.At.Time,
		}}
	}
	return all
}

// Events reads what happened on nodes after the event numbered after, at or later than since, oldest first.
func Events(ctx context.Context, in bun.IDB, after int64, since time.Time, limit int64) ([]Event, error) {
	var rows []eventRow
	err := in.NewSelect().Model(&rows).Where("id > ? AND at >= ?", after, db.At(since)).OrderBy("id", bun.OrderAsc).Limit(limit).Scan(ctx)
	if err != nil {
		return nil, fmt.Errorf("read events of nodes: %w", err)
	}
	return shownEvents(rows), nil
}

// Forget drops probe results and node events older than before. Whoever needs them longer has computed from them.
func Forget(ctx context.Context, tx db.Tx, before time.Time) error {
	for _, table := range []string{"probe_results", "node_events"} {
		if _, err := tx.NewDelete().Table(table).Where("at < ?", db.At(before)).Exec(ctx); err != nil {
			return fmt.Errorf("forget old rows of %s: %w", table, err)
		}
	}
	return nil
}

type settingRow struct {
	bun.BaseModel `bun:"table:node_settings,alias:ns"`
	Node          string `bun:",pk"`
	Kind          string `bun:",pk"`
	Generation    int64
	Body          string
	ChangedAt     db.Time
}

func (r settingRow) setting() link.Setting {
	return link.Setting{Kind: link.SettingKind(r.Kind), Node: r.Node, Generation: r.Generation, IssuedAt: r.ChangedAt.Time, Body: []byte(r.Body)}
}

// putSettings stores documents and gives each that differs from the one before a later generation; these are returned,
// in the order of nodes and kinds. Generations come from the clock, so that those of a server that was rebuilt are
// later than all that a node has taken from the lost one.
func putSettings(ctx context.Context, tx db.Tx, wanted map[settingKey][]byte) ([]link.Setting, error) {
	var changed []link.Setting
	for _, key := range slices.SortedFunc(maps.Keys(wanted), settingKey.compare) {
		row := settingRow{Node: key.node, Kind: string(key.kind), Generation: tx.Now.UnixMicro(), Body: string(wanted[key]), ChangedAt: db.At(tx.Now)}
		res, err := tx.NewInsert().Model(&row).On("CONFLICT (node, kind) DO UPDATE").
			Set("generation = CASE WHEN ns.generation < excluded.generation THEN excluded.generation ELSE ns.generation + 1 END, body = excluded.body, changed_at = excluded.changed_at").
			Where("ns.body <> excluded.body").Returning("generation").Exec(ctx)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return nil, fmt.Errorf("write setting %s of node %s: %w", key.kind, key.node, err)
		}
		if err == nil && affected(res) {
			changed = append(changed, row.setting())
		}
	}
	return changed, nil
}

func affected(res sql.Result) bool {
	n, err := res.RowsAffected()
	return err == nil && n > 0
}

// readSettings reads all documents, or those of one node.
func readSettings(ctx context.Context, in bun.IDB, node string) ([]link.Setting, error) {
	var rows []settingRow
	q := in.NewSelect().Model(&rows).OrderBy("node", bun.OrderAsc).OrderBy("kind", bun.OrderAsc)
	if node != "" {
		q = q.Where("node = ?", node)
	}
	if err := q.Scan(ctx); err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	all := make([]link.Setting, len(rows))
	for i, r := range rows {
		all[i] = r.setting()
	}
	return all, nil
}
