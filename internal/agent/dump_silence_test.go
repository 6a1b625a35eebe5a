package agent

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/problem"
)

func TestADumpThatHangsIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got strings.Builder
		began := time.Now()
		err := unlessSilent(t.Context(), &got, "dump of state main", func(ctx context.Context, w io.Writer) error {
			for range 3 { // slow, and never silent for too long
				<-time.After(dumpSilence - time.Second)
				if _, err := io.WriteString(w, "x"); err != nil {
					return err
				}
			}
			<-ctx.Done()
			return ctx.Err()
		})
		if problem.KindOf(err) != problem.Unavailable || err.Error() != "dump of state main was ended: it wrote nothing for 15m0s" {
			t.Errorf("got %v", err)
		}
		if took, want := time.Since(began), 4*dumpSilence-3*time.Second; took != want || got.String() != "xxx" {
			t.Errorf("ended after %s with %q, want %s", took, &got, want)
		}
	})
}

// slowReader takes each write only after a while.
type slowReader struct{}

func (slowReader) Write(p []byte) (int, error) {
	<-time.After(2 * dumpSilence)
	return len(p), nil
}

func TestADumpIsNotEndedForASlowVault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := unlessSilent(t.Context(), slowReader{}, "dump of state main", func(_ context.Context, w io.Writer) error {
			_, err := io.WriteString(w, "x")
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}
