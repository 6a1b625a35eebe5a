package docker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/moby/moby/client"

	"holdfast/internal/agent"
	"holdfast/internal/agent/agenttest"
	"holdfast/internal/agent/docker"
	"holdfast/internal/fleet"
	"holdfast/internal/step"
	"holdfast/internal/vault"
	"holdfast/internal/vault/disk"
)

// life is one node that runs containers.
type life struct {
	*testing.T
	stack    *agent.Stack
	identity *age.X25519Identity
	dir      string
	orders   int
}

func (l *life) do(kind step.Kind, epoch int64, args any) json.RawMessage {
	l.Helper()
	body, err := json.Marshal(args)
	if err != nil {
		l.Fatal(err)
	}
	l.orders++
	order := step.Order{ID: fmt.Sprintf("op/%d/1", l.orders), Node: "d1", Epoch: epoch, Step: step.Step{Kind: kind, Instance: "acme", Args: body}}
	result, err := l.stack.Do(context.WithoutCancel(l.Context()), order, nil)
	if err != nil {
		l.Fatalf("%s: %v", kind, err)
	}
	return result
}

func (l *life) seal(value any) []byte {
	l.Helper()
	body, err := json.Marshal(value)
	if err != nil {
		l.Fatal(err)
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, l.identity.Recipient())
	if err != nil {
		l.Fatal(err)
	}
	if _, err := w.Write(body); err != nil {
		l.Fatal(err)
	}
	if err := w.Close(); err != nil {
		l.Fatal(err)
	}
	return sealed.Bytes()
}

// testLife deploys, backs up by a command inside the container, restores beside by one beside it, and switches.
func testLife(t *testing.T, host string) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	engine, err := docker.New(t.Context(), docker.Config{Node: "d1", Host: host})
	if err != nil {
		t.Fatal(err)
	}
	l := &life{T: t, identity: identity, dir: t.TempDir()}
	l.stack, err = agent.NewStack(agent.StackConfig{
		Data: l.dir, Node: "d1", Engines: []agent.EngineChoice{{Name: "docker", Engine: engine, Contained: true}}, Seal: identity,
		Ports: agent.PortRange{From: 31000, To: 31999},
		Stores: func(context.Context, step.Repository) (vault.Store, error) {
			return disk.Open(filepath.Join(l.dir, "vault")), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = l.stack.Run(ctx) }() // it returns nil when ctx ends
	t.Cleanup(func() {
		l.do(step.Stop, 2, step.StopArgs{Retire: true, Why: "the test is over"})
		cancel()
		<-ended
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	spec := stackSpec()
	secrets := l.seal(map[string]string{"key": "k1"})
	l.do(step.Stage, 1, step.StageArgs{Spec: spec})
	l.do(step.Boot, 1, step.BootArgs{Spec: spec, Slot: "s1", Secrets: secrets})
	l.do(step.Ready, 1, step.SlotArgs{Slot: "s1"})
	l.do(step.Switch, 1, step.SwitchArgs{Slot: "s1", Epoch: 1})
	if got := l.ask("/env?name=KEY"); got != "k1" {
		t.Errorf("the API got the secret %q", got)
	}
	l.ask("/add?line=one")
	var backup step.BackupResult
	if err := json.Unmarshal(l.do(step.Backup, 1, step.BackupArgs{Spec: spec, Custodians: []string{identity.Recipient().String()}}), &backup); err != nil {
		t.Fatal(err)
	}
	l.ask("/add?line=two")
	identities := map[string]string{}
	for epoch, envelope := range backup.Envelopes {
		opened, err := vault.OpenEnvelopeAge(vault.Envelope{Epoch: epoch, Age: [][]byte{envelope}}, identity.String())
		if err != nil {
			t.Fatal(err)
		}
		text, err := opened.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		identities[epoch] = string(text)
	}
	l.do(step.Fetch, 2, step.FetchArgs{Snapshot: backup.Snapshot, Slot: "s2", Identities: l.seal(identities), Spec: spec})
	l.do(step.Load, 2, step.SlotArgs{Slot: "s2"})
	l.do(step.Boot, 2, step.BootArgs{Spec: spec, Slot: "s2", Restored: true})
	l.do(step.Ready, 2, step.SlotArgs{Slot: "s2"})
	l.do(step.Checks, 2, step.SlotArgs{Slot: "s2"})
	l.do(step.Switch, 2, step.SwitchArgs{Slot: "s2", Epoch: 2})
	if got := l.ask("/count"); got != "1" {
		t.Errorf("the restored API counts %s lines", got)
	}
	if body, err := os.ReadFile(filepath.Join(l.dir, "instances/acme/slots/s1/state/data/lines")); err != nil || string(body) != "one\ntwo\n" {
		t.Errorf("what served before holds %q, %v", body, err)
	}
}

func stackSpec() fleet.Spec {
	probe := &fleet.Probe{HTTP: "/ready", Interval: 50 * time.Millisecond, Timeout: 2 * time.Second, Within: 30 * time.Second}
	return fleet.Spec{
		Instance: "acme", Product: "app", Release: "app/v1", Fingerprint: "f1",
		Services: []fleet.Service{{
			Name: "api", Image: image, Command: []string{"serve"}, Replicas: 1, StopGrace: 5 * time.Second,
			Env:   map[string]string{"LISTEN": "0.0.0.0:${port:api.http}", "STATE": "${state:data}", "KEY": "${secret:key}"},
			Ports: []fleet.Port{{Name: "http", Internal: 8080, Edge: true}}, Mounts: []fleet.Mount{{State: "data", Path: "/data"}}, Readiness: probe,
		}},
		State: []fleet.State{{
			Name: "data", Kind: fleet.StateCommand, Service: "api",
			Dump: fleet.Command{Args: []string{"app", "dump", "${state:data}/lines"}},
			Load: fleet.Command{Args: []string{"app", "load", "${state:data}/lines"}},
		}},
		Secrets: []fleet.SecretRef{{Name: "key", Version: 1}},
		Backup:  fleet.BackupPolicy{Custodian: true},
	}
}

func (l *life) ask(path string) string {
	l.Helper()
	var answer string
	var err error
	agenttest.Await(l.T, func() bool {
		endpoints := l.stack.Instances()["acme"].Endpoints
		if len(endpoints) == 0 {
			return false
		}
		var port int
		if _, err = fmt.Sscanf(endpoints[0], "127.0.0.1:%d", &port); err != nil {
			return false
		}
		answer, err = agenttest.Get(port, path)
		return err == nil
	}, func() string {
		return fmt.Sprintf("%s is not answered: %v, %+v", path, err, l.stack.Instances()["acme"])
	})
	return answer
}

// testLimits looks at what the engine was really asked for.
func testLimits(t *testing.T, host string) {
	engine, err := docker.New(t.Context(), docker.Config{Node: "d2", Data: "/data/d2", Host: host, LogSize: "1m", LogKeep: 2})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	slot := agent.Slot{Instance: "acme", Name: "s1", Dir: dir, Ports: map[string]int{}, States: map[string]string{"data": dir}, Spec: fleet.Spec{
		Instance: "acme", Services: []fleet.Service{{
			Name: "api", Image: image, Command: []string{"serve"}, MemoryMB: 64, CPUs: 0.5, StopGrace: 3 * time.Second,
			Env: map[string]string{"LISTEN": "0.0.0.0:8080", "STATE": "/data"}, Mounts: []fleet.Mount{{State: "data", Path: "/data"}},
		}},
	}}
	t.Cleanup(func() {
		if err := engine.Down(context.Background(), slot); err != nil {
			t.Error(err)
		}
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := engine.Up(t.Context(), slot); err != nil {
		t.Fatal(err)
	}
	api, err := client.New(client.WithHost(host))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	found, err := api.ContainerInspect(t.Context(), "holdfast-d2-acme-s1-api-1", client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c := found.Container
	log := c.HostConfig.LogConfig
	if c.HostConfig.Memory != 64<<20 || c.HostConfig.NanoCPUs != 5e8 || log.Type != "json-file" || log.Config["max-size"] != "1m" || log.Config["max-file"] != "2" {
		t.Errorf("limits: %d bytes, %d nano-CPUs, log %+v", c.HostConfig.Memory, c.HostConfig.NanoCPUs, log)
	}
	if !strings.Contains(strings.Join(c.Config.Env, " "), "HOLDFAST_AGENT=d2:/data/d2") || c.Config.Labels["holdfast.instance"] != "acme" {
		t.Errorf("the container carries %v and %v", c.Config.Env, c.Config.Labels)
	}
}
