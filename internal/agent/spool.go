package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"holdfast/internal/link"
	"holdfast/internal/problem"
)

// Spool takes the reports of every part of the node and brings them to the server in order. A report is on disk when
// Event or Results returns, and leaves the disk when the server has committed it.
type Spool struct {
	journal *Journal
	now     func() time.Time
	ring    chan struct{} // something is to be sent
	changed chan struct{} // the facts are no longer what was told

	writing sync.Mutex // held while a group is committed; the next group gathers meanwhile
	mu      sync.Mutex
	group   *group
}

// group is reports of several callers that share one commit, and so one flush of the disk.
type group struct {
	entries []entry
	done    chan struct{}
	err     error
}

// NewSpool makes the spool of a journal; now is nil for the real clock.
func NewSpool(journal *Journal, now func() time.Time) *Spool {
	if now == nil {
		now = time.Now
	}
	return &Spool{journal: journal, now: now, ring: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
}

// Event reports a fact with a moment. A zero At becomes now.
func (s *Spool) Event(ctx context.Context, event link.Event) error {
	if event.At.IsZero() {
		event.At = s.now()
	}
	return s.add(ctx, entry{report: link.Report{At: event.At, Event: &event}})
}

// Results reports answers to checks.
func (s *Spool) Results(ctx context.Context, results ...link.Result) error {
	entries := make([]entry, len(results))
	for i := range results {
		entries[i].report = link.Report{At: s.now(), Result: &results[i]}
	}
	return s.add(ctx, entries...)
}

// Changed says that the node's facts are no longer what was reported. It never waits; changes that come soon after each
// other become one report.
func (s *Spool) Changed() { knock(s.changed) }

// knock leaves word in a channel of one place, for whoever looks next.
func knock(door chan struct{}) {
	select {
	case door <- struct{}{}:
	default:
	}
}

// add commits entries together with those of whoever else is adding now.
func (s *Spool) add(ctx context.Context, entries ...entry) error {
	g, leads := s.join(entries)
	if !leads {
		<-g.done
		return g.err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	s.group = nil
	s.mu.Unlock()
	g.err = s.journal.Spool(ctx, g.entries)
	close(g.done)
	knock(s.ring)
	return g.err
}

func (s *Spool) join(entries []entry) (g *group, leads bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if leads = s.group == nil; leads {
		s.group = &group{done: make(chan struct{})}
	}
	s.group.entries = append(s.group.entries, entries...)
	return s.group, leads
}

// Limits of the sender.
const (
	batchReports = 500
	sendRetry    = 2 * time.Second  // after a batch did not get through, while the stream is open
	sendSlowly   = 30 * time.Second // after the server refused a batch: it will not like it better at once
)

// reporter is the part of link.Client that the sender needs; tests cut it at any point.
type reporter func(ctx context.Context, batch link.Batch) (link.Ack, error)

// sender brings the outbox to the server while the link is up.
type sender struct {
	node    string
	spool   *Spool
	report  reporter
	up      chan struct{} // the link has just come up
	log     *slog.Logger
	agreed  bool
	waiting time.Duration // until the next try; 0 = until something rings
}

// run sends until ctx ends. It returns an error only when the journal can no longer be trusted.
func (s *sender) run(ctx context.Context) error {
	for {
		if !s.wait(ctx) {
			return nil
		}
		more, err := s.send(ctx)
		for more && err == nil && ctx.Err() == nil {
			more, err = s.send(ctx)
		}
		if Broken(err) {
			return err
		}
		s.waiting = s.after(ctx, err)
	}
}

func (s *sender) wait(ctx context.Context) bool {
	var again <-chan time.Time
	if s.waiting > 0 {
		timer := time.NewTimer(s.waiting)
		defer timer.Stop()
		again = timer.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-s.spool.ring:
		return s.waiting == 0 || s.pause(ctx, again)
	case <-again:
	case <-s.up:
		s.agreed = false
	}
	return true
}

// pause waits out a delay although there is more to send: the server is away or does not take it.
func (s *sender) pause(ctx context.Context, again <-chan time.Time) bool {
	select {
	case <-ctx.Done():
		return false
	case <-again:
	case <-s.up:
		s.agreed = false
	}
	return true
}

// after tells how long to wait when a batch did not get through.
func (s *sender) after(ctx context.Context, err error) time.Duration {
	if err == nil || ctx.Err() != nil {
		return 0
	}
	s.agreed = false
	if kind := problem.KindOf(err); kind == problem.Unreachable || kind == problem.Unavailable || kind == problem.Busy {
		s.log.Debug("reports wait for the server", "error", err)
		return sendRetry
	}
	s.log.Error("reports were not taken; they are kept and sent again", "error", err)
	return sendSlowly
}

// send sends one batch and drops what the server has committed. more is true when reports are left.
func (s *sender) send(ctx context.Context) (more bool, err error) {
	if err := s.agree(ctx); err != nil {
		return false, err
	}
	reports, err := s.spool.journal.Unsent(ctx, batchReports)
	if err != nil || len(reports) == 0 {
		return false, err
	}
	ack, err := s.report(ctx, link.Batch{Node: s.node, Reports: reports})
	if err != nil {
		return false, err
	}
	if ack.Through < reports[0].Seq {
		return false, problem.New(problem.Unavailable, "", "the server took none of %d reports: it is at %d", len(reports), ack.Through)
	}
	return true, s.spool.journal.Acknowledged(ctx, ack.Through)
}

// agree asks how far the server is, once for each connection.
func (s *sender) agree(ctx context.Context) error {
	if s.agreed {
		return nil
	}
	ack, err := s.report(ctx, link.Batch{Node: s.node})
	if err != nil {
		return err
	}
	moved, err := s.spool.journal.Agree(ctx, ack.Through)
	if err != nil {
		return err
	}
	if moved {
		s.log.Warn("the journal is newer or older than what the server knows; reports were numbered anew", "through", ack.Through)
	}
	s.agreed = true
	return nil
}
