package op

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/uptrace/bun"

	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// errNotOurs ends a write of an operation whose lease another server has taken.
var errNotOurs = errors.New("the operation's lease was taken by another server")

// step decides about one operation, writes that down, and then does it.
func (i *Interpreter) step(ctx context.Context, t *tracked) error {
	d := Next(i.view(t), i.DB.Now())
	t.wake, t.held = d.Wake, d.Held
	moves, err := i.commit(ctx, t, d)
	if errors.Is(err, errNotOurs) {
		delete(i.open, t.row.ID)
		return nil
	}
	if err != nil {
		return err
	}
	t.moved(moves)
	return i.act(ctx, t, moves)
}

// commit writes what a decision changes in one transaction and returns the moves that hold.
func (i *Interpreter) commit(ctx context.Context, t *tracked, d Decision) ([]Move, error) {
	var hold []Move
	writes := d.Finish != nil || len(t.heldOf(d.Free)) > 0
	for _, m := range d.Moves {
		writes = writes || m.Write
	}
	if !writes {
		return d.Moves, nil
	}
	err := i.write(ctx, "decision", func(ctx context.Context, tx db.Tx) (err error) {
		hold, err = i.store(ctx, tx, t, d)
		return err
	})
	if err == nil {
		for _, instance := range d.Free {
			t.freed[instance] = true
		}
	}
	return hold, err
}

// heldOf leaves out instances that were freed or taken before.
func (t *tracked) heldOf(instances []string) []string {
	var held []string
	for _, instance := range instances {
		if !t.freed[instance] {
			held = append(held, instance)
		}
	}
	return held
}

func (i *Interpreter) store(ctx context.Context, tx db.Tx, t *tracked, d Decision) (hold []Move, err error) {
	row, err := lock(ctx, tx, t.row.ID)
	if err != nil {
		return nil, err
	}
	if row.Owner != i.Owner || row.Fence != t.row.Fence {
		return nil, errNotOurs
	}
	var happened []Event
	for _, m := range d.Moves {
		ok := true
		if m.Write {
			ok, err = writeStep(ctx, tx, row.ID, m.Step, m.Was, m.WasAttempt, row.Rev)
		}
		if err != nil {
			return nil, err
		}
		if ok {
			hold = append(hold, m)
		}
		if ok && m.Write {
			happened = append(happened, eventOf(row.ID, m.Step))
		}
	}
	if instances := t.heldOf(d.Free); len(instances) > 0 {
		if err := free(ctx, tx, row.ID, instances...); err != nil {
			return nil, err
		}
	}
	// Somebody moved a step since the decision: it is looked at again before the operation may end.
	if d.Finish != nil && row.Rev == t.row.Rev+1 {
		ended, err := finish(ctx, tx, row, *d.Finish)
		if err != nil {
			return nil, err
		}
		happened = append(happened, ended)
	}
	return hold, appendEvents(ctx, tx, happened)
}

func finish(ctx context.Context, tx db.Tx, row operationRow, f Finish) (Event, error) {
	_, err := tx.NewRaw("UPDATE operations SET state = ?, why = ?, counts = ?, ended_at = ? WHERE id = ?",
		string(f.State), f.Why, db.Of(f.Counts), db.At(tx.Now), row.ID).Exec(ctx)
	if err != nil {
		return Event{}, fmt.Errorf("end operation %s: %w", row.ID, err)
	}
	if err := free(ctx, tx, row.ID); err != nil {
		return Event{}, err
	}
	e := Event{Operation: row.ID, State: string(f.State), Error: f.Why}
	if f.State != Done {
		e.Hint = row.Resume
	}
	return e, nil
}

// write runs one transaction. Tests cut the process off before and after it.
func (i *Interpreter) write(ctx context.Context, what string, do func(ctx context.Context, tx db.Tx) error) error {
	if err := i.cut("before writing " + what); err != nil {
		return err
	}
	if err := i.DB.Tx(ctx, do); err != nil {
		return err
	}
	return i.cut("after writing " + what)
}

// cut is where tests end the process. It is free of effect outside of them.
func (i *Interpreter) cut(point string) error {
	if i.boundary == nil {
		return nil
	}
	return i.boundary(point)
}

// act does what the moves ask for. They are written: all of it may be repeated.
func (i *Interpreter) act(ctx context.Context, t *tracked, moves []Move) error {
	o := t.row.operation()
	var send, serve []Step
	for _, m := range moves {
		switch m.Deed {
		case Send:
			send = append(send, m.Step)
		case Serve:
			serve = append(serve, m.Step)
		case Ask:
			if err := i.ask(ctx, t, m.Step); err != nil {
				return err
			}
		case Nothing:
		}
	}
	if len(send)+len(serve) == 0 {
		return nil
	}
	calls, err := i.calls(ctx, o, append(send, serve...))
	if err != nil {
		return err
	}
	return i.deliver(ctx, t, calls)
}

// deliver sends first, so that nodes work while the server does its own steps.
func (i *Interpreter) deliver(ctx context.Context, t *tracked, calls []Call) error {
	var whole []Call
	for _, c := range calls {
		var err error
		switch {
		case c.Step.Node != "":
			t.handed[c.OrderID()] = i.DB.Now()
			err = i.send(ctx, c)
		case i.Serve[c.Step.Kind].InTx != nil && c.broken == nil:
			whole = append(whole, c)
		default:
			err = i.serve(ctx, c)
		}
		if err != nil {
			return err
		}
	}
	return i.serveInTx(ctx, whole)
}

// calls reads the arguments and placements of steps that are about to be done.
func (i *Interpreter) calls(ctx context.Context, o Operation, steps []Step) ([]Call, error) {
	ids, instances := make([]string, len(steps)), make([]string, len(steps))
	for n, s := range steps {
		ids[n], instances[n] = s.ID, s.Instance
	}
	whole, err := loadWhole(ctx, i.DB, o.ID, ids)
	if err != nil {
		return nil, err
	}
	placed, err := placementsOf(ctx, i.DB, instances)
	if err != nil {
		return nil, err
	}
	calls := make([]Call, len(steps))
	for n, s := range steps {
		s.Args = whole[s.ID].Args
		node := s.doer()
		calls[n] = Call{Operation: o, Step: s, Node: node, SealTo: i.nodes[node].SealTo, Epoch: placed[s.Instance].Epoch}
		if err := bind(&calls[n], placed[s.Instance], i.nodes); err != nil {
			calls[n].broken = err
		}
	}
	return calls, nil
}

// bind writes the epoch into the steps that carry one: it is known only once the claim is through.
func bind(c *Call, p fleet.Placement, nodes map[string]Node) error {
	switch c.Step.Kind {
	case step.Switch:
		var args step.SwitchArgs
		if err := json.Unmarshal(c.Step.Args, &args); err != nil {
			return err
		}
		if p.Node != c.Node || p.Slot != args.Slot {
			return problem.New(problem.Conflict, "holdfast op show "+c.Operation.ID, "%s was placed on %s in slot %s, not on %s in slot %s",
				c.Step.Instance, p.Node, p.Slot, c.Node, args.Slot)
		}
		args.Epoch = p.Epoch
		return c.rewrite(args)
	case step.Fence:
		return c.rewrite(step.FenceArgs{Epoch: p.Epoch, Node: p.Node})
	case step.Claim:
		var args step.ClaimArgs
		if err := json.Unmarshal(c.Step.Args, &args); err != nil {
			return err
		}
		c.site = nodes[args.Node].Site
	default: // carries no epoch
	}
	return nil
}

func (c *Call) rewrite(args any) error {
	raw, err := json.Marshal(args)
	c.Step.Args = raw
	return err
}

// send completes, signs and hands out one order. A node that cannot be reached gets it again later; an order that
// cannot be completed is a failed attempt.
func (i *Interpreter) send(ctx context.Context, c Call) error {
	order, err := i.order(ctx, c)
	if err != nil {
		return i.word(ctx, c, failure(err))
	}
	if err := i.cut("before sending " + c.OrderID()); err != nil {
		return err
	}
	if err := i.Dispatcher.Send(ctx, c.Node, order); err != nil {
		i.Log.Debug("order not handed out, will be sent again", "op", c.Operation.ID, "step", c.Step.ID, "node", c.Node, "err", err)
	}
	return i.cut("after sending " + c.OrderID())
}

func (i *Interpreter) order(ctx context.Context, c Call) (step.Signed, error) {
	if c.broken != nil {
		return step.Signed{}, c.broken
	}
	args := c.Step.Args
	if fill := i.Fill[c.Step.Kind]; fill != nil {
		var err error
		if args, err = fill(ctx, c); err != nil {
			return step.Signed{}, err
		}
	}
	now := i.DB.Now()
	return i.Sign(step.Order{
		ID: c.OrderID(), Operation: c.Operation.ID, StepID: c.Step.ID, Attempt: c.Step.Attempt, Node: c.Node, Epoch: c.Epoch,
		Nonce: rand.Text(), IssuedAt: now, ExpiresAt: now.Add(orderLife),
		Step: step.Step{Kind: c.Step.Kind, Instance: c.Step.Instance, Args: args, Note: c.Step.Title},
	})
}

// ask asks whoever does a step to stop.
func (i *Interpreter) ask(ctx context.Context, t *tracked, s Step) error {
	id := s.OrderID(t.row.ID)
	if s.Node == "" {
		i.mu.Lock()
		defer i.mu.Unlock()
		if stop := i.serving[id]; stop != nil {
			stop()
		}
		return nil
	}
	t.handed[id] = i.DB.Now()
	if err := i.Dispatcher.Cancel(ctx, s.Placed, id); err != nil {
		i.Log.Debug("cancel not handed out, will be sent again", "op", t.row.ID, "step", s.ID, "node", s.Placed, "err", err)
	}
	return nil
}

// serve does a step beside the loop.
func (i *Interpreter) serve(ctx context.Context, c Call) error {
	how, ok := i.Serve[c.Step.Kind]
	switch {
	case c.broken != nil:
		return i.word(ctx, c, failure(c.broken))
	case !ok:
		return i.word(ctx, c, failure(problem.New(problem.Internal, "", "this server does not do steps of kind %s", c.Step.Kind)))
	}
	i.serveBeside(ctx, c, how.Do)
	return nil
}

// serveInTx does steps whose effect belongs in the transaction that ends them: all in one if all goes well, as a
// recovery claims a hundred instances at once; and if not, each for itself, so that one's fault is its own.
func (i *Interpreter) serveInTx(ctx context.Context, calls []Call) error {
	if len(calls) == 0 {
		return nil
	}
	own, err := i.together(ctx, calls)
	if own == nil || ctx.Err() != nil {
		return err
	}
	if len(calls) == 1 {
		return i.word(ctx, calls[0], failure(own))
	}
	for _, c := range calls {
		if err := i.serveInTx(ctx, []Call{c}); err != nil {
			return err
		}
	}
	return nil
}

// together does all calls in one transaction. A step's fault is told apart from the database's: it undoes the
// transaction, and the loop goes on.
func (i *Interpreter) together(ctx context.Context, calls []Call) (own, err error) {
	err = i.write(ctx, "steps", func(ctx context.Context, tx db.Tx) error {
		var done []step.Update
		for _, c := range calls {
			if ok, err := i.stillHeld(ctx, tx, c); err != nil {
				return err
			} else if !ok {
				own = problem.New(problem.Conflict, "holdfast op list", "operation %s no longer holds instance %s", c.Operation.ID, c.Step.Instance)
				return own
			}
			var result json.RawMessage
			if result, own = i.Serve[c.Step.Kind].InTx(ctx, tx, c); own != nil {
				return own
			}
			done = append(done, c.update(step.Update{State: step.Done, Result: result}))
		}
		return i.Folder.Fold(ctx, tx, "", done)
	})
	return own, err
}

// stillHeld tells whether a step's instance was not taken by another operation meanwhile.
func (i *Interpreter) stillHeld(ctx context.Context, tx db.Tx, c Call) (bool, error) {
	if c.Step.Instance == "" {
		return true, nil
	}
	return holds(ctx, tx, c.Operation.ID, c.Step.Instance)
}

func (i *Interpreter) serveBeside(ctx context.Context, c Call, do func(context.Context, Call) (json.RawMessage, error)) {
	run, stop := context.WithTimeout(ctx, policyOf(c.Step.Kind).within)
	i.mu.Lock()
	if i.serving[c.OrderID()] != nil {
		i.mu.Unlock()
		stop()
		return
	}
	i.serving[c.OrderID()] = stop
	i.mu.Unlock()
	i.working.Go(func() {
		defer stop()
		result, err := do(run, c)
		i.served(ctx, run, c, result, err)
	})
}

// served writes how a step that the server did came out, unless the server itself is going down: then the step is
// done again after the restart.
func (i *Interpreter) served(ctx, run context.Context, c Call, result json.RawMessage, err error) {
	if ctx.Err() != nil {
		return
	}
	u := step.Update{State: step.Done, Result: result}
	switch {
	case err != nil && errors.Is(run.Err(), context.Canceled):
		u = step.Update{State: step.Cancelled, Note: "stopped"}
	case err != nil:
		u = failure(err)
	}
	if err := i.word(ctx, c, u); err != nil {
		i.Log.Error("end of a step was not written, it will be done again", "op", c.Operation.ID, "step", c.Step.ID, "err", err)
	}
	i.mu.Lock()
	delete(i.serving, c.OrderID())
	i.mu.Unlock()
	i.DB.Doorbell.Ring()
}

// word folds the server's own word about an attempt.
func (i *Interpreter) word(ctx context.Context, c Call, u step.Update) error {
	return i.write(ctx, "word", func(ctx context.Context, tx db.Tx) error {
		return i.Folder.Fold(ctx, tx, c.Node, []step.Update{c.update(u)})
	})
}

func (c Call) update(u step.Update) step.Update {
	u.OrderID, u.Operation, u.StepID, u.Attempt = c.OrderID(), c.Operation.ID, c.Step.ID, c.Step.Attempt
	return u
}

func failure(err error) step.Update {
	u := step.Update{State: step.Failed, Error: err.Error(), ErrorKind: string(problem.KindOf(err))}
	if p, ok := errors.AsType[*problem.Error](err); ok {
		u.Hint = p.Hint
	}
	switch problem.KindOf(err) {
	case problem.Unavailable, problem.Unreachable, problem.Busy:
		u.Retryable = true
	default: // trying again changes nothing
	}
	return u
}

// placementsOf reads the placements of some instances.
func placementsOf(ctx context.Context, in bun.IDB, instances []string) (map[string]fleet.Placement, error) {
	var rows []placementRow
	if err := in.NewSelect().Model(&rows).Where("instance IN (?)", bun.List(instances)).Scan(ctx); err != nil {
		return nil, fmt.Errorf("read placements: %w", err)
	}
	all := make(map[string]fleet.Placement, len(rows))
	for _, r := range rows {
		all[r.Instance] = r.placement()
	}
	return all, nil
}
