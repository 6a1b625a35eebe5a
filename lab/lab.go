// Package lab runs many nodes on one machine, with faults.
//
// Words: a Lab is a control plane and its nodes, each a real process (or a network namespace with its own engine) with
// its own data directory and loopback address; to lose a site is to kill every process of its nodes at once, stacks
// included.
//
// Invariant: the lab drives Holdfast only through its command line and its nodes' processes, as an operator and a
// disaster would; it reaches into no data directory.
package lab

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Node is one node to run: its roles decide what its agent does.
type Node struct {
	Name    string
	Site    string
	Roles   string // comma separated: run, spare, vault, edge, probe
	Address string // loopback address of its own, or the one in its own network
	Extra   []string
	space   string // network namespace; "" = this machine's
}

// Lab is a control plane and its nodes on this machine. Dir is absolute and holds everything; Bin is the folder of
// the programs.
type Lab struct {
	Dir    string
	Bin    string
	Listen string // host:port of the control plane
	Nodes  []Node
	DB     string // control database, postgres://...; "" = a SQLite file in the server's folder

	network *network // nil = all nodes are on loopback
	server  *process
	agents  map[string]*process
}

// New lays out a lab in dir, which must not hold one that runs.
func New(dir, bin string, nodes []Node) (*Lab, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "logs"), 0o700); err != nil {
		return nil, fmt.Errorf("make lab folder: %w", err)
	}
	listen, err := freeAddress("127.0.0.1")
	if err != nil {
		return nil, err
	}
	return &Lab{Dir: dir, Bin: bin, Listen: listen, Nodes: nodes, agents: map[string]*process{}}, nil
}

// freeAddress finds a port that nothing listens on. Another process may take it before it is used; the start then
// fails and says so.
func freeAddress(ip string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		return "", fmt.Errorf("find a free port on %s: %w", ip, err)
	}
	return l.Addr().String(), l.Close()
}

// URL is where the control plane answers.
func (l *Lab) URL() string { return "https://" + l.Listen }

func (l *Lab) log(name string) string { return filepath.Join(l.Dir, "logs", name+".log") }

func (l *Lab) program() string { return filepath.Join(l.Bin, "holdfast") }

func (l *Lab) context() string { return filepath.Join(l.Dir, "server", "admin.json") }

// StartServer makes a key on the first start, starts the control plane and waits until it is ready.
func (l *Lab) StartServer(ctx context.Context) error {
	key := filepath.Join(l.Dir, "server.key")
	if _, err := os.Stat(key); errors.Is(err, os.ErrNotExist) {
		if out, err := exec.CommandContext(ctx, l.program(), "server", "--new-key", key).CombinedOutput(); err != nil {
			return fmt.Errorf("make the server's key: %w: %s", err, out)
		}
	}
	p, err := start(l.log("server"), []string{dirVariable + "=" + l.Dir}, l.program(), "server",
		"--data", filepath.Join(l.Dir, "server"), "--listen", l.Listen, "--key-file", key, "--db", l.DB)
	if err != nil {
		return err
	}
	l.server = p
	return Until(ctx, 60*time.Second, 50*time.Millisecond, "start the control plane", func() (bool, string) {
		if !p.alive() {
			return false, "it ended: see " + l.log("server")
		}
		err := l.ready(ctx)
		return err == nil, fmt.Sprint(err)
	})
}

// ready asks the control plane whether it can serve. Who answers does not matter yet: nothing is said to it.
func (l *Lab) ready(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, l.URL()+"/readyz", nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("readyz answers %s", response.Status)
	}
	return nil
}

// KillServer kills the control plane at once.
func (l *Lab) KillServer() {
	_ = l.server.cmd.Process.Kill() // it may have ended already
	<-l.server.done
}

// Join makes a one-time token for every node and starts its agent.
func (l *Lab) Join(ctx context.Context) error {
	for _, n := range l.Nodes {
		var token struct {
			Token string `json:"token"`
		}
		if err := l.JSON(ctx, &token, "join-token", "create", "--site", n.Site, "--roles", n.Roles); err != nil {
			return err
		}
		if err := l.StartNode(n.Name, "--join", token.Token); err != nil {
			return err
		}
	}
	return l.AllSeen(ctx)
}

// node finds a node by name.
func (l *Lab) node(name string) (Node, error) {
	for _, n := range l.Nodes {
		if n.Name == name {
			return n, nil
		}
	}
	return Node{}, fmt.Errorf("the lab has no node %s", name)
}

// StartNode starts the agent of a node, with its data directory as it is.
func (l *Lab) StartNode(name string, extra ...string) error {
	n, err := l.node(name)
	if err != nil {
		return err
	}
	args := []string{"agent", "--server", l.URL(), "--data", filepath.Join(l.Dir, "nodes", n.Name),
		"--node", n.Name, "--site", n.Site, "--roles", n.Roles, "--address", n.Address, "--engine", "exec"}
	args = append(append(args, n.Extra...), extra...)
	program := l.program()
	if n.space != "" {
		program, args = "nsenter", append([]string{"--net=/run/netns/" + n.space, program}, args...) // it becomes the agent
	}
	p, err := start(l.log(n.Name), []string{NodeVariable + "=" + n.Name, dirVariable + "=" + l.Dir}, program, args...)
	if err != nil {
		return err
	}
	l.agents[name] = p
	return nil
}

// KillAgent kills the agent of a node at once and leaves the stacks that it started.
func (l *Lab) KillAgent(name string) {
	if p := l.agents[name]; p != nil {
		_ = p.cmd.Process.Kill() // it may have ended already
		<-p.done
	}
}

// StartDead starts every agent that was started once and runs no more.
func (l *Lab) StartDead() error { return l.StartDeadOf("") }

// StartDeadOf is StartDead for the nodes of one site; for those of all sites with "".
func (l *Lab) StartDeadOf(site string) error {
	for name, p := range l.agents {
		if n, err := l.node(name); p.alive() || err != nil || site != "" && n.Site != site {
			continue
		}
		if err := l.StartNode(name); err != nil {
			return err
		}
	}
	return nil
}

// NodeView is what the command line tells of a node.
type NodeView struct {
	Node  string `json:"node"`
	Site  string `json:"site"`
	State string `json:"state"`
}

// AllSeen waits until every node has reported and is in reach.
func (l *Lab) AllSeen(ctx context.Context) error {
	return Until(ctx, 60*time.Second, 100*time.Millisecond, "see every node", func() (bool, string) {
		var seen []NodeView
		if err := l.JSON(ctx, &seen, "get", "nodes"); err != nil {
			return false, err.Error()
		}
		ready := 0
		for _, n := range seen {
			if n.State == "ready" {
				ready++
			}
		}
		return ready == len(l.Nodes), fmt.Sprintf("%d of %d nodes are in reach", ready, len(l.Nodes))
	})
}

// LoseSite kills every process of the site's nodes at once, and returns how many there were.
func (l *Lab) LoseSite(ctx context.Context, site string) (int, error) {
	return killAll(ctx, l.Dir, l.namesOf(site)...)
}

// ReturnSite starts the agents of a lost site again, as a data center whose power is back.
func (l *Lab) ReturnSite(site string) error {
	for _, name := range l.namesOf(site) {
		if err := l.StartNode(name); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) namesOf(site string) []string {
	var names []string
	for _, n := range l.Nodes {
		if n.Site == site {
			names = append(names, n.Name)
		}
	}
	return names
}

// Down ends everything the lab started, stacks included.
func (l *Lab) Down(ctx context.Context) error {
	if l.server != nil && l.server.alive() {
		l.server.stop(5 * time.Second)
	}
	var names []string
	for _, n := range l.Nodes {
		names = append(names, n.Name)
	}
	_, err := killAll(ctx, l.Dir, names...)
	if l.network != nil {
		err = errors.Join(err, l.network.down())
	}
	return err
}

// Command is a holdfast command as the operator types it.
func (l *Lab) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, l.program(), args...)
	cmd.Env = append(os.Environ(), "HOLDFAST_CONTEXT="+l.context())
	return cmd
}

// Run types a holdfast command and returns what it printed.
func (l *Lab) Run(ctx context.Context, args ...string) (string, error) {
	cmd := l.Command(ctx, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if err != nil {
		return out.String(), fmt.Errorf("holdfast %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// JSON types a holdfast command with -o json and decodes what it printed.
func (l *Lab) JSON(ctx context.Context, into any, args ...string) error {
	out, err := l.Run(ctx, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("holdfast %s: read its JSON: %w", strings.Join(args, " "), err)
	}
	return nil
}
