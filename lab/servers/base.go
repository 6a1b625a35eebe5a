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
	"runtime"
	"strings"

	"holdfast/internal/problem"
)

// baseScript is the recipe of the base.
//
//go:embed base.sh
var baseScript []byte

// recipe is where a base comes from.
type recipe struct {
	Suite, Mirror, Components string
}

// name tells two bases apart: by everything that they are made from.
func (r recipe) name() string {
	sum := sha256.Sum256([]byte(string(baseScript) + "\x00" + r.Suite + "\x00" + r.Components + "\x00" + runtime.GOARCH))
	return fmt.Sprintf("base-%s-%x", r.Suite, sum[:6])
}

// makeBase returns the folder of the base and makes it when it is not there. Two labs that want it at once wait for
// each other.
func makeBase(ctx context.Context, r recipe, out io.Writer) (string, error) {
	dir := filepath.Join(cacheDir(), r.name())
	unlock, err := lock(ctx, dir+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	fmt.Fprintf(out, "making the servers' root file system of %s, once: this takes one to two minutes\n", r.Suite)
	half := dir + ".half"
	if err := os.RemoveAll(half); err != nil {
		return "", fmt.Errorf("remove half a base: %w", err)
	}
	if err := r.bake(ctx, half, dir+".log"); err != nil {
		return "", problem.Wrap(err, problem.Unavailable, "read "+dir+".log, then: holdfast-lab up", "the servers' root file system was not made")
	}
	return dir, os.Rename(half, dir)
}

// bake runs the recipe with its words in a log.
func (r recipe) bake(ctx context.Context, target, logFile string) error {
	log, err := os.Create(logFile)
	if err != nil {
		return err
	}
	script := target + ".sh"
	if err := os.WriteFile(script, baseScript, 0o700); err != nil {
		return errors.Join(err, log.Close())
	}
	cmd := exec.CommandContext(ctx, "sh", script, target, r.Suite, r.Mirror, r.Components)
	cmd.Stdout, cmd.Stderr = log, log
	return errors.Join(cmd.Run(), log.Close(), os.Remove(script))
}

// theRecipe follows from this machine: Debian's stable from the mirror that this machine installs from, or Ubuntu in
// the machine's own release. HOLDFAST_LAB_SUITE and HOLDFAST_LAB_MIRROR say otherwise.
func theRecipe() (recipe, error) {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return recipe{}, fmt.Errorf("read what this machine runs: %w", err)
	}
	r := recipe{Suite: "trixie", Components: "main"}
	if id := variableOf(string(release), "ID"); id == "ubuntu" {
		r.Suite, r.Components = variableOf(string(release), "VERSION_CODENAME"), "main,universe"
	} else if id != "debian" && os.Getenv("HOLDFAST_LAB_MIRROR") == "" {
		return recipe{}, problem.New(problem.Unavailable, "HOLDFAST_LAB_MIRROR=URL HOLDFAST_LAB_SUITE=trixie holdfast-lab up",
			"the lab was not brought up: this machine runs %q, and no mirror of Debian is known to it", id)
	}
	if suite := os.Getenv("HOLDFAST_LAB_SUITE"); suite != "" {
		r.Suite = suite
	}
	if r.Mirror = os.Getenv("HOLDFAST_LAB_MIRROR"); r.Mirror == "" {
		r.Mirror, err = machineMirror("/etc/apt")
	}
	return r, err
}

// variableOf reads NAME=value of a file in the form of os-release.
func variableOf(text, name string) string {
	for _, line := range strings.Split(text, "\n") {
		if value, ok := strings.CutPrefix(line, name+"="); ok {
			return strings.Trim(value, `"`)
		}
	}
	return ""
}

// machineMirror finds the archive that this machine installs its own packages from.
func machineMirror(apt string) (string, error) {
	lists, err := filepath.Glob(filepath.Join(apt, "sources.list.d", "*"))
	if err != nil {
		return "", err
	}
	for _, list := range append([]string{filepath.Join(apt, "sources.list")}, lists...) {
		raw, err := os.ReadFile(list)
		if err != nil {
			continue // not there, or not for us
		}
		if mirror := mirrorIn(string(raw)); mirror != "" {
			return mirror, nil
		}
	}
	return "", problem.New(problem.Unavailable, "HOLDFAST_LAB_MIRROR=URL holdfast-lab up",
		"the lab was not brought up: no archive of Debian or Ubuntu stands in %s", apt)
}

// mirrorIn finds the first archive of the distribution itself in a list of sources, in either of apt's two formats: its
// address ends with the distribution's name, as those of security updates and of others' packages do not.
func mirrorIn(list string) string {
	for _, line := range strings.Split(list, "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "deb" && fields[0] != "URIs:" {
			continue
		}
		for _, field := range fields[1:] {
			path := strings.TrimSuffix(field, "/")
			if strings.Contains(path, "://") && (strings.HasSuffix(path, "/debian") || strings.HasSuffix(path, "/ubuntu") || strings.HasSuffix(path, "/ubuntu-ports")) {
				return path
			}
		}
	}
	return ""
}
