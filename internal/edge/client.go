package edge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"holdfast/internal/link"
	"holdfast/internal/problem"
)

// Client speaks to the edge process of a data directory. It holds no connection open and is safe for many goroutines.
type Client struct {
	dir  string
	http *http.Client
}

// NewClient speaks to the edge of dir, whether it runs or not.
func NewClient(dir string) *Client {
	var dialer net.Dialer
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, "unix", SocketPath(dir))
	}
	return &Client{dir: dir, http: &http.Client{
		Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: 30 * time.Second,
	}}
}

// Apply hands routes over and returns when they are in service. Notes of the answer name what was left out, and why.
func (c *Client) Apply(ctx context.Context, routes []link.Route) (Applied, error) {
	var applied Applied
	return applied, c.call(ctx, http.MethodPut, "/routes", link.RoutesSetting{Routes: routes}, &applied)
}

// Status asks what is served. A problem of kind Unreachable means that no edge runs.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var status Status
	return status, c.call(ctx, http.MethodGet, "/status", nil, &status)
}

// PutCertificate hands over a certificate file (see Bundle) under a name and returns when new handshakes see it.
func (c *Client) PutCertificate(ctx context.Context, name string, bundle []byte) error {
	if name == "" || strings.ContainsAny(name, "/\\") || strings.HasPrefix(name, ".") {
		return problem.New(problem.Invalid, "", "certificate %q was not taken: a name is a file name without folder", name)
	}
	if _, err := parseBundle(bundle); err != nil {
		return problem.Wrap(err, problem.Invalid, "", "certificate %s was not taken", name)
	}
	dir := filepath.Join(c.dir, "certs")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make certificate folder: %w", err)
	}
	if err := writeWhole(filepath.Join(dir, name+".pem"), bundle, 0o600); err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, "/certificates", nil, &[]CertificateStatus{})
}

// Stop asks the edge to end; it drains first.
func (c *Client) Stop(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/stop", nil, &struct{}{})
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return fmt.Errorf("encode %s: %w", path, err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://edge"+path, &body)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return problem.Wrap(err, problem.Unreachable, "holdfast edge --data "+c.dir, "the edge of %s does not answer", c.dir)
	}
	return errors.Join(decodeAnswer(res, out), res.Body.Close())
}

func decodeAnswer(res *http.Response, out any) error {
	dec := json.NewDecoder(res.Body)
	if res.StatusCode == http.StatusOK {
		if err := dec.Decode(out); err != nil {
			return fmt.Errorf("decode answer: %w", err)
		}
		return nil
	}
	var refused problem.Error
	if err := dec.Decode(&refused); err != nil {
		return fmt.Errorf("decode refusal %s: %w", res.Status, err)
	}
	return &refused
}

// Start is how an agent wants its edge to run.
type Start struct {
	Binary string   // "" = this binary
	Args   []string // the words before the flags; none = "edge"
	Env    []string // added to this process's environment
	Settings
}

// Ensure gives a client of an edge that runs with the wanted settings. It starts one, detached so that it outlives
// this process, when none runs; one that runs with other settings is stopped first, after a drain.
func Ensure(ctx context.Context, want Start) (*Client, error) {
	client := NewClient(want.Dir)
	status, err := client.Status(ctx)
	if err == nil && status.Settings == want.Settings.withDefaults().fingerprint() {
		return client, nil
	}
	if err == nil {
		if err := client.stopAndWait(ctx); err != nil {
			return nil, err
		}
	}
	want.Settings = want.Settings.withDefaults()
	if err := want.spawn(ctx, client); err != nil {
		return nil, err
	}
	return client, nil
}

// stopWithin is how long a stopped edge may drain before it counts as stuck.
const stopWithin = 15 * time.Second

// stopAndWait returns when the lock of the directory is free.
func (c *Client) stopAndWait(ctx context.Context) error {
	if err := c.Stop(ctx); err != nil {
		return err
	}
	free := func() (bool, error) {
		unlock, err := lock(c.dir)
		if err != nil {
			return false, nil
		}
		unlock()
		return true, nil
	}
	return poll(ctx, stopWithin, "the edge of "+c.dir+" did not stop", free)
}

// spawn starts the process in its own session, with its words in edge.log, and waits until it takes routes.
func (w Start) spawn(ctx context.Context, client *Client) error {
	if err := os.MkdirAll(w.Dir, 0o750); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	path := filepath.Join(w.Dir, "edge.log")
	words, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("open edge log: %w", err)
	}
	cmd, err := w.command(words)
	if err != nil {
		return errors.Join(err, words.Close())
	}
	if err := errors.Join(cmd.Start(), words.Close()); err != nil {
		return problem.Wrap(err, problem.Internal, "", "the edge was not started")
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // reaps it if it ends before we do
	return poll(ctx, 10*time.Second, "the edge did not come up; its words are in "+path, func() (bool, error) {
		select {
		case err := <-ended:
			return false, problem.New(problem.Unavailable, "tail "+path, "the edge ended at once (%v)", err)
		default:
		}
		_, err := client.Status(ctx)
		return err == nil, nil
	})
}

func (w Start) command(words *os.File) (*exec.Cmd, error) {
	binary := w.Binary
	if binary == "" {
		var err error
		if binary, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("find own binary: %w", err)
		}
	}
	verb := w.Args
	if len(verb) == 0 {
		verb = []string{"edge"}
	}
	cmd := exec.Command(binary, append(verb[:len(verb):len(verb)], w.Settings.flags()...)...)
	cmd.Env = append(os.Environ(), w.Env...)
	cmd.Stdout, cmd.Stderr = words, words
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, nil
}

// poll asks done every 20 ms until it is true, fails, or within has passed.
func poll(ctx context.Context, within time.Duration, otherwise string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, problem.New(problem.Unavailable, "", "%s (within %s)", otherwise, within))
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
