package vault

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Kinds of work that exclude their like. A prune and a backup may run beside each other.
const (
	lockBackup = "backup"
	lockPrune  = "prune"
)

// A lock is a lease: it ends lockLife after its owner last renewed it, by the clock of the
// store. On the owner's machine it ends at once with the process, and in the owner's process with its work.
const lockLife = 2 * time.Minute

// heldHere names the locks that this process holds or is about to write. A lock that names this process and is not among
// them was left behind: its store went away before it could be deleted. That a process holds it is a fact of the process,
// as its number is, whichever repository value it was taken by.
var heldHere sync.Map //nolint:gochecknoglobals // as said

// lockNote is what a lock object says about its owner.
type lockNote struct {
	Kind    string    `json:"kind"`
	Began   time.Time `json:"began"`
	Node    string    `json:"node"`
	Boot    string    `json:"boot"` // which start of which machine, and which space of process numbers
	PID     int       `json:"pid"`
	Started string    `json:"started"` // of the process, in clock ticks since boot
}

// lock is a lease that is held.
type lock struct {
	store Store
	note  lockNote
	stop  context.CancelFunc
	done  sync.WaitGroup

	mu      sync.Mutex // guards what follows
	name    string
	renewed time.Time
}

// acquire takes a lock, waiting up to wait for another owner. The error is then ErrLocked.
//
// Who finds another lock beside his own steps back and tries again: of two that come at once
// the second to list sees the first, so that never both go on.
func acquire(ctx context.Context, s Store, kind string, wait time.Duration) (*lock, error) {
	l := &lock{store: s, note: thisProcess(kind)}
	end := time.Now().Add(wait)
	for {
		if err := l.put(ctx); err != nil {
			return nil, fmt.Errorf("lock repository: %w", err)
		}
		other, err := otherLock(ctx, s, l.name, kind)
		if err == nil && other == nil {
			l.start(ctx)
			return l, nil
		}
		if err := errors.Join(err, l.drop(context.WithoutCancel(ctx), l.name)); err != nil {
			return nil, fmt.Errorf("lock repository: %w", err)
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("lock repository: %w: a %s of process %d on %s is at work since %s",
				ErrLocked, other.Kind, other.PID, other.Node, other.Began.Local().Format(time.DateTime))
		}
		if err := pause(ctx, time.Duration(50+mrand.IntN(200))*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (l *lock) put(ctx context.Context) error {
	body, err := json.Marshal(l.note)
	if err != nil {
		return err
	}
	name := lockFolder + "/" + rand.Text() + ".json"
	heldHere.Store(name, true) // before it can be read
	if err := l.store.Put(ctx, name, body); err != nil {
		heldHere.Delete(name)
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.name, l.renewed = name, time.Now()
	return nil
}

// start renews the lease until release.
func (l *lock) start(ctx context.Context) {
	ctx, l.stop = context.WithCancel(context.WithoutCancel(ctx))
	l.done.Go(func() {
		for pause(ctx, lockLife/4) == nil {
			old := l.name
			if l.put(ctx) == nil {
				// An old lease that stays ends by itself.
				_ = l.drop(ctx, old)
			}
		}
	})
}

// held tells whether the lease is surely still ours.
func (l *lock) held() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if age := time.Since(l.renewed); age > lockLife*3/4 {
		return fmt.Errorf("keep lock: %w: it could not be renewed for %s, another one may have begun", ErrLocked, age.Round(time.Second))
	}
	return nil
}

// drop deletes a lock object; one that stays is known here not to be held.
func (l *lock) drop(ctx context.Context, name string) error {
	heldHere.Delete(name)
	return l.store.Delete(ctx, name)
}

// release gives the lock back. A lock that cannot be removed ends by itself.
func (l *lock) release(ctx context.Context) {
	l.stop()
	l.done.Wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_ = l.drop(ctx, l.name)
}

// otherLock finds a living lock of this kind that is not mine.
func otherLock(ctx context.Context, s Store, mine, kind string) (*lockNote, error) {
	living, err := livingLocks(ctx, s, mine)
	if err != nil {
		return nil, err
	}
	for _, n := range living {
		if n.Kind == kind {
			return &n, nil
		}
	}
	return nil, nil
}

// livingLocks gives the notes of all locks but mine whose lease runs; the store's own clock
// decides, read off mine, the newest lock.
func livingLocks(ctx context.Context, s Store, mine string) ([]lockNote, error) {
	all, err := s.List(ctx, lockFolder)
	if err != nil {
		return nil, err
	}
	now := storeNow(all, mine)
	var out []lockNote
	for _, o := range all {
		if o.Name == mine {
			continue
		}
		note, err := readLock(ctx, s, o)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if note.dead(o.Name, thisProcess(note.Kind)) || now.Sub(o.Time) > lockLife {
			_ = s.Delete(ctx, o.Name) // whoever comes next tries again
			continue
		}
		out = append(out, note)
	}
	return out, nil
}

func storeNow(all []Object, mine string) time.Time {
	now := time.Time{}
	for _, o := range all {
		if o.Time.After(now) || o.Name == mine {
			now = o.Time
		}
		if o.Name == mine {
			return now
		}
	}
	return now
}

func readLock(ctx context.Context, s Store, o Object) (lockNote, error) {
	body, err := read(ctx, s, o.Name)
	if err != nil {
		return lockNote{}, err
	}
	var n lockNote
	if json.Unmarshal(body, &n) != nil {
		n.Kind = "unreadable lock " + o.Name // nobody's: it ends by its lease
	}
	return n, nil
}

// thisProcess describes the caller.
func thisProcess(kind string) lockNote {
	node, _ := os.Hostname() // only for people to read
	pid := os.Getpid()
	return lockNote{Kind: kind, Began: time.Now().UTC(), Node: node, Boot: bootName(), PID: pid, Started: startOf(pid)}
}

// bootName is empty where the system does not say; then only the lease ends a lock.
func bootName() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	space, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id)) + " " + space
}

// startOf is when a process began, which tells it from a later one of the same number.
func startOf(pid int) string {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

// dead tells whether the owner of the lock of that name surely is no more: it ran here, and its process is gone or is
// this one and does not hold it.
func (n lockNote) dead(name string, here lockNote) bool {
	if n.Boot == "" || n.Boot != here.Boot || n.Started == "" {
		return false
	}
	if n.PID == here.PID && n.Started == here.Started {
		_, held := heldHere.Load(name)
		return !held
	}
	if errors.Is(unix.Kill(n.PID, 0), unix.ESRCH) {
		return true
	}
	return startOf(n.PID) != n.Started
}
