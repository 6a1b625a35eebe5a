// Command stories runs the end-to-end stories and prints one line for each: how it ended and how long it took.
//
//	go run ./test/e2e/stories [-timeout 90m] [NAME]
//
// NAME is part of a story's name, in any case. What a failed story said follows its line. The exit code is 1 when one
// failed, or when none has the name.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"syscall"
)

func main() {
	within := flag.String("timeout", "90m", "how long all of them may take")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, flag.Arg(0), *within)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "stories:", err)
		os.Exit(1)
	}
}

// packages are where stories are told; the lab's own is the first.
func packages() []string { return []string{"./lab/servers/...", "./test/dash", "./test/e2e/..."} }

// records is where the stories leave their scorecards.
const records = "bin/e2e"

func run(ctx context.Context, name, within string) error {
	if err := os.MkdirAll(records, 0o755); err != nil {
		return err
	}
	args := []string{"test", "-json", "-count=1", "-p=1", "-timeout=" + within, "-artifacts", "-outputdir=" + records}
	if name != "" {
		args = append(args, "-run=(?i)"+regexp.QuoteMeta(name))
	}
	cmd := exec.CommandContext(ctx, "go", append(args, packages()...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // lets tests take down what they brought up
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run go test: %w", err)
	}
	told, err := tell(out, os.Stdout)
	ended := cmd.Wait()
	switch {
	case err != nil:
		return err
	case told.failed > 0:
		return fmt.Errorf("%d of %d stories failed", told.failed, told.all())
	case ended != nil:
		return fmt.Errorf("go test: %w", ended)
	case told.all() == 0:
		return errors.New("no story has that name: go test -list . ./test/e2e")
	}
	fmt.Fprintf(os.Stdout, "%d stories passed, %d left out\n", told.passed, told.leftOut)
	return nil
}
