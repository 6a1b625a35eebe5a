package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// Why an order's context ended, other than by its own work.
var (
	errCancelled  = errors.New("cancelled on order")             //nolint:gochecknoglobals // a sentinel, never assigned again
	errSuperseded = errors.New("a newer attempt took its place") //nolint:gochecknoglobals // a sentinel, never assigned again
)

// progressEvery is how often at most the progress of one order goes to the journal and the server.
const progressEvery = 500 * time.Millisecond

// tellTaken is how long the word that an order was taken waits for the word that it is done. Most steps are short: one
// report then says both, which spares the server a transaction for each step of each instance.
const tellTaken = 40 * time.Millisecond

// orders takes orders and does them: those of one instance one after the other, those of different instances beside
// each other. What must not wait for a long piece of work (see urgent) goes beside it.
type orders struct {
	identity *Identity
	journal  *Journal
	spool    *Spool
	steps    Steps
	now      func() time.Time
	log      *slog.Logger

	root    context.Context // ends when the agent stops; orders in flight then stay in flight, in the journal
	all     sync.WaitGroup
	broken  chan error // the journal can no longer be trusted
	mu      sync.Mutex
	running map[string]*work // by order id
	tails   map[string]*work // the last of each instance's line
}

// work is one order being done.
type work struct {
	order  step.Order
	ctx    context.Context
	cancel context.CancelCauseFunc
	after  <-chan struct{} // closed when it is this order's turn
	done   chan struct{}

	mu    sync.Mutex
	last  step.Update // newest progress
	fresh bool        // last has not been written yet
}

// urgent tells whether an order goes beside whatever else runs for its instance. Fencing must not wait for a restore
// that it makes pointless, and a fault must end when it is told to.
func urgent(kind step.Kind) bool {
	switch kind {
	case step.Fence, step.Arm, step.Fire, step.Undo:
		return true
	case step.Stage, step.Boot, step.Ready, step.Checks, step.Switch, step.Stop, step.Discard, step.Backup, step.Fetch, step.Load, step.Prune, step.Survey:
		return false
	case step.Claim, step.Route, step.Release, step.Tell, step.Adopt:
		return false // never reach a node
	}
	return false
}

// take checks a delivered order, keeps what is to be kept, and starts it if it is to be done.
func (o *orders) take(ctx context.Context, signed step.Signed) error {
	now := o.now()
	order, opened := step.OpenOrder(o.identity.OrderKey, signed, o.identity.Node, now)
	if order.ID == "" {
		return o.refuseUnread(ctx, signed, opened)
	}
	v, err := o.journal.Take(ctx, order, opened, now)
	if err != nil {
		return fmt.Errorf("take order %s: %w", order.ID, err)
	}
	if v.refuse != nil {
		o.log.Warn("order refused", "order", order.ID, "reason", v.refuse)
	}
	if !v.take {
		knock(o.spool.ring)
		return nil
	}
	o.start(order, false)
	time.AfterFunc(tellTaken, func() { knock(o.spool.ring) })
	return nil
}

// refuseUnread tells of an order whose signature does not hold. What it says of itself is told and is not acted upon:
// the journal is not even asked about it.
func (o *orders) refuseUnread(ctx context.Context, signed step.Signed, why error) error {
	var claimed step.Order
	_ = json.Unmarshal(signed.Payload, &claimed) // unreadable: then nothing is known of it, which is what is told
	if why == nil {
		why = problem.New(problem.Invalid, "", "an order without an id was delivered")
	}
	o.log.Warn("order refused", "claims_to_be", claimed.ID, "reason", why)
	defer knock(o.spool.ring)
	return o.journal.Refuse(ctx, claimed, why, o.now())
}

// resume continues every order that was in flight when the agent ended.
func (o *orders) resume(ctx context.Context) error {
	inFlight, err := o.journal.InFlight(ctx)
	if err != nil {
		return err
	}
	for _, order := range inFlight {
		o.start(order, true)
	}
	return nil
}

func (o *orders) start(order step.Order, resumed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := &work{order: order, after: closedChannel(), done: make(chan struct{})}
	w.ctx, w.cancel = context.WithCancelCause(o.root)
	o.supersede(order)
	if lane := order.Step.Instance; lane != "" && !urgent(order.Step.Kind) {
		if before := o.tails[lane]; before != nil {
			w.after = before.done
		}
		o.tails[lane] = w
	}
	o.running[order.ID] = w
	o.all.Go(func() { o.run(w, resumed) })
}

// supersede ends earlier attempts of the same step: the server has given them up.
func (o *orders) supersede(order step.Order) {
	for _, w := range o.running {
		if w.order.Operation == order.Operation && w.order.StepID == order.StepID && w.order.Attempt < order.Attempt {
			w.cancel(errSuperseded)
		}
	}
}

func closedChannel() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// run waits for the order's turn, does it, and keeps its end. When the agent stops, nothing is kept: the order is
// still in flight.
func (o *orders) run(w *work, resumed bool) {
	defer o.leave(w)
	select {
	case <-w.after:
	case <-w.ctx.Done():
		o.finish(w, nil, w.ctx.Err())
		<-w.after // whoever is next waits for whoever was before
		return
	}
	result, err := o.perform(w, resumed)
	if err == nil && len(result) > 0 && !json.Valid(result) {
		err = problem.New(problem.Internal, "", "step %s of order %s was done, and its result cannot be told: it is no JSON", w.order.Step.Kind, w.order.ID)
	}
	o.finish(w, result, err)
}

func (o *orders) leave(w *work) {
	w.cancel(nil)
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.running, w.order.ID)
	if o.tails[w.order.Step.Instance] == w {
		delete(o.tails, w.order.Step.Instance)
	}
	close(w.done)
}

// perform does the step. One that was in flight when the agent ended is first asked whether it is already so.
func (o *orders) perform(w *work, resumed bool) (result json.RawMessage, err error) {
	defer func() {
		if broken := recover(); broken != nil {
			o.log.Error("step broke", "order", w.order.ID, "panic", broken, "stack", string(debug.Stack()))
			err = problem.New(problem.Internal, "", "step %s of order %s broke: %v", w.order.Step.Kind, w.order.ID, broken)
		}
	}()
	if resumed {
		result, done, err := o.steps.Done(w.ctx, w.order)
		if done && err == nil {
			return result, nil
		}
		if err != nil {
			o.log.Warn("cannot tell whether an order was done before the agent ended; doing it again", "order", w.order.ID, "error", err)
		}
	}
	stop := o.tellProgress(w)
	defer stop()
	return o.steps.Do(w.ctx, w.order, w.progress(o.now))
}

// progress notes how far a step is; tellProgress writes the newest note now and then.
func (w *work) progress(now func() time.Time) Progress {
	return func(note string, doneBytes, totalBytes int64) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.last = updateOf(w.order, step.Running, now())
		w.last.Note, w.last.DoneBytes, w.last.TotalBytes = note, doneBytes, totalBytes
		w.fresh = true
	}
}

func (w *work) takeProgress() (step.Update, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fresh := w.fresh
	w.fresh = false
	return w.last, fresh
}

// tellProgress writes progress until stop is called, which waits for the last write.
func (o *orders) tellProgress(w *work) (stop func()) {
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				o.writeProgress(w)
			case <-over:
				return
			}
		}
	}()
	return func() { close(over); <-ended }
}

func (o *orders) writeProgress(w *work) {
	update, fresh := w.takeProgress()
	if !fresh {
		return
	}
	if err := o.journal.Progress(w.ctx, update); err != nil {
		o.log.Warn("progress was not kept", "order", w.order.ID, "error", err) // the end of the order will tell
		return
	}
	knock(o.spool.ring)
}

// finishRetry is how long to wait before the end of an order is written again, such as while the disk is full.
const finishRetry = time.Second

// finish keeps the order's end, however often it takes. It gives up only when the agent stops, or when the journal
// must not be written again; the order then stays in flight, and what it did is found by asking.
func (o *orders) finish(w *work, result json.RawMessage, err error) {
	if err != nil && o.root.Err() != nil && !given(w) {
		return
	}
	last := o.lastWord(w, result, err)
	o.log.Info("order ended", "order", last.OrderID, "kind", w.order.Step.Kind, "instance", w.order.Step.Instance, "state", last.State, "why", last.Error)
	for {
		err := o.journal.Finish(o.root, last)
		if err == nil {
			knock(o.spool.ring)
			o.spool.Changed()
			return
		}
		o.log.Error("the end of an order was not kept; trying again", "order", w.order.ID, "error", err)
		if Broken(err) {
			o.giveUp(err)
			return
		}
		rest(o.root, finishRetry)
		if o.root.Err() != nil {
			return
		}
	}
}

// given tells whether the order was ended on purpose.
func given(w *work) bool {
	cause := context.Cause(w.ctx)
	return errors.Is(cause, errCancelled) || errors.Is(cause, errSuperseded)
}

func (o *orders) lastWord(w *work, result json.RawMessage, err error) step.Update {
	last := ended(w.order, result, err, o.now())
	if err != nil && given(w) {
		last.State, last.Error, last.ErrorKind, last.Retryable = step.Cancelled, context.Cause(w.ctx).Error(), "", false
	}
	return last
}

func (o *orders) giveUp(err error) {
	select {
	case o.broken <- err:
	default: // somebody has said so already
	}
}

// stop ends an order if it runs; one that has not come yet will not be done when it comes.
func (o *orders) stop(ctx context.Context, id string) error {
	o.mu.Lock()
	w := o.running[id]
	o.mu.Unlock()
	if w != nil {
		w.cancel(errCancelled)
		return nil
	}
	cancelled := step.Update{OrderID: id, State: step.Cancelled, Error: errCancelled.Error(), At: o.now()}
	if _, err := o.journal.Forbid(ctx, cancelled); err != nil {
		return fmt.Errorf("cancel order %s: %w", id, err)
	}
	return nil
}
