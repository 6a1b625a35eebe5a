// Command recovery measures how long a lost site takes to be rebuilt, beside a plain script that copies and unpacks the
// same bytes and starts the same processes with xargs -P: the physical mark of this machine. It runs the lab of the
// demo, with as many instances lost as asked for and as many living on in the other site.
//
// Both do their work in the same situation: after the loss, with the survivors, the probers, the edge and the server
// running beside them, everything written before on disk, and eight things at once. The script goes first and its best
// round counts; then its processes are ended, and the recovery has one try. Both start notes-api, wait until it answers
// its readiness, and start notes-worker. What only the recovery does (decrypt, verify, write durably, fence, ask the
// invariants, route, record) is its price, and the script pays none of it.
package main

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/recovery"
	"holdfast/lab"
)

//go:embed plain.sh
var plainScript string

// row is one measurement; times in seconds.
type row struct {
	Instances int     `json:"instances"`
	Megabytes float64 `json:"megabytes"`     // of the archives, over all instances
	Total     float64 `json:"total_seconds"` // recovery ordered until the edge answers for the last instance
	P50       float64 `json:"restore_p50_seconds"`
	Max       float64 `json:"restore_max_seconds"`
	Each      float64 `json:"seconds_per_instance"` // total / instances
	Plain     float64 `json:"plain_seconds"`        // best round
	Ratio     float64 `json:"ratio"`                // total / plain

	Phases   map[string]float64 `json:"phase_p50_seconds"` // of one instance: how long each bar of the waterfall is
	CPU      map[string]float64 `json:"cpu_seconds"`       // of the recovery, by program
	PlainCPU float64            `json:"plain_cpu_seconds"` // of the best round, without what ran beside it
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/recovery:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	asJSON := flag.Bool("json", false, "print JSON")
	bin := flag.String("bin", "bin", "folder of holdfast, notes-api and notes-worker")
	sizes := flag.String("instances", "10,50,100", "how many instances are lost, in each round")
	lanes := flag.Int("lanes", 8, "what the plain script does at once: as many as orders on two nodes")
	rounds := flag.Int("rounds", 2, "how often the plain script is run; the best counts")
	profile := flag.String("profile", "", "have perf record the recovery into this file; what has which process id goes to standard error")
	keep := flag.Bool("keep", false, "leave the lab's folder for a look at its logs")
	flag.Parse()
	if !*asJSON {
		fmt.Printf("%9s %8s %9s %12s %12s %13s %9s %6s\n", "instances", "MB", "total s", "restore p50", "restore max", "s / instance", "plain s", "ratio")
	}
	var rows []row
	for size := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(size))
		if err != nil {
			return fmt.Errorf("read -instances: %w", err)
		}
		r, err := measure(ctx, *bin, n, *lanes, *rounds, *keep, *profile)
		if err != nil {
			return fmt.Errorf("%d instances: %w", n, err)
		}
		rows = append(rows, r)
		if !*asJSON {
			fmt.Printf("%9d %8.1f %9.1f %12.1f %12.1f %13.2f %9.1f %6.2f\n", r.Instances, r.Megabytes, r.Total, r.P50, r.Max, r.Each, r.Plain, r.Ratio)
			r.explain()
		}
	}
	if *asJSON {
		return json.NewEncoder(os.Stdout).Encode(rows)
	}
	return nil
}

// round is one lab and what came of it.
type round struct {
	*lab.Notes
	dir  string
	bin  string
	card recovery.Scorecard
	row  row
}

func measure(ctx context.Context, bin string, lost, lanes, rounds int, keep bool, profile string) (row, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return row{}, err
	}
	dir, err := os.MkdirTemp("", "holdfast-bench-recovery-")
	if err != nil {
		return row{}, err
	}
	notes, err := lab.NewNotes(filepath.Join(dir, "lab"), bin, 2*lost, 0)
	if err != nil {
		return row{}, err
	}
	r := &round{Notes: notes, dir: dir, bin: bin, row: row{Instances: lost}}
	defer r.end(keep)
	for _, part := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"start", r.StartServer}, {"join", r.Join}, {"declare", r.Declare}, {"apply", r.apply}, {"serve", r.Serve},
		{"seed", r.seed}, {"back up", r.backup}, {"lose", r.lose}, {"archive", r.archive},
		{"plain", func(ctx context.Context) error { return r.plain(ctx, lanes, rounds) }},
		{"recover", func(ctx context.Context) error { return profiled(ctx, r.Dir, profile, r.recover) }},
	} {
		began := time.Now()
		if err := part.do(ctx); err != nil {
			return row{}, fmt.Errorf("%s: %w", part.what, err)
		}
		fmt.Fprintf(os.Stderr, "bench/recovery: %d instances: %s took %.1f s\n", lost, part.what, time.Since(began).Seconds())
	}
	return r.row, nil
}

// end takes everything down, also after a Ctrl-C.
func (r *round) end(keep bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.Down(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench/recovery: end the lab:", err)
	}
	if keep {
		fmt.Fprintln(os.Stderr, "bench/recovery: kept", r.dir)
		return
	}
	_ = os.RemoveAll(r.dir) // a folder under the system's own for temporary files
}

func (r *round) apply(ctx context.Context) error {
	_, err := r.Run(ctx, "apply", "-f", r.Fleet, "--yes")
	return err
}

// seed writes the data of those that will be lost: about 1.4 MB each.
func (r *round) seed(ctx context.Context) error {
	return lab.Each(r.In(lab.SiteA), func(c *lab.Customer) error { return c.Seed(ctx, 60, 20, 64<<10) })
}

// busy is the exit code of a command that waits for somebody else's operation.
const busy = 11

// backup takes one more backup of everybody, after those that the server has begun by itself. What fails, fails.
func (r *round) backup(ctx context.Context) error {
	var failed error
	err := lab.Until(ctx, 3*time.Minute, time.Second, "back everything up", func() (bool, string) {
		_, failed = r.Run(ctx, "backup", "run", "--all")
		exit, ended := errors.AsType[*exec.ExitError](failed)
		return !ended || exit.ExitCode() != busy, fmt.Sprint(failed)
	})
	return errors.Join(err, failed)
}

// lose kills the site and waits until every instance of it is seen down, so that the recovery is not refused.
func (r *round) lose(ctx context.Context) error {
	if _, err := r.LoseSite(ctx, lab.SiteA); err != nil {
		return err
	}
	plan := "lose-" + lab.SiteA
	return lab.Until(ctx, 90*time.Second, 500*time.Millisecond, "see "+lab.SiteA+" lost", func() (bool, string) {
		out, err := r.Run(ctx, "recover", plan, "--lint", "-o", "json")
		return err == nil && !strings.Contains(out, "still-answers"), out
	})
}

func (r *round) recover(ctx context.Context) error {
	unix.Sync()
	before, err := cpuOf(r.Dir)
	if err != nil {
		return err
	}
	out, err := r.Run(ctx, "recover", "lose-"+lab.SiteA, "--yes", "-o", "json")
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	if err := json.Unmarshal([]byte(out), &r.card); err != nil {
		return fmt.Errorf("read scorecard: %w", err)
	}
	if r.card.Verdict != recovery.Pass {
		return fmt.Errorf("the recovery did not pass: %q", r.card.Reasons)
	}
	after, err := cpuOf(r.Dir)
	r.row.CPU = less(after, before)
	r.measured()
	return err
}

// archive brings the very snapshots that were recovered out of the vault, each as one archive and its secret.
func (r *round) archive(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Join(r.dir, "archives"), 0o700); err != nil {
		return err
	}
	return lab.Each(r.In(lab.SiteA), func(c *lab.Customer) error { return r.archiveOne(ctx, c.Instance) })
}

func (r *round) archiveOne(ctx context.Context, instance string) error {
	folder := filepath.Join(r.dir, "unpacked", instance)
	repository := filepath.Join(r.Dir, "nodes", "ams1-vault", "vault", instance)
	if _, err := r.Run(ctx, "vault", "restore", "--repo", repository, "--key", r.SecretKey(instance), "--to", folder, "--state", filepath.Join(r.dir, "state", instance)); err != nil {
		return err
	}
	secret, err := secretOf(filepath.Join(folder, "secrets"))
	if err != nil {
		return err
	}
	archives := filepath.Join(r.dir, "archives")
	if err := os.WriteFile(filepath.Join(archives, instance+".secret"), []byte(secret), 0o600); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "tar", "-cf", filepath.Join(archives, instance+".tar"), "-C", folder, "state", "dumps").CombinedOutput()
	if err != nil {
		return fmt.Errorf("pack %s: %w: %s", instance, err, out)
	}
	return os.RemoveAll(folder)
}

// secretOf reads the one secret of the notes product from a restored snapshot.
func secretOf(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	values := map[string]string{}
	if err := json.Unmarshal(raw, &values); err != nil {
		return "", errors.New("the snapshot's secrets cannot be read") // the cause could show a part of one
	}
	if values["session_key"] == "" {
		return "", errors.New("the snapshot holds no session_key")
	}
	return values["session_key"], nil
}

// plain runs the script for every lost instance, lanes at once, and takes the time until the last is ready.
func (r *round) plain(ctx context.Context, lanes, rounds int) error {
	script := filepath.Join(r.dir, "plain.sh")
	if err := os.WriteFile(script, []byte(plainScript), 0o700); err != nil {
		return err
	}
	for n := range rounds {
		target := filepath.Join(r.dir, fmt.Sprint("plain", n))
		seconds, cpu, err := r.plainOnce(ctx, script, target, lanes)
		endPlain(filepath.Join(target, "pids"))
		if err := errors.Join(err, os.RemoveAll(target)); err != nil {
			return err
		}
		if n == 0 || seconds < r.row.Plain {
			r.row.Plain, r.row.PlainCPU = seconds, cpu
		}
	}
	return nil
}

func (r *round) plainOnce(ctx context.Context, script, target string, lanes int) (seconds, cpu float64, err error) {
	if err := os.MkdirAll(target, 0o700); err != nil {
		return 0, 0, err
	}
	lines, megabytes, err := r.lines()
	if err != nil {
		return 0, 0, err
	}
	r.row.Megabytes = megabytes
	unix.Sync()
	began := time.Now()
	command := exec.CommandContext(ctx, "xargs", "-P", strconv.Itoa(lanes), "-L", "1", "sh", script, filepath.Join(r.dir, "archives"), target, r.bin)
	command.Stdin = strings.NewReader(lines)
	out, err := command.CombinedOutput()
	seconds = time.Since(began).Seconds()
	if err != nil {
		return 0, 0, fmt.Errorf("run the plain script: %w: %s", err, out)
	}
	started, err := cpuOf(target)
	return seconds, total(started) + (command.ProcessState.UserTime() + command.ProcessState.SystemTime()).Seconds(), err
}

// lines is what xargs reads: an instance and its port on each.
func (r *round) lines() (lines string, megabytes float64, err error) {
	for i, c := range r.In(lab.SiteA) {
		info, err := os.Stat(filepath.Join(r.dir, "archives", c.Instance+".tar"))
		if err != nil {
			return "", 0, err
		}
		megabytes += float64(info.Size()) / 1e6
		lines += fmt.Sprintf("%s %d\n", c.Instance, 31_000+i)
	}
	return lines, megabytes, nil
}

// endPlain ends the processes that the script has started, which are those it wrote down.
func endPlain(pids string) {
	raw, err := os.ReadFile(pids)
	if err != nil {
		return // it never came to start one
	}
	for field := range strings.FieldsSeq(string(raw)) {
		if pid, err := strconv.Atoi(field); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended already
		}
	}
}

// measured reads the row's numbers out of the scorecard.
func (r *round) measured() {
	last, phases := r.card.DeclaredAt, map[string][]float64{}
	for _, i := range r.card.Instances {
		for _, s := range i.Steps {
			if s.End.After(last) {
				last = s.End
			}
			if s.Seconds != nil {
				phases[s.Name] = append(phases[s.Name], *s.Seconds)
			}
		}
	}
	row := &r.row
	row.Total, row.P50, row.Max = last.Sub(r.card.DeclaredAt).Seconds(), *r.card.RestoreSeconds.P50, *r.card.RestoreSeconds.Max
	row.Each, row.Ratio = row.Total/float64(row.Instances), row.Total/row.Plain
	row.Phases = map[string]float64{}
	for name, all := range phases {
		slices.Sort(all)
		row.Phases[name] = all[len(all)/2]
	}
}

// explain prints where the time of a row went.
func (r row) explain() {
	fmt.Printf("%9s", "")
	for _, name := range []string{"place", "fetch", "load", "boot", "ready", "checks", "edge"} {
		fmt.Printf(" %s %.2f", name, r.Phases[name])
	}
	fmt.Printf(" (p50, s)\n%9s", "")
	for _, name := range slices.SortedFunc(maps.Keys(r.CPU), func(a, b string) int { return cmp.Compare(r.CPU[b], r.CPU[a]) }) {
		if r.CPU[name] >= 0.05 {
			fmt.Printf(" %s %.1f", name, r.CPU[name])
		}
	}
	fmt.Printf(" (cpu, s; %.1f in all; plain %.1f)\n", total(r.CPU), r.PlainCPU)
}
