package agent

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"holdfast/internal/fleet"
)

// canaryName is the file that a tick replaces in every folder of an instance's data. It is part of every snapshot:
// the newest tick found after a restore says how much was lost.
const canaryName = ".holdfast-canary"

// Canary is one tick.
type Canary struct {
	Instance string    `json:"instance"`
	Epoch    int64     `json:"epoch"`
	Sequence int64     `json:"sequence"` // grows by one per tick over the life of the instance, also over restores
	Time     time.Time `json:"time"`
}

// ReadCanary reads the tick of a folder; ok is false when there is none that can be read.
func ReadCanary(folder string) (c Canary, ok bool) {
	body, err := os.ReadFile(filepath.Join(folder, canaryName))
	if err != nil || json.Unmarshal(body, &c) != nil {
		return Canary{}, false
	}
	return c, true
}

// tickLoop ticks every serving instance.
func (s *Stack) tickLoop(ctx context.Context) error {
	ticker := time.NewTicker(s.cfg.Canary)
	defer ticker.Stop()
	for {
		if _, paused := s.pausedSince(); !paused { // a tick is a write, and what is paused takes none
			for _, inst := range s.list() {
				inst.tick()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// tick writes the next canary, if the instance serves here. The lock is held while it writes, so that a fence that
// has returned is never followed by a tick.
func (i *instance) tick() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.rec.Serving || i.rec.Fenced || i.rec.Stopped != notStopped {
		return
	}
	next := Canary{Instance: i.name, Epoch: i.rec.Epoch, Sequence: i.sequence + 1, Time: i.stack.cfg.Now()}
	body, err := json.Marshal(next)
	if err != nil {
		panic(err) // texts, numbers and a time
	}
	for _, folder := range i.canaryFolders(i.rec.Slot, i.seen[i.rec.Slot].spec) {
		if err := replaceFile(filepath.Join(folder, canaryName), body); err != nil {
			i.stack.cfg.Log.Warn("canary not written", "instance", i.name, "error", err)
			return
		}
	}
	i.sequence, i.ticked = next.Sequence, next.Time
}

// canaryFolders is the slot's own folder last: its tick is the newest that is known to be in all of them.
func (i *instance) canaryFolders(slot string, spec fleet.Spec) []string {
	var folders []string
	for _, state := range spec.State {
		if state.Kind == fleet.StateFolder {
			folders = append(folders, filepath.Join(i.slotDir(slot), "state", state.Name))
		}
	}
	return append(folders, filepath.Join(i.slotDir(slot), "canary"))
}

// replaceFile replaces a file in one piece without waiting for the disk: a tick lost with the power is made up for
// by what the server heard, and hundreds of instances tick.
func replaceFile(path string, body []byte) error {
	if err := os.WriteFile(path+".new", body, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// newestCanary is the newest tick found in a slot.
func (i *instance) newestCanary(slot string) Canary {
	spec, _, err := i.readSpec(slot)
	if err != nil {
		spec = fleet.Spec{}
	}
	var newest Canary
	for _, folder := range i.canaryFolders(slot, spec) {
		if c, ok := ReadCanary(folder); ok && c.Sequence > newest.Sequence {
			newest = c
		}
	}
	return newest
}

// commonCanary is the newest tick that every part of a slot's data holds: what a restore brought back for certain.
func (i *instance) commonCanary(slot string) Canary {
	spec, _, err := i.readSpec(slot)
	if err != nil {
		spec = fleet.Spec{}
	}
	var common Canary
	for _, folder := range i.canaryFolders(slot, spec) {
		if c, ok := ReadCanary(folder); ok && (common.Sequence == 0 || c.Sequence < common.Sequence) {
			common = c
		}
	}
	return common
}

// setSequence lets the next tick follow the newest in slot.
func (i *instance) setSequence(slot string) {
	newest := i.newestCanary(slot)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.sequence, i.ticked = newest.Sequence, newest.Time
}

func (i *instance) resumeCanary() {
	if slot := i.now().Slot; slot != "" {
		i.setSequence(slot)
	}
}

// lastTick is the last moment at which the instance is known to have served here.
func (i *instance) lastTick() time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ticked.After(i.rec.ServingFrom) {
		return i.ticked
	}
	return i.rec.ServingFrom // it began and never ticked
}
