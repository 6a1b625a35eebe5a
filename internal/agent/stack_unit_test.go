package agent

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"holdfast/internal/fleet"
	"holdfast/internal/step"
)

// Claims move an instance between nodes; every node hears some of them, late and in any order. Whatever it hears, a
// node that has heard the newest claim serves only if the claim names it, and a node never serves data that another
// node may have written over since.
func TestOneWriterWhateverIsHeard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := []string{"a", "b", "c"}
		claims := []step.FenceArgs{{Epoch: 1, Node: "a"}}
		nodes := map[string]record{"a": record{}.switches("s1", 1, "a"), "b": {}, "c": {}}
		switchedAt := map[string]int64{"a": 1} // newest epoch under which the node's active data was made the one
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "what") {
			case 0:
				claims = append(claims, step.FenceArgs{Epoch: int64(len(claims) + 1), Node: rapid.SampledFrom(names).Draw(t, "holder")})
			case 1:
				name, lease := rapid.SampledFrom(names).Draw(t, "node"), rapid.SampledFrom(claims).Draw(t, "lease")
				nodes[name], _ = nodes[name].hears(lease, name)
			case 2: // the restore for the newest claim ends: the holder switches
				newest := claims[len(claims)-1]
				nodes[newest.Node] = nodes[newest.Node].switches("s"+strconv.Itoa(len(claims)), newest.Epoch, newest.Node)
				switchedAt[newest.Node] = newest.Epoch
			}
			newest := claims[len(claims)-1]
			for name, rec := range nodes {
				if !rec.mayServe(name) {
					continue
				}
				if rec.Lease.Epoch == newest.Epoch && newest.Node != name {
					t.Fatalf("%s heard that %s holds epoch %d and would serve", name, newest.Node, newest.Epoch)
				}
				for _, claim := range claims {
					if claim.Epoch > switchedAt[name] && claim.Epoch <= rec.Lease.Epoch && claim.Node != name {
						t.Fatalf("%s would serve data of epoch %d at epoch %d; %s held epoch %d in between",
							name, switchedAt[name], rec.Lease.Epoch, claim.Node, claim.Epoch)
					}
				}
			}
		}
	})
}

func TestHolderGoesOnOverItsOwnEpochs(t *testing.T) {
	rec := record{}.switches("s1", 3, "a")
	for epoch := int64(4); epoch < 8; epoch++ { // restores in place that failed: what served goes on
		next, fence := rec.hears(step.FenceArgs{Epoch: epoch, Node: "a"}, "a")
		if fence || !next.mayServe("a") {
			t.Fatalf("the holder fenced itself at epoch %d", epoch)
		}
		rec = next
	}
	if next, fence := rec.hears(step.FenceArgs{Epoch: 9, Node: "a"}, "a"); !fence || next.mayServe("a") {
		t.Error("a holder that missed epoch 8 cannot know who held it")
	}
}

func TestPortsNeverMeet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := freeSpan(t)
		book, err := openPortBook(filepath.Join(tempDir(t), "ports.json"), PortRange{first, first + 63}, "n1")
		if err != nil {
			t.Fatal(err)
		}
		slots := map[string]fleet.Spec{}
		given := map[string]int{}
		for range rapid.IntRange(1, 12).Draw(t, "slots") {
			instance := rapid.SampledFrom([]string{"acme", "beta", "gamma"}).Draw(t, "instance")
			slot := rapid.SampledFrom([]string{"s1", "s2"}).Draw(t, "slot")
			spec := fleet.Spec{Instance: instance, Services: []fleet.Service{{
				Name: "api", Replicas: rapid.IntRange(1, 3).Draw(t, "replicas"), Ports: []fleet.Port{{Name: "http"}, {Name: "metrics"}},
			}}}
			ports, err := book.give(spec, slot, func(string) bool { return false })
			if err != nil {
				t.Fatal(err)
			}
			slots[instance+"/"+slot] = spec
			for key, port := range ports {
				full := instance + "/" + slot + "/" + key
				if before, ok := given[full]; ok && before != port {
					t.Fatalf("%s had port %d and was given %d", full, before, port)
				}
				given[full] = port
			}
		}
		seen := map[int]string{}
		for full, port := range given {
			if other, taken := seen[port]; taken {
				t.Fatalf("port %d was given to %s and to %s", port, full, other)
			}
			seen[port] = full
		}
		again, err := openPortBook(book.path, book.span, "n1")
		if err != nil {
			t.Fatal(err)
		}
		for name, spec := range slots {
			_, slot, _ := strings.Cut(name, "/")
			for key, port := range again.look(spec, slot) {
				if given[name+"/"+key] != port {
					t.Fatalf("after a restart %s/%s has port %d, it was %d", name, key, port, given[name+"/"+key])
				}
			}
		}
	})
}

// freeSpan finds 64 ports in a row of which none is taken.
func freeSpan(t *rapid.T) int {
	for first := 41000; first < 60000; first += 64 {
		ok := true
		for port := first; port < first+64 && ok; port++ {
			ok = free(port)
		}
		if ok {
			return first
		}
	}
	t.Fatal("no 64 free ports in a row")
	return 0
}

func TestTakenPortIsGivenAnew(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := taken.Addr().(*net.TCPAddr).Port
	book, err := openPortBook(filepath.Join(t.TempDir(), "ports.json"), PortRange{port, port + 20}, "n1")
	if err != nil {
		t.Fatal(err)
	}
	spec := fleet.Spec{Instance: "acme", Services: []fleet.Service{{Name: "api", Ports: []fleet.Port{{Name: "http"}}}}}
	book.ports["acme/s1/api.http"] = port
	if ports, err := book.give(spec, "s1", func(string) bool { return true }); err != nil || ports["api.http"] != port {
		t.Errorf("a service that runs lost its port: %v, %v", ports, err)
	}
	if ports, err := book.give(spec, "s1", func(string) bool { return false }); err != nil || ports["api.http"] == port {
		t.Errorf("a service was given a port on which somebody listens: %v, %v", ports, err)
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	full, err := openPortBook(filepath.Join(t.TempDir(), "ports.json"), PortRange{port, port}, "n1")
	if err != nil {
		t.Fatal(err)
	}
	full.ports["beta/s1/api.http"] = port
	want := fmt.Sprintf("port for acme/s1/api.http not given: all of %d to %d are taken", port, port)
	if _, err := full.give(spec, "s1", func(string) bool { return false }); err == nil || err.Error() != want {
		t.Errorf("a full range says %v", err)
	}
}

func TestResolve(t *testing.T) {
	spec := fleet.Spec{
		Instance: "acme",
		Services: []fleet.Service{
			{Name: "db", Replicas: 1, Ports: []fleet.Port{{Name: "tcp", Internal: 5432}}, Mounts: []fleet.Mount{{State: "db", Path: "/var/lib/db"}}},
			{
				Name: "api", Replicas: 2, Ports: []fleet.Port{{Name: "http", Internal: 8080}},
				Command: []string{"--listen", "${host:api}:${port:api.http}"},
				Env:     map[string]string{"DB": "db://u:${secret:pw}@${host:db}:${port:db.tcp}", "PLAIN": "$HOME ${OTHER}"},
			},
		},
		State: []fleet.State{{Name: "db", Service: "db", Dump: fleet.Command{Args: []string{"dump", "${state:db}", "${port:db.tcp}"}}}},
	}
	known := names{
		secrets: map[string]string{"pw": "p${w"}, states: map[string]string{"db": "/data/db"}, address: "10.0.0.5",
		ports: map[string]int{"db.tcp": 20001, "api.http": 20002, "api.http.2": 20003},
	}
	got, err := resolve(spec, known)
	if err != nil {
		t.Fatal(err)
	}
	slot := Slot{Spec: got, Ports: known.ports}
	second := slot.Replica(got.Services[1], 2)
	if want := []string{"--listen", "10.0.0.5:20003"}; !slices.Equal(second.Command, want) {
		t.Errorf("second replica runs %v, want %v", second.Command, want)
	}
	if want := "db://u:p${w@10.0.0.5:20001"; second.Env["DB"] != want || second.Env["PLAIN"] != "$HOME ${OTHER}" {
		t.Errorf("environment %v, want DB=%s", second.Env, want)
	}
	if want := []string{"dump", "/data/db", "20001"}; !slices.Equal(got.State[0].Dump.Args, want) {
		t.Errorf("dump %v, want %v", got.State[0].Dump.Args, want)
	}
	known.contained = true
	got, err = resolve(spec, known)
	if err != nil {
		t.Fatal(err)
	}
	if want := "db://u:p${w@db:5432"; got.Services[1].Env["DB"] != want || got.Services[1].Command[1] != "api:8080" {
		t.Errorf("in containers: %v %v", got.Services[1].Env, got.Services[1].Command)
	}
	if want := []string{"dump", "/var/lib/db", "5432"}; !slices.Equal(got.State[0].Dump.Args, want) {
		t.Errorf("in containers dump is %v, want %v", got.State[0].Dump.Args, want)
	}
	if spec.Services[1].Env["DB"] != "db://u:${secret:pw}@${host:db}:${port:db.tcp}" {
		t.Error("resolving changed the spec it was given")
	}
}

func TestFits(t *testing.T) {
	spec := fleet.Spec{Instance: "acme", Services: []fleet.Service{{MemoryMB: 100, Replicas: 2}, {MemoryMB: 50}}}
	roomy := fleet.Capacity{MemoryMB: 1000, DiskMB: 1000, DiskFreeMB: 900}
	tests := []struct {
		name   string
		change func(*fleet.Capacity)
		needMB int64
		want   string
	}{
		{"fits", func(*fleet.Capacity) {}, 100, ""},
		{"memory", func(c *fleet.Capacity) { c.MemoryUsedMB = 800 }, 0, "instance acme does not fit on node a1: it needs 250 MB of memory, 800 of 1000 MB are promised to others"},
		{"disk", func(*fleet.Capacity) {}, 800, "instance acme does not fit on node a1: it needs 800 MB of disk, 900 MB are free and 256 MB must stay so"},
		{"count", func(c *fleet.Capacity) { c.Instances, c.MaxInstances = 7, 7 }, 0, "instance acme does not fit on node a1: it holds 7 of at most 7 instances"},
	}
	for _, test := range tests {
		capacity := roomy
		test.change(&capacity)
		err := fitsIn(spec, test.needMB, 256, "a1", capacity)
		if (err == nil) != (test.want == "") || err != nil && err.Error() != test.want {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
}

// tempDir is a directory for one draw of a property.
func tempDir(t *rapid.T) string {
	dir, err := os.MkdirTemp("", "holdfast-ports")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // left behind, it harms nobody
	return dir
}
