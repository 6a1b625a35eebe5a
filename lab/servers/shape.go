package servers

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"holdfast/internal/problem"
)

// Shape is what a lab is made of.
type Shape struct {
	Name    string       `json:"name"`    // of the lab; part of every name it gives
	Network netip.Prefix `json:"network"` // a /16 that this machine does not route; the zero value takes a free one
	Sites   []Site       `json:"sites"`
	ACME    bool         `json:"acme,omitempty"` // edges ask the services' issuer for certificates, not the control plane
	Bin     string       `json:"bin"`            // folder of holdfast and holdfast-agent; "" = servers only, nothing of Holdfast
}

// Site is a place that can be lost as a whole.
type Site struct {
	Name    string `json:"name"`
	Servers []Spec `json:"servers"`
}

// Duty is what a server is there for, beside the roles of its agent.
type Duty string

// The duties.
const (
	Node     Duty = "node"     // runs an agent with Roles
	Control  Duty = "control"  // runs the control plane
	Services Duty = "services" // runs object storage, mail, names and certificates
)

// Spec is one server to be.
type Spec struct {
	Name   string   `json:"name"`
	Duty   Duty     `json:"duty"`
	Roles  []string `json:"roles,omitempty"` // of its agent: run, spare, vault, edge, probe
	Docker bool     `json:"docker,omitempty"`
	DiskMB int      `json:"disk_mb"` // size of its disk; takes room on this machine only as it is written
}

// diskMB is the disk of a server that says nothing else.
const diskMB = 8192

// Default is two sites with three Docker nodes each; a vault, an edge and two probers outside both; the control plane;
// and the services. Nothing of Holdfast runs until Bin is set.
func Default(name string) Shape {
	outside := func(site, server string, duty Duty, roles ...string) Site {
		return Site{Name: site, Servers: []Spec{{Name: server, Duty: duty, Roles: roles, DiskMB: diskMB}}}
	}
	return Shape{Name: name, Sites: []Site{
		DockerSite("par1", 3), DockerSite("ams1", 3),
		outside("vlt1", "vault1", Node, "vault"),
		outside("out1", "edge1", Node, "edge", "probe"),
		outside("out2", "probe2", Node, "probe"),
		outside("ops", "control", Control),
		outside("net", "services", Services),
	}}
}

// DockerSite is a site of count nodes with a Docker Engine each, named SITE-n1 and so on.
func DockerSite(name string, count int) Site {
	s := Site{Name: name}
	for i := range count {
		s.Servers = append(s.Servers, Spec{
			Name: fmt.Sprintf("%s-n%d", name, i+1), Duty: Node, Roles: []string{"run", "spare"}, Docker: true, DiskMB: diskMB,
		})
	}
	return s
}

// all lists the servers of a shape, in order.
func (s Shape) all() []Spec {
	var all []Spec
	for _, site := range s.Sites {
		all = append(all, site.Servers...)
	}
	return all
}

// of finds the server with a duty; "" when there is none.
func (s Shape) of(duty Duty) string {
	for _, spec := range s.all() {
		if spec.Duty == duty {
			return spec.Name
		}
	}
	return ""
}

// Limits that follow from the address plan and from the kernel's fifteen characters for a link's name.
const (
	mostSites   = 60
	mostServers = 200
)

var (
	goodLabName = regexp.MustCompile(`^[a-z][a-z0-9]{0,7}$`)
	goodName    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,13}[a-z0-9]$`)
)

// Check says everything that is wrong with a shape.
func (s Shape) Check() error {
	var wrong problem.List
	bad := func(hint, format string, args ...any) {
		wrong = append(wrong, problem.New(problem.Invalid, hint, "the lab was not brought up: "+format, args...))
	}
	if !goodLabName.MatchString(s.Name) {
		bad("take a name such as lab or ci2", "%q is no name for a lab: up to eight small letters and digits", s.Name)
	}
	if s.Network.IsValid() && (s.Network.Bits() != 16 || !s.Network.Addr().Is4() || s.Network != s.Network.Masked()) {
		bad("take a network such as 10.70.0.0/16", "%s is no IPv4 /16", s.Network)
	}
	if len(s.Sites) == 0 || len(s.Sites) > mostSites {
		bad(fmt.Sprintf("declare 1 to %d sites", mostSites), "it has %d sites", len(s.Sites))
	}
	for _, name := range s.badNames() {
		bad("take up to fifteen small letters, digits and dashes, each name once", "%q is no good name for a site or server, or is taken twice", name)
	}
	for _, site := range s.Sites {
		if len(site.Servers) > mostServers {
			bad(fmt.Sprintf("spread them over sites of at most %d", mostServers), "site %s has %d servers", site.Name, len(site.Servers))
		}
	}
	for _, spec := range s.all() {
		if spec.DiskMB < 256 {
			bad("give it 256 MB or more", "the disk of %s has %d MB", spec.Name, spec.DiskMB)
		}
	}
	if s.Bin != "" && s.of(Control) == "" {
		bad("add a server with the duty control", "nodes have no control plane to join")
	}
	if s.ACME && s.of(Services) == "" {
		bad("add a server with the duty services", "edges have no issuer of certificates to ask")
	}
	return wrong.OrNil()
}

// badNames lists names that the kernel or a person could not tell apart. Sites and servers share one namespace, since
// faults take either.
func (s Shape) badNames() []string {
	taken := []string{"core", "host"}
	var bad []string
	note := func(name string) {
		if !goodName.MatchString(name) || slices.Contains(taken, name) {
			bad = append(bad, name)
		}
		taken = append(taken, name)
	}
	for _, site := range s.Sites {
		note(site.Name)
		for _, spec := range site.Servers {
			note(spec.Name)
		}
	}
	return bad
}
