package dashtest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/lab"
)

// Snapshot is one point to return to.
type Snapshot struct {
	ID       string    `json:"id"`
	Instance string    `json:"instance"`
	TakenAt  time.Time `json:"taken_at"` // when it began
	EndedAt  time.Time `json:"ended_at"`
}

// BackUp backs customers up now and gives the snapshot of each.
func (w *World) BackUp(customers ...Customer) map[string]Snapshot {
	w.Helper()
	args := []string{"backup", "run"}
	for _, c := range customers {
		args = append(args, "instance/"+c.Name)
	}
	w.Must(lab.Until(w.Ctx, time.Minute, time.Second, "begin the backup", func() (bool, string) {
		_, err := w.Lab.Holdfast(w.Ctx, args...)
		if err != nil && !strings.Contains(err.Error(), " holds instance ") { // the schedule's own backup is under way
			w.Fatal(err)
		}
		return err == nil, fmt.Sprint(err)
	}))
	var all []Snapshot
	w.Must(w.JSON(w.Ctx, &all, "get", "snapshots"))
	newest := map[string]Snapshot{}
	for _, s := range all {
		if s.TakenAt.After(newest[s.Instance].TakenAt) {
			newest[s.Instance] = s
		}
	}
	return newest
}

// Placement is where an instance is, by the control plane's word.
type Placement struct {
	Instance string `json:"instance"`
	Node     string `json:"node"`
	Site     string `json:"site"`
	Epoch    int64  `json:"epoch"`
	State    string `json:"state"`
}

// Placements tells where every instance is.
func (w *World) Placements() map[string]Placement {
	w.Helper()
	var all []Placement
	w.Must(w.JSON(w.Ctx, &all, "get", "instances"))
	at := map[string]Placement{}
	for _, p := range all {
		at[p.Instance] = p
	}
	return at
}

// Copy is what a node says of an instance that it holds.
type Copy struct {
	State     string   `json:"state"`
	Epoch     int64    `json:"epoch"`
	CanarySeq int64    `json:"canary_seq"`
	Endpoints []string `json:"endpoints"`
	Salvage   *struct {
		CanarySeq int64     `json:"canary_seq"`
		CanaryAt  time.Time `json:"canary_at"`
		Slot      string    `json:"slot"`
	} `json:"salvage"`
}

// Copies tells what every node says of an instance.
func (w *World) Copies(instance string) map[string]Copy {
	w.Helper()
	var nodes []struct {
		Node  string `json:"node"`
		Facts struct {
			Instances map[string]Copy `json:"instances"`
		} `json:"facts"`
	}
	w.Must(w.JSON(w.Ctx, &nodes, "get", "nodes"))
	copies := map[string]Copy{}
	for _, n := range nodes {
		if c, ok := n.Facts.Instances[instance]; ok {
			copies[n.Node] = c
		}
	}
	return copies
}

// WaitSuspected waits until the probes' word is that a site is lost.
func (w *World) WaitSuspected(site string, within time.Duration) {
	w.Helper()
	w.Must(lab.Until(w.Ctx, within, 200*time.Millisecond, "suspect that "+site+" is lost", func() (bool, string) {
		var sites []struct {
			Site            string
			Down, Instances int
			Suspected       bool
		}
		if err := w.JSON(w.Ctx, &sites, "get", "sites"); err != nil {
			return false, err.Error()
		}
		for _, s := range sites {
			if s.Site == site {
				return s.Suspected, ""
			}
		}
		return false, "no such site"
	}))
}

// Home brings customers home from wherever a recovery left them, without losing a write: nobody writes in a story then.
func (w *World) Home() {
	w.Helper()
	w.Must(w.WaitSeen(w.Ctx))
	at := w.Placements()
	away := slices.DeleteFunc(slices.Clone(w.Customers), func(c Customer) bool { return at[c.Name].Site == c.Site })
	if len(away) > 0 {
		w.BackUp(away...)
	}
	w.Each(away, func(c Customer) error {
		_, err := w.Lab.Holdfast(w.Ctx, "restore", "instance/"+c.Name, "--to", homeNode(c, slices.Index(away, c)))
		return err
	})
	w.Each(w.Customers, func(c Customer) error { return w.Serves(c, time.Minute) })
}

func homeNode(c Customer, i int) string { return c.Site + "-n" + string(rune('1'+i%3)) }
