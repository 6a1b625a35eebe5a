package fleet

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
)

// Render gives the Spec of an instance. It is pure: the same fleet gives the same bytes.
func Render(f *Fleet, instance string) (Spec, error) {
	i, ok := f.Instances[instance]
	if !ok {
		return Spec{}, f.noInstance(instance)
	}
	r := rendering{fleet: f, instance: i, product: f.Products[i.Product], release: f.Releases[i.Release], values: f.effective(i)}
	spec, err := r.spec()
	if err != nil {
		return Spec{}, fmt.Errorf("render instance %s: %w", instance, err)
	}
	spec.Fingerprint, err = fingerprint(spec)
	return spec, err
}

// fingerprint is over all of a spec but itself.
func fingerprint(spec Spec) (string, error) {
	spec.Fingerprint = ""
	data, err := json.Marshal(spec)
	if err != nil {
		return "", fmt.Errorf("fingerprint instance %s: %w", spec.Instance, err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

// rendering holds what one instance is rendered from, and nothing of another.
type rendering struct {
	fleet    *Fleet
	instance Instance
	product  Product
	release  Release
	values   map[string]Value
}

func (r rendering) spec() (Spec, error) {
	spec := Spec{
		Instance:   r.instance.Name,
		Product:    r.instance.Product,
		Release:    r.instance.Release,
		State:      r.state(),
		Secrets:    r.secrets(),
		Invariants: r.invariants(),
		Hooks:      r.hooks(),
		Values:     r.plainValues(),
		Hosts:      r.fleet.hosts(r.instance),
	}
	var err error
	if spec.Services, err = r.services(); err != nil {
		return Spec{}, err
	}
	if spec.Backup, err = policy(r.values); err != nil {
		return Spec{}, err
	}
	for _, file := range r.instance.Backup.Recipients {
		spec.Backup.Recipients = append(spec.Backup.Recipients, r.fleet.keys[path.Clean(file)])
	}
	return spec, r.resolve(&spec)
}

// services are the product's, pinned by the release, with the limits of this instance, in start order.
func (r rendering) services() ([]Service, error) {
	var all []Service
	for _, name := range startOrder(r.product.stack.services) {
		s := pin(r.product.stack.services[name], r.release.Services[name])
		l, err := parseLimits(name, r.values)
		if err != nil {
			return nil, fmt.Errorf("set limits of %s: %w", name, err)
		}
		s.Replicas, s.MemoryMB, s.CPUs = l.replicas, l.memoryMB, l.cpus
		all = append(all, s)
	}
	return all, nil
}

// pin lays what a release says of a service over what the product says.
func pin(s Service, c Component) Service {
	if c.Image != "" || c.Archive != "" { // another image is in another archive, or in none
		s.Image, s.Archive = otherwise(c.Image, s.Image), c.Archive
	}
	if c.Artifact != "" {
		s.Artifact, s.Digest = c.Artifact, c.Digest
	}
	s.Digest = otherwise(c.Digest, s.Digest)
	return s
}

// startOrder puts dependencies first; among those that may start, by name. Services in a circle are left out.
func startOrder(services map[string]Service) []string {
	var order []string
	for len(order) < len(services) {
		before := len(order)
		for _, name := range slices.Sorted(maps.Keys(services)) {
			if !slices.Contains(order, name) && met(services[name], order) {
				order = append(order, name)
				break
			}
		}
		if len(order) == before {
			break
		}
	}
	return order
}

func met(s Service, started []string) bool {
	return !slices.ContainsFunc(s.Needs, func(n Need) bool { return !slices.Contains(started, n.Service) })
}

// state gives each state its commands.
func (r rendering) state() []State {
	var all []State
	for _, name := range slices.Sorted(maps.Keys(r.product.Holdfast.State)) {
		keys := r.product.Holdfast.State[name]
		s := State{Name: name, Kind: keys.Kind, Service: keys.Service, File: keys.File}
		if dump, load, ok := (database{keys, r.firstPort(keys.Service)}).preset(); ok {
			s.Dump, s.Load = keys.command(keys.Dump, dump), keys.command(keys.Load, load)
		}
		all = append(all, s)
	}
	return all
}

func (r rendering) firstPort(service string) string {
	ports := r.product.stack.services[service].Ports
	if len(ports) == 0 {
		return ""
	}
	return ports[0].Name
}

// command runs args in the service of the state, or where the product says.
func (s StateKeys) command(given *CommandKeys, args []string) Command {
	c := Command{Service: s.Service, Args: args, Timeout: tenMinutes}
	if given != nil {
		c.Service, c.Timeout = otherwise(given.Service, s.Service), otherwise(given.Timeout, tenMinutes)
	}
	return c
}

func (c CommandKeys) command() Command {
	return Command{Service: c.Service, Args: c.Args, Timeout: otherwise(c.Timeout, tenMinutes)}
}

// secrets names the secrets and the version wanted, never a value.
func (r rendering) secrets() []SecretRef {
	var all []SecretRef
	for _, name := range slices.Sorted(maps.Keys(r.product.Holdfast.Secrets)) {
		s := r.product.Holdfast.Secrets[name]
		version := max(otherwise(s.Version, 1), r.instance.Secrets[name])
		all = append(all, SecretRef{Name: name, Version: version, Length: otherwise(s.Length, 32)})
	}
	return all
}

func (r rendering) invariants() []Invariant {
	var all []Invariant
	for _, name := range slices.Sorted(maps.Keys(r.product.Holdfast.Invariants)) {
		keys := r.product.Holdfast.Invariants[name]
		i := Invariant{Name: name, Service: keys.Service, HTTP: keys.HTTP, Expect: keys.Expect}
		if keys.Command != nil {
			i.Command = keys.Command.command()
			i.Command.Service = otherwise(i.Command.Service, keys.Service)
		}
		all = append(all, i)
	}
	return all
}

// The names of the hooks in a Spec.
const (
	HookAfterRestore = "after_restore"
	HookNeutralise   = "neutralise"
)

func (r rendering) hooks() map[string]Command {
	all := map[string]Command{}
	for name, keys := range r.product.Holdfast.Hooks.byName() {
		all[name] = keys.command()
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// byName gives the hooks that are there.
func (h Hooks) byName() map[string]*CommandKeys {
	all := map[string]*CommandKeys{HookAfterRestore: h.AfterRestore, HookNeutralise: h.Neutralise}
	maps.DeleteFunc(all, func(_ string, keys *CommandKeys) bool { return keys == nil })
	return all
}

// plainValues are the values of the product, without limits and backup settings.
func (r rendering) plainValues() map[string]string {
	all := map[string]string{}
	for name := range r.product.Holdfast.Values {
		all[name] = r.values[name].Text
	}
	return all
}

// hosts are the names the edge answers for: those of the instance, then INSTANCE.DOMAIN.
func (f *Fleet) hosts(i Instance) []string {
	hosts := slices.Clone(i.Hosts)
	if domain := otherwise(i.Domain, f.Sites[i.Placement.Site].Domain); domain != "" {
		hosts = append(hosts, i.Name+"."+domain)
	}
	return slices.Compact(hosts)
}

// resolve replaces what is known before a node is: values, and what the instance is called.
func (r rendering) resolve(spec *Spec) error {
	return eachText(spec, func(_ []string, text string) (string, error) {
		return resolveKnown(text, func(reference Reference) (string, error) { return r.lookup(*spec, reference) })
	})
}

func (r rendering) lookup(spec Spec, reference Reference) (string, error) {
	if reference.Kind == "value" {
		value, declared := r.values[reference.Name]
		if !declared || !value.Given {
			return "", fmt.Errorf("value %s is not given", reference.Name)
		}
		return value.Text, nil
	}
	facts := map[string]string{"name": spec.Instance, "release": spec.Release, "site": r.instance.Placement.Site}
	if len(spec.Hosts) > 0 {
		facts["host"] = spec.Hosts[0]
	}
	fact, ok := facts[reference.Name]
	if !ok {
		return "", fmt.Errorf("instance has no %s", reference.Name)
	}
	return fact, nil
}
