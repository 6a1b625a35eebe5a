// Command recovery measures how long a lost site takes to be rebuilt, beside a plain script that copies and unpacks the
// same bytes and starts the same processes with xargs -P: the physical mark of this machine. It runs the lab of the
// demo, with as many instances lost as asked for and as many living on in the other site.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

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
	Plain     float64 `json:"plain_seconds"`
	Ratio     float64 `json:"ratio"` // total / plain
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
		r, err := measure(ctx, *bin, n, *lanes, *keep)
		if err != nil {
			return fmt.Errorf("%d instances: %w", n, err)
		}
		rows = append(rows, r)
		if !*asJSON {
			fmt.Printf("%9d %8.1f %9.1f %12.1f %12.1f %13.2f %9.1f %6.2f\n", r.Instances, r.Megabytes, r.Total, r.P50, r.Max, r.Each, r.Plain, r.Ratio)
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
}

func measure(ctx context.Context, bin string, lost, lanes int, keep bool) (row, error) {
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
	r := &round{Notes: notes, dir: dir, bin: bin}
	defer r.end(keep)
	for _, part := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"start", r.StartServer}, {"join", r.Join}, {"declare", r.Declare}, {"apply", r.apply}, {"serve", r.Serve},
		{"seed", r.seed}, {"back up", r.backup}, {"lose", r.lose}, {"recover", r.recover}, {"archive", r.archive},
	} {
		fmt.Fprintf(os.Stderr, "bench/recovery: %d instances: %s\n", lost, part.what)
		if err := part.do(ctx); err != nil {
			return row{}, fmt.Errorf("%s: %w", part.what, err)
		}
	}
	if err := r.Down(ctx); err != nil { // the script gets the machine for itself, as the recovery had it
		return row{}, err
	}
	plain, megabytes, err := r.plain(ctx, lanes)
	if err != nil {
		return row{}, err
	}
	return r.row(lost, plain, megabytes), nil
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

func (r *round) seed(ctx context.Context) error {
	return lab.Each(r.Customers, func(c *lab.Customer) error { return c.Seed(ctx, 60, 20, 64<<10) })
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
	return nil
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
func (r *round) plain(ctx context.Context, lanes int) (seconds, megabytes float64, err error) {
	target := filepath.Join(r.dir, "plain")
	if err := os.MkdirAll(target, 0o700); err != nil {
		return 0, 0, err
	}
	script := filepath.Join(r.dir, "plain.sh")
	if err := os.WriteFile(script, []byte(plainScript), 0o700); err != nil {
		return 0, 0, err
	}
	var lines strings.Builder
	for i, c := range r.In(lab.SiteA) {
		info, err := os.Stat(filepath.Join(r.dir, "archives", c.Instance+".tar"))
		if err != nil {
			return 0, 0, err
		}
		megabytes += float64(info.Size()) / 1e6
		fmt.Fprintf(&lines, "%s %d\n", c.Instance, 31_000+i)
	}
	defer endPlain(filepath.Join(target, "pids"))
	began := time.Now()
	command := exec.CommandContext(ctx, "xargs", "-P", strconv.Itoa(lanes), "-L", "1", "sh", script, filepath.Join(r.dir, "archives"), target, r.bin)
	command.Stdin = strings.NewReader(lines.String())
	out, err := command.CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("run the plain script: %w: %s", err, out)
	}
	return time.Since(began).Seconds(), megabytes, nil
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

func (r *round) row(lost int, plain, megabytes float64) row {
	last := r.card.DeclaredAt
	for _, i := range r.card.Instances {
		for _, s := range i.Steps {
			if s.End.After(last) {
				last = s.End
			}
		}
	}
	total := last.Sub(r.card.DeclaredAt).Seconds()
	return row{
		Instances: lost, Megabytes: megabytes, Total: total, P50: *r.card.RestoreSeconds.P50, Max: *r.card.RestoreSeconds.Max,
		Each: total / float64(lost), Plain: plain, Ratio: total / plain,
	}
}
