package observe

import (
	"context"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/op"
	"holdfast/internal/step"
)

// world has acme on a1 at epoch 2, which was on b1 before, and nothing else.
func world() World {
	spec := fleet.Spec{
		Instance: "acme", Fingerprint: "f1", Hosts: []string{"acme.test", "www.acme.test"}, Backup: fleet.BackupPolicy{Vault: "vb"},
		Services: []fleet.Service{
			{Name: "db", Ports: []fleet.Port{{Name: "sql"}}, Readiness: &fleet.Probe{TCP: true}},
			{Name: "api", Ports: []fleet.Port{{Name: "http", Edge: true}}, Readiness: &fleet.Probe{HTTP: "/readiness"}},
		},
	}
	run := []fleet.Role{fleet.RoleRun}
	return World{
		Inventory: fleet.Inventory{
			Nodes: map[string]fleet.NodeFacts{
				"a1": {Node: "a1", Site: "a", Roles: run, SSHKey: "ssh-a1", Instances: map[string]fleet.InstanceFacts{
					"acme": {Epoch: 2, Slot: "s2", State: fleet.StateRunning, Endpoints: []string{"10.0.0.1:2", "10.0.0.1:1"}},
				}},
				"b1":  {Node: "b1", Site: "b", Roles: run, SSHKey: "ssh-b1"},
				"b2":  {Node: "b2", Site: "b", Roles: run, SSHKey: "ssh-b2"},
				"vb":  {Node: "vb", Site: "b", Roles: []fleet.Role{fleet.RoleVault}},
				"e1":  {Node: "e1", Site: "o", Roles: []fleet.Role{fleet.RoleEdge}, EdgeAddr: "10.0.9.1:443"},
				"p-a": {Node: "p-a", Site: "a", Roles: []fleet.Role{fleet.RoleProbe}},
				"p-o": {Node: "p-o", Site: "o", Roles: []fleet.Role{fleet.RoleProbe}},
			},
			Placements: map[string]fleet.Placement{"acme": {Instance: "acme", Node: "a1", Site: "a", Epoch: 2, Slot: "s2", Spec: "f1"}},
		},
		Former: map[string][]string{"acme": {"b1"}},
		Specs:  map[string]fleet.Spec{"acme": spec},
		Asking: Asking{Interval: time.Second, Timeout: time.Second},
	}
}

func TestLeasesNameTheOneWriter(t *testing.T) {
	w := world()
	one := link.LeasesSetting{Leases: map[string]step.FenceArgs{"acme": {Epoch: 2, Node: "a1"}}}
	none := link.LeasesSetting{Leases: map[string]step.FenceArgs{}}
	for node, want := range map[string]link.LeasesSetting{"a1": one, "b1": one, "b2": none} {
		if diff := cmp.Diff(want, w.Leases(node)); diff != "" {
			t.Errorf("leases of %s (-want +got):\n%s", node, diff)
		}
	}
	b2 := w.Nodes["b2"]
	b2.Instances = map[string]fleet.InstanceFacts{"acme": {Epoch: 1}}
	w.Nodes["b2"] = b2
	if diff := cmp.Diff(one, w.Leases("b2")); diff != "" {
		t.Errorf("leases of a node that holds an old copy (-want +got):\n%s", diff)
	}
	p := w.Placements["acme"]
	p.Retired = true
	w.Placements["acme"] = p
	if got := w.Leases("a1").Leases["acme"]; got.Node != "" || got.Epoch != 2 {
		t.Errorf("a retired instance is leased to %+v", got)
	}
}

func TestRoutesFollowTheEpochAndTheSlot(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*fleet.InstanceFacts)
		want   []string
	}{
		"as placed":      {func(*fleet.InstanceFacts) {}, []string{"10.0.0.1:1", "10.0.0.1:2"}},
		"out of reach":   {func(i *fleet.InstanceFacts) { i.State = fleet.StateUnknown }, []string{"10.0.0.1:1", "10.0.0.1:2"}},
		"older epoch":    {func(i *fleet.InstanceFacts) { i.Epoch = 1 }, []string{}},
		"another slot":   {func(i *fleet.InstanceFacts) { i.Slot = "s1" }, []string{}},
		"fenced":         {func(i *fleet.InstanceFacts) { i.State = fleet.StateFenced }, []string{}},
		"stopped":        {func(i *fleet.InstanceFacts) { i.State = fleet.StateStopped }, []string{}},
		"restore beside": {func(i *fleet.InstanceFacts) { i.State = fleet.StateBeside }, []string{}},
	} {
		w := world()
		facts := w.Nodes["a1"].Instances["acme"]
		c.change(&facts)
		w.Nodes["a1"].Instances["acme"] = facts
		want := link.RoutesSetting{Routes: []link.Route{{
			Instance: "acme", Hosts: []string{"acme.test", "www.acme.test"}, Endpoints: c.want, Epoch: 2, Health: "/readiness",
		}}}
		if diff := cmp.Diff(want, w.Routes()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestProbesNeverAskFromTheTargetsSite(t *testing.T) {
	w := world()
	if got := w.Probes("p-a").Checks; len(got) != 0 {
		t.Errorf("the prober in the site of acme asks %+v", got)
	}
	want := []link.Check{{
		Name: "edge/e1", Instance: "acme", URL: "https://acme.test/readiness", Connect: "10.0.9.1:443", Host: "acme.test", Status: 200,
		Interval: time.Second, Timeout: time.Second,
	}}
	if diff := cmp.Diff(want, w.Probes("p-o").Checks); diff != "" {
		t.Errorf("the outside prober (-want +got):\n%s", diff)
	}
}

func TestGrantsGiveWriteToThePlacedAndReadToTheFetching(t *testing.T) {
	w := world()
	w.Fetching = []Fetching{{"b2", "acme"}, {"a1", "acme"}, {"b2", "acme"}}
	want := []link.Grant{{Key: "ssh-a1", Instance: "acme", Rights: "write"}, {Key: "ssh-b2", Instance: "acme", Rights: "read"}, {Key: "ssh-a1", Instance: "acme", Rights: "read"}}
	if diff := cmp.Diff(want, w.Grants("vb").Grants); diff != "" {
		t.Errorf("grants (-want +got):\n%s", diff)
	}
}

func TestSettingsArePushedOnceAndWithGrowingGenerations(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		now := time.UnixMicro(1)
		d.SetClock(func() time.Time { return now })
		o := observer(d, &folded{})
		var pushed []link.Setting
		fresh := func() *Settings {
			return &Settings{Observer: o, Log: quiet, Push: func(_ context.Context, s link.Setting) error {
				pushed = append(pushed, s)
				return nil
			}}
		}
		s := fresh()
		seq := int64(0)
		report := func(facts fleet.NodeFacts) {
			t.Helper()
			seq++
			if _, err := o.Intake(ctx, facts.Node, []link.Report{{Seq: seq, Facts: &facts}}); err != nil {
				t.Fatal(err)
			}
		}
		refresh := func(s *Settings, want ...string) {
			t.Helper()
			pushed = nil
			if err := s.Refresh(ctx); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range pushed {
				raw, err := json.Marshal([]any{p.Node, p.Kind, p.Generation})
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, string(raw))
			}
			if !slices.Equal(got, want) {
				t.Errorf("pushed %v, want %v", got, want)
			}
		}
		a1 := world().Nodes["a1"]
		report(a1)
		refresh(s, `["a1","leases",1]`)
		refresh(s)
		a1.Capacity.DiskFreeMB = 7 // not what settings come from
		report(a1)
		refresh(s)
		if _, err := d.NewRaw(`INSERT INTO placements (instance, node, site, epoch, slot, spec, release, retired, since, former)
			VALUES ('acme', 'a1', 'a', 2, 's2', 'f1', 'r', ?, 1, '[]')`, false).Exec(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := d.NewRaw("UPDATE operation_counter SET value = value + 1 WHERE name = 'placements'").Exec(ctx); err != nil {
			t.Fatal(err)
		}
		refresh(s, `["a1","leases",2]`)
		report(world().Nodes["e1"])
		refresh(s, `["e1","routes",1]`)
		refresh(fresh()) // another server knows what was pushed
		of, err := s.Of(ctx, "a1")
		if err != nil || len(of) != 1 || of[0].Generation != 2 || string(of[0].Body) != `{"leases":{"acme":{"epoch":2,"node":"a1"}}}` {
			t.Errorf("settings of a1: %+v, %v", of, err)
		}
		now = time.UnixMicro(1000) // a server that is rebuilt later begins above all that the lost one gave
		move := func() {
			t.Helper()
			for _, statement := range []string{"UPDATE placements SET epoch = epoch + 1", "UPDATE operation_counter SET value = value + 1 WHERE name = 'placements'"} {
				if _, err := d.NewRaw(statement).Exec(ctx); err != nil {
					t.Fatal(err)
				}
			}
		}
		move()
		refresh(s, `["a1","leases",1000]`)
		must(t, d, op.BeginAdopting)
		move()
		refresh(s) // a rebuilt server says nothing before it has adopted
		must(t, d, op.EndAdopting)
		refresh(s, `["a1","leases",1001]`)
	})
}

func must(t *testing.T, d *db.DB, do func(context.Context, db.Tx) error) {
	t.Helper()
	if err := d.Tx(context.Background(), do); err != nil {
		t.Fatal(err)
	}
}
