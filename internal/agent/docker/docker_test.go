package docker_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/moby/client"

	"holdfast/internal/agent"
	"holdfast/internal/agent/agenttest"
	"holdfast/internal/agent/docker"
	"holdfast/internal/fleet"
)

const image = "holdfast-test/app:1"

func TestDocker(t *testing.T) {
	host := dockerd(t)
	importImage(t, host, agenttest.Build(t))
	t.Run("engine", func(t *testing.T) { testEngine(t, host) })
	t.Run("life of an instance", func(t *testing.T) { testLife(t, host) })
	t.Run("limits and logs", func(t *testing.T) { testLimits(t, host) })
	t.Run("archive", func(t *testing.T) { testArchive(t, host) })
}

func testEngine(t *testing.T, host string) {
	agenttest.RunEngine(t, agenttest.Bench{
		Open: func(t *testing.T) agent.Engine {
			e, err := docker.New(t.Context(), docker.Config{Node: "n1", Host: host})
			if err != nil {
				t.Fatal(err)
			}
			return e
		},
		Leave: func(e agent.Engine) {
			if err := e.(*docker.Engine).Close(); err != nil {
				t.Error(err)
			}
		},
		Service: func(name string) fleet.Service {
			return fleet.Service{Name: name, Image: image, Command: []string{"serve"}}
		},
		Listen:  func(int) string { return "0.0.0.0:8080" },
		State:   func(agent.Slot) string { return "/data" },
		Missing: func(s fleet.Service) fleet.Service { s.Image = "127.0.0.1:1/absent:1"; return s },
	})
}

// dockerd starts an engine of its own, with its own directories and socket, and gives its address. HOLDFAST_TEST_DOCKER
// names one that runs already.
func dockerd(t *testing.T) string {
	t.Helper()
	if host := os.Getenv("HOLDFAST_TEST_DOCKER"); host != "" {
		return host
	}
	program, err := exec.LookPath("dockerd")
	if err != nil || os.Geteuid() != 0 {
		t.Skip("the docker engine is NOT tested here: that needs root and dockerd (apt-get install docker.io), or HOLDFAST_TEST_DOCKER=unix:///...")
	}
	dir, err := os.MkdirTemp("", "hfd") // short: the path of a socket is limited
	if err != nil {
		t.Fatal(err)
	}
	host := "unix://" + filepath.Join(dir, "d.sock")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"),
		"--host", host, "--bridge", "none", "--default-address-pool", "base=10.213.0.0/16,size=26", "--cgroup-parent", "/"+filepath.Base(dir))
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = command.Wait() }() // it ends by our signal
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM) // it may have ended already, which the log then says
		<-ended
		if t.Failed() {
			said, _ := os.ReadFile(log.Name())
			t.Logf("dockerd said:\n%s", said[max(0, len(said)-4000):])
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Logf("leave %s behind: %v", dir, err)
		}
	})
	agenttest.Await(t, func() bool {
		e, err := docker.New(context.Background(), docker.Config{Node: "n1", Host: host})
		return err == nil && e.Close() == nil
	}, func() string { return "dockerd did not start" })
	return host
}

// importImage makes an image of one static program, without a registry.
func importImage(t *testing.T, host, program string) {
	t.Helper()
	api, err := client.New(client.WithHost(host))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	body, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var root bytes.Buffer
	w := tar.NewWriter(&root)
	for _, dir := range []string{"tmp/", "usr/", "usr/bin/", "data/"} {
		if err := w.WriteHeader(&tar.Header{Name: dir, Mode: 0o777, Typeflag: tar.TypeDir}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WriteHeader(&tar.Header{Name: "usr/bin/app", Mode: 0o755, Size: int64(len(body))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	name, tag, _ := strings.Cut(image, ":")
	answer, err := api.ImageImport(t.Context(), client.ImageImportSource{Source: &root, SourceName: "-"}, name,
		client.ImageImportOptions{Tag: tag, Changes: []string{`ENTRYPOINT ["/usr/bin/app"]`}})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Close()
	if _, err := io.Copy(io.Discard, answer); err != nil {
		t.Fatal(err)
	}
}
