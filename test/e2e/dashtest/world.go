// Package dashtest gives stories a lab of full servers on which the customers of examples/dash are served.
//
// Words: a World is that lab during one story; a Shared is the lab that the stories of one test process share; a ledger
// is the file of the writes that a customer's stack acknowledged. The customers' own programs run on probe2, outside the
// sites: they find names by the name server and trust the certificates' issuer, as a customer's browser does.
//
// Invariant: Holdfast is driven by its command line alone, and the lab by what may befall servers and cables.
package dashtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/lab"
	"holdfast/lab/servers"
	"holdfast/lab/servers/serverstest"
)

// The sites that instances are placed in. Either may be lost, and Plan says by which plan it is recovered.
const (
	SiteA = "par1"
	SiteB = "ams1"
)

// Instances is how many customers there are, half of them in each site, when HOLDFAST_E2E_INSTANCES names no other even
// number up to 12.
const Instances = 12

// Plan is the recovery plan for the loss of a site.
func Plan(site string) string { return "lose-" + site }

// Customer is one customer and the site that its stack is declared in.
type Customer struct{ Name, Site string }

// Host is the name that the customer knows.
func (c Customer) Host() string { return c.Name + "." + servers.CustomerDomain }

func (c Customer) url() string    { return "https://" + c.Host() }
func (c Customer) ledger() string { return loadDir + "/" + c.Name + ".ledger" }

// Shared is the lab of one test process: brought up for the first story that needs it, taken down by Down.
type Shared struct {
	Name   string               // of the lab
	Change func(*servers.Shape) // may change the shape; nil = servers.Default with ACME

	dir       string // programs and fleet; "" = nothing is up
	lab       *servers.Lab
	customers []Customer
	deployed  bool
}

// Main runs the tests of a process, takes the lab down and gives the exit code.
func (s *Shared) Main(m *testing.M) int {
	code := m.Run()
	if err := s.Down(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// Down takes the lab down, if one is up. With HOLDFAST_E2E_KEEP=1 it stays, for the next process to go on with.
func (s *Shared) Down() error {
	if s.dir == "" || keep() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	return errors.Join(servers.Down(ctx, s.Name), os.RemoveAll(s.dir))
}

func keep() bool { return os.Getenv("HOLDFAST_E2E_KEEP") != "" }

// World is the shared lab during one story.
type World struct {
	testing.TB
	*servers.Lab
	Ctx       context.Context
	Fleet     string // folder of the fleet files
	Customers []Customer

	outside *servers.Server // where the customers' own programs run
	shared  *Shared
}

// Bare gives the story a lab on which nothing is deployed yet, unless a story before it did. The story is left out, with
// the reason, where no lab can run.
func (s *Shared) Bare(t testing.TB) *World {
	t.Helper()
	serverstest.Needed(t)
	made := filepath.Join(root(t), "bin", "dash")
	if _, err := os.Stat(filepath.Join(made, "images", "images.json")); err != nil {
		t.Skipf("left out: there are no images of examples/dash in bin/dash: make e2e STORY=%s", t.Name())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Minute)
	t.Cleanup(cancel)
	if s.lab == nil {
		if err := s.up(ctx, t, made); err != nil {
			t.Fatal(err)
		}
	}
	return &World{TB: t, Lab: s.lab, Ctx: ctx, Fleet: filepath.Join(s.dir, "fleet"), Customers: s.customers,
		outside: serverstest.Server(t, s.lab, "probe2"), shared: s}
}

// World is Bare with every customer deployed and filled with data of its own.
func (s *Shared) World(t testing.TB) *World {
	t.Helper()
	w := s.Bare(t)
	if !s.deployed {
		w.Deploy()
		w.Each(w.Customers, func(c Customer) error { return w.Seed(c) })
		s.deployed = true
	}
	return w
}

func (s *Shared) up(ctx context.Context, t testing.TB, made string) (err error) {
	if s.dir, err = os.MkdirTemp("", "holdfast-e2e-"); err != nil {
		return err
	}
	shape := servers.Default(s.Name)
	shape.ACME = true
	if shape.Bin, err = programs(ctx, root(t), s.dir); err != nil {
		return err
	}
	if s.Change != nil {
		s.Change(&shape)
	}
	if s.customers, err = writeFleet(filepath.Join(made, "fleet"), filepath.Join(s.dir, "fleet"), count()); err != nil {
		return err
	}
	if !keep() {
		if err := servers.Down(ctx, s.Name); err != nil {
			return err
		}
	}
	if s.lab, err = servers.Up(ctx, shape, t.Output()); err != nil {
		return err
	}
	if err := s.lab.PutFolder(ctx, filepath.Join(made, "images"), "/srv/dash/images"); err != nil {
		return err
	}
	return putLoad(ctx, s.lab, made)
}

// loadDir is the folder of the customers' own programs and of their ledgers, on the server outside.
const loadDir = "/srv/load"

// putLoad brings the customers' own programs to the server outside, and as much public data as seeds need.
func putLoad(ctx context.Context, l *servers.Lab, made string) error {
	outside, err := l.Server("probe2")
	if err != nil {
		return err
	}
	all, err := os.ReadFile(filepath.Join(made, "packages.txt"))
	if err != nil {
		return err
	}
	return outside.Put(ctx,
		servers.File{Path: loadDir + "/dash-load", Mode: 0o755, From: filepath.Join(made, "programs", "dash-load")},
		servers.File{Path: loadDir + "/packages.txt", Content: all[:min(len(all), 3<<20)]})
}

// programs builds what is under test.
func programs(ctx context.Context, root, dir string) (string, error) {
	if made := os.Getenv("HOLDFAST_LAB_BIN"); made != "" {
		return made, nil
	}
	into := filepath.Join(dir, "bin") + string(filepath.Separator)
	for _, args := range [][]string{{"holdfast/cmd/holdfast"}, {"-tags", "slim", "holdfast/cmd/holdfast-agent"}} {
		cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-o", into}, args...)...)
		cmd.Dir = root
		if said, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build the programs: %w: %s", err, said)
		}
	}
	return into, nil
}

// root is the folder of the module: tests run in the folders of their packages.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if raw, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && strings.HasPrefix(string(raw), "module holdfast\n") {
			return dir
		}
	}
	t.Fatal("this test does not run inside the module")
	return ""
}

func count() int {
	n, err := strconv.Atoi(os.Getenv("HOLDFAST_E2E_INSTANCES"))
	if err != nil || n < 2 || n > Instances {
		return Instances
	}
	return n / 2 * 2
}

// writeFleet copies the fleet with so many instances, half of them in each site.
func writeFleet(from, to string, n int) ([]Customer, error) {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(to, "instances", "*.yaml"))
	if err != nil {
		return nil, err
	}
	var customers []Customer
	in := map[string]int{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		c := Customer{Name: strings.TrimSuffix(filepath.Base(file), ".yaml"), Site: SiteB}
		if strings.Contains(string(raw), "site: "+SiteA) {
			c.Site = SiteA
		}
		if in[c.Site]++; in[c.Site] > n/2 {
			if err := os.Remove(file); err != nil {
				return nil, err
			}
			continue
		}
		customers = append(customers, c)
	}
	plans := filepath.Join(to, "recovery.yaml")
	raw, err := os.ReadFile(plans)
	if err != nil {
		return nil, err
	}
	return customers, os.WriteFile(plans, []byte(strings.ReplaceAll(string(raw), "expect: 6", fmt.Sprintf("expect: %d", n/2))), 0o600)
}

// In lists the customers declared in a site.
func (w *World) In(site string) []Customer {
	return slices.DeleteFunc(slices.Clone(w.Customers), func(c Customer) bool { return c.Site != site })
}

// Must ends the story on an error.
func (w *World) Must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// Holdfast types a command that must succeed.
func (w *World) Holdfast(args ...string) string {
	w.Helper()
	out, err := w.Lab.Holdfast(w.Ctx, args...)
	if err != nil {
		w.Fatalf("%v\n%s", err, out)
	}
	return out
}

// Deploy applies the fleet, and waits until every customer is served under its own name.
func (w *World) Deploy() {
	w.Helper()
	w.Holdfast("apply", "-f", w.Fleet, "--yes")
	w.Each(w.Customers, func(c Customer) error { return w.Serves(c, 2*time.Minute) })
}

// Each does something for several customers at once and ends the story when it failed for one.
func (w *World) Each(customers []Customer, do func(Customer) error) {
	w.Helper()
	var group errgroup.Group
	group.SetLimit(6)
	for _, c := range customers {
		group.Go(func() error { return do(c) })
	}
	w.Must(group.Wait())
}

// Outside runs a command where the customers' programs run.
func (w *World) Outside(args ...string) (string, error) { return w.outside.Run(w.Ctx, args...) }

// Serves waits until the customer's readiness answers well through the name server and the edge, over TLS that the
// caller can verify.
func (w *World) Serves(c Customer, within time.Duration) error {
	return lab.Until(w.Ctx, within, 300*time.Millisecond, "serve "+c.Name, func() (bool, string) {
		out, err := w.Outside("curl", "-sS", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}", c.url()+"/readiness")
		return err == nil && out == "200", fmt.Sprint(out, " ", err)
	})
}

// Keep writes a record of the story into its artefact folder, which `make e2e` keeps.
func (w *World) Keep(name string, record any) {
	w.Helper()
	raw, err := json.MarshalIndent(record, "", "  ")
	w.Must(err)
	w.Must(os.WriteFile(filepath.Join(w.ArtifactDir(), name), append(raw, '\n'), 0o600))
}
