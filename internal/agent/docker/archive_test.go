package docker_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"holdfast/internal/agent/docker"
	"holdfast/internal/fleet"
	"holdfast/internal/problem"
)

// testArchive: an image comes from an archive that is what it was pinned as, and from no other.
func testArchive(t *testing.T, host string) {
	const name = "holdfast-test/archived:1"
	api, err := client.New(client.WithHost(host))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	engine, err := docker.New(t.Context(), docker.Config{Node: "d3", Host: host})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	tag(t, api, image, name)
	path, sum := save(t, api, name)
	remove(t, api, name)
	check := func(archive string) error {
		return engine.Check(t.Context(), fleet.Spec{Instance: "acme", Services: []fleet.Service{{Name: "api", Image: name, Archive: archive}}})
	}

	wrong := check(path + "@sha256:" + strings.Repeat("0", 64))
	if problem.KindOf(wrong) != problem.Corrupt && (wrong == nil || !strings.Contains(wrong.Error(), "its digest is sha256:"+sum)) {
		t.Errorf("an archive with other bytes: %v", wrong)
	}
	if _, err := api.ImageInspect(t.Context(), name); !errdefs.IsNotFound(err) {
		t.Errorf("the refused archive was loaded: %v", err)
	}
	if err := check(filepath.Join(t.TempDir(), "absent.tar") + "@sha256:" + sum); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("an archive that is not there: %v", err)
	}
	if err := check(path + "@sha256:" + sum); err != nil {
		t.Fatal(err)
	}
	loaded := id(t, api, name)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := check(path + "@sha256:" + sum); err != nil {
		t.Errorf("an image that was loaded before needs its archive again: %v", err)
	}
	other := another(t, api)
	tag(t, api, other, name)
	if err := check(path + "@sha256:" + sum); err != nil {
		t.Fatal(err)
	}
	if got := id(t, api, name); got != loaded {
		t.Errorf("the name was left to another image: %s, want %s", got, loaded)
	}
}

// save writes an image to a file, as docker save does.
func save(t *testing.T, api *client.Client, name string) (path, sum string) {
	t.Helper()
	answer, err := api.ImageSave(t.Context(), []string{name})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Close()
	path = filepath.Join(t.TempDir(), "image.tar")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(file, hash), answer); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return path, hex.EncodeToString(hash.Sum(nil))
}

// another makes an image that no other is like.
func another(t *testing.T, api *client.Client) string {
	t.Helper()
	answer, err := api.ImageImport(t.Context(), client.ImageImportSource{Source: bytes.NewReader(make([]byte, 1024)), SourceName: "-"}, "holdfast-test/other",
		client.ImageImportOptions{Tag: "1", Changes: []string{"LABEL made.by=test"}})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Close()
	if _, err := io.Copy(io.Discard, answer); err != nil {
		t.Fatal(err)
	}
	return "holdfast-test/other:1"
}

func tag(t *testing.T, api *client.Client, from, to string) {
	t.Helper()
	if _, err := api.ImageTag(t.Context(), client.ImageTagOptions{Source: from, Target: to}); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, api *client.Client, name string) {
	t.Helper()
	if _, err := api.ImageRemove(t.Context(), name, client.ImageRemoveOptions{}); err != nil {
		t.Fatal(err)
	}
}

func id(t *testing.T, api *client.Client, name string) string {
	t.Helper()
	found, err := api.ImageInspect(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return found.ID
}
