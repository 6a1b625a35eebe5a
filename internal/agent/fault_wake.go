package agent

import (
	"context"
	"os"
	"syscall"
	"time"
)

// A node that was paused does not know what happened meanwhile: somebody else may hold its instances by now. So the
// pause ends in two steps. First the agent is awake and asks; what was given away is ended as it lies, still paused,
// and never takes another write. Only then is the rest let go on. Where nobody can be asked, nothing goes on: the
// stacks end as in a loss of power, and start when the server says that they may.
//
// Agent and keeper speak by files beside the fault's: wakingEnd is the keeper's word that the agent is to ask, heardEnd is
// the agent's word that what may go on may.
const (
	wakingEnd = ".waking"
	heardEnd  = ".heard"
)

const (
	askWithin  = 10 * time.Second // the agent's patience with the server
	wordWithin = time.Minute      // the keeper's with an agent at work: it may have to end stacks that do not end by themselves
	goneAfter  = 3 * time.Second  // without any agent at work the keeper waits no longer than this
)

// wake ends a pause, and says what is still paused after it.
func (f Fault) wake(ctx context.Context, path string) (residue string, err error) {
	if err := os.WriteFile(path+wakingEnd, nil, 0o600); err != nil {
		return "", err
	}
	f.signalAgent(syscall.SIGCONT)
	goOn := syscall.SIGKILL
	if f.awaitWord(ctx, path) {
		goOn = syscall.SIGCONT
	}
	f.Woken = time.Now()
	if err := writeJSON(path, f); err != nil {
		return "", err
	}
	for range 50 {
		signalAll(f.mark(), goOn)
		if residue = stoppedOf(f.mark()); residue == "" {
			return "", nil
		}
		pause(ctx, keeperStep)
	}
	return residue, nil
}

// awaitWord waits until an agent has said that what may go on may.
func (f Fault) awaitWord(ctx context.Context, path string) bool {
	begun := time.Now()
	worked := begun // an agent was last seen at work
	for now := begun; now.Sub(begun) < wordWithin && now.Sub(worked) < goneAfter; now = time.Now() {
		if _, err := os.Stat(path + heardEnd); err == nil {
			return true
		}
		if f.agentWorks() {
			worked = now
		}
		if !pause(ctx, keeperStep) {
			return false
		}
	}
	return false
}

// agentWorks tells whether an agent is at work on the node's directory: the one that fired, or one started since.
func (f Fault) agentWorks() bool {
	lock, err := tryLockData(f.Data)
	if err != nil {
		return true
	}
	_ = lock.Close() // nothing was written to it
	return false
}

// wakeEvery is how often the agent looks whether a pause is ending.
const wakeEvery = 200 * time.Millisecond

// wakeLoop answers keepers that end a pause.
func (s *Stack) wakeLoop(ctx context.Context) error {
	for {
		for _, path := range s.faultFiles() {
			_, asked := os.Stat(path + wakingEnd)
			_, answered := os.Stat(path + heardEnd)
			if asked == nil && os.IsNotExist(answered) {
				s.wakeFrom(ctx, path)
			}
		}
		if !pause(ctx, wakeEvery) {
			return nil
		}
	}
}

// wakeFrom asks the server who serves what, and carries that out. Without an answer everything that serves is ended
// and waits, as after a start of the node.
func (s *Stack) wakeFrom(ctx context.Context, path string) {
	s.each(func(inst *instance) { inst.stale() })
	if err := s.ask(ctx); err != nil && ctx.Err() == nil {
		s.cfg.Log.Warn("the server could not be asked after a pause; nothing serves until it says so", "error", err)
		s.each(func(inst *instance) {
			if err := inst.lieDown(ctx); err != nil {
				s.cfg.Log.Error("end what was paused", "instance", inst.name, "error", err)
			}
		})
	}
	if ctx.Err() != nil {
		return
	}
	if err := os.WriteFile(path+heardEnd, nil, 0o600); err != nil {
		s.cfg.Log.Error("say that the pause may end", "error", err)
	}
}

func (s *Stack) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	return s.cfg.Ask(ctx)
}

// stale forgets that the server has spoken.
func (i *instance) stale() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fresh = false
}

// lieDown ends the active slot where it lies. It serves again when the server has spoken.
func (i *instance) lieDown(ctx context.Context) error {
	rec := i.now()
	if !rec.Serving {
		return nil
	}
	release, err := i.seize(ctx)
	if err != nil {
		return err
	}
	defer release()
	at, paused := i.stack.pausedSince()
	if err := i.down(ctx, rec.Slot); err != nil {
		return err
	}
	if !paused {
		at = i.stack.cfg.Now()
	}
	return i.endServing("paused, and the server could not be asked whether it may go on", at)
}
