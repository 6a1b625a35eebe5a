package fleet

import (
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/semver"
)

// check looks at what the schema cannot see: whether documents fit each other. The order is that in which they refer
// to each other.
func (r *reader) check() {
	f := r.fleet
	for _, name := range slices.Sorted(maps.Keys(f.Products)) {
		f.Products[name] = r.checkProduct(f.Products[name])
	}
	each(f.Sites, r.checkSite)
	each(f.Nodes, r.checkNode)
	each(f.Releases, r.checkRelease)
	each(f.Rings, r.checkRing)
	each(f.Instances, r.checkInstance)
	each(f.RecoveryPlans, r.checkRecoveryPlan)
	r.checkHosts()
}

// each visits the documents of a kind by name.
func each[T any](all map[string]T, visit func(T)) {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		visit(all[name])
	}
}

// refers notes a reference that leads nowhere. One to a document that is there but wrong is no second error.
func refers[T any](r *reader, o Origin, at []string, kind Kind, all map[string]T, name string) bool {
	if _, ok := all[name]; ok {
		return true
	}
	if !r.broken[kind][name] {
		r.wrong(o, at, meant(name, slices.Collect(maps.Keys(all))), "%s %q is not declared", strings.ToLower(string(kind)), name)
	}
	return false
}

func (r *reader) checkSite(s Site) { r.checkShared(s.Origin, s.Values) }

// checkShared refuses values of a site or ring that no product knows.
func (r *reader) checkShared(o Origin, values map[string]Value) {
	if len(r.broken[KindProduct]) > 0 {
		return
	}
	var known []string
	for _, p := range r.fleet.Products {
		known = append(known, p.valueNames()...)
	}
	r.checkValues(o, values, known)
}

// checkValues refuses names that are not declared and values that are not given.
func (r *reader) checkValues(o Origin, values map[string]Value, known []string) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		at := []string{"values", name}
		if !slices.Contains(known, name) {
			r.wrong(o, at, meant(name, known), "value %q is declared by no product", name)
		}
		if !values[name].Given {
			r.wrong(o, at, "write a value, or remove the line", "value %q is empty", name)
		}
	}
}

// checkNode: a site that is there.
func (r *reader) checkNode(n Node) {
	refers(r, n.Origin, []string{"site"}, KindSite, r.fleet.Sites, n.Site)
}

// checkRing: the ring it stands after is there, and no circle.
func (r *reader) checkRing(ring Ring) {
	r.checkShared(ring.Origin, ring.Values)
	if ring.After == "" || !refers(r, ring.Origin, []string{"after"}, KindRing, r.fleet.Rings, ring.After) {
		return
	}
	for at, steps := ring.After, 0; at != "" && steps <= len(r.fleet.Rings); at, steps = r.fleet.Rings[at].After, steps+1 {
		if at == ring.Name {
			r.wrong(ring.Origin, []string{"after"}, "let one of them stand after none", "stands after itself")
			return
		}
	}
}

// checkRelease: its product and services are there, every component is pinned, majors agree.
func (r *reader) checkRelease(release Release) {
	product, _, _ := strings.Cut(release.Name, "/")
	if !refers(r, release.Origin, []string{"name"}, KindProduct, r.fleet.Products, product) {
		return
	}
	p := r.fleet.Products[product]
	for _, name := range slices.Sorted(maps.Keys(release.Services)) {
		if _, ok := p.Services[name]; !ok {
			r.wrong(release.Origin, []string{"services", name}, meant(name, slices.Collect(maps.Keys(p.Services))), "product %s has no service %q", product, name)
		}
	}
	r.checkPins(p, release)
	r.checkMajors(p, release)
	r.checkFrom(release)
	r.checkValues(release.Origin, release.Values, p.valueNames())
}

// checkFrom: each entry is an operator and a version.
func (r *reader) checkFrom(release Release) {
	for i, text := range release.From {
		if _, _, err := parseBound(text); err != nil {
			r.wrong(release.Origin, []string{"from", strconv.Itoa(i)}, "write >=, >, <=, < or = and a version, such as >=v1.2.0", "%s", err)
		}
	}
}

// checkInstance: everything it names is there and belongs together, and its backups can bring it back.
func (r *reader) checkInstance(i Instance) {
	f := r.fleet
	product := refers(r, i.Origin, []string{"product"}, KindProduct, f.Products, i.Product)
	release := refers(r, i.Origin, []string{"release"}, KindRelease, f.Releases, i.Release)
	if of, _, _ := strings.Cut(i.Release, "/"); product && release && of != i.Product {
		r.wrong(i.Origin, []string{"release"}, "write a release of "+i.Product, "release %s is one of product %s", i.Release, of)
	}
	if i.Ring != "" {
		refers(r, i.Origin, []string{"ring"}, KindRing, f.Rings, i.Ring)
	}
	site := refers(r, i.Origin, []string{"placement", "site"}, KindSite, f.Sites, i.Placement.Site)
	r.checkPlacedNode(i)
	if product && site {
		r.checkSettings(i, f.Products[i.Product])
		r.checkBackup(i, f.Products[i.Product])
		r.checkReached(i, f.Products[i.Product])
	}
}

// checkPlacedNode: in a fleet that declares its nodes, the node is one of them, in the site, and for running.
func (r *reader) checkPlacedNode(i Instance) {
	at := []string{"placement", "node"}
	n, ok := r.declaredNode(i.Origin, at, i.Placement.Node)
	if !ok {
		return
	}
	if n.Site != i.Placement.Site {
		r.wrong(i.Origin, at, "write a node of site "+i.Placement.Site+", or the site "+n.Site, "node %s stands in site %s, not %s", n.Name, n.Site, i.Placement.Site)
	}
	if len(n.Roles) > 0 && !slices.Contains(n.Roles, RoleRun) && !slices.Contains(n.Roles, RoleSpare) {
		r.wrong(i.Origin, at, "write a node with role run, or give it the role", "node %s has not the role run", n.Name)
	}
}

// declaredNode finds a node. A fleet without any Node document leaves nodes to enroll themselves; then nothing is
// known here and the plan looks at what enrolled.
func (r *reader) declaredNode(o Origin, at []string, name string) (Node, bool) {
	if name == "" || len(r.fleet.Nodes) == 0 {
		return Node{}, false
	}
	return r.fleet.Nodes[name], refers(r, o, at, KindNode, r.fleet.Nodes, name)
}

// checkSettings: values are declared, given, and can be read.
func (r *reader) checkSettings(i Instance, p Product) {
	r.checkValues(i.Origin, i.Values, p.valueNames())
	for _, name := range slices.Sorted(maps.Keys(i.Secrets)) {
		if _, ok := p.Holdfast.Secrets[name]; !ok {
			r.wrong(i.Origin, []string{"secrets", name}, meant(name, slices.Collect(maps.Keys(p.Holdfast.Secrets))), "product %s has no secret %q", p.Name, name)
		}
	}
	settings := r.fleet.settings(i)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		r.checkSetting(i, name, settings[name][0])
	}
}

func (r *reader) checkSetting(i Instance, name string, won Given) {
	if !won.Value.Given && won.Layer == r.fleet.Products[i.Product].subject {
		r.wrong(i.Origin, []string{"values"}, "add `"+name+":` here, to its ring or to its site", "value %q has no default and is not given", name)
		return
	}
	service, limit, _ := strings.Cut(name, ".")
	if _, ok := r.fleet.Products[i.Product].Services[service]; !ok || !slices.Contains(limitNames(), limit) {
		return
	}
	if _, err := parseLimits(service, map[string]Value{name: won.Value}); err != nil {
		r.wrongSetting(i, won, "write it as in Compose", "%s: %s", name, err)
	}
}

// checkReached: an instance that serves has a name.
func (r *reader) checkReached(i Instance, p Product) {
	if p.hasEdge() && len(r.fleet.hosts(i)) == 0 {
		r.wrong(i.Origin, []string{"placement", "site"}, "add `domain:` to Site "+i.Placement.Site+", or `hosts:` here", "has no name to be reached at")
	}
}

func (p Product) hasEdge() bool {
	for _, s := range p.stack.services {
		if slices.ContainsFunc(s.Ports, func(port Port) bool { return port.Edge }) {
			return true
		}
	}
	return false
}

// checkHosts: no two instances answer to one name.
func (r *reader) checkHosts() {
	owner := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(r.fleet.Instances)) {
		i := r.fleet.Instances[name]
		for _, host := range r.fleet.hosts(i) {
			if first, taken := owner[host]; taken && first != name {
				r.wrong(i.Origin, []string{"hosts"}, "give each its own name", "the name %s is taken by Instance %s", host, first)
			}
			owner[host] = name
		}
	}
}

// parseBound reads ">=v1.2.0".
func parseBound(text string) (operator, version string, err error) {
	version = strings.TrimLeft(text, "<>=")
	operator = text[:len(text)-len(version)]
	version = strings.TrimSpace(version)
	if !slices.Contains([]string{">=", ">", "<=", "<", "="}, operator) || !semver.IsValid(version) {
		return "", "", errBound(text)
	}
	return operator, version, nil
}

type errBound string

func (e errBound) Error() string { return strconv.Quote(string(e)) + " is not a bound of versions" }

// ReachableFrom tells whether an instance that runs the release named current may go to r directly.
func (r Release) ReachableFrom(current string) bool {
	_, version, _ := strings.Cut(current, "/")
	for _, text := range r.From {
		operator, bound, err := parseBound(text)
		if err != nil || !holds(operator, semver.Compare(version, bound)) {
			return false
		}
	}
	return true
}

func holds(operator string, compared int) bool {
	switch operator {
	case ">=":
		return compared >= 0
	case ">":
		return compared > 0
	case "<=":
		return compared <= 0
	case "<":
		return compared < 0
	}
	return compared == 0
}

// inFleet gives the content of a file that a document refers to.
func (r *reader) inFleet(name string) ([]byte, bool) {
	content, ok := r.files[path.Clean(name)]
	return content, ok
}
