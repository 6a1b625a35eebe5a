package op

import "holdfast/internal/step"

// outcome says how an operation whose steps are all settled came out. An instance is done when all its steps are;
// steps without an instance count as one more group.
func outcome(o Operation, steps []Step) *Finish {
	counts := Count(steps)
	f := &Finish{Counts: counts, Why: why(steps)}
	good, bad, unknown := groups(steps)
	switch {
	case bad == 0:
		f.State, f.Why = Done, ""
	case o.State == Cancelling:
		f.State, f.Why = Cancelled, o.Why
	case good > 0:
		f.State = Partly
	case counts.Unknown > 0 && unknown == bad:
		f.State = Unknown
	default:
		f.State = Failed
	}
	return f
}

// Count counts steps and instances by how they stand.
func Count(steps []Step) Counts {
	var c Counts
	whole := map[string]bool{}
	for _, s := range steps {
		if s.OnFailure {
			continue
		}
		c.Steps++
		switch s.State {
		case step.Done:
			c.Done++
		case step.Failed:
			c.Failed++
		case step.Refused:
			c.Refused++
		case step.Unknown:
			c.Unknown++
		case step.Cancelled:
			c.Cancelled++
		case step.Waiting, step.Sent, step.Running, step.Skipped:
		}
		if s.Instance == "" {
			continue
		}
		before, seen := whole[s.Instance]
		whole[s.Instance] = s.State == step.Done && (before || !seen)
	}
	c.Instances = len(whole)
	for _, done := range whole {
		if done {
			c.InstancesDone++
		}
	}
	return c
}

// groups counts the instances that are done, those that are not, and those of which only what happened is unknown.
func groups(steps []Step) (good, bad, unknown int) {
	type group struct{ undone, failed bool }
	all := map[string]group{}
	for _, s := range steps {
		g := all[s.Instance]
		if !s.OnFailure {
			g.undone = g.undone || s.State != step.Done
			g.failed = g.failed || s.State == step.Failed || s.State == step.Refused
		}
		all[s.Instance] = g
	}
	for _, g := range all {
		switch {
		case !g.undone:
			good++
		case g.failed:
			bad++
		default:
			bad++
			unknown++
		}
	}
	return good, bad, unknown
}

// why is the first cause in graph order: a failure before a step of which nothing is known.
func why(steps []Step) string {
	lost := ""
	for _, s := range steps {
		switch s.State {
		case step.Failed, step.Refused:
			if !s.OnFailure {
				return s.ID + where(s) + ": " + s.Error
			}
		case step.Unknown:
			if lost == "" {
				lost = s.ID + where(s) + ": " + s.Note
			}
		case step.Cancelled:
			if lost == "" && s.Attempt == 0 {
				lost = s.ID + ": " + s.Note
			}
		case step.Waiting, step.Sent, step.Running, step.Done, step.Skipped:
		}
	}
	return lost
}

func where(s Step) string {
	if s.Placed == "" {
		return ""
	}
	return " on " + s.Placed
}
