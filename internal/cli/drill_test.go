//go:build !slim

package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/internal/access"
	"holdfast/internal/access/accesstest"
	"holdfast/internal/api"
	"holdfast/internal/audit"
	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/fleet"
	"holdfast/internal/recovery"
	"holdfast/internal/server"
)

// console is a command line before a real server that knows one recovery plan.
type console struct {
	t      *testing.T
	runner *recovery.Runner
	world  *recovery.World
}

func openConsole(t *testing.T) *console {
	t.Helper()
	d := dbtest.Open(t)
	keys := accesstest.Keys(t, d)
	log, err := audit.New(keys)
	if err != nil {
		t.Fatal(err)
	}
	world := onePlan()
	runner := &recovery.Runner{DB: d, Audit: log, Log: slog.New(slog.DiscardHandler), World: func(context.Context) (recovery.World, error) { return world, nil }}
	web := httptest.NewUnstartedServer(server.New(server.Parts{DB: d, Keys: keys, Audit: log, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Recovery: runner}))
	web.Listener = tls.NewListener(web.Listener, keys.Authority.ServerTLS([]string{"127.0.0.1"}, time.Now))
	web.Start()
	t.Cleanup(web.Close)
	var token string
	err = d.Tx(t.Context(), func(ctx context.Context, tx db.Tx) error {
		token, _, err = access.CreateToken(ctx, tx, "ann", access.Operator, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "context.json")
	if err := api.NewContext(strings.Replace(web.URL, "http:", "https:", 1), token, keys.Authority.Certificate).Save(path); err != nil {
		t.Fatal(err)
	}
	t.Setenv(api.EnvContext, path)
	return &console{t, runner, &world}
}

// onePlan is a world in which acme lives in par1 and can be rebuilt in ams1, and globex has no backup.
func onePlan() recovery.World {
	node := func(name, site string, roles ...fleet.Role) fleet.NodeFacts {
		return fleet.NodeFacts{Node: name, Site: site, Roles: roles, SeenAt: time.Now(), Capacity: fleet.Capacity{MemoryMB: 4096, DiskMB: 9000, DiskFreeMB: 9000}}
	}
	lost := node("par1-n1", "par1", fleet.RoleRun)
	lost.Instances = map[string]fleet.InstanceFacts{"acme": {State: fleet.StateRunning}, "globex": {State: fleet.StateRunning}}
	spec := fleet.Spec{Fingerprint: "f", Invariants: []fleet.Invariant{{Name: "whole"}}}
	return recovery.World{
		Fleet: &fleet.Fleet{
			Sites:     map[string]fleet.Site{"par1": {}, "ams1": {}},
			Instances: map[string]fleet.Instance{"acme": {Name: "acme"}, "globex": {Name: "globex"}},
			RecoveryPlans: map[string]fleet.RecoveryPlan{"lose-par1": {
				Name: "lose-par1", Scenario: fleet.SiteLost, Lost: "par1", Scope: fleet.RecoveryScope{Expect: 2}, Fault: fleet.RecoveryFault{Kind: "kill", For: time.Minute}}},
		},
		Inventory: fleet.Inventory{
			Placements: map[string]fleet.Placement{"acme": {Instance: "acme", Node: "par1-n1", Site: "par1"}, "globex": {Instance: "globex", Node: "par1-n1", Site: "par1"}},
			Nodes: map[string]fleet.NodeFacts{
				"par1-n1": lost, "ams1-n1": node("ams1-n1", "ams1", fleet.RoleSpare, fleet.RoleVault, fleet.RoleEdge),
				"out1": node("out1", "out", fleet.RoleProbe), "out2": node("out2", "out", fleet.RoleProbe)},
		},
		Specs:     map[string]fleet.Spec{"acme": spec, "globex": spec},
		Catalogue: map[string]recovery.Snapshot{"acme": {ID: "s1", Instance: "acme", TakenAt: time.Now(), Vault: "ams1-n1", Custodian: true}},
	}
}

// types runs a command with an answer ready, and returns what it printed and its exit code.
func (c *console) types(answer string, args ...string) (out, errOut string, code int) {
	c.t.Helper()
	var o, e bytes.Buffer
	code = Main(args, strings.NewReader(answer), &o, &e)
	return o.String(), e.String(), code
}

const draftOfOnePlan = `plan lose-par1: 2 instances, 2 of them have a place
  acme    -  par1-n1 -> ams1-n1  estimated done after 5s
  globex  -  par1-n1 -> ams1-n1  estimated done after 10s
error: instance/globex: it has no backup at all
  next: holdfast backup run instance/globex
warning: recoveryplan/lose-par1: nobody is told when the recovery begins
  next: tell: [{event: declared, ...}]
`

func TestLintOnTheCommandLine(t *testing.T) {
	c := openConsole(t)
	for _, verb := range [][]string{{"recover", "lose-par1", "--lint"}, {"drill", "run", "lose-par1", "--lint"}} {
		out, errOut, code := c.types("", verb...)
		if out != draftOfOnePlan || errOut != "" || code != 1 {
			t.Errorf("%v: exit %d\n%s\n%s", verb, code, out, errOut)
		}
	}
	c.world.Catalogue["globex"] = c.world.Catalogue["acme"]
	if out, _, code := c.types("", "recover", "lose-par1", "--lint", "-o", "json"); code != 0 || !json.Valid([]byte(out)) {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestWhatIsRefusedOnTheCommandLine(t *testing.T) {
	c := openConsole(t)
	for _, row := range []struct {
		answer string
		args   []string
		code   int
		want   string
	}{
		{"", []string{"recover", "lose-rome", "--yes"}, 10, "holdfast: there is no recovery plan lose-rome\n"},
		{"y\n", []string{"recover", "lose-par1"}, 2, "holdfast: nothing was started: the answer was not lose-par1\n  next: holdfast recover lose-par1 --yes\n"},
		{"", []string{"recover", "lose-par1"}, 2, "nothing was started"},
		{"lose-par1\n", []string{"recover", "lose-par1"}, 1, "holdfast: recovery lose-par1 was not started: instance/globex: it has no backup at all\n  next: holdfast backup run instance/globex\n" +
			"holdfast: 2 of 2 instances could be rebuilt in spite of this\n  next: holdfast recover lose-par1 --force\n"},
		{"", []string{"drill", "run", "lose-par1", "--yes"}, 1, "holdfast: drill lose-par1 was not started: instance/globex: it has no backup at all\n"},
		{"", []string{"drill", "run", "lose-par1", "--lint", "--fault", "fire"}, 2, `fault "fire" is not cut, kill or stop`},
		{"", []string{"drill", "show", "none"}, 10, "holdfast: there is no drill or recovery none\n  next: holdfast drill list\n"},
		{"", []string{"drill", "score", "none", "--format", "pdf"}, 2, `a scorecard has no form "pdf"`},
		{"", []string{"recover"}, 2, "holdfast recover takes 1 arguments [PLAN], not 0"},
	} {
		_, errOut, code := c.types(row.answer, row.args...)
		if code != row.code || !strings.Contains(errOut, row.want) {
			t.Errorf("%v: exit %d, want %d with %q\n%s", row.args, code, row.code, row.want, errOut)
		}
	}
}

func TestReadingADrillOnTheCommandLine(t *testing.T) {
	c := openConsole(t)
	c.world.Catalogue["globex"] = c.world.Catalogue["acme"]
	ctx := access.With(t.Context(), access.Actor{Name: "token/ann", Role: access.Operator})
	run, err := c.runner.Start(ctx, recovery.Order{Kind: recovery.Drill, Plan: "lose-par1"})
	if err != nil {
		t.Fatal(err)
	}
	if out, _, code := c.types("", "drill", "list"); code != 0 || !strings.Contains(out, run.ID) || !strings.Contains(out, "arming") {
		t.Errorf("exit %d: %s", code, out)
	}
	if _, errOut, code := c.types("", "drill", "run", "lose-par1", "--yes"); code != 11 || !strings.Contains(errOut, "is still open: it is arming") {
		t.Errorf("a second one: exit %d: %s", code, errOut)
	}
	if _, errOut, code := c.types("", "drill", "count", run.ID, "--files-expected", "3", "--files-found", "0"); code != 0 {
		t.Errorf("exit %d: %s", code, errOut)
	}
	out, _, code := c.types("", "drill", "show", run.ID)
	for _, want := range []string{"drill " + run.ID + " of plan lose-par1, by token/ann: arming", "started (token/ann)", "files 0 of 3", "documents found", "unknown of unknown", "did not pass: 0 of 3 files were found"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("exit %d, without %q: %s", code, want, out)
		}
	}
	file := filepath.Join(t.TempDir(), "card.html")
	if _, errOut, code := c.types("", "drill", "score", run.ID, "--format", "html", "--out", file); code != 0 {
		t.Errorf("exit %d: %s", code, errOut)
	}
	if page, err := os.ReadFile(file); err != nil || !bytes.HasPrefix(page, []byte("<!doctype html>")) {
		t.Errorf("%v: %.40s", err, page)
	}
	if _, errOut, code := c.types("", "drill", "score", run.ID, "--out", file); code != 2 || !strings.Contains(errOut, "scorecard was not written") {
		t.Errorf("over a file: exit %d: %s", code, errOut)
	}
	if out, _, code := c.types("", "drill", "abort", run.ID); code != 0 || !strings.Contains(out, "is being aborted") {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestDrawScorecard(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 11, 20, 12, 0, s, 0, time.UTC) }
	card := recovery.Scorecard{Plan: "lose-par1", Verdict: recovery.Fail, Reasons: []string{"people gave 1 commands by hand"}, DetectSeconds: new(2.0), ManualCommands: new(1),
		Instances: []recovery.InstanceCard{{
			Name: "acme", FromNode: "par1-n1", ToNode: "ams1-n1", Snapshot: "7f3c2a9b1144ffee", DowntimeSeconds: new(16.0), ChecksPassed: 6, ChecksRequired: 6, DownFrom: at(1), DownTo: at(17),
			Steps: []recovery.StepCard{{Name: "place", Start: at(4), End: at(5), State: "done"}, {Name: "fetch", Start: at(5), End: at(11), State: "done"}, {Name: "load", Start: at(11), End: at(17), State: "failed"}},
		}}}
	var out bytes.Buffer
	if err := drawScorecard(&out, card); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"lose-par1: FAIL\n", "  detect               2.0 s\n", "  downtime             p50 unknown, p95 unknown, max unknown\n",
		"acme      -     par1-n1  ams1-n1  7f3c2a9b1144  16.0 s  unknown  unknown  6/6\n",
		"acme             ............PPPPFFFFFFFFFFFFFFFFFFFFFFFF!!!!!!!!!!!!!!!!!!!!!!!!\n", "did not pass: people gave 1 commands by hand\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("without %q:\n%s", want, out.String())
		}
	}
}
