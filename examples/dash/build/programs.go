// Package build makes the programs and the images of the product, from pinned modules and the distribution's packages,
// without a registry and without a Docker Engine.
//
// Words: a program is one file that Go built; an image is an archive that `docker load` takes; a stamp says from what
// something was made, so that nothing is made twice.
//
// Invariant: what lies under a name was made from what its stamp says, whole.
package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Releases lists the versions of the product.
func Releases() []string { return []string{"v1.0.0", "v2.0.0", "v3.0.0", "v4.0.0"} }

// Program is one file to build with Go.
type Program struct {
	Name    string // of the file
	Module  string // folder of its module, below the folder of the product
	Package string
	Flags   string // further linker flags
	Own     bool   // made from the sources here: Go's own cache decides whether it is up to date
}

// Programs lists all of them.
func Programs() []Program {
	all := []Program{
		{Name: "ferretdb-1.23", Module: "engine/ferretdb123", Package: "."},
		{Name: "ferretdb-1.24", Module: "engine/ferretdb124", Package: "."},
		{Name: "mongodump", Module: ".", Package: "github.com/mongodb/mongo-tools/mongodump/main"},
		{Name: "mongorestore", Module: ".", Package: "github.com/mongodb/mongo-tools/mongorestore/main"},
		{Name: "dash-load", Module: ".", Package: "./cmd/dash-load", Own: true},
	}
	for _, version := range Releases() {
		all = append(all, Program{Name: "dash-backend-" + version, Module: ".", Package: "./cmd/dash-backend", Flags: "-X main.version=" + version, Own: true})
	}
	return all
}

// Root is the folder of the product, found from the folder below which the call is made.
func Root() (string, error) {
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := here; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "engine", "ferretdb124", "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find the product above %s: call from a folder of examples/dash", here)
		}
	}
}

// Make builds a program into the folder into, unless it is there as it would be built, and gives its path. Say is told
// what takes long.
func (p Program) Make(ctx context.Context, root, into string, say func(string)) (string, error) {
	path := filepath.Join(into, p.Name)
	stamp, err := p.stamp(root)
	if err != nil {
		return "", err
	}
	if !p.Own && stamped(path, stamp) {
		return path, nil
	}
	if !p.Own {
		say("build " + p.Name + " (minutes, the first time)")
	}
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w "+p.Flags, "-o", path+".new", p.Package)
	command.Dir = filepath.Join(root, p.Module)
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOWORK=off", "GOFLAGS=")
	if said, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", p.Name, err, said)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return "", err
	}
	return path, stampIt(path, stamp)
}

// stamp says what a program of others is made of: the pins of its module, its own few lines, and the compiler.
func (p Program) stamp(root string) (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.Version(), runtime.GOARCH, p.Package, p.Flags)
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		body, err := os.ReadFile(filepath.Join(root, p.Module, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		hash.Write(body)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// stamped tells whether the file at path is there and was made from stamp.
func stamped(path, stamp string) bool {
	have, err := os.ReadFile(path + ".stamp")
	if err != nil || strings.TrimSpace(string(have)) != stamp {
		return false
	}
	_, err = os.Stat(path)
	return err == nil
}

func stampIt(path, stamp string) error { return os.WriteFile(path+".stamp", []byte(stamp+"\n"), 0o600) }

// Named gives the program of a name.
func Named(name string) (Program, error) {
	for _, p := range Programs() {
		if p.Name == name {
			return p, nil
		}
	}
	return Program{}, fmt.Errorf("program %q is not one of the product", name)
}

// MakePrograms builds those named, or all, and gives their paths by name.
func MakePrograms(ctx context.Context, root, into string, say func(string), names ...string) (map[string]string, error) {
	if len(names) == 0 {
		for _, p := range Programs() {
			names = append(names, p.Name)
		}
	}
	if err := os.MkdirAll(into, 0o755); err != nil {
		return nil, err
	}
	made := map[string]string{}
	for _, name := range names {
		p, err := Named(name)
		if err != nil {
			return nil, err
		}
		if made[name], err = p.Make(ctx, root, into, say); err != nil {
			return nil, err
		}
	}
	return made, nil
}

// digestOf gives the SHA-256 of a file, in hex.
func digestOf(path string) (string, error) {
	in, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer in.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, in); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
