package plan_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/plan"
	"holdfast/internal/step"
)

// draw writes a graph as lines: id, node, needs.
func draw(g step.Graph) []string {
	var lines []string
	for _, p := range g {
		line := p.ID + " @" + p.Node
		if len(p.Needs) > 0 {
			line += " < " + strings.Join(p.Needs, " ")
		}
		if p.OnFailure {
			line += " on failure"
		}
		lines = append(lines, line)
	}
	return lines
}

func graph(t *testing.T, p plan.Plan) step.Graph {
	t.Helper()
	g, err := plan.Graph(p, func(string) string { return "s2" })
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestGraphOfACreate(t *testing.T) {
	g := graph(t, diff(t, read(t, example(t)), world(), "acme"))
	want := []string{
		"acme/claim @",
		"acme/stage @par1-1 < acme/claim",
		"acme/boot @par1-1 < acme/stage",
		"acme/ready @par1-1 < acme/boot",
		"acme/checks @par1-1 < acme/ready",
		"acme/switch @par1-1 < acme/checks",
		"acme/route @ < acme/switch",
	}
	if d := cmp.Diff(want, draw(g)); d != "" {
		t.Errorf("graph (-want +got):\n%s", d)
	}
	var boot step.BootArgs
	if err := json.Unmarshal(g[2].Step.Args, &boot); err != nil || boot.Slot != "s1" || boot.Secrets != nil || boot.Spec.Instance != "acme" {
		t.Errorf("boot of %s in slot %q with %d bytes of secrets, %v", boot.Spec.Instance, boot.Slot, len(boot.Secrets), err)
	}
}

// Everyone waits for staging; staging waits for nobody.
func TestChangesGoRingByRing(t *testing.T) {
	files := example(t)
	w := effect(world(), diff(t, read(t, files), world(), ""))
	files["product.yaml"] = []byte(strings.ReplaceAll(string(files["product.yaml"]), "/opt/notes/bin", "/srv/notes"))
	g := graph(t, diff(t, read(t, files), w, ""))
	want := []string{
		"acme/stage @par1-1 < staging/checks", "acme/boot @par1-1 < acme/stage", "acme/ready @par1-1 < acme/boot", "acme/checks @par1-1 < acme/ready",
		"globex/stage @ams1-1 < staging/checks", "globex/boot @ams1-1 < globex/stage", "globex/ready @ams1-1 < globex/boot", "globex/checks @ams1-1 < globex/ready",
		"staging/stage @par1-2", "staging/boot @par1-2 < staging/stage", "staging/ready @par1-2 < staging/boot", "staging/checks @par1-2 < staging/ready",
	}
	if d := cmp.Diff(want, draw(g)); d != "" {
		t.Errorf("graph (-want +got):\n%s", d)
	}
}

func TestGraphOfARetireDestroysNothing(t *testing.T) {
	files := example(t)
	w := effect(world(), diff(t, read(t, files), world(), ""))
	delete(files, "instances/globex.yaml")
	g := graph(t, diff(t, read(t, files), w, ""))
	if d := cmp.Diff([]string{"globex/stop @ams1-1"}, draw(g)); d != "" {
		t.Errorf("graph (-want +got):\n%s", d)
	}
	var stop step.StopArgs
	if err := json.Unmarshal(g[0].Step.Args, &stop); err != nil || !stop.Retire {
		t.Errorf("stop %+v, %v", stop, err)
	}
}

// A move writes nothing after its backup, boots only what it has claimed, and goes back when something fails.
func TestGraphOfAMove(t *testing.T) {
	files := example(t)
	w := effect(world(), diff(t, read(t, files), world(), ""))
	files["instances/acme.yaml"] = []byte(strings.Replace(string(files["instances/acme.yaml"]), "{site: par1}", "{site: par1, node: par1-2}", 1))
	g := graph(t, diff(t, read(t, files), w, ""))
	want := []string{
		"acme/stage @par1-2",
		"acme/stop @par1-1 < acme/stage",
		"acme/backup @par1-1 < acme/stop",
		"acme/release @ < acme/backup",
		"acme/fetch @par1-2 < acme/release",
		"acme/load @par1-2 < acme/fetch",
		"acme/claim @ < acme/load",
		"acme/fence @par1-1 < acme/claim",
		"acme/boot @par1-2 < acme/fence",
		"acme/ready @par1-2 < acme/boot",
		"acme/checks @par1-2 < acme/ready",
		"acme/switch @par1-2 < acme/checks",
		"acme/route @ < acme/switch",
		"acme/discard @par1-2 < acme/fetch acme/load acme/boot acme/ready acme/checks on failure",
		"acme/back @par1-1 < acme/stop acme/backup acme/release acme/fetch acme/load on failure",
		"acme/reclaim @ < acme/boot acme/ready acme/checks on failure",
		"acme/return @par1-1 < acme/reclaim acme/boot acme/ready acme/checks on failure",
		"acme/resume @par1-1 < acme/return acme/boot acme/ready acme/checks on failure",
	}
	if d := cmp.Diff(want, draw(g)); d != "" {
		t.Errorf("graph (-want +got):\n%s", d)
	}
	var back, boot step.BootArgs
	if err := json.Unmarshal(g[14].Step.Args, &back); err != nil || back.Slot != "s1" {
		t.Errorf("goes back to slot %q, %v", back.Slot, err)
	}
	if err := json.Unmarshal(g[8].Step.Args, &boot); err != nil || boot.Slot != "s2" || !boot.Restored {
		t.Errorf("boots slot %q, restored %v, %v", boot.Slot, boot.Restored, err)
	}
}

// What only a running database can dump is not moved behind its back.
func TestADatabaseIsNotMovedAtTheCostOfData(t *testing.T) {
	files := example(t)
	text := strings.Replace(string(files["product.yaml"]), "files: {kind: folder}", "files: {kind: command, service: api, dump: {args: [a]}, load: {args: [b]}}", 1)
	files["product.yaml"] = []byte(text)
	w := effect(world(), diff(t, read(t, files), world(), ""))
	files["instances/acme.yaml"] = []byte(strings.Replace(string(files["instances/acme.yaml"]), "{site: par1}", "{site: par1, node: par1-2}", 1))
	want := []string{"blocked acme: state files can only be dumped while it serves, so a move would lose what is written meanwhile"}
	if d := cmp.Diff(want, say(diff(t, read(t, files), w, ""))); d != "" {
		t.Errorf("plan (-want +got):\n%s", d)
	}
}

func TestGraphCarriesNoSecret(t *testing.T) {
	p := diff(t, read(t, example(t)), world(), "")
	for _, planned := range graph(t, p) {
		var args struct {
			Secrets []byte `json:"secrets"`
		}
		if err := json.Unmarshal(planned.Step.Args, &args); err != nil || args.Secrets != nil {
			t.Errorf("%s carries secrets (%v)", planned.ID, err)
		}
	}
}
