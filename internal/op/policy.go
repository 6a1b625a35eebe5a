package op

import (
	"time"

	"holdfast/internal/step"
)

// Limits bound what runs at once over all operations. Steps that fence, stop, switch or undo, and those that only ask,
// are never held back.
type Limits struct {
	PerNode int // orders in flight on one node
	PerSite int // orders in flight in one site
}

// DefaultLimits suit nodes with a few cores.
func DefaultLimits() Limits { return Limits{PerNode: 4, PerSite: 64} }

// policy is how long one attempt of a kind may take, how often it is tried and what waits in between.
type policy struct {
	within   time.Duration
	attempts int
	backoff  time.Duration // before the second attempt; doubles with each further one, up to a minute
	light    bool          // not counted against the limits
}

const (
	orderLife   = 5 * time.Minute  // until when a node may begin an order; each sending has a fresh end
	resendAfter = 5 * time.Second  // a sent order that the node has not journaled goes out again
	cancelGrace = 30 * time.Second // how long a node that is asked to stop may take to say so
	maxBackoff  = time.Minute
)

func policyOf(kind step.Kind) policy {
	switch kind {
	case step.Backup, step.Fetch, step.Load, step.Prune:
		return policy{within: 6 * time.Hour, attempts: 3, backoff: 2 * time.Second}
	case step.Stage:
		return policy{within: 30 * time.Minute, attempts: 4, backoff: 2 * time.Second}
	case step.Boot:
		return policy{within: 30 * time.Minute, attempts: 3, backoff: time.Second}
	case step.Ready, step.Checks: // these ask and wait; what loads a node is what they wait for
		return policy{within: 30 * time.Minute, attempts: 3, backoff: time.Second, light: true}
	case step.Switch, step.Stop, step.Fence, step.Discard, step.Arm, step.Fire, step.Undo:
		return policy{within: 5 * time.Minute, attempts: 5, backoff: time.Second, light: true}
	case step.Survey:
		return policy{within: 10 * time.Minute, attempts: 3, backoff: time.Second}
	case step.Claim, step.Release, step.Adopt:
		return policy{within: time.Minute, attempts: 3, backoff: time.Second, light: true}
	case step.Route:
		return policy{within: 10 * time.Minute, attempts: 3, backoff: time.Second, light: true}
	case step.Tell:
		return policy{within: 10 * time.Minute, attempts: 5, backoff: 5 * time.Second, light: true}
	}
	return policy{within: 30 * time.Minute, attempts: 1, backoff: time.Second}
}

// wait is the pause after the given attempt, which counts from 1.
func (p policy) wait(attempt int) time.Duration {
	d := p.backoff
	for range attempt - 1 {
		d = min(2*d, maxBackoff)
	}
	return d
}
