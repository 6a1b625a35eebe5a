package op

import (
	"fmt"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// told applies one word about an attempt to its step. It gives false for a word that says nothing new: of another
// attempt, of a step that is through, or one that would go back. A late word about a step of which nothing was known
// any more is taken, because it is the truth.
func told(o Operation, s Step, u step.Update, now time.Time) (Step, bool) {
	if u.Attempt != s.Attempt || !s.inFlight() && s.State != step.Unknown {
		return s, false
	}
	switch u.State {
	case step.Running:
		return progressed(s, u)
	case step.Done:
		return done(s, u, now), true
	case step.Failed, step.Refused:
		return failed(o, s, u, now), true
	case step.Cancelled:
		return stopped(s, u, now), true
	case step.Waiting, step.Sent, step.Unknown, step.Skipped:
	}
	return s, false
}

func progressed(s Step, u step.Update) (Step, bool) {
	if s.Settled() {
		return s, false
	}
	was := s
	s.State, s.UnknownAt = step.Running, time.Time{}
	s.Note, s.DoneBytes, s.TotalBytes = u.Note, max(s.DoneBytes, u.DoneBytes), u.TotalBytes
	same := was.State == s.State && was.Note == s.Note && was.DoneBytes == s.DoneBytes && was.TotalBytes == s.TotalBytes
	return s, !same
}

func done(s Step, u step.Update, now time.Time) Step {
	s.State, s.Note, s.Result, s.EndedAt, s.UnknownAt = step.Done, u.Note, u.Result, now, time.Time{}
	s.Error, s.ErrorKind, s.Hint = "", "", ""
	if u.TotalBytes > 0 || u.DoneBytes > 0 {
		s.DoneBytes, s.TotalBytes = u.DoneBytes, u.TotalBytes
	}
	return s
}

// failed ends an attempt, and the step with it unless another attempt may help.
func failed(o Operation, s Step, u step.Update, now time.Time) Step {
	again := !s.Settled() && s.CancelAt.IsZero() && o.State == Running
	s.State, s.Note, s.EndedAt, s.UnknownAt = u.State, u.Note, now, time.Time{}
	s.Error, s.ErrorKind, s.Hint, s.Result = u.Error, problem.Kind(u.ErrorKind), u.Hint, u.Result
	p := policyOf(s.Kind)
	if !again || !u.Retryable || s.Attempt >= p.attempts {
		return s
	}
	s.State, s.EndedAt, s.NotBefore = step.Waiting, time.Time{}, now.Add(p.wait(s.Attempt))
	s.Note = fmt.Sprintf("attempt %d of %d did not work, trying again in %s", s.Attempt, p.attempts, p.wait(s.Attempt))
	return s
}

func stopped(s Step, u step.Update, now time.Time) Step {
	s.State, s.Note, s.EndedAt, s.UnknownAt = step.Cancelled, u.Note, now, time.Time{}
	if s.CancelWhy != causeOverdue {
		return s
	}
	s.State, s.ErrorKind = step.Failed, problem.Unavailable
	s.Error = fmt.Sprintf("it took longer than %s and was stopped", policyOf(s.Kind).within)
	return s
}
