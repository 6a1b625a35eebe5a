package exec

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// bootID tells one run of the machine from the next: a process number means nothing across them.
func bootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text)), err
}

// started gives the start of a live process in clock ticks since boot. A zombie is not alive. Number and start
// together name one process for as long as the machine runs.
func started(pid int) (ticks uint64, alive bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	end := bytes.LastIndexByte(stat, ')') // the program's name may hold blanks and brackets
	fields := strings.Fields(string(stat[end+1:]))
	if end < 0 || len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0, false
	}
	ticks, err = strconv.ParseUint(fields[19], 10, 64)
	return ticks, err == nil
}

// residentMB is the memory that a process and its descendants hold.
func residentMB(pid int) int64 {
	return residentPages(pid, 0) * int64(os.Getpagesize()) >> 20
}

func residentPages(pid, depth int) int64 {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	fields := strings.Fields(string(statm))
	if err != nil || len(fields) < 2 || depth > 8 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return pages
	}
	for _, child := range strings.Fields(string(children)) {
		if number, err := strconv.Atoi(child); err == nil {
			pages += residentPages(number, depth+1)
		}
	}
	return pages
}
