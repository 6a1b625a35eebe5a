package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// stack is the services of a product as a node runs them, except that their texts still hold references to values.
type stack struct {
	services map[string]Service
	given    map[string]string // what Compose says of SERVICE.replicas, SERVICE.memory and SERVICE.cpus
}

// compose reads the services of a product with compose-go and notes what Holdfast cannot run.
func (r *reader) compose(p Product) stack {
	s := stack{services: map[string]Service{}, given: map[string]string{}}
	project, err := loader.LoadWithContext(context.Background(), types.ConfigDetails{
		WorkingDir:  "/",
		ConfigFiles: []types.ConfigFile{{Filename: p.File, Config: composeFile(p)}},
	}, asWritten(p.Name))
	if err != nil {
		path, text := composeWords(err)
		r.wrong(p.Origin, path, "write it as the Compose specification says", "%s", text)
		return s
	}
	for _, name := range slices.Sorted(maps.Keys(project.Services)) {
		c := composed{reader: r, product: p, config: project.Services[name], path: []string{"services", name}}
		s.services[name] = c.service()
		maps.Copy(s.given, c.limits())
	}
	return s
}

// asWritten turns off what compose-go does for one machine: its environment, its files, its default network.
func asWritten(name string) func(*loader.Options) {
	return func(o *loader.Options) {
		o.SkipInterpolation, o.SkipNormalization, o.SkipConsistencyCheck = true, true, true
		o.SkipInclude, o.SkipExtends = true, true
		o.SkipResolveEnvironment, o.SkipResolveLabels = true, true
		o.SkipValidation = true // the schema has passed already, with line numbers
		o.SetProjectName(name, true)
	}
}

// composeFile is the product as compose-go reads it: without our own keys, numbers as Go numbers.
func composeFile(p Product) map[string]any {
	services := map[string]any{}
	for name, keys := range p.Services {
		service := map[string]any{}
		for key, value := range keys {
			if key == "environment" {
				service[key] = native(value, true)
			} else if key != "x-holdfast" {
				service[key] = native(value, false)
			}
		}
		services[name] = service
	}
	file := map[string]any{"services": services}
	if len(p.Volumes) > 0 {
		file["volumes"] = native(p.Volumes, false)
	}
	return file
}

// native turns json.Number into Go numbers, or keeps it as it was written where a number is a text in the end.
func native(value any, asText bool) any {
	switch value := value.(type) {
	case map[string]any:
		out := make(map[string]any, len(value))
		for key, below := range value {
			out[key] = native(below, asText)
		}
		return out
	case []any:
		out := make([]any, len(value))
		for i, below := range value {
			out[i] = native(below, asText)
		}
		return out
	case json.Number:
		return number(value, asText)
	}
	return value
}

func number(value json.Number, asText bool) any {
	if asText {
		return value.String()
	}
	if whole, err := strconv.Atoi(value.String()); err == nil {
		return whole
	}
	float, err := value.Float64()
	if err != nil {
		return value.String()
	}
	return float
}

var composePath = regexp.MustCompile(`'(services\[[^']+)' *`)

// composeWords finds the place in what compose-go says, and shortens it: decoding errors come in several lines.
func composeWords(err error) (path []string, text string) {
	text = strings.Join(strings.Fields(err.Error()), " ")
	text = strings.TrimPrefix(text, "decoding failed due to the following error(s): ")
	match := composePath.FindStringSubmatch(text)
	if match == nil {
		return []string{"services"}, text
	}
	path = strings.FieldsFunc(match[1], func(r rune) bool { return strings.ContainsRune("[].", r) })
	return path, strings.Replace(text, match[0], dotted(path)+": ", 1)
}

// composed turns one Compose service into ours.
type composed struct {
	reader  *reader
	product Product
	config  types.ServiceConfig
	path    []string
}

// wrong notes something at a place below the service.
func (c composed) wrong(below []string, hint, format string, args ...any) {
	path := append(slices.Clone(c.path), below...)
	c.reader.wrong(c.product.Origin, path, hint, dotted(path)+" "+format, args...)
}

func (c composed) service() Service {
	keys := c.keys()
	s := Service{
		Name:      c.config.Name,
		Image:     c.config.Image,
		Archive:   keys.Archive,
		Artifact:  keys.Artifact,
		Digest:    keys.Digest,
		Command:   c.config.Command,
		Env:       c.environment(),
		Ports:     c.ports(keys),
		Needs:     c.needs(),
		Mounts:    c.mounts(),
		Liveness:  c.probe("liveness", keys.Liveness, 10*time.Second, 0),
		Replicas:  1,
		StopGrace: 10 * time.Second,
	}
	s.Readiness = c.readiness(keys)
	if c.config.StopGracePeriod != nil {
		s.StopGrace = time.Duration(*c.config.StopGracePeriod)
	}
	if c.config.Restart == "no" {
		c.wrong([]string{"restart"}, "remove it: a service that ends is started again", "cannot be %q", "no")
	}
	s.Writes = c.writes(keys, s)
	return s
}

// keys reads x-holdfast; the schema has passed it.
func (c composed) keys() ServiceKeys {
	var keys ServiceKeys
	below, _ := c.product.Services[c.config.Name]["x-holdfast"].(map[string]any)
	if err := decode(below, &keys); err != nil {
		c.wrong([]string{"x-holdfast"}, "holdfast schema Product shows the form", "%s", err)
	}
	return keys
}

func (c composed) writes(keys ServiceKeys, s Service) bool {
	if keys.Writes != nil {
		return *keys.Writes
	}
	return keys.Edge != "" || len(s.Mounts) > 0
}

// environment refuses what would be taken from the environment of whoever runs Holdfast.
func (c composed) environment() map[string]string {
	env := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.config.Environment)) {
		value := c.config.Environment[name]
		if value == nil {
			c.wrong([]string{"environment", name}, "write a value, or a reference such as ${value:"+strings.ToLower(name)+"}",
				"has no value, and no environment is read")
			continue
		}
		env[name] = *value
	}
	return env
}

// ports names every port. A port without a name has its number as name.
func (c composed) ports(keys ServiceKeys) []Port {
	var ports []Port
	for i, p := range c.config.Ports {
		at := []string{"ports", strconv.Itoa(i)}
		if p.Published != "" || p.HostIP != "" {
			c.wrong(at, "write only the port of the service; the node allots the outer one and the edge finds it",
				"is published as %s: two instances on one node would collide", p.Published)
		}
		if p.Protocol != "" && p.Protocol != "tcp" {
			c.wrong(at, "remove it", "is %s: only tcp is run", p.Protocol)
		}
		ports = append(ports, Port{Name: p.Name, Internal: int(p.Target)})
	}
	for i, exposed := range c.config.Expose {
		internal, err := strconv.Atoi(exposed)
		if err != nil {
			c.wrong([]string{"expose", strconv.Itoa(i)}, "write one port number", "is %q", exposed)
		}
		ports = append(ports, Port{Internal: internal})
	}
	return c.named(ports, keys.Edge)
}

func (c composed) named(ports []Port, edge string) []Port {
	seen := map[string]bool{}
	for i := range ports {
		if ports[i].Name == "" {
			ports[i].Name = strconv.Itoa(ports[i].Internal)
		}
		ports[i].Edge = ports[i].Name == edge
		if seen[ports[i].Name] {
			c.wrong([]string{"ports"}, "give each its own `name:`", "has two ports named %q", ports[i].Name)
		}
		seen[ports[i].Name] = true
	}
	if edge != "" && !seen[edge] {
		c.wrong([]string{"x-holdfast", "edge"}, meant(edge, slices.Collect(maps.Keys(seen))), "names port %q, which the service has not", edge)
	}
	return ports
}

// needs reads depends_on.
func (c composed) needs() []Need {
	var needs []Need
	for _, name := range slices.Sorted(maps.Keys(c.config.DependsOn)) {
		at := []string{"depends_on", name}
		if _, ok := c.product.Services[name]; !ok {
			c.wrong(at, meant(name, slices.Collect(maps.Keys(c.product.Services))), "is not a service of the product")
			continue
		}
		condition := c.config.DependsOn[name].Condition
		if condition == types.ServiceConditionCompletedSuccessfully {
			c.wrong(at, "write service_started or service_healthy; let the service itself do at its start what must be done first",
				"waits for %s, which is not run", condition)
		}
		needs = append(needs, Need{Service: name, Ready: condition == types.ServiceConditionHealthy})
	}
	return needs
}

// mounts reads volumes: only named volumes that are a state.
func (c composed) mounts() []Mount {
	var mounts []Mount
	for i, v := range c.config.Volumes {
		at := []string{"volumes", strconv.Itoa(i)}
		switch {
		case v.Type != types.VolumeTypeVolume || v.Source == "":
			c.wrong(at, "use a named volume, and declare it below x-holdfast.state", "is not a named volume: what it holds would be in no backup")
		case v.ReadOnly:
			c.wrong(at, "remove it", "is read-only, which is not run")
		default:
			c.state(at, v.Source)
			mounts = append(mounts, Mount{State: v.Source, Path: v.Target})
		}
	}
	return mounts
}

// state refuses a volume that nobody said how to keep.
func (c composed) state(at []string, name string) {
	if _, ok := c.product.Holdfast.State[name]; !ok {
		c.wrong(at, fmt.Sprintf("add `%s: {kind: folder}`, or the kind of its database, below x-holdfast.state", name),
			"is volume %q, which is no state: what it holds would be in no backup", name)
	}
}

// readiness is the probe of x-holdfast, or else the Compose healthcheck.
func (c composed) readiness(keys ServiceKeys) *Probe {
	if keys.Readiness != nil {
		return c.probe("readiness", keys.Readiness, 500*time.Millisecond, time.Minute)
	}
	check := c.config.HealthCheck
	if check == nil || check.Disable || len(check.Test) < 2 {
		return nil
	}
	args := []string(check.Test[1:])
	if check.Test[0] == "CMD-SHELL" {
		args = append([]string{"/bin/sh", "-c"}, args...)
	}
	probe := Probe{Args: args, Interval: within(check.Interval, 30*time.Second), Timeout: within(check.Timeout, 30*time.Second)}
	retries := uint64(3)
	if check.Retries != nil {
		retries = *check.Retries
	}
	probe.Within = max(time.Minute, within(check.StartPeriod, 0)+time.Duration(retries)*probe.Interval) //nolint:gosec // a person wrote the number of retries
	return &probe
}

func within(d *types.Duration, otherwise time.Duration) time.Duration {
	if d == nil {
		return otherwise
	}
	return time.Duration(*d)
}

// probe fills in what a probe leaves out.
func (c composed) probe(name string, keys *ProbeKeys, interval, longest time.Duration) *Probe {
	if keys == nil {
		return nil
	}
	if count(keys.HTTP != "", keys.TCP, len(keys.Args) > 0) != 1 {
		c.wrong([]string{"x-holdfast", name}, "write `http: /path`, `tcp: true` or `args: [...]`", "must ask in exactly one way")
	}
	c.probePort(name, keys)
	return &Probe{
		HTTP: keys.HTTP, TCP: keys.TCP, Args: keys.Args, Port: keys.Port, Headers: keys.Headers,
		Interval: otherwise(keys.Interval, interval),
		Timeout:  otherwise(keys.Timeout, 2*time.Second),
		Within:   otherwise(keys.Within, longest),
	}
}

// probePort refuses a probe of a port that the service has not.
func (c composed) probePort(name string, keys *ProbeKeys) {
	if len(keys.Args) > 0 {
		return
	}
	var names []string
	for _, p := range c.config.Ports {
		names = append(names, otherwise(p.Name, strconv.Itoa(int(p.Target))))
	}
	names = append(names, c.config.Expose...)
	if len(names) == 0 || keys.Port != "" && !slices.Contains(names, keys.Port) {
		c.wrong([]string{"x-holdfast", name}, meant(keys.Port, names), "asks port %q, which the service has not", keys.Port)
	}
}

func otherwise[T comparable](value, instead T) T {
	var zero T
	if value == zero {
		return instead
	}
	return value
}

func count(all ...bool) int {
	n := 0
	for _, is := range all {
		if is {
			n++
		}
	}
	return n
}

// limits gives what Compose says of replicas, memory and CPUs, as texts; the newer place (deploy) wins.
func (c composed) limits() map[string]string {
	given := map[string]string{}
	name, config := c.config.Name, c.config
	memory, cpus := int64(config.MemLimit), config.CPUS
	if config.Scale != nil {
		given[name+".replicas"] = strconv.Itoa(*config.Scale)
	}
	if d := config.Deploy; d != nil {
		if d.Replicas != nil {
			given[name+".replicas"] = strconv.Itoa(*d.Replicas)
		}
		if l := d.Resources.Limits; l != nil {
			memory, cpus = otherwise(int64(l.MemoryBytes), memory), otherwise(float32(l.NanoCPUs), cpus)
		}
	}
	if memory > 0 {
		given[name+".memory"] = strconv.FormatInt(max(1, memory>>20), 10) + "m"
	}
	if cpus > 0 {
		given[name+".cpus"] = strconv.FormatFloat(float64(cpus), 'g', -1, 32)
	}
	return given
}
