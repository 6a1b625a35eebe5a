package servers

import (
	"crypto/ed25519"
	"crypto/md5"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// nameDomain is the domain of the servers' own names. The services' name server answers for it.
const nameDomain = "lab.test"

// sow writes what the server is given at its next start, before anything of its own runs.
func (s *Server) sow(files []File) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("make folder of %s: %w", s.Name, err)
	}
	seed, err := os.CreateTemp(s.dir, "seed-")
	if err != nil {
		return fmt.Errorf("write first files of %s: %w", s.Name, err)
	}
	if err := errors.Join(archive(seed, files), seed.Close()); err != nil {
		return fmt.Errorf("write first files of %s: %w", s.Name, err)
	}
	return os.Rename(seed.Name(), s.seedFile())
}

// ground is what every server is given: its name, whom it knows, who may log in, and how names are found.
func (s *Server) ground() ([]File, error) {
	hostKey, hostPublic, err := s.lab.sshKey(s.Name)
	if err != nil {
		return nil, err
	}
	_, operator, err := s.lab.sshKey("operator")
	if err != nil {
		return nil, err
	}
	files := []File{
		text("/etc/hostname", "%s\n", s.Name),
		text("/etc/machine-id", "%x\n", md5.Sum([]byte(s.lab.namespace(s.Name)))), // one that stays; no secret
		text("/etc/hosts", "%s", s.lab.hosts()),
		private("/etc/ssh/ssh_host_ed25519_key", hostKey),
		{Path: "/etc/ssh/ssh_host_ed25519_key.pub", Content: hostPublic},
		private("/root/.ssh/authorized_keys", operator),
		text("/etc/ssh/sshd_config.d/lab.conf", "HostKey /etc/ssh/ssh_host_ed25519_key\nUseDNS no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"),
	}
	if services := s.lab.Shape.of(Services); services != "" {
		files = append(files, text("/etc/resolv.conf", "nameserver %s\nsearch %s\noptions timeout:1 attempts:2\n", s.lab.addresses()[services], nameDomain))
	} else {
		files = append(files, text("/etc/resolv.conf", "# this lab has no name server\n"))
	}
	if s.Spec.Docker {
		files = append(files, wanted("docker.service"), wanted("containerd.service"))
	}
	return files, nil
}

// hosts is the file in which every server of the lab stands.
func (l *Lab) hosts() string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	addresses := l.addresses()
	for _, name := range slices.Sorted(maps.Keys(addresses)) {
		fmt.Fprintf(&b, "%s %s.%s %s\n", addresses[name], name, nameDomain, name)
	}
	return b.String()
}

// sshKey is the key pair of a server, or of the operator who may log in everywhere; made when it is first asked for.
// The public half is one line of an authorized_keys file.
func (l *Lab) sshKey(name string) (private, public []byte, err error) {
	path := filepath.Join(l.dir, "ssh", name)
	private, err = os.ReadFile(path)
	if err == nil {
		public, err = os.ReadFile(path + ".pub")
		return private, public, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	publicKey, privateKey, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, nil, err
	}
	block, err := ssh.MarshalPrivateKey(privateKey, name)
	if err != nil {
		return nil, nil, fmt.Errorf("make ssh key of %s: %w", name, err)
	}
	key, err := ssh.NewPublicKey(publicKey)
	if err != nil {
		return nil, nil, fmt.Errorf("make ssh key of %s: %w", name, err)
	}
	private, public = pem.EncodeToMemory(block), ssh.MarshalAuthorizedKey(key)
	err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path+".pub", public, 0o644), os.WriteFile(path, private, 0o600))
	return private, public, err
}

// writeKnown writes the file by which ssh knows every server.
func (l *Lab) writeKnown() error {
	var b strings.Builder
	for _, s := range l.Servers() {
		_, public, err := l.sshKey(s.Name)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s,%s,%s.%s %s", s.Address, s.Name, s.Name, nameDomain, public)
	}
	return os.WriteFile(l.knownHosts(), []byte(b.String()), 0o644)
}
