package agent

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"holdfast/internal/fleet"
	"holdfast/internal/problem"
)

// reference is ${kind:name} in a text of a spec; only the node resolves these.
var reference = regexp.MustCompile(`\$\{(secret|port|host|state):([^}]*)\}`)

// escaped is a reference, or $$, which stands for $: what a value holds reaches the service as it was written.
var escaped = regexp.MustCompile(`\$\$|` + reference.String())

// PortKey names the port of one replica in Slot.Ports: "api.http" for the first, "api.http.2" for the second.
func PortKey(service, port string, replica int) string {
	if replica <= 1 {
		return service + "." + port
	}
	return service + "." + port + "." + strconv.Itoa(replica)
}

// LogDir is where the logs of the slot's services are.
func (s Slot) LogDir() string { return filepath.Join(s.Dir, "logs") }

// RunDir is where an engine keeps what it must know of running services: run/SERVICE.REPLICA.pid and the like.
func (s Slot) RunDir() string { return filepath.Join(s.Dir, "run") }

// Service finds a service of the slot by name.
func (s Slot) Service(name string) (fleet.Service, bool) {
	at := slices.IndexFunc(s.Spec.Services, func(service fleet.Service) bool { return service.Name == name })
	if at < 0 {
		return fleet.Service{}, false
	}
	return s.Spec.Services[at], true
}

// Wanted gives the slot's services in start order: all, or only those named.
func (s Slot) Wanted(only []string) []fleet.Service {
	if len(only) == 0 {
		return s.Spec.Services
	}
	var wanted []fleet.Service
	for _, service := range s.Spec.Services {
		if slices.Contains(only, service.Name) {
			wanted = append(wanted, service)
		}
	}
	return wanted
}

// Replica is the service as its n-th replica (from 1) runs it: a service with several replicas on a node without
// containers listens on a port of its own in each.
func (s Slot) Replica(service fleet.Service, n int) fleet.Service {
	if service.Replicas <= 1 {
		return service
	}
	own := func(text string) string {
		return reference.ReplaceAllStringFunc(text, func(ref string) string { return s.ownPort(ref, service, n) })
	}
	service.Command = mapTexts(service.Command, own)
	service.Env = mapValues(service.Env, own)
	return service
}

func (s Slot) ownPort(ref string, service fleet.Service, n int) string {
	parts := reference.FindStringSubmatch(ref)
	if parts[1] != "port" {
		return ref
	}
	for _, port := range service.Ports {
		if parts[2] == PortKey(service.Name, port.Name, 1) {
			return strconv.Itoa(s.Ports[PortKey(service.Name, port.Name, n)])
		}
	}
	return ref
}

// names is what the references of one spec stand for on this node.
type names struct {
	secrets   map[string]string
	ports     map[string]int    // node ports by PortKey
	states    map[string]string // folders on the node
	address   string            // where services without containers listen
	contained bool              // services live in containers: they see each other by name and state at its mount
}

// resolve replaces every reference in the texts of the spec. A reference that stands for nothing is an error that
// names the service; no secret is ever part of an error.
func resolve(spec fleet.Spec, known names) (fleet.Spec, error) {
	var firstErr error
	in := func(service fleet.Service) func(string) string {
		return func(text string) string {
			return escaped.ReplaceAllStringFunc(text, func(ref string) string {
				if ref == "$$" {
					return "$"
				}
				value, err := known.lookup(spec, service, ref)
				if err != nil && firstErr == nil {
					firstErr = err
				}
				return value
			})
		}
	}
	byName := map[string]fleet.Service{}
	resolved := spec
	resolved.Services = slices.Clone(spec.Services)
	for i, service := range spec.Services {
		byName[service.Name] = service
		resolved.Services[i] = mapService(service, in(service))
	}
	command := func(c fleet.Command, fallback string) fleet.Command {
		if c.Service == "" {
			c.Service = fallback
		}
		c.Args = mapTexts(c.Args, in(byName[c.Service]))
		return c
	}
	resolved.State = slices.Clone(spec.State)
	for i, state := range spec.State {
		resolved.State[i].Dump = command(state.Dump, state.Service)
		resolved.State[i].Load = command(state.Load, state.Service)
	}
	resolved.Invariants = slices.Clone(spec.Invariants)
	for i, invariant := range spec.Invariants {
		resolved.Invariants[i].Command = command(invariant.Command, invariant.Service)
	}
	resolved.Hooks = map[string]fleet.Command{}
	for name, hook := range spec.Hooks {
		resolved.Hooks[name] = command(hook, hook.Service)
	}
	return resolved, firstErr
}

func (k names) lookup(spec fleet.Spec, service fleet.Service, ref string) (string, error) {
	parts := reference.FindStringSubmatch(ref)
	kind, name := parts[1], parts[2]
	switch kind {
	case "secret":
		if value, ok := k.secrets[name]; ok {
			return value, nil
		}
	case "port":
		return k.port(spec, service, ref, name)
	case "host":
		return k.host(spec, ref, name)
	case "state":
		if path, ok := k.state(service, name); ok {
			return path, nil
		}
	}
	return "", unresolved(spec, service, ref)
}

func (k names) port(spec fleet.Spec, service fleet.Service, ref, name string) (string, error) {
	for _, other := range spec.Services {
		for _, port := range other.Ports {
			if PortKey(other.Name, port.Name, 1) != name {
				continue
			}
			if k.contained {
				return strconv.Itoa(port.Internal), nil
			}
			if other.Name == service.Name && service.Replicas > 1 {
				return ref, nil // each replica has its own: Slot.Replica resolves it
			}
			return strconv.Itoa(k.ports[name]), nil
		}
	}
	return "", unresolved(spec, service, ref)
}

func (k names) host(spec fleet.Spec, ref, name string) (string, error) {
	for _, service := range spec.Services {
		if service.Name == name && k.contained {
			return name, nil
		}
		if service.Name == name {
			return k.address, nil
		}
	}
	return "", unresolved(spec, fleet.Service{}, ref)
}

func (k names) state(service fleet.Service, name string) (string, bool) {
	path, ok := k.states[name]
	if !ok || !k.contained {
		return path, ok
	}
	for _, mount := range service.Mounts {
		if mount.State == name {
			return mount.Path, true
		}
	}
	return "", false
}

func unresolved(spec fleet.Spec, service fleet.Service, ref string) error {
	return problem.New(problem.Invalid, "holdfast explain instance/"+spec.Instance,
		"instance %s, service %s: %s stands for nothing on this node", spec.Instance, service.Name, ref)
}

func mapService(service fleet.Service, change func(string) string) fleet.Service {
	service.Command = mapTexts(service.Command, change)
	service.Env = mapValues(service.Env, change)
	service.Readiness = mapProbe(service.Readiness, change)
	service.Liveness = mapProbe(service.Liveness, change)
	return service
}

func mapProbe(probe *fleet.Probe, change func(string) string) *fleet.Probe {
	if probe == nil {
		return nil
	}
	changed := *probe
	changed.HTTP = change(probe.HTTP)
	changed.Args = mapTexts(probe.Args, change)
	changed.Headers = mapValues(probe.Headers, change)
	return &changed
}

func mapTexts(texts []string, change func(string) string) []string {
	var changed []string
	for _, text := range texts {
		changed = append(changed, change(text))
	}
	return changed
}

func mapValues(texts map[string]string, change func(string) string) map[string]string {
	if texts == nil {
		return nil
	}
	changed := make(map[string]string, len(texts))
	for name, text := range texts {
		changed[name] = change(text)
	}
	return changed
}

// slotName is the form of a slot's name; it becomes a folder, so nothing else is taken.
var slotName = regexp.MustCompile(`^s[0-9]{1,6}$`)

// plainName is the form of an instance's, service's or state's name where it becomes part of a path.
var plainName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

func checkNames(instance string, spec fleet.Spec) error {
	if !plainName.MatchString(instance) {
		return fmt.Errorf("instance name %q cannot be a folder", instance)
	}
	for _, service := range spec.Services {
		if !plainName.MatchString(service.Name) {
			return fmt.Errorf("service name %q cannot be a file", service.Name)
		}
	}
	for _, state := range spec.State {
		if !plainName.MatchString(state.Name) || (state.File != "" && filepath.Base(state.File) != state.File) {
			return fmt.Errorf("state %q with file %q cannot be a folder", state.Name, state.File)
		}
	}
	return nil
}
