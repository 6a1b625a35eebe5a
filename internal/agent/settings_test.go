package agent

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/link"
	"holdfast/internal/link/linktest"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

func leases(epoch int64) link.LeasesSetting {
	return link.LeasesSetting{Leases: map[string]step.FenceArgs{"acme": {Epoch: epoch, Node: "a1"}}}
}

func leasesOf(generation int64) link.Setting {
	return link.Setting{Kind: link.SettingLeases, Node: "a1", Generation: generation, BootID: "boot-1"}
}

// heard is what the consumer of leases was given.
type heard struct {
	epoch int64
	fresh bool
}

func TestTheNewestSettingWins(t *testing.T) {
	got := make(chan heard, 100)
	n := up(t, func(c *Config, _ *world) {
		c.Settings.Leases = func(_ context.Context, l link.LeasesSetting, fresh bool) error {
			got <- heard{l.Leases["acme"].Epoch, fresh}
			return nil
		}
	})
	n.setting(t, leasesOf(7), leases(3))
	if h := <-got; h != (heard{3, true}) {
		t.Fatalf("got %+v", h)
	}
	n.setting(t, leasesOf(6), leases(9))
	linktest.Until(t, "the refusal", func() bool { return len(n.register.Events("a1", "setting_refused")) == 1 })
	if e := n.register.Events("a1", "setting_refused")[0]; e.Note != "setting leases of generation 6 was not taken: generation 7 is in force" || e.Labels["kind"] != "leases" {
		t.Fatalf("got %+v", e)
	}
	n.setting(t, leasesOf(7), leases(9)) // the one in force, again: nothing happens
	n.setting(t, leasesOf(8), leases(4))
	if h := <-got; h != (heard{4, true}) {
		t.Fatalf("got %+v", h)
	}
	epochs, err := n.Journal.Epochs(t.Context())
	if err != nil || epochs["acme"] != 4 {
		t.Fatalf("epochs: %v, %v", epochs, err)
	}
	n.send(t, orderOf("boot", nil)) // epoch 3: the leases raised what the node knows
	if u := n.ends(t, "op1/boot/1", 1); u.State != step.Refused || u.ErrorKind != string(problem.Stale) {
		t.Fatalf("got %+v", u)
	}
}

func TestSettingsThatAreRefused(t *testing.T) {
	n := up(t, nil)
	for i, c := range []struct {
		setting link.Setting
		words   string
	}{
		{link.Setting{Kind: link.SettingLeases, Node: "b1", Generation: 1, BootID: "boot-1"}, "setting leases is for node b1, this is a1"},
		{link.Setting{Kind: link.SettingLeases, Node: "a1", Generation: 1, BootID: "boot-0"}, "setting leases is for boot boot-0 of node a1, which is at boot boot-1"},
		{link.Setting{Kind: "shell", Node: "a1", Generation: 1, BootID: "boot-1"}, `setting "shell" is of a kind that this node does not know`},
	} {
		n.setting(t, c.setting, leases(1))
		linktest.Until(t, "the refusal", func() bool { return len(n.register.Events("a1", "setting_refused")) == i+1 })
		if e := n.register.Events("a1", "setting_refused")[i]; e.Note != c.words {
			t.Errorf("got %q, want %q", e.Note, c.words)
		}
	}
	// An order is no setting, and a setting no order, though one key signs both.
	order, err := n.register.Order(orderOf("boot", nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.server.Deliver("a1", link.Delivery{Setting: order.Order}); err != nil {
		t.Fatal(err)
	}
	linktest.Until(t, "the refusal", func() bool { return len(n.register.Events("a1", "setting_refused")) == 4 })
}

// After a boot the node has its old leases, and knows that they may only fence; the same document, issued again for
// the new boot, is then taken.
func TestSettingsOverABoot(t *testing.T) {
	register, server := linktest.Up(t)
	dir := t.TempDir()
	got := make(chan heard, 100)
	config := enter(t, dir, register, server.URL, time.Now)
	config.Steps = newWorld()
	if _, err := config.Journal.PutSetting(t.Context(), link.Setting{Kind: link.SettingLeases, Node: "a1", Generation: 7, BootID: "boot-0",
		Body: []byte(`{"leases":{"acme":{"epoch":3,"node":"a1"}}}`)}); err != nil {
		t.Fatal(err)
	}
	config.Settings.Leases = func(_ context.Context, l link.LeasesSetting, fresh bool) error {
		got <- heard{l.Leases["acme"].Epoch, fresh}
		return nil
	}
	n := &node{Agent: run(t, config), register: register, server: server}
	if h := <-got; h != (heard{3, false}) {
		t.Fatalf("got %+v", h)
	}
	linktest.Until(t, "the agent listens", func() bool { _, ok := server.Session("a1"); return ok })
	n.setting(t, leasesOf(7), leases(3))
	if h := <-got; h != (heard{3, true}) {
		t.Fatalf("got %+v", h)
	}
}

func TestASettingThatIsNotAppliedIsToldAndNotLost(t *testing.T) {
	t.Parallel() // it mostly waits
	var calls atomic.Int64
	n := up(t, func(c *Config, _ *world) {
		c.Settings.Routes = func(context.Context, link.RoutesSetting) error {
			if calls.Add(1) == 1 {
				return errors.New("the edge is not there yet")
			}
			return nil
		}
	})
	n.setting(t, link.Setting{Kind: link.SettingRoutes, Node: "a1", Generation: 1, BootID: "boot-1"}, link.RoutesSetting{})
	linktest.Until(t, "the event", func() bool { return len(n.register.Events("a1", "setting_failed")) == 1 })
	if e := n.register.Events("a1", "setting_failed")[0]; e.Note != "the edge is not there yet" {
		t.Fatalf("got %+v", e)
	}
	linktest.Until(t, "the second try", func() bool { return calls.Load() == 2 })
}
