package servers

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestCheckSaysAllThatIsWrong(t *testing.T) {
	good := Default("lab")
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		spoil func(*Shape)
		want  string
	}{
		{"long name", func(s *Shape) { s.Name = "laboratory" }, `"laboratory" is no name for a lab`},
		{"dash in name", func(s *Shape) { s.Name = "a-b" }, `"a-b" is no name for a lab`},
		{"small network", func(s *Shape) { s.Network = netip.MustParsePrefix("10.70.1.0/24") }, "10.70.1.0/24 is no IPv4 /16"},
		{"address in network", func(s *Shape) { s.Network = netip.MustParsePrefix("10.70.1.0/16") }, "10.70.1.0/16 is no IPv4 /16"},
		{"no site", func(s *Shape) { s.Sites = nil }, "it has 0 sites"},
		{"name twice", func(s *Shape) { s.Sites[1].Name = "par1" }, `"par1" is no good name`},
		{"server named as a site", func(s *Shape) { s.Sites[0].Servers[0].Name = "ams1" }, `"ams1" is no good name`},
		{"name that a shell would read", func(s *Shape) { s.Sites[0].Servers[0].Name = "a;b" }, `"a;b" is no good name`},
		{"tiny disk", func(s *Shape) { s.Sites[0].Servers[0].DiskMB = 1 }, "the disk of par1-n1 has 1 MB"},
		{"no control plane", func(s *Shape) { s.Bin, s.Sites = "/bin", s.Sites[:1] }, "nodes have no control plane"},
		{"no issuer", func(s *Shape) { s.ACME, s.Sites = true, s.Sites[:6] }, "edges have no issuer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := Default("lab")
			c.spoil(&s)
			if err := s.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// Whatever the shape: no address is given twice, and every one lies in the network of its site.
func TestAddressesAreApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shape := Shape{Name: "lab", Network: netip.MustParsePrefix("10.70.0.0/16")}
		for i := range rapid.IntRange(1, mostSites).Draw(t, "sites") {
			shape.Sites = append(shape.Sites, DockerSite("s"+string(rune('a'+i%26))+string(rune('a'+i/26)), rapid.IntRange(0, mostServers).Draw(t, "servers")))
		}
		if err := shape.Check(); err != nil {
			t.Fatal(err)
		}
		l := layout{shape}
		used := map[netip.Addr]string{}
		use := func(address netip.Addr, by string) {
			if other, twice := used[address]; twice {
				t.Fatalf("%s and %s both have %s", other, by, address)
			}
			if !l.Network.Contains(address) {
				t.Fatalf("%s has %s, outside %s", by, address, l.Network)
			}
			used[address] = by
		}
		for _, c := range l.cables() {
			use(c.a.address.Addr(), c.a.namespace+" "+c.a.name)
			use(c.b.address.Addr(), c.b.namespace+" "+c.b.name)
			if c.a.address.Masked() != c.b.address.Masked() {
				t.Fatalf("%v and %v do not share a network", c.a, c.b)
			}
		}
		addresses := l.addresses()
		for i, site := range l.Sites {
			use(l.at(i+1, 1), "router of "+site.Name)
			for _, spec := range site.Servers {
				use(addresses[spec.Name], spec.Name)
				if !l.siteNetwork(i).Contains(addresses[spec.Name]) {
					t.Fatalf("%s has %s, outside %s", spec.Name, addresses[spec.Name], l.siteNetwork(i))
				}
			}
		}
	})
}

func TestLinkNamesFitTheKernel(t *testing.T) {
	shape := Default("abcdefgh")
	shape.Network = netip.MustParsePrefix("10.70.0.0/16")
	l := layout{shape}
	for _, c := range l.cables() {
		for _, name := range []string{c.a.name, c.b.name} {
			if len(name) > 15 {
				t.Errorf("%q is longer than the kernel takes", name)
			}
		}
	}
}

func TestFreeNetwork(t *testing.T) {
	for _, c := range []struct {
		wanted, routed, want, wrong string
	}{
		{"", "", "10.70.0.0/16", ""},
		{"", "10.70.3.0/24 192.168.0.0/16", "10.71.0.0/16", ""},
		{"", "10.64.0.0/10", "", "routes all of 10.70.0.0/16 to 10.119.0.0/16"},
		{"", "0.0.0.0/0", "10.70.0.0/16", ""},
		{"172.20.0.0/16", "10.0.0.0/8", "172.20.0.0/16", ""},
		{"10.9.0.0/16", "10.9.8.7/32", "", "routes 10.9.8.7/32 already"},
	} {
		var wanted netip.Prefix
		if c.wanted != "" {
			wanted = netip.MustParsePrefix(c.wanted)
		}
		var routed []netip.Prefix
		for _, text := range strings.Fields(c.routed) {
			routed = append(routed, netip.MustParsePrefix(text))
		}
		got, err := freeNetwork(wanted, routed)
		if c.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%q beside %q: %v, want %q", c.wanted, c.routed, err, c.wrong)
			}
		} else if err != nil || got.String() != c.want {
			t.Errorf("%q beside %q: %v, %v, want %s", c.wanted, c.routed, got, err, c.want)
		}
	}
}

func TestMirrorIn(t *testing.T) {
	for _, c := range []struct{ list, want string }{
		{"deb http://mirror.example/debian bookworm main\n", "http://mirror.example/debian"},
		{"deb [signed-by=/k] http://mirror.example/ubuntu/ noble main\n", "http://mirror.example/ubuntu"},
		{"# deb http://old.example/debian x main\nTypes: deb\nURIs: http://mirror.example/debian/\nSuites: bookworm\n", "http://mirror.example/debian"},
		{"deb http://mirror.example/debian-security bookworm-security main\n", ""},
		{"deb https://packages.example/apt stable main\n", ""},
		{"deb-src http://mirror.example/debian bookworm main\n", ""},
	} {
		if got := mirrorIn(c.list); got != c.want {
			t.Errorf("%q: %q, want %q", c.list, got, c.want)
		}
	}
}

// The clock of the very library that this test is built with can be changed.
func TestSkewedTimeChangesThisGo(t *testing.T) {
	root, err := output(t.Context(), "go", "env", "GOROOT")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go"))
	if err != nil {
		t.Fatal(err)
	}
	changed, err := skewedTime(source)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(changed), "Now()\n\tsec += labSkew\n") {
		t.Error("time.Now is as it was")
	}
	if _, err := skewedTime([]byte("package time\nfunc Now() Time { return Time{} }\n")); err == nil {
		t.Error("another Now was not refused")
	}
}
