package main

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"
)

// mark is what is wanted: a figure of the peer divided by that of holdfast, at least.
type mark struct {
	what   string
	peer   string // "holdfast" compares it with itself
	peerAt string // step of the peer
	at     string // step of holdfast
	of     func(measured) float64
	wanted float64
}

func duration(m measured) float64 { return m.Seconds }

// marks are those for directories, or for servers behind SFTP.
func marks(overSSH bool) []mark {
	var out []mark
	add := func(step string, wanted float64, peers ...string) {
		for _, p := range peers {
			out = append(out, mark{step, p, step, step, duration, wanted})
		}
	}
	if overSSH {
		add("first", 1.5, "restic")
		add("second day", 2, "restic", "kopia", "borg", "duplicity", "tar")
		add("full restore", 1.3, "restic", "kopia")
		add("full restore", 1.8, "borg")
	} else {
		add("first", 1.6, "restic")
		add("first", 1.2, "kopia")
		add("first", 6, "duplicity")
		add("first", 1, "tar")
		add("second day", 3, "restic", "kopia", "borg", "duplicity", "tar")
		add("full restore", 2, "restic", "kopia", "borg")
		add("full restore", 1/1.1, "tar")
	}
	return append(out,
		mark{"bytes added", "restic", "second day", "second day", added, 1 / 0.65},
		mark{"delta restore, full / delta", "holdfast", "full restore", "delta restore", duration, 5})
}

// verdict is how a mark came out. Low and High are the ratios of single rounds, Ratio that of the medians.
type verdict struct {
	mark
	Ratio, Low, High float64
}

func (v verdict) met() bool { return v.Ratio >= v.wanted }

// judge leaves out marks whose peer was not measured.
func judge(all []measured, wanted []mark) []verdict {
	by := map[[2]string][]measured{}
	for _, m := range all {
		by[[2]string{m.Tool, m.Step}] = append(by[[2]string{m.Tool, m.Step}], m)
	}
	var out []verdict
	for _, m := range wanted {
		peer, ours := by[[2]string{m.peer, m.peerAt}], by[[2]string{"holdfast", m.at}]
		if len(peer) == 0 || len(ours) == 0 {
			continue
		}
		v := verdict{mark: m, Ratio: median(peer, m.of) / median(ours, m.of), Low: math.Inf(1)}
		for _, p := range peer {
			for _, o := range ours {
				if r := m.of(p) / m.of(o); p.Round == o.Round {
					v.Low, v.High = min(v.Low, r), max(v.High, r)
				}
			}
		}
		out = append(out, v)
	}
	return out
}

// memory is the most that holdfast took at any step, in MB.
func memory(all []measured) (most float64) {
	for _, m := range all {
		if m.Tool == "holdfast" {
			most = max(most, rss(m))
		}
	}
	return most
}

// drawMarks prints each mark: met or missed, by medians and within rounds.
func drawMarks(to io.Writer, all []measured, overSSH bool) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "\nmark\tpeer\twanted\tof medians\twithin rounds\t\n")
	word := map[bool]string{true: "met", false: "MISSED"}
	for _, v := range judge(all, marks(overSSH)) {
		fmt.Fprintf(w, "%s\t%s\t%.2f\t%.2f\t%.2f to %.2f\t%s\n", v.what, v.peer, v.wanted, v.Ratio, v.Low, v.High, word[v.met()])
	}
	most := memory(all)
	fmt.Fprintf(w, "memory, MB\t\t300 at most\t%.0f\t\t%s\n", most, word[most > 0 && most < 300])
	return w.Flush()
}
