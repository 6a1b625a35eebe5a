package dashtest

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"holdfast/lab/servers"
)

// Verdict is what became of a customer's acknowledged writes.
type Verdict struct {
	Asked   int      `json:"asked"`   // that had to be there: a document each, and the file that it refers to
	Found   int      `json:"found"`   // of those, there and whole
	Later   int      `json:"later"`   // acknowledged after the moment
	Kept    int      `json:"kept"`    // of those, there all the same
	Wrong   []string `json:"wrong"`   // what had to be there and is not, or not as it was
	Tainted []string `json:"tainted"` // later ones that are there in part
}

// Whole tells whether everything that had to be there is, and nothing is there in part.
func (v Verdict) Whole() bool { return v.Found == v.Asked && len(v.Wrong) == 0 && len(v.Tainted) == 0 }

// seeds is how many documents with files a customer begins with.
const seeds = 6

// Seed fills a customer with public data that differs from every other's; one that has a ledger was filled before.
func (w *World) Seed(c Customer) error {
	if _, err := w.Outside("test", "-s", c.ledger()); err == nil {
		return nil
	}
	_, err := w.Outside(loadDir+"/dash-load", "seed", "-url", c.url(), "-customer", c.Name, "-packages", loadDir+"/packages.txt",
		"-every", "40", "-dashboards", fmt.Sprint(seeds), "-ledger", c.ledger())
	return err
}

// Verify looks for every acknowledged write of a customer; with a moment, those from before it must be there.
func (w *World) Verify(c Customer, before time.Time) (Verdict, error) {
	args := []string{loadDir + "/dash-load", "verify", "-url", c.url(), "-ledger", c.ledger()}
	if !before.IsZero() {
		args = append(args, "-before", before.UTC().Format(time.RFC3339Nano))
	}
	out, failed := w.Outside(args...) // fails also where something is wrong, which the verdict tells
	var v Verdict
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		return v, fmt.Errorf("verify %s: %w: %q", c.Name, failed, out)
	}
	return v, nil
}

// Write writes steadily for a while, and puts what was acknowledged into the customer's ledger.
func (w *World) Write(c Customer, run string, perSecond int, during time.Duration) error {
	_, err := w.Outside(loadDir+"/dash-load", "write", "-url", c.url(), "-ledger", c.ledger(), "-run", run,
		"-rate", fmt.Sprint(perSecond), "-for", during.String())
	return err
}

// StartWriting lets a customer write until the stop that it returns. The last write is acknowledged or not sent.
func (w *World) StartWriting(c Customer, run string, perSecond int) (stop func()) {
	w.Helper()
	unit := "write-" + c.Name + "-" + run
	_, err := w.Outside("systemd-run", "--quiet", "--collect", "--unit", unit, loadDir+"/dash-load", "write", "-url", c.url(),
		"-ledger", c.ledger(), "-run", run, "-rate", fmt.Sprint(perSecond))
	w.Must(err)
	return func() {
		w.Helper()
		_, err := w.Outside("systemctl", "stop", unit)
		w.Must(err)
	}
}

// Entry is one acknowledged write.
type Entry struct {
	ID      string    `json:"id"`
	Picture string    `json:"picture_sha256"` // also the name of its file in the stack's folder
	Acked   time.Time `json:"acked"`
}

// Ledger reads what a customer's stack acknowledged.
func (w *World) Ledger(c Customer) []Entry {
	w.Helper()
	all, _ := w.readLedger(c, func(Entry) bool { return true })
	return all
}

// Forget takes out of a ledger what was acknowledged from a moment on: a restore of an older snapshot gave it up.
func (w *World) Forget(c Customer, from time.Time) {
	w.Helper()
	_, lines := w.readLedger(c, func(e Entry) bool { return e.Acked.Before(from) })
	w.Must(w.outside.Put(w.Ctx, servers.File{Path: c.ledger(), Mode: 0o600, Content: []byte(lines)}))
}

// readLedger gives the entries that are wanted, and their lines as they stand.
func (w *World) readLedger(c Customer, wanted func(Entry) bool) (all []Entry, lines string) {
	w.Helper()
	out, err := w.Outside("cat", c.ledger())
	w.Must(err)
	for line := range strings.Lines(out) {
		var e Entry
		if json.Unmarshal([]byte(line), &e) == nil && wanted(e) {
			all, lines = append(all, e), lines+line
		}
	}
	return all, lines
}
