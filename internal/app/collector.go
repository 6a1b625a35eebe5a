package app

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// How large a process's heap may become before garbage is collected at all, in bytes. Go begins to collect at 4 MB,
// which a recovery fills a hundred times in a second or two; what a large heap does stays as it is.
const (
	serverFloor = 64 << 20
	agentFloor  = 12 << 20 // an idle agent stays below 40 MB
)

// collectRarely lets this process's heap grow to floor before garbage is collected, and to twice what is in use where
// that is more. An operator's own GOGC stands.
func collectRarely(floor uint64) {
	if os.Getenv("GOGC") == "" {
		retune(pace{floor: floor})
	}
}

// pace is by how many percent the heap may grow now, for its floor.
type pace struct {
	floor   uint64
	percent int
}

// retune sets the pace by what the last collection left in use, and does so again after the next one: that is when an
// object nobody holds is found. A pace that stays is not set again, as that stops all goroutines for a moment.
func retune(p pace) {
	if percent := growth(inUse(), p.floor); percent != p.percent {
		debug.SetGCPercent(percent)
		p.percent = percent
	}
	runtime.AddCleanup(new([16]byte), retune, p)
}

// growth is by how many percent a heap of live bytes may grow: to floor, or to twice its size if that is more.
func growth(live, floor uint64) int {
	const usual, most = 100, 400
	if live == 0 {
		return most // nothing was collected yet
	}
	return int(min(most, max(usual, 100*floor/live-min(100, 100*floor/live))))
}

// inUse is what the last collection found in use, in bytes.
func inUse() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}
