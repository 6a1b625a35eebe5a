package fleet_test

import (
	"maps"
	"slices"
	"testing"

	"holdfast/internal/fleet"
)

// The fleet of examples/dash is read and rendered whole; its releases follow each other in one way only.
func TestTheDashFleet(t *testing.T) {
	files, err := fleet.Collect("../../examples/dash/fleet")
	if err != nil {
		t.Fatal(err)
	}
	f := read(t, files)
	places := map[string]int{}
	for name, i := range f.Instances {
		places[i.Placement.Site]++
		spec, err := fleet.Render(f, name)
		if err != nil {
			t.Fatal(err)
		}
		if len(spec.Backup.Recipients) != 1 || !slices.Equal(spec.Hosts, []string{name + ".dash.test"}) {
			t.Errorf("%s has %d recipients and the names %v", name, len(spec.Backup.Recipients), spec.Hosts)
		}
	}
	if !maps.Equal(places, map[string]int{"par1": 6, "ams1": 6}) {
		t.Errorf("instances per site: %v", places)
	}
	reached := map[string][]string{}
	for to, release := range f.Releases {
		for from := range f.Releases {
			if release.ReachableFrom(from) && from < to {
				reached[to] = append(reached[to], from)
			}
		}
	}
	want := map[string][]string{"dash/v2.0.0": {"dash/v1.0.0"}, "dash/v3.0.0": {"dash/v2.0.0"}, "dash/v4.0.0": {"dash/v3.0.0"}}
	if !maps.EqualFunc(reached, want, slices.Equal) {
		t.Errorf("releases are reached from %v, want %v", reached, want)
	}
}

// A release whose frontend is of another major version than its backend is refused.
func TestDashWantsOneMajor(t *testing.T) {
	files, err := fleet.Collect("../../examples/dash/fleet")
	if err != nil {
		t.Fatal(err)
	}
	files = maps.Clone(files)
	files["mixed.yaml"] = []byte("kind: Release\nname: dash/v2.1.0\nservices:\n  api: {image: dash/backend:v2.0.0}\n  worker: {image: dash/backend:v2.0.0}\n  frontend: {image: dash/frontend:v1.0.0}\n")
	if _, err := fleet.Read(files); err == nil {
		t.Error("a frontend of v1 beside a backend of v2 was taken")
	}
}
