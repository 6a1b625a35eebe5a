package servers

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"holdfast/internal/problem"
)

// programsModule and programsSums are the go.mod and go.sum by which the services' programs are built. They are kept
// apart from Holdfast's own, which none of this is part of.
//
//go:embed programs.mod
var programsModule []byte

//go:embed programs.sum
var programsSums []byte

// thePrograms are the services' programs that are built from Go modules.
func thePrograms() []string {
	return []string{"github.com/versity/versitygw/cmd/versitygw", "github.com/axllent/mailpit", "github.com/letsencrypt/pebble/v2/cmd/pebble"}
}

// makePrograms returns the folder of the services' programs and builds them when they are not there, in a throw-away
// copy of their module, so that it works from any folder.
func makePrograms(ctx context.Context, out io.Writer) (string, error) {
	sum := sha256.Sum256(slices.Concat(programsModule, programsSums))
	dir := filepath.Join(cacheDir(), fmt.Sprintf("programs-%x", sum[:6]))
	unlock, err := lock(ctx, dir+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	fmt.Fprintln(out, "building the services' programs (object storage, mail, certificates), once: this takes a few minutes")
	half := dir + ".half"
	if err := os.RemoveAll(half); err != nil {
		return "", fmt.Errorf("remove half-built programs: %w", err)
	}
	if err := buildPrograms(ctx, half); err != nil {
		return "", problem.Wrap(err, problem.Unavailable, "go env GOPROXY, then: holdfast-lab up", "the services' programs were not built")
	}
	return dir, os.Rename(half, dir)
}

func buildPrograms(ctx context.Context, target string) error {
	module, err := os.MkdirTemp("", "holdfast-lab-")
	if err != nil {
		return err
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(module, "go.mod"), programsModule, 0o600),
		os.WriteFile(filepath.Join(module, "go.sum"), programsSums, 0o600))
	if err != nil {
		return errors.Join(err, os.RemoveAll(module))
	}
	args := append([]string{"build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", target + string(filepath.Separator)}, thePrograms()...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = module, append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	said, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("build programs: %w: %s", err, said)
	}
	return errors.Join(err, os.RemoveAll(module))
}
