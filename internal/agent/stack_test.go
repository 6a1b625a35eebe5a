package agent_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	_ "modernc.org/sqlite"

	"holdfast/internal/agent"
	"holdfast/internal/agent/agenttest"
	"holdfast/internal/agent/exec"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/problem"
	"holdfast/internal/step"
	"holdfast/internal/vault"
	"holdfast/internal/vault/disk"
)

// world is a small company: nodes with real processes, one vault, one custodian.
type world struct {
	*testing.T
	program   string
	dir       string
	custodian *age.X25519Identity
	orders    int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{T: t, program: testProgram(t), dir: t.TempDir(), custodian: newIdentity(t)}
}

// testProgram is built once for all tests of the package.
var testProgram = func() func(*testing.T) string {
	var once sync.Once
	var path string
	return func(t *testing.T) string {
		t.Helper()
		once.Do(func() {
			built := agenttest.Build(t)
			path = filepath.Join(programDir(), "app")
			if err := os.MkdirAll(programDir(), 0o755); err != nil {
				t.Fatal(err)
			}
			body, err := os.ReadFile(built)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, body, 0o755); err != nil {
				t.Fatal(err)
			}
		})
		return path
	}
}()

// programDir is removed by TestMain.
func programDir() string {
	return filepath.Join(os.TempDir(), "holdfast-agent-test-"+strconv.Itoa(os.Getpid()))
}

func newIdentity(t *testing.T) *age.X25519Identity {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

// node is one agent's stacks; dead and alive again, its directory stays.
type node struct {
	*world
	name     string
	identity *age.X25519Identity
	stack    *agent.Stack
	engine   *exec.Engine
	stop     func()
	point    func(string)
	process  int                         // stands in for the agent's own, which a fault would hit; 0 = a fault hits the test
	word     func(context.Context) error // what comes of asking the server
	kept     *agent.KeptRepositories     // role vault; nil = none

	mu     sync.Mutex
	events []link.Event
}

func (w *world) node(name string) *node {
	n := &node{world: w, name: name, identity: newIdentity(w.T), point: func(string) {}, word: func(context.Context) error { return nil }}
	n.process = w.standIn()
	n.start()
	w.Cleanup(func() { n.leave(); n.killAll() })
	return n
}

// standIn is a process that does nothing, for faults to hit in the place of the test.
func (w *world) standIn() int {
	w.Helper()
	child := osexec.Command(w.program, "hang")
	if err := child.Start(); err != nil {
		w.Fatal(err)
	}
	go func() { _ = child.Wait() }()               // it says how it ended, which the tests see in /proc
	w.Cleanup(func() { _ = child.Process.Kill() }) // it may be dead already
	return child.Process.Pid
}

// start begins an agent on the node's directory, as after a boot or an upgrade.
func (n *node) start() {
	n.Helper()
	n.engine = exec.New(exec.Config{Node: n.name, Data: filepath.Join(n.dir, n.name), ControlDir: "none", Tend: 50 * time.Millisecond})
	dir := filepath.Join(n.dir, n.name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		n.Fatal(err)
	}
	stack, err := agent.NewStack(agent.StackConfig{
		Data: dir, Node: n.name, Engines: []agent.EngineChoice{{Name: "exec", Engine: n.engine}},
		Seal: n.identity, ReplyTo: n.custodian.Recipient().String(),
		Stores: func(context.Context, step.Repository) (vault.Store, error) {
			return disk.Open(filepath.Join(n.dir, "vault")), nil
		},
		Limits: agent.Limits{MemoryMB: 1000, MaxInstances: 2}, Canary: 20 * time.Millisecond, Watch: 20 * time.Millisecond,
		Emit: n.emit, Keeper: []string{os.Args[0], "undo-timer"}, Management: []string{"192.0.2.7"},
		Point: func(point string) { n.point(point) }, Process: n.process,
		Ask: func(ctx context.Context) error { return n.word(ctx) }, Kept: n.kept,
	})
	if err != nil {
		n.Fatal(err)
	}
	n.stack = stack
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = stack.Run(ctx) }() // it returns nil when ctx ends
	n.stop = func() { cancel(); <-done; n.engine.Close() }
}

func (n *node) emit(event link.Event) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, event)
	return nil
}

// leave ends the agent and leaves its services running.
func (n *node) leave() {
	if n.stop != nil {
		n.stop()
		n.stop = nil
	}
}

// killAll ends every process of the node, as a lost site does.
func (n *node) killAll() {
	notes, _ := filepath.Glob(filepath.Join(n.dir, n.name, "instances/*/slots/*/run/*.pid"))
	for _, path := range notes {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(strings.Fields(string(text))[0])
		if err == nil && pid > 0 {
			killGroup(pid)
			agenttest.Await(n.T, func() bool { return !alive(pid) }, func() string { return "a killed process lives" })
		}
	}
}

// spec is an instance with an API that keeps lines in a folder, a database dumped by commands, and an SQLite file.
func (w *world) spec(instance string) fleet.Spec {
	return fleet.Spec{
		Instance: instance, Product: "app", Release: "app/v1", Fingerprint: "f1",
		Services: []fleet.Service{
			{
				Name: "db", Artifact: w.program, Command: []string{"serve"}, Replicas: 1, StopGrace: 5 * time.Second, MemoryMB: 100,
				Env:       map[string]string{"LISTEN": "${host:db}:${port:db.http}", "STATE": "${state:db}"},
				Ports:     []fleet.Port{{Name: "http", Internal: 8080}},
				Readiness: quickProbe("/ready"),
			},
			{
				Name: "api", Artifact: w.program, Command: []string{"serve"}, Replicas: 1, StopGrace: 5 * time.Second, MemoryMB: 100, Writes: true,
				Env:   map[string]string{"LISTEN": "${host:api}:${port:api.http}", "STATE": "${state:data}", "KEY": "${secret:key}", "DB": "http://${host:db}:${port:db.http}"},
				Ports: []fleet.Port{{Name: "http", Internal: 8080, Edge: true}}, Needs: []fleet.Need{{Service: "db", Ready: true}},
				Mounts: []fleet.Mount{{State: "data", Path: "/data"}}, Readiness: quickProbe("/ready"), Liveness: quickProbe("/alive"),
			},
		},
		State: []fleet.State{
			{Name: "data", Kind: fleet.StateFolder},
			{
				Name: "db", Kind: fleet.StateCommand, Service: "db",
				Dump: fleet.Command{Args: []string{w.program, "dump", "${state:db}/lines"}},
				Load: fleet.Command{Args: []string{w.program, "load", "${state:db}/lines"}},
			},
			{Name: "docs", Kind: fleet.StateSQLite, File: "docs.db"},
		},
		Secrets:    []fleet.SecretRef{{Name: "key", Version: 1, Length: 32}},
		Invariants: []fleet.Invariant{{Name: "lines are there", Service: "api", HTTP: "/count", Expect: ""}},
		Backup:     fleet.BackupPolicy{Custodian: true},
	}
}

func quickProbe(path string) *fleet.Probe {
	return &fleet.Probe{HTTP: path, Interval: 20 * time.Millisecond, Timeout: 2 * time.Second, Within: 30 * time.Second}
}

func (n *node) seal(value any) []byte {
	n.Helper()
	body, err := json.Marshal(value)
	if err != nil {
		n.Fatal(err)
	}
	var sealed strings.Builder
	w, err := age.Encrypt(&sealed, n.identity.Recipient())
	if err != nil {
		n.Fatal(err)
	}
	if _, err := w.Write(body); err != nil {
		n.Fatal(err)
	}
	if err := w.Close(); err != nil {
		n.Fatal(err)
	}
	return []byte(sealed.String())
}

func (n *node) order(kind step.Kind, instance string, epoch int64, args any) step.Order {
	n.Helper()
	body, err := json.Marshal(args)
	if err != nil {
		n.Fatal(err)
	}
	n.orders++
	return step.Order{
		ID: fmt.Sprintf("op1/%d/1", n.orders), Node: n.name, Epoch: epoch,
		Step: step.Step{Kind: kind, Instance: instance, Args: body},
	}
}

func (n *node) do(kind step.Kind, instance string, epoch int64, args any) json.RawMessage {
	n.Helper()
	result, err := n.stack.Do(n.Context(), n.order(kind, instance, epoch, args), nil)
	if err != nil {
		n.Fatalf("%s %s on %s: %v", kind, instance, n.name, err)
	}
	return result
}

func (n *node) refused(kind step.Kind, instance string, epoch int64, args any) error {
	n.Helper()
	_, err := n.stack.Do(n.Context(), n.order(kind, instance, epoch, args), nil)
	if err == nil {
		n.Fatalf("%s %s on %s was done", kind, instance, n.name)
	}
	return err
}

func (n *node) secrets() []byte { return n.seal(map[string]string{"key": "k1"}) }

// deploy brings an instance up from nothing.
func (n *node) deploy(spec fleet.Spec, epoch int64) {
	n.Helper()
	n.do(step.Stage, spec.Instance, epoch, step.StageArgs{Spec: spec})
	n.do(step.Boot, spec.Instance, epoch, step.BootArgs{Spec: spec, Slot: "s1", Secrets: n.secrets()})
	n.do(step.Ready, spec.Instance, epoch, step.SlotArgs{Slot: "s1"})
	n.do(step.Checks, spec.Instance, epoch, step.SlotArgs{Slot: "s1"})
	n.do(step.Switch, spec.Instance, epoch, step.SwitchArgs{Slot: "s1", Epoch: epoch})
}

func (n *node) facts(instance string) fleet.InstanceFacts { return n.stack.Instances()[instance] }

func (n *node) awaitState(instance string, state fleet.InstanceState) fleet.InstanceFacts {
	n.Helper()
	agenttest.Await(n.T, func() bool { return n.facts(instance).State == state },
		func() string {
			return fmt.Sprintf("%s on %s is not %s: %+v", instance, n.name, state, n.facts(instance))
		})
	return n.facts(instance)
}

// ask asks the API where the edge would.
func (n *node) ask(instance, path string) (string, error) {
	facts := n.facts(instance)
	if len(facts.Endpoints) == 0 {
		return "", fmt.Errorf("no endpoint: %+v", facts)
	}
	_, port, _ := strings.Cut(facts.Endpoints[0], ":")
	number, err := strconv.Atoi(port)
	if err != nil {
		return "", err
	}
	return agenttest.Get(number, path)
}

func (n *node) mustAsk(instance, path string) string {
	n.Helper()
	answer, err := n.ask(instance, path)
	if err != nil {
		n.Fatalf("ask %s on %s for %s: %v", instance, n.name, path, err)
	}
	return answer
}

func (n *node) slotPath(instance, slot string, rest ...string) string {
	return filepath.Join(append([]string{n.dir, n.name, "instances", instance, "slots", slot}, rest...)...)
}

// lease tells the node, freshly, who serves.
func (n *node) lease(instance string, epoch int64, holder string) {
	n.Helper()
	setting := link.LeasesSetting{Leases: map[string]step.FenceArgs{instance: {Epoch: epoch, Node: holder}}}
	if err := n.stack.Leases(n.Context(), setting, true); err != nil {
		n.Fatal(err)
	}
}

func (n *node) backup(spec fleet.Spec, epoch int64) step.BackupResult {
	n.Helper()
	var result step.BackupResult
	n.unmarshal(n.do(step.Backup, spec.Instance, epoch, step.BackupArgs{Spec: spec, Custodians: []string{n.custodian.Recipient().String()}}), &result)
	return result
}

func (w *world) unmarshal(body []byte, into any) {
	w.Helper()
	if err := json.Unmarshal(body, into); err != nil {
		w.Fatal(err)
	}
}

// fetchArgs opens the envelopes as the custodian does, for one node.
func (n *node) fetchArgs(spec fleet.Spec, slot string, backup step.BackupResult) step.FetchArgs {
	n.Helper()
	identities := map[string]string{}
	for epoch, envelope := range backup.Envelopes {
		identity, err := vault.OpenEnvelopeAge(vault.Envelope{Epoch: epoch, Age: [][]byte{envelope}}, n.custodian.String())
		if err != nil {
			n.Fatal(err)
		}
		text, err := identity.MarshalText()
		if err != nil {
			n.Fatal(err)
		}
		identities[epoch] = string(text)
	}
	return step.FetchArgs{Snapshot: backup.Snapshot, Slot: slot, Identities: n.seal(identities), Spec: spec}
}

// restore brings a snapshot into a slot and serves from it.
func (n *node) restore(spec fleet.Spec, slot string, epoch int64, backup step.BackupResult) step.FetchResult {
	n.Helper()
	var fetched step.FetchResult
	n.unmarshal(n.do(step.Fetch, spec.Instance, epoch, n.fetchArgs(spec, slot, backup)), &fetched)
	n.do(step.Load, spec.Instance, epoch, step.SlotArgs{Slot: slot})
	n.do(step.Boot, spec.Instance, epoch, step.BootArgs{Spec: spec, Slot: slot, Restored: true})
	n.do(step.Ready, spec.Instance, epoch, step.SlotArgs{Slot: slot})
	n.do(step.Checks, spec.Instance, epoch, step.SlotArgs{Slot: slot})
	n.do(step.Switch, spec.Instance, epoch, step.SwitchArgs{Slot: slot, Epoch: epoch})
	return fetched
}

// fill puts data into every state of the active slot and gives what the API should count.
func (n *node) fill(instance, slot string, lines ...string) {
	n.Helper()
	for _, line := range lines {
		n.mustAsk(instance, "/add?line="+line)
		for _, exec := range []string{"CREATE TABLE IF NOT EXISTS docs (line TEXT)", "INSERT INTO docs VALUES ('" + line + "')"} {
			n.sqlite(n.slotPath(instance, slot, "state/docs/docs.db"), exec)
		}
		file, err := os.OpenFile(n.slotPath(instance, slot, "state/db/lines"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			n.Fatal(err)
		}
		fmt.Fprintln(file, line)
		if err := file.Close(); err != nil {
			n.Fatal(err)
		}
	}
}

func (n *node) sqlite(path, statement string) {
	n.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)")
	if err != nil {
		n.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		n.Fatal(err)
	}
}

// holds says what every state of a slot holds.
func (n *node) holds(instance, slot string) string {
	n.Helper()
	data, _ := os.ReadFile(n.slotPath(instance, slot, "state/data/lines"))
	command, _ := os.ReadFile(n.slotPath(instance, slot, "state/db/lines"))
	db, err := sql.Open("sqlite", "file:"+n.slotPath(instance, slot, "state/docs/docs.db"))
	if err != nil {
		n.Fatal(err)
	}
	defer db.Close()
	var docs sql.NullString
	if err := db.QueryRow("SELECT group_concat(line, ' ') FROM docs").Scan(&docs); err != nil {
		n.Fatal(err)
	}
	return fmt.Sprintf("data=%s db=%s docs=%s", strings.Fields(string(data)), strings.Fields(string(command)), docs.String)
}

// told gives the node's serving story: "started/1 stopped/1 fenced/1".
func (n *node) told() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var words []string
	for _, event := range n.events {
		word := strings.TrimPrefix(event.Kind, "serving_") + "/" + strconv.FormatInt(event.Epoch, 10)
		if len(words) == 0 || words[len(words)-1] != word { // a crash may tell twice
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
}

func TestDeploy(t *testing.T) {
	w := newWorld(t)
	n := w.node("a1")
	spec := w.spec("acme")
	n.deploy(spec, 1)
	facts := n.awaitState("acme", fleet.StateRunning)
	if facts.Epoch != 1 || facts.Slot != "s1" || facts.Spec != "f1" || facts.Release != "app/v1" || len(facts.Endpoints) != 1 || facts.ServingFrom.IsZero() {
		t.Errorf("facts after a deploy: %+v", facts)
	}
	if got := n.mustAsk("acme", "/env?name=KEY"); got != "k1" {
		t.Errorf("the API got the secret %q", got)
	}
	if db := n.mustAsk("acme", "/env?name=DB"); strings.Contains(db, "$") {
		t.Errorf("the API got an unresolved reference: %s", db)
	}
	agenttest.Await(t, func() bool {
		c, ok := agent.ReadCanary(n.slotPath("acme", "s1", "state/data"))
		return ok && c.Sequence > 2 && c.Epoch == 1 && c.Instance == "acme"
	}, func() string { return "no canary ticks in the folder" })
	if info, err := os.Stat(n.slotPath("acme", "s1", "secrets")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("secrets lie as %v, %v", info.Mode(), err)
	}
	if got := n.told(); got != "started/1" {
		t.Errorf("told %q", got)
	}
}

func TestUpdateInPlace(t *testing.T) {
	w := newWorld(t)
	n := w.node("a1")
	spec := w.spec("acme")
	n.deploy(spec, 1)
	port := n.awaitState("acme", fleet.StateRunning).Endpoints[0]
	spec.Fingerprint, spec.Services[1].Env["COLOUR"] = "f2", "green"
	n.do(step.Boot, "acme", 1, step.BootArgs{Spec: spec, Slot: "s1"})
	n.do(step.Ready, "acme", 1, step.SlotArgs{Slot: "s1"})
	facts := n.awaitState("acme", fleet.StateRunning)
	if facts.Spec != "f2" || facts.Endpoints[0] != port || n.mustAsk("acme", "/env?name=COLOUR") != "green" {
		t.Errorf("facts after an update: %+v", facts)
	}
}

func TestRestoreBeside(t *testing.T) {
	w := newWorld(t)
	n := w.node("a1")
	spec := w.spec("acme")
	n.deploy(spec, 1)
	n.awaitState("acme", fleet.StateRunning)
	n.fill("acme", "s1", "one", "two")
	first := n.backup(spec, 1)
	n.fill("acme", "s1", "three")
	if first.Snapshot == "" || first.Bytes == 0 || len(first.WriterKey) == 0 || first.Release != "app/v1" || first.CanaryTo < first.CanaryFrom {
		t.Errorf("result of a backup: %+v", first)
	}
	fetched := n.restore(spec, "s2", 2, first)
	if want := "data=[one two] db=[one two] docs=one two"; n.holds("acme", "s2") != want || n.holds("acme", "s1") != "data=[one two three] db=[one two three] docs=one two three" {
		t.Errorf("restored: %s, kept: %s", n.holds("acme", "s2"), n.holds("acme", "s1"))
	}
	facts := n.awaitState("acme", fleet.StateRunning)
	if facts.Slot != "s2" || facts.Epoch != 2 || n.mustAsk("acme", "/count") != "2" || n.mustAsk("acme", "/env?name=KEY") != "k1" {
		t.Errorf("after the switch: %+v", facts)
	}
	if fetched.CanarySeq < first.CanaryFrom || fetched.CanarySeq > first.CanaryTo || len(fetched.Secrets) == 0 {
		t.Errorf("fetched %+v, the backup began at canary %d", fetched, first.CanaryFrom)
	}
	if err := n.refused(step.Discard, "acme", 2, step.SlotArgs{Slot: "s1"}); problem.KindOf(err) != problem.Denied {
		t.Errorf("a slot that served was discarded with %v", err)
	}
	if got := n.told(); got != "started/1 stopped/1 started/2" {
		t.Errorf("told %q", got)
	}
	second := n.backup(spec, 2)
	if second.AddedBytes > second.Bytes+20000 || second.Snapshot == first.Snapshot {
		t.Errorf("second backup: %+v", second)
	}
}

func TestFailedRestoreLeavesWhatServed(t *testing.T) {
	w := newWorld(t)
	n := w.node("a1")
	spec := w.spec("acme")
	n.deploy(spec, 1)
	n.awaitState("acme", fleet.StateRunning)
	n.fill("acme", "s1", "one")
	backup := n.backup(spec, 1)
	n.do(step.Fetch, "acme", 1, n.fetchArgs(spec, "s2", backup))
	if err := n.refused(step.Boot, "acme", 1, step.BootArgs{Spec: spec, Slot: "s2", Restored: true}); problem.KindOf(err) != problem.Conflict {
		t.Errorf("an unloaded slot was booted with %v", err)
	}
	n.do(step.Load, "acme", 1, step.SlotArgs{Slot: "s2"})
	broken := spec
	broken.Invariants = []fleet.Invariant{{Name: "many lines", Service: "api", HTTP: "/count", Expect: "1000"}}
	n.do(step.Boot, "acme", 1, step.BootArgs{Spec: broken, Slot: "s2", Restored: true})
	n.do(step.Ready, "acme", 1, step.SlotArgs{Slot: "s2"})
	err := n.refused(step.Checks, "acme", 1, step.SlotArgs{Slot: "s2"})
	if want := `instance acme: 1 of 3 checks failed in slot s2: invariant many lines: the answer does not contain "1000", it begins with "1"`; err.Error() != want {
		t.Errorf("failed checks say %q", err)
	}
	n.do(step.Discard, "acme", 1, step.SlotArgs{Slot: "s2"})
	if _, err := os.Stat(n.slotPath("acme", "s2")); !os.IsNotExist(err) {
		t.Errorf("a discarded slot is there: %v", err)
	}
	if facts := n.awaitState("acme", fleet.StateRunning); facts.Slot != "s1" || n.mustAsk("acme", "/count") != "1" {
		t.Errorf("what served before: %+v", facts)
	}
}

func TestSiteLostAndBack(t *testing.T) {
	w := newWorld(t)
	lost, spare := w.node("a1"), w.node("b1")
	spec := w.spec("acme")
	lost.deploy(spec, 1)
	lost.awaitState("acme", fleet.StateRunning)
	lost.fill("acme", "s1", "one", "two")
	backup := lost.backup(spec, 1)
	lost.fill("acme", "s1", "unsaved")
	lost.leave()
	lost.killAll()

	fetched := spare.restore(spec, "s1", 2, backup)
	if got := spare.holds("acme", "s1"); got != "data=[one two] db=[one two] docs=one two" {
		t.Errorf("restored %s", got)
	}

	lost.start()
	agenttest.Await(t, func() bool { return !lost.facts("acme").ServedUntil.IsZero() }, func() string { return "the lost node does not know that it stopped serving" })
	facts := lost.awaitState("acme", fleet.StateStarting)
	if facts.CanarySeq <= fetched.CanarySeq {
		t.Errorf("a node that came back without a word of the server: %+v", facts)
	}
	lost.lease("acme", 2, "b1")
	facts = lost.awaitState("acme", fleet.StateFenced)
	if facts.Salvage == nil || facts.Salvage.CanarySeq <= fetched.CanarySeq || len(facts.Endpoints) != 0 {
		t.Errorf("a fenced node: %+v", facts)
	}
	if got := lost.holds("acme", "s1"); got != "data=[one two unsaved] db=[one two unsaved] docs=one two unsaved" {
		t.Errorf("the fenced copy holds %s", got)
	}
	if err := lost.refused(step.Boot, "acme", 1, step.BootArgs{Spec: spec, Slot: "s1"}); problem.KindOf(err) != problem.Stale ||
		err.Error() != "instance acme: boot not done: it was ordered at epoch 1, node a1 knows epoch 2 (node b1)" {
		t.Errorf("an old order on a fenced node: %v", err)
	}
	if err := lost.refused(step.Boot, "acme", 2, step.BootArgs{Spec: spec, Slot: "s1"}); problem.KindOf(err) != problem.Denied {
		t.Errorf("an order for another node's epoch: %v", err)
	}
	if got := lost.told(); got != "started/1 stopped/1 fenced/1" {
		t.Errorf("the lost node told %q", got)
	}
	noTwoWriters(t, lost, spare)
}

// noTwoWriters holds the nodes' events against each other.
func noTwoWriters(t *testing.T, nodes ...*node) {
	t.Helper()
	type stretch struct {
		from, to time.Time
		node     string
	}
	var all []stretch
	for _, n := range nodes {
		n.mu.Lock()
		open := -1
		for _, event := range n.events {
			switch event.Kind {
			case "serving_started":
				open = len(all)
				all = append(all, stretch{event.At, time.Now().Add(time.Hour), n.name})
			case "serving_stopped":
				if open >= 0 {
					all[open].to = event.At
				}
			}
		}
		n.mu.Unlock()
	}
	for i, a := range all {
		for _, b := range all[i+1:] {
			if a.node != b.node && a.from.Before(b.to) && b.from.Before(a.to) {
				t.Errorf("two writers: %+v and %+v", a, b)
			}
		}
	}
}

func TestAgentRestart(t *testing.T) {
	w := newWorld(t)
	n := w.node("a1")
	n.deploy(w.spec("acme"), 1)
	n.awaitState("acme", fleet.StateRunning)
	id := n.mustAsk("acme", "/id")
	n.leave()
	n.start()
	n.awaitState("acme", fleet.StateRunning)
	if got := n.mustAsk("acme", "/id"); got != id || n.told() != "started/1" {
		t.Errorf("after a restart of the agent another process serves, or it told %q", n.told())
	}
	n.leave()
	n.killAll()
	n.start()
	n.awaitState("acme", fleet.StateStarting)
	n.lease("acme", 1, "a1")
	n.awaitState("acme", fleet.StateRunning)
	if got := n.told(); got != "started/1 stopped/1 started/1" {
		t.Errorf("told %q", got)
	}
}

func TestFenceWhileServing(t *testing.T) {
	w := newWorld(t)
	n := w.node("a1")
	n.deploy(w.spec("acme"), 1)
	endpoint := n.awaitState("acme", fleet.StateRunning).Endpoints[0]
	order := n.order(step.Fence, "acme", 2, step.FenceArgs{Epoch: 2, Node: "b1"})
	if _, done, _ := n.stack.Done(t.Context(), order); done {
		t.Error("a fence is done before it was ordered")
	}
	if _, err := n.stack.Do(t.Context(), order, nil); err != nil {
		t.Fatal(err)
	}
	port, _ := strconv.Atoi(endpoint[strings.LastIndex(endpoint, ":")+1:])
	if _, err := agenttest.Get(port, "/id"); err == nil {
		t.Error("a fenced instance answers")
	}
	before := n.facts("acme").CanarySeq
	if _, done, _ := n.stack.Done(t.Context(), order); !done {
		t.Error("a fence that was done is not known to be")
	}
	if facts := n.facts("acme"); facts.CanarySeq != before || facts.ServedUntil.IsZero() || facts.State != fleet.StateFenced {
		t.Errorf("after the fence: %+v", facts)
	}
}

func TestStopAndRetire(t *testing.T) {
	w := newWorld(t)
	n := w.node("a1")
	spec := w.spec("acme")
	n.deploy(spec, 1)
	n.awaitState("acme", fleet.StateRunning)
	n.do(step.Stop, "acme", 1, step.StopArgs{Retire: true, Why: "the customer left"})
	n.leave()
	n.start()
	n.lease("acme", 1, "a1")
	if facts := n.awaitState("acme", fleet.StateStopped); facts.ServedUntil.IsZero() {
		t.Errorf("a retired instance: %+v", facts)
	}
	n.do(step.Boot, "acme", 1, step.BootArgs{Spec: spec, Slot: "s1"})
	n.awaitState("acme", fleet.StateRunning)
	if got := n.told(); got != "started/1 stopped/1 started/1" {
		t.Errorf("told %q", got)
	}
}

func TestSickServiceIsStartedAgain(t *testing.T) {
	w := newWorld(t)
	n := w.node("a1")
	n.deploy(w.spec("acme"), 1)
	n.awaitState("acme", fleet.StateRunning)
	id := n.mustAsk("acme", "/id")
	sick := n.slotPath("acme", "s1", "state/data/sick")
	if err := os.WriteFile(sick, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	agenttest.Await(t, func() bool { got, err := n.ask("acme", "/id"); return err == nil && got != id }, func() string { return "a sick service was left alone" })
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	n := w.node("a1")
	change := func(edit func(*fleet.Spec)) fleet.Spec { spec := w.spec("acme"); edit(&spec); return spec }
	tests := []struct {
		name  string
		kind  step.Kind
		args  any
		class problem.Kind
		want  string
	}{
		{
			"memory", step.Stage, step.StageArgs{Spec: change(func(s *fleet.Spec) { s.Services[0].MemoryMB = 5000 })},
			problem.Unavailable, "instance acme does not fit on node a1: it needs 5100 MB of memory, 0 of 1000 MB are promised to others",
		},
		{
			"artefact", step.Stage, step.StageArgs{Spec: change(func(s *fleet.Spec) { s.Services[0].Artifact = "/nowhere/db" })},
			problem.Invalid, `instance acme, service db: artefact "/nowhere/db" on node a1 is missing`,
		},
		{
			"digest", step.Stage, step.StageArgs{Spec: change(func(s *fleet.Spec) { s.Services[0].Digest = "sha256:00" })},
			problem.Invalid, "the release pins sha256:00",
		},
		{
			"engine", step.Stage, step.StageArgs{Spec: change(func(s *fleet.Spec) { s.Services[0].Artifact = "" })},
			problem.Invalid, "instance acme: no engine of node a1 can run app/v1",
		},
		{
			"another instance's spec", step.Boot, step.BootArgs{Spec: w.spec("beta"), Slot: "s1"},
			problem.Invalid, "order for instance acme brings the spec of beta",
		},
		{
			"slot", step.Boot, step.BootArgs{Spec: w.spec("acme"), Slot: "../s1"},
			problem.Invalid, `instance acme: "../s1" is no name of a slot`,
		},
		{
			"state", step.Boot, step.BootArgs{Spec: change(func(s *fleet.Spec) { s.State[0].Name = "../../x" }), Slot: "s1"},
			problem.Invalid, "cannot be a folder",
		},
		{
			"secret", step.Boot, step.BootArgs{Spec: w.spec("acme"), Slot: "s1"},
			problem.Invalid, "instance acme: secret key is neither in the order nor in slot s1 of node a1",
		},
		{
			"seal", step.Boot, step.BootArgs{Spec: w.spec("acme"), Slot: "s1", Secrets: []byte("no age message")},
			problem.WrongKey, "instance acme: secrets were not sealed to node a1",
		},
		{
			"reference", step.Boot, step.BootArgs{Spec: change(func(s *fleet.Spec) { s.Services[1].Env["X"] = "${port:cache.tcp}" }), Slot: "s1", Secrets: n.secrets()},
			problem.Invalid, "instance acme, service api: ${port:cache.tcp} stands for nothing on this node",
		},
		{
			"switch to nothing", step.Switch, step.SwitchArgs{Slot: "s7", Epoch: 1},
			problem.NotFound, "instance acme on node a1 has no slot s7 that was ever booted",
		},
		{
			"backup of nothing", step.Backup, step.BackupArgs{Spec: w.spec("acme")},
			problem.Conflict, "instance acme: no backup made on node a1: it does not serve here",
		},
		{
			"kind", step.Kind("shell"), struct{}{},
			problem.Invalid, `step "shell" not done: this node does not know it`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := n.refused(test.kind, "acme", 1, test.args)
			if problem.KindOf(err) != test.class || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %s %q, want %s %q", problem.KindOf(err), err, test.class, test.want)
			}
		})
	}
}

func TestForeignSnapshotIsRefused(t *testing.T) {
	w := newWorld(t)
	n := w.node("a1")
	spec := w.spec("acme")
	n.deploy(spec, 1)
	n.awaitState("acme", fleet.StateRunning)
	n.fill("acme", "s1", "one")
	backup := n.backup(spec, 1)
	other := w.spec("beta")
	args := n.fetchArgs(other, "s1", backup)
	err := n.refused(step.Fetch, "beta", 1, args)
	if problem.KindOf(err) != problem.Denied || !strings.Contains(err.Error(), "is of instance acme and not of beta") {
		t.Errorf("another instance's snapshot: %v", err)
	}
	args = n.fetchArgs(spec, "s2", backup)
	args.Identities = w.node("b1").seal(map[string]string{})
	if err := n.refused(step.Fetch, "acme", 1, args); problem.KindOf(err) != problem.WrongKey {
		t.Errorf("identities sealed to another node: %v", err)
	}
	args.Identities = n.seal(map[string]string{})
	if err := n.refused(step.Fetch, "acme", 1, args); problem.KindOf(err) != problem.WrongKey {
		t.Errorf("no identity: %v", err)
	}
}
