package servers

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast/lab"
)

// ControlPort is where the control plane answers.
const ControlPort = 8443

// URL is where the control plane answers; "" in a lab without one.
func (l *Lab) URL() string {
	name := l.of(Control)
	if name == "" {
		return ""
	}
	return fmt.Sprintf("https://%s:%d", l.addresses()[name], ControlPort)
}

// Context is the file by which the command line of this machine knows the control plane: HOLDFAST_CONTEXT.
func (l *Lab) Context() string { return filepath.Join(l.dir, "admin.json") }

// Fleet is a folder with the fleet files that follow from the shape. A product's own are put beside them.
func (l *Lab) Fleet() string { return filepath.Join(l.dir, "fleet") }

// install puts Holdfast onto the servers, where the lab has it: the control plane first, then the agents, which join
// with a token each. What is installed as it should be is left alone.
func (l *Lab) install(ctx context.Context) error {
	if l.Bin == "" {
		return nil
	}
	if err := l.installControl(ctx); err != nil {
		return err
	}
	if err := l.each(func(s *Server) error { return s.Join(ctx) }); err != nil {
		return err
	}
	if err := l.writeFleet(); err != nil {
		return err
	}
	return l.WaitSeen(ctx)
}

// installControl puts the control plane onto its server and waits until it is ready.
func (l *Lab) installControl(ctx context.Context) error {
	s, err := l.Server(l.of(Control))
	if err != nil {
		return err
	}
	fresh, err := s.putProgram(ctx, "holdfast")
	if err != nil {
		return err
	}
	files := append(unit("holdfast-server.service", controlUnit), l.controlSettings(s)...)
	if err := s.Put(ctx, files...); err != nil {
		return err
	}
	if err := s.startUnit(ctx, "holdfast-server", fresh); err != nil {
		return err
	}
	if err := l.WaitReady(ctx); err != nil {
		return err
	}
	admin, err := s.Run(ctx, "cat", "/var/lib/holdfast/admin.json")
	if err != nil {
		return err
	}
	return os.WriteFile(l.Context(), []byte(admin), 0o600)
}

// startUnit starts a unit, and anew where its program is another than before.
func (s *Server) startUnit(ctx context.Context, name string, anew bool) error {
	verb := "start"
	if anew {
		verb = "restart"
	}
	_, err := s.Run(ctx, "sh", "-ec", "systemctl daemon-reload; systemctl "+verb+" "+name)
	return err
}

// putProgram puts a program of the lab's Bin onto the server and tells whether it was another before.
func (s *Server) putProgram(ctx context.Context, name string) (fresh bool, err error) {
	from := filepath.Join(s.lab.Bin, name)
	want, err := output(ctx, "sha256sum", from)
	if err != nil {
		return false, err
	}
	have, err := s.Run(ctx, "sha256sum", "/usr/local/bin/"+name)
	if err == nil && strings.Fields(have)[0] == strings.Fields(string(want))[0] {
		return false, nil
	}
	// Beside and then over it: a program that runs cannot be written into.
	if err := s.Put(ctx, File{Path: "/usr/local/bin/." + name, Mode: 0o755, From: from}); err != nil {
		return false, err
	}
	_, err = s.Run(ctx, "mv", "/usr/local/bin/."+name, "/usr/local/bin/"+name)
	return true, err
}

const controlUnit = `[Unit]
Description=Holdfast control plane
After=network-online.target
StartLimitIntervalSec=0
[Service]
EnvironmentFile=/etc/holdfast/server.env
ExecStartPre=/bin/sh -c '[ -e /etc/holdfast/server.key ] || /usr/local/bin/holdfast server --new-key /etc/holdfast/server.key'
ExecStart=/usr/local/bin/holdfast server
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
`

func (l *Lab) controlSettings(s *Server) []File {
	settings := fmt.Sprintf("HOLDFAST_DATA=/var/lib/holdfast\nHOLDFAST_LISTEN=0.0.0.0:%d\nHOLDFAST_NAME=%s,%s.%s\nHOLDFAST_KEY_FILE=/etc/holdfast/server.key\n",
		ControlPort, s.Address, s.Name, nameDomain)
	services := l.Services()
	if services.DNS.Address == "" {
		return []File{private("/etc/holdfast/server.env", []byte(settings))}
	}
	dns := services.DNS
	return []File{
		private("/etc/holdfast/server.env", []byte(settings+"HOLDFAST_DNS=/etc/holdfast/dns.yaml\n")),
		private("/etc/holdfast/dns.yaml", fmt.Appendf(nil, "provider: rfc2136\nzone: %s\nttl: 2s\nserver: %q\nkey_name: %s\nkey_algorithm: %s\nkey: %q\n",
			dns.Zone, dns.Address, dns.KeyName, dns.Algorithm, dns.Key)),
	}
}

// WaitReady waits until the control plane can serve.
func (l *Lab) WaitReady(ctx context.Context) error {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	return lab.Until(ctx, 90*time.Second, 100*time.Millisecond, "start the control plane", func() (bool, string) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, l.URL()+"/readyz", nil)
		if err != nil {
			return false, err.Error()
		}
		answer, err := client.Do(request)
		if err != nil {
			return false, err.Error()
		}
		defer answer.Body.Close()
		return answer.StatusCode == http.StatusOK, "it answers " + answer.Status
	})
}

// Join puts the agent onto a node and lets it join with a token of its own. A node that has joined keeps its identity;
// on one that was wiped it is a new agent of the old name. On a server that is no node it does nothing.
func (s *Server) Join(ctx context.Context) error {
	if s.Duty != Node || s.lab.Bin == "" {
		return nil
	}
	fresh, err := s.putProgram(ctx, "holdfast-agent")
	if err != nil {
		return err
	}
	token := ""
	if _, err := s.Run(ctx, "test", "-e", "/var/lib/holdfast/identity.json"); err != nil {
		if token, err = s.lab.joinToken(ctx, s); err != nil {
			return err
		}
	}
	files := append(unit("holdfast-agent.service", agentUnit), private("/etc/holdfast/agent.env", []byte(s.agentSettings(token))))
	if s.lab.ACME {
		files = append(files, File{Path: acmeAuthority, From: s.lab.Services().ACME.CAFile})
	}
	if err := s.Put(ctx, append(files, s.wall()...)...); err != nil {
		return err
	}
	if slices.Contains(s.Roles, "vault") {
		if err := s.closeVault(ctx); err != nil {
			return err
		}
	}
	return s.startUnit(ctx, "holdfast-agent", fresh)
}

func (l *Lab) joinToken(ctx context.Context, s *Server) (string, error) {
	var made struct {
		Token string `json:"token"`
	}
	err := l.JSON(ctx, &made, "join-token", "create", "--node", s.Name, "--site", s.Site, "--roles", strings.Join(s.Roles, ","))
	return made.Token, err
}

// acmeAuthority is where a node has the authority of the issuer's own certificate.
const acmeAuthority = "/etc/holdfast/acme-ca.pem"

const agentUnit = `[Unit]
Description=Holdfast agent
After=network-online.target docker.service
StartLimitIntervalSec=0
[Service]
EnvironmentFile=/etc/holdfast/agent.env
ExecStart=/usr/local/bin/holdfast-agent agent
Restart=always
RestartSec=1
# The stacks and the edge go on while the agent is restarted or upgraded.
KillMode=process
Delegate=yes
[Install]
WantedBy=multi-user.target
`

// agentSettings are the variables of an agent. Without a token it starts from the identity that it has.
func (s *Server) agentSettings(token string) string {
	engine := "exec"
	if s.Spec.Docker {
		engine = "docker"
	}
	settings := []string{
		"HOLDFAST_SERVER=" + s.lab.URL(), "HOLDFAST_DATA=/var/lib/holdfast", "HOLDFAST_NODE=" + s.Name, "HOLDFAST_SITE=" + s.Site,
		"HOLDFAST_ROLES=" + strings.Join(s.Roles, ","), "HOLDFAST_ADDRESS=" + s.Address.String(), "HOLDFAST_ENGINE=" + engine,
	}
	if token != "" {
		settings = append(settings, "HOLDFAST_JOIN="+token)
	}
	if slices.Contains(s.Roles, "edge") && s.lab.ACME {
		settings = append(settings, "HOLDFAST_ACME_DIRECTORY="+s.lab.Services().ACME.Directory, "HOLDFAST_ACME_CA="+acmeAuthority, "HOLDFAST_ACME_EMAIL=ops@"+CustomerDomain)
	}
	if slices.Contains(s.Roles, "edge") {
		settings = append(settings, "HOLDFAST_EDGE_LISTEN="+s.Address.String()+":443", "HOLDFAST_EDGE_PLAIN_LISTEN="+s.Address.String()+":80")
	}
	return strings.Join(settings, "\n") + "\n"
}

// wall is the packet filter of a vault: it is reached over SFTP alone, by its agent's listener and by its own sshd.
func (s *Server) wall() []File {
	if !slices.Contains(s.Roles, "vault") {
		return nil
	}
	return []File{
		text("/etc/nftables.conf", `flush ruleset
table inet vault {
	chain in {
		type filter hook input priority 0; policy drop;
		iifname "lo" accept
		ct state established,related accept
		meta l4proto { icmp, ipv6-icmp } accept
		tcp dport { 22, 7422 } accept
	}
}
`),
		text("/etc/ssh/sshd_config.d/sftp.conf", "Subsystem sftp internal-sftp\nMatch User sftp\n\tForceCommand internal-sftp\n\tChrootDirectory /srv/sftp\n\tAllowTcpForwarding no\n"),
	}
}

// closeVault puts the vault's wall up and makes its account for plain SFTP, which the operator's key opens.
func (s *Server) closeVault(ctx context.Context) error {
	_, err := s.Run(ctx, "sh", "-ec", `
id sftp >/dev/null 2>&1 || useradd --system --home-dir /srv/sftp --shell /usr/sbin/nologin sftp
mkdir -p /srv/sftp/backups /srv/sftp/.ssh
cp /root/.ssh/authorized_keys /srv/sftp/.ssh/authorized_keys
chown sftp: /srv/sftp/backups; chmod 644 /srv/sftp/.ssh/authorized_keys
sed -i '/^Subsystem/d' /etc/ssh/sshd_config
systemctl enable --now nftables >/dev/null 2>&1
systemctl reload nftables ssh`)
	return err
}

// writeFleet writes the sites, as fleet files.
func (l *Lab) writeFleet() error {
	if err := os.MkdirAll(l.Fleet(), 0o755); err != nil {
		return fmt.Errorf("make fleet folder: %w", err)
	}
	return os.WriteFile(filepath.Join(l.Fleet(), "sites.yaml"), []byte(l.sites()), 0o644)
}

// sites declares every site. Instances of all of them are backed up into the lab's vault, where it has one.
func (l layout) sites() string {
	vault := ""
	for _, spec := range l.all() {
		if slices.Contains(spec.Roles, "vault") {
			vault = spec.Name
		}
	}
	var b strings.Builder
	for i, site := range l.Sites {
		if i > 0 {
			b.WriteString("---\n")
		}
		fmt.Fprintf(&b, "kind: Site\nname: %s\ndomain: %s\n", site.Name, CustomerDomain)
		if vault != "" {
			fmt.Fprintf(&b, "backup: {vault: %s}\n", vault)
		}
	}
	return b.String()
}

// WaitSeen waits until the control plane sees every node that has power.
func (l *Lab) WaitSeen(ctx context.Context) error {
	return lab.Until(ctx, 90*time.Second, 200*time.Millisecond, "see every node", func() (bool, string) {
		var seen []lab.NodeView
		if err := l.JSON(ctx, &seen, "get", "nodes"); err != nil {
			return false, err.Error()
		}
		var awaited []string
		for _, s := range l.servers {
			ready := slices.ContainsFunc(seen, func(n lab.NodeView) bool { return n.Node == s.Name && n.State == "ready" })
			if s.Duty == Node && s.On() && !ready {
				awaited = append(awaited, s.Name)
			}
		}
		return len(awaited) == 0, strings.Join(awaited, ", ") + " not in reach"
	})
}

// Command is a holdfast command as the operator types it on this machine.
func (l *Lab) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(l.Bin, "holdfast"), args...)
	cmd.Env = append(os.Environ(), "HOLDFAST_CONTEXT="+l.Context())
	return cmd
}

// Holdfast types a holdfast command and returns what it printed; its error holds what it said.
func (l *Lab) Holdfast(ctx context.Context, args ...string) (string, error) {
	cmd := l.Command(ctx, args...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("holdfast %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return out.String(), nil
}

// JSON types a holdfast command with -o json and decodes what it printed.
func (l *Lab) JSON(ctx context.Context, into any, args ...string) error {
	out, err := l.Holdfast(ctx, append(slices.Clone(args), "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return errors.Join(fmt.Errorf("read the JSON of holdfast %s", strings.Join(args, " ")), err)
	}
	return nil
}
