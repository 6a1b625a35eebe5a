package web

import (
	"fmt"
	"time"

	"github.com/dustin/go-humanize"

	"holdfast/internal/fleet"
)

// tone is how a state looks: good, warn, bad, busy, off, unknown. It is always shown beside the word, never alone.
type tone string

const (
	good    tone = "good"
	warn    tone = "warn"
	bad     tone = "bad"
	busy    tone = "busy"
	off     tone = "off"
	unknown tone = "unknown"
)

func toneOfInstance(s fleet.InstanceState) tone {
	switch s {
	case fleet.StateRunning:
		return good
	case fleet.StateStarting, fleet.StateBeside:
		return busy
	case fleet.StateDegraded:
		return bad
	case fleet.StateStopped:
		return off
	case fleet.StateFenced:
		return warn
	case fleet.StateUnknown:
		return unknown
	}
	return unknown
}

// age says how long ago t was, "never" for the zero time, "just now" for less than a second.
func age(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	if now.Sub(t) < time.Second {
		return "just now"
	}
	return span(now.Sub(t)) + " ago"
}

// span is a duration in the one or two units that matter.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "0 ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

func megabytes(n int64) string { return size(n << 20) }

// percent is part of whole between 0 and 100; 0 when whole is not known.
func percent(part, whole int64) int {
	if whole <= 0 {
		return 0
	}
	return int(min(100, max(0, part*100/whole)))
}
