package agent_test

import (
	"os"
	"testing"

	"holdfast/internal/fleet"
	"holdfast/internal/step"
)

// A restore on another node that was claimed and could not be switched to: the writer comes back to the node that was
// fenced for it, which serves the data that it had; the copy that never served can be discarded where it is.
func TestWriterComesBackAfterASwitchThatFailed(t *testing.T) {
	w := newWorld(t)
	home, away := w.node("a1"), w.node("b1")
	spec := w.spec("acme")
	home.deploy(spec, 1)
	home.awaitState("acme", fleet.StateRunning)
	home.fill("acme", "s1", "one")
	backup := home.backup(spec, 1)
	away.do(step.Fetch, "acme", 1, away.fetchArgs(spec, "s2", backup))
	away.do(step.Load, "acme", 1, step.SlotArgs{Slot: "s2"})
	home.do(step.Fence, "acme", 2, step.FenceArgs{Epoch: 2, Node: "b1"})
	home.awaitState("acme", fleet.StateFenced)

	away.do(step.Discard, "acme", 3, step.SlotArgs{Slot: "s2"})
	if _, err := os.Stat(away.slotPath("acme", "s2")); !os.IsNotExist(err) {
		t.Errorf("the copy that never served is there: %v", err)
	}
	home.lease("acme", 3, "a1")
	home.do(step.Boot, "acme", 3, step.BootArgs{Spec: spec, Slot: "s1", Secrets: home.secrets()})
	home.do(step.Switch, "acme", 3, step.SwitchArgs{Slot: "s1", Epoch: 3})
	if facts := home.awaitState("acme", fleet.StateRunning); facts.Slot != "s1" || facts.Epoch != 3 || home.mustAsk("acme", "/count") != "1" {
		t.Errorf("back where it was: %+v", facts)
	}
	noTwoWriters(t, home, away)
}
