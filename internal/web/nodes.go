package web

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"holdfast/internal/fleet"
)

type nodesView struct{ Nodes []nodeRow }

type nodeRow struct {
	Node, Site, Roles, State, Memory, DiskFree, Heard, Version, Find string
	Tone                                                             tone
	Instances, MemoryPercent                                         int
	Faults                                                           []string
}

func (w *Web) nodes(rw http.ResponseWriter, r *http.Request) {
	inventory, err := w.Inventory(r.Context())
	if err != nil {
		w.fail(rw, r, err)
		return
	}
	w.draw(rw, r, "nodes", "Nodes", drawNodes(inventory, w.now()))
}

func drawNodes(inv fleet.Inventory, now time.Time) nodesView {
	var view nodesView
	for _, n := range inv.Nodes {
		view.Nodes = append(view.Nodes, drawNode(n, now))
	}
	slices.SortFunc(view.Nodes, func(a, b nodeRow) int {
		return cmp.Or(cmp.Compare(a.Site, b.Site), cmp.Compare(a.Node, b.Node))
	})
	return view
}

func drawNode(n fleet.NodeFacts, now time.Time) nodeRow {
	row := nodeRow{
		Node: n.Node, Site: n.Site, Roles: roles(n.Roles), State: "heard", Tone: good, Instances: len(n.Instances), Faults: n.Faults,
		Memory:        fmt.Sprintf("%s of %s", megabytes(n.Capacity.MemoryUsedMB), megabytes(n.Capacity.MemoryMB)),
		MemoryPercent: percent(n.Capacity.MemoryUsedMB, n.Capacity.MemoryMB),
		DiskFree:      megabytes(n.Capacity.DiskFreeMB), Heard: age(n.SeenAt, now), Version: n.Version,
	}
	if now.Sub(n.SeenAt) > unheardAfter {
		row.State, row.Tone = "out of reach", unknown
	}
	row.Find = strings.ToLower(strings.Join([]string{row.Node, row.Site, row.Roles, row.State}, " "))
	return row
}

func roles(list []fleet.Role) string {
	words := make([]string, len(list))
	for i, r := range list {
		words[i] = string(r)
	}
	return strings.Join(words, ", ")
}
