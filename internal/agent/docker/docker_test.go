package docker_test

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/moby/moby/client"

	"holdfast/internal/agent"
	"holdfast/internal/agent/agenttest"
	"holdfast/internal/agent/docker"
	"holdfast/internal/fleet"
)

const image = "holdfast-test/app:1"

func TestDocker(t *testing.T) {
	host := agenttest.Dockerd(t)
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
