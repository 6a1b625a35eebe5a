package edge

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"holdfast/internal/link"
)

// endpoint is one replica of an instance that requests may go to. It begins healthy: the node said that it is ready.
type endpoint struct {
	key      endpointKey
	host     string // asked for in active checks
	inFlight atomic.Int64
	usable   atomic.Bool // mirrors health.up, read by every request

	listed    context.Context // ends when no table has it any more: it is asked no more
	unlist    context.CancelFunc
	withdrawn context.Context // ends when its drain ends too: exchanges with it are cut
	withdraw  context.CancelFunc
	recheck   chan struct{} // wakes the checker at once

	mu     sync.Mutex
	health health
	seenAt time.Time // last good answer or check
}

func newEndpoint(key endpointKey, r link.Route) *endpoint {
	e := &endpoint{key: key, recheck: make(chan struct{}, 1), health: health{up: true, since: time.Now()}}
	if len(r.Hosts) > 0 {
		e.host = r.Hosts[0]
	}
	e.usable.Store(true)
	e.withdrawn, e.withdraw = context.WithCancel(context.Background())
	e.listed, e.unlist = context.WithCancel(e.withdrawn)
	return e
}

// health is what is believed of one endpoint.
type health struct {
	up     bool
	since  time.Time
	failed int    // active failures in a row
	errors int    // passive failures in a row
	proved bool   // it answered at least once since it came up
	why    string // the last failure
}

// outcome is one thing seen of an endpoint.
type outcome struct {
	active bool // by a check; otherwise by a request
	err    error
	at     time.Time
}

// after is the health after one more outcome. A refused connection is certain and ejects at once; anything else must
// repeat. Only a check brings an ejected endpoint back, so that customers' requests are not the experiment.
func (h health) after(o outcome, limits Health) health {
	switch {
	case o.err == nil && (h.up || o.active):
		return h.good(o)
	case o.err == nil:
		return h
	case o.active:
		h.failed++
	default:
		h.errors++
	}
	h.why = o.err.Error()
	if h.up && (h.failed >= limits.FailAfter || h.errors >= limits.ErrorAfter || certain(o.err)) {
		h.up, h.since, h.proved = false, o.at, false
	}
	return h
}

func (h health) good(o outcome) health {
	if !h.up {
		h.up, h.since = true, o.at
	}
	if o.active {
		h.failed = 0
	}
	h.errors, h.proved = 0, true
	return h
}

// certain tells whether err alone proves that nothing answers there.
func certain(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}

// dialed tells whether err came from connecting, so that nothing of the request was sent.
func dialed(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// saw folds an outcome in and tells whether the endpoint came up or fell by it.
func (e *endpoint) saw(o outcome, limits Health) (changed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.health.up
	e.health = e.health.after(o, limits)
	if o.err == nil {
		e.seenAt = o.at
	}
	e.usable.Store(e.health.up)
	return before != e.health.up
}

func (e *endpoint) now() (h health, seenAt time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.health, e.seenAt
}

// pick chooses the healthy endpoint with the fewest exchanges in flight that was not tried yet; turn breaks ties so
// that equal endpoints take turns. It gives nil when none is left.
func pick(endpoints []*endpoint, tried []*endpoint, turn uint64) *endpoint {
	var best *endpoint
	least := int64(0)
	for i := range endpoints {
		e := endpoints[(uint64(i)+turn)%uint64(len(endpoints))]
		if !e.usable.Load() || slices.Contains(tried, e) {
			continue
		}
		if n := e.inFlight.Load(); best == nil || n < least {
			best, least = e, n
		}
	}
	return best
}
