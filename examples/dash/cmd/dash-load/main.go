// Command dash-load fills instances of the product, writes to them, and tells whether what they acknowledged is there.
//
//	dash-load seed   -url URL -customer NAME [-packages FILE] [-every N] [-dashboards N] [-doubled] [-ledger FILE]
//	dash-load write  -url URL -ledger FILE [-run NAME] [-rate N] [-for DURATION]
//	dash-load verify -url URL -ledger FILE [-before RFC3339]
//
// With -host the name that is asked for differs from the one in the URL. Every command prints one line of JSON.
// Exit code 1: something is not as it was acknowledged, or the command could not be done.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"holdfast/examples/dash/load"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		slog.Error("dash-load", "err", err)
		os.Exit(1)
	}
}

// settings are the flags of all commands.
type settings struct {
	url, host, customer, packages, ledger, run, before string
	every, dashboards, size                            int
	rate                                               float64
	duration                                           time.Duration
	doubled, insecure                                  bool
}

func run(ctx context.Context, args []string) error {
	commands := map[string]func(context.Context, settings, load.Target) error{"seed": seed, "write": write, "verify": verify}
	if len(args) == 0 || commands[args[0]] == nil {
		return errors.New("say what to do: dash-load seed, write or verify")
	}
	var s settings
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.StringVar(&s.url, "url", "", "`address` of the instance")
	flags.StringVar(&s.host, "host", "", "`name` to ask for where the address is not it")
	flags.BoolVar(&s.insecure, "insecure", false, "take any certificate")
	flags.StringVar(&s.customer, "customer", "", "seed: `name` that decides which part of the packages it gets")
	flags.StringVar(&s.packages, "packages", "/var/lib/dpkg/status", "seed: `file` in the form of Debian's Packages")
	flags.IntVar(&s.every, "every", 8, "seed: one package of `N`")
	flags.IntVar(&s.dashboards, "dashboards", 20, "seed: how many")
	flags.BoolVar(&s.doubled, "doubled", false, "seed: two dashboards get one address, which release v4 does not take")
	flags.StringVar(&s.ledger, "ledger", "", "`file` of acknowledged writes")
	flags.StringVar(&s.run, "run", "w", "write: first part of every id")
	flags.Float64Var(&s.rate, "rate", 20, "write: writes a second")
	flags.IntVar(&s.size, "size", 4096, "write: bytes of a picture")
	flags.DurationVar(&s.duration, "for", 0, "write: how long; 0 = until it is ended")
	flags.StringVar(&s.before, "before", "", "verify: `moment` until which acknowledged writes must be there; none = all")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	client := &http.Client{Timeout: 30 * time.Second}
	if s.insecure {
		client.Transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // asked for by name
	}
	target, err := load.Reach(ctx, client, s.url, s.host)
	if err != nil {
		return err
	}
	return commands[args[0]](ctx, s, target)
}

func seed(ctx context.Context, s settings, target load.Target) error {
	in, err := os.Open(s.packages)
	if err != nil {
		return fmt.Errorf("read package list: %w", err)
	}
	defer in.Close()
	facts, err := load.ReadPackages(in, load.Share(s.customer, s.every))
	if err != nil {
		return err
	}
	entries, err := target.Fill(ctx, load.Seed{Customer: s.customer, Facts: facts, Dashboards: s.dashboards, Doubled: s.doubled})
	if err != nil {
		return fmt.Errorf("seed %s: %w", s.customer, err)
	}
	if s.ledger != "" {
		if err := appendTo(s.ledger, entries); err != nil {
			return err
		}
	}
	return say(map[string]int{"facts": len(facts), "dashboards": len(entries)})
}

func appendTo(path string, entries []load.Entry) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open ledger: %w", err)
	}
	encoder := json.NewEncoder(file)
	for _, e := range entries {
		if err := encoder.Encode(e); err != nil {
			return errors.Join(fmt.Errorf("write ledger: %w", err), file.Close())
		}
	}
	return file.Close()
}

func write(ctx context.Context, s settings, target load.Target) error {
	ledger, err := os.OpenFile(s.ledger, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open ledger: %w", err)
	}
	if s.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.duration)
		defer cancel()
	}
	failed := 0
	n, err := target.Write(ctx, load.Writing{Run: s.run, Rate: s.rate, Size: s.size, Logs: func(err error) {
		failed++
		slog.Warn("write not acknowledged", "err", err)
	}}, ledger)
	if err := errors.Join(err, ledger.Close()); err != nil {
		return err
	}
	return say(map[string]int{"acknowledged": n, "failed": failed})
}

func verify(ctx context.Context, s settings, target load.Target) error {
	ledger, err := os.Open(s.ledger)
	if err != nil {
		return fmt.Errorf("open ledger: %w", err)
	}
	defer ledger.Close()
	entries, err := load.ReadLedger(ledger)
	if err != nil {
		return err
	}
	var before time.Time
	if s.before != "" {
		if before, err = time.Parse(time.RFC3339Nano, s.before); err != nil {
			return fmt.Errorf("read -before: %w", err)
		}
	}
	verdict, err := target.Verify(ctx, entries, before)
	if err != nil {
		return err
	}
	if err := say(verdict); err != nil {
		return err
	}
	if !verdict.Well() {
		return fmt.Errorf("%d acknowledged writes are not there, %d others are there in part", len(verdict.Wrong), len(verdict.Tainted))
	}
	return nil
}

func say(value any) error { return json.NewEncoder(os.Stdout).Encode(value) }
