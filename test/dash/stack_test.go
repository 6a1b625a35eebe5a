package dash_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"

	"holdfast/internal/agent"
	"holdfast/internal/agent/agenttest"
	"holdfast/internal/agent/docker"
	"holdfast/internal/fleet"
	"holdfast/internal/step"
	"holdfast/internal/vault"
	"holdfast/internal/vault/disk"
)

// One customer's life on a node with Docker: deployed from archives, seeded, backed up under steady writes, restored
// beside, checked and switched; then led through the releases, of which the last refuses the customer's data.
func TestStackOnDocker(t *testing.T) {
	host := agenttest.Dockerd(t)
	n := newNode(t, host)
	v1 := n.spec("dash/v1.0.0")
	n.do(step.Stage, 1, step.StageArgs{Spec: v1})
	n.boot(v1, "s1", 1)
	n.do(step.Switch, 1, step.SwitchArgs{Slot: "s1", Epoch: 1})
	n.load("seed", "-customer", "initech", "-packages", n.built("packages.txt"), "-every", "60", "-dashboards", "4", "-doubled", "-ledger", n.ledger)
	n.load("write", "-ledger", n.ledger, "-run", "before", "-rate", "50", "-for", "1s")

	writing := n.start("write", "-ledger", n.ledger, "-run", "during", "-rate", "20", "-for", "10m")
	var backup step.BackupResult
	n.result(&backup, n.do(step.Backup, 1, step.BackupArgs{Spec: v1, Custodians: []string{n.identity.Recipient().String()}}))
	writing()
	n.restore(backup, v1)
	// What was acknowledged before the dump began is there; a little earlier, as both read the clock on their own.
	n.load("verify", "-ledger", n.ledger, "-before", backup.TakenAt.Add(-50*time.Millisecond).Format(time.RFC3339Nano))
	n.status("v1.0.0")
	n.runs("mongo", "dash/ferretdb:v1.23.1")

	for _, release := range []string{"dash/v2.0.0", "dash/v3.0.0"} {
		n.boot(n.spec(release), "s2", 2)
		n.check("s2")
	}
	n.status("v3.0.0")
	n.runs("mongo", "dash/ferretdb:v1.24.0")
	if words := n.fails(step.Boot, 2, step.BootArgs{Spec: n.spec("dash/v4.0.0"), Slot: "s2"}); !strings.Contains(words, "api") {
		t.Errorf("v4 refuses the customer's data with %q", words)
	}
	if said := n.logs("api"); !strings.Contains(said, "dashboards seed-0001 and seed-0002 have one address") {
		t.Errorf("the API of v4 says %q", said)
	}
	n.boot(n.spec("dash/v3.0.0"), "s2", 2) // the failure changed nothing
	n.check("s2")
	n.load("verify", "-ledger", n.ledger, "-before", backup.TakenAt.Add(-50*time.Millisecond).Format(time.RFC3339Nano))
}

// node is an agent's stack on a Docker Engine.
type node struct {
	*testing.T
	stack    *agent.Stack
	host     string
	identity *age.X25519Identity
	dir      string
	ledger   string
	files    fleet.Files
	made     string // what make dash makes
	orders   int
}

func newNode(t *testing.T, host string) *node {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	n := &node{T: t, host: host, identity: identity, dir: t.TempDir(), made: build(t)}
	n.ledger = filepath.Join(n.dir, "ledger")
	files, err := fleet.Collect(n.built("fleet"))
	if err != nil {
		t.Fatal(err)
	}
	n.files = maps.Clone(files)
	engine, err := docker.New(t.Context(), docker.Config{Node: "par1-n1", Host: host})
	if err != nil {
		t.Fatal(err)
	}
	n.stack, err = agent.NewStack(agent.StackConfig{
		Data: n.dir, Node: "par1-n1", Engines: []agent.EngineChoice{{Name: "docker", Engine: engine, Contained: true}}, Seal: identity,
		Ports: agent.PortRange{From: 32000, To: 32999},
		Stores: func(context.Context, step.Repository) (vault.Store, error) {
			return disk.Open(filepath.Join(n.dir, "vault")), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = n.stack.Run(ctx) }() // it returns nil when ctx ends
	t.Cleanup(func() {
		n.do(step.Stop, 2, step.StopArgs{Retire: true, Why: "the test is over"})
		cancel()
		<-ended
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// build makes the programs and images and gives their folder.
func build(t *testing.T, flags ...string) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	into := filepath.Join(root, "bin", "dash")
	if _, err := os.Stat(filepath.Join(into, "programs", "ferretdb-1.24")); err != nil && os.Getenv("HOLDFAST_E2E") == "" {
		t.Skip("left out: building the product's database takes minutes: make dash, once, or make e2e STORY=" + t.Name())
	}
	command := exec.CommandContext(t.Context(), "go", "-C", filepath.Join(root, "examples", "dash"), "run", "./cmd/dash-build", "-out", into)
	command.Args = append(command.Args, flags...)
	if said, err := command.CombinedOutput(); err != nil {
		t.Fatalf("make the images: %v\n%s", err, said)
	}
	return into
}

func (n *node) built(name string) string { return filepath.Join(n.made, name) }

// spec renders a release for the customer, with the archives where they were made.
func (n *node) spec(release string) fleet.Spec {
	n.Helper()
	files := maps.Clone(n.files)
	text := strings.Replace(string(files["instances/initech.yaml"]), "dash/v1.0.0", release, 1)
	files["instances/initech.yaml"] = fmt.Appendf(nil, "%s\nvalues: {images: %q}\n", strings.TrimSpace(text), n.built("images"))
	if release == "dash/v4.0.0" { // which never becomes ready
		files["product.yaml"] = bytes.Replace(files["product.yaml"], []byte("{http: /readiness, interval: 200ms, within: 60s}"), []byte("{http: /readiness, interval: 200ms, within: 10s}"), 1)
	}
	f, err := fleet.Read(files)
	if err != nil {
		n.Fatal(err)
	}
	spec, err := fleet.Render(f, "initech")
	if err != nil {
		n.Fatal(err)
	}
	return spec
}

func (n *node) order(kind step.Kind, epoch int64, args any) (json.RawMessage, error) {
	n.Helper()
	body, err := json.Marshal(args)
	if err != nil {
		n.Fatal(err)
	}
	n.orders++
	order := step.Order{ID: fmt.Sprintf("op/%d/1", n.orders), Node: "par1-n1", Epoch: epoch, Step: step.Step{Kind: kind, Instance: "initech", Args: body}}
	return n.stack.Do(context.WithoutCancel(n.Context()), order, nil)
}

func (n *node) do(kind step.Kind, epoch int64, args any) json.RawMessage {
	n.Helper()
	began := time.Now()
	result, err := n.order(kind, epoch, args)
	if err != nil {
		n.Fatalf("%s: %v", kind, err)
	}
	n.Logf("%s took %v", kind, time.Since(began).Round(time.Millisecond))
	return result
}

// fails wants an order to fail and gives its words.
func (n *node) fails(kind step.Kind, epoch int64, args any) string {
	n.Helper()
	if _, err := n.order(kind, epoch, args); err != nil {
		return err.Error()
	}
	n.Fatalf("%s did not fail", kind)
	return ""
}

func (n *node) result(into any, body json.RawMessage) {
	n.Helper()
	if err := json.Unmarshal(body, into); err != nil {
		n.Fatal(err)
	}
}

func (n *node) boot(spec fleet.Spec, slot string, epoch int64) {
	n.Helper()
	args := step.BootArgs{Spec: spec, Slot: slot, Restored: slot == "s2"}
	if slot == "s1" {
		args.Secrets = n.seal(map[string]string{"encryption": strings.Repeat("e", 48), "status_agent": "initech-status"})
	}
	n.do(step.Boot, epoch, args)
	n.do(step.Ready, epoch, step.SlotArgs{Slot: slot})
}

// restore brings a snapshot beside what serves, checks it, and switches.
func (n *node) restore(backup step.BackupResult, spec fleet.Spec) {
	n.Helper()
	identities := map[string]string{}
	for epoch, envelope := range backup.Envelopes {
		opened, err := vault.OpenEnvelopeAge(vault.Envelope{Epoch: epoch, Age: [][]byte{envelope}}, n.identity.String())
		if err != nil {
			n.Fatal(err)
		}
		text, err := opened.MarshalText()
		if err != nil {
			n.Fatal(err)
		}
		identities[epoch] = string(text)
	}
	n.do(step.Fetch, 2, step.FetchArgs{Snapshot: backup.Snapshot, Slot: "s2", Identities: n.seal(identities), Spec: spec})
	n.do(step.Load, 2, step.SlotArgs{Slot: "s2"})
	n.boot(spec, "s2", 2)
	var checks step.ChecksResult
	n.result(&checks, n.check("s2"))
	if checks.Passed < 6 || checks.Passed != checks.Required {
		n.Errorf("checks after the restore: %+v", checks)
	}
	n.do(step.Switch, 2, step.SwitchArgs{Slot: "s2", Epoch: 2})
}

// check orders the checks of a slot; where they fail it says what the data says of itself.
func (n *node) check(slot string) json.RawMessage {
	n.Helper()
	result, err := n.order(step.Checks, 2, step.SlotArgs{Slot: slot})
	if err == nil {
		return result
	}
	for _, word := range strings.Fields(err.Error()) {
		answer, failed := http.Get(word)
		if failed != nil {
			continue // no address
		}
		body, _ := io.ReadAll(io.LimitReader(answer.Body, 4000)) // only to tell more
		_ = answer.Body.Close()
		n.Logf("%s: %s", word, body)
	}
	n.Fatal(err)
	return nil
}

func (n *node) seal(value any) []byte {
	n.Helper()
	body, err := json.Marshal(value)
	if err != nil {
		n.Fatal(err)
	}
	var sealed bytes.Buffer
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
	return sealed.Bytes()
}

// address is where the edge would send requests to now.
func (n *node) address() string {
	n.Helper()
	var found string
	agenttest.Await(n.T, func() bool {
		endpoints := n.stack.Instances()["initech"].Endpoints
		if len(endpoints) == 0 {
			return false
		}
		answer, err := http.Get("http://" + endpoints[0] + "/version")
		found = "http://" + endpoints[0]
		return err == nil && answer.Body.Close() == nil && answer.StatusCode == http.StatusOK
	}, func() string { return fmt.Sprintf("nothing answers: %+v", n.stack.Instances()["initech"]) })
	return found
}

// load runs dash-load against the customer.
func (n *node) load(args ...string) {
	n.Helper()
	out, err := n.command(args...).CombinedOutput()
	if err != nil {
		n.Fatalf("dash-load %v: %v\n%s", args, err, out)
	}
	n.Logf("dash-load %s: %s", args[0], bytes.TrimSpace(out))
}

func (n *node) command(args ...string) *exec.Cmd {
	n.Helper()
	return exec.Command(n.built("programs/dash-load"), append(args[:1:1], append([]string{"-url", n.address()}, args[1:]...)...)...)
}

// start runs dash-load beside the test once it writes, and gives what ends it.
func (n *node) start(args ...string) (stop func()) {
	n.Helper()
	size := func() int64 {
		info, err := os.Stat(n.ledger)
		if err != nil {
			n.Fatal(err)
		}
		return info.Size()
	}
	before := size()
	command := n.command(args...)
	var words bytes.Buffer
	command.Stdout, command.Stderr = &words, &words
	if err := command.Start(); err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { _ = command.Process.Kill() }) // it has ended unless the test failed
	agenttest.Await(n.T, func() bool { return size() > before+2000 }, func() string { return "no writes: " + words.String() })
	return func() {
		n.Helper()
		if err := command.Process.Signal(os.Interrupt); err != nil {
			n.Fatal(err)
		}
		if err := command.Wait(); err != nil {
			n.Errorf("the writes ended with %v: %s", err, &words)
		}
		n.Logf("dash-load %s: %s", args[0], bytes.TrimSpace(words.Bytes()))
	}
}

// status asks through the frontend, with and without the secret User-Agent.
func (n *node) status(version string) {
	n.Helper()
	ask := func(agent string) (int, map[string]any) {
		r, err := http.NewRequestWithContext(n.Context(), http.MethodGet, n.address()+"/status", nil)
		if err != nil {
			n.Fatal(err)
		}
		r.Header.Set("User-Agent", agent)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			n.Fatal(err)
		}
		defer answer.Body.Close()
		said := map[string]any{}
		_ = json.NewDecoder(answer.Body).Decode(&said) // "404 page not found" is no JSON
		return answer.StatusCode, said
	}
	if code, _ := ask("curl"); code != http.StatusNotFound {
		n.Errorf("/status answers %d to anybody", code)
	}
	var said map[string]any
	agenttest.Await(n.T, func() bool {
		var code int
		code, said = ask("initech-status")
		return code == http.StatusOK
	}, func() string { return fmt.Sprintf("the status is %v", said) })
	if said["version"] != version || said["engine"] != "ferretdb, as mongodb 7.0.42" {
		n.Errorf("the status is %v, want version %s", said, version)
	}
}

// logs gives what a service of slot s2 said.
func (n *node) logs(service string) string {
	n.Helper()
	answer, err := n.engine().ContainerLogs(n.Context(), container(service), client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true})
	if err != nil {
		n.Fatal(err)
	}
	defer answer.Close()
	var said bytes.Buffer
	if _, err := stdcopy.StdCopy(&said, &said, answer); err != nil {
		n.Fatal(err)
	}
	return said.String()
}

// runs wants a service of slot s2 to be made of an image.
func (n *node) runs(service, image string) {
	n.Helper()
	found, err := n.engine().ContainerInspect(n.Context(), container(service), client.ContainerInspectOptions{})
	if err != nil {
		n.Fatal(err)
	}
	if got := found.Container.Config.Image; got != image {
		n.Errorf("%s is made of %s, want %s", service, got, image)
	}
}

func container(service string) string { return "holdfast-par1-n1-initech-s2-" + service + "-1" }

func (n *node) engine() *client.Client {
	n.Helper()
	api, err := client.New(client.WithHost(n.host))
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { _ = api.Close() }) // it keeps connections only
	return api
}
