package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/lab"
)

const (
	lostSite      = "par1"
	survivingSite = "ams1"
	domain        = "notes.localhost"
	edgePort      = "8443"
)

// demo is the story and what it has come to know.
type demo struct {
	lab       *lab.Lab
	bin       string
	fleet     string
	customers []customer
	started   time.Time
	doing     string
	edge      string
	token     string
	run       string // the recovery
}

// customer is one instance with its writer.
type customer struct {
	*lab.Customer
	site string
}

func newDemo(dir, bin string, instances int) (*demo, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("empty %s: %w", dir, err)
	}
	l, err := lab.New(dir, bin, topology())
	if err != nil {
		return nil, err
	}
	d := &demo{lab: l, bin: bin, fleet: filepath.Join(l.Dir, "fleet"), started: time.Now(), edge: "127.0.3.1:" + edgePort}
	for i := range instances {
		site := lostSite
		if i%2 == 1 {
			site = survivingSite
		}
		d.customers = append(d.customers, customer{site: site, Customer: &lab.Customer{Instance: name(i)}})
	}
	return d, nil
}

// topology is two sites with two nodes and a vault each, and an edge and probers outside both.
func topology() []lab.Node {
	return []lab.Node{
		{Name: "par1-n1", Site: "par1", Roles: "run,spare", Address: "127.0.1.1"},
		{Name: "par1-n2", Site: "par1", Roles: "run,spare", Address: "127.0.1.2"},
		{Name: "par1-vault", Site: "par1", Roles: "vault", Address: "127.0.1.9"},
		{Name: "ams1-n1", Site: "ams1", Roles: "run,spare", Address: "127.0.2.1"},
		{Name: "ams1-n2", Site: "ams1", Roles: "run,spare", Address: "127.0.2.2"},
		{Name: "ams1-vault", Site: "ams1", Roles: "vault", Address: "127.0.2.9"},
		{Name: "edge1", Site: "edge1", Roles: "edge", Address: "127.0.3.1", Extra: []string{"--edge-listen", "127.0.3.1:" + edgePort}},
		{Name: "probe1", Site: "out1", Roles: "probe", Address: "127.0.4.1"},
		{Name: "probe2", Site: "out2", Roles: "probe", Address: "127.0.4.2"},
	}
}

// name gives customers names that can be told apart.
func name(i int) string {
	names := []string{"acme", "globex", "initech", "umbrella", "hooli", "stark", "wayne", "wonka", "tyrell", "cyberdyne", "soylent", "aperture"}
	if i < len(names) {
		return names[i]
	}
	return fmt.Sprintf("%s%d", names[i%len(names)], i/len(names)+1)
}

// tell runs the story. Each scene says what it does before it does it.
func (d *demo) tell(ctx context.Context) (scorecard, error) {
	scenes := []struct {
		title string
		play  func(context.Context) error
	}{
		{"start the control plane", d.lab.StartServer},
		{"join nine nodes in two sites and outside", d.lab.Join},
		{fmt.Sprintf("declare %d customers' stacks, each with a key of its own", len(d.customers)), d.declare},
		{"plan and apply", d.apply},
		{"wait until every stack serves through the edge", d.serve},
		{"write real data to every stack", d.seed},
	}
	for _, scene := range scenes {
		d.scene(scene.title)
		if err := scene.play(ctx); err != nil {
			return scorecard{}, err
		}
	}
	load, endLoad := context.WithCancel(ctx)
	defer endLoad()
	loads := d.load(load)
	card, err := d.disaster(ctx)
	endLoad()
	loads.Wait()
	return card, err
}

// disaster backs up, loses a site, recovers, verifies, and brings the dead site back, all under the load.
func (d *demo) disaster(ctx context.Context) (scorecard, error) {
	scenes := []struct {
		title string
		play  func(context.Context) error
	}{
		{"back every stack up into the other site, under a steady load", d.backup},
		{"lose " + lostSite + ": SIGKILL to every process of the site", d.lose},
		{"let the outside probes notice", d.notice},
		{"run the recovery plan", d.recover},
		{"check every document and file that was in the snapshots", d.verify},
		{"bring " + lostSite + " back: it must stay fenced", d.comeBack},
	}
	for _, scene := range scenes {
		d.scene(scene.title)
		if err := scene.play(ctx); err != nil {
			return scorecard{}, err
		}
	}
	d.scene("the scorecard, computed from events")
	return d.score(ctx)
}

func (d *demo) scene(title string) {
	d.doing = title
	fmt.Printf("%6.1fs  %s\n", time.Since(d.started).Seconds(), title)
}

func (d *demo) say(format string, args ...any) { fmt.Printf("         "+format+"\n", args...) }

// holdfast types a command, shows it, and returns what it printed.
func (d *demo) holdfast(ctx context.Context, args ...string) (string, error) {
	d.say("$ holdfast %s", strings.Join(d.shorten(args), " "))
	return d.lab.Run(ctx, args...)
}

func (d *demo) shorten(args []string) []string {
	short := make([]string, len(args))
	for i, a := range args {
		short[i] = strings.ReplaceAll(a, d.lab.Dir+"/", "")
	}
	return short
}

func (d *demo) declare(ctx context.Context) error {
	if err := d.writeFleet(ctx); err != nil {
		return err
	}
	_, err := d.holdfast(ctx, "validate", "-f", d.fleet)
	return err
}

func (d *demo) apply(ctx context.Context) error {
	out, err := d.holdfast(ctx, "apply", "-f", d.fleet, "--yes")
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

func (d *demo) serve(ctx context.Context) error {
	roots, err := d.roots(ctx)
	if err != nil {
		return err
	}
	for i, c := range d.customers {
		d.customers[i].Customer = lab.NewCustomer(c.Instance, c.Instance+"."+domain, d.edge, roots)
	}
	return d.each(func(c customer) error {
		return lab.Until(ctx, 60*time.Second, 100*time.Millisecond, "serve "+c.Instance, func() (bool, string) {
			err := c.Serves(ctx)
			return err == nil, fmt.Sprint(err)
		})
	})
}

// roots is the control plane's authority, which also signs the demo's edge certificates.
func (d *demo) roots(ctx context.Context) (*x509.CertPool, error) {
	var admin struct {
		Authority string `json:"authority"`
		Token     string `json:"token"`
	}
	raw, err := os.ReadFile(filepath.Join(d.lab.Dir, "server", "admin.json"))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &admin); err != nil {
		return nil, fmt.Errorf("read admin.json: %w", err)
	}
	d.token = admin.Token
	block, _ := pem.Decode([]byte(admin.Authority))
	if block == nil {
		return nil, errors.New("admin.json holds no authority certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool, nil
}

func (d *demo) seed(ctx context.Context) error {
	return d.each(func(c customer) error { return c.Seed(ctx, 60, 20, 64<<10) })
}

// load lets every customer write steadily until ctx ends.
func (d *demo) load(ctx context.Context) *sync.WaitGroup {
	var all sync.WaitGroup
	for _, c := range d.customers {
		all.Go(func() { c.Load(ctx, 500*time.Millisecond) })
	}
	return &all
}

func (d *demo) backup(ctx context.Context) error {
	out, err := d.holdfast(ctx, "backup", "run", "--all")
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

func (d *demo) lose(ctx context.Context) error {
	killed, err := d.lab.LoseSite(ctx, lostSite)
	if err != nil {
		return err
	}
	d.say("%d processes are dead", killed)
	return nil
}

// each runs f for every customer at once, a few at a time.
func (d *demo) each(f func(customer) error) error {
	var group errgroup.Group
	group.SetLimit(8)
	for _, c := range d.customers {
		group.Go(func() error { return f(c) })
	}
	return group.Wait()
}

// lost are the customers whose site was lost.
func (d *demo) lost() []customer {
	var lost []customer
	for _, c := range d.customers {
		if c.site == lostSite {
			lost = append(lost, c)
		}
	}
	return lost
}

func (d *demo) pages() string { return d.lab.URL() + "/?token=" + d.token }
