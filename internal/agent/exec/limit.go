package exec

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// cpuPeriod is the kernel's usual accounting period for CPU shares, in microseconds.
const cpuPeriod = 100_000

// limiter puts processes into control groups where this system lets us. Where it does not, memory is watched by the
// agent, which ends a service that outgrows its limit, and CPU is not limited; Status says so for each service.
type limiter struct {
	memory string // folder for our memory groups; "" = none
	cpu    string // folder for our CPU groups; "" = none
	v2     bool
}

// findLimiter tries what the system offers: version 2 with both controllers in one tree, else version 1.
func findLimiter(root, node string) limiter {
	if controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers")); err == nil && hasAll(string(controllers), "memory", "cpu") {
		dir := filepath.Join(root, "holdfast-"+node)
		if makeGroup(dir) == nil && os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+memory +cpu"), 0o644) == nil {
			return limiter{memory: dir, cpu: dir, v2: true}
		}
	}
	return limiter{memory: v1Group(root, "memory", node), cpu: v1Group(root, "cpu", node)}
}

func hasAll(text string, words ...string) bool {
	have := strings.Fields(text)
	for _, word := range words {
		found := false
		for _, h := range have {
			found = found || h == word
		}
		if !found {
			return false
		}
	}
	return true
}

func v1Group(root, controller, node string) string {
	if _, err := os.Stat(filepath.Join(root, controller, "cgroup.procs")); err != nil {
		return ""
	}
	dir := filepath.Join(root, controller, "holdfast-"+node)
	if makeGroup(dir) != nil {
		return ""
	}
	return dir
}

func makeGroup(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		return err
	}
	return nil
}

// apply limits a process that has just started. What the process starts in its first moment, before it is moved,
// stays outside; the watch on memory still counts it.
func (l limiter) apply(plan launch, pid int) {
	if plan.MemoryMB > 0 && l.memory != "" {
		l.join(l.memory, plan.path, pid, l.memoryFile(), strconv.FormatInt(plan.MemoryMB<<20, 10))
	}
	if plan.CPUs > 0 && l.cpu != "" {
		file, value := l.cpuFile(plan.CPUs)
		l.join(l.cpu, plan.path, pid, file, value)
	}
}

func (l limiter) memoryFile() string {
	if l.v2 {
		return "memory.max"
	}
	return "memory.limit_in_bytes"
}

func (l limiter) cpuFile(cpus float64) (file, value string) {
	quota := max(1000, int(cpus*cpuPeriod))
	if l.v2 {
		return "cpu.max", fmt.Sprintf("%d %d", quota, cpuPeriod)
	}
	return "cpu.cfs_quota_us", strconv.Itoa(quota)
}

// join is best effort: holds tells afterwards, from the kernel's own list, whether it worked.
func (l limiter) join(parent, path string, pid int, file, value string) {
	dir := groupOf(parent, path)
	if makeGroup(dir) != nil || os.WriteFile(filepath.Join(dir, file), []byte(value), 0o644) != nil {
		return
	}
	_ = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644)
}

// holds tells whether the kernel lists pid in the replica's group under parent.
func (l limiter) holds(parent, path string, pid int) bool {
	if parent == "" {
		return false
	}
	procs, err := os.ReadFile(filepath.Join(groupOf(parent, path), "cgroup.procs"))
	return err == nil && hasAll(string(procs), strconv.Itoa(pid))
}

// unenforced says in words which limits of the launch the kernel does not hold.
func (l limiter) unenforced(plan launch, pid int) []string {
	var words []string
	if plan.MemoryMB > 0 && !l.holds(l.memory, plan.path, pid) {
		words = append(words, "memory limit is watched by the agent: no control group here")
	}
	if plan.CPUs > 0 && !l.holds(l.cpu, plan.path, pid) {
		words = append(words, "CPU limit is not enforced: no control group here")
	}
	return words
}

// remove takes the replica's groups away once it has ended.
func (l limiter) remove(path string) {
	for _, parent := range []string{l.memory, l.cpu} {
		if parent != "" {
			_ = os.Remove(groupOf(parent, path)) // absent, or still busy: the next start uses it again
		}
	}
}

// groupOf names the replica's group: note paths are unique on a node and too long for a folder name.
func groupOf(parent, path string) string {
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(parent, hex.EncodeToString(sum[:8]))
}
