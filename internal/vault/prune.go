package vault

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"holdfast/internal/vault/internal/index"
)

// Keep are the rules by which snapshots stay. Each rule keeps the newest complete snapshot of each of
// its last periods that have one, in local time; a snapshot stays when one rule keeps it.
type Keep struct {
	Last, Hourly, Daily, Weekly, Monthly, Yearly int
}

// PruneOptions are the rules and the floors below which nothing goes, whatever the rules say.
type PruneOptions struct {
	Keep Keep
	// Protect names snapshots that stay. The last proven one stays always; when none is proven, the newest.
	Protect []string
	// MaxShare bounds the share of all snapshots that one run forgets; 0 means a half. The oldest go first.
	MaxShare float64
	// Hold is how long bytes stay after nothing needs them. 0 deletes at once when no backup is running.
	Hold     time.Duration
	Now      time.Time
	Location *time.Location // whose days and weeks; nil means time.Local
}

// Decision is what becomes of one snapshot or object, and why.
type Decision struct {
	Object string    `json:"object"`
	Time   time.Time `json:"time"`
	Size   int64     `json:"size"` // in bytes, of the object
	Why    string    `json:"why"`
}

// PrunePlan says exactly what goes and why. It is data; Execute does it.
type PrunePlan struct {
	Keep    []Decision `json:"keep"`    // snapshots that stay
	Forget  []Decision `json:"forget"`  // snapshots that go
	Condemn []Decision `json:"condemn"` // packs that nothing needs: they go after the holding period
	Waiting []Decision `json:"waiting"` // condemned packs that are still held
	Delete  []Decision `json:"delete"`  // objects that go now
}

// Freed is how many bytes the plan deletes now.
func (p PrunePlan) Freed() (n int64) {
	for _, d := range p.Delete {
		n += d.Size
	}
	return n
}

// pruneState is all that a plan is made from.
type pruneState struct {
	snapshots []SnapshotInfo // oldest first
	proven    map[string]Proof
	packs     []Object
	manifests []Object
	indexes   map[string]index.Head // by name
	indexed   []Object
	condemned map[string]time.Time // by pack
	lists     []condemnedList
	uploads   []Object
	oldest    time.Time // start of the oldest running backup; zero when none runs
}

type condemnedList struct {
	object Object
	packs  []string
}

// PlanPrune looks at the repository and decides. No key is needed. A snapshot that cannot be read ends it
// with ErrDamaged: what it needs is unknown.
func (r *Repository) PlanPrune(ctx context.Context, o PruneOptions) (PrunePlan, error) {
	state, err := r.pruneState(ctx)
	if err != nil {
		return PrunePlan{}, fmt.Errorf("plan prune: %w", err)
	}
	return planPrune(state, o), nil
}

func (r *Repository) pruneState(ctx context.Context) (*pruneState, error) {
	s := &pruneState{indexes: map[string]index.Head{}}
	running, err := livingLocks(ctx, r.store, "")
	if err != nil {
		return nil, err
	}
	for _, n := range running {
		if n.Kind != lockPrune && (s.oldest.IsZero() || n.Began.Before(s.oldest)) {
			s.oldest = n.Began
		}
	}
	// Snapshots after locks: a backup that ended in between is seen as a snapshot.
	if s.snapshots, err = r.ListSnapshots(ctx); err != nil {
		return nil, err
	}
	if s.proven, err = r.Proofs(ctx); err != nil {
		return nil, err
	}
	if s.packs, err = r.store.List(ctx, packFolder); err != nil {
		return nil, err
	}
	if s.manifests, err = r.store.List(ctx, manifestFolder); err != nil {
		return nil, err
	}
	if s.uploads, err = r.store.List(ctx, uploadFolder); err != nil {
		return nil, err
	}
	if s.condemned, err = r.condemned(ctx); err != nil {
		return nil, err
	}
	if err := r.condemnedLists(ctx, s); err != nil {
		return nil, err
	}
	return s, r.indexHeads(ctx, s)
}

func (r *Repository) indexHeads(ctx context.Context, s *pruneState) (err error) {
	if s.indexed, err = r.store.List(ctx, indexFolder); err != nil {
		return err
	}
	for _, o := range s.indexed {
		body, err := read(ctx, r.store, o.Name)
		if err != nil {
			return err
		}
		if head, _, err := index.ParseHead(body); err == nil {
			s.indexes[path.Base(o.Name)] = head
		}
	}
	return nil
}

// planPrune decides; it reads no clock and no store.
func planPrune(s *pruneState, o PruneOptions) PrunePlan {
	var p PrunePlan
	why := keepReasons(s.snapshots, s.proven, o)
	forget := forgettable(s.snapshots, why, o)
	needed, manifests := map[string]bool{}, map[string]bool{}
	for _, info := range s.snapshots {
		d := Decision{Object: snapshotFolder + "/" + info.ID + ".json", Time: info.Time, Size: info.ManifestSize, Why: why[info.ID]}
		if forget[info.ID] {
			d.Why = "no rule keeps it"
			p.Forget = append(p.Forget, d)
			continue
		}
		p.Keep = append(p.Keep, d)
		manifests[info.Manifest] = true
		for _, name := range info.Packs {
			needed[name] = true
		}
	}
	p.packs(s, o, needed)
	p.rest(s, o, manifests)
	return p
}

// keepReasons gives the reason to keep for each snapshot that has one.
func keepReasons(all []SnapshotInfo, proven map[string]Proof, o PruneOptions) map[string]string {
	why := map[string]string{}
	add := func(id, reason string) {
		if why[id] != "" {
			reason = why[id] + ", " + reason
		}
		why[id] = reason
	}
	floor(all, proven, o, add)
	loc := o.Location
	if loc == nil {
		loc = time.Local
	}
	for _, rule := range []struct {
		name   string
		count  int
		period func(time.Time) string
	}{
		{"hourly", o.Keep.Hourly, func(t time.Time) string { return t.Format("2006-01-02 15 -0700") }},
		{"daily", o.Keep.Daily, func(t time.Time) string { return t.Format("2006-01-02") }},
		{"weekly", o.Keep.Weekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprintf("%d-%d", y, w) }},
		{"monthly", o.Keep.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
		{"yearly", o.Keep.Yearly, func(t time.Time) string { return t.Format("2006") }},
	} {
		for i, id := range newestOf(all, rule.count, func(t time.Time) string { return rule.period(t.In(loc)) }) {
			add(id, fmt.Sprintf("%s %d of %d", rule.name, i+1, rule.count))
		}
	}
	for i := range min(o.Keep.Last, len(all)) {
		add(all[len(all)-1-i].ID, fmt.Sprintf("last %d of %d", i+1, o.Keep.Last))
	}
	return why
}

// floor keeps what no rule may let go.
func floor(all []SnapshotInfo, proven map[string]Proof, o PruneOptions, add func(id, reason string)) {
	lastProven := ""
	for _, s := range all {
		if _, ok := proven[s.ID]; ok {
			lastProven = s.ID
		}
		if s.Time.After(o.Now.Add(time.Hour)) {
			add(s.ID, "its time is in the future: a clock is wrong")
		}
		for _, name := range o.Protect {
			if name != "" && strings.HasPrefix(s.ID, name) {
				add(s.ID, "protected")
			}
		}
	}
	switch {
	case lastProven != "":
		add(lastProven, "the last proven one")
	case len(all) > 0:
		add(all[len(all)-1].ID, "the newest, and none is proven")
	}
	if o.Keep == (Keep{}) {
		for _, s := range all {
			add(s.ID, "no keep rule was given")
		}
	}
}

// newestOf gives, for the last count periods that have a snapshot, the newest one: a complete one if there is one.
func newestOf(all []SnapshotInfo, count int, period func(time.Time) string) []string {
	var order []string
	chosen := map[string]SnapshotInfo{}
	for i := len(all) - 1; i >= 0; i-- {
		p := period(all[i].Time)
		was, seen := chosen[p]
		if !seen {
			if len(order) == count {
				break
			}
			order = append(order, p)
		}
		if !seen || was.Incomplete && !all[i].Incomplete {
			chosen[p] = all[i]
		}
	}
	out := make([]string, len(order))
	for i, p := range order {
		out[i] = chosen[p].ID
	}
	return out
}

// forgettable gives the snapshots that go: those without a reason, the oldest first, up to the greatest share.
func forgettable(all []SnapshotInfo, why map[string]string, o PruneOptions) map[string]bool {
	share := o.MaxShare
	if share <= 0 {
		share = 0.5
	}
	left := int(share*float64(len(all)) + 0.5)
	out := map[string]bool{}
	for _, s := range all {
		if why[s.ID] != "" {
			continue
		}
		if left == 0 {
			why[s.ID] = fmt.Sprintf("no rule keeps it, and this run has forgotten its share of %.0f %%", share*100)
			continue
		}
		left--
		out[s.ID] = true
	}
	return out
}

// packs decides about packs: needed, to be condemned, held, or to be deleted.
func (p *PrunePlan) packs(s *pruneState, o PruneOptions, needed map[string]bool) {
	for _, pack := range s.packs {
		name := path.Base(pack.Name)
		if needed[name] {
			continue
		}
		d := Decision{Object: pack.Name, Time: pack.Time, Size: pack.Size}
		since, condemned := s.condemned[name]
		switch {
		case !condemned && o.Now.Sub(pack.Time) < o.Hold:
			d.Why = "no snapshot needs it yet: a running or interrupted backup may"
			p.Waiting = append(p.Waiting, d)
		case !condemned && (o.Hold > 0 || !s.oldest.IsZero()):
			d.Why = "no snapshot needs it"
			p.Condemn = append(p.Condemn, d)
		case !condemned:
			d.Why = "no snapshot needs it, no backup runs, no holding period"
			p.Condemn = append(p.Condemn, d)
			p.Delete = append(p.Delete, d)
		case o.Now.Sub(since) < o.Hold:
			d.Why = fmt.Sprintf("condemned %s, held until %s", since.Format(time.DateTime), since.Add(o.Hold).Format(time.DateTime))
			p.Waiting = append(p.Waiting, d)
		case !s.oldest.IsZero() && !s.oldest.After(since):
			d.Why = "condemned, and a backup that began before still runs"
			p.Waiting = append(p.Waiting, d)
		default:
			d.Why = "condemned " + since.Format(time.DateTime) + ", no snapshot needs it"
			p.Delete = append(p.Delete, d)
		}
	}
}

// uploadLife is the age above which an upload without a name is nobody's: no transfer takes so long.
const uploadLife = 24 * time.Hour

// rest decides about manifests, index files, lists of condemned packs and broken uploads.
func (p *PrunePlan) rest(s *pruneState, o PruneOptions, manifests map[string]bool) {
	for _, m := range s.manifests {
		forgotten := slices.ContainsFunc(s.snapshots, func(i SnapshotInfo) bool { return i.Manifest == m.Name })
		if !manifests[m.Name] && (forgotten || s.oldest.IsZero() && o.Now.Sub(m.Time) >= o.Hold) {
			p.Delete = append(p.Delete, Decision{m.Name, m.Time, m.Size, "no snapshot has this manifest"})
		}
	}
	living := map[string]bool{}
	for _, pack := range s.packs {
		living[path.Base(pack.Name)] = true
	}
	superseded := map[string]bool{}
	for _, head := range s.indexes {
		for _, old := range head.Supersedes {
			superseded[old] = true
		}
	}
	for _, x := range s.indexed {
		head, readable := s.indexes[path.Base(x.Name)]
		switch {
		case superseded[path.Base(x.Name)] && s.oldest.IsZero():
			p.Delete = append(p.Delete, Decision{x.Name, x.Time, x.Size, "a newer index holds all it says"})
		case readable && !slices.ContainsFunc(head.Packs, func(e index.Pack) bool { return living[e.Name] }):
			p.Delete = append(p.Delete, Decision{x.Name, x.Time, x.Size, "all its packs are gone"})
		}
	}
	for _, u := range s.uploads {
		if o.Now.Sub(u.Time) > max(o.Hold, uploadLife) {
			p.Delete = append(p.Delete, Decision{u.Name, u.Time, u.Size, "an upload that broke off"})
		}
	}
	for _, l := range s.lists {
		if !slices.ContainsFunc(l.packs, func(name string) bool { return living[name] }) {
			p.Delete = append(p.Delete, Decision{l.object.Name, l.object.Time, l.object.Size, "all packs it condemned are gone"})
		}
	}
}

// Prune plans and executes under a lock, so that what was decided is still so when it is done.
func (r *Repository) Prune(ctx context.Context, o PruneOptions) (PrunePlan, error) {
	held, err := acquire(ctx, r.store, lockPrune, 0)
	if err != nil {
		return PrunePlan{}, fmt.Errorf("prune: %w", err)
	}
	defer held.release(ctx)
	plan, err := r.PlanPrune(ctx, o)
	if err != nil {
		return plan, err
	}
	return plan, r.execute(ctx, plan, o.Now)
}

// execute does what the plan says, in an order in which it may be cut off anywhere: snapshots go before
// what they need, and a pack is condemned, where every writer sees it, before it is deleted.
func (r *Repository) execute(ctx context.Context, p PrunePlan, now time.Time) error {
	for _, d := range p.Forget {
		if err := r.remove(ctx, d.Object); err != nil {
			return err
		}
		r.forgot(strings.TrimSuffix(path.Base(d.Object), ".json"))
	}
	if len(p.Condemn) > 0 {
		list := condemnation{Format: Format, Time: now.UTC()}
		for _, d := range p.Condemn {
			list.Packs = append(list.Packs, path.Base(d.Object))
		}
		if err := r.putNamed(ctx, pruneFolder, now.UTC().Format("20060102T150405"), ".json", list); err != nil {
			return fmt.Errorf("prune: %w", err)
		}
	}
	for _, d := range p.Delete {
		if err := r.remove(ctx, d.Object); err != nil {
			return err
		}
	}
	return nil
}

func (r *Repository) remove(ctx context.Context, name string) error {
	if err := r.store.Delete(ctx, name); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}

// Forget removes snapshots by name, against all rules but one: the last proven one stays, and when none
// is proven the newest. Their bytes go with the next prunes.
func (r *Repository) Forget(ctx context.Context, names []string, now time.Time) ([]SnapshotInfo, error) {
	all, err := r.ListSnapshots(ctx)
	if err != nil && !errors.Is(err, ErrDamaged) {
		return nil, err
	}
	proven, err := r.Proofs(ctx)
	if err != nil {
		return nil, err
	}
	kept := map[string]string{}
	floor(all, proven, PruneOptions{Keep: Keep{Last: 1}, Now: now}, func(id, reason string) { kept[id] = reason })
	var out []SnapshotInfo
	for _, name := range names {
		info, err := pickSnapshot(all, name)
		if err != nil {
			return nil, err
		}
		if why := kept[info.ID]; why != "" {
			return nil, fmt.Errorf("forget snapshot %s: %w: it is %s", info.Short(), ErrDenied, why)
		}
		out = append(out, info)
	}
	for _, info := range out {
		if err := r.remove(ctx, snapshotFolder+"/"+info.ID+".json"); err != nil {
			return out, err
		}
		r.forgot(info.ID)
	}
	return out, nil
}
