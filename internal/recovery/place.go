package recovery

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Need is what one instance takes on a node that rebuilds it.
type Need struct {
	Instance string        `json:"instance"`
	Tier     int           `json:"tier"` // 0 is rebuilt first
	MemoryMB int64         `json:"memory_mb"`
	DiskMB   int64         `json:"disk_mb"`
	Engines  []string      `json:"engines,omitempty"` // exec, docker: one of them is enough; none runs anywhere
	Restore  time.Duration `json:"restore"`           // estimated
}

// Room is what one node still offers, headroom already taken off.
type Room struct {
	Node     string   `json:"node"`
	Site     string   `json:"site"`
	MemoryMB int64    `json:"memory_mb"`
	DiskMB   int64    `json:"disk_mb"`
	Slots    int      `json:"slots"` // instances it may still take; negative = only memory and disk decide
	Engines  []string `json:"engines,omitempty"`
}

// Assignment puts one instance on one node. Ends is the estimated time from the start until it is restored there,
// when the node restores one instance after the other.
type Assignment struct {
	Instance string        `json:"instance"`
	Node     string        `json:"node"`
	Site     string        `json:"site"`
	Tier     int           `json:"tier"`
	Restore  time.Duration `json:"restore"`
	Ends     time.Duration `json:"ends"`
}

// Unplaced is an instance for which no room was found, and why.
type Unplaced struct {
	Instance string `json:"instance"`
	Why      string `json:"why"`
}

// searchBudget bounds the search for a packing. The first path of the search is the spread that a person would
// choose; the rest only matters when memory or disk are scarce, and then a bound beats an exact answer next year.
const searchBudget = 20_000

// Place gives every need a node, tiers in order, the longest restore first inside a tier, each to the node that is
// free soonest. The assignments are in the order of work. When not all fit, earlier tiers win, and what is left is
// unplaced with a reason. The same input, in any order, gives the same output.
func Place(needs []Need, rooms []Room) ([]Assignment, []Unplaced) {
	needs, rooms = inOrder(needs), byNode(rooms)
	if placed, ok := pack(needs, rooms); ok {
		return placed, nil
	}
	return placeSome(needs, rooms)
}

// placeSome takes one need after the other, in order, and keeps each that still leaves a packing.
func placeSome(needs []Need, rooms []Room) ([]Assignment, []Unplaced) {
	var kept []Need
	var placed []Assignment
	var unplaced []Unplaced
	for _, need := range needs {
		with, ok := pack(append(slices.Clone(kept), need), rooms)
		if !ok {
			unplaced = append(unplaced, Unplaced{need.Instance, whyNot(need, rooms)})
			continue
		}
		kept, placed = append(kept, need), with
	}
	return placed, unplaced
}

// inOrder sorts by tier, then the longest restore first, then by name.
func inOrder(needs []Need) []Need {
	return slices.SortedFunc(slices.Values(needs), func(a, b Need) int {
		return cmp.Or(cmp.Compare(a.Tier, b.Tier), cmp.Compare(b.Restore, a.Restore), cmp.Compare(a.Instance, b.Instance))
	})
}

func byNode(rooms []Room) []Room {
	return slices.SortedFunc(slices.Values(rooms), func(a, b Room) int { return cmp.Compare(a.Node, b.Node) })
}

// packing is a search for a room for every need: rooms shrink on the way down and grow back on the way up.
type packing struct {
	needs  []Need
	rooms  []Room
	queued []time.Duration // by room: the restores it already has
	chosen []Assignment
	budget int
}

func pack(needs []Need, rooms []Room) ([]Assignment, bool) {
	p := &packing{needs: needs, rooms: slices.Clone(rooms), queued: make([]time.Duration, len(rooms)), budget: searchBudget}
	if !p.from(0) {
		return nil, false
	}
	return p.chosen, true
}

// from places needs[i:], and tells whether it could.
func (p *packing) from(i int) bool {
	if i == len(p.needs) {
		return true
	}
	for _, r := range p.soonest() {
		if p.budget--; p.budget < 0 {
			return false
		}
		if !p.rooms[r].takes(p.needs[i]) {
			continue
		}
		p.take(r, p.needs[i])
		if p.from(i + 1) {
			return true
		}
		p.giveBack(r, p.needs[i])
	}
	return false
}

// soonest lists the rooms by when they are free, then by the memory they have left, then by name.
func (p *packing) soonest() []int {
	order := make([]int, len(p.rooms))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(p.queued[a], p.queued[b]), cmp.Compare(p.rooms[b].MemoryMB, p.rooms[a].MemoryMB))
	})
	return order
}

func (p *packing) take(r int, n Need) {
	room := &p.rooms[r]
	room.MemoryMB -= n.MemoryMB
	room.DiskMB -= n.DiskMB
	room.Slots--
	p.queued[r] += n.Restore
	p.chosen = append(p.chosen, Assignment{
		Instance: n.Instance, Node: room.Node, Site: room.Site, Tier: n.Tier, Restore: n.Restore, Ends: p.queued[r],
	})
}

func (p *packing) giveBack(r int, n Need) {
	room := &p.rooms[r]
	room.MemoryMB += n.MemoryMB
	room.DiskMB += n.DiskMB
	room.Slots++
	p.queued[r] -= n.Restore
	p.chosen = p.chosen[:len(p.chosen)-1]
}

// takes tells whether the need fits. Slots counts down through 0 only where it is a limit: a room without a limit
// starts negative and stays so.
func (r Room) takes(n Need) bool {
	return n.MemoryMB <= r.MemoryMB && n.DiskMB <= r.DiskMB && r.Slots != 0 && r.runs(n.Engines)
}

func (r Room) runs(engines []string) bool {
	return len(engines) == 0 || len(r.Engines) == 0 || slices.ContainsFunc(engines, func(e string) bool { return slices.Contains(r.Engines, e) })
}

// whyNot says what the need asks and what the freest node has before anything is placed on it.
func whyNot(n Need, rooms []Room) string {
	if len(rooms) == 0 {
		return "no target node is known"
	}
	if !slices.ContainsFunc(rooms, func(r Room) bool { return r.runs(n.Engines) }) {
		return fmt.Sprintf("no target node has the engine %s", strings.Join(n.Engines, " or "))
	}
	free := slices.MaxFunc(rooms, func(a, b Room) int { return cmp.Compare(a.MemoryMB, b.MemoryMB) })
	return fmt.Sprintf("it needs %d MB of memory and %d MB of disk; what comes before it fills the %d target nodes (the freest, %s, starts with %d MB and %d MB)",
		n.MemoryMB, n.DiskMB, len(rooms), free.Node, free.MemoryMB, free.DiskMB)
}
