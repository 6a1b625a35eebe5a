// Command link measures what agents cost a real server: its resident memory and idle processor time with 0, 100 and
// 1,000 of them, and how long it takes until all are back after it was killed with SIGKILL and started again. The
// agents are simulated in this process, on the same cores: each has joined with its own token, has its own
// certificate and its own connection, listens, and reports its facts every five seconds.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// row is one measurement.
type row struct {
	Agents        int     `json:"agents"`
	MemoryMB      float64 `json:"server_resident_mb"`
	CPUPercent    float64 `json:"server_cpu_percent_of_a_core"` // idle: keep-alives and facts only
	JoinSeconds   float64 `json:"join_seconds"`                 // to add these agents to those before
	HalfSeconds   float64 `json:"half_back_seconds"`            // after SIGKILL, from the moment the server answers again
	BackSeconds   float64 `json:"all_back_seconds"`
	DarkSeconds   float64 `json:"kill_to_all_back_seconds"` // with the server's own start
	MostPerSecond int     `json:"most_returns_in_a_second"`
}

func main() {
	asJSON := flag.Bool("json", false, "print JSON")
	binary := flag.String("holdfast", "bin/holdfast", "the server's program (make build)")
	quiet := flag.Duration("idle", 20*time.Second, "how long idle processor time is measured")
	flag.Parse()
	rows, err := measure(context.Background(), *binary, *quiet)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/link:", err)
		os.Exit(1)
	}
	if *asJSON {
		_ = json.NewEncoder(os.Stdout).Encode(rows) // nowhere to report that standard output is gone
		return
	}
	fmt.Printf("%8s %12s %10s %10s %12s %14s %18s %14s\n", "agents", "server MB", "idle cpu %", "join s", "half back s", "all back s", "kill to all back s", "most per s")
	for _, r := range rows {
		fmt.Printf("%8d %12.1f %10.2f %10.1f %12.1f %14.1f %18.1f %14d\n", r.Agents, r.MemoryMB, r.CPUPercent, r.JoinSeconds, r.HalfSeconds, r.BackSeconds, r.DarkSeconds, r.MostPerSecond)
	}
}

func measure(ctx context.Context, binary string, quiet time.Duration) ([]row, error) {
	dir, err := os.MkdirTemp("", "bench-link-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left of a temporary folder harms nobody
	server, err := newServer(ctx, binary, filepath.Join(dir, "server"))
	if err != nil {
		return nil, err
	}
	defer server.kill()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	crowd := &crowd{server: server}
	var rows []row
	for _, agents := range []int{0, 100, 1000} {
		r, err := step(ctx, server, crowd, agents, quiet)
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// step brings the crowd to so many agents and measures them.
func step(ctx context.Context, server *server, crowd *crowd, agents int, quiet time.Duration) (r row, err error) {
	r.Agents = agents
	began := time.Now()
	if err := crowd.grow(ctx, agents); err != nil {
		return r, err
	}
	r.JoinSeconds = time.Since(began).Seconds()
	before, err := server.cpu()
	if err != nil {
		return r, err
	}
	wait(ctx, quiet)
	after, err := server.cpu()
	if err != nil {
		return r, err
	}
	r.CPUPercent = 100 * (after - before).Seconds() / quiet.Seconds()
	if r.MemoryMB, err = server.memoryMB(); err != nil || agents == 0 {
		return r, err
	}
	crowd.expect()
	killed := time.Now()
	server.kill()
	if err := server.start(ctx); err != nil {
		return r, err
	}
	answered := time.Now()
	half, back, most, err := crowd.allBack(ctx)
	r.HalfSeconds = half.Sub(answered).Seconds()
	r.BackSeconds, r.DarkSeconds, r.MostPerSecond = back.Sub(answered).Seconds(), back.Sub(killed).Seconds(), most
	return r, err
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
