package fleet

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"golang.org/x/mod/semver"
)

// checkProduct reads the services of a product and refuses what does not hold together inside it.
func (r *reader) checkProduct(p Product) Product {
	p.stack = r.compose(p)
	if len(p.stack.services) != len(p.Services) {
		return p // compose-go could not read them and has said why
	}
	r.checkOrder(p)
	r.checkNames(p)
	r.checkState(p)
	r.checkSameMajorNames(p.Origin, []string{"x-holdfast", "same_major"}, p, p.Holdfast.SameMajor)
	r.checkCommands(p)
	r.checkReferences(p)
	return p
}

// checkOrder: no service waits for itself, and whoever is waited for until ready can say so.
func (r *reader) checkOrder(p Product) {
	order := startOrder(p.stack.services)
	for _, name := range slices.Sorted(maps.Keys(p.stack.services)) {
		at := []string{"services", name, "depends_on"}
		if !slices.Contains(order, name) && r.dependsOnDeclared(p, name) {
			r.wrong(p.Origin, at, "remove one depends_on of the circle", "service %s waits for itself", name)
		}
		for _, need := range p.stack.services[name].Needs {
			if need.Ready && p.stack.services[need.Service].Readiness == nil {
				r.wrong(p.Origin, append(at, need.Service), "give "+need.Service+" a healthcheck or x-holdfast.readiness",
					"service %s waits until %s is ready, which cannot say so", name, need.Service)
			}
		}
	}
}

// dependsOnDeclared is false where the order fails because of a service that is not there, which is said elsewhere.
func (r *reader) dependsOnDeclared(p Product, name string) bool {
	declared, _ := p.Services[name]["depends_on"].(map[string]any)
	list, _ := p.Services[name]["depends_on"].([]any)
	return len(p.stack.services[name].Needs) == len(declared)+len(list)
}

var valueName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// checkNames: names of values, secrets and states can stand in a reference.
func (r *reader) checkNames(p Product) {
	names := map[string][]string{
		"values":  slices.Collect(maps.Keys(p.Holdfast.Values)),
		"secrets": slices.Collect(maps.Keys(p.Holdfast.Secrets)),
		"state":   slices.Collect(maps.Keys(p.Holdfast.State)),
	}
	for _, group := range slices.Sorted(maps.Keys(names)) {
		for _, name := range slices.Sorted(slices.Values(names[group])) {
			if !valueName.MatchString(name) && (group != "state" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") != "") {
				r.wrong(p.Origin, []string{"x-holdfast", group, name}, "write small letters, digits and underscores, a letter first", "%q cannot be a name", name)
			}
		}
	}
}

// checkState: every state has what its kind needs.
func (r *reader) checkState(p Product) {
	for _, name := range slices.Sorted(maps.Keys(p.Holdfast.State)) {
		s, at := p.Holdfast.State[name], []string{"x-holdfast", "state", name}
		isCommand := s.Kind == StateCommand
		isFiles := s.Kind == StateFolder || s.Kind == StateSQLite
		switch {
		case s.Kind == StateSQLite && s.File == "":
			r.wrong(p.Origin, at, "add `file:`, the name of the database inside the folder", "state %s: sqlite needs a file", name)
		case isCommand && (s.Dump == nil || s.Load == nil):
			r.wrong(p.Origin, at, "add `dump: {args: [...]}` and `load: {args: [...]}`", "state %s: command needs dump and load", name)
		case !isCommand && (s.Dump != nil || s.Load != nil):
			r.wrong(p.Origin, at, "remove dump and load, or write `kind: command`", "state %s: %s has its own dump and load", name, s.Kind)
		case s.Kind == StatePostgres && s.Database == "":
			r.wrong(p.Origin, at, "add `database:`", "state %s: postgres needs a database", name)
		case !isFiles && !isCommand && s.Service == "":
			r.wrong(p.Origin, at, "add `service:`", "state %s: %s needs the service that holds it", name, s.Kind)
		}
		r.checkService(p, append(at, "service"), s.Service)
		r.checkRuns(p, at, name, map[string]*CommandKeys{"dump": s.Dump, "load": s.Load})
		r.checkSeen(p, at, name)
	}
}

// checkRuns: the commands of a state run in a service that is there, the state's own or one that they name.
func (r *reader) checkRuns(p Product, at []string, name string, commands map[string]*CommandKeys) {
	for _, verb := range slices.Sorted(maps.Keys(commands)) {
		c := commands[verb]
		if c == nil || p.Holdfast.State[name].Kind != StateCommand {
			continue
		}
		if commands["dump"] != nil && commands["load"] != nil && cmp.Or(c.Service, p.Holdfast.State[name].Service) == "" {
			r.wrong(p.Origin, append(slices.Clone(at), verb), "add `service:` to the state, the one in which its commands run", "state %s: %s has no service to run in", name, verb)
		}
		r.checkService(p, append(slices.Clone(at), verb, "service"), c.Service)
	}
}

// checkSeen refuses a state that no service sees. What two commands dump may be anywhere.
func (r *reader) checkSeen(p Product, at []string, name string) {
	if p.Holdfast.State[name].Kind == StateCommand {
		return
	}
	for _, s := range p.stack.services {
		if slices.ContainsFunc(s.Mounts, func(m Mount) bool { return m.State == name }) {
			return
		}
	}
	r.wrong(p.Origin, at, "add `volumes: ["+name+":/path]` to the service that writes it", "state %s is seen by no service", name)
}

// checkService notes a service that the product has not; "" is none.
func (r *reader) checkService(p Product, at []string, name string) {
	if _, ok := p.Services[name]; name != "" && !ok {
		r.wrong(p.Origin, at, meant(name, slices.Collect(maps.Keys(p.Services))), "product %s has no service %q", p.Name, name)
	}
}

// checkCommands: hooks and invariants ask a service that is there, in one way.
func (r *reader) checkCommands(p Product) {
	for name, hook := range p.Holdfast.Hooks.byName() {
		at := []string{"x-holdfast", "hooks", name}
		if hook.Service == "" {
			r.wrong(p.Origin, at, "add `service:`, the one in which it runs", "hook %s has no service", name)
		}
		r.checkService(p, append(at, "service"), hook.Service)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Holdfast.Invariants)) {
		i, at := p.Holdfast.Invariants[name], []string{"x-holdfast", "invariants", name}
		if (i.HTTP == "") == (i.Command == nil) {
			r.wrong(p.Origin, at, "write `http: /path` or `command: {args: [...]}`", "invariant %s must ask in exactly one way", name)
		}
		r.checkService(p, append(at, "service"), i.Service)
	}
}

// checkReferences: whatever a text refers to is there.
func (r *reader) checkReferences(p Product) {
	render := rendering{product: p}
	spec := Spec{State: slices.DeleteFunc(render.state(), heldByNobody), Invariants: render.invariants(), Hooks: render.hooks()}
	for _, name := range slices.Sorted(maps.Keys(p.stack.services)) {
		spec.Services = append(spec.Services, p.stack.services[name])
	}
	_ = eachText(&spec, func(at []string, text string) (string, error) { // the visitor below never fails
		references, err := References(text)
		if err != nil {
			r.wrong(p.Origin, at, "write ${secret:NAME}, ${value:NAME}, ${state:NAME}, ${host:SERVICE}, ${port:SERVICE.PORT} or ${instance:name}; $$ for a plain $", "%s: %s", dotted(at), err)
		}
		for _, ref := range references {
			r.checkReference(p, at, ref)
		}
		return text, nil
	})
}

// heldByNobody is a database without its service, which is refused with better words than its commands would be.
func heldByNobody(s State) bool { return s.Service == "" && s.Kind != StateCommand }

func (r *reader) checkReference(p Product, at []string, ref Reference) {
	known, ok := referable(p)[ref.Kind]
	if !ok {
		r.wrong(p.Origin, at, meant(ref.Kind, slices.Collect(maps.Keys(referable(p)))), "%s: %s names no kind of thing that is known", dotted(at), ref)
		return
	}
	if !slices.Contains(known, ref.Name) {
		r.wrong(p.Origin, at, meant(ref.Name, known), "%s: %s is not declared", dotted(at), ref)
	}
}

// referable lists what texts of a product may refer to, by kind.
func referable(p Product) map[string][]string {
	all := map[string][]string{
		"secret":   slices.Collect(maps.Keys(p.Holdfast.Secrets)),
		"value":    slices.Collect(maps.Keys(p.Holdfast.Values)),
		"state":    slices.Collect(maps.Keys(p.Holdfast.State)),
		"host":     slices.Collect(maps.Keys(p.Services)),
		"port":     {},
		"instance": {"name", "host", "site", "release"},
	}
	for name, s := range p.stack.services {
		for _, port := range s.Ports {
			all["port"] = append(all["port"], name+"."+port.Name)
		}
	}
	return all
}

// checkPins: every component of a release is one exact version.
func (r *reader) checkPins(p Product, release Release) {
	for _, name := range slices.Sorted(maps.Keys(p.stack.services)) {
		s := pin(p.stack.services[name], release.Services[name])
		o, at := release.Origin, []string{"services", name, "image"}
		if release.Services[name].Image == "" && s.Image != "" {
			o = p.Origin
		}
		switch {
		case s.Image == "" && s.Artifact == "":
			r.wrong(release.Origin, []string{"services", name}, "add `image:` with a version, or `artifact:`", "pins nothing for service %s", name)
		case s.Image != "":
			r.checkImage(o, at, name, s.Image)
		}
		r.checkArchive(release, name, s)
		if s.Artifact != "" && !strings.HasPrefix(s.Artifact, "/") && !strings.HasPrefix(s.Artifact, "${value:") {
			r.wrong(release.Origin, []string{"services", name}, "write an absolute path on the node", "artifact %s of service %s is relative", s.Artifact, name)
		}
	}
}

var archiveForm = regexp.MustCompile(`^(/|https://|\$\{value:).*@sha256:[0-9a-f]{64}$`)

// checkArchive refuses an archive whose content is not pinned: a node loads only what it can check.
func (r *reader) checkArchive(release Release, name string, s Service) {
	at := []string{"services", name, "archive"}
	switch {
	case s.Archive == "":
	case s.Image == "":
		r.wrong(release.Origin, at, "add `image:`, the name under which the archive holds it", "archive of service %s is given without the name of its image", name)
	case !archiveForm.MatchString(s.Archive):
		r.wrong(release.Origin, at, "write /path/on/the/node.tar@sha256:..., or https://host/image.tar@sha256:..., with what sha256sum says of the archive",
			"archive %q of service %s does not say where it is and what it holds", s.Archive, name)
	}
}

// checkImage refuses a reference that means something else tomorrow.
func (r *reader) checkImage(o Origin, at []string, service, image string) {
	tag, pinned, err := imageVersion(image)
	switch {
	case err != nil:
		r.wrong(o, at, "write registry/name:v1.2.0 or registry/name@sha256:...", "image %q of service %s: %s", image, service, err)
	case pinned:
	case tag == "":
		r.wrong(o, at, "add the version: "+image+":v1.2.0, or a digest", "image %q of service %s has no version", image, service)
	case tag == "latest":
		r.wrong(o, at, "write the version that was tested, or a digest", "image %q of service %s is pinned to latest, which means something else tomorrow", image, service)
	}
}

var anyReference = regexp.MustCompile(`\$\{[^}]*\}`)

// imageVersion gives the tag of an image, and whether a digest pins it. A reference in it counts as a name.
func imageVersion(image string) (tag string, pinned bool, err error) {
	named, err := reference.ParseNormalizedNamed(anyReference.ReplaceAllString(image, "x"))
	if err != nil {
		return "", false, err
	}
	if tagged, ok := named.(reference.Tagged); ok {
		tag = tagged.Tag()
	}
	_, pinned = named.(reference.Digested)
	return tag, pinned, nil
}

// isPinned tells whether an image names one version.
func isPinned(image string) bool {
	tag, digest, err := imageVersion(image)
	return err == nil && (digest || tag != "" && tag != "latest")
}

// checkSameMajorNames: the services are there.
func (r *reader) checkSameMajorNames(o Origin, at []string, p Product, names []string) {
	for i, name := range names {
		if _, ok := p.Services[name]; !ok {
			r.wrong(o, append(slices.Clone(at), strconv.Itoa(i)), meant(name, slices.Collect(maps.Keys(p.Services))), "product %s has no service %q", p.Name, name)
		}
	}
}

// checkMajors: services that speak with each other are of one major version.
func (r *reader) checkMajors(p Product, release Release) {
	r.checkSameMajorNames(release.Origin, []string{"same_major"}, p, release.SameMajor)
	for _, group := range [][]string{p.Holdfast.SameMajor, release.SameMajor} {
		first := ""
		for _, name := range group {
			first = r.checkMajor(p, release, name, first)
		}
	}
}

// checkMajor compares one service with the first of its group and gives the first.
func (r *reader) checkMajor(p Product, release Release, name, first string) string {
	s, ok := p.stack.services[name]
	s = pin(s, release.Services[name])
	if !ok || s.Image != "" && !isPinned(s.Image) {
		return first // refused already
	}
	version := componentVersion(s, release.Services[name])
	at := []string{"services", name}
	if version == "" {
		r.wrong(release.Origin, at, "add `version: v1.2.0` to the service", "the version of service %s is not known, and same_major names it", name)
		return first
	}
	if first == "" {
		return name + " " + version
	}
	if other, otherVersion, _ := strings.Cut(first, " "); semver.Major(version) != semver.Major(otherVersion) {
		r.wrong(release.Origin, at, "release both with one major version", "service %s is %s and service %s is %s: same_major wants one major version", other, otherVersion, name, version)
	}
	return first
}

// componentVersion is the version of a component as v1.2.3, or "".
func componentVersion(s Service, c Component) string {
	tag, _, err := imageVersion(s.Image)
	if err != nil {
		tag = ""
	}
	for _, text := range []string{c.Version, tag} {
		if version := "v" + strings.TrimPrefix(text, "v"); semver.IsValid(version) {
			return version
		}
	}
	return ""
}
