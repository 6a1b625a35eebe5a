// Command holdfast-demo runs the whole loop on this machine: it declares customers' stacks, deploys them, backs them
// up, loses a site, recovers, and prints the scorecard. Every deed goes through the holdfast command line.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	instances := flag.Int("instances", 12, "customers to deploy, half of them in the site that will be lost")
	once := flag.Bool("once", false, "end by itself; the exit code tells whether all held")
	out := flag.String("out", "", "file for the scorecard as JSON")
	dir := flag.String("dir", ".demo", "folder for everything the demo makes; emptied at the start")
	flag.Parse()
	if *instances < 2 {
		return errors.New("-instances must be at least 2: one in each site")
	}
	bin, err := programs()
	if err != nil {
		return err
	}
	if err := os.RemoveAll(*dir); err != nil {
		return fmt.Errorf("empty %s: %w", *dir, err)
	}
	d, err := newDemo(*dir, bin, *instances)
	if err != nil {
		return err
	}
	defer d.down()
	card, err := d.tell(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w\n  the processes' own words are in %s", d.doing, err, filepath.Join(d.lab.Dir, "logs"))
	}
	if *out != "" {
		if err := os.WriteFile(*out, card.raw, 0o644); err != nil {
			return fmt.Errorf("write scorecard: %w", err)
		}
		d.say("scorecard written to %s", *out)
	}
	if !*once {
		d.leaveOpen(ctx)
	}
	return card.held()
}

// programs is the folder that this program stands in, with holdfast beside it.
func programs() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.Dir(self), nil
}

// down ends every process of the demo, also after a Ctrl-C.
func (d *demo) down() {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if err := d.lab.Down(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "demo: end what it started: %v\n", err)
	}
}

// leaveOpen keeps everything running for a look at the pages, until Ctrl-C.
func (d *demo) leaveOpen(ctx context.Context) {
	fmt.Printf("\nThe web pages are open at %s\nPress Ctrl-C to end the demo.\n", d.pages())
	<-ctx.Done()
}
