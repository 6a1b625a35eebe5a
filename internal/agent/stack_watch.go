package agent

import (
	"context"
	"math"
	"slices"
	"time"

	"holdfast/internal/fleet"
)

// sickAfter is how many liveness answers in a row must fail before a service is started again.
const sickAfter = 3

// watchLoop looks at every stack, starts what should run and does not, and restarts services that are not alive.
func (s *Stack) watchLoop(ctx context.Context) error {
	ticker := time.NewTicker(s.cfg.Watch)
	defer ticker.Stop()
	for {
		s.resumeFaults()
		if _, paused := s.pausedSince(); !paused { // what is paused is neither sick nor to be started
			s.each(func(inst *instance) { inst.watch(ctx) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.ring:
		case <-ticker.C:
		}
	}
}

// watch looks at the slots of one instance that are due.
func (i *instance) watch(ctx context.Context) {
	rec := i.now()
	if !i.settled(rec) {
		if err := i.hear(ctx, rec.Lease); err != nil && ctx.Err() == nil {
			i.stack.cfg.Log.Error("stop what may not run here", "instance", i.name, "error", err)
		}
		return
	}
	for _, slot := range i.slots() {
		if !i.due(slot) {
			continue
		}
		if _, err := i.observe(ctx, slot); err != nil && ctx.Err() == nil {
			i.stack.cfg.Log.Debug("look at slot", "instance", i.name, "slot", slot, "error", err)
		}
	}
	if i.shouldStart(rec) {
		i.start(ctx, rec)
		return
	}
	if rec.Serving {
		i.alive(ctx, rec.Slot)
	}
}

// due tells whether a slot is to be looked at again: soon while it is not well, five times more rarely once it is.
func (i *instance) due(slot string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	last, ok := i.seen[slot]
	if !ok {
		return false
	}
	if last.ready() {
		return i.stack.cfg.Now().Sub(last.at) >= 5*i.stack.cfg.Watch
	}
	return true
}

// shouldStart tells whether the active slot is to run and some service of it does not. Without a word of the server since
// this agent started nothing is started: another node may hold the instance by now.
func (i *instance) shouldStart(rec record) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := i.stack.cfg.Now()
	return i.fresh && rec.mayServe(i.stack.cfg.Node) && rec.Lease.Node == i.stack.cfg.Node &&
		(!i.seen[rec.Slot].complete() || !rec.Serving) && !now.Before(i.nextTry) && !i.stack.held()
}

// start brings the active slot up again. It is skipped while a step changes the instance.
func (i *instance) start(ctx context.Context, rec record) {
	held, release, ok := i.holdBehind(ctx)
	if !ok {
		return
	}
	defer release()
	if again := i.now(); !again.mayServe(i.stack.cfg.Node) || again.Slot != rec.Slot {
		return
	}
	if err := i.bring(held, rec.Slot); err != nil {
		i.stack.cfg.Log.Warn("start stack", "instance", i.name, "error", err)
		i.mu.Lock()
		i.tries++
		i.nextTry = i.stack.cfg.Now().Add(backoffOf(i.tries))
		i.mu.Unlock()
		return
	}
	i.mu.Lock()
	i.tries, i.nextTry = 0, i.stack.cfg.Now().Add(5*i.stack.cfg.Watch)
	i.mu.Unlock()
}

// bring starts the active slot; the account of serving begins before the first process does.
func (i *instance) bring(ctx context.Context, slot string) error {
	spec, ok, err := i.readSpec(slot)
	if err != nil || !ok {
		return err
	}
	if _, err := i.stack.ports.give(spec, slot, func(service string) bool { return i.serviceRuns(slot, service) }); err != nil {
		return err
	}
	ready, choice, err := i.resolved(slot)
	if err != nil {
		return err
	}
	i.resumeCanary()
	if err := i.change(func(r record) record { return r.begins(i.name, i.stack.cfg.Now()) }); err != nil {
		return err
	}
	upErr := choice.Engine.Up(ctx, ready)
	if rec := i.now(); !rec.mayServe(i.stack.cfg.Node) { // fenced meanwhile
		return firstOf(choice.Engine.Down(context.WithoutCancel(ctx), ready), upErr)
	}
	_, err = i.observe(context.WithoutCancel(ctx), slot)
	return firstOf(upErr, err)
}

func backoffOf(tries int) time.Duration {
	return min(time.Minute, time.Duration(float64(time.Second)*math.Pow(2, float64(min(tries, 8)))))
}

// alive asks the liveness of every service that runs, and starts one again that failed three times in a row.
func (i *instance) alive(ctx context.Context, name string) {
	due := i.dueLiveness(name)
	if len(due) == 0 {
		return
	}
	slot, choice, err := i.resolved(name)
	if err != nil {
		return
	}
	for _, service := range slot.Wanted(due) {
		if i.counts(service.Name, i.askAll(ctx, slot, choice, service)) < sickAfter {
			continue
		}
		i.heal(ctx, slot, choice, service)
	}
}

// dueLiveness names the running services that are to be asked again, and notes that they are.
func (i *instance) dueLiveness(slot string) []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := i.stack.cfg.Now()
	var due []string
	for _, service := range i.seen[slot].spec.Services {
		runs := slices.ContainsFunc(i.seen[slot].services, func(f fleet.ServiceFacts) bool { return f.Name == service.Name && f.Running > 0 })
		if service.Liveness != nil && runs && now.Sub(i.asked[service.Name]) >= max(service.Liveness.Interval, i.stack.cfg.Watch) {
			i.asked[service.Name] = now
			due = append(due, service.Name)
		}
	}
	return due
}

func (i *instance) askAll(ctx context.Context, slot Slot, choice EngineChoice, service fleet.Service) error {
	for n := 1; n <= max(1, service.Replicas); n++ {
		if err := slot.Ask(ctx, choice.Engine.Run, i.stack.cfg.Address, service, n, service.Liveness); err != nil {
			return err
		}
	}
	return nil
}

func (i *instance) counts(service string, err error) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err == nil {
		i.sick[service] = 0
	} else {
		i.sick[service]++
	}
	return i.sick[service]
}

func (i *instance) heal(ctx context.Context, slot Slot, choice EngineChoice, service fleet.Service) {
	held, release, ok := i.holdBehind(ctx)
	if !ok {
		return
	}
	defer release()
	if rec := i.now(); !rec.mayServe(i.stack.cfg.Node) || rec.Slot != slot.Name {
		return // the step that held the instance has taken the slot out of service
	}
	i.stack.cfg.Log.Warn("service is not alive, started again", "instance", i.name, "service", service.Name)
	err := firstOf(choice.Engine.Down(held, slot, service.Name), choice.Engine.Up(held, slot, service.Name))
	if err != nil {
		i.stack.cfg.Log.Warn("start service again", "instance", i.name, "service", service.Name, "error", err)
	}
	i.counts(service.Name, nil)
}
