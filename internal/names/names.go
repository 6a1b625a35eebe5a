// Package names keeps the DNS names of instances pointing at the edges that answer for them.
//
// Words: a zone is the part of the DNS that a provider lets us change; a host is a name in it that an instance answers
// to; a target is where an edge takes requests, an address (A, AAAA) or one name (CNAME).
//
// Invariant: only the records A, AAAA and CNAME of hosts that were named in the call are touched; what the zone says
// afterwards is read back, so that a change counts as made only when the provider shows it.
package names

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/libdns/libdns"

	"holdfast/internal/problem"
)

// Provider is what a DNS service must let us do; libdns has one for most.
type Provider interface {
	libdns.RecordGetter
	libdns.RecordSetter
	libdns.RecordDeleter
}

// Zone changes the names of one DNS zone.
type Zone struct {
	name     string // with the final dot
	ttl      time.Duration
	provider Provider
}

// DefaultTTL is how long resolvers may keep a name, and so how long a move to another edge may go unnoticed.
const DefaultTTL = time.Minute

// NewZone speaks for zone ("example.com") through provider; a ttl of 0 means DefaultTTL.
func NewZone(zone string, ttl time.Duration, provider Provider) *Zone {
	return &Zone{name: strings.ToLower(strings.Trim(zone, ".")) + ".", ttl: cmp.Or(ttl, DefaultTTL), provider: provider}
}

// Changes is what was different, as "acme.example.com 60 A 192.0.2.1" lines.
type Changes struct {
	Set     []string `json:"set"`
	Removed []string `json:"removed"`
}

// Point makes every host lead to the targets, and to nothing else. Hosts outside of the zone are refused before
// anything is changed.
func (z *Zone) Point(ctx context.Context, hosts, targets []string) (Changes, error) {
	want, err := z.wanted(hosts, targets)
	if err != nil {
		return Changes{}, err
	}
	return z.bring(ctx, want)
}

// Withdraw takes every record of the hosts away that Point could have made.
func (z *Zone) Withdraw(ctx context.Context, hosts []string) (Changes, error) {
	want := map[string][]libdns.RR{}
	for _, host := range hosts {
		name, err := z.relative(host)
		if err != nil {
			return Changes{}, err
		}
		want[name] = nil
	}
	return z.bring(ctx, want)
}

// wanted is the records that make hosts lead to targets, by relative name.
func (z *Zone) wanted(hosts, targets []string) (map[string][]libdns.RR, error) {
	if len(targets) == 0 {
		return nil, problem.New(problem.Invalid, "give at least one edge address", "no name was changed: there is no target")
	}
	want := map[string][]libdns.RR{}
	for _, host := range hosts {
		name, err := z.relative(host)
		if err != nil {
			return nil, err
		}
		want[name] = nil
		for _, target := range targets {
			want[name] = append(want[name], record(name, target, z.ttl))
		}
		if len(targets) > 1 && slices.ContainsFunc(want[name], func(r libdns.RR) bool { return r.Type == "CNAME" }) {
			return nil, problem.New(problem.Invalid, "give addresses, or one single name",
				"no name was changed: %s cannot lead to several targets of which one is a name", host)
		}
	}
	return want, nil
}

func record(name, target string, ttl time.Duration) libdns.RR {
	address, err := netip.ParseAddr(target)
	switch {
	case err != nil:
		return libdns.RR{Name: name, TTL: ttl, Type: "CNAME", Data: strings.TrimSuffix(target, ".") + "."}
	case address.Unmap().Is4():
		return libdns.RR{Name: name, TTL: ttl, Type: "A", Data: address.Unmap().String()}
	}
	return libdns.RR{Name: name, TTL: ttl, Type: "AAAA", Data: address.String()}
}

// relative is host as the zone calls it: "acme" for acme.example.com, "@" for the zone itself.
func (z *Zone) relative(host string) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(host, ".")) + "."
	if name == z.name {
		return "@", nil
	}
	if rest, ok := strings.CutSuffix(name, "."+z.name); ok && rest != "" {
		return rest, nil
	}
	return "", problem.New(problem.Invalid, "", "no name was changed: %s is not in the zone %s", host, strings.TrimSuffix(z.name, "."))
}

// Covers tells whether host is a name in the zone.
func (z *Zone) Covers(host string) bool {
	_, err := z.relative(host)
	return err == nil
}

// rounds is how often the zone is brought nearer and read back; a provider that adds where it should replace needs two.
const rounds = 3

// bring changes the zone until it says what is wanted.
func (z *Zone) bring(ctx context.Context, want map[string][]libdns.RR) (Changes, error) {
	all := Changes{Set: []string{}, Removed: []string{}}
	for range rounds {
		have, err := z.provider.GetRecords(ctx, z.name)
		if err != nil {
			return all, problem.Wrap(err, problem.Unavailable, "the provider must let us read the zone (RFC 2136: a transfer)", "zone %s was not read", z.name)
		}
		set, remove := diff(have, want)
		if len(set)+len(remove) == 0 {
			return all, nil
		}
		if err := z.change(ctx, set, remove); err != nil {
			return all, problem.Wrap(err, problem.Unavailable, "", "zone %s was not changed", z.name)
		}
		all.Set, all.Removed = append(all.Set, texts(set, z.name)...), append(all.Removed, texts(remove, z.name)...)
	}
	return all, problem.New(problem.Unavailable, "", "zone %s does not say what it was told", z.name)
}

// change first takes away what stands in the way (a CNAME lets nothing stand beside it), then sets, then takes away
// the rest, so that a name that moves always leads somewhere.
func (z *Zone) change(ctx context.Context, set, remove []libdns.RR) error {
	blocks := func(r libdns.RR) bool {
		return slices.ContainsFunc(set, func(s libdns.RR) bool { return s.Name == r.Name && (s.Type == "CNAME") != (r.Type == "CNAME") })
	}
	var first, last []libdns.RR
	for _, r := range remove {
		if blocks(r) {
			first = append(first, r)
		} else {
			last = append(last, r)
		}
	}
	return errors.Join(z.delete(ctx, first), z.set(ctx, set), z.delete(ctx, last))
}

func (z *Zone) set(ctx context.Context, records []libdns.RR) error {
	for part := range slices.Chunk(byName(records), 100) {
		parsed, err := parse(part)
		if err != nil {
			return err
		}
		if _, err := z.provider.SetRecords(ctx, z.name, parsed); err != nil {
			return fmt.Errorf("set records: %w", err)
		}
	}
	return nil
}

func (z *Zone) delete(ctx context.Context, records []libdns.RR) error {
	for part := range slices.Chunk(records, 100) {
		parsed, err := parse(part)
		if err != nil {
			return err
		}
		if _, err := z.provider.DeleteRecords(ctx, z.name, parsed); err != nil {
			return fmt.Errorf("delete records: %w", err)
		}
	}
	return nil
}

// byName keeps the records of one name and type together, because a provider replaces them as a set. A set that falls
// on the border of two parts is put right by the next round.
func byName(records []libdns.RR) []libdns.RR {
	sorted := slices.Clone(records)
	slices.SortFunc(sorted, compare)
	return sorted
}

func compare(a, b libdns.RR) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Data, b.Data))
}

func parse(records []libdns.RR) ([]libdns.Record, error) {
	parsed := make([]libdns.Record, len(records))
	for i, r := range records {
		var err error
		if parsed[i], err = r.Parse(); err != nil {
			return nil, fmt.Errorf("make record %s %s: %w", r.Name, r.Type, err)
		}
	}
	return parsed, nil
}

// diff says which records must be set (whole sets of one name and type) and which removed so that each name of want
// has exactly its records of the types that we keep. It knows nothing of other names.
func diff(have []libdns.Record, want map[string][]libdns.RR) (set, remove []libdns.RR) {
	kept := map[setKey][]libdns.RR{}
	for _, record := range have {
		r := normal(record.RR())
		if _, ours := want[r.Name]; ours && (r.Type == "A" || r.Type == "AAAA" || r.Type == "CNAME") {
			kept[setKey{r.Name, r.Type}] = append(kept[setKey{r.Name, r.Type}], r)
		}
	}
	wanted := map[setKey][]libdns.RR{}
	for name, records := range want {
		for _, r := range records {
			key := setKey{name, r.Type}
			wanted[key] = append(wanted[key], normal(r))
		}
	}
	for key, records := range wanted {
		if !same(records, kept[key]) {
			set = append(set, records...)
		}
	}
	for key, records := range kept {
		for _, r := range records {
			if !slices.ContainsFunc(wanted[key], func(w libdns.RR) bool { return w.Data == r.Data }) {
				remove = append(remove, r)
			}
		}
	}
	return byName(set), byName(remove)
}

type setKey struct{ name, kind string }

// normal writes one record in the one way we compare.
func normal(r libdns.RR) libdns.RR {
	r.Name = strings.ToLower(r.Name)
	if r.Type == "CNAME" {
		r.Data = strings.ToLower(strings.TrimSuffix(r.Data, ".")) + "."
	}
	if address, err := netip.ParseAddr(r.Data); err == nil {
		r.Data = address.String()
	}
	return r
}

func same(a, b []libdns.RR) bool {
	return slices.EqualFunc(byName(a), byName(b), func(x, y libdns.RR) bool { return compare(x, y) == 0 && x.TTL == y.TTL })
}

func texts(records []libdns.RR, zone string) []string {
	lines := make([]string, len(records))
	for i, r := range records {
		host := strings.TrimSuffix(libdns.AbsoluteName(r.Name, zone), ".")
		lines[i] = fmt.Sprintf("%s %d %s %s", host, int(r.TTL.Seconds()), r.Type, r.Data)
	}
	return lines
}
