package edge

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"holdfast/internal/link"
)

// route is one link.Route in service.
type route struct {
	link.Route
	endpoints []*endpoint
	counts    *counts // live as long as the instance has a route
}

// table is every route by host. It is built whole and never changed.
type table struct {
	routes []*route // by instance
	exact  map[string]*route
	wild   map[string]*route // "*.example.com" under "example.com"
	notes  []string          // what was left out, and why
}

// find gives the route for a request's Host, nil when nobody claims it. An exact name wins over a wildcard.
func (t *table) find(host string) *route {
	name := hostName(host)
	if r, ok := t.exact[name]; ok {
		return r
	}
	if _, parent, ok := strings.Cut(name, "."); ok {
		return t.wild[parent]
	}
	return nil
}

// hosts lists every exact name, sorted.
func (t *table) hosts() []string {
	names := make([]string, 0, len(t.exact))
	for name := range t.exact {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// hostName takes the port and the final dot off a Host header and lowers its letters.
func hostName(host string) string {
	if end := strings.IndexByte(host, ']'); end > 0 && host[0] == '[' {
		host = host[1:end]
	} else if i := strings.IndexByte(host, ':'); i >= 0 && i == strings.LastIndexByte(host, ':') {
		host = host[:i]
	}
	host = strings.TrimSuffix(host, ".")
	for i := range len(host) {
		if c := host[i]; 'A' <= c && c <= 'Z' {
			return strings.ToLower(host)
		}
	}
	return host
}

// clean is one route with what can be served of it, decided without touching anything.
type clean struct {
	link.Route
	exact []string
	wild  []string // without "*."
}

// sift decides what of the routes is served: the fault of one customer's route stays with that route. Of two routes
// for an instance the higher epoch wins; a host that two instances claim stays with the first by name; an endpoint
// that is no host:port is left out. floor gives the epoch an instance is served at now: nothing older replaces it.
func sift(routes []link.Route, floor func(instance string) int64) (kept []clean, notes []string) {
	ordered := slices.Clone(routes)
	slices.SortStableFunc(ordered, func(a, b link.Route) int {
		return cmp.Or(strings.Compare(a.Instance, b.Instance), cmp.Compare(b.Epoch, a.Epoch))
	})
	taken := map[string]string{}
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	for i, r := range ordered {
		switch {
		case r.Instance == "":
			note("a route without an instance (hosts %s) is left out", strings.Join(r.Hosts, ", "))
			continue
		case i > 0 && ordered[i-1].Instance == r.Instance:
			note("route of %s at epoch %d is left out: epoch %d is newer", r.Instance, r.Epoch, ordered[i-1].Epoch)
			continue
		case r.Epoch < floor(r.Instance):
			note("route of %s at epoch %d is left out: epoch %d is served already", r.Instance, r.Epoch, floor(r.Instance))
			continue
		}
		kept = append(kept, siftOne(r, taken, note))
	}
	return kept, notes
}

func siftOne(r link.Route, taken map[string]string, note func(string, ...any)) clean {
	c := clean{Route: r}
	for _, host := range r.Hosts {
		host = strings.ToLower(strings.TrimSuffix(host, "."))
		name, wild := strings.CutPrefix(host, "*.")
		switch owner, claimed := taken[host]; {
		case !validHost(name):
			note("host %q of %s is left out: it is no DNS name or address", host, r.Instance)
		case claimed && owner != r.Instance:
			note("host %s of %s is left out: %s has it", host, r.Instance, owner)
		case claimed:
		case wild:
			taken[host] = r.Instance
			c.wild = append(c.wild, name)
		default:
			taken[host] = r.Instance
			c.exact = append(c.exact, name)
		}
	}
	c.Endpoints = nil
	for _, address := range r.Endpoints {
		if !validEndpoint(address) {
			note("endpoint %q of %s is left out: it is no host:port", address, r.Instance)
		} else if !slices.Contains(c.Endpoints, address) {
			c.Endpoints = append(c.Endpoints, address)
		}
	}
	return c
}

func validHost(name string) bool {
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if !validLabel(label) {
			return false
		}
	}
	return true
}

func validLabel(label string) bool {
	if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	for _, c := range []byte(label) {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

func validEndpoint(address string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil || !validHost(strings.ToLower(host)) {
		return false
	}
	number, err := strconv.ParseUint(port, 10, 16)
	return err == nil && number > 0
}

// directory holds the table in service and what outlives one table: endpoints with their health, and counts.
type directory struct {
	mu        sync.Mutex
	endpoints map[endpointKey]*endpoint
	counts    map[string]*counts
}

type endpointKey struct{ instance, address, health string }

// build makes the next table. Endpoints that stay keep their health; begin is called for each new one, and the ones
// that are gone are returned so that they can be drained.
func (d *directory) build(now *table, routes []link.Route, begin func(*endpoint)) (next *table, gone []*endpoint) {
	kept, notes := sift(routes, now.epochOf)
	next = &table{exact: map[string]*route{}, wild: map[string]*route{}, notes: notes}
	d.mu.Lock()
	defer d.mu.Unlock()
	endpoints, tallies := map[endpointKey]*endpoint{}, map[string]*counts{}
	for _, c := range kept {
		r := &route{Route: c.Route, counts: d.countsOf(c.Instance, c.Epoch)}
		tallies[c.Instance] = r.counts
		for _, address := range c.Endpoints {
			e := d.endpointOf(c, address, begin)
			endpoints[e.key] = e
			r.endpoints = append(r.endpoints, e)
		}
		next.add(r, c)
	}
	for key, e := range d.endpoints {
		if endpoints[key] == nil {
			gone = append(gone, e)
		}
	}
	d.endpoints, d.counts = endpoints, tallies
	return next, gone
}

func (t *table) add(r *route, c clean) {
	t.routes = append(t.routes, r)
	for _, name := range c.exact {
		t.exact[name] = r
	}
	for _, name := range c.wild {
		t.wild[name] = r
	}
}

// epochOf is the epoch an instance is served at now, 0 when it is not.
func (t *table) epochOf(instance string) int64 {
	i, ok := slices.BinarySearchFunc(t.routes, instance, func(r *route, name string) int { return strings.Compare(r.Instance, name) })
	if !ok {
		return 0
	}
	return t.routes[i].Epoch
}

func (d *directory) countsOf(instance string, epoch int64) *counts {
	c := d.counts[instance]
	if c == nil {
		c = &counts{}
	}
	c.enter(epoch)
	return c
}

func (d *directory) endpointOf(c clean, address string, begin func(*endpoint)) *endpoint {
	key := endpointKey{c.Instance, address, c.Health}
	if e := d.endpoints[key]; e != nil {
		return e
	}
	e := newEndpoint(key, c.Route)
	begin(e)
	return e
}
