package agent

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Mark is the environment entry that every process of a stack carries, whichever engine starts it. It names the node
// and its data directory: two nodes of one name, as in two rehearsals on one machine, do not find each other's
// processes. No service can set it to something else, and it is not part of what decides whether a service starts anew.
func Mark(node, data string) string { return "HOLDFAST_AGENT=" + node + ":" + data }

// WithMark is an environment with the mark in the place of any other.
func WithMark(env []string, mark string) []string {
	kept := slices.DeleteFunc(slices.Clone(env), func(entry string) bool { return strings.HasPrefix(entry, "HOLDFAST_AGENT=") })
	if mark == "" {
		return kept
	}
	return append(kept, mark)
}

// Marked lists live processes whose first environment holds entry: what was started with it and whatever that started
// in turn, in containers too. Processes of other users are seen by root alone.
func Marked(entry string) []int {
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return nil
	}
	var pids []int
	for _, path := range environs {
		environ, err := os.ReadFile(path)
		if err != nil || !slices.Contains(strings.Split(string(environ), "\x00"), entry) {
			continue // a process that has ended has no environment
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Started gives the start of a live process in clock ticks since boot. A zombie is not alive. Number and start
// together name one process for as long as the machine runs.
func Started(pid int) (ticks uint64, alive bool) {
	fields := statOf(pid)
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0, false
	}
	ticks, err := strconv.ParseUint(fields[19], 10, 64)
	return ticks, err == nil
}

// Paused tells whether a process is stopped by a signal: it does nothing, and hears none but SIGKILL and SIGCONT.
func Paused(pid int) bool {
	fields := statOf(pid)
	return len(fields) > 0 && fields[0] == "T"
}

// statOf is /proc/PID/stat from the state on; empty when there is no such process.
func statOf(pid int) []string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // the program's name may hold blanks and brackets
}
