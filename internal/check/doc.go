// Package check asks from outside whether instances answer, and decides from the answers what is up, what is down and
// what cannot be said.
//
// Words: a check is a question with a beat (link.Check); a prober asks; a result is one answer (link.Result); a vote is
// what one prober believes after several results in a row; a verdict is what enough votes agree on: up, down, or
// inconclusive; an outage is a stretch of verdicts down, with the interval in which it really began.
//
// Invariant: a prober in trouble itself says nothing about anybody. A verdict is a pure function of results: asked
// again about the same results, it is the same.
package check

import (
	"hash/fnv"
	"time"

	"holdfast/internal/link"
)

// next is the first moment after now at which c is asked. The phase follows from the check's name, so that many
// checks with one interval make a flat stream, and so that a restart does not change it.
func next(c link.Check, now time.Time) time.Time {
	every := intervalOf(c)
	phase := phaseOf(c, every)
	since := now.Sub(time.Unix(0, 0)) - phase
	beats := since/every + 1
	return time.Unix(0, 0).Add(beats*every + phase)
}

func phaseOf(c link.Check, every time.Duration) time.Duration {
	sum := fnv.New64a()
	_, _ = sum.Write([]byte(c.Instance + "/" + c.Name)) // a hash takes everything
	return time.Duration(mix(sum.Sum64()) % uint64(every))
}

// mix spreads the hash of similar names over all bits (the last step of splitmix64).
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

const (
	defaultInterval = 30 * time.Second
	shortest        = 100 * time.Millisecond
	defaultTimeout  = 10 * time.Second
)

func intervalOf(c link.Check) time.Duration {
	if c.Interval <= 0 {
		return defaultInterval
	}
	return max(c.Interval, shortest)
}

func timeoutOf(c link.Check) time.Duration {
	if c.Timeout <= 0 {
		return defaultTimeout
	}
	return c.Timeout
}
