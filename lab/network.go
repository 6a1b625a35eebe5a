package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// network gives some nodes a network of their own, joined to this machine by a wire each, so that a cut on a node hits
// that node alone. Addresses are of 198.18.0.0/15, which is set aside for such benches.
type network struct {
	name   string   // of its interfaces, with a number each
	prefix string   // "198.18.7."
	spaces []string // network namespaces
	hosts  []string // addresses on this machine's loopback
}

// NetworksMissing says why nodes cannot have networks of their own here; "" when they can.
func NetworksMissing() string {
	if os.Geteuid() != 0 {
		return "only root may make network namespaces"
	}
	for _, program := range []string{"ip", "nsenter", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			return "there is no " + program + " (apt-get install iproute2 util-linux nftables)"
		}
	}
	if out, err := exec.Command("nsenter", "--net=/proc/self/ns/net", "nft", "list", "tables").CombinedOutput(); err != nil {
		return "nft does not work here: " + strings.TrimSpace(string(out))
	}
	return ""
}

// Isolate gives each of the nodes a network of its own. What they must reach stands outside: the control plane and the
// vault get addresses that are neither's. It is called before anything is started; Down takes the networks away.
func (l *Lab) Isolate(vault string, nodes ...string) error {
	n, err := newNetwork()
	if err != nil {
		return err
	}
	l.network = n
	for i, name := range nodes {
		address, err := n.wire(i)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(l.Nodes, func(node Node) bool { return node.Name == name })
		l.Nodes[at].Address, l.Nodes[at].space = address, n.spaces[i]
	}
	server, err := n.host(250)
	if err != nil {
		return err
	}
	if l.Listen, err = freeAddress(server); err != nil {
		return err
	}
	at := slices.IndexFunc(l.Nodes, func(node Node) bool { return node.Name == vault })
	if l.Nodes[at].Address, err = n.host(251); err != nil {
		return err
	}
	listen, err := freeAddress(l.Nodes[at].Address)
	l.Nodes[at].Extra = []string{"--vault-listen", listen}
	return err
}

// newNetwork finds a name and a range that nobody uses.
func newNetwork() (*network, error) {
	for i := range 250 {
		n := &network{name: fmt.Sprintf("hfl%d-", (os.Getpid()+i)%250), prefix: fmt.Sprintf("198.18.%d.", (os.Getpid()+i)%250)}
		links, err := exec.Command("ip", "-brief", "address").Output()
		if err != nil {
			return nil, fmt.Errorf("list the network's interfaces: %w", err)
		}
		if !strings.Contains(string(links), n.name) && !strings.Contains(string(links), n.prefix) {
			return n, nil
		}
	}
	return nil, errors.New("every network of the lab's range is in use: ip -brief address")
}

// wire makes the network of the ith node and gives the node's address in it.
func (n *network) wire(i int) (address string, err error) {
	space := fmt.Sprintf("%s%d", n.name, i+1)
	here, there := fmt.Sprintf("%s%d", n.prefix, 4*i+1), fmt.Sprintf("%s%d", n.prefix, 4*i+2)
	n.spaces = append(n.spaces, space)
	return there, ip(
		"netns add "+space,
		"link add "+space+" type veth peer name eth0 netns "+space,
		"address add "+here+"/30 dev "+space,
		"link set "+space+" up",
		"-n "+space+" address add "+there+"/30 dev eth0",
		"-n "+space+" link set lo up",
		"-n "+space+" link set eth0 up",
		"-n "+space+" route add default via "+here,
	)
}

// host adds an address of this machine that no wire has.
func (n *network) host(number int) (address string, err error) {
	address = fmt.Sprintf("%s%d", n.prefix, number)
	n.hosts = append(n.hosts, address)
	return address, ip("address add " + address + "/32 dev lo")
}

// down takes everything away; an interface goes with its namespace.
func (n *network) down() error {
	var failed []error
	for _, space := range n.spaces {
		failed = append(failed, ip("netns delete "+space))
	}
	for _, address := range n.hosts {
		failed = append(failed, ip("address delete "+address+"/32 dev lo"))
	}
	return errors.Join(failed...)
}

func ip(commands ...string) error {
	for _, command := range commands {
		if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", command, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// Rules are the packet filter's rules in a node's own network.
func (l *Lab) Rules(node string) (string, error) {
	n, err := l.node(node)
	if err != nil {
		return "", err
	}
	out, err := exec.Command("nsenter", "--net=/run/netns/"+n.space, "nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("list the rules of node %s: %w: %s", node, err, out)
	}
	return string(out), nil
}
