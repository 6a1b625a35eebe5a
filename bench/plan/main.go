// Command plan measures how long reading and planning a fleet takes: 200 and 1,000 instances of five services on 20
// nodes in two sites. Three plans each: the first one (everything is created), one after it (nothing is to be done),
// and one of a new release for all (everything changes).
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/plan"
)

// row is one measurement; times are the median of the runs, in milliseconds.
type row struct {
	Instances int     `json:"instances"`
	Services  int     `json:"services_each"`
	Nodes     int     `json:"nodes"`
	Read      float64 `json:"read_ms"`   // YAML, schema, Compose, every check
	Create    float64 `json:"create_ms"` // plan: all are new
	Idle      float64 `json:"idle_ms"`   // plan: nothing to do
	Change    float64 `json:"change_ms"` // plan: a new release for all
	Graph     float64 `json:"graph_ms"`  // steps of the changes
	Steps     int     `json:"steps"`
}

func main() {
	asJSON := flag.Bool("json", false, "print JSON only")
	runs := flag.Int("runs", 5, "runs of each measurement")
	flag.Parse()
	var rows []row
	for _, instances := range []int{200, 1000} {
		r, err := measure(instances, *runs)
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench/plan:", err)
			os.Exit(1)
		}
		rows = append(rows, r)
	}
	if !*asJSON {
		draw(rows)
	}
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	_ = enc.Encode(map[string]any{"cores": runtime.NumCPU(), "rows": rows}) // nowhere to report that standard output is gone
}

func draw(rows []row) {
	fmt.Printf("%10s %9s %6s %10s %11s %9s %11s %10s %7s\n", "instances", "services", "nodes", "read ms", "create ms", "idle ms", "change ms", "graph ms", "steps")
	for _, r := range rows {
		fmt.Printf("%10d %9d %6d %10.1f %11.1f %9.1f %11.1f %10.1f %7d\n", r.Instances, r.Services, r.Nodes, r.Read, r.Create, r.Idle, r.Change, r.Graph, r.Steps)
	}
}

func measure(instances, runs int) (row, error) {
	r := row{Instances: instances, Services: 5, Nodes: 20}
	files, next := declare(instances, "v1.0.0"), declare(instances, "v1.1.0")
	var f, newer *fleet.Fleet
	var p plan.Plan
	var err error
	r.Read = median(runs, &err, func() error { f, err = fleet.Read(files); return err })
	if err != nil {
		return r, err
	}
	if newer, err = fleet.Read(next); err != nil {
		return r, err
	}
	w := nodes(r.Nodes)
	r.Create = median(runs, &err, func() error { p, err = plan.Diff(f, w, fleet.Selector{}); return err })
	if err == nil && p.Count(plan.Create) != instances {
		err = fmt.Errorf("%d of %d instances would be created; blocked: %v", p.Count(plan.Create), instances, p.Blocked)
	}
	run(w, p)
	r.Idle = median(runs, &err, func() error { p, err = plan.Diff(f, w, fleet.Selector{}); return err })
	if err == nil && !p.Empty() {
		err = fmt.Errorf("the plan after the apply has %d items", len(p.Items))
	}
	r.Change = median(runs, &err, func() error { p, err = plan.Diff(newer, w, fleet.Selector{}); return err })
	if err == nil && p.Count(plan.Change) != instances {
		err = fmt.Errorf("%d of %d instances would change", p.Count(plan.Change), instances)
	}
	r.Graph = median(runs, &err, func() error {
		g, err := plan.Graph(p, func(string) string { return "s2" })
		r.Steps = len(g)
		return err
	})
	return r, err
}

// median runs do and gives the median time in milliseconds. It does nothing once *failed is set, and sets it.
func median(runs int, failed *error, do func() error) float64 {
	times := make([]time.Duration, 0, runs)
	for range runs {
		if *failed != nil {
			return 0
		}
		began := time.Now()
		if err := do(); err != nil {
			*failed = err
		}
		times = append(times, time.Since(began))
	}
	return middle(times)
}
