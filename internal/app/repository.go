//go:build !slim

package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
	"holdfast/internal/vault/disk"
	"holdfast/internal/vault/mount"
	"holdfast/internal/vault/s3"
	"holdfast/internal/vault/serve"
	"holdfast/internal/vault/sftp"
)

// OpenStore opens the store a URL names: a path, sftp://user@host:port/path or s3://endpoint/bucket/prefix.
// What it needs besides comes from the environment: HOLDFAST_SSH_KEY (a private key file), the SSH agent,
// HOLDFAST_KNOWN_HOSTS (default ~/.ssh/known_hosts), AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
func OpenStore(ctx context.Context, address string) (vault.Store, error) {
	scheme, _, found := strings.Cut(address, "://")
	if !found {
		if address == "" {
			return nil, problem.New(problem.Usage, "--repo PATH, --repo sftp://user@host/path or --repo s3://endpoint/bucket/prefix", "no repository was named")
		}
		return disk.Open(address), nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, problem.New(problem.Usage, "", "repository %q: %s", address, err)
	}
	switch scheme {
	case "file":
		return disk.Open(u.Path), nil
	case "sftp":
		return dialSFTP(ctx, u)
	case "s3":
		return openS3(ctx, address)
	}
	return nil, problem.New(problem.Usage, "use a path, sftp:// or s3://", "repository %q: no store is called %q", address, scheme)
}

func openS3(ctx context.Context, address string) (vault.Store, error) {
	config, err := bucketConfig(address)
	if err != nil {
		return nil, err
	}
	return s3.Open(ctx, config)
}

func dialSFTP(ctx context.Context, u *url.URL) (vault.Store, error) {
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "22")
	}
	auth, err := sshAuth()
	if err != nil {
		return nil, err
	}
	known, err := knownHosts()
	if err != nil {
		return nil, err
	}
	store, err := sftp.Open(ctx, sftp.Config{
		Addr: host, User: sshUser(u), Auth: auth, HostKey: known, HostKeyAlgorithms: hostKeyAlgorithms(known, host), Path: u.Path,
	})
	var unknown *knownhosts.KeyError
	if errors.As(err, &unknown) {
		hint := fmt.Sprintf("ssh-keyscan -p %s %s >> %s   (and compare the fingerprint)", portOf(host), u.Hostname(), knownHostsFile())
		return nil, problem.Wrap(err, problem.Denied, hint, "repository %s was not opened", u.Redacted())
	}
	if err != nil {
		return nil, err
	}
	return store, nil
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

func sshUser(u *url.URL) string {
	if u.User != nil && u.User.Username() != "" {
		return u.User.Username()
	}
	if me, err := user.Current(); err == nil {
		return me.Username
	}
	return "root"
}

// sshAuth takes the key of HOLDFAST_SSH_KEY, else the SSH agent's and the usual files'.
func sshAuth() ([]ssh.AuthMethod, error) {
	if file := os.Getenv("HOLDFAST_SSH_KEY"); file != "" {
		signer, err := readSigner(file)
		if err != nil {
			return nil, problem.Wrap(err, problem.WrongKey, "set HOLDFAST_SSH_KEY to a private key without a passphrase, or use ssh-agent", "key %s was not read", file)
		}
		return []ssh.AuthMethod{ssh.PublicKeys(signer)}, nil
	}
	var signers []ssh.Signer
	if socket := os.Getenv("SSH_AUTH_SOCK"); socket != "" {
		if conn, err := net.Dial("unix", socket); err == nil {
			if held, err := agent.NewClient(conn).Signers(); err == nil {
				signers = append(signers, held...)
			}
		}
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/"
	}
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		if signer, err := readSigner(filepath.Join(home, ".ssh", name)); err == nil {
			signers = append(signers, signer)
		}
	}
	if len(signers) == 0 {
		return nil, problem.New(problem.Denied, "export HOLDFAST_SSH_KEY=FILE", "no SSH key was found: neither in HOLDFAST_SSH_KEY, nor in an agent, nor in ~/.ssh")
	}
	return []ssh.AuthMethod{ssh.PublicKeys(signers...)}, nil
}

func readSigner(file string) (ssh.Signer, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return ssh.ParsePrivateKey(text)
}

func knownHostsFile() string {
	if file := os.Getenv("HOLDFAST_KNOWN_HOSTS"); file != "" {
		return file
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/"
	}
	return filepath.Join(home, ".ssh", "known_hosts")
}

func knownHosts() (ssh.HostKeyCallback, error) {
	file := knownHostsFile()
	check, err := knownhosts.New(file)
	if err != nil {
		return nil, problem.Wrap(err, problem.Denied, "ssh-keyscan HOST >> "+file+"   (and compare the fingerprint)", "the keys of known hosts were not read")
	}
	return check, nil
}

// hostKeyAlgorithms asks the file which kinds of keys it knows of this server: a server that has several must show one of those.
func hostKeyAlgorithms(check ssh.HostKeyCallback, addr string) []string {
	var known *knownhosts.KeyError
	if err := check(addr, &net.TCPAddr{}, noKey{}); !errors.As(err, &known) {
		return nil
	}
	var out []string
	for _, k := range known.Want {
		if kind := k.Key.Type(); kind == ssh.KeyAlgoRSA {
			out = append(out, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		} else {
			out = append(out, kind)
		}
	}
	return out
}

// noKey is a key that no file holds.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("not a key") }

// ServeVault speaks SFTP over a connection with what a grant allows, and nothing else.
func ServeVault(conn serveConn, root string, g serve.Grant) error { return serve.Serve(conn, root, g) }

type serveConn interface {
	Read([]byte) (int, error)
	Write([]byte) (int, error)
	Close() error
}

// VaultGrant is what one SSH key may do with one repository.
type VaultGrant = serve.Grant

// VaultRights are what a grant allows.
type VaultRights = serve.Rights

// MountVault shows snapshots as a read-only file system at dir until ctx ends.
func MountVault(ctx context.Context, dir string, snapshots []vault.SnapshotInfo, open mount.Open, ready func()) error {
	err := mount.Run(ctx, dir, snapshots, open, ready)
	if errors.Is(err, mount.ErrMissing) {
		return problem.Wrap(err, problem.Unavailable, "modprobe fuse, as root; or restore --path what you look for", "the snapshots were not shown")
	}
	return err
}
