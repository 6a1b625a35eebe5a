package names

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libdns/libdns"
	"pgregory.net/rapid"

	"holdfast/internal/problem"
)

// memory is a zone in memory that passes for a provider. A sloppy one adds where it should replace, as some do.
type memory struct {
	mu      sync.Mutex
	sloppy  bool
	records []libdns.RR
}

func (m *memory) GetRecords(context.Context, string) ([]libdns.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return parse(m.records)
}

func (m *memory) SetRecords(_ context.Context, _ string, records []libdns.Record) ([]libdns.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range records {
		m.records = slices.DeleteFunc(m.records, func(old libdns.RR) bool {
			if m.sloppy {
				return compare(old, r.RR()) == 0
			}
			return old.Name == r.RR().Name && old.Type == r.RR().Type
		})
	}
	for _, r := range records {
		m.records = append(m.records, r.RR())
	}
	return records, m.sound()
}

// sound refuses what no DNS server would hold: something beside a CNAME.
func (m *memory) sound() error {
	for _, r := range m.records {
		for _, other := range m.records {
			if r.Name == other.Name && r.Type == "CNAME" && compare(r, other) != 0 {
				return fmt.Errorf("%s has a CNAME and %s", r.Name, other.Type)
			}
		}
	}
	return nil
}

func (m *memory) DeleteRecords(_ context.Context, _ string, records []libdns.Record) ([]libdns.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range records {
		m.records = slices.DeleteFunc(m.records, func(old libdns.RR) bool { return compare(old, r.RR()) == 0 })
	}
	return records, nil
}

func TestPointBringsAnyZoneToWhatIsWanted(t *testing.T) {
	targets := rapid.OneOf(
		rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"192.0.2.1", "192.0.2.2", "2001:db8::1"}), 1, 3, rapid.ID[string]),
		rapid.SliceOfN(rapid.SampledFrom([]string{"edge1.example.net", "edge2.example.net."}), 1, 1),
	)
	rapid.Check(t, func(t *rapid.T) {
		other := libdns.RR{Name: "www", TTL: time.Hour, Type: "A", Data: "198.51.100.7"}
		text := libdns.RR{Name: "acme", TTL: time.Hour, Type: "TXT", Data: "not ours"}
		store := &memory{records: []libdns.RR{other}, sloppy: rapid.Bool().Draw(t, "sloppy")}
		zone := NewZone("Example.com.", 0, store)
		var aimed []string
		for range rapid.IntRange(1, 5).Draw(t, "moves") {
			aimed = targets.Draw(t, "targets")
			if store.sloppy && !slices.Contains(aimed, "192.0.2.1") {
				aimed = []string{"192.0.2.1"} // one that cannot replace a CNAME by another needs no more to be shown
			}
			if _, err := zone.Point(t.Context(), []string{"acme.example.com", "BETA.example.com."}, aimed); err != nil {
				t.Fatal(err)
			}
			again, err := zone.Point(t.Context(), []string{"acme.example.com", "beta.example.com"}, aimed)
			if err != nil || len(again.Set)+len(again.Removed) > 0 {
				t.Fatalf("pointing again changed %+v (%v)", again, err)
			}
		}
		for _, name := range []string{"acme", "beta"} {
			var found []string
			for _, r := range store.records {
				if r.Name == name {
					found = append(found, strings.TrimSuffix(r.Data, "."))
				}
			}
			for i := range aimed {
				aimed[i] = strings.TrimSuffix(aimed[i], ".")
			}
			slices.Sort(found)
			slices.Sort(aimed)
			if !slices.Equal(found, aimed) {
				t.Fatalf("%s leads to %v, want %v", name, found, aimed)
			}
		}
		store.records = append(store.records, text)
		if _, err := zone.Withdraw(t.Context(), []string{"acme.example.com", "beta.example.com"}); err != nil {
			t.Fatal(err)
		}
		if len(store.records) != 2 || compare(store.records[0], other) != 0 {
			t.Fatalf("withdrawing left %v", store.records)
		}
	})
}

func TestPointRefusesWhatItMayNotTouch(t *testing.T) {
	store := &memory{}
	zone := NewZone("example.com", 0, store)
	for name, call := range map[string]struct{ hosts, targets []string }{
		"is not in the zone example.com": {[]string{"acme.example.com", "acme.example.org"}, []string{"192.0.2.1"}},
		"several targets":                {[]string{"acme.example.com"}, []string{"192.0.2.1", "edge.example.net"}},
		"there is no target":             {[]string{"acme.example.com"}, nil},
	} {
		_, err := zone.Point(t.Context(), call.hosts, call.targets)
		if problem.KindOf(err) != problem.Invalid || !strings.Contains(err.Error(), name) || len(store.records) > 0 {
			t.Errorf("%s: got %v, zone %v", name, err, store.records)
		}
	}
}

func TestOpenNamesTheProvidersItKnows(t *testing.T) {
	for _, provider := range []string{"rfc2136", "cloudflare", "hetzner", "ovh"} {
		if _, err := Open(Settings{Provider: provider, Zone: "example.com"}); err != nil {
			t.Errorf("%s: %v", provider, err)
		}
	}
	for _, s := range []Settings{{Provider: "gandi", Zone: "example.com"}, {Provider: "rfc2136"}} {
		if _, err := Open(s); problem.KindOf(err) != problem.Invalid {
			t.Errorf("%+v: %v", s, err)
		}
	}
}
