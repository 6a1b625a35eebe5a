package adopt

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"holdfast/internal/fleet"
	"holdfast/internal/op"
	"holdfast/internal/step"
)

// Found is where an instance was found to be.
type Found struct {
	op.Adopted
	Secrets []byte `json:"-"`              // of the copy that Content is of, sealed to the server
	Note    string `json:"note,omitempty"` // what a person should know of it
}

// Decide finds where each instance's one writer is, from what the nodes say: the newest lease that any of them has heard
// names it, at its epoch. A copy that is fenced, or under an older lease, never becomes the writer again by being seen. A
// writer that is not among the nodes keeps its place, so that nobody starts a second copy; sites names where nodes are.
func Decide(found map[string]step.SurveyResult, sites map[string]string) []Found {
	copies := map[string]map[string]step.SurveyedInstance{}
	for node, result := range found {
		for _, c := range result.Instances {
			if copies[c.Instance] == nil {
				copies[c.Instance] = map[string]step.SurveyedInstance{}
			}
			copies[c.Instance][node] = c
		}
	}
	var all []Found
	for _, instance := range slices.Sorted(maps.Keys(copies)) {
		if a, ok := decide(instance, copies[instance], sites); ok {
			all = append(all, a)
		}
	}
	return all
}

// decide is Decide for the copies of one instance, by node. It is not ok when none of them was ever active.
func decide(instance string, copies map[string]step.SurveyedInstance, sites map[string]string) (a Found, ok bool) {
	nodes := slices.SortedFunc(maps.Keys(copies), func(x, y string) int {
		return cmp.Or(cmp.Compare(newest(copies[y]), newest(copies[x])), cmp.Compare(copies[y].Epoch, copies[x].Epoch), cmp.Compare(x, y))
	})
	lease := leaseOf(copies[nodes[0]], nodes[0])
	for _, node := range nodes {
		a.LastNo = max(a.LastNo, lastSlot(copies[node].Slots))
		ok = ok || copies[node].Slot != ""
	}
	writer := lease.Node
	if writer == "" {
		writer = nodes[0]
	}
	held := copies[writer]
	a.Placement = fleet.Placement{Instance: instance, Node: writer, Site: sites[writer], Epoch: lease.Epoch, Slot: held.Slot, Retired: lease.Node == "" || held.Retired, Booted: true}
	from := writer
	switch {
	case lease.Node == "":
		a.Note = "it was retired"
	case held.Slot == "" || held.Fenced:
		a.Slot, from = "", nodes[0]
		a.Note = "its writer is node " + writer + ", which does not show the copy"
	}
	if copies[from].Slot != "" {
		a.Content, a.Secrets = copies[from].Spec, copies[from].Secrets
		a.Spec, a.Release = a.Content.Fingerprint, a.Content.Release
	}
	for _, node := range nodes {
		if node != writer {
			a.Former = append(a.Former, node)
		}
	}
	slices.Sort(a.Former)
	return a, ok
}

// newest is the newest epoch that a copy knows of.
func newest(c step.SurveyedInstance) int64 { return max(c.Epoch, c.Lease.Epoch) }

// leaseOf is what a copy knows of the writer: the lease it has heard, or itself when none is newer than its own start.
func leaseOf(c step.SurveyedInstance, node string) step.FenceArgs {
	if c.Lease.Epoch >= c.Epoch && c.Lease.Epoch > 0 {
		return c.Lease
	}
	return step.FenceArgs{Epoch: c.Epoch, Node: node}
}

func lastSlot(slots []string) (last int64) {
	for _, slot := range slots {
		if n, err := strconv.ParseInt(strings.TrimPrefix(slot, "s"), 10, 64); err == nil {
			last = max(last, n)
		}
	}
	return last
}
