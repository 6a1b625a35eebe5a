package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/internal/fleet"
	"holdfast/internal/problem"
)

// Facts fills in what the stacks of this node are: engines, capacity, and every instance.
func (s *Stack) Facts(_ context.Context, facts *fleet.NodeFacts) {
	for _, choice := range s.cfg.Engines {
		facts.Engines = append(facts.Engines, choice.Name)
	}
	facts.Address = s.cfg.Address
	facts.Capacity = s.Capacity()
	facts.Instances = s.Instances()
	facts.Faults = append(facts.Faults, s.faults()...)
}

// Instances tells what was last seen of every instance that has a slot here.
func (s *Stack) Instances() map[string]fleet.InstanceFacts {
	all := map[string]fleet.InstanceFacts{}
	for _, inst := range s.list() {
		if slots := inst.slots(); len(slots) > 0 {
			all[inst.name] = inst.facts(slots)
		}
	}
	return all
}

func (i *instance) facts(slots []string) fleet.InstanceFacts {
	i.mu.Lock()
	defer i.mu.Unlock()
	rec, look := i.rec, i.seen[i.rec.Slot]
	facts := fleet.InstanceFacts{
		Instance: i.name, Epoch: rec.Epoch, Slot: rec.Slot, Spec: look.spec.Fingerprint, Release: look.spec.Release,
		Services: slices.Clone(look.services), CanarySeq: i.sequence, CanaryAt: i.ticked,
		ServingFrom: rec.ServingFrom, ServedUntil: rec.ServedUntil,
	}
	for _, slot := range slots {
		if slot != rec.Slot && !slices.Contains(rec.Past, slot) {
			facts.Beside = append(facts.Beside, slot)
		}
	}
	facts.State = stateOf(rec, look)
	if facts.State == fleet.StateRunning || facts.State == fleet.StateDegraded {
		facts.Endpoints = endpoints(look, i.stack.cfg.Address)
	}
	if rec.Fenced {
		facts.Salvage = &fleet.SalvageFacts{CanarySeq: i.sequence, CanaryAt: i.ticked, Slot: rec.Slot}
	}
	return facts
}

// stateOf says in one word how the active slot is.
func stateOf(rec record, look seen) fleet.InstanceState {
	switch {
	case rec.Fenced:
		return fleet.StateFenced
	case rec.Slot == "":
		return fleet.StateBeside
	case rec.Stopped != notStopped:
		return fleet.StateStopped
	case look.running() == 0:
		return fleet.StateStarting
	case look.ready():
		return fleet.StateRunning
	}
	return fleet.StateDegraded
}

// endpoints lists every replica of a port that the edge may use, of services of which something runs. Which replica
// answers is the edge's own question.
func endpoints(look seen, address string) []string {
	var all []string
	for _, service := range look.spec.Services {
		runs := slices.ContainsFunc(look.services, func(f fleet.ServiceFacts) bool { return f.Name == service.Name && f.Running > 0 })
		for _, port := range service.Ports {
			for n := 1; runs && port.Edge && n <= max(1, service.Replicas); n++ {
				all = append(all, net.JoinHostPort(address, strconv.Itoa(look.ports[PortKey(service.Name, port.Name, n)])))
			}
		}
	}
	return all
}

// Capacity tells what the node has and what its instances were promised.
func (s *Stack) Capacity() fleet.Capacity {
	capacity := fleet.Capacity{
		MemoryMB: s.cfg.Limits.MemoryMB, CPUs: float64(runtime.NumCPU()), MaxInstances: s.cfg.Limits.MaxInstances,
	}
	if capacity.MemoryMB == 0 {
		capacity.MemoryMB = machineMemoryMB()
	}
	capacity.DiskMB, capacity.DiskFreeMB = diskMB(s.cfg.Data)
	for _, inst := range s.list() {
		if memory, counts := inst.promised(""); counts {
			capacity.Instances++
			capacity.MemoryUsedMB += memory
		}
	}
	return capacity
}

// promised is the memory that the instance's live slots but one may use; an instance that is fenced or retired
// uses none.
func (i *instance) promised(but string) (memoryMB int64, counts bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for slot, look := range i.seen {
		idle := i.rec.Fenced || i.rec.Stopped == stoppedLong || slices.Contains(i.rec.Past, slot)
		if slot == but || idle && look.running() == 0 {
			continue
		}
		memoryMB += memoryOf(look.spec)
		counts = true
	}
	return memoryMB, counts
}

func memoryOf(spec fleet.Spec) int64 {
	var sum int64
	for _, service := range spec.Services {
		sum += service.MemoryMB * int64(max(1, service.Replicas))
	}
	return sum
}

// fits refuses a spec for which the node has no room in a slot; bytes is what a restore will bring.
func (i *instance) fits(spec fleet.Spec, slot string, bytes int64) error {
	capacity := i.stack.Capacity()
	if all, counts := i.promised(""); counts { // it makes room for itself
		others, _ := i.promised(slot)
		capacity.MemoryUsedMB -= all - others
		capacity.Instances--
	}
	return fitsIn(spec, bytes>>20, i.stack.cfg.Limits.MinFreeMB, i.stack.cfg.Node, capacity)
}

// fitsIn decides whether a node with this capacity takes the spec.
func fitsIn(spec fleet.Spec, needMB, keepMB int64, node string, c fleet.Capacity) error {
	const hint = "place the instance on another node, or give this one more room"
	refuse := func(format string, args ...any) error {
		return problem.New(problem.Unavailable, hint, "instance %s does not fit on node %s: %s", spec.Instance, node, fmt.Sprintf(format, args...))
	}
	if c.MaxInstances > 0 && c.Instances >= c.MaxInstances {
		return refuse("it holds %d of at most %d instances", c.Instances, c.MaxInstances)
	}
	if memory := memoryOf(spec); memory > c.MemoryMB-c.MemoryUsedMB {
		return refuse("it needs %d MB of memory, %d of %d MB are promised to others", memory, c.MemoryUsedMB, c.MemoryMB)
	}
	if c.DiskFreeMB-needMB < keepMB {
		return refuse("it needs %d MB of disk, %d MB are free and %d MB must stay so", needMB, c.DiskFreeMB, keepMB)
	}
	return nil
}

func machineMemoryMB() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kilobytes, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				return 0
			}
			return kilobytes >> 10
		}
	}
	return 0
}

func diskMB(path string) (total, free int64) {
	var stat unix.Statfs_t
	if err := unix.Statfs(filepath.Clean(path), &stat); err != nil {
		return 0, 0
	}
	return int64(stat.Blocks) * stat.Bsize >> 20, int64(stat.Bavail) * stat.Bsize >> 20
}
