package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

const noFollow = unix.O_NOFOLLOW

// Listener is an SSH server that speaks SFTP with grants and nothing else: no shell, no
// forwarding. It needs neither root nor the system's sshd.
type Listener struct {
	Addr string // host:port; port 0 takes a free one
	Root string // the directory below which grants lie; with Bucket, where uploads wait
	// Bucket opens the repository of a grant's prefix in an object storage; nil means that repositories lie in Root.
	// It is asked at every session.
	Bucket  func(ctx context.Context, prefix string) (Bucket, error)
	HostKey ssh.Signer
	// Authorize gives the grant of a key that logs in as user, which names the repository it asks for: a node has
	// one key and writes many. It is asked at every login.
	Authorize func(user string, key ssh.PublicKey) (Grant, bool)
	Log       *slog.Logger // nil means slog.Default
	// Ready is called with the address once it listens; it may be nil.
	Ready func(net.Addr)
}

// handshakeTime bounds how long a client may take to log in.
const handshakeTime = 20 * time.Second

// Run serves until ctx ends, then hangs up and waits for all sessions to end.
func (l *Listener) Run(ctx context.Context) error {
	if l.Bucket != nil {
		if err := emptySpool(l.Root); err != nil {
			return err
		}
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.Addr)
	if err != nil {
		return fmt.Errorf("listen for ssh on %s: %w", l.Addr, err)
	}
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	if l.Ready != nil {
		l.Ready(listener.Addr())
	}
	var sessions sync.WaitGroup
	defer sessions.Wait()
	config := l.config()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			continue // this client's failure, or too many of them: the next may do better
		}
		sessions.Go(func() {
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			l.connection(ctx, conn, config)
		})
	}
}

type grantKey struct{}

func (l *Listener) config() *ssh.ServerConfig {
	c := &ssh.ServerConfig{
		ServerVersion: "SSH-2.0-holdfast-vault",
		PublicKeyCallback: func(conn ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			g, ok := l.Authorize(conn.User(), key)
			if !ok {
				return nil, fmt.Errorf("no grant for key %s", ssh.FingerprintSHA256(key))
			}
			return &ssh.Permissions{ExtraData: map[any]any{grantKey{}: g}}, nil
		},
	}
	c.AddHostKey(l.HostKey)
	return c
}

func (l *Listener) log() *slog.Logger {
	if l.Log == nil {
		return slog.Default()
	}
	return l.Log
}

// connection serves one client.
func (l *Listener) connection(ctx context.Context, raw net.Conn, config *ssh.ServerConfig) {
	defer raw.Close()
	if err := raw.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return
	}
	conn, channels, requests, err := ssh.NewServerConn(raw, config)
	if err != nil {
		l.log().InfoContext(ctx, "vault login refused", "from", raw.RemoteAddr().String(), "error", err)
		return
	}
	defer conn.Close()
	if err := raw.SetDeadline(time.Time{}); err != nil {
		return
	}
	go answer(requests)
	grant := conn.Permissions.ExtraData[grantKey{}].(Grant)
	var sessions sync.WaitGroup
	defer sessions.Wait()
	for c := range channels {
		if c.ChannelType() != "session" {
			_ = c.Reject(ssh.UnknownChannelType, "only sftp sessions")
			continue
		}
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		sessions.Go(func() { l.session(ctx, channel, requests, grant) })
	}
}

// answer lets clients ask whether we are alive.
func answer(requests <-chan *ssh.Request) {
	for r := range requests {
		if r.WantReply {
			_ = r.Reply(false, nil)
		}
	}
}

// session waits for the request for sftp; all others are refused.
func (l *Listener) session(ctx context.Context, channel ssh.Channel, requests <-chan *ssh.Request, g Grant) {
	defer channel.Close()
	for r := range requests {
		var want struct{ Name string }
		ok := r.Type == "subsystem" && ssh.Unmarshal(r.Payload, &want) == nil && want.Name == "sftp"
		if r.WantReply {
			_ = r.Reply(ok, nil)
		}
		if !ok {
			continue
		}
		go answer(requests)
		if err := l.serve(ctx, channel, g); err != nil {
			l.log().WarnContext(ctx, "vault session broke", "prefix", g.Prefix, "error", err)
		}
		return
	}
}

func (l *Listener) serve(ctx context.Context, channel ssh.Channel, g Grant) error {
	if l.Bucket == nil {
		return Serve(channel, l.Root, g)
	}
	bucket, err := l.Bucket(ctx, g.Prefix)
	if err != nil {
		return err
	}
	defer bucket.Close()
	return ServeBucket(channel, bucket, l.Root, g)
}

// emptySpool makes the folder of uploads, and takes out what a process that was killed left there.
func emptySpool(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make room for uploads: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "upload-*"))
	for _, one := range left {
		err = errors.Join(err, os.RemoveAll(one))
	}
	if err != nil {
		return fmt.Errorf("take out old uploads: %w", err)
	}
	return nil
}
