package edge

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"time"
)

// checker asks endpoints whether they are well, each in its own goroutine until it is withdrawn.
type checker struct {
	limits Health
	client *http.Client
	dialer *net.Dialer
	turned func(e *endpoint, up bool, why string) // an endpoint came up or fell
}

func newChecker(limits Health, turned func(*endpoint, bool, string)) *checker {
	dialer := &net.Dialer{Timeout: limits.Timeout}
	transport := &http.Transport{DialContext: dialer.DialContext, DisableCompression: true, DisableKeepAlives: true}
	refuse := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &checker{
		limits: limits, dialer: dialer, turned: turned,
		client: &http.Client{Transport: transport, Timeout: limits.Timeout, CheckRedirect: refuse},
	}
}

// watch asks e at once and then on its beat: quickly while it is down, and not at all while requests prove it well.
func (c *checker) watch(ctx context.Context, e *endpoint) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.recheck:
		case <-timer.C:
		}
		c.check(ctx, e)
		timer.Reset(c.wait(e))
	}
}

func (c *checker) wait(e *endpoint) time.Duration {
	if h, _ := e.now(); !h.up || h.failed > 0 {
		return c.limits.EveryDown
	}
	return c.limits.Every + spread(e.key.address, c.limits.Every/8)
}

// spread is a fixed part of span for each text, so that checks do not beat together.
func spread(text string, span time.Duration) time.Duration {
	if span <= 0 {
		return 0
	}
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(text)) // a hash takes everything
	return time.Duration(sum.Sum32()) % span
}

func (c *checker) check(ctx context.Context, e *endpoint) {
	if h, seenAt := e.now(); h.up && h.failed == 0 && time.Since(seenAt) < c.limits.Every/2 {
		return
	}
	err := c.ask(ctx, e)
	if ctx.Err() != nil {
		return
	}
	if e.saw(outcome{active: true, err: err, at: time.Now()}, c.limits) {
		h, _ := e.now()
		c.turned(e, h.up, h.why)
	}
}

func (c *checker) ask(ctx context.Context, e *endpoint) error {
	if e.key.health == "" {
		return c.connect(ctx, e.key.address)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.key.address+e.key.health, nil)
	if err != nil {
		return fmt.Errorf("make health request: %w", err)
	}
	req.Host = e.host
	req.Header.Set("User-Agent", "holdfast-edge")
	res, err := c.client.Do(req)
	if err != nil {
		return err
	}
	_, readErr := io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20))
	if res.StatusCode >= http.StatusBadRequest {
		readErr = errors.Join(readErr, fmt.Errorf("%s answered %s", e.key.health, res.Status))
	}
	return errors.Join(readErr, res.Body.Close())
}

func (c *checker) connect(ctx context.Context, address string) error {
	conn, err := c.dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}
