package edge

import (
	"sync"
	"sync/atomic"
	"time"
)

// counts tallies one instance's exchanges since this process first had a route for it.
type counts struct {
	requests, inFlight, bytes, retries, pages, took atomic.Int64
	classes                                         [6]atomic.Int64 // by first digit of the status; 0 = the client left

	known      atomic.Int64 // the epoch whose first answer is noted: the way past the lock
	mu         sync.Mutex
	epoch      int64
	answeredAt time.Time // first answer from an endpoint at this epoch
}

// enter begins an epoch.
func (c *counts) enter(epoch int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch != epoch {
		c.epoch, c.answeredAt = epoch, time.Time{}
	}
}

// answered notes that an endpoint of the epoch gave an answer below 500.
func (c *counts) answered(epoch int64, at time.Time) {
	if c.known.Load() == epoch && epoch != 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch == epoch && c.answeredAt.IsZero() {
		c.answeredAt = at
		c.known.Store(epoch)
	}
}

func (c *counts) firstAnswer() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answeredAt
}

func (c *counts) finish(status int, bytes int64, took time.Duration) {
	c.inFlight.Add(-1)
	c.requests.Add(1)
	c.bytes.Add(bytes)
	c.took.Add(int64(took))
	if class := status / 100; class >= 1 && class <= 5 && status != statusClientLeft {
		c.classes[class].Add(1)
	} else {
		c.classes[0].Add(1)
	}
}

// Counts is what was tallied for one instance since this process first had a route for it.
type Counts struct {
	Requests int64            `json:"requests"`
	InFlight int64            `json:"in_flight"`
	Bytes    int64            `json:"bytes"`
	Retries  int64            `json:"retries"`
	Pages    int64            `json:"pages"`   // maintenance pages given
	Classes  map[string]int64 `json:"classes"` // "2xx" ... and "left" for clients that went away
	Took     time.Duration    `json:"took"`    // sum over all requests
}

func (c *counts) snapshot() Counts {
	s := Counts{
		Requests: c.requests.Load(), InFlight: c.inFlight.Load(), Bytes: c.bytes.Load(), Retries: c.retries.Load(),
		Pages: c.pages.Load(), Took: time.Duration(c.took.Load()), Classes: map[string]int64{},
	}
	names := [...]string{"left", "1xx", "2xx", "3xx", "4xx", "5xx"}
	for i, name := range names {
		if n := c.classes[i].Load(); n > 0 {
			s.Classes[name] = n
		}
	}
	return s
}
