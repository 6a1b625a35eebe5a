package link

import (
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"
	"pgregory.net/rapid"

	"holdfast/internal/problem"
)

func TestDelayStaysInItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		failures := rapid.IntRange(0, 1_000_000).Draw(t, "failures")
		chance := rapid.Float64Range(0, 0.999999).Draw(t, "chance")
		soon := delay(failures, problem.Unreachable, chance)
		if soon < 50*time.Millisecond || soon > mostDelay || failures == 0 && soon > firstDelay {
			t.Fatalf("delay after %d failures: %s", failures, soon)
		}
		late := delay(failures, problem.Denied, chance)
		if late < longDelay/2 || late > longDelay {
			t.Fatalf("delay after a refusal: %s", late)
		}
	})
}

// A thousand agents that lost their server at once come back spread out, and all within the longest delay.
func TestDelaySpreadsAThousandAgents(t *testing.T) {
	perTenth := map[time.Duration]int{}
	for i := range 1000 {
		perTenth[delay(4, problem.Unreachable, float64(i)/1000)/(100*time.Millisecond)]++
	}
	for at, n := range perTenth {
		if n > 30 {
			t.Fatalf("%d of 1000 agents dial in tenth %d", n, at)
		}
	}
}

func TestProblemsCrossTheWire(t *testing.T) {
	for _, kind := range []problem.Kind{problem.Usage, problem.Invalid, problem.Denied, problem.Unapproved, problem.NotFound, problem.Conflict,
		problem.Stale, problem.Busy, problem.Unreachable, problem.Unavailable, problem.WrongKey, problem.Corrupt, problem.Partial, problem.Internal} {
		sent := problem.New(kind, "hold fast", "größe of %s is wrong\nreally", "x")
		back := fromWire(toWire(sent), "anything")
		told, ok := errors.AsType[*problem.Error](back)
		if !ok || told.Kind != kind || told.Message != sent.Message || told.Hint != sent.Hint {
			t.Errorf("%s came back as %#v", kind, back)
		}
	}
}

func TestErrorsWithoutAProblemGetAKind(t *testing.T) {
	for code, want := range map[connect.Code]problem.Kind{
		connect.CodeUnavailable: problem.Unreachable, connect.CodeDeadlineExceeded: problem.Unreachable,
		connect.CodePermissionDenied: problem.Denied, connect.CodeInternal: problem.Unavailable, connect.CodeUnimplemented: problem.NotFound,
	} {
		if got := problem.KindOf(fromWire(connect.NewError(code, errors.New("x")), "cannot")); got != want {
			t.Errorf("%s became %s, want %s", code, got, want)
		}
	}
}

func TestPinOf(t *testing.T) {
	for _, token := range []string{"", "hfj.id.secret", "hfj.id.secret.AAAA", "hfj.id.secret.###"} {
		if pin := PinOf(token); pin != nil {
			t.Errorf("%q gave the pin %x", token, pin)
		}
	}
}
