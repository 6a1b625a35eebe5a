package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"holdfast/internal/fleet"
	"holdfast/internal/problem"
)

// portBook remembers which port was given to which replica, so that a service keeps its port over restarts and no
// two ever share one.
type portBook struct {
	path string
	span PortRange
	seed string

	mu    sync.Mutex
	ports map[string]int // "instance/slot/service.port.replica" -> port
}

func openPortBook(path string, span PortRange, seed string) (*portBook, error) {
	b := &portBook{path: path, span: span, seed: seed, ports: map[string]int{}}
	body, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ports: %w", err)
	}
	if err := json.Unmarshal(body, &b.ports); err != nil {
		return nil, fmt.Errorf("read ports %s: %w", path, err)
	}
	return b, nil
}

// give gives every port of the spec in a slot a port of the node. Runs tells whether a service runs already; the
// port of one that does not is given anew when somebody else has taken it meanwhile.
func (b *portBook) give(spec fleet.Spec, slot string, runs func(service string) bool) (map[string]int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	given, changed := map[string]int{}, false
	for key, service := range portKeys(spec) {
		full := spec.Instance + "/" + slot + "/" + key
		port, known := b.ports[full]
		if !known || (!runs(service) && !free(port)) {
			var err error
			if port, err = b.nextLocked(full); err != nil {
				return nil, err
			}
			b.ports[full], changed = port, true
		}
		given[key] = port
	}
	if !changed {
		return given, nil
	}
	return given, writeJSON(b.path, b.ports)
}

// look gives the ports already given to a slot.
func (b *portBook) look(spec fleet.Spec, slot string) map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	given := map[string]int{}
	for key := range portKeys(spec) {
		given[key] = b.ports[spec.Instance+"/"+slot+"/"+key]
	}
	return given
}

// portKeys maps every key of Slot.Ports to its service.
func portKeys(spec fleet.Spec) map[string]string {
	keys := map[string]string{}
	for _, service := range spec.Services {
		for _, port := range service.Ports {
			for n := 1; n <= max(1, service.Replicas); n++ {
				keys[PortKey(service.Name, port.Name, n)] = service.Name
			}
		}
	}
	return keys
}

// nextLocked searches from a place that differs by node and key: nodes that share a machine rarely meet.
func (b *portBook) nextLocked(key string) (int, error) {
	taken := map[int]bool{}
	for _, port := range b.ports {
		taken[port] = true
	}
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(b.seed + "/" + key)) // a hash takes everything
	size := b.span.To - b.span.From + 1
	for i := range size {
		port := b.span.From + (int(sum.Sum32())%size+size+i)%size
		if !taken[port] && free(port) {
			return port, nil
		}
	}
	return 0, problem.New(problem.Unavailable, "give the agent a wider range of ports",
		"port for %s not given: all of %d to %d are taken", key, b.span.From, b.span.To)
}

// forget frees the ports of a slot that is gone.
func (b *portBook) forget(instance, slot string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := false
	for key := range b.ports {
		if strings.HasPrefix(key, instance+"/"+slot+"/") {
			delete(b.ports, key)
			changed = true
		}
	}
	if !changed {
		return nil
	}
	return writeJSON(b.path, b.ports)
}

// free tells whether nobody listens on the port, on any address.
func free(port int) bool {
	listener, err := net.Listen("tcp", ":"+strconv.Itoa(port))
	if err != nil {
		return false
	}
	return listener.Close() == nil
}
