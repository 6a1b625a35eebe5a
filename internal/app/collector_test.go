package app

import "testing"

func TestASmallHeapGrowsToTheFloorAndALargeOneAsEver(t *testing.T) {
	for _, c := range []struct {
		live, floor uint64
		percent     int
	}{
		{0, 64 << 20, 400},
		{1 << 20, 64 << 20, 400}, // not to the floor at once: a heap of 1 MB has no use for 64
		{16 << 20, 64 << 20, 300},
		{24 << 20, 72 << 20, 200},
		{32 << 20, 64 << 20, 100},
		{64 << 20, 64 << 20, 100},
		{200 << 20, 64 << 20, 100},
	} {
		if got := growth(c.live, c.floor); got != c.percent {
			t.Errorf("a heap of %d MB with a floor of %d MB may grow by %d %%, want %d", c.live>>20, c.floor>>20, got, c.percent)
		}
	}
}
