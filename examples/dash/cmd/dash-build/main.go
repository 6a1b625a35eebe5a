// Command dash-build makes the programs and the images of the product and a fleet that pins them, without a registry,
// without a Docker Engine and without root:
//
//	dash-build -out bin/dash                                        # programs/, images/, packages.txt, fleet/
//	dash-build -out bin/dash -image dash/ferretdb:v1.24.0=mongo:7.0.14   # another image, from a registry
//	dash-build -out bin/dash -programs                              # programs only
//
// What was made before from the same is not made again.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"holdfast/examples/dash/build"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "dash-build:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("dash-build", flag.ContinueOnError)
	out := flags.String("out", "bin/dash", "`folder` that everything is made in")
	source := flags.String("source", "", "`folder` of examples/dash; left out: found from here")
	only := flags.Bool("programs", false, "programs only")
	replace := map[string]string{}
	flags.Func("image", "`NAME=OTHER`: pin another image, from a registry, instead of one made here", func(text string) error {
		name, other, ok := strings.Cut(text, "=")
		if !ok {
			return fmt.Errorf("write NAME=OTHER")
		}
		replace[name] = other
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	into, err := filepath.Abs(*out)
	if err != nil {
		return err
	}
	if *source == "" {
		if *source, err = build.Root(); err != nil {
			return err
		}
	}
	say := func(text string) { fmt.Fprintln(os.Stderr, "dash-build:", text) }
	programs, err := build.MakePrograms(ctx, *source, filepath.Join(into, "programs"), say)
	if err != nil || *only {
		return err
	}
	images, err := build.MakeImages(ctx, programs, filepath.Join(into, "images"), filepath.Join(into, "cache"), say)
	if err != nil {
		return err
	}
	if err := packages(ctx, filepath.Join(into, "packages.txt")); err != nil {
		return err
	}
	return build.PinFleet(filepath.Join(*source, "fleet"), filepath.Join(into, "fleet"), images, replace)
}

// packages keeps the list of the distribution's packages, which instances are seeded from.
func packages(ctx context.Context, path string) error {
	list, err := exec.CommandContext(ctx, "apt-cache", "dumpavail").Output()
	if err != nil {
		return fmt.Errorf("read the list of packages: %w", err)
	}
	return os.WriteFile(path, list, 0o644) //nolint:gosec // anybody may read it
}
