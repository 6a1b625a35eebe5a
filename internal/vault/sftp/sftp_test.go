package sftp_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/time/rate"

	"holdfast/internal/vault"
	"holdfast/internal/vault/s3"
	"holdfast/internal/vault/s3/s3test"
	"holdfast/internal/vault/serve"
	"holdfast/internal/vault/sftp"
	"holdfast/internal/vault/vaulttest"
)

func newSigner(t testing.TB) (ssh.Signer, ed25519.PrivateKey) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s, key
}

// ours runs our listener and returns how to reach it.
func ours(t testing.TB, rights serve.Rights) sftp.Config {
	return listening(t, rights, nil)
}

// bucketed is our server over an object storage, which each session opens for itself.
func bucketed(t testing.TB, rights serve.Rights) sftp.Config {
	_, at := s3test.New(t)
	return listening(t, rights, func(ctx context.Context, prefix string) (serve.Bucket, error) {
		mine := at
		mine.Prefix = prefix
		return s3.Open(ctx, mine)
	})
}

func listening(t testing.TB, rights serve.Rights, bucket func(context.Context, string) (serve.Bucket, error)) sftp.Config {
	t.Helper()
	hostKey, _ := newSigner(t)
	client, _ := newSigner(t)
	ready := make(chan net.Addr, 1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	l := &serve.Listener{Addr: "127.0.0.1:0", Root: t.TempDir(), Bucket: bucket, HostKey: hostKey, Ready: func(a net.Addr) { ready <- a },
		Authorize: func(_ string, k ssh.PublicKey) (serve.Grant, bool) {
			return serve.Grant{Prefix: "acme", Rights: rights}, string(k.Marshal()) == string(client.PublicKey().Marshal())
		}}
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return sftp.Config{Addr: (<-ready).String(), User: "node", Path: "/acme", Patience: 10 * time.Second,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(client)}, HostKey: ssh.FixedHostKey(hostKey.PublicKey())}
}

// plain runs the system's sshd, which knows nothing of us.
func plain(t testing.TB) sftp.Config {
	t.Helper()
	dir := t.TempDir()
	hostKey, hostPrivate := newSigner(t)
	client, _ := newSigner(t)
	block, err := ssh.MarshalPrivateKey(hostPrivate, "")
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	port := freePort(t)
	config := fmt.Sprintf("Port %d\nListenAddress 127.0.0.1\nHostKey %s\nAuthorizedKeysFile %s\nStrictModes no\nUsePAM no\nPidFile none\nSubsystem sftp internal-sftp\nPermitRootLogin yes\n",
		port, write("host", pem.EncodeToMemory(block)), write("authorized", ssh.MarshalAuthorizedKey(client.PublicKey())))
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil && os.Getuid() == 0 {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", write("config", []byte(config)))
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	awaitPort(t, addr)
	return sftp.Config{Addr: addr, User: userName(), Path: filepath.Join(t.TempDir(), "repo"), Patience: 10 * time.Second,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(client)}, HostKey: ssh.FixedHostKey(hostKey.PublicKey())}
}

func userName() string {
	if u := os.Getenv("USER"); u != "" {
		return u
	}
	return "root"
}

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func awaitPort(t testing.TB, addr string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return
		}
	}
	t.Fatalf("nothing listens on %s", addr)
}

func open(t testing.TB, c sftp.Config) vault.Store {
	t.Helper()
	s, err := sftp.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	servers := map[string]func(testing.TB) sftp.Config{
		"ours": func(t testing.TB) sftp.Config { return ours(t, serve.Rights{Write: true, Read: true, Prune: true}) },
		"ours, over S3": func(t testing.TB) sftp.Config {
			return bucketed(t, serve.Rights{Write: true, Read: true, Prune: true})
		},
	}
	if _, err := os.Stat("/usr/sbin/sshd"); err == nil {
		servers["plain sshd"] = plain
	}
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			vaulttest.Run(t, func(t *testing.T) vault.Store { return open(t, start(t)) })
		})
	}
}

// TestDroppedConnections cuts every line after a while, again and again; the store must not notice.
func TestDroppedConnections(t *testing.T) {
	c := ours(t, serve.Rights{Write: true, Read: true})
	var cuts atomic.Int32
	c.Addr = cutter(t, c.Addr, 3<<20, &cuts)
	s := open(t, c)
	for i := range 12 {
		body := make([]byte, 1<<20)
		rand.Read(body)
		name := fmt.Sprintf("packs/%064x", i)
		if err := s.Put(t.Context(), name, body); err != nil {
			t.Fatalf("put %d after %d cuts: %v", i, cuts.Load(), err)
		}
		r, err := s.Get(t.Context(), name, 0, -1)
		if err != nil {
			t.Fatalf("get %d after %d cuts: %v", i, cuts.Load(), err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != string(body) {
			t.Fatalf("object %d differs, %v", i, err)
		}
	}
	if cuts.Load() == 0 {
		t.Fatal("no connection was cut: the test proves nothing")
	}
}

// cutter passes connections on and cuts each after limit bytes from the client.
func cutter(t *testing.T, to string, limit int64, cuts *atomic.Int32) string {
	return between(t, to, func(server, from net.Conn) {
		if n, _ := io.CopyN(server, from, limit); n == limit {
			cuts.Add(1)
		}
		from.Close()
		server.Close()
	})
}

// between stands between client and server; carry brings the client's bytes to the server.
func between(t *testing.T, to string, carry func(server, from net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				from.Close()
				return
			}
			go func() { _, _ = io.Copy(from, server); from.Close() }()
			go carry(server, from)
		}
	}()
	return l.Addr().String()
}

// TestSlowAndDroppedBackup backs a tree up, and restores it, over slow lines: the first ones are cut in the middle of a
// pack, the later ones after each.
func TestSlowAndDroppedBackup(t *testing.T) {
	c := ours(t, serve.Rights{Write: true, Read: true})
	var cuts, lines atomic.Int32
	c.Addr = between(t, c.Addr, func(server, from net.Conn) {
		slow := rate.NewLimiter(8<<20, 256<<10) // bytes a second
		buffer, left := make([]byte, 32<<10), 24<<20
		if lines.Add(1) <= 4 {
			left = 6 << 20
		}
		for left > 0 {
			n, err := from.Read(buffer)
			if err != nil || slow.WaitN(t.Context(), n) != nil {
				break
			}
			if _, err := server.Write(buffer[:n]); err != nil {
				break
			}
			if left -= n; left <= 0 {
				cuts.Add(1)
			}
		}
		from.Close()
		server.Close()
	})
	store, people, src := open(t, c), vaulttest.NewKey(t), t.TempDir()
	vaulttest.MakeTree(t, src, 41, 30)
	body := make([]byte, 20<<20)
	vaulttest.Noise(4, body)
	if err := os.WriteFile(filepath.Join(src, "big"), body, 0o600); err != nil {
		t.Fatal(err)
	}
	repo, key, err := vault.Init(t.Context(), store, vault.InitOptions{Instance: "acme", Recipients: []string{people.Public}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Backup(t.Context(), key, vault.BackupOptions{Sources: []vault.Source{{Name: "data", Path: src}}}); err != nil {
		t.Fatalf("after %d cuts: %v", cuts.Load(), err)
	}
	if cuts.Load() == 0 {
		t.Fatal("no connection was cut: the test proves nothing")
	}
	envelopes, err := repo.Envelopes(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	id, err := vault.OpenEnvelopePGP(envelopes[0], people.Secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	if _, err := repo.Restore(t.Context(), vault.RestoreOptions{Snapshot: "latest", Identities: []vault.EpochIdentity{id}, To: out}); err != nil {
		t.Fatal(err)
	}
	if d := vaulttest.Diff(vaulttest.Describe(t, src), vaulttest.Describe(t, filepath.Join(out, "data"))); len(d) > 0 {
		t.Fatalf("%d differences: %q", len(d), d[0])
	}
}

// TestSilentLine has the first lines stand still after a while without being closed, as when a cable is pulled.
func TestSilentLine(t *testing.T) {
	c := ours(t, serve.Rights{Write: true, Read: true})
	c.Patience = 2 * time.Second
	var lines atomic.Int32
	c.Addr = between(t, c.Addr, func(server, from net.Conn) {
		if lines.Add(1) <= 2 {
			_, _ = io.CopyN(server, from, 1<<20)
			<-t.Context().Done() // no more of it arrives
		} else {
			_, _ = io.Copy(server, from)
		}
		from.Close()
		server.Close()
	})
	s, body, name := open(t, c), make([]byte, 4<<20), fmt.Sprintf("packs/%064x", 1)
	rand.Read(body)
	for end := time.Now().Add(time.Minute); ; {
		err := s.Put(t.Context(), name, body)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("after %d lines: %v", lines.Load(), err)
		}
	}
	if lines.Load() < 2 {
		t.Fatal("no line fell silent: the test proves nothing")
	}
	r, err := s.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || string(got) != string(body) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

func TestWrongHostKey(t *testing.T) {
	c := ours(t, serve.Rights{Write: true})
	other, _ := newSigner(t)
	c.HostKey = ssh.FixedHostKey(other.PublicKey())
	if s, err := sftp.Open(t.Context(), c); err == nil {
		s.Close()
		t.Fatal("a server with another host key was believed")
	}
}

// One thing after the other needs one connection: a handshake costs more than most of what is asked for.
func TestWorkInTurnStaysOnOneConnection(t *testing.T) {
	c := ours(t, serve.Rights{Write: true, Read: true})
	var handshakes atomic.Int64
	known := c.HostKey
	c.HostKey = func(host string, remote net.Addr, key ssh.PublicKey) error {
		handshakes.Add(1)
		return known(host, remote, key)
	}
	s := open(t, c)
	for i := range 6 {
		name := fmt.Sprintf("packs/%064d", i)
		if err := s.Put(t.Context(), name, []byte("bytes")); err != nil {
			t.Fatal(err)
		}
		body, err := s.Get(t.Context(), name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if err := body.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := handshakes.Load(); n != 1 {
		t.Errorf("%d connections were made for one thing after the other", n)
	}
}
