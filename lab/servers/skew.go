package servers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"holdfast/internal/problem"
)

// SkewedAgent is the name of an agent whose clock can be wrong, in the lab's Bin beside the real one.
//
// All servers share this machine's clock: the kernel has namespaces for the time since boot only, and a program that
// asks the kernel directly, as Go's do, is not reached by a preloaded library. So the skewed agent is the same source
// built with one function of the standard library changed: time.Now adds the seconds in skewVariable. Certificates,
// orders, leases and reports then see the wrong time; files' times and other programs see the right one.
const (
	SkewedAgent  = "holdfast-agent-skewed"
	skewVariable = "HOLDFAST_LAB_SKEW"
)

// Skew sets the clock of the node's agent wrong by that much, and right again with 0. The agent is restarted.
func (s *Server) Skew(ctx context.Context, by time.Duration) error {
	if s.Duty != Node || s.lab.Bin == "" {
		return problem.New(problem.Usage, "holdfast-lab status --name "+s.lab.Name, "no clock was set: no agent runs on %s", s.Name)
	}
	const dropIn = "/etc/systemd/system/holdfast-agent.service.d/skew.conf"
	if by == 0 {
		if _, err := s.Run(ctx, "rm", "-f", dropIn); err != nil {
			return err
		}
		return s.startUnit(ctx, "holdfast-agent", true)
	}
	if _, err := os.Stat(filepath.Join(s.lab.Bin, SkewedAgent)); err != nil {
		return problem.New(problem.NotFound, "make skewed, in the folder of the source", "no clock was set: there is no %s in %s", SkewedAgent, s.lab.Bin)
	}
	if _, err := s.putProgram(ctx, SkewedAgent); err != nil {
		return err
	}
	settings := fmt.Sprintf("[Service]\nEnvironment=%s=%d\nExecStart=\nExecStart=/usr/local/bin/%s agent\n", skewVariable, int64(by.Seconds()), SkewedAgent)
	if err := s.Put(ctx, text(dropIn, "%s", settings)); err != nil {
		return err
	}
	return s.startUnit(ctx, "holdfast-agent", true)
}

// nowBegins is the beginning of time.Now, after which the seconds can be changed.
var nowBegins = regexp.MustCompile(`func Now\(\) Time \{\n\tsec, nsec, mono := \w+\(\)\n`)

// skewedTime changes the text of the standard library's time.go.
func skewedTime(source []byte) ([]byte, error) {
	at := nowBegins.FindIndex(source)
	if at == nil {
		return nil, errors.New("change time.Now: this version of Go has it in another form")
	}
	return bytes.Join([][]byte{source[:at[1]], []byte("\tsec += labSkew\n"), source[at[1]:]}, nil), nil
}

// skewSource is what is added to package time. It reads the variable before any other package begins.
const skewSource = `package time

import "syscall"

var labSkew = readSkew()

func readSkew() int64 {
	text, _ := syscall.Getenv("` + skewVariable + `")
	by, err := ParseDuration(text + "s")
	if err != nil {
		return 0
	}
	return int64(by / Second)
}
`

// BuildSkewed builds a package of the module in folder source with the changed clock, into target. The first time
// takes minutes: everything depends on time.
func BuildSkewed(ctx context.Context, source, target string, build ...string) error {
	dir, err := os.MkdirTemp("", "holdfast-lab-")
	if err != nil {
		return err
	}
	return errors.Join(buildSkewed(ctx, dir, source, target, build), os.RemoveAll(dir))
}

func buildSkewed(ctx context.Context, dir, source, target string, build []string) error {
	root, err := output(ctx, "go", "env", "GOROOT")
	if err != nil {
		return err
	}
	std := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	original, err := os.ReadFile(filepath.Join(std, "time.go"))
	if err != nil {
		return err
	}
	changed, err := skewedTime(original)
	if err != nil {
		return err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {
		filepath.Join(std, "time.go"): filepath.Join(dir, "time.go"), filepath.Join(std, "labskew.go"): filepath.Join(dir, "labskew.go"),
	}})
	if err != nil {
		return err
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "time.go"), changed, 0o600), os.WriteFile(filepath.Join(dir, "labskew.go"), []byte(skewSource), 0o600),
		os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600))
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", target}, build...)...)
	cmd.Dir = source
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build with a skewed clock: %w: %s", err, said)
	}
	return nil
}
