// Command vault measures the vault beside its peers: first backup, second day, bytes added, full and delta restore,
// locally and over SFTP on loopback. Peers that are not installed are left out and named.
//
//	go run ./bench/vault -dir /tmp/vault-bench -tools holdfast,restic,kopia,borg,duplicity,tar -rounds 3
//
// It runs unattended: a tool that fails is named and left out of its round, and with -within no turn begins after
// that time. At the end it prints the medians and every mark, met or missed.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench/vault:", err)
		os.Exit(1)
	}
}

// measured is one step of one tool in one round.
type measured struct {
	Tool    string  `json:"tool"`
	Step    string  `json:"step"`
	Round   int     `json:"round"`
	Seconds float64 `json:"seconds"`
	CPU     float64 `json:"cpu_seconds"`
	RSS     int64   `json:"max_rss_bytes"`
	Added   int64   `json:"bytes_added"`
}

func run(ctx context.Context) error {
	dir := flag.String("dir", "/tmp/vault-bench", "where data, repositories and restores lie; about 20 GB")
	tools := flag.String("tools", "holdfast,restic,kopia,borg,duplicity,tar", "in this order, each round")
	rounds := flag.Int("rounds", 3, "rounds; the table shows medians")
	overSSH := flag.Bool("sftp", false, "repositories behind sshd on loopback instead of directories")
	bin := flag.String("holdfast", "holdfast", "the program to measure")
	within := flag.Duration("within", 0, "begin no turn of a tool after this time; 0 ends after all rounds")
	cold := flag.Bool("cold", false, "drop the system's caches before each step; for root")
	asJSON := flag.Bool("json", false, "print every measurement as JSON")
	flag.Parse()
	data, err := makeData(ctx, *dir)
	if err != nil {
		return fmt.Errorf("make data: %w", err)
	}
	b := &bench{ctx: ctx, dir: *dir, data: data, bin: *bin, cold: *cold}
	if *overSSH {
		if err := b.startSSH(); err != nil {
			return fmt.Errorf("start sshd: %w", err)
		}
		defer b.stopSSH()
	}
	b.rounds(*rounds, strings.Split(*tools, ","), *within)
	if *asJSON {
		return json.NewEncoder(os.Stdout).Encode(b.results)
	}
	if err := draw(b.results); err != nil {
		return err
	}
	return drawMarks(os.Stdout, b.results, *overSSH)
}

// rounds lets each tool have its turn in each round. What fails is told, and costs its own turn only.
func (b *bench) rounds(n int, tools []string, within time.Duration) {
	began := time.Now()
	for round := range n {
		for _, name := range tools {
			if b.ctx.Err() != nil || within > 0 && time.Since(began) > within {
				fmt.Fprintf(os.Stderr, "round %d %s: no time left\n", round+1, name)
				return
			}
			if err := b.tool(name, round); err != nil {
				fmt.Fprintf(os.Stderr, "round %d %s: %v\n", round+1, name, err)
			}
		}
	}
}

// steps are the columns of the table.
var steps = []string{ //nolint:gochecknoglobals // a table, never written
	"first", "second day", "full restore", "one small file", "delta restore", "check",
}

// draw prints medians: seconds, and below them CPU seconds, memory and bytes added where they matter.
func draw(all []measured) error {
	var tools []string
	by := map[[2]string][]measured{}
	for _, m := range all {
		if !slices.Contains(tools, m.Tool) {
			tools = append(tools, m.Tool)
		}
		by[[2]string{m.Tool, m.Step}] = append(by[[2]string{m.Tool, m.Step}], m)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "tool\t")
	for _, s := range steps {
		fmt.Fprintf(w, "%s s\t", s)
	}
	fmt.Fprint(w, "first CPU s\tfirst MB\tsecond MB\tbackup RSS MB\trestore RSS MB\t\n")
	for _, t := range tools {
		fmt.Fprintf(w, "%s\t", t)
		for _, s := range steps {
			fmt.Fprintf(w, "%s\t", seconds(by[[2]string{t, s}]))
		}
		first, second, restore := by[[2]string{t, "first"}], by[[2]string{t, "second day"}], by[[2]string{t, "full restore"}]
		fmt.Fprintf(w, "%.1f\t%.0f\t%.0f\t%.0f\t%.0f\t\n", median(first, func(m measured) float64 { return m.CPU }), median(first, added), median(second, added), median(first, rss), median(restore, rss))
	}
	return w.Flush()
}

func added(m measured) float64 { return float64(m.Added) / 1e6 }
func rss(m measured) float64   { return float64(m.RSS) / 1e6 }

func seconds(all []measured) string {
	if len(all) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", median(all, func(m measured) float64 { return m.Seconds }))
}

func median(all []measured, of func(measured) float64) float64 {
	if len(all) == 0 {
		return 0
	}
	var values []float64
	for _, m := range all {
		values = append(values, of(m))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// size is how many bytes the files below a directory have.
func size(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				sum += info.Size()
			}
		}
		return nil
	})
	return sum
}

func elapsed(from time.Time) float64 { return time.Since(from).Seconds() }
