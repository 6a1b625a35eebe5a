// Package op measures what the server adds to an operation: nodes answer at once, so all the time is its own.
package op

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/observe"
	"holdfast/internal/op"
	"holdfast/internal/step"
)

// echo is the link and all nodes: every order is done as soon as it arrives, and told in batches, as agents do.
type echo struct {
	observer *observe.Observer
	nodes    map[string]chan step.Update
}

func (e *echo) Send(_ context.Context, node string, signed step.Signed) error {
	var o step.Order
	if err := json.Unmarshal(signed.Payload, &o); err != nil {
		return err
	}
	u := step.Update{OrderID: o.ID, Operation: o.Operation, StepID: o.StepID, Attempt: o.Attempt, State: step.Done, Result: json.RawMessage("{}")}
	e.nodes[node] <- u
	return nil
}

func (e *echo) Cancel(context.Context, string, string) error { return nil }

// report brings what a node has said to the server, all that has gathered in one batch.
func (e *echo) report(ctx context.Context, b *testing.B, node string, seq int64) {
	for {
		var batch []link.Report
		select {
		case <-ctx.Done():
			return
		case u := <-e.nodes[node]:
			batch = append(batch, link.Report{Update: &u})
		}
		for more := true; more; {
			select {
			case u := <-e.nodes[node]:
				batch = append(batch, link.Report{Update: &u})
			default:
				more = false
			}
		}
		for i := range batch {
			seq++
			batch[i].Seq = seq
		}
		if _, err := e.observer.Intake(ctx, node, batch); err != nil && ctx.Err() == nil {
			b.Error(err)
		}
	}
}

// chains is an operation of instances with six steps each, spread over nodes.
func chains(run, instances, nodes int) op.New {
	n := op.New{Kind: "recover", Title: "measure", Actor: "bench"}
	kinds := []step.Kind{step.Fetch, step.Load, step.Boot, step.Ready, step.Checks, step.Switch}
	for i := range instances {
		name, node := fmt.Sprintf("i%d-%d", run, i), fmt.Sprintf("n%d", i%nodes)
		n.Instances = append(n.Instances, name)
		args, err := json.Marshal(step.BootArgs{Spec: fleet.Spec{Instance: name, Fingerprint: "f", Services: make([]fleet.Service, 5)}, Slot: "s2"})
		if err != nil {
			panic(err)
		}
		claim, err := json.Marshal(step.ClaimArgs{Node: node, Slot: "s2", Spec: "f", Release: "r"})
		if err != nil {
			panic(err)
		}
		n.Graph = append(n.Graph, step.Planned{ID: name + "/claim", Step: step.Step{Kind: step.Claim, Instance: name, Args: claim}})
		before := "/claim"
		for _, kind := range kinds {
			p := step.Planned{ID: name + "/" + string(kind), Node: node, Needs: []string{name + before}, Step: step.Step{Kind: kind, Instance: name, Args: args}}
			n.Graph = append(n.Graph, p)
			before = "/" + string(kind)
		}
	}
	return n
}

// BenchmarkOperation gives the seconds that the server takes for an operation whose nodes take none.
func BenchmarkOperation(b *testing.B) {
	for _, size := range []struct{ instances, nodes int }{{1, 1}, {100, 20}, {100, 2}} {
		b.Run(fmt.Sprintf("instances=%d/nodes=%d", size.instances, size.nodes), func(b *testing.B) {
			d := dbtest.Open(b)
			start(b, d, size.nodes)
			steps := 0
			for run := 0; b.Loop(); run++ {
				n := chains(run, size.instances, size.nodes)
				steps = len(n.Graph)
				finish(b, d, n)
			}
			b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N)/float64(steps), "ms/step")
		})
	}
}

func start(b *testing.B, d *db.DB, nodes int) {
	ctx, stop := context.WithCancel(context.Background())
	quiet := slog.New(slog.DiscardHandler)
	folder := op.Folder{Log: quiet}
	e := &echo{observer: &observe.Observer{DB: d, Fold: folder.Fold, Log: quiet}, nodes: map[string]chan step.Update{}}
	for i := range nodes {
		name := fmt.Sprintf("n%d", i)
		e.nodes[name] = make(chan step.Update, 1000)
		if _, err := e.observer.Intake(ctx, name, []link.Report{{Seq: 1, Facts: &fleet.NodeFacts{Node: name, Site: "a"}}}); err != nil {
			b.Fatal(err)
		}
		go e.report(ctx, b, name, 1)
	}
	interpreter, err := op.NewInterpreter(op.Config{
		DB: d, Owner: "bench", Alone: true, Dispatcher: e, Nodes: e.observer.Nodes, Folder: folder, Log: quiet, Limits: op.Limits{PerNode: 8, PerSite: 64},
		Sign: func(o step.Order) (step.Signed, error) {
			raw, err := json.Marshal(o)
			return step.Signed{Payload: raw}, err
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- interpreter.Run(ctx) }()
	b.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
}

func finish(b *testing.B, d *db.DB, n op.New) {
	ctx := context.Background()
	var o op.Operation
	err := d.Tx(ctx, func(ctx context.Context, tx db.Tx) (err error) {
		o, err = op.Submit(ctx, tx, n)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	for {
		ring := d.Doorbell.Wait()
		now, err := op.Get(ctx, d, o.ID)
		if err != nil {
			b.Fatal(err)
		}
		if now.State == op.Done {
			return
		}
		if now.State.Ended() {
			b.Fatalf("ended as %s: %s", now.State, now.Why)
		}
		select {
		case <-ring:
		case <-time.After(time.Minute):
			b.Fatal("nothing happened for a minute")
		}
	}
}
