package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"time"

	"holdfast/internal/link"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// settings takes the documents that the server sends and brings the newest of each kind to whoever needs it.
type settings struct {
	identity *Identity
	journal  *Journal
	spool    *Spool
	bootID   string
	log      *slog.Logger
	rings    map[link.SettingKind]chan struct{} // a newer one is in the journal
	apply    map[link.SettingKind]func(ctx context.Context, held link.Setting) error

	mu    sync.Mutex // guards what stands below
	asked []*question
}

// question waits for the leases that the server sends on a stream opened after it was asked. Leases that were under way
// before may be older than what made somebody ask.
type question struct {
	opened, came bool
	answered     chan struct{} // closed once they are carried out
}

func newSettings(c Config) *settings {
	s := &settings{
		identity: c.Identity, journal: c.Journal, spool: c.Spool, bootID: c.BootID, log: c.Log,
		rings: map[link.SettingKind]chan struct{}{},
		apply: map[link.SettingKind]func(context.Context, link.Setting) error{
			link.SettingLeases: func(ctx context.Context, held link.Setting) error {
				return offer(held, c.Settings.Leases != nil, func(l link.LeasesSetting) error {
					return c.Settings.Leases(ctx, l, held.BootID == c.BootID)
				})
			},
			link.SettingRoutes: func(ctx context.Context, held link.Setting) error {
				return offer(held, c.Settings.Routes != nil, func(r link.RoutesSetting) error { return c.Settings.Routes(ctx, r) })
			},
			link.SettingProbes: func(ctx context.Context, held link.Setting) error {
				return offer(held, c.Settings.Probes != nil, func(p link.ProbesSetting) error { return c.Settings.Probes(ctx, p) })
			},
			link.SettingGrants: func(ctx context.Context, held link.Setting) error {
				return offer(held, c.Settings.Grants != nil, func(g link.GrantsSetting) error { return c.Settings.Grants(ctx, g) })
			},
			link.SettingKit: func(ctx context.Context, held link.Setting) error {
				return offer(held, c.Settings.Kit != nil, func(k link.KitSetting) error { return c.Settings.Kit(ctx, k) })
			},
		},
	}
	for kind := range s.apply {
		s.rings[kind] = make(chan struct{}, 1)
	}
	return s
}

// offer reads the document and hands it over, when somebody wants it.
func offer[T any](held link.Setting, wanted bool, to func(T) error) error {
	if !wanted {
		return nil
	}
	var document T
	if err := json.Unmarshal(held.Body, &document); err != nil {
		return problem.Wrap(err, problem.Invalid, "", "setting %s cannot be read", held.Kind)
	}
	return to(document)
}

// take checks a delivered setting and keeps it. A refused one is told as an event; the error is the journal's own.
func (s *settings) take(ctx context.Context, signed step.Signed) error {
	var offered link.Setting
	why := step.Verify(s.identity.OrderKey, step.ForSetting, signed, &offered)
	if why == nil {
		why = s.check(offered)
	}
	if why == nil {
		taken, err := s.journal.PutSetting(ctx, offered)
		if s.came(offered.Kind, err) || taken {
			knock(s.rings[offered.Kind])
		}
		if err == nil || problem.KindOf(err) == problem.Internal {
			return err
		}
		why = err
	}
	s.log.Warn("setting refused", "kind", offered.Kind, "reason", why)
	return s.spool.Event(ctx, link.Event{Kind: "setting_refused", Note: why.Error(),
		Labels: map[string]string{"kind": string(offered.Kind), "reason": string(problem.KindOf(why))}})
}

func (s *settings) check(offered link.Setting) error {
	switch {
	case offered.Node != s.identity.Node:
		return problem.New(problem.Denied, "", "setting %s is for node %s, this is %s", offered.Kind, offered.Node, s.identity.Node)
	case s.apply[offered.Kind] == nil:
		return problem.New(problem.Invalid, "upgrade the agent of "+s.identity.Node, "setting %q is of a kind that this node does not know", offered.Kind)
	case offered.BootID != s.bootID:
		return problem.New(problem.Stale, "", "setting %s is for boot %s of node %s, which is at boot %s", offered.Kind, offered.BootID, s.identity.Node, s.bootID)
	}
	return nil
}

// settingRetry is how long to wait before a setting that was not applied is offered again.
const settingRetry = 5 * time.Second

// serve offers the newest document of one kind, first the one in the journal, until ctx ends.
func (s *settings) serve(ctx context.Context, kind link.SettingKind) error {
	for ctx.Err() == nil {
		again, err := s.offerHeld(ctx, kind)
		if Broken(err) {
			return err
		}
		if err != nil {
			s.log.Error("setting was not read; trying again", "kind", kind, "error", err)
		}
		if again || err != nil {
			rest(ctx, settingRetry)
			continue
		}
		select {
		case <-ctx.Done():
		case <-s.rings[kind]:
		}
	}
	return nil
}

// offerHeld hands over what the journal holds. The error is the journal's own.
func (s *settings) offerHeld(ctx context.Context, kind link.SettingKind) (again bool, err error) {
	held, err := s.journal.Setting(ctx, kind)
	if err != nil || held.Generation == 0 {
		return false, err
	}
	open := s.open(kind)
	why := s.apply[kind](ctx, held)
	if why == nil || ctx.Err() != nil {
		s.answer(open, why)
		return false, nil
	}
	s.log.Error("setting was not applied; trying again", "kind", kind, "generation", held.Generation, "error", why)
	return true, s.spool.Event(ctx, link.Event{Kind: "setting_failed", Note: why.Error(), Labels: map[string]string{"kind": string(kind)}})
}

// ask begins to wait for leases of a stream that is opened from now on.
func (s *settings) ask() *question {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := &question{answered: make(chan struct{})}
	s.asked = append(s.asked, q)
	return q
}

// up notes that a stream was opened.
func (s *settings) up() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.asked {
		q.opened = true
	}
}

// came notes leases that were delivered, and tells whether somebody waits for them, be they as they were or not.
func (s *settings) came(kind link.SettingKind, err error) (wanted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if kind != link.SettingLeases || err != nil {
		return false
	}
	for _, q := range s.asked {
		q.came = q.came || q.opened
		wanted = wanted || q.came
	}
	return wanted
}

// open lists the questions that the leases in the journal answer.
func (s *settings) open(kind link.SettingKind) (open []*question) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if kind != link.SettingLeases {
		return nil
	}
	for _, q := range s.asked {
		if q.came {
			open = append(open, q)
		}
	}
	return open
}

func (s *settings) answer(open []*question, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range open {
		s.forgetLocked(q)
		if why == nil {
			close(q.answered)
		}
	}
}

// forget ends the wait for an answer.
func (s *settings) forget(q *question) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(q)
}

func (s *settings) forgetLocked(q *question) {
	s.asked = slices.DeleteFunc(s.asked, func(other *question) bool { return other == q })
}
