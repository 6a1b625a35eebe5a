package fleet

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	"holdfast/internal/problem"
)

// Explained says for every setting of an instance who won and who lost.
type Explained struct {
	Instance string    `json:"instance"`
	Settings []Setting `json:"settings"` // sorted by name
}

// Setting is one value: of the product ("log_level"), of a service ("api.replicas", "api.memory", "api.cpus"), or of
// the backup policy ("backup.every").
type Setting struct {
	Name   string  `json:"name"`
	Winner Given   `json:"winner"`
	Losers []Given `json:"losers,omitempty"` // highest layer first
}

// Given is what one layer says.
type Given struct {
	Layer string `json:"layer"` // "Ring canary"; "built in" where nobody said anything
	Value Value  `json:"value"` // null: declared, and left to a higher layer
	File  string `json:"file,omitempty"`
	Line  int    `json:"line,omitempty"`
}

// layer is one of the five places that give values, lowest first: product, release, site, ring, instance.
type layer struct {
	origin Origin
	base   []string // path of the values in its document
	values map[string]Value
	backup Backup
	under  []string // path of the backup keys
	fixed  map[string]string
}

// layers gives what an instance stands on. What it refers to and is not there is left out.
func (f *Fleet) layers(i Instance) []layer {
	p, release, site, ring := f.Products[i.Product], f.Releases[i.Release], f.Sites[i.Placement.Site], f.Rings[i.Ring]
	return []layer{
		{origin: p.Origin, base: []string{"x-holdfast", "values"}, values: p.Holdfast.Values, backup: p.Holdfast.Backup, under: []string{"x-holdfast", "backup"}, fixed: p.stack.given},
		{origin: release.Origin, base: []string{"values"}, values: release.Values},
		{origin: site.Origin, base: []string{"values"}, values: f.declaredBy(i.Product, site.Values), backup: site.Backup, under: []string{"backup"}},
		{origin: ring.Origin, base: []string{"values"}, values: f.declaredBy(i.Product, ring.Values), backup: ring.Backup, under: []string{"backup"}},
		{origin: i.Origin, base: []string{"values"}, values: i.Values, backup: i.Backup.Backup, under: []string{"backup"}},
	}
}

// declaredBy keeps the values that a product knows: a site or a ring may serve several products.
func (f *Fleet) declaredBy(product string, values map[string]Value) map[string]Value {
	p, known := f.Products[product], map[string]Value{}
	for name, value := range values {
		if p.knows(name) {
			known[name] = value
		}
	}
	return known
}

// knows tells whether name is a value that instances of the product can have.
func (p Product) knows(name string) bool {
	if _, ok := p.Holdfast.Values[name]; ok {
		return true
	}
	service, limit, _ := strings.Cut(name, ".")
	_, ok := p.Services[service]
	return ok && slices.Contains(limitNames(), limit)
}

func limitNames() []string { return []string{"replicas", "memory", "cpus"} }

// valueNames lists every name that knows accepts.
func (p Product) valueNames() []string {
	names := slices.Collect(maps.Keys(p.Holdfast.Values))
	for service := range p.Services {
		for _, limit := range limitNames() {
			names = append(names, service+"."+limit)
		}
	}
	return names
}

// given lists everything a layer says, by name.
func (l layer) given() map[string]Given {
	all := map[string]Given{}
	put := func(name string, value Value, path []string) {
		all[name] = Given{Layer: l.origin.subject, Value: value, File: l.origin.File, Line: l.origin.line(path)}
	}
	for name, text := range l.fixed {
		service, _, _ := strings.Cut(name, ".")
		put(name, TextValue(text), []string{"services", service})
	}
	for name, value := range l.values {
		put(name, value, append(slices.Clone(l.base), name))
	}
	for key, text := range l.backup.texts() {
		put("backup."+key, TextValue(text), append(slices.Clone(l.under), key))
	}
	return all
}

// texts gives the keys that are set.
func (b Backup) texts() map[string]string {
	all := map[string]string{}
	if b.Every != 0 {
		all["every"] = FormatDuration(b.Every)
	}
	if b.RPO != 0 {
		all["rpo"] = FormatDuration(b.RPO)
	}
	if b.KeepDaily != 0 {
		all["keep_daily"] = strconv.Itoa(b.KeepDaily)
	}
	if b.Vault != "" {
		all["vault"] = b.Vault
	}
	if b.Custodian != nil {
		all["custodian"] = strconv.FormatBool(*b.Custodian)
	}
	return all
}

// builtIn is below every layer.
func builtIn() map[string]Given {
	all := map[string]Given{}
	for name, text := range map[string]string{"backup.every": "24h", "backup.rpo": "25h", "backup.keep_daily": "20", "backup.custodian": "false"} {
		all[name] = Given{Layer: "built in", Value: TextValue(text)}
	}
	return all
}

// settings gives for each name what the layers say, highest first.
func (f *Fleet) settings(i Instance) map[string][]Given {
	all := map[string][]Given{}
	for _, l := range slices.Backward(f.layers(i)) {
		for name, given := range l.given() {
			all[name] = append(all[name], given)
		}
	}
	for name, given := range builtIn() {
		all[name] = append(all[name], given)
	}
	return all
}

// Explain says for every setting of an instance which layer won and which lost.
func (f *Fleet) Explain(instance string) (Explained, error) {
	i, ok := f.Instances[instance]
	if !ok {
		return Explained{}, f.noInstance(instance)
	}
	explained := Explained{Instance: instance}
	settings := f.settings(i)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		explained.Settings = append(explained.Settings, Setting{Name: name, Winner: settings[name][0], Losers: settings[name][1:]})
	}
	return explained, nil
}

func (f *Fleet) noInstance(name string) error {
	return problem.New(problem.NotFound, meant(name, slices.Collect(maps.Keys(f.Instances))), "instance %s is not in the fleet", name)
}

// effective is what won, by name.
func (f *Fleet) effective(i Instance) map[string]Value {
	won := map[string]Value{}
	for name, given := range f.settings(i) {
		won[name] = given[0].Value
	}
	return won
}

// limits are what may be set of a service beside its values.
type limits struct {
	replicas int
	memoryMB int64
	cpus     float64
}

// parseLimits reads SERVICE.replicas, SERVICE.memory and SERVICE.cpus.
func parseLimits(service string, values map[string]Value) (limits, error) {
	l := limits{replicas: 1}
	for name, parse := range map[string]func(string) error{
		"replicas": l.parseReplicas,
		"memory":   l.parseMemory,
		"cpus":     l.parseCPUs,
	} {
		value := values[service+"."+name]
		if !value.Given {
			continue
		}
		if err := parse(value.Text); err != nil {
			return l, err
		}
	}
	return l, nil
}

func (l *limits) parseReplicas(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 100 {
		return fmt.Errorf("%q is not a number of replicas from 1 to 100", text)
	}
	l.replicas = n
	return nil
}

func (l *limits) parseMemory(text string) error {
	bytes, err := units.RAMInBytes(text)
	if err != nil || bytes < 1<<20 {
		return fmt.Errorf("%q is not an amount of memory such as 512m or 2g", text)
	}
	l.memoryMB = bytes >> 20
	return nil
}

func (l *limits) parseCPUs(text string) error {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || n <= 0 || n > 1024 {
		return fmt.Errorf("%q is not a number of cores such as 0.5 or 2", text)
	}
	l.cpus = n
	return nil
}

// policy reads the winning backup settings.
func policy(values map[string]Value) (BackupPolicy, error) {
	every, err := ParseDuration(values["backup.every"].Text)
	if err != nil {
		return BackupPolicy{}, err
	}
	rpo, err := ParseDuration(values["backup.rpo"].Text)
	if err != nil {
		return BackupPolicy{}, err
	}
	keep, err := strconv.Atoi(values["backup.keep_daily"].Text)
	if err != nil {
		return BackupPolicy{}, fmt.Errorf("parse keep_daily: %w", err)
	}
	return BackupPolicy{
		Every: every, RPO: rpo, KeepDaily: keep,
		Vault:     values["backup.vault"].Text,
		Custodian: values["backup.custodian"].Text == "true",
	}, nil
}

// tenMinutes is how long a command may take when nobody says.
const tenMinutes = 10 * time.Minute
