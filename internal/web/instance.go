package web

import (
	"fmt"
	"net/http"
	"time"

	"holdfast/internal/fleet"
)

// InstanceReads is what is known of one instance.
type InstanceReads struct {
	Placement  fleet.Placement
	Hosts      []string
	Snapshots  []Snapshot
	Probes     []ProbeAnswer
	Operations []Operation
}

// Snapshot is one row of the catalogue.
type Snapshot struct {
	ID, Release, Vault string
	Taken              time.Time
	Bytes, Added       int64
	Proven             time.Time
}

// ProbeAnswer is the last answer that one prober got.
type ProbeAnswer struct {
	Prober string
	OK     bool
	Words  string
	At     time.Time
	Took   time.Duration
}

type instanceView struct {
	Instance, State, Release, Node, Site, Slot, Canary, Proof string
	Tone                                                      tone
	Epoch                                                     int64
	Hosts, Endpoints, Salvage                                 []string
	Services                                                  []serviceRow
	Probes                                                    []probeRow
	Snapshots                                                 []snapshotRow
	Operations                                                []operationRow
}

type serviceRow struct {
	Name, State, Replicas, Memory, Since, Note string
	Tone                                       tone
	Restarts                                   int
}

type probeRow struct {
	Prober, Answer, When, Took string
	Tone                       tone
}

type snapshotRow struct{ ID, Taken, Release, Bytes, Added, Vault, Proof string }

func (w *Web) instance(rw http.ResponseWriter, r *http.Request) {
	reads, err := w.Instance(r.Context(), r.PathValue("name"))
	if err != nil {
		w.fail(rw, r, err)
		return
	}
	inventory, err := w.Inventory(r.Context())
	if err != nil {
		w.fail(rw, r, err)
		return
	}
	w.draw(rw, r, "instance", reads.Placement.Instance, drawInstance(reads, inventory, w.now()))
}

func drawInstance(reads InstanceReads, inv fleet.Inventory, now time.Time) instanceView {
	p := reads.Placement
	state := stateOf(inv, p, now)
	facts := inv.Nodes[p.Node].Instances[p.Instance]
	v := instanceView{
		Instance: p.Instance, State: string(state), Tone: toneOfInstance(state), Release: p.Release, Node: p.Node, Site: p.Site,
		Epoch: p.Epoch, Slot: p.Slot, Hosts: reads.Hosts, Endpoints: facts.Endpoints,
		Canary: fmt.Sprintf("number %d, %s", facts.CanarySeq, age(facts.CanaryAt, now)), Proof: newest(reads.Snapshots).words(now),
		Salvage: salvage(inv, p, now), Operations: drawOperations(reads.Operations, now),
	}
	for _, s := range facts.Services {
		v.Services = append(v.Services, drawService(s, now))
	}
	for _, a := range reads.Probes {
		v.Probes = append(v.Probes, drawProbe(a, now))
	}
	for _, s := range reads.Snapshots {
		v.Snapshots = append(v.Snapshots, drawSnapshot(s, now))
	}
	return v
}

func newest(list []Snapshot) Proof {
	var p Proof
	for _, s := range list {
		if s.Taken.After(p.Snapshot) {
			p.Snapshot = s.Taken
		}
		if s.Proven.After(p.Proven) {
			p.Proven = s.Proven
		}
	}
	return p
}

// salvage names the fenced copies that hold newer data than what was restored.
func salvage(inv fleet.Inventory, p fleet.Placement, now time.Time) []string {
	var lines []string
	for _, n := range inv.Nodes {
		if f, ok := n.Instances[p.Instance]; ok && n.Node != p.Node && f.Salvage != nil {
			lines = append(lines, fmt.Sprintf("%s holds a fenced copy up to canary %d, %s", n.Node, f.Salvage.CanarySeq, age(f.Salvage.CanaryAt, now)))
		}
	}
	return lines
}

func drawService(s fleet.ServiceFacts, now time.Time) serviceRow {
	row := serviceRow{Name: s.Name, State: "ready", Tone: good, Replicas: fmt.Sprintf("%d of %d", s.Running, s.Wanted), Restarts: s.Restarts,
		Memory: megabytes(s.MemoryMB), Since: age(s.Since, now), Note: s.Note}
	switch {
	case s.Running == 0:
		row.State, row.Tone = "stopped", bad
	case !s.Ready:
		row.State, row.Tone = "not ready", warn
	}
	return row
}

func drawProbe(a ProbeAnswer, now time.Time) probeRow {
	row := probeRow{Prober: a.Prober, Answer: a.Words, Tone: good, When: age(a.At, now), Took: span(a.Took)}
	if !a.OK {
		row.Tone = bad
	}
	return row
}

func drawSnapshot(s Snapshot, now time.Time) snapshotRow {
	proof := "unproven"
	if !s.Proven.IsZero() {
		proof = "proven " + age(s.Proven, now)
	}
	return snapshotRow{ID: s.ID, Taken: age(s.Taken, now), Release: s.Release, Bytes: size(s.Bytes), Added: size(s.Added), Vault: s.Vault, Proof: proof}
}
