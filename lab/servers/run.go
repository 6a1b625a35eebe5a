package servers

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// run runs a program of this machine; its error holds what the program said.
func run(ctx context.Context, program string, args ...string) error {
	return runWith(ctx, nil, program, args...)
}

func runWith(ctx context.Context, input io.Reader, program string, args ...string) error {
	_, err := speak(ctx, input, program, args...)
	return err
}

// output is run for a program whose standard output is wanted.
func output(ctx context.Context, program string, args ...string) ([]byte, error) {
	return speak(ctx, nil, program, args...)
}

func speak(ctx context.Context, input io.Reader, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = input
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return out.Bytes(), nil
}
