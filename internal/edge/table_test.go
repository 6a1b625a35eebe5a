package edge

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/link"
)

func tableOf(routes ...link.Route) *table {
	var d directory
	next, _ := d.build(&table{}, routes, func(*endpoint) {})
	return next
}

func TestFindHost(t *testing.T) {
	table := tableOf(
		link.Route{Instance: "acme", Hosts: []string{"acme.example.test", "Acme.Example.org."}},
		link.Route{Instance: "all", Hosts: []string{"*.example.test", "[::1]", "::1", "127.0.0.1"}},
	)
	for host, want := range map[string]string{
		"acme.example.test": "acme", "ACME.EXAMPLE.TEST": "acme", "acme.example.test:8443": "acme", "acme.example.test.": "acme",
		"acme.example.test.:80": "acme", "acme.example.org": "acme", "other.example.test": "all", "a.b.example.test": "",
		"example.test": "", "": "", ".": "", ":": "", "127.0.0.1": "all", "127.0.0.1:80": "all", "[::1]:80": "all", "[::1]": "all",
		"acme.example.test.evil.test": "", "evilacme.example.org": "",
	} {
		got := ""
		if r := table.find(host); r != nil {
			got = r.Instance
		}
		if got != want {
			t.Errorf("%q goes to %q, want %q", host, got, want)
		}
	}
}

// anyRoutes draws routes that collide, repeat and are wrong often.
func anyRoutes() *rapid.Generator[[]link.Route] {
	host := rapid.SampledFrom([]string{"a.test", "A.test.", "b.test", "*.test", "c.b.test", "", "-x.test", "a b", "x..test", "*.b.test", "::1"})
	address := rapid.SampledFrom([]string{"127.0.0.1:80", "127.0.0.1:81", "[::1]:80", "node.test:80", "nonsense", ":80", "127.0.0.1:0", "127.0.0.1:99999"})
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) link.Route {
		return link.Route{
			Instance: rapid.SampledFrom([]string{"acme", "beta", "gamma", "delta", ""}).Draw(t, "instance"),
			Hosts:    rapid.SliceOfN(host, 0, 3).Draw(t, "hosts"), Endpoints: rapid.SliceOfN(address, 0, 3).Draw(t, "endpoints"),
			Epoch: rapid.Int64Range(0, 3).Draw(t, "epoch"),
		}
	}), 0, 6)
}

func TestTableHoldsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var d directory
		now, _ := d.build(&table{}, anyRoutes().Draw(t, "before"), func(*endpoint) {})
		routes := anyRoutes().Draw(t, "routes")
		next, gone := d.build(now, routes, func(*endpoint) {})
		for i, r := range next.routes {
			if i > 0 && next.routes[i-1].Instance >= r.Instance {
				t.Fatal("instances are doubled or unsorted")
			}
			if r.Epoch < now.epochOf(r.Instance) {
				t.Fatalf("%s went back to epoch %d", r.Instance, r.Epoch)
			}
			for _, e := range r.endpoints {
				if !validEndpoint(e.key.address) || e.key.instance != r.Instance || slices.Contains(gone, e) {
					t.Fatalf("%s has the endpoint %+v", r.Instance, e.key)
				}
			}
		}
		for name, r := range next.exact {
			if next.find(name) != r || next.find(strings.ToUpper(name)) != r || !validHost(name) {
				t.Fatalf("%q does not find its own route", name)
			}
			owns := func(c link.Route) bool {
				return c.Instance == r.Instance && slices.ContainsFunc(c.Hosts, func(h string) bool { return hostName(h) == name || h == name })
			}
			if !slices.ContainsFunc(routes, owns) {
				t.Fatalf("%q goes to %s, which never asked for it", name, r.Instance)
			}
		}
		sound := slices.ContainsFunc(routes, func(r link.Route) bool { return r.Instance != "" && r.Epoch >= now.epochOf(r.Instance) })
		if sound && len(next.routes) == 0 {
			t.Fatal("a bad route took the good ones with it")
		}
		shuffled := rapid.Permutation(routes).Draw(t, "shuffled")
		if doubled(routes) {
			return
		}
		again := tableOf(shuffled...)
		fresh := tableOf(routes...)
		if fmt.Sprint(again.hosts()) != fmt.Sprint(fresh.hosts()) {
			t.Fatal("the order of the routes decided who gets a host")
		}
	})
}

func doubled(routes []link.Route) bool {
	seen := map[string]bool{}
	for _, r := range routes {
		if seen[r.Instance] {
			return true
		}
		seen[r.Instance] = true
	}
	return false
}

func TestHealthOnlyAChecksWordBringsBack(t *testing.T) {
	limits := Health{}.withDefaults()
	errs := []error{nil, errors.New("reset"), fmt.Errorf("dial: %w", syscall.ECONNREFUSED)}
	rapid.Check(t, func(t *rapid.T) {
		h := health{up: true}
		for i := range rapid.IntRange(1, 30).Draw(t, "outcomes") {
			o := outcome{active: rapid.Bool().Draw(t, "active"), err: rapid.SampledFrom(errs).Draw(t, "err"), at: time.Unix(int64(i), 0)}
			before := h
			h = h.after(o, limits)
			switch {
			case !before.up && h.up && (!o.active || o.err != nil):
				t.Fatalf("came up by %+v", o)
			case before.up && !h.up && o.err == nil:
				t.Fatalf("fell by a good outcome")
			case certain(o.err) && h.up:
				t.Fatal("a refused connection did not eject")
			case before.up != h.up && !h.since.Equal(o.at):
				t.Fatal("the moment of the change is lost")
			case h.up && (h.failed >= limits.FailAfter || h.errors >= limits.ErrorAfter):
				t.Fatalf("still up after %+v", h)
			}
		}
	})
}

func TestPickTakesTheIdlest(t *testing.T) {
	r := link.Route{}
	a, b, c := newEndpoint(endpointKey{address: "a"}, r), newEndpoint(endpointKey{address: "b"}, r), newEndpoint(endpointKey{address: "c"}, r)
	all := []*endpoint{a, b, c}
	a.inFlight.Store(2)
	taken := map[*endpoint]int{}
	for turn := range uint64(30) {
		taken[pick(all, nil, turn)]++
	}
	if taken[a] != 0 || taken[b] < 10 || taken[c] < 10 {
		t.Errorf("equal endpoints do not take turns: %v", taken)
	}
	b.usable.Store(false)
	if got := pick(all, []*endpoint{c}, 0); got != a {
		t.Errorf("picked %v", got)
	}
	if got := pick(all, []*endpoint{a, c}, 0); got != nil {
		t.Errorf("picked %v though nothing is left", got)
	}
}

func FuzzRoutes(f *testing.F) {
	f.Add([]byte(`{"routes":[{"instance":"acme","hosts":["acme.test","*.acme.test"],"endpoints":["127.0.0.1:80"],"epoch":2}]}`))
	f.Add([]byte(`{"routes":[{"instance":"a","hosts":["x"]},{"instance":"b","hosts":["x","[::1]:"],"endpoints":[":"]}]}`))
	f.Add([]byte(`{"routes":[{}],"later":1}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		setting, err := decodeRoutes(body)
		if err != nil {
			return
		}
		table := tableOf(setting.Routes...)
		for _, r := range setting.Routes {
			for _, host := range r.Hosts {
				if found := table.find(host); found != nil && found.Instance == "" {
					t.Fatalf("%q found a route without an instance", host)
				}
			}
		}
		kept, err := json.Marshal(setting)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := decodeRoutes(kept); err != nil || len(again.Routes) != len(setting.Routes) {
			t.Fatalf("what is kept is not what was taken: %v", err)
		}
	})
}
