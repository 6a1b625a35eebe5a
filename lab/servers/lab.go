package servers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/problem"
)

// Lab is a lab that was brought up.
type Lab struct {
	layout
	dir     string
	base    string
	secrets secrets
	servers []*Server
	out     io.Writer // for people: what is being done
}

// record is what is kept of a lab between two processes.
type record struct {
	Shape   Shape   `json:"shape"`
	Base    string  `json:"base"` // folder of the base that its disks were begun on
	Secrets secrets `json:"secrets"`
}

// atOnce is how many servers are booted or stopped at a time: more gain nothing on few cores.
const atOnce = 4

// Up brings a lab up, or completes the one of that name: what is there stays, servers that are off are started. It
// refuses, before it touches anything, on a machine that it would harm. What it does is told to out.
func Up(ctx context.Context, shape Shape, out io.Writer) (*Lab, error) {
	begun := time.Now()
	if err := shape.Check(); err != nil {
		return nil, err
	}
	if missing := Missing(); len(missing) > 0 {
		return nil, refusal(missing)
	}
	unlock, err := lock(ctx, filepath.Join(stateDir(), shape.Name+".lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	l, err := settle(ctx, shape, out)
	if err != nil {
		return nil, err
	}
	if err := l.raise(ctx); err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "lab %s is up after %s: %d servers in %d sites\n", l.Name, time.Since(begun).Round(100*time.Millisecond), len(l.servers), len(l.Sites))
	return l, nil
}

// settle finds the lab of that name, or room for a new one.
func settle(ctx context.Context, shape Shape, out io.Writer) (*Lab, error) {
	known, err := read(shape.Name)
	if err == nil {
		if !sameShape(known.Shape, shape) {
			return nil, problem.New(problem.Conflict, "holdfast-lab down --name "+shape.Name, "the lab was not brought up: lab %s exists in another shape", shape.Name)
		}
		known.Shape.Bin = shape.Bin
		return assemble(known, out), write(known)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if shape.Network, err = room(ctx, shape); err != nil {
		return nil, err
	}
	from, err := theRecipe()
	if err != nil {
		return nil, err
	}
	base, err := makeBase(ctx, from, out)
	if err != nil {
		return nil, err
	}
	known = record{Shape: shape, Base: base, Secrets: newSecrets()}
	return assemble(known, out), write(known)
}

// sameShape compares what cannot be changed while a lab is up. A network is only compared where one was asked for.
func sameShape(have, want Shape) bool {
	if !want.Network.IsValid() {
		want.Network = have.Network
	}
	want.Bin = have.Bin
	return reflect.DeepEqual(have, want)
}

// Open finds a lab that was brought up by any process.
func Open(name string) (*Lab, error) {
	known, err := read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, problem.New(problem.NotFound, "holdfast-lab up --name "+name, "there is no lab %s", name)
	}
	if err != nil {
		return nil, err
	}
	return assemble(known, io.Discard), nil
}

func labDir(name string) string { return filepath.Join(stateDir(), name) }

func read(name string) (record, error) {
	var known record
	path := filepath.Join(labDir(name), "lab.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		return known, err
	}
	if err := json.Unmarshal(raw, &known); err != nil {
		return known, fmt.Errorf("read %s: %w", path, err)
	}
	return known, nil
}

func write(known record) error {
	raw, err := json.MarshalIndent(known, "", "  ")
	if err != nil {
		return err
	}
	dir := labDir(known.Shape.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make folder of the lab: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, "lab.json"), raw, 0o600)
}

func assemble(known record, out io.Writer) *Lab {
	l := &Lab{layout: layout{known.Shape}, dir: labDir(known.Shape.Name), base: known.Base, secrets: known.Secrets, out: out}
	addresses := l.addresses()
	for _, site := range l.Sites {
		for _, spec := range site.Servers {
			l.servers = append(l.servers, &Server{
				Spec: spec, Site: site.Name, Address: addresses[spec.Name], lab: l, dir: filepath.Join(l.dir, "servers", spec.Name),
			})
		}
	}
	return l
}

// raise makes all that is missing.
func (l *Lab) raise(ctx context.Context) error {
	if err := l.build(ctx); err != nil {
		return err
	}
	if err := l.writeKnown(); err != nil {
		return err
	}
	if err := l.each(func(s *Server) error { return s.Start(ctx) }); err != nil {
		return err
	}
	if err := l.startServices(ctx); err != nil {
		return err
	}
	if err := l.trustIssuer(ctx); err != nil {
		return err
	}
	return l.install(ctx)
}

// each does something with every server, a few at a time, and ends when all have.
func (l *Lab) each(do func(*Server) error) error {
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, s := range l.servers {
		group.Go(func() error { return do(s) })
	}
	return group.Wait()
}

func (l *Lab) knownHosts() string { return filepath.Join(l.dir, "known_hosts") }

// Servers lists the servers of all sites, in the order of the shape.
func (l *Lab) Servers() []*Server { return l.servers }

// In lists the servers of one site.
func (l *Lab) In(site string) []*Server {
	var there []*Server
	for _, s := range l.servers {
		if s.Site == site {
			there = append(there, s)
		}
	}
	return there
}

// Server finds a server by its name.
func (l *Lab) Server(name string) (*Server, error) {
	for _, s := range l.servers {
		if s.Name == name {
			return s, nil
		}
	}
	return nil, problem.New(problem.NotFound, "holdfast-lab status --name "+l.Name, "lab %s has no server %q", l.Name, name)
}

// Host is this machine's own address in the lab: servers reach here what listens on it.
func (l *Lab) Host() netip.Addr { return l.hostAddress() }

// Down takes a lab away: processes, mounts, control groups, namespaces, links, files. It is not an error when there is
// none, and it completes what an earlier call began.
func Down(ctx context.Context, name string) error {
	if !goodLabName.MatchString(name) {
		return problem.New(problem.Usage, "holdfast-lab down --name lab", "the lab was not taken down: %q is no name of a lab", name)
	}
	if os.Geteuid() != 0 {
		return refusal([]string{"root"})
	}
	known, err := read(name)
	if errors.Is(err, fs.ErrNotExist) {
		known.Shape.Name = name // no folder, but namespaces may be left of one whose folder was removed
	} else if err != nil {
		return err
	}
	unlock, err := lock(ctx, filepath.Join(stateDir(), name+".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	return assemble(known, io.Discard).raze(ctx)
}

func (l *Lab) raze(ctx context.Context) error {
	if err := l.each(func(s *Server) error { return s.switchOff(ctx) }); err != nil {
		return err
	}
	if err := l.demolish(ctx); err != nil {
		return err
	}
	if err := removeGroup(l.group()); err != nil {
		return err
	}
	if err := os.RemoveAll(l.dir); err != nil {
		return fmt.Errorf("remove the files of lab %s: %w", l.Name, err)
	}
	return nil
}
