// Command web measures how long the fleet page takes to draw, with as many instances as a fleet may have. It prints a
// table, and JSON with -json.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/web"
)

// row is one measurement; times in milliseconds.
type row struct {
	Instances int     `json:"instances"`
	Bytes     int     `json:"bytes"`
	P50       float64 `json:"p50_ms"`
	P95       float64 `json:"p95_ms"`
	Max       float64 `json:"max_ms"`
}

func main() {
	asJSON := flag.Bool("json", false, "print JSON")
	rounds := flag.Int("rounds", 50, "pages per size")
	flag.Parse()
	var rows []row
	for _, n := range []int{50, 500, 2000} {
		r, err := measure(n, *rounds)
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench/web:", err)
			os.Exit(1)
		}
		rows = append(rows, r)
	}
	if *asJSON {
		_ = json.NewEncoder(os.Stdout).Encode(rows) // nowhere to report that standard output is gone
		return
	}
	fmt.Printf("%10s %10s %8s %8s %8s\n", "instances", "bytes", "p50 ms", "p95 ms", "max ms")
	for _, r := range rows {
		fmt.Printf("%10d %10d %8.1f %8.1f %8.1f\n", r.Instances, r.Bytes, r.P50, r.P95, r.Max)
	}
}

func measure(instances, rounds int) (row, error) {
	server, err := serve(instances)
	if err != nil {
		return row{}, err
	}
	defer server.Close()
	r := row{Instances: instances}
	var took []float64
	for range rounds {
		start := time.Now()
		resp, err := http.Get(server.URL + "/")
		if err != nil {
			return r, err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return r, fmt.Errorf("read the page: %d, %w", resp.StatusCode, err)
		}
		took = append(took, float64(time.Since(start).Microseconds())/1000)
		r.Bytes = len(body)
	}
	slices.Sort(took)
	r.P50, r.P95, r.Max = took[len(took)/2], took[len(took)*95/100], took[len(took)-1]
	return r, nil
}

func serve(instances int) (*httptest.Server, error) {
	inv := inventory(instances)
	pages, err := web.New(web.Config{
		Reads: web.Reads{
			Inventory: func(context.Context) (fleet.Inventory, error) { return inv, nil },
			Proofs:    func(context.Context) (map[string]web.Proof, error) { return nil, nil },
		},
		Allowed: func(*http.Request) bool { return true },
		Log:     slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	return httptest.NewServer(pages.Handler()), nil
}

func inventory(instances int) fleet.Inventory {
	inv := fleet.Inventory{Nodes: map[string]fleet.NodeFacts{}, Placements: map[string]fleet.Placement{}}
	for i := range 20 {
		name := fmt.Sprintf("node-%02d", i)
		inv.Nodes[name] = fleet.NodeFacts{Node: name, Site: fmt.Sprintf("site%d", i%2), SeenAt: time.Now(), Instances: map[string]fleet.InstanceFacts{}}
	}
	for i := range instances {
		name, node := fmt.Sprintf("customer-%04d", i), fmt.Sprintf("node-%02d", i%20)
		inv.Placements[name] = fleet.Placement{Instance: name, Node: node, Site: inv.Nodes[node].Site, Release: "notes/v1.0.0"}
		inv.Nodes[node].Instances[name] = fleet.InstanceFacts{Instance: name, State: fleet.StateRunning}
	}
	return inv
}
