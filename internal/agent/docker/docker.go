// Package docker is the engine that runs a slot's services as containers of a Docker Engine, from API 1.41 up.
//
// Words: a plan is all that decides how one replica of a service runs; its hash is a label of the container, so that
// what differs is found. Every slot has a network of its own, in which services find each other by name.
//
// Containers outlive the agent without being adopted. They have no restart policy of the Docker Engine: that would
// start them when the machine comes back, before anybody has said that this node may still serve them. This package
// starts again what ends while it watches; what ended otherwise waits for the next Up.
//
// Invariant: only containers that carry this node's label are touched, an image is present before anything stops,
// and state lies in the slot's own folders, never in a volume of the engine.
package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"

	"holdfast/internal/agent"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/problem"
)

// oldest is the API version of Docker 20.10; older engines miss parts that are used here.
const oldest = 41

// Labels of everything this engine makes.
const (
	labelNode     = "holdfast.node"
	labelInstance = "holdfast.instance"
	labelSlot     = "holdfast.slot"
	labelService  = "holdfast.service"
	labelReplica  = "holdfast.replica"
	labelPlan     = "holdfast.plan"  // hash of the plan
	labelOrder    = "holdfast.order" // place in the start order
)

// Config is what an Engine needs to know of its node.
type Config struct {
	Node    string           // name of the node
	Data    string           // data directory of the node, by which its processes are told from those of others
	Host    string           // "unix:///var/run/docker.sock"; "" = DOCKER_HOST or the usual socket
	Address string           // where published ports listen; "" = 127.0.0.1
	LogSize string           // of one log file, as Docker writes it; "" = 10m
	LogKeep int              // log files kept; 0 = 3
	Emit    func(link.Event) // service_died
	Log     *slog.Logger
}

// Engine runs services as containers. It implements agent.Engine.
type Engine struct {
	cfg    Config
	api    *client.Client
	cancel context.CancelFunc
	ended  sync.WaitGroup

	mu    sync.Mutex             // guards what stands below
	last  map[string]string      // container name -> how its last process ended
	again map[string]*again      // container name -> its starts after an end
	ends  map[string]bool        // ids of containers that end on order
	slots map[string]*sync.Mutex // one Up or Down at a time for each slot directory
}

// New reaches the Docker Engine and agrees on an API version with it.
func New(ctx context.Context, cfg Config) (*Engine, error) {
	cfg = withDefaults(cfg)
	options := []client.Opt{client.FromEnv}
	if cfg.Host != "" {
		options = append(options, client.WithHost(cfg.Host))
	}
	api, err := client.New(options...)
	if err != nil {
		return nil, fmt.Errorf("make docker client: %w", err)
	}
	if err := agree(ctx, api); err != nil {
		return nil, errors.Join(err, api.Close())
	}
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e := &Engine{cfg: cfg, api: api, cancel: cancel, last: map[string]string{}, again: map[string]*again{}, ends: map[string]bool{}, slots: map[string]*sync.Mutex{}}
	e.ended.Go(func() { e.watch(watching) })
	return e, nil
}

func withDefaults(cfg Config) Config {
	if cfg.Address == "" {
		cfg.Address = "127.0.0.1"
	}
	if cfg.LogSize == "" {
		cfg.LogSize = "10m"
	}
	if cfg.LogKeep == 0 {
		cfg.LogKeep = 3
	}
	if cfg.Emit == nil {
		cfg.Emit = func(link.Event) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return cfg
}

// agree negotiates, and refuses an engine that is too old in words of its own.
func agree(ctx context.Context, api *client.Client) error {
	ping, err := api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true})
	if err == nil {
		err = newEnough(ping.APIVersion)
	}
	if err != nil && problem.KindOf(err) == problem.Internal {
		return problem.Wrap(err, problem.Unavailable, "systemctl status docker", "docker engine at %s not reached", api.DaemonHost())
	}
	return err
}

func newEnough(version string) error {
	major, minor, _ := strings.Cut(version, ".")
	number, err := strconv.Atoi(minor)
	if major == "1" && err == nil && number < oldest {
		return problem.New(problem.Invalid, "upgrade Docker to 20.10 or newer", "docker engine speaks API %s, at least 1.%d is needed", version, oldest)
	}
	return nil
}

// Close ends the engine's listening; containers go on.
func (e *Engine) Close() error {
	e.cancel()
	e.ended.Wait()
	return e.api.Close()
}

// Check brings the spec's images to the node, and refuses one that cannot be had. It stops nothing.
func (e *Engine) Check(ctx context.Context, spec fleet.Spec) error {
	for _, service := range spec.Services {
		if err := e.bring(ctx, service); err != nil {
			return problem.Wrap(err, problem.Invalid, bringBy(service)+" on node "+e.cfg.Node,
				"instance %s, service %s: image %q not brought to node %s", spec.Instance, service.Name, service.Image, e.cfg.Node)
		}
	}
	return nil
}

func (e *Engine) bring(ctx context.Context, service fleet.Service) error {
	if service.Archive != "" {
		return e.loadArchive(ctx, service)
	}
	_, err := e.api.ImageInspect(ctx, service.Image)
	if errdefs.IsNotFound(err) {
		return e.pull(ctx, service.Image)
	}
	return err
}

// bringBy is what a person would type.
func bringBy(service fleet.Service) string {
	if from, _, ok := strings.Cut(service.Archive, "@"); ok {
		return "docker load --input " + from
	}
	return "docker pull " + service.Image
}

// pull reads the whole answer: a pull that fails half-way says so only there.
func (e *Engine) pull(ctx context.Context, image string) error {
	answer, err := e.api.ImagePull(ctx, image, client.ImagePullOptions{})
	if err != nil {
		return err
	}
	defer answer.Close()
	if err := answer.Wait(ctx); err != nil {
		return err
	}
	_, err = e.api.ImageInspect(ctx, image)
	return err
}

// Up brings the slot's services, or those named, to the spec.
func (e *Engine) Up(ctx context.Context, slot agent.Slot, only ...string) error {
	defer e.lock(slot.Dir)()
	wanted := slot.Wanted(only)
	if err := e.Check(ctx, fleet.Spec{Instance: slot.Instance, Services: wanted}); err != nil {
		return err
	}
	network, err := e.network(ctx, slot)
	if err != nil {
		return err
	}
	have, err := e.list(ctx, slot)
	if err != nil {
		return err
	}
	if err := e.removeOthers(ctx, slot, have, wanted, len(only) == 0); err != nil {
		return err
	}
	for _, service := range wanted {
		if err := e.upService(ctx, slot, network, wanted, service); err != nil {
			return err
		}
	}
	return nil
}

// removeOthers stops and removes what runs differently from the spec, dependants first, and with extras also what
// the spec no longer names.
func (e *Engine) removeOthers(ctx context.Context, slot agent.Slot, have map[string]container.Summary, wanted []fleet.Service, extras bool) error {
	keep := map[string]bool{}
	for _, service := range wanted {
		for n := 1; n <= max(1, service.Replicas); n++ {
			plan := e.plan(slot, service, n)
			if c, ok := have[plan.name]; ok && c.Labels[labelPlan] == plan.hash() {
				keep[plan.name] = true
			}
		}
	}
	var remove []container.Summary
	for name, c := range have {
		named := slices.ContainsFunc(wanted, func(s fleet.Service) bool { return s.Name == c.Labels[labelService] })
		if !keep[name] && (named || extras) {
			remove = append(remove, c)
		}
	}
	return e.remove(ctx, slot, remove)
}

func (e *Engine) upService(ctx context.Context, slot agent.Slot, network string, wanted []fleet.Service, service fleet.Service) error {
	for _, need := range service.Needs {
		other, ok := slot.Service(need.Service)
		among := slices.ContainsFunc(wanted, func(s fleet.Service) bool { return s.Name == need.Service })
		if !ok || !among || !need.Ready {
			continue
		}
		if err := slot.AwaitReady(ctx, e.Run, e.cfg.Address, other); err != nil {
			return problem.Wrap(err, problem.Unavailable, "docker logs "+e.name(slot, other.Name, 1),
				"instance %s: %s was not started, as %s did not become ready", slot.Instance, service.Name, other.Name)
		}
	}
	for n := 1; n <= max(1, service.Replicas); n++ {
		if err := e.start(ctx, e.plan(slot, service, n), network); err != nil {
			return fmt.Errorf("start %s of instance %s: %w", service.Name, slot.Instance, err)
		}
	}
	return nil
}

// start makes the plan's container unless it is there, and starts it unless it runs. An agent that ended in between
// finds it by its name.
func (e *Engine) start(ctx context.Context, plan plan, network string) error {
	found, err := e.api.ContainerInspect(ctx, plan.name, client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) {
		_, err = e.api.ContainerCreate(ctx, plan.create(network, e.cfg))
	} else if err == nil && found.Container.State != nil && found.Container.State.Running {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = e.api.ContainerStart(ctx, plan.name, client.ContainerStartOptions{})
	return err
}

// Down stops and removes the slot's containers, or those named, dependants first. The data stays.
func (e *Engine) Down(ctx context.Context, slot agent.Slot, only ...string) error {
	defer e.lock(slot.Dir)()
	have, err := e.list(ctx, slot)
	if err != nil {
		return err
	}
	var remove []container.Summary
	for _, c := range have {
		if len(only) == 0 || slices.Contains(only, c.Labels[labelService]) {
			remove = append(remove, c)
		}
	}
	if err := e.remove(ctx, slot, remove); err != nil {
		return err
	}
	if len(only) > 0 {
		return nil
	}
	if err := e.removeNetwork(ctx, slot); err != nil {
		return fmt.Errorf("remove network of instance %s: %w", slot.Instance, err)
	}
	return nil
}

// removeNetwork removes the slot's network, and the commands that run beside services in it: a probe may have begun one
// a moment ago.
func (e *Engine) removeNetwork(ctx context.Context, slot agent.Slot) error {
	for tries := 0; ; tries++ {
		if err := e.dropBeside(ctx, slot); err != nil {
			return err
		}
		_, err := e.api.NetworkRemove(ctx, e.networkName(slot), client.NetworkRemoveOptions{})
		if err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		if !errdefs.IsPermissionDenied(err) || tries == 20 { // it is refused while something is in it
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// dropBeside ends the commands that run beside services of the slot.
func (e *Engine) dropBeside(ctx context.Context, slot agent.Slot) error {
	found, err := e.api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: e.filters(slot)})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	for _, c := range found.Items {
		if c.Labels[labelService] == "" {
			e.drop(ctx, c.ID)
		}
	}
	return nil
}

// remove stops containers, the last in start order first, each within its own grace.
func (e *Engine) remove(ctx context.Context, slot agent.Slot, containers []container.Summary) error {
	slices.SortFunc(containers, func(a, b container.Summary) int {
		return strings.Compare(b.Labels[labelOrder]+b.Labels[labelReplica], a.Labels[labelOrder]+a.Labels[labelReplica])
	})
	for _, c := range containers {
		e.order(c.ID)
		_, err := e.api.ContainerStop(ctx, c.ID, client.ContainerStopOptions{})
		if err == nil || errdefs.IsNotFound(err) {
			_, err = e.api.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("stop %s of instance %s: %w", c.Labels[labelService], slot.Instance, err)
		}
		e.forget(c)
	}
	return nil
}

// list gives the slot's containers, also those that do not run, by name.
func (e *Engine) list(ctx context.Context, slot agent.Slot) (map[string]container.Summary, error) {
	found, err := e.api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: e.filters(slot)})
	if err != nil {
		return nil, fmt.Errorf("list containers of instance %s: %w", slot.Instance, err)
	}
	have := map[string]container.Summary{}
	for _, c := range found.Items {
		if c.Labels[labelService] != "" { // not a command that runs beside a service
			have[strings.TrimPrefix(c.Names[0], "/")] = c
		}
	}
	return have, nil
}

func (e *Engine) filters(slot agent.Slot) client.Filters {
	filters := make(client.Filters)
	for name, value := range e.labels(slot) {
		filters.Add("label", name+"="+value)
	}
	return filters
}

func (e *Engine) labels(slot agent.Slot) map[string]string {
	return map[string]string{labelNode: e.cfg.Node, labelInstance: slot.Instance, labelSlot: slot.Name}
}

// network makes the slot's network unless it is there.
func (e *Engine) network(ctx context.Context, slot agent.Slot) (string, error) {
	name := e.networkName(slot)
	found, err := e.api.NetworkList(ctx, client.NetworkListOptions{Filters: e.filters(slot)})
	if err != nil {
		return "", fmt.Errorf("list networks: %w", err)
	}
	if len(found.Items) > 0 {
		return name, nil
	}
	_, err = e.api.NetworkCreate(ctx, name, client.NetworkCreateOptions{Driver: "bridge", Labels: e.labels(slot)})
	if err != nil {
		return "", problem.Wrap(err, problem.Unavailable, `give docker more networks: "default-address-pools" in /etc/docker/daemon.json`,
			"instance %s: network for slot %s not made", slot.Instance, slot.Name)
	}
	return name, nil
}

func (e *Engine) networkName(slot agent.Slot) string {
	return strings.Join([]string{"holdfast", e.cfg.Node, slot.Instance, slot.Name}, "-")
}

func (e *Engine) name(slot agent.Slot, service string, n int) string {
	return e.networkName(slot) + "-" + service + "-" + strconv.Itoa(n)
}

// Status tells what runs.
func (e *Engine) Status(ctx context.Context, slot agent.Slot) ([]fleet.ServiceFacts, error) {
	all := make([]fleet.ServiceFacts, len(slot.Spec.Services))
	group, ctx := errgroup.WithContext(ctx) // together: Docker 20.10 takes a second to tell the memory of one container
	for i, service := range slot.Spec.Services {
		group.Go(func() (err error) {
			all[i], err = e.statusOf(ctx, slot, service)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return all, nil
}

func (e *Engine) statusOf(ctx context.Context, slot agent.Slot, service fleet.Service) (fleet.ServiceFacts, error) {
	facts := fleet.ServiceFacts{Name: service.Name, Wanted: max(1, service.Replicas)}
	words := map[string]bool{}
	for n := 1; n <= facts.Wanted; n++ {
		found, err := e.api.ContainerInspect(ctx, e.name(slot, service.Name, n), client.ContainerInspectOptions{})
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return facts, fmt.Errorf("look at %s of instance %s: %w", service.Name, slot.Instance, err)
		}
		e.add(ctx, &facts, found.Container, words)
	}
	facts.Ready = facts.Running == facts.Wanted
	for n := 1; n <= facts.Wanted && facts.Ready; n++ {
		if err := slot.Ask(ctx, e.Run, e.cfg.Address, service, n, service.Readiness); err != nil {
			facts.Ready = false
			words["not ready: "+err.Error()] = true
		}
	}
	facts.Note = strings.Join(slices.Sorted(maps.Keys(words)), "; ")
	return facts, nil
}

func (e *Engine) add(ctx context.Context, facts *fleet.ServiceFacts, c container.InspectResponse, words map[string]bool) {
	e.mu.Lock()
	if again := e.again[strings.TrimPrefix(c.Name, "/")]; again != nil {
		facts.Restarts += again.times
	}
	if last := e.last[strings.TrimPrefix(c.Name, "/")]; last != "" {
		words[last] = true
	}
	e.mu.Unlock()
	if c.State == nil || !c.State.Running || c.State.Restarting {
		if c.State != nil {
			words[ending(strconv.Itoa(c.State.ExitCode), c.State.OOMKilled)] = true
		}
		return
	}
	facts.Running++
	facts.MemoryMB += e.memoryMB(ctx, c.ID)
	if since, err := time.Parse(time.RFC3339Nano, c.State.StartedAt); err == nil && since.After(facts.Since) {
		facts.Since = since
	}
}

func ending(code string, outOfMemory bool) string {
	if outOfMemory {
		return "killed: used more memory than it may"
	}
	return "ended with exit code " + code
}

// lock serialises changes of one slot and gives the unlock.
func (e *Engine) lock(dir string) func() {
	e.mu.Lock()
	slot, ok := e.slots[dir]
	if !ok {
		slot = &sync.Mutex{}
		e.slots[dir] = slot
	}
	e.mu.Unlock()
	slot.Lock()
	return slot.Unlock
}
