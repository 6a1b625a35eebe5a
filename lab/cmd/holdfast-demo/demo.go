package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"holdfast/lab"
)

// demo is the story and what it has come to know.
type demo struct {
	lab     *lab.Notes
	started time.Time
	doing   string
	run     string // id of the recovery
}

// edgePort is fixed, so that the addresses the demo prints can be typed into a browser.
const edgePort = 8443

func newDemo(dir, bin string, instances int) (*demo, error) {
	l, err := lab.NewNotes(dir, bin, instances, edgePort)
	return &demo{lab: l, started: time.Now()}, err
}

// scene is one part of the story: it says what it does before it does it.
type scene struct {
	title string
	play  func(context.Context) error
}

// tell runs the story.
func (d *demo) tell(ctx context.Context) (scorecard, error) {
	err := d.play(ctx,
		scene{"start the control plane", d.lab.StartServer},
		scene{fmt.Sprintf("join %d nodes: two sites, an edge and two probers outside", len(d.lab.Nodes)), d.lab.Join},
		scene{fmt.Sprintf("declare %d customers' stacks, each with a key of its own", len(d.lab.Customers)), d.declare},
		scene{"plan and apply", d.apply},
		scene{"wait until every stack serves through the edge", d.lab.Serve},
		scene{"write real data to every stack", d.seed},
	)
	if err != nil {
		return scorecard{}, err
	}
	load, endLoad := context.WithCancel(ctx)
	loads := d.load(load)
	defer loads.Wait()
	defer endLoad()
	if err := d.disaster(ctx); err != nil {
		return scorecard{}, err
	}
	d.say("the scorecard, computed from events:")
	return d.score(ctx)
}

// disaster backs up, loses a site, recovers, verifies, and brings the dead site back, all under the load.
func (d *demo) disaster(ctx context.Context) error {
	return d.play(ctx,
		scene{"wait until the outside probes see every stack", d.seen},
		scene{"back every stack up into the other site, under a steady load", d.backup},
		scene{"lose " + lab.SiteA + ": SIGKILL to every process of the site", d.lose},
		scene{"let the outside probes notice", d.notice},
		scene{"run the recovery plan", d.recover},
		scene{"check every document and file that was in the snapshots", d.verify},
		scene{"bring " + lab.SiteA + " back: it must stay fenced", d.comeBack},
	)
}

func (d *demo) play(ctx context.Context, scenes ...scene) error {
	for _, s := range scenes {
		d.doing = s.title
		fmt.Printf("%6.1fs  %s\n", time.Since(d.started).Seconds(), s.title)
		if err := s.play(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) say(format string, args ...any) { fmt.Printf("         "+format+"\n", args...) }

// holdfast types a command, shows it, and returns what it printed.
func (d *demo) holdfast(ctx context.Context, args ...string) (string, error) {
	d.say("$ holdfast %s", strings.ReplaceAll(strings.Join(args, " "), d.lab.Dir+"/", ""))
	out, err := d.lab.Run(ctx, args...)
	if err != nil {
		return out, fmt.Errorf("%w\n%s", err, out)
	}
	return out, nil
}

func (d *demo) declare(ctx context.Context) error {
	if err := d.lab.Declare(ctx); err != nil {
		return err
	}
	_, err := d.holdfast(ctx, "validate", "-f", d.lab.Fleet)
	return err
}

func (d *demo) apply(ctx context.Context) error {
	_, err := d.holdfast(ctx, "apply", "-f", d.lab.Fleet, "--yes")
	return err
}

func (d *demo) seed(ctx context.Context) error {
	return lab.Each(d.lab.Customers, func(c *lab.Customer) error { return c.Seed(ctx, 60, 20, 64<<10) })
}

// load lets every customer write steadily until ctx ends.
func (d *demo) load(ctx context.Context) *sync.WaitGroup {
	var all sync.WaitGroup
	for _, c := range d.lab.Customers {
		all.Go(func() { c.Load(ctx, 500*time.Millisecond) })
	}
	return &all
}

func (d *demo) backup(ctx context.Context) error {
	_, err := d.holdfast(ctx, "backup", "run", "--all")
	return err
}

func (d *demo) lose(ctx context.Context) error {
	killed, err := d.lab.LoseSite(ctx, lab.SiteA)
	d.say("%d processes are dead", killed)
	return err
}

func (d *demo) pages() string { return d.lab.URL() + "/?token=" + d.lab.Token }
