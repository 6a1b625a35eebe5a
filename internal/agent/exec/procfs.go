package exec

import (
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
