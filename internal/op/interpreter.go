package op

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/uptrace/bun"

	"holdfast/internal/db"
	"holdfast/internal/step"
)

// Dispatcher hands orders to the link. Both return at once: an error, or silence, means that it may not have arrived,
// and it will be called again.
type Dispatcher interface {
	Send(ctx context.Context, node string, order step.Signed) error
	Cancel(ctx context.Context, node, orderID string) error
}

// Call is one attempt of a step, as those are told who do it on the server or complete its order.
type Call struct {
	Operation Operation
	Step      Step   // with its arguments; Step.OrderID names the attempt
	Node      string // where the order goes; "" when the server does it
	SealTo    string // age recipient of Node
	Epoch     int64  // of the step's instance as it is placed now

	site   string // claim: the site of the node to be claimed
	broken error  // why no order can be made of it
}

// OrderID names the attempt.
func (c Call) OrderID() string { return c.Step.OrderID(c.Operation.ID) }

// Served is how the server does a kind of step. Exactly one of the two is set. InTx has its effect in the transaction
// that also writes the step's end, so it happens exactly once. Do may take long and may be repeated after a crash with
// the same order id; it ends when ctx does.
type Served struct {
	InTx func(ctx context.Context, tx db.Tx, c Call) (json.RawMessage, error)
	Do   func(ctx context.Context, c Call) (json.RawMessage, error)
}

// Config is what an interpreter needs. All but Limits is required.
type Config struct {
	DB         *db.DB
	Owner      string // names this server process; another one in each run
	Alone      bool   // no other server uses this database: leases of earlier owners are taken at once
	Dispatcher Dispatcher
	Sign       func(step.Order) (step.Signed, error)
	Nodes      func(ctx context.Context) (map[string]Node, error)
	Serve      map[step.Kind]Served // route, release and tell; claim is op's own
	// Fill completes the arguments of an order with what must not be kept: secrets and keys, sealed to the node. It is
	// called for every sending, the same attempt may be sent several times.
	Fill   map[step.Kind]func(ctx context.Context, c Call) (json.RawMessage, error)
	Folder Folder
	Limits Limits
	Log    *slog.Logger
}

// Interpreter carries operations to their end. What it holds is a cache of the rows and notes about what this process
// has on its hands; losing that costs a second sending of orders and nothing else.
type Interpreter struct {
	Config
	nudge    chan struct{}            // size 1: a nudge that is already waiting is enough
	working  sync.WaitGroup           // what the server does beside the loop
	boundary func(point string) error // only tests set it

	mu      sync.Mutex                    // guards the two below
	serving map[string]context.CancelFunc // order id -> what the server is doing
	back    map[string]bool               // nodes whose link came up since the last pass

	// The rest belongs to Pass.
	open    map[string]*tracked // by operation
	nodes   map[string]Node
	nodesAt time.Time
	renewAt time.Time
}

// tracked is one open operation as last read.
type tracked struct {
	row   operationRow
	steps []Step
	rev   int64             // up to which steps were read
	taken map[string]string // instance -> who holds it instead
	freed map[string]bool   // instances whose leases were given back
	wake  time.Time
	held  bool           // a step waits for room that another operation may take or leave
	at    map[string]int // step -> its place in steps
	load  load

	handed map[string]time.Time // order id -> when it was last given to the link
}

// NewInterpreter makes an interpreter. It does nothing until Run.
func NewInterpreter(c Config) (*Interpreter, error) {
	if c.DB == nil || c.Owner == "" || c.Dispatcher == nil || c.Sign == nil || c.Nodes == nil || c.Log == nil || c.Folder.Log == nil {
		return nil, errors.New("op: the interpreter needs a database, an owner, a dispatcher, a signer, nodes and logs")
	}
	if c.Limits == (Limits{}) {
		c.Limits = DefaultLimits()
	}
	serve := maps.Clone(c.Serve)
	if serve == nil {
		serve = map[step.Kind]Served{}
	}
	serve[step.Claim] = Served{InTx: claim}
	c.Serve = serve
	return &Interpreter{
		Config: c, nudge: make(chan struct{}, 1), serving: map[string]context.CancelFunc{}, back: map[string]bool{}, open: map[string]*tracked{},
	}, nil
}

const (
	pollEvery   = time.Second            // what a missed ring costs
	nodesEvery  = 250 * time.Millisecond // how old the view of the nodes may be, unless one has just connected
	renewEvery  = leaseFor / 3
	retryErrors = 200 * time.Millisecond // pause after a pass that could not reach the database
)

// Run drives operations until ctx ends; then it waits for what the server itself is doing to notice.
func (i *Interpreter) Run(ctx context.Context) error {
	defer i.working.Wait()
	for {
		ring := i.DB.Doorbell.Wait()
		wake, err := i.Pass(ctx)
		if ctx.Err() != nil {
			return nil
		}
		pause := min(pollEvery, wake.Sub(i.DB.Now()))
		if err != nil {
			i.Log.Error("operations were not looked at", "err", err)
			ring, pause = nil, retryErrors
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ring:
		case <-i.nudge:
		case <-time.After(pause):
		}
	}
}

// Connected tells that a node's link has just come up: what was sent to it may have been lost and goes out again now.
func (i *Interpreter) Connected(node string) {
	i.mu.Lock()
	i.back[node] = true
	i.mu.Unlock()
	select {
	case i.nudge <- struct{}{}:
	default:
	}
}

// Pass looks once at every open operation and does what Next decides. It returns when to look again at the latest.
func (i *Interpreter) Pass(ctx context.Context) (wake time.Time, err error) {
	now := i.DB.Now()
	if err := i.renew(ctx, now); err != nil {
		return now, err
	}
	rows, err := i.openRows(ctx)
	if err != nil {
		return now, err
	}
	if len(rows) == 0 {
		i.forgetEnded(rows)
		return now.Add(pollEvery), nil
	}
	held, err := leases(ctx, i.DB)
	if err != nil {
		return now, err
	}
	fresh, err := i.lookAtNodes(ctx, now)
	if err != nil {
		return now, err
	}
	due, err := i.due(ctx, rows, held, fresh)
	if err != nil {
		return now, err
	}
	for n, t := range due {
		if err := i.step(ctx, t); err != nil {
			for _, undecided := range due[n:] {
				undecided.wake = now // what was news about it is still to be acted upon
			}
			return now, err
		}
	}
	wake = now.Add(pollEvery)
	for _, t := range i.open {
		if !t.wake.IsZero() && t.wake.Before(wake) {
			wake = t.wake
		}
	}
	return wake, nil
}

// due lists the operations that are to be decided about, oldest first. One that waits for room is looked at whenever any
// operation has moved: what ended may have been in its way, and its own rows do not change by that.
func (i *Interpreter) due(ctx context.Context, rows []operationRow, held map[string]string, fresh bool) (due []*tracked, err error) {
	now, moved := i.DB.Now(), i.forgetEnded(rows)
	awaiting := map[*tracked]bool{}
	for _, row := range rows {
		t, dirty, err := i.track(ctx, row, held)
		if err != nil {
			return nil, err
		}
		moved = moved || dirty
		if dirty || fresh || !t.wake.IsZero() && !now.Before(t.wake) {
			due = append(due, t)
		} else if t.held {
			due, awaiting[t] = append(due, t), true
		}
	}
	if moved {
		return due, nil
	}
	return slices.DeleteFunc(due, func(t *tracked) bool { return awaiting[t] }), nil
}

func (i *Interpreter) renew(ctx context.Context, now time.Time) error {
	if now.Before(i.renewAt) || len(i.open) == 0 {
		return nil
	}
	i.renewAt = now.Add(renewEvery)
	return i.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error { return renew(ctx, tx, i.Owner) })
}

// openRows reads the operations that this server drives, taking over those that nobody does.
func (i *Interpreter) openRows(ctx context.Context) ([]operationRow, error) {
	var rows []operationRow
	err := i.DB.NewSelect().Model(&rows).ExcludeColumn("params").Where("ended_at = 0").OrderBy("created_at", bun.OrderAsc).OrderBy("id", bun.OrderAsc).Scan(ctx)
	if err != nil {
		return nil, err
	}
	mine := rows[:0]
	for _, row := range rows {
		ok, err := i.own(ctx, &row)
		if err != nil {
			return nil, err
		}
		if ok {
			mine = append(mine, row)
		}
	}
	return mine, nil
}

// forgetEnded drops what is held of operations that are not driven any more, and tells whether there were any.
func (i *Interpreter) forgetEnded(rows []operationRow) bool {
	before, driven := len(i.open), map[string]bool{}
	for _, row := range rows {
		driven[row.ID] = true
	}
	maps.DeleteFunc(i.open, func(id string, _ *tracked) bool { return !driven[id] })
	return len(i.open) < before
}

func (i *Interpreter) own(ctx context.Context, row *operationRow) (bool, error) {
	if row.Owner == i.Owner {
		return true, nil
	}
	if row.Owner != "" && !i.Alone && row.LeaseUntil.After(i.DB.Now()) {
		return false, nil
	}
	ok := false
	err := i.write(ctx, "adopt", func(ctx context.Context, tx db.Tx) (err error) {
		if ok, err = adopt(ctx, tx, row.ID, i.Owner, row.Fence); err != nil {
			return err
		}
		return renew(ctx, tx, i.Owner)
	})
	if ok && err == nil {
		i.Log.Info("operation taken up", "op", row.ID, "before", row.Owner)
		row.Owner, row.Fence = i.Owner, row.Fence+1
	}
	return ok, err
}

// lookAtNodes refreshes the view of the nodes, and forgets what was handed to those that have just come back.
func (i *Interpreter) lookAtNodes(ctx context.Context, now time.Time) (fresh bool, err error) {
	back := i.takeBack()
	if len(back) == 0 && now.Sub(i.nodesAt) < nodesEvery {
		return false, nil
	}
	nodes, err := i.Nodes(ctx)
	if err != nil {
		return false, err
	}
	for _, t := range i.open {
		t.forget(back)
	}
	fresh = len(back) > 0 || !maps.Equal(nodes, i.nodes)
	i.nodes, i.nodesAt = nodes, now
	return fresh, nil
}

func (i *Interpreter) takeBack() map[string]bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	back := i.back
	i.back = map[string]bool{}
	return back
}

func (t *tracked) forget(nodes map[string]bool) {
	for _, s := range t.steps {
		if nodes[s.Placed] {
			delete(t.handed, s.OrderID(t.row.ID))
		}
	}
}

// track brings the cached steps of an operation up to its row; dirty when anything Next looks at has changed.
func (i *Interpreter) track(ctx context.Context, row operationRow, held map[string]string) (t *tracked, dirty bool, err error) {
	t, known := i.open[row.ID]
	if !known {
		t = &tracked{rev: -1, handed: map[string]time.Time{}, freed: map[string]bool{}, at: map[string]int{}}
		i.open[row.ID] = t
	}
	if t.rev != row.Rev {
		changed, err := loadSteps(ctx, i.DB, row.ID, t.rev)
		if err != nil {
			return nil, false, err
		}
		t.apply(changed, known)
		t.rev, dirty = row.Rev, true
	}
	t.row = row
	taken := t.takenBy(held)
	dirty = dirty || !maps.Equal(taken, t.taken)
	t.taken = taken
	return t, dirty, nil
}

func (t *tracked) apply(changed []stepRow, known bool) {
	for _, r := range changed {
		if known {
			t.steps[r.Pos] = r.step()
		} else {
			t.at[r.ID] = len(t.steps)
			t.steps = append(t.steps, r.step())
		}
		t.rev = max(t.rev, r.Rev)
	}
	t.load = loadOf(t.steps)
}

// moved notes what was just written, so that whoever is decided about next sees the room that it takes.
func (t *tracked) moved(moves []Move) {
	for _, m := range moves {
		if m.Write {
			t.steps[t.at[m.Step.ID]] = m.Step
		}
	}
	t.load = loadOf(t.steps)
}

// load is how many orders an operation has in flight on each node that count against the limits.
type load map[string]int

func loadOf(steps []Step) load {
	l := load{}
	for _, s := range steps {
		if s.inFlight() && s.doer() != "" && !policyOf(s.Kind).light {
			l[s.Placed]++
		}
	}
	return l
}

// takenBy lists the instances of which this operation is not through and no longer holds the lease.
func (t *tracked) takenBy(held map[string]string) map[string]string {
	taken := map[string]string{}
	for _, s := range t.steps {
		if s.Instance == "" || s.Settled() || held[s.Instance] == t.row.ID {
			continue
		}
		taken[s.Instance] = held[s.Instance]
		if taken[s.Instance] == "" {
			taken[s.Instance] = "another"
		}
	}
	return taken
}

func (i *Interpreter) view(t *tracked) View {
	v := View{
		Operation: t.row.operation(), Steps: t.steps, Nodes: i.nodes, Limits: i.Limits, TakenBy: t.taken, Handed: t.handed,
		OnNode: map[string]int{}, InSite: map[string]int{}, Serving: map[string]bool{},
	}
	for id, other := range i.open {
		if id == t.row.ID {
			continue
		}
		for node, orders := range other.load {
			v.OnNode[node] += orders
			v.InSite[i.nodes[node].Site] += orders
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for id := range i.serving {
		v.Serving[id] = true
	}
	return v
}
