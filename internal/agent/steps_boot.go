package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// stage tells whether this node can run the spec: artefacts or images, memory, disk. It stops nothing.
func (i *instance) stage(ctx context.Context, args step.StageArgs) error {
	if err := i.checkSpec(args.Spec); err != nil {
		return err
	}
	if err := i.fits(args.Spec, i.now().Slot, 0); err != nil {
		return err
	}
	choice, err := i.stack.choose(args.Spec)
	if err != nil {
		return err
	}
	return choice.Engine.Check(ctx, args.Spec)
}

func (i *instance) checkSpec(spec fleet.Spec) error {
	if spec.Instance != i.name {
		return problem.New(problem.Invalid, "", "order for instance %s brings the spec of %s", i.name, spec.Instance)
	}
	if err := checkNames(i.name, spec); err != nil {
		return problem.Wrap(err, problem.Invalid, "holdfast validate", "spec of instance %s not taken", i.name)
	}
	return nil
}

// boot brings the services of a slot to the spec.
func (i *instance) boot(ctx context.Context, order step.Order, args step.BootArgs, progress Progress) error {
	if err := i.mayBoot(order, args); err != nil {
		return err
	}
	ctx, release, err := i.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	slot, choice, err := i.prepare(ctx, args)
	if err != nil {
		return err
	}
	if err := i.callBack(order.Epoch, args.Slot); err != nil {
		return err
	}
	if err := i.calm(ctx, slot, choice, args, progress); err != nil {
		return err
	}
	if err := i.up(ctx, order, args, slot, choice, progress); err != nil {
		return err
	}
	if args.Restored {
		if err := i.afterRestore(ctx, slot, choice, progress); err != nil {
			return err
		}
	}
	return i.activeAgain(args.Slot)
}

// callBack lets the active slot of a fenced instance run again where this node holds the instance under the order's
// epoch: a claim elsewhere that could not be switched to gives the writer back.
func (i *instance) callBack(epoch int64, slot string) error {
	rec := i.now()
	if !rec.Fenced || rec.Slot != slot || rec.Lease.Epoch != epoch || rec.Lease.Node != i.stack.cfg.Node {
		return nil
	}
	return i.change(func(r record) record { r.Called = epoch; return r })
}

func (i *instance) mayBoot(order step.Order, args step.BootArgs) error {
	if err := i.checkSlot(args.Slot); err != nil {
		return err
	}
	if err := i.checkSpec(args.Spec); err != nil {
		return err
	}
	if i.marked(args.Slot, markFetching) || i.marked(args.Slot, markUnloaded) {
		return problem.New(problem.Conflict, "order fetch and load of the slot again, or discard it",
			"instance %s: slot %s not booted: it holds a restore that did not finish", i.name, args.Slot)
	}
	if args.Neutralise && args.Slot == i.now().Slot {
		return problem.New(problem.Denied, "", "instance %s: slot %s serves and is not made a rehearsal copy", i.name, args.Slot)
	}
	if !args.Neutralise && i.marked(args.Slot, markCalm) {
		return problem.New(problem.Denied, "fetch the snapshot into another slot",
			"instance %s: slot %s is a rehearsal copy and is not booted to serve", i.name, args.Slot)
	}
	return i.admit(order, !args.Neutralise && !args.Beside)
}

// prepare writes down all that the slot needs to run; until Up, nothing of it has an effect.
func (i *instance) prepare(ctx context.Context, args step.BootArgs) (Slot, EngineChoice, error) {
	choice, err := i.stack.choose(args.Spec)
	if err != nil {
		return Slot{}, choice, err
	}
	if err := choice.Engine.Check(ctx, args.Spec); err != nil {
		return Slot{}, choice, err
	}
	if err := i.fits(args.Spec, args.Slot, 0); err != nil {
		return Slot{}, choice, err
	}
	if err := i.makeSlot(args.Slot, args.Spec); err != nil {
		return Slot{}, choice, err
	}
	i.stack.cfg.Point("boot/made")
	if err := firstOf(i.setMark(args.Slot, markBeside, args.Beside), i.setMark(args.Slot, markNeutral, args.Neutralise)); err != nil {
		return Slot{}, choice, err
	}
	if err := i.takeSecrets(args.Slot, args.Spec, args.Secrets, args.Restored); err != nil {
		return Slot{}, choice, err
	}
	i.stack.cfg.Point("boot/secrets")
	ports, err := i.stack.ports.give(args.Spec, args.Slot, func(service string) bool { return i.serviceRuns(args.Slot, service) })
	if err != nil {
		return Slot{}, choice, err
	}
	i.stack.cfg.Point("boot/ports")
	slot, err := i.resolve(args.Slot, args.Spec, choice, ports)
	if err != nil {
		return Slot{}, choice, err
	}
	err = i.writeSpec(args.Slot, args.Spec)
	i.stack.cfg.Point("boot/spec")
	return slot, choice, err
}

// setMark makes a mark of a slot be there, or not.
func (i *instance) setMark(slot, mark string, wanted bool) error {
	if wanted == i.marked(slot, mark) {
		return nil
	}
	if wanted {
		return i.mark(slot, mark)
	}
	return i.unmark(slot, mark)
}

func (i *instance) serviceRuns(slot, service string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.ContainsFunc(i.seen[slot].services, func(f fleet.ServiceFacts) bool { return f.Name == service && f.Running > 0 })
}

// calm makes a rehearsal copy harmless before anything in it may act: what holds data starts, the hook runs, and
// only then the rest may.
func (i *instance) calm(ctx context.Context, slot Slot, choice EngineChoice, args step.BootArgs, progress Progress) error {
	hook, ok := slot.Spec.Hooks["neutralise"]
	if !args.Neutralise || !ok || i.marked(slot.Name, markCalm) {
		return nil
	}
	progress("neutralise", 0, 0)
	quiet := i.quiet(slot)
	if len(quiet) > 0 {
		if err := choice.Engine.Up(ctx, slot, quiet...); err != nil {
			return err
		}
	}
	for _, name := range quiet {
		service, _ := slot.Service(name)
		if err := slot.AwaitReady(ctx, choice.Engine.Run, i.stack.cfg.Address, service); err != nil {
			return err
		}
	}
	if _, err := i.run(ctx, slot, choice, hook); err != nil {
		return problem.Wrap(err, problem.Unavailable, "look at the hook neutralise of the product",
			"instance %s: rehearsal copy in slot %s not started, as it could not be made harmless", i.name, slot.Name)
	}
	return i.mark(slot.Name, markCalm)
}

// quiet names the services that hold state and write nothing on their own.
func (i *instance) quiet(slot Slot) []string {
	var names []string
	for _, service := range slot.Spec.Services {
		holds := slices.ContainsFunc(slot.Spec.State, func(s fleet.State) bool { return s.Service == service.Name })
		if holds && !service.Writes {
			names = append(names, service.Name)
		}
	}
	return names
}

func (i *instance) up(ctx context.Context, order step.Order, args step.BootArgs, slot Slot, choice EngineChoice, progress Progress) error {
	progress(fmt.Sprintf("start %d services", len(slot.Spec.Services)), 0, 0)
	upErr := choice.Engine.Up(ctx, slot)
	i.stack.cfg.Point("boot/up")
	if args.Neutralise || args.Beside {
		_, err := i.observe(context.WithoutCancel(ctx), slot.Name)
		return firstOf(upErr, err)
	}
	if err := i.still(order); err != nil { // fenced meanwhile: what was just started ends again
		return firstOf(choice.Engine.Down(context.WithoutCancel(ctx), slot), err)
	}
	_, err := i.observe(context.WithoutCancel(ctx), slot.Name)
	return firstOf(upErr, err)
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// afterRestore runs the product's hook once in the life of a slot, when all of it is ready.
func (i *instance) afterRestore(ctx context.Context, slot Slot, choice EngineChoice, progress Progress) error {
	hook, ok := slot.Spec.Hooks["after_restore"]
	if !ok || i.marked(slot.Name, markHooked) {
		return nil
	}
	progress("after_restore", 0, 0)
	if err := i.awaitReady(ctx, slot.Name, 0, progress); err != nil {
		return err
	}
	if _, err := i.run(ctx, slot, choice, hook); err != nil {
		return problem.Wrap(err, problem.Unavailable, "look at the hook after_restore of the product",
			"instance %s: hook after_restore did not succeed in slot %s", i.name, slot.Name)
	}
	return i.mark(slot.Name, markHooked)
}

// activeAgain puts an active slot that was stopped on order back into service.
func (i *instance) activeAgain(slot string) error {
	rec := i.now()
	if rec.Slot != slot || rec.Fenced || (rec.Serving && rec.Stopped == notStopped) {
		return nil
	}
	i.resumeCanary()
	return i.change(func(r record) record {
		r.Stopped, r.Why = notStopped, ""
		return r.begins(i.name, i.stack.cfg.Now())
	})
}

// ready waits until every service of a slot is ready.
func (i *instance) ready(ctx context.Context, args step.SlotArgs, progress Progress) error {
	if err := i.checkSlot(args.Slot); err != nil {
		return err
	}
	return i.awaitReady(ctx, args.Slot, args.Within, progress)
}

func (i *instance) awaitReady(ctx context.Context, slot string, within time.Duration, progress Progress) error {
	first, err := i.observe(ctx, slot)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, or(within, longest(first.spec)))
	defer cancel()
	look := first
	for wait := 25 * time.Millisecond; !look.ready(); wait = min(wait*3/2, probeInterval) {
		progress(readyWords(look), 0, 0)
		if !pause(ctx, wait) {
			return problem.New(problem.Unavailable, "read "+i.slotDir(slot)+"/logs on node "+i.stack.cfg.Node,
				"instance %s: slot %s is not ready: %s", i.name, slot, readyWords(look))
		}
		next, err := i.observe(ctx, slot)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err == nil {
			look = next
		}
	}
	return nil
}

// longest is how long the slowest start of the spec may take.
func longest(spec fleet.Spec) time.Duration {
	longest := probeWithin
	for _, service := range spec.Services {
		if service.Readiness != nil {
			longest = max(longest, service.Readiness.Within)
		}
	}
	return longest
}

func readyWords(look seen) string {
	ready := 0
	var waiting []string
	for _, service := range look.services {
		if service.Ready {
			ready++
			continue
		}
		waiting = append(waiting, strings.TrimSuffix(fmt.Sprintf("%s (%s", service.Name, service.Note), " (")+closing(service.Note))
	}
	return fmt.Sprintf("%d of %d services ready, waiting for %s", ready, len(look.services), strings.Join(waiting, ", "))
}

func closing(note string) string {
	if note == "" {
		return ""
	}
	return ")"
}
