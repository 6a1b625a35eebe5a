package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/lab"
)

// scorecard is what the demo reads of the scorecard; raw is the whole of it.
type scorecard struct {
	Verdict string   `json:"verdict"`
	Reasons []string `json:"reasons"`
	raw     []byte
}

// held is nil when all held, which is the demo's exit code. Anything but a plain pass is none: an unknown verdict too.
func (c scorecard) held() error {
	if c.Verdict == "pass" {
		return nil
	}
	return fmt.Errorf("the scorecard's verdict is %q: %s", c.Verdict, strings.Join(c.Reasons, "; "))
}

// siteView is what `get sites` tells of a site.
type siteView struct {
	Site      string `json:"site"`
	Suspected bool   `json:"suspected"`
	Why       string `json:"why"`
}

// probeResult is what `get results` tells of one prober's newest answer.
type probeResult struct {
	Instance string `json:"instance"`
	OK       bool   `json:"ok"`
}

// seen waits until every prober has had a good answer from every stack, a few times over.
func (d *demo) seen(ctx context.Context) error {
	want, since := 2*len(d.lab.Customers), time.Time{}
	return lab.Until(ctx, 60*time.Second, 200*time.Millisecond, "be seen from outside", func() (bool, string) {
		var results []probeResult
		if err := d.lab.JSON(ctx, &results, "get", "results"); err != nil {
			return false, err.Error()
		}
		good := 0
		for _, r := range results {
			if r.OK {
				good++
			}
		}
		if good < want {
			since = time.Time{}
		} else if since.IsZero() {
			since = time.Now()
		}
		return good >= want && time.Since(since) > settled, fmt.Sprintf("%d of %d answers are good", good, want)
	})
}

// settled is how long answers must be good before the site is lost: a verdict of the probes takes several.
const settled = 7 * time.Second

// notice waits until the outside probes' verdict is that the site is lost.
func (d *demo) notice(ctx context.Context) error {
	return lab.Until(ctx, 60*time.Second, 200*time.Millisecond, "notice the loss of "+lab.SiteA, func() (bool, string) {
		var sites []siteView
		if err := d.lab.JSON(ctx, &sites, "get", "sites"); err != nil {
			return false, err.Error()
		}
		for _, s := range sites {
			if s.Site == lab.SiteA && s.Suspected {
				d.say("%s: %s", s.Site, s.Why)
				return true, ""
			}
		}
		return false, "no site is suspected lost"
	})
}

// recover runs the plan with one command and waits for its end.
func (d *demo) recover(ctx context.Context) error {
	out, err := d.holdfast(ctx, "recover", "lose-"+lab.SiteA, "--yes", "-o", "json")
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	var run struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal([]byte(lastLine(out)), &run); err != nil || run.ID == "" {
		return fmt.Errorf("read the recovery's id from %q: %w", out, errors.Join(err))
	}
	d.run = run.ID
	return nil
}

func lastLine(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if strings.HasPrefix(lines[0], "{") && len(lines[0]) == 1 {
		return out // one indented object
	}
	return lines[len(lines)-1]
}

// snapshotView is what `get snapshots` tells of a snapshot.
type snapshotView struct {
	ID       string    `json:"id"`
	Instance string    `json:"instance"`
	TakenAt  time.Time `json:"taken_at"`
}

// verify reads back all that each lost customer had been acknowledged before its newest snapshot began, and hands the
// counts to the scorecard.
func (d *demo) verify(ctx context.Context) error {
	var snapshots []snapshotView
	if err := d.lab.JSON(ctx, &snapshots, "get", "snapshots"); err != nil {
		return err
	}
	began := map[string]time.Time{}
	for _, s := range snapshots {
		if s.TakenAt.After(began[s.Instance]) {
			began[s.Instance] = s.TakenAt
		}
	}
	total, err := d.verifyAll(ctx, began)
	if err != nil {
		return err
	}
	d.say("%d of %d documents and %d of %d files are there, byte for byte", total.DocumentsFound, total.DocumentsExpected, total.FilesFound, total.FilesExpected)
	if len(total.Missing) > 0 {
		d.say("missing: %s", strings.Join(total.Missing, ", "))
	}
	_, err = d.lab.Run(ctx, "drill", "count", d.run,
		"--documents-expected", strconv.Itoa(total.DocumentsExpected), "--documents-found", strconv.Itoa(total.DocumentsFound),
		"--files-expected", strconv.Itoa(total.FilesExpected), "--files-found", strconv.Itoa(total.FilesFound))
	return err
}

func (d *demo) verifyAll(ctx context.Context, began map[string]time.Time) (lab.Found, error) {
	var total lab.Found
	var mu sync.Mutex
	err := lab.Each(d.lab.In(lab.SiteA), func(c *lab.Customer) error {
		found, err := c.Verify(ctx, began[c.Instance])
		mu.Lock()
		defer mu.Unlock()
		total = total.Add(found)
		return err
	})
	if err == nil && (total.DocumentsExpected == 0 || total.FilesExpected == 0) {
		err = errors.New("nothing was expected in the snapshots: the load never ran")
	}
	return total, err
}

// nodeCopies is what `get nodes` tells of the copies on a node.
type nodeCopies struct {
	Node  string `json:"node"`
	Facts struct {
		Instances map[string]struct {
			State string `json:"state"`
		} `json:"instances"`
	} `json:"facts"`
}

// comeBack starts the dead site's agents again, over the data they had, and waits until each of its copies is fenced.
func (d *demo) comeBack(ctx context.Context) error {
	if err := d.lab.ReturnSite(lab.SiteA); err != nil {
		return err
	}
	want := len(d.lab.In(lab.SiteA))
	err := lab.Until(ctx, 60*time.Second, 200*time.Millisecond, "fence the copies of "+lab.SiteA, func() (bool, string) {
		fenced, err := d.fenced(ctx)
		return err == nil && fenced == want, fmt.Sprintf("%d of %d are fenced; %v", fenced, want, err)
	})
	if err != nil {
		return err
	}
	d.say("%d stale copies hold their data, serve nothing, and offer it for salvage", want)
	return lab.Each(d.lab.Customers, func(c *lab.Customer) error { return c.Serves(ctx) })
}

func (d *demo) fenced(ctx context.Context) (int, error) {
	var nodes []nodeCopies
	if err := d.lab.JSON(ctx, &nodes, "get", "nodes"); err != nil {
		return 0, err
	}
	count := 0
	for _, n := range nodes {
		if !strings.HasPrefix(n.Node, lab.SiteA) {
			continue
		}
		for _, i := range n.Facts.Instances {
			if i.State == "fenced" {
				count++
			}
		}
	}
	return count, nil
}

// score prints the scorecard for people and reads it for the verdict.
func (d *demo) score(ctx context.Context) (scorecard, error) {
	raw, err := d.lab.Run(ctx, "drill", "score", d.run, "--format", "json")
	if err != nil {
		return scorecard{}, err
	}
	text, err := d.lab.Run(ctx, "drill", "show", d.run)
	if err != nil {
		return scorecard{}, err
	}
	fmt.Println("\n" + text)
	return readCard([]byte(raw))
}

func readCard(raw []byte) (scorecard, error) {
	card := scorecard{raw: raw}
	if err := json.Unmarshal(raw, &card); err != nil {
		return scorecard{}, fmt.Errorf("read the scorecard: %w", err)
	}
	return card, nil
}
