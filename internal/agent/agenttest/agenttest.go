// Package agenttest holds the conformance suite that every engine passes, and the service it runs.
//
// Words: a Bench is one engine under test; its Open is called again to play an agent that was restarted.
//
// Invariant: the suite asks nothing of how an engine works, only what the agent.Engine contract says.
package agenttest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/fleet"
	"holdfast/internal/problem"
)

// Bench is one engine under test.
type Bench struct {
	Open    func(t *testing.T) agent.Engine // opens the engine as a starting agent does
	Leave   func(agent.Engine)              // the agent goes away; services stay
	Service func(name string) fleet.Service // a service that runs the test program: Artifact or Image is set
	Listen  func(port int) string           // LISTEN of a service whose port the node allotted
	State   func(slot agent.Slot) string    // STATE as the service sees it
	Missing func(fleet.Service) fleet.Service
}

// Build compiles the test program, static, and gives its path.
func Build(t testing.TB) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "app")
	build := exec.Command("go", "build", "-o", program, "holdfast/internal/agent/agenttest/testdata/app")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the test program: %v\n%s", err, out)
	}
	return program
}

// RunEngine runs the suite.
func RunEngine(t *testing.T, bench Bench) {
	tests := []struct {
		name string
		run  func(t *testing.T, s *stage)
	}{
		{"check refuses what is missing", checkRefusesMissing},
		{"up starts in order and waits where asked", upWaits},
		{"up again changes nothing", upAgain},
		{"up restarts only what differs", upRestartsDifferent},
		{"up stops what the spec no longer names", upStopsRemoved},
		{"up and down can be limited", limited},
		{"down ends services and keeps data", downKeepsData},
		{"a service that ends is started again", restarts},
		{"a stubborn service is killed after its grace", stubborn},
		{"run gives input, output and exit code", runs},
		{"services outlive the agent and are adopted", adopted},
		{"two slots of one instance do not disturb each other", twoSlots},
		{"replicas run side by side", replicas},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, newStage(t, bench)) })
	}
}

// stage is one test's engine and directory.
type stage struct {
	*testing.T
	bench  Bench
	engine agent.Engine
	dir    string
}

func newStage(t *testing.T, bench Bench) *stage {
	s := &stage{T: t, bench: bench, engine: bench.Open(t), dir: t.TempDir()}
	t.Cleanup(func() { bench.Leave(s.engine) })
	return s
}

// slot makes a slot whose services listen on allotted ports and share one state.
func (s *stage) slot(name string, services ...fleet.Service) agent.Slot {
	s.Helper()
	slot := agent.Slot{
		Instance: "acme", Name: name, Dir: filepath.Join(s.dir, name),
		Spec:   fleet.Spec{Instance: "acme", Release: "app/v1", State: []fleet.State{{Name: "data", Kind: fleet.StateFolder}}},
		Ports:  map[string]int{},
		States: map[string]string{"data": filepath.Join(s.dir, name, "state", "data")},
	}
	if err := os.MkdirAll(slot.States["data"], 0o755); err != nil {
		s.Fatal(err)
	}
	for _, service := range services {
		s.place(&slot, service)
	}
	s.Cleanup(func() {
		if err := s.engine.Down(context.Background(), slot); err != nil {
			s.Errorf("clean up: %v", err)
		}
	})
	return slot
}

func (s *stage) place(slot *agent.Slot, service fleet.Service) {
	service.Replicas = max(1, service.Replicas)
	service.Ports = []fleet.Port{{Name: "http", Internal: 8080, Edge: true}}
	for n := 1; n <= service.Replicas; n++ {
		slot.Ports[agent.PortKey(service.Name, "http", n)] = freePort(s.T)
	}
	env := map[string]string{"STATE": s.bench.State(*slot)}
	for name, value := range service.Env {
		env[name] = value
	}
	env["LISTEN"] = s.bench.Listen(slot.Ports[service.Name+".http"])
	if service.Replicas > 1 {
		env["LISTEN"] = strings.Replace(env["LISTEN"], strconv.Itoa(slot.Ports[service.Name+".http"]), "${port:"+service.Name+".http}", 1)
	}
	service.Env = env
	if service.StopGrace == 0 {
		service.StopGrace = 5 * time.Second
	}
	slot.Spec.Services = append(slot.Spec.Services, service)
}

func (s *stage) service(name string) fleet.Service {
	service := s.bench.Service(name)
	service.Mounts = []fleet.Mount{{State: "data", Path: "/data"}}
	service.Readiness = &fleet.Probe{HTTP: "/ready", Interval: 50 * time.Millisecond, Timeout: time.Second, Within: 30 * time.Second}
	return service
}

func (s *stage) up(slot agent.Slot, only ...string) {
	s.Helper()
	if err := s.engine.Up(s.Context(), slot, only...); err != nil {
		s.Fatalf("up: %v", err)
	}
}

func (s *stage) down(slot agent.Slot, only ...string) {
	s.Helper()
	if err := s.engine.Down(s.Context(), slot, only...); err != nil {
		s.Fatalf("down: %v", err)
	}
}

func (s *stage) status(slot agent.Slot, name string) fleet.ServiceFacts {
	s.Helper()
	all, err := s.engine.Status(s.Context(), slot)
	if err != nil {
		s.Fatalf("status: %v", err)
	}
	for _, facts := range all {
		if facts.Name == name {
			return facts
		}
	}
	s.Fatalf("status says nothing of %s", name)
	return fleet.ServiceFacts{}
}

// ready waits until the service is ready.
func (s *stage) ready(slot agent.Slot, name string) {
	s.Helper()
	var last fleet.ServiceFacts
	Await(s.T, func() bool { last = s.status(slot, name); return last.Ready }, func() string { return fmt.Sprintf("%s is not ready: %+v", name, last) })
}

func (s *stage) get(slot agent.Slot, service, path string) (string, error) {
	return Get(slot.Ports[service+".http"], path)
}

func (s *stage) mustGet(slot agent.Slot, service, path string) string {
	s.Helper()
	answer, err := s.get(slot, service, path)
	if err != nil {
		s.Fatalf("ask %s for %s: %v", service, path, err)
	}
	return answer
}

func checkRefusesMissing(t *testing.T, s *stage) {
	spec := fleet.Spec{Instance: "acme", Release: "app/v1", Services: []fleet.Service{s.service("api")}}
	if err := s.engine.Check(t.Context(), spec); err != nil {
		t.Fatalf("check of what is there: %v", err)
	}
	spec.Services[0] = s.bench.Missing(spec.Services[0])
	err := s.engine.Check(t.Context(), spec)
	if problem.KindOf(err) != problem.Invalid || !strings.Contains(err.Error(), "service api") {
		t.Fatalf("check of what is missing: %v", err)
	}
}

func upWaits(t *testing.T, s *stage) {
	base := s.service("db")
	base.Env = map[string]string{"WAIT": "400ms"}
	slot := s.slot("s1", base)
	api := s.service("api")
	api.Needs = []fleet.Need{{Service: "db", Ready: true}}
	api.Env = map[string]string{"ASK": "http://" + s.reach(slot, "db") + "/ready"}
	s.place(&slot, api)
	s.up(slot)
	s.ready(slot, "api")
	asked, err := os.ReadFile(filepath.Join(slot.States["data"], "asked"))
	if err != nil || string(asked) != "ready" {
		t.Fatalf("the api found its database %q, %v", asked, err)
	}
}

// reach is how one service of the slot reaches another.
func (s *stage) reach(slot agent.Slot, service string) string {
	if strings.HasPrefix(s.bench.Listen(1), "127.") {
		return s.bench.Listen(slot.Ports[service+".http"])
	}
	return service + ":8080"
}

func upAgain(t *testing.T, s *stage) {
	slot := s.slot("s1", s.service("api"))
	s.up(slot)
	s.ready(slot, "api")
	before := s.mustGet(slot, "api", "/id")
	s.up(slot)
	if after := s.mustGet(slot, "api", "/id"); after != before {
		t.Fatalf("a second up made another process: %s, then %s", before, after)
	}
}

func upRestartsDifferent(t *testing.T, s *stage) {
	slot := s.slot("s1", s.service("api"), s.service("worker"))
	s.up(slot)
	s.ready(slot, "api")
	s.ready(slot, "worker")
	api, worker := s.mustGet(slot, "api", "/id"), s.mustGet(slot, "worker", "/id")
	slot.Spec.Services[1].Env["COLOUR"] = "green"
	s.up(slot)
	s.ready(slot, "worker")
	if got := s.mustGet(slot, "worker", "/env?name=COLOUR"); got != "green" {
		t.Errorf("the worker runs with COLOUR=%q", got)
	}
	if s.mustGet(slot, "api", "/id") != api || s.mustGet(slot, "worker", "/id") == worker {
		t.Error("not exactly the changed service was restarted")
	}
}

func upStopsRemoved(t *testing.T, s *stage) {
	slot := s.slot("s1", s.service("api"), s.service("worker"))
	s.up(slot)
	s.ready(slot, "worker")
	fewer := slot
	fewer.Spec.Services = slot.Spec.Services[:1]
	s.up(fewer)
	if _, err := s.get(slot, "worker", "/id"); err == nil {
		t.Fatal("a service that the spec no longer names still answers")
	}
}

func limited(t *testing.T, s *stage) {
	slot := s.slot("s1", s.service("db"), s.service("api"))
	s.up(slot, "db")
	s.ready(slot, "db")
	if running := s.status(slot, "api").Running; running != 0 {
		t.Fatalf("up of db alone runs %d of api", running)
	}
	s.up(slot)
	s.ready(slot, "api")
	s.down(slot, "api")
	if s.status(slot, "api").Running != 0 || s.status(slot, "db").Running != 1 {
		t.Fatal("down of api alone did not leave exactly db")
	}
}

func downKeepsData(t *testing.T, s *stage) {
	slot := s.slot("s1", s.service("api"))
	s.up(slot)
	s.ready(slot, "api")
	s.mustGet(slot, "api", "/add?line=one")
	s.down(slot)
	s.down(slot)
	if _, err := s.get(slot, "api", "/id"); err == nil {
		t.Error("the service still answers after down")
	}
	for file, want := range map[string]string{"lines": "one\n", "terminated": "yes\n"} {
		if got, err := os.ReadFile(filepath.Join(slot.States["data"], file)); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v", file, got, err)
		}
	}
	s.up(slot)
	s.ready(slot, "api")
	if got := s.mustGet(slot, "api", "/count"); got != "1" {
		t.Errorf("after down and up the service finds %s lines", got)
	}
}

func restarts(t *testing.T, s *stage) {
	slot := s.slot("s1", s.service("api"))
	s.up(slot)
	s.ready(slot, "api")
	before := s.mustGet(slot, "api", "/id")
	_, _ = s.get(slot, "api", "/exit?code=7") // the connection breaks, which is the point
	Await(t, func() bool { id, err := s.get(slot, "api", "/id"); return err == nil && id != before }, func() string { return "it did not come back" })
	if facts := s.status(slot, "api"); facts.Restarts < 1 || !strings.Contains(facts.Note, "7") {
		t.Errorf("status after a restart: %+v", facts)
	}
}

func stubborn(t *testing.T, s *stage) {
	service := s.service("api")
	service.Env = map[string]string{"STUBBORN": "1"}
	service.StopGrace = time.Second
	slot := s.slot("s1", service)
	s.up(slot)
	s.ready(slot, "api")
	begun := time.Now()
	s.down(slot)
	if _, err := s.get(slot, "api", "/id"); err == nil {
		t.Error("it still answers")
	}
	if took := time.Since(begun); took < 900*time.Millisecond || took > 15*time.Second {
		t.Errorf("it was killed after %v, its grace is 1s", took)
	}
}

func runs(t *testing.T, s *stage) {
	service := s.service("api")
	service.Env = map[string]string{"COLOUR": "green"}
	slot := s.slot("s1", service)
	program := "app"
	s.up(slot)
	s.ready(slot, "api")
	run := func(in io.Reader, timeout time.Duration, args ...string) (string, error) {
		var out bytes.Buffer
		err := s.engine.Run(t.Context(), slot, fleet.Command{Service: "api", Args: append([]string{program}, args...), Timeout: timeout}, in, &out)
		return out.String(), err
	}
	big := strings.Repeat("0123456789abcdef", 1<<15)
	if out, err := run(strings.NewReader(big), 0, "echo"); err != nil || out != big {
		t.Errorf("echo gave %d of %d bytes, %v", len(out), len(big), err)
	}
	if out, err := run(nil, 0, "env", "COLOUR"); err != nil || out != "green" {
		t.Errorf("the command saw COLOUR=%q, %v", out, err)
	}
	if _, err := run(nil, 0, "fail"); err == nil || !strings.Contains(err.Error(), "it cannot be done") {
		t.Errorf("a failing command ended with %v", err)
	}
	if _, err := run(nil, 300*time.Millisecond, "hang"); err == nil {
		t.Error("a command outlived its timeout")
	}
	s.down(slot)
	if out, err := run(nil, 0, "env", "COLOUR"); err != nil || out != "green" {
		t.Errorf("beside a stopped service the command saw COLOUR=%q, %v", out, err)
	}
}

func adopted(t *testing.T, s *stage) {
	slot := s.slot("s1", s.service("api"))
	s.up(slot)
	s.ready(slot, "api")
	before := s.mustGet(slot, "api", "/id")
	s.bench.Leave(s.engine)
	if id := s.mustGet(slot, "api", "/id"); id != before {
		t.Fatal("the service did not outlive the agent")
	}
	s.engine = s.bench.Open(t)
	if facts := s.status(slot, "api"); facts.Running != 1 {
		t.Fatalf("a new agent finds %+v", facts)
	}
	s.up(slot)
	if id := s.mustGet(slot, "api", "/id"); id != before {
		t.Fatal("up of a new agent started a second process")
	}
	_, _ = s.get(slot, "api", "/exit?code=1") // the connection breaks, which is the point
	Await(t, func() bool { id, err := s.get(slot, "api", "/id"); return err == nil && id != before }, func() string { return "an adopted service was not started again" })
	s.down(slot)
	if _, err := s.get(slot, "api", "/id"); err == nil {
		t.Error("an adopted service outlived down")
	}
}

func twoSlots(t *testing.T, s *stage) {
	one, two := s.slot("s1", s.service("api")), s.slot("s2", s.service("api"))
	s.up(one)
	s.up(two)
	s.ready(one, "api")
	s.ready(two, "api")
	s.mustGet(two, "api", "/add?line=beside")
	if got := s.mustGet(one, "api", "/count"); got != "0" {
		t.Errorf("slot s1 sees %s lines of slot s2", got)
	}
	s.down(one)
	if _, err := s.get(two, "api", "/id"); err != nil {
		t.Errorf("down of s1 took s2 along: %v", err)
	}
}

func replicas(t *testing.T, s *stage) {
	service := s.service("api")
	service.Replicas = 2
	slot := s.slot("s1", service)
	s.up(slot)
	s.ready(slot, "api")
	first, err := Get(slot.Ports["api.http"], "/id")
	if err != nil {
		t.Fatal(err)
	}
	second, err := Get(slot.Ports["api.http.2"], "/id")
	if err != nil || first == second {
		t.Fatalf("two replicas answer %q and %q, %v", first, second, err)
	}
	if facts := s.status(slot, "api"); facts.Running != 2 || facts.Wanted != 2 {
		t.Errorf("status of two replicas: %+v", facts)
	}
}

// Await polls until ok, for at most 30 seconds.
func Await(t testing.TB, ok func() bool, why func() string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal(why())
		}
		<-tick.C
	}
}

// Get asks the test program on a port of 127.0.0.1.
func Get(port int, path string) (string, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}

func freePort(t testing.TB) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}
