package recovery

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func drawNeeds(t *rapid.T, most int) []Need {
	needs := make([]Need, rapid.IntRange(0, most).Draw(t, "needs"))
	for i := range needs {
		needs[i] = Need{
			Instance: fmt.Sprintf("i%02d", i),
			Tier:     rapid.IntRange(0, 2).Draw(t, "tier"),
			MemoryMB: int64(rapid.IntRange(1, 6).Draw(t, "memory")),
			DiskMB:   int64(rapid.IntRange(1, 6).Draw(t, "disk")),
			Engines:  rapid.SampledFrom([][]string{nil, {"exec"}, {"docker"}, {"exec", "docker"}}).Draw(t, "engines"),
			Restore:  time.Duration(rapid.IntRange(1, 9).Draw(t, "restore")) * time.Second,
		}
	}
	return needs
}

func drawRooms(t *rapid.T, most int) []Room {
	rooms := make([]Room, rapid.IntRange(0, most).Draw(t, "rooms"))
	for i := range rooms {
		rooms[i] = Room{
			Node:     fmt.Sprintf("n%d", i),
			MemoryMB: int64(rapid.IntRange(0, 14).Draw(t, "free memory")),
			DiskMB:   int64(rapid.IntRange(0, 14).Draw(t, "free disk")),
			Slots:    rapid.SampledFrom([]int{-1, -1, 0, 1, 2}).Draw(t, "slots"),
			Engines:  rapid.SampledFrom([][]string{nil, {"exec"}, {"docker"}, {"exec", "docker"}}).Draw(t, "engines"),
		}
	}
	return rooms
}

// fits tries every way to give the needs rooms, with none of Place's code.
func fits(needs []Need, rooms []Room) bool {
	ways := 1
	for range needs {
		ways *= len(rooms)
	}
	for way := range ways {
		if wayFits(needs, rooms, way) {
			return true
		}
	}
	return false
}

func wayFits(needs []Need, rooms []Room, way int) bool {
	memory, disk, count := make([]int64, len(rooms)), make([]int64, len(rooms)), make([]int, len(rooms))
	for _, n := range needs {
		r := way % len(rooms)
		way /= len(rooms)
		memory[r] += n.MemoryMB
		disk[r] += n.DiskMB
		count[r]++
		if len(n.Engines) > 0 && rooms[r].Engines != nil && !slices.ContainsFunc(n.Engines, func(e string) bool { return slices.Contains(rooms[r].Engines, e) }) {
			return false
		}
	}
	for i, r := range rooms {
		if memory[i] > r.MemoryMB || disk[i] > r.DiskMB || (r.Slots >= 0 && count[i] > r.Slots) {
			return false
		}
	}
	return true
}

// Place finds room for everything exactly when there is some, and otherwise keeps what an exhaustive search keeps
// when it takes the needs in order.
func TestPlaceAgainstBruteForce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		needs, rooms := drawNeeds(t, 5), drawRooms(t, 3)
		placed, unplaced := Place(needs, rooms)
		if len(placed)+len(unplaced) != len(needs) {
			t.Fatalf("%d placed and %d not, of %d", len(placed), len(unplaced), len(needs))
		}
		var kept []Need
		for _, n := range inOrder(needs) {
			isPlaced := slices.ContainsFunc(placed, func(a Assignment) bool { return a.Instance == n.Instance })
			if could := fits(append(slices.Clone(kept), n), rooms); could != isPlaced {
				t.Fatalf("%s: placed %v, a packing exists %v\n%+v\n%+v", n.Instance, isPlaced, could, needs, rooms)
			}
			if isPlaced {
				kept = append(kept, n)
			}
		}
	})
}

func TestPlaceNeverOverfills(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		needs, rooms := drawNeeds(t, 40), drawRooms(t, 6)
		placed, _ := Place(needs, rooms)
		byName := map[string]Need{}
		for _, n := range needs {
			byName[n.Instance] = n
		}
		for _, room := range rooms {
			var here []Need
			for _, a := range placed {
				if a.Node == room.Node {
					here = append(here, byName[a.Instance])
				}
			}
			if len(here) > 0 && !wayFits(here, []Room{room}, 0) {
				t.Fatalf("%s takes %+v into %+v", room.Node, here, room)
			}
		}
	})
}

func TestPlaceIgnoresTheOrderOfItsInput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		needs, rooms := drawNeeds(t, 12), drawRooms(t, 4)
		want, wantNot := Place(needs, rooms)
		shuffle := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		shuffle.Shuffle(len(needs), func(i, j int) { needs[i], needs[j] = needs[j], needs[i] })
		shuffle.Shuffle(len(rooms), func(i, j int) { rooms[i], rooms[j] = rooms[j], rooms[i] })
		got, gotNot := Place(needs, rooms)
		if d := cmp.Diff(want, got) + cmp.Diff(wantNot, gotNot); d != "" {
			t.Fatal(d)
		}
	})
}

// With room to spare, longest-first onto the node that is free soonest ends within 4/3 of the best possible.
func TestPlaceSpreads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		needs := drawNeeds(t, 6)
		rooms := []Room{{Node: "a", MemoryMB: 99, DiskMB: 99, Slots: -1}, {Node: "b", MemoryMB: 99, DiskMB: 99, Slots: -1}, {Node: "c", MemoryMB: 99, DiskMB: 99, Slots: -1}}
		for i := range needs {
			needs[i].Tier = 0
		}
		placed, unplaced := Place(needs, rooms)
		var last time.Duration
		for _, a := range placed {
			last = max(last, a.Ends)
		}
		if best := bestEnd(needs, len(rooms)); len(unplaced) > 0 || 3*last > 4*best {
			t.Fatalf("ends after %s, the best is %s, unplaced %v", last, best, unplaced)
		}
	})
}

func bestEnd(needs []Need, rooms int) time.Duration {
	ways := 1
	for range needs {
		ways *= rooms
	}
	best := time.Duration(1 << 62)
	for way := range ways {
		ends := make([]time.Duration, rooms)
		for _, n := range needs {
			ends[way%rooms] += n.Restore
			way /= rooms
		}
		best = min(best, slices.Max(ends))
	}
	return best
}

func TestPlaceTiersFirst(t *testing.T) {
	needs := []Need{
		{Instance: "slow-silver", Tier: 1, MemoryMB: 10, Restore: time.Hour},
		{Instance: "quick-gold", Tier: 0, MemoryMB: 10, Restore: time.Second},
		{Instance: "slow-gold", Tier: 0, MemoryMB: 10, Restore: time.Minute},
	}
	placed, unplaced := Place(needs, []Room{{Node: "n1", Site: "lyon", MemoryMB: 20, Slots: -1}})
	var order []string
	for _, a := range placed {
		order = append(order, a.Instance)
	}
	if d := cmp.Diff([]string{"slow-gold", "quick-gold"}, order); d != "" {
		t.Error(d)
	}
	if len(unplaced) != 1 || unplaced[0].Instance != "slow-silver" || !strings.Contains(unplaced[0].Why, "it needs 10 MB of memory") {
		t.Errorf("unplaced: %+v", unplaced)
	}
}

func BenchmarkPlace200(b *testing.B) {
	needs, rooms := make([]Need, 200), make([]Room, 20)
	for i := range needs {
		needs[i] = Need{Instance: fmt.Sprint(i), Tier: i % 3, MemoryMB: int64(i%7 + 1), DiskMB: 1, Restore: time.Duration(i%11) * time.Second}
	}
	for i := range rooms {
		rooms[i] = Room{Node: fmt.Sprint(i), MemoryMB: 30, DiskMB: 30, Slots: -1}
	}
	for b.Loop() {
		Place(needs, rooms)
	}
}
