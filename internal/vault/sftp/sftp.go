// Package sftp keeps a repository on any machine with an SSH server.
//
// Words: a line is one SSH connection with one SFTP session on it. Several lines carry transfers
// at the same time; a line that breaks is opened anew and the work on it repeated.
//
// An object is written into tmp/, synced where the server can, and renamed to its name. The plain
// SFTP rename refuses to overwrite; a look before it covers servers that do not.
package sftp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"holdfast/internal/vault"
)

// Config says where and as whom.
type Config struct {
	Addr    string // host:port
	User    string
	Auth    []ssh.AuthMethod
	HostKey ssh.HostKeyCallback
	// HostKeyAlgorithms narrows what the server may show, to those that HostKey knows.
	HostKeyAlgorithms []string
	Path              string // of the repository on the server
	Connections       int    // lines; 0 means 4
	// Patience is how long a line may be silent, and how long a broken one is tried anew; 0 means 30 s.
	Patience time.Duration
}

// Store is a directory on a server.
type Store struct {
	config Config
	open   chan *line // idle lines that are connected, as far as anybody knows
	closed chan *line // lines that have to be connected first
	// windows holds *[]byte that streams are done with: a restore would otherwise make one for every pack.
	windows sync.Pool
}

// line is a connection; nil client means it has to be opened.
type line struct {
	conn   *ssh.Client
	client *sftp.Client
}

// packet is the length of one read or write on the wire. Servers must take 32 KiB, OpenSSH and ours take 255.
const packet = 128 << 10

// Open connects once, so that a wrong address or key is found at once.
func Open(ctx context.Context, c Config) (*Store, error) {
	if c.Connections <= 0 {
		c.Connections = 4
	}
	if c.Patience <= 0 {
		c.Patience = 30 * time.Second
	}
	if c.HostKey == nil {
		return nil, errors.New("open sftp store: no host key to expect: without it anyone could pose as the server")
	}
	s := &Store{config: c, open: make(chan *line, c.Connections), closed: make(chan *line, c.Connections)}
	first := &line{}
	if err := s.connect(ctx, first); err != nil {
		return nil, fmt.Errorf("open sftp store %s: %w", c.Addr, err)
	}
	s.give(first)
	for range c.Connections - 1 {
		s.give(&line{})
	}
	return s, nil
}

// take gives an idle line. One that is connected is preferred: a handshake costs more than most of what is asked for.
func (s *Store) take(ctx context.Context) (*line, error) {
	select {
	case l := <-s.open:
		return l, nil
	default:
	}
	select {
	case l := <-s.open:
		return l, nil
	case l := <-s.closed:
		return l, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// give puts a line back.
func (s *Store) give(l *line) {
	if l.client == nil {
		s.closed <- l
		return
	}
	s.open <- l
}

func (s *Store) connect(ctx context.Context, l *line) error {
	dialer := net.Dialer{Timeout: s.config.Patience}
	raw, err := dialer.DialContext(ctx, "tcp", s.config.Addr)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	if err := raw.SetDeadline(time.Now().Add(s.config.Patience)); err != nil {
		raw.Close()
		return err
	}
	conn, channels, requests, err := ssh.NewClientConn(raw, s.config.Addr, &ssh.ClientConfig{
		User: s.config.User, Auth: s.config.Auth, HostKeyCallback: s.config.HostKey, HostKeyAlgorithms: s.config.HostKeyAlgorithms,
	})
	if err != nil {
		raw.Close()
		return refused(err)
	}
	l.conn = ssh.NewClient(conn, channels, requests)
	l.client, err = sftp.NewClient(l.conn, sftp.MaxPacketUnchecked(packet), sftp.UseConcurrentWrites(true), sftp.MaxConcurrentRequestsPerFile(32))
	if err == nil {
		err = raw.SetDeadline(time.Time{})
	}
	if err != nil {
		l.hangUp()
		return err
	}
	go keepAlive(l.conn, s.config.Patience)
	return nil
}

// refused marks errors that trying again does not mend.
func refused(err error) error {
	if strings.Contains(err.Error(), "unable to authenticate") {
		return fmt.Errorf("%w: %w", vault.ErrDenied, err)
	}
	return err
}

// keepAlive closes a connection that does not answer, so that nobody waits for it for ever.
func keepAlive(conn *ssh.Client, patience time.Duration) {
	gone := make(chan struct{})
	go func() { _ = conn.Wait(); close(gone) }()
	tick := time.NewTicker(patience / 2)
	defer tick.Stop()
	for {
		select {
		case <-gone:
			return
		case <-tick.C:
		}
		answered := make(chan struct{})
		go func() { _, _, _ = conn.SendRequest("keepalive@openssh.com", true, nil); close(answered) }()
		select {
		case <-answered:
		case <-gone:
			return
		case <-time.After(patience / 2):
			conn.Close()
			return
		}
	}
}

func (l *line) hangUp() {
	if l.client != nil {
		l.client.Close()
	}
	if l.conn != nil {
		l.conn.Close()
	}
	l.client, l.conn = nil, nil
}

// do runs work on a line, and again on a new one when the line broke. Work must bear being repeated.
func (s *Store) do(ctx context.Context, work func(*sftp.Client) error) error {
	l, err := s.take(ctx)
	if err != nil {
		return err
	}
	defer s.give(l)
	_, err = backoff.Retry(ctx, func() (struct{}, error) {
		err := s.try(ctx, l, work)
		if err != nil && !broken(err) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithMaxElapsedTime(s.config.Patience), backoff.WithBackOff(quick()))
	var permanent *backoff.PermanentError
	if errors.As(err, &permanent) {
		err = permanent.Err
	}
	return err
}

func quick() backoff.BackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = 100 * time.Millisecond
	return b
}

func (s *Store) try(ctx context.Context, l *line, work func(*sftp.Client) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if l.client == nil {
		if err := s.connect(ctx, l); err != nil {
			return err
		}
	}
	conn := l.conn
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err := work(l.client)
	if !stop() || broken(err) {
		l.hangUp()
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// broken tells whether an error came from the line and not from the server's answer.
func broken(err error) bool {
	if err == nil || errors.Is(err, vault.ErrDenied) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	var status *sftp.StatusError
	if errors.As(err, &status) {
		return false
	}
	var network net.Error
	return errors.Is(err, sftp.ErrSSHFxConnectionLost) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.As(err, &network) || errors.Is(err, io.ErrClosedPipe)
}

func (s *Store) path(name string) (string, error) {
	if strings.HasPrefix(name, "/") || strings.Contains(name, "..") || strings.Count(name, "/") > 1 {
		return "", fmt.Errorf("object name %q: %w", name, vault.ErrDenied)
	}
	return path.Join(s.config.Path, name), nil
}

// Put implements vault.Store.
func (s *Store) Put(ctx context.Context, name string, body []byte) error {
	final, err := s.path(name)
	if err != nil {
		return err
	}
	sure := true // that an object of this name is not our own, from before the line broke
	return s.do(ctx, func(c *sftp.Client) error {
		if _, err := c.Lstat(final); err == nil {
			return s.exists(c, final, body, sure)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return translate(err)
		}
		temp := path.Join(s.config.Path, "tmp", rand.Text())
		if err := s.write(c, temp, body); err != nil {
			return translate(err)
		}
		sure = false
		if err := s.rename(c, temp, final); err != nil {
			_ = c.Remove(temp) // what stays in tmp/ is nobody's
			if _, look := c.Lstat(final); look == nil {
				return s.exists(c, final, body, true)
			}
			return translate(err)
		}
		return nil
	})
}

// exists answers for a name that is taken: by ourselves, when a line broke behind the rename.
func (s *Store) exists(c *sftp.Client, final string, body []byte, sure bool) error {
	if !sure {
		if info, err := c.Lstat(final); err == nil && info.Size() == int64(len(body)) {
			return nil
		}
	}
	return fmt.Errorf("%s: %w", final, vault.ErrExists)
}

func (s *Store) write(c *sftp.Client, temp string, body []byte) error {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := c.OpenFile(temp, flags)
	if errors.Is(err, fs.ErrNotExist) {
		if err := c.MkdirAll(path.Dir(temp)); err != nil {
			return err
		}
		f, err = c.OpenFile(temp, flags)
	}
	if err != nil {
		return err
	}
	_, err = f.ReadFromWithConcurrency(&whole{body}, 16)
	if err == nil {
		err = makeDurable(c, f)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		_ = c.Remove(temp)
		return err
	}
	return nil
}

// whole reads from memory and says how much is left, so that the client sends packets ahead.
type whole struct{ rest []byte }

func (w *whole) Read(p []byte) (int, error) {
	if len(w.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, w.rest)
	w.rest = w.rest[n:]
	return n, nil
}

// makeDurable makes the bytes durable on servers that can be asked to.
func makeDurable(c *sftp.Client, f *sftp.File) error {
	if _, ok := c.HasExtension("fsync@openssh.com"); !ok {
		return nil
	}
	return f.Sync()
}

func (s *Store) rename(c *sftp.Client, temp, final string) error {
	err := c.Rename(temp, final)
	if errors.Is(err, fs.ErrNotExist) {
		if err := c.MkdirAll(path.Dir(final)); err != nil {
			return err
		}
		err = c.Rename(temp, final)
	}
	return err
}

// Get implements vault.Store. The first bytes are read before it returns, up to a window.
func (s *Store) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	p, err := s.path(name)
	if err != nil {
		return nil, err
	}
	first, size, err := s.window(ctx, p, offset, length)
	if err != nil {
		return nil, err
	}
	end := size
	if length >= 0 {
		end = min(size, offset+length)
	}
	return &stream{s: s, ctx: ctx, path: p, at: offset + int64(len(first)), end: end, rest: first, window: first}, nil
}

// maxWindow bounds what one Get holds in memory.
const maxWindow = 8 << 20

// window reads a range that fits into memory, with many requests on their way at once.
func (s *Store) window(ctx context.Context, p string, offset, wanted int64) (data []byte, size int64, err error) {
	err = s.do(ctx, func(c *sftp.Client) error {
		f, length, err := openSized(c, p)
		if err != nil {
			return translate(err)
		}
		size = length
		defer func() { go f.Close() }() // whether the server lets go of what was only read is not worth waiting for
		n := max(size-offset, 0)
		if wanted >= 0 {
			n = min(n, wanted)
		}
		data = s.buffer(int(min(n, maxWindow))) // another one for each try: a broken line may still write into the last
		if len(data) == 0 {
			return nil
		}
		got, err := f.ReadAt(data, offset)
		if got == len(data) {
			return nil
		}
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%s: it became shorter while it was read: %w", p, vault.ErrDamaged)
		}
		return translate(err)
	})
	return data, size, err
}

// openSized opens a file and learns its length in one round trip: both are asked for at once.
func openSized(c *sftp.Client, p string) (f *sftp.File, size int64, err error) {
	type look struct {
		info os.FileInfo
		err  error
	}
	looked := make(chan look, 1)
	go func() {
		info, err := c.Stat(p)
		looked <- look{info, err}
	}()
	f, err = c.Open(p)
	seen := <-looked
	switch {
	case err != nil:
		return nil, 0, err
	case seen.err != nil:
		return nil, 0, errors.Join(seen.err, f.Close())
	}
	return f, seen.info.Size(), nil
}

// buffer gives n bytes, those of an earlier window when they are enough.
func (s *Store) buffer(n int) []byte {
	if b, ok := s.windows.Get().(*[]byte); ok && cap(*b) >= n {
		return (*b)[:n]
	}
	return make([]byte, n)
}

// done takes a window back.
func (s *Store) done(window []byte) {
	if cap(window) > packet {
		s.windows.Put(&window)
	}
}

// stream gives window after window.
type stream struct {
	s       *Store
	ctx     context.Context
	path    string
	at, end int64
	window  []byte // what was read last
	rest    []byte // of it
}

func (r *stream) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		if r.at >= r.end {
			return 0, io.EOF
		}
		r.s.done(r.window)
		r.window = nil
		data, _, err := r.s.window(r.ctx, r.path, r.at, r.end-r.at)
		if err != nil {
			return 0, err
		}
		if len(data) == 0 {
			return 0, io.ErrUnexpectedEOF
		}
		r.window, r.rest, r.at = data, data, r.at+int64(len(data))
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Close gives the window back; the stream is at its end.
func (r *stream) Close() error {
	r.s.done(r.window)
	r.window, r.rest, r.at = nil, nil, r.end
	return nil
}

// List implements vault.Store.
func (s *Store) List(ctx context.Context, folder string) ([]vault.Object, error) {
	p, err := s.path(folder)
	if err != nil {
		return nil, err
	}
	var out []vault.Object
	err = s.do(ctx, func(c *sftp.Client) error {
		out = nil
		all, err := c.ReadDirContext(ctx, p)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return translate(err)
		}
		for _, info := range all {
			if info.Mode().IsRegular() {
				out = append(out, vault.Object{Name: path.Join(folder, info.Name()), Size: info.Size(), Time: info.ModTime()})
			}
		}
		return nil
	})
	return out, err
}

// Delete implements vault.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	p, err := s.path(name)
	if err != nil {
		return err
	}
	return s.do(ctx, func(c *sftp.Client) error {
		if err := c.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return translate(err)
		}
		return nil
	})
}

// Close implements vault.Store.
func (s *Store) Close() error {
	var group sync.WaitGroup
	for range s.config.Connections {
		group.Go(func() {
			if l, err := s.take(context.Background()); err == nil {
				l.hangUp()
			}
		})
	}
	group.Wait()
	return nil
}

// translate gives the server's answers the sentinels of vault.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", vault.ErrNotFound, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w", vault.ErrDenied, err)
	case full(err):
		return fmt.Errorf("%w: %w", vault.ErrFull, err)
	}
	return err
}

// full looks at the words of an answer, for SFTP has no code for it: those of our own server, which are the kernel's.
func full(err error) bool {
	var status *sftp.StatusError
	if !errors.As(err, &status) {
		return false
	}
	return strings.Contains(err.Error(), unix.ENOSPC.Error()) || strings.Contains(err.Error(), unix.EDQUOT.Error())
}
