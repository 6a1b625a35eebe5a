// Command agent measures what an idle agent costs its node: resident memory and processor time of the slim build and
// of the whole binary, while it is connected to a server.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"holdfast/internal/link/linktest"
)

// row is one measurement.
type row struct {
	Program    string  `json:"program"`
	FileMB     float64 `json:"file_mb"`
	MemoryMB   float64 `json:"resident_mb"`
	PrivateMB  float64 `json:"private_mb"` // without the pages of the program's own file, which the system can drop
	CPUPercent float64 `json:"cpu_percent_of_a_core"`
}

func main() {
	asJSON := flag.Bool("json", false, "print JSON")
	folder := flag.String("bin", "bin", "where holdfast and holdfast-agent are (make build)")
	quiet := flag.Duration("idle", 30*time.Second, "how long idle processor time is measured")
	flag.Parse()
	var rows []row
	for _, name := range []string{"holdfast-agent", "holdfast"} {
		r, err := measure(context.Background(), filepath.Join(*folder, name), *quiet)
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench/agent:", err)
			os.Exit(1)
		}
		rows = append(rows, r)
	}
	if *asJSON {
		_ = json.NewEncoder(os.Stdout).Encode(rows) // nowhere to report that standard output is gone
		return
	}
	fmt.Printf("%-16s %8s %12s %12s %8s\n", "program", "file MB", "resident MB", "private MB", "cpu %")
	for _, r := range rows {
		fmt.Printf("%-16s %8.1f %12.1f %12.1f %8.2f\n", r.Program, r.FileMB, r.MemoryMB, r.PrivateMB, r.CPUPercent)
	}
}

func measure(ctx context.Context, program string, quiet time.Duration) (r row, err error) {
	info, err := os.Stat(program)
	if err != nil {
		return r, fmt.Errorf("find the program (make build): %w", err)
	}
	r.Program, r.FileMB = filepath.Base(program), float64(info.Size())/(1<<20)
	authority, err := linktest.NewAuthority()
	if err != nil {
		return r, err
	}
	register := linktest.NewRegister(authority)
	server, err := linktest.Start(authority, register.Gate(), "")
	if err != nil {
		return r, err
	}
	defer server.Kill()
	dir, err := os.MkdirTemp("", "bench-agent-")
	if err != nil {
		return r, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left of a temporary folder harms nobody
	agent := exec.CommandContext(ctx, program, "agent", "--server", server.URL, "--join", register.Token("n1"),
		"--data", dir, "--node", "n1", "--site", "bench", "--roles", "run,spare", "--address", "127.0.0.1")
	if err := agent.Start(); err != nil {
		return r, err
	}
	defer func() { _ = agent.Process.Kill(); _ = agent.Wait() }() // it says "killed"
	if err := settled(server); err != nil {
		return r, err
	}
	return r, r.read(agent.Process.Pid, quiet)
}

// settled waits until the agent listens, and until its start is behind it.
func settled(server *linktest.Server) error {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); <-time.After(50 * time.Millisecond) {
		if _, ok := server.Session("n1"); ok {
			<-time.After(5 * time.Second)
			return nil
		}
	}
	return errors.New("the agent did not connect within 30 seconds")
}

func (r *row) read(pid int, quiet time.Duration) error {
	before, err := cpu(pid)
	if err != nil {
		return err
	}
	<-time.After(quiet)
	after, err := cpu(pid)
	if err != nil {
		return err
	}
	r.CPUPercent = 100 * (after - before).Seconds() / quiet.Seconds()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		var name string
		var kB float64
		if _, err := fmt.Sscanf(lines.Text(), "%s %f kB", &name, &kB); err != nil {
			continue // a line that is no size
		}
		switch name {
		case "VmRSS:":
			r.MemoryMB = kB / 1024
		case "RssAnon:":
			r.PrivateMB = kB / 1024
		}
	}
	return nil
}

// cpu is the processor time that a process has used.
func cpu(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	var user, system int64
	if _, err := fmt.Sscan(strings.Join(strings.Fields(rest)[11:13], " "), &user, &system); err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	return time.Duration(user+system) * (time.Second / 100), nil // in clock ticks of 10 ms
}
