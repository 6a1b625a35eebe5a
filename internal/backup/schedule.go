package backup

import (
	"hash/fnv"
	"time"
)

// Plan is one instance that wants backups.
type Plan struct {
	Instance string
	Every    time.Duration
	DoneAt   time.Time // when the newest backup that worked was begun; zero = never
	TriedAt  time.Time // when the newest try was begun
}

// Due tells whether a backup of the instance is to begin at now. Backups fall on a grid of Every, moved by a phase that
// comes from the instance's name, so that two hundred instances do not begin at once. The first is due at once. One
// that did not work is tried again after an eighth of Every, at least a minute and at most an hour.
func (p Plan) Due(now time.Time) bool {
	if p.Every <= 0 {
		return false
	}
	if p.TriedAt.After(p.DoneAt) {
		return !now.Before(p.TriedAt.Add(min(max(p.Every/8, time.Minute), time.Hour)))
	}
	return p.DoneAt.IsZero() || p.DoneAt.Before(p.slot(now))
}

// slot is the newest point of the grid that is not after now.
func (p Plan) slot(now time.Time) time.Time {
	sum := fnv.New64a()
	_, _ = sum.Write([]byte(p.Instance)) // a hash takes everything
	phase := time.Duration(sum.Sum64() % uint64(p.Every))
	since := now.Sub(time.Unix(0, 0).Add(phase))
	return now.Add(-(since % p.Every))
}
