package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/lab"
)

// cpuOf gives the processor seconds, user and system, that the processes which name dir in their environment or
// command line have used so far, by program. What has ended is not in it.
func cpuOf(dir string) (map[string]float64, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	used := map[string]float64{}
	for _, entry := range entries {
		args, ok := ofLab(entry.Name(), dir)
		if !ok {
			continue
		}
		if seconds, ok := usedBy(entry.Name()); ok {
			used[nameOf(args)] += seconds
		}
	}
	return used, nil
}

// words are the texts of a file in which each ends with a zero; none when the process has ended.
func words(pid, file string) []string {
	raw, err := os.ReadFile(filepath.Join("/proc", pid, file))
	if err != nil {
		return nil
	}
	var all []string
	for part := range bytes.SplitSeq(bytes.TrimSuffix(raw, []byte{0}), []byte{0}) {
		all = append(all, string(part))
	}
	return all
}

// usedBy reads utime and stime, the 14th and 15th field, in hundredths of a second.
func usedBy(pid string) (seconds float64, ok bool) {
	raw, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return 0, false
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, false
	}
	user, errUser := strconv.ParseFloat(fields[11], 64)
	system, errSystem := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100, errUser == nil && errSystem == nil
}

// nameOf is how a process is shown: its program, what holdfast was started as, and for an agent its node.
func nameOf(args []string) string {
	if len(args) == 0 {
		return "ended"
	}
	name := filepath.Base(args[0])
	if name == "holdfast" && len(args) > 1 {
		name = args[1]
	}
	if at := slices.Index(args, "--node"); at >= 0 && at+1 < len(args) {
		name = args[at+1]
	}
	return name
}

// profiled does something while perf looks at the processes that name dir 997 times a second, and writes what it saw to file.
func profiled(ctx context.Context, dir, file string, do func(context.Context) error) error {
	if file == "" {
		return do(ctx)
	}
	pids, err := pidsOf(dir)
	if err != nil {
		return err
	}
	perf := exec.CommandContext(ctx, "perf", "record", "-q", "-g", "-F", "997", "-o", file, "-p", strings.Join(pids, ","))
	perf.Stderr = os.Stderr
	if err := perf.Start(); err != nil {
		return fmt.Errorf("start perf: %w", err)
	}
	if err := begun(ctx, file); err != nil {
		return err
	}
	failed := do(ctx)
	_ = perf.Process.Signal(os.Interrupt) // it writes its file, and ends with the signal's code
	_ = perf.Wait()
	return failed
}

// begun waits until perf has made its file.
func begun(ctx context.Context, file string) error {
	return lab.Until(ctx, 10*time.Second, 50*time.Millisecond, "see perf begin", func() (bool, string) {
		info, err := os.Stat(file)
		return err == nil && time.Since(info.ModTime()) < 10*time.Second, fmt.Sprint(err)
	})
}

// pidsOf lists the processes that name dir in their environment or command line, and says which is which.
func pidsOf(dir string) ([]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []string
	for _, entry := range entries {
		if args, ok := ofLab(entry.Name(), dir); ok {
			pids = append(pids, entry.Name())
			fmt.Fprintln(os.Stderr, "bench/recovery: process", entry.Name(), "is", nameOf(args))
		}
	}
	return pids, nil
}

// ofLab tells whether a process names dir in its environment or command line, and gives the latter.
func ofLab(pid, dir string) (args []string, ok bool) {
	if number, err := strconv.Atoi(pid); err != nil || number == os.Getpid() {
		return nil, false
	}
	args = words(pid, "cmdline")
	return args, slices.ContainsFunc(append(words(pid, "environ"), args...), func(w string) bool { return strings.Contains(w, dir) })
}

// less is what was used between two looks.
func less(after, before map[string]float64) map[string]float64 {
	used := map[string]float64{}
	for name, seconds := range after {
		used[name] = seconds - before[name]
	}
	return used
}

func total(used map[string]float64) (sum float64) {
	for _, seconds := range used {
		sum += seconds
	}
	return sum
}
