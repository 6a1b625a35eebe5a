package servers

import (
	"fmt"
	"net/netip"
)

// layout is where everything of a shape is: names of namespaces, addresses, links. It follows from the shape alone.
//
// The plan, in a network 10.N.0.0/16: site i has 10.N.i.0/24 (i from 1), its router .1 and its servers from .11; the
// link from the core to the router of site i is 10.N.255.4i/30; the link from this machine to the core 10.N.254.0/30.
type layout struct {
	Shape
}

func (l layout) namespace(name string) string { return "hf-" + l.Name + "-" + name }
func (l layout) core() string                 { return l.namespace("core") }
func (l layout) router(site string) string    { return l.namespace("r-" + site) }
func (l layout) hostLink() string             { return "hf-" + l.Name }
func (l layout) group() string                { return "hf-" + l.Name }

func (l layout) at(c, d int) netip.Addr {
	a := l.Network.Addr().As4()
	return netip.AddrFrom4([4]byte{a[0], a[1], byte(c), byte(d)})
}

// siteNetwork is the network of the i-th site, counted from 0.
func (l layout) siteNetwork(i int) netip.Prefix { return netip.PrefixFrom(l.at(i+1, 0), 24) }

// hostAddress is this machine's own address in the lab.
func (l layout) hostAddress() netip.Addr { return l.at(254, 2) }

// addresses gives every server its address, by name.
func (l layout) addresses() map[string]netip.Addr {
	all := map[string]netip.Addr{}
	for i, site := range l.Sites {
		for k, spec := range site.Servers {
			all[spec.Name] = l.at(i+1, 11+k)
		}
	}
	return all
}

// namespaces lists the network namespaces of the core and the routers. Those of servers come and go with their power.
func (l layout) namespaces() []string {
	all := []string{l.core()}
	for _, site := range l.Sites {
		all = append(all, l.router(site.Name))
	}
	return all
}

// end is one end of a link. Namespace "" is this machine's own.
type end struct {
	namespace, name string
	address         netip.Prefix
}

// cable is a link between two ends.
type cable struct{ a, b end }

// cables lists the links of the core. A server's own is made with its power.
func (l layout) cables() []cable {
	all := []cable{{
		end{name: l.hostLink(), address: netip.PrefixFrom(l.hostAddress(), 30)},
		end{namespace: l.core(), name: "host", address: netip.PrefixFrom(l.at(254, 1), 30)},
	}}
	for i, site := range l.Sites {
		all = append(all, cable{
			end{namespace: l.core(), name: site.Name, address: netip.PrefixFrom(l.at(255, 4*(i+1)+1), 30)},
			end{namespace: l.router(site.Name), name: "wan", address: netip.PrefixFrom(l.at(255, 4*(i+1)+2), 30)},
		})
	}
	return all
}

// settings lists, for each namespace ("" is this machine's own), the ip commands that give it its addresses and
// routes once its links are there. Each may be run again.
func (l layout) settings() map[string][]string {
	all := map[string][]string{}
	add := func(namespace, format string, args ...any) {
		all[namespace] = append(all[namespace], fmt.Sprintf(format, args...))
	}
	for _, namespace := range l.namespaces() {
		add(namespace, "link set lo up")
	}
	for i, site := range l.Sites {
		add(l.router(site.Name), "addr replace %s/24 dev lan", l.at(i+1, 1))
		add(l.router(site.Name), "link set lan up")
	}
	for _, c := range l.cables() {
		for _, e := range []end{c.a, c.b} {
			add(e.namespace, "addr replace %s dev %s", e.address, e.name)
			add(e.namespace, "link set %s up", e.name)
		}
	}
	l.addRoutes(add)
	return all
}

func (l layout) addRoutes(add func(namespace, format string, args ...any)) {
	add("", "route replace %s via %s", l.Network, l.at(254, 1))
	for i, site := range l.Sites {
		add(l.core(), "route replace %s via %s", l.siteNetwork(i), l.at(255, 4*(i+1)+2))
		add(l.router(site.Name), "route replace default via %s", l.at(255, 4*(i+1)+1))
	}
}

// power is the text of the settings by which boot.sh gives a server its power, as shell variables; every value is made
// of letters, digits and . : / - alone, so none needs quotes.
func (l layout) power(site, server, base string) string {
	i := l.siteIndex(site)
	address := l.addresses()[server]
	octets := address.As4()
	// The hardware address follows from the other, so that neighbours know the server again after a start.
	mac := fmt.Sprintf("02:68:%02x:%02x:%02x:%02x", octets[0], octets[1], octets[2], octets[3])
	return fmt.Sprintf("name=%s\nrouter=%s\nnamespace=%s\naddress=%s/24\ngateway=%s\nmac=%s\ngroup=%s/%s\nbase=%s\n",
		server, l.router(site), l.namespace(server), address, l.at(i+1, 1), mac, l.group(), server, base)
}
