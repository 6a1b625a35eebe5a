package docker

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"holdfast/internal/agent"
	"holdfast/internal/fleet"
)

// plan is all that decides how one replica of a service runs; two equal plans need no restart.
type plan struct {
	Image    string
	Archive  string `json:",omitempty"` // another archive is another image, though it has the same name
	Command  []string
	Env      []string       // sorted
	Binds    []string       // sorted
	Ports    map[string]int // "8080/tcp" -> published port
	MemoryMB int64
	CPUs     float64
	Grace    time.Duration

	name    string
	service string
	labels  map[string]string
	mark    string // entry of the environment that says whose process it is; see agent.Mark
}

// plan turns replica n of a service into a plan.
func (e *Engine) plan(slot agent.Slot, service fleet.Service, n int) plan {
	p := plan{
		Image: service.Image, Archive: service.Archive, Command: service.Command, MemoryMB: service.MemoryMB, CPUs: service.CPUs,
		Grace: cmp.Or(service.StopGrace, 10*time.Second), Ports: map[string]int{},
		name: e.name(slot, service.Name, n), service: service.Name, labels: e.labels(slot),
		mark: agent.Mark(e.cfg.Node, e.cfg.Data),
	}
	p.Env = e.environment(slot, service, n)
	for _, mount := range service.Mounts {
		p.Binds = append(p.Binds, slot.States[mount.State]+":"+mount.Path)
	}
	slices.Sort(p.Binds)
	for _, port := range service.Ports {
		p.Ports[strconv.Itoa(port.Internal)+"/tcp"] = slot.Ports[agent.PortKey(service.Name, port.Name, n)]
	}
	at := slices.IndexFunc(slot.Spec.Services, func(s fleet.Service) bool { return s.Name == service.Name })
	p.labels[labelService], p.labels[labelReplica], p.labels[labelOrder] = service.Name, strconv.Itoa(n), fmt.Sprintf("%04d", at)
	return p
}

func (e *Engine) environment(slot agent.Slot, service fleet.Service, n int) []string {
	all := map[string]string{
		"HOLDFAST_NODE": e.cfg.Node, "HOLDFAST_INSTANCE": slot.Instance, "HOLDFAST_SLOT": slot.Name,
		"HOLDFAST_SERVICE": service.Name, "HOLDFAST_REPLICA": strconv.Itoa(n),
	}
	maps.Copy(all, service.Env)
	var env []string
	for name, value := range all {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}

func (p plan) hash() string {
	text, err := json.Marshal(p)
	if err != nil {
		panic(err) // a plan holds only texts and numbers
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// create is the request that makes the container. A port must be exposed and bound: the engine publishes nothing,
// silently, for one that is only bound.
func (p plan) create(networkName string, cfg Config) client.ContainerCreateOptions {
	labels := maps.Clone(p.labels)
	labels[labelPlan] = p.hash()
	grace := int(max(1, p.Grace.Round(time.Second)/time.Second))
	exposed, bound := network.PortSet{}, network.PortMap{}
	for internal, published := range p.Ports {
		port := network.MustParsePort(internal)
		exposed[port] = struct{}{}
		bound[port] = []network.PortBinding{{HostIP: parseAddress(cfg.Address), HostPort: strconv.Itoa(published)}}
	}
	return client.ContainerCreateOptions{
		Name: p.name,
		Config: &container.Config{
			Image: p.Image, Cmd: p.Command, Env: agent.WithMark(p.Env, p.mark), Labels: labels, ExposedPorts: exposed, StopTimeout: &grace,
		},
		HostConfig: &container.HostConfig{
			Binds: p.Binds, PortBindings: bound, NetworkMode: container.NetworkMode(networkName),
			RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled}, // see the package comment
			LogConfig: container.LogConfig{Type: "json-file", Config: map[string]string{
				"max-size": cfg.LogSize, "max-file": strconv.Itoa(cfg.LogKeep),
			}},
			Resources: p.resources(),
		},
		NetworkingConfig: p.networking(networkName),
	}
}

// beside is a container that runs one command where the service would see its files; its output is a stream of data
// and goes through no log.
func (p plan) beside(networkName string, args []string, withInput bool) client.ContainerCreateOptions {
	labels := maps.Clone(p.labels)
	delete(labels, labelService)
	return client.ContainerCreateOptions{
		Config: &container.Config{
			Image: p.Image, Entrypoint: args[:1], Cmd: args[1:], Env: agent.WithMark(p.Env, p.mark), Labels: labels,
			AttachStdin: withInput, OpenStdin: withInput, StdinOnce: withInput, AttachStdout: true, AttachStderr: true,
		},
		HostConfig: &container.HostConfig{
			Binds: p.Binds, NetworkMode: container.NetworkMode(networkName), LogConfig: container.LogConfig{Type: "none"}, Resources: p.resources(),
		},
		NetworkingConfig: &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{networkName: {}}},
	}
}

func (p plan) resources() container.Resources {
	return container.Resources{Memory: p.MemoryMB << 20, NanoCPUs: int64(p.CPUs * 1e9)}
}

func (p plan) networking(name string) *network.NetworkingConfig {
	return &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{name: {Aliases: []string{p.service}}}}
}

// parseAddress gives the zero address, which means every one, for a text that is none.
func parseAddress(text string) netip.Addr {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}
	}
	return addr
}
