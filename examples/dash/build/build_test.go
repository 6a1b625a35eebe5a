package build

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// A tree is written the same every time, folders first, and what lay in /bin and /lib lies below /usr.
func TestTree(t *testing.T) {
	make := func() []byte {
		tree := tree{}
		tree.base("version")
		for _, h := range []tar.Header{
			{Name: "./bin/busybox", Typeflag: tar.TypeReg, Mode: 0o4755},
			{Name: "./lib/x86_64-linux-gnu/libz.so.1", Typeflag: tar.TypeSymlink, Linkname: "libz.so.1.2"},
			{Name: "./usr/bin/same", Typeflag: tar.TypeLink, Linkname: "./bin/busybox"},
			{Name: "./usr/share/doc/x/copyright", Typeflag: tar.TypeReg},
			{Name: "./etc/nginx/", Typeflag: tar.TypeDir},
		} {
			if err := tree.take(&h, strings.NewReader("body")); err != nil {
				t.Fatal(err)
			}
		}
		out, err := tree.tar()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	first := make()
	if !bytes.Equal(first, make()) {
		t.Error("the same tree gave two archives")
	}
	seen := map[string]*tar.Header{}
	for reader := tar.NewReader(bytes.NewReader(first)); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		dir, _, _ := strings.Cut(header.Name, "/")
		if dir != header.Name && seen[dir] == nil {
			t.Errorf("%s comes before its folder", header.Name)
		}
		if header.Typeflag == tar.TypeLink && seen[header.Linkname] == nil {
			t.Errorf("%s comes before %s, which it links to", header.Name, header.Linkname)
		}
		seen[header.Name] = header
	}
	if h := seen["usr/bin/busybox"]; h == nil || h.Mode != 0o755 {
		t.Errorf("busybox: %+v", h)
	}
	if h := seen["usr/bin/same"]; h == nil || h.Linkname != "usr/bin/busybox" {
		t.Errorf("hard link: %+v", h)
	}
	if seen["usr/lib/x86_64-linux-gnu/libz.so.1"] == nil || seen["bin"] == nil || seen["bin"].Linkname != "usr/bin" || seen["usr/share/doc/x/copyright"] != nil {
		t.Errorf("the tree holds %v", seen)
	}
}

func TestArchivesOfAPlan(t *testing.T) {
	const plan = "Inst libc6 (2.36-9 Debian:12.1/oldstable [amd64])\nInst debconf (1.5 Debian:12 [all])\nInst redis-tools (5:7.0.15-1 Debian:12.1/oldstable, Debian-Security:12 [amd64])\nConf libc6 (2.36-9)\n"
	got := planned.FindAllStringSubmatch(plan, -1)
	if len(got) != 3 || got[2][1] != "redis-tools" || got[2][2] != "5:7.0.15-1" || got[2][3] != "amd64" {
		t.Errorf("planned: %q", got)
	}
	if _, err := archives(t.TempDir(), plan); err == nil || !strings.Contains(err.Error(), "libc6") {
		t.Errorf("an archive that was not downloaded: %v", err)
	}
}

func TestPinned(t *testing.T) {
	const text = "  mongo: {image: dash/ferretdb:v1.24.0}\n  api: {image: dash/backend:v1.0.0}\n"
	images := []Image{{Name: "dash/ferretdb:v1.24.0", Archive: "f.tar", SHA256: "aa"}, {Name: "dash/backend:v1.0.0", Archive: "b.tar", SHA256: "bb"}}
	got, err := pinned(text, images, map[string]string{"dash/ferretdb:v1.24.0": "mongo:7.0.14"})
	want := "  mongo: {image: \"mongo:7.0.14\"}\n  api: {image: \"dash/backend:v1.0.0\", archive: \"${value:images}/b.tar@sha256:bb\"}\n"
	if err != nil || got != want {
		t.Errorf("pinned: %v\n%s", err, got)
	}
	if _, err := pinned(text, images[:1], nil); err == nil || !strings.Contains(err.Error(), "dash/backend:v1.0.0") {
		t.Errorf("an image that was not made: %v", err)
	}
}
