package observe

import (
	"context"
	"fmt"
	"testing"
	"time"

	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
)

func TestOfSome(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		o := observer(d, &folded{})
		at := func(s int64) time.Time { return time.Unix(1000+s, 0).UTC() }
		reports := []link.Report{{Seq: 1, Facts: &fleet.NodeFacts{Node: "a1", Site: "paris"}}}
		for i, instance := range []string{"acme", "globex", "acme"} {
			reports = append(reports,
				link.Report{Seq: int64(10 + 2*i), Result: &link.Result{Check: "edge", Instance: instance, At: at(int64(9 - i))}},
				link.Report{Seq: int64(11 + 2*i), Event: &link.Event{Kind: "fenced", Instance: instance, At: at(int64(i))}})
		}
		reports = append(reports, link.Report{Seq: 20, Event: &link.Event{Kind: "boot", At: at(1)}}, link.Report{Seq: 21, Event: &link.Event{Kind: "boot", At: at(5)}})
		if _, err := o.Intake(ctx, "a1", reports); err != nil {
			t.Fatal(err)
		}
		results, err := ResultsOf(ctx, d, []string{"acme"}, at(0), at(9))
		if err != nil || len(results) != 2 || !results[0].At.Equal(at(7)) || !results[1].At.Equal(at(9)) {
			t.Errorf("results %v, %v", results, err)
		}
		if results, err := ResultsOf(ctx, d, nil, at(0), at(9)); err != nil || results != nil {
			t.Errorf("results of nothing: %v, %v", results, err)
		}
		events, err := EventsOf(ctx, d, []string{"acme"}, []string{"a1"}, at(5))
		got := ""
		for _, e := range events {
			got += fmt.Sprintf("%s %s %d; ", e.Kind, e.Instance, e.At.Unix()-1000)
		}
		if want := "fenced acme 0; fenced acme 2; boot  5; "; err != nil || got != want {
			t.Errorf("events %q, %v; want %q", got, err, want)
		}
		if sites, err := Sites(ctx, d); err != nil || sites["a1"] != "paris" {
			t.Errorf("sites %v, %v", sites, err)
		}
	})
}
