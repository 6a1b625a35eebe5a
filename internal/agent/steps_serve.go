package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"holdfast/internal/fleet"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// checks asks every service and every invariant of the data. What failed is in the result and in the error.
func (i *instance) checks(ctx context.Context, args step.SlotArgs, progress Progress) (step.ChecksResult, error) {
	var result step.ChecksResult
	if err := i.checkSlot(args.Slot); err != nil {
		return result, err
	}
	look, err := i.observe(ctx, args.Slot)
	if err != nil {
		return result, err
	}
	slot, choice, err := i.resolved(args.Slot)
	if err != nil {
		return result, err
	}
	note := func(name string, err error) {
		result.Required++
		if err == nil {
			result.Passed++
		} else {
			result.Failures = append(result.Failures, name+": "+err.Error())
		}
		progress(fmt.Sprintf("%d checks passed, %d failed", result.Passed, len(result.Failures)), 0, 0)
	}
	for _, service := range look.services {
		note("service "+service.Name, readiness(service))
	}
	for _, invariant := range slot.Spec.Invariants {
		note("invariant "+invariant.Name, i.holds(ctx, slot, choice, invariant))
	}
	result.CanarySeq = i.commonCanary(args.Slot).Sequence
	if len(result.Failures) == 0 {
		return result, nil
	}
	return result, problem.New(problem.Conflict, "what served before still does; look at slot "+args.Slot+", then discard it",
		"instance %s: %d of %d checks failed in slot %s: %s", i.name, len(result.Failures), result.Required, args.Slot, strings.Join(result.Failures, "; "))
}

func readiness(service fleet.ServiceFacts) error {
	if service.Ready {
		return nil
	}
	return fmt.Errorf("%d of %d replicas run, not ready: %s", service.Running, service.Wanted, service.Note)
}

// holds asks one invariant.
func (i *instance) holds(ctx context.Context, slot Slot, choice EngineChoice, invariant fleet.Invariant) error {
	answer, err := i.askInvariant(ctx, slot, choice, invariant)
	if err != nil {
		return err
	}
	if !strings.Contains(answer, invariant.Expect) {
		return fmt.Errorf("the answer does not contain %q, it begins with %q", invariant.Expect, answer[:min(len(answer), 80)])
	}
	return nil
}

func (i *instance) askInvariant(ctx context.Context, slot Slot, choice EngineChoice, invariant fleet.Invariant) (string, error) {
	if invariant.HTTP == "" {
		return i.run(ctx, slot, choice, invariant.Command)
	}
	service, ok := slot.Service(invariant.Service)
	if !ok {
		return "", fmt.Errorf("there is no service %s to ask", invariant.Service)
	}
	port, err := slot.probePort(service, 1, &fleet.Probe{})
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*probeTimeout)
	defer cancel()
	return getHTTP(ctx, "http://"+net.JoinHostPort(i.stack.cfg.Address, strconv.Itoa(port))+invariant.HTTP, nil)
}

// switchTo makes a slot the active one. What was active stops first, so that there is never a second writer.
func (i *instance) switchTo(ctx context.Context, order step.Order, args step.SwitchArgs) error {
	if err := i.maySwitch(order, args); err != nil {
		return err
	}
	ctx, release, err := i.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	if i.switched(args) {
		return nil
	}
	if err := i.runsAgain(ctx, args.Slot); err != nil {
		return err
	}
	if err := i.leave(ctx, args.Slot); err != nil {
		return err
	}
	i.stack.cfg.Point("switch/left")
	if err := i.still(order); err != nil {
		return err
	}
	return i.enter(args)
}

// runsAgain starts a slot that was booted and has ended since, as after a power loss.
func (i *instance) runsAgain(ctx context.Context, name string) error {
	look, err := i.observe(ctx, name)
	if err != nil || look.running() > 0 {
		return err
	}
	if i.marked(name, markFetching) || i.marked(name, markUnloaded) {
		return problem.New(problem.Conflict, "order fetch and load of the slot again, or discard it",
			"instance %s: not switched to slot %s: it holds a restore that did not finish", i.name, name)
	}
	slot, choice, err := i.resolved(name)
	if err != nil {
		return err
	}
	if err := choice.Engine.Up(ctx, slot); err != nil {
		return err
	}
	return i.awaitReady(ctx, name, 0, func(string, int64, int64) {})
}

func (i *instance) maySwitch(order step.Order, args step.SwitchArgs) error {
	if err := i.checkSlot(args.Slot); err != nil {
		return err
	}
	if args.Epoch != order.Epoch {
		return problem.New(problem.Invalid, "", "instance %s: switch to epoch %d was ordered at epoch %d", i.name, args.Epoch, order.Epoch)
	}
	if i.marked(args.Slot, markNeutral) {
		return problem.New(problem.Denied, "", "instance %s: slot %s is a rehearsal copy and never serves", i.name, args.Slot)
	}
	return i.admit(order, true)
}

// leave stops what was active, when that is another slot.
func (i *instance) leave(ctx context.Context, next string) error {
	rec := i.now()
	if rec.Slot == "" || rec.Slot == next {
		return nil
	}
	if err := i.down(ctx, rec.Slot); err != nil {
		return err
	}
	return i.endServing("slot "+next+" takes over", i.stack.cfg.Now())
}

func (i *instance) enter(args step.SwitchArgs) error {
	i.setSequence(args.Slot)
	if err := i.setMark(args.Slot, markBeside, false); err != nil {
		return err
	}
	return i.change(func(r record) record {
		if r.Serving && r.Epoch != args.Epoch { // the same slot goes on under a newer epoch
			r = r.ends(i.name, "goes on under a newer epoch", i.stack.cfg.Now())
		}
		return r.switches(args.Slot, args.Epoch, i.stack.cfg.Node).begins(i.name, i.stack.cfg.Now())
	})
}

func (i *instance) switched(args step.SwitchArgs) bool {
	rec := i.now()
	return rec.Slot == args.Slot && rec.Epoch == args.Epoch && !rec.Fenced && rec.Stopped == notStopped && rec.Serving
}

// stop ends every slot and keeps the data.
func (i *instance) stop(ctx context.Context, order step.Order, args step.StopArgs) error {
	if err := i.admit(order, false); err != nil {
		return err
	}
	if err := i.change(func(r record) record {
		r.Stopped, r.Why = stoppedOnce, args.Why
		if args.Retire {
			r.Stopped = stoppedLong
		}
		return r
	}); err != nil {
		return err
	}
	release, err := i.seize(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := i.downThose(ctx, i.slots()); err != nil {
		return err
	}
	i.stack.cfg.Point("stop/down")
	return i.endServing("stopped: "+args.Why, i.stack.cfg.Now())
}

func (i *instance) stopped(args step.StopArgs) bool {
	rec := i.now()
	for _, slot := range i.slots() {
		if i.runs(slot) {
			return false
		}
	}
	return !rec.Serving && (rec.Stopped == stoppedLong || rec.Stopped == stoppedOnce && !args.Retire)
}

// discard removes a slot that is not active and never was.
func (i *instance) discard(ctx context.Context, args step.SlotArgs) error {
	if err := i.checkSlot(args.Slot); err != nil {
		return err
	}
	ctx, release, err := i.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	rec := i.now()
	if args.Slot == rec.Slot || slices.Contains(rec.Past, args.Slot) {
		return problem.New(problem.Denied, "its data is only removed by an erasure that was approved",
			"instance %s: slot %s not discarded: it serves or has served", i.name, args.Slot)
	}
	if err := i.down(ctx, args.Slot); err != nil {
		return err
	}
	return i.removeSlot(args.Slot)
}

// removeSlot takes a slot out of sight in one piece, then removes it.
func (i *instance) removeSlot(slot string) error {
	gone := filepath.Join(i.dir, "slots", ".gone-"+slot)
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("instance %s: remove slot %s: %w", i.name, slot, err)
	}
	if err := os.Rename(i.slotDir(slot), gone); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("instance %s: remove slot %s: %w", i.name, slot, err)
	}
	i.stack.cfg.Point("discard/renamed")
	i.mu.Lock()
	delete(i.seen, slot)
	i.mu.Unlock()
	if err := i.stack.ports.forget(i.name, slot); err != nil {
		return err
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("instance %s: remove slot %s: %w", i.name, slot, err)
	}
	return nil
}
