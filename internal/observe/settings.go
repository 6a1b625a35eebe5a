package observe

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/kit"
	"holdfast/internal/link"
	"holdfast/internal/op"
	"holdfast/internal/step"
)

// Settings keeps the documents of all nodes up to date and pushes what changed.
type Settings struct {
	Observer *Observer
	Asking   Asking
	// Push hands a document to the node's link, if that is up. It must not block; a node that missed it gets all of
	// its documents when it listens again (see Of).
	Push func(ctx context.Context, setting link.Setting) error
	Log  *slog.Logger

	last  mark                  // Run only: as of which state of the database documents were derived
	known map[settingKey][]byte // Run only: the documents in the database
	specs map[string]fleet.Spec // Run only: instance -> what was last applied to it, as last read
}

// mark tells one state of what settings are derived from from another.
type mark struct {
	shape, moves int64
	fetching     string
	kit          string
}

const (
	pollEvery = time.Second           // what a missed ring costs
	restAfter = 40 * time.Millisecond // a burst of claims or facts becomes one derivation
)

// Run derives and pushes settings until ctx ends.
func (s *Settings) Run(ctx context.Context) error {
	for {
		ring := s.Observer.DB.Doorbell.Wait()
		if err := s.Refresh(ctx); err != nil && ctx.Err() == nil {
			s.Log.Error("settings were not derived", "err", err)
		}
		if !pause(ctx, nil, restAfter) || !pause(ctx, ring, pollEvery) {
			return nil
		}
	}
}

// pause waits for the ring, or d; false when ctx has ended.
func pause(ctx context.Context, ring <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-ring:
	case <-timer.C:
	}
	return true
}

// Refresh derives the settings again if anything they come from has changed, stores those that differ and pushes them.
// It is called by one caller at a time.
func (s *Settings) Refresh(ctx context.Context) error {
	adopting, err := op.Adopting(ctx, s.Observer.DB)
	if err != nil || adopting {
		return err // what a rebuilt server would say now is wrong: nodes and edges go on with what they have
	}
	fetching, now, err := s.look(ctx)
	if err != nil || s.known != nil && now == s.last {
		return err
	}
	world, err := s.world(ctx, fetching)
	if err != nil {
		return err
	}
	wanted, err := s.differing(ctx, world)
	if err != nil {
		return err
	}
	changed, err := s.store(ctx, wanted)
	if err != nil {
		return err
	}
	s.last = now
	s.push(ctx, changed)
	return nil
}

func (s *Settings) look(ctx context.Context) (fetching []Fetching, now mark, err error) {
	d := s.Observer.DB
	if now.moves, err = op.Moves(ctx, d); err != nil {
		return nil, now, err
	}
	if err := d.NewRaw("SELECT value FROM observe_counter WHERE name = 'shape'").Scan(ctx, &now.shape); err != nil {
		return nil, now, fmt.Errorf("read the state of facts: %w", err)
	}
	if now.kit, err = kit.Digest(ctx, d); err != nil {
		return nil, now, err
	}
	fetching, err = Fetches(ctx, d)
	now.fetching = fmt.Sprint(fetching)
	return fetching, now, err
}

// Fetches lists the nodes that open operations have bring snapshots.
func Fetches(ctx context.Context, in bun.IDB) ([]Fetching, error) {
	steps, err := op.Unsettled(ctx, in, step.Fetch)
	if err != nil {
		return nil, err
	}
	var all []Fetching
	for _, p := range steps {
		if !strings.HasPrefix(p.Node, "@") {
			all = append(all, Fetching{Node: p.Node, Instance: p.Instance})
		}
	}
	return all, nil
}

func (s *Settings) world(ctx context.Context, fetching []Fetching) (w World, err error) {
	w = World{Fetching: fetching, Asking: s.Asking}
	if w.Inventory, err = s.Observer.Inventory(ctx); err != nil {
		return w, err
	}
	if w.Former, err = op.Former(ctx, s.Observer.DB); err != nil {
		return w, err
	}
	if w.Specs, err = s.applied(ctx, w.Placements); err != nil {
		return w, err
	}
	held, err := kit.Current(ctx, s.Observer.DB)
	w.Kit = held.Sealed
	return w, err
}

// applied gives what was last applied to every placed instance. A spec never changes under its fingerprint, so only
// those that were not read before are read.
func (s *Settings) applied(ctx context.Context, placements map[string]fleet.Placement) (map[string]fleet.Spec, error) {
	held, missing := make(map[string]fleet.Spec, len(placements)), []string{}
	for name, p := range placements {
		if spec, ok := s.specs[name]; ok && spec.Fingerprint == p.Spec {
			held[name] = spec
		} else {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		read, err := op.AppliedSpecs(ctx, s.Observer.DB, missing...)
		if err != nil {
			return nil, err
		}
		maps.Copy(held, read)
	}
	s.specs = held
	return held, nil
}

// differing are the documents that are not in the database as they should be.
func (s *Settings) differing(ctx context.Context, w World) (map[settingKey][]byte, error) {
	if s.known == nil {
		held, err := readSettings(ctx, s.Observer.DB, "")
		if err != nil {
			return nil, err
		}
		s.known = map[settingKey][]byte{}
		for _, h := range held {
			s.known[settingKey{h.Node, h.Kind}] = h.Body
		}
	}
	wanted := map[settingKey][]byte{}
	for key, document := range w.settings() {
		body, err := json.Marshal(document)
		if err != nil {
			return nil, fmt.Errorf("encode setting %s of node %s: %w", key.kind, key.node, err)
		}
		if string(s.known[key]) != string(body) {
			wanted[key] = body
		}
	}
	return wanted, nil
}

func (s *Settings) store(ctx context.Context, wanted map[settingKey][]byte) (changed []link.Setting, err error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	err = s.Observer.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		changed, err = putSettings(ctx, tx, wanted)
		return err
	})
	if err == nil {
		maps.Copy(s.known, wanted)
	}
	return changed, err
}

// push sends leases first: an instance must be let go at one place before the edge sends anybody to another.
func (s *Settings) push(ctx context.Context, changed []link.Setting) {
	slices.SortStableFunc(changed, func(a, b link.Setting) int { return rank(a.Kind) - rank(b.Kind) })
	for _, setting := range changed {
		if err := s.Push(ctx, setting); err != nil {
			s.Log.Debug("setting not handed out, goes out when the node listens", "node", setting.Node, "kind", setting.Kind, "err", err)
		}
	}
}

func rank(kind link.SettingKind) int {
	if kind == link.SettingLeases {
		return 0
	}
	return 1
}

// Of reads all documents of one node, leases first, to be sent when it begins to listen.
func (s *Settings) Of(ctx context.Context, node string) ([]link.Setting, error) {
	all, err := readSettings(ctx, s.Observer.DB, node)
	slices.SortStableFunc(all, func(a, b link.Setting) int { return rank(a.Kind) - rank(b.Kind) })
	return all, err
}
