package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/fleet"
)

// RunFunc runs a command beside a service; it is Engine.Run of the slot's engine.
type RunFunc func(ctx context.Context, slot Slot, command fleet.Command, in io.Reader, out io.Writer) error

// What holds where a probe says nothing.
const (
	probeTimeout  = 3 * time.Second
	probeInterval = 500 * time.Millisecond
	probeWithin   = time.Minute
)

// asker keeps no connection, as a kept one would hide a service that restarted.
func asker() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Ask asks replica n of the service once; nil means well. Without a probe the answer is nil: a service that runs is
// ready. Address is where the node's ports are reached.
func (s Slot) Ask(ctx context.Context, run RunFunc, address string, service fleet.Service, n int, probe *fleet.Probe) error {
	if probe == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, or(probe.Timeout, probeTimeout))
	defer cancel()
	if len(probe.Args) > 0 {
		return run(ctx, s, fleet.Command{Service: service.Name, Args: probe.Args, Timeout: or(probe.Timeout, probeTimeout)}, nil, io.Discard)
	}
	port, err := s.probePort(service, n, probe)
	if err != nil {
		return err
	}
	at := net.JoinHostPort(address, strconv.Itoa(port))
	if probe.HTTP != "" {
		return askHTTP(ctx, "http://"+at+probe.HTTP, probe.Headers)
	}
	return askTCP(ctx, at)
}

func (s Slot) probePort(service fleet.Service, n int, probe *fleet.Probe) (int, error) {
	for _, port := range service.Ports {
		if probe.Port == "" || port.Name == probe.Port {
			return s.Ports[PortKey(service.Name, port.Name, n)], nil
		}
	}
	return 0, fmt.Errorf("service %s has no port %q to ask", service.Name, probe.Port)
}

func askHTTP(ctx context.Context, url string, headers map[string]string) error {
	_, err := getHTTP(ctx, url, headers)
	return err
}

// getHTTP gives the first 64 KiB of an answer with a 2xx status.
func getHTTP(ctx context.Context, url string, headers map[string]string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", url, err)
	}
	for name, value := range headers {
		req.Header.Set(name, value)
		if strings.EqualFold(name, "host") {
			req.Host = value
		}
	}
	resp, err := asker().Do(req)
	if err != nil {
		return "", fmt.Errorf("ask: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return "", fmt.Errorf("read the answer of %s: %w", url, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return "", fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return string(body), nil
}

// hangUp is how long a port may take to hang up on a caller that says nothing.
const hangUp = 100 * time.Millisecond

// askTCP connects and stays for a moment: the proxy of a Docker Engine accepts for a container that does not listen yet,
// and hangs up when it finds out.
func askTCP(ctx context.Context, at string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", at)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(hangUp)); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	_, err = conn.Read(make([]byte, 1))
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil // it speaks first, or waits for us to
	}
	return fmt.Errorf("%s accepts and hangs up: %w", at, err)
}

// AwaitReady asks every replica of the service until all are well or the probe's Within has passed. The error is
// the last answer.
func (s Slot) AwaitReady(ctx context.Context, run RunFunc, address string, service fleet.Service) error {
	if service.Readiness == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, or(service.Readiness.Within, probeWithin))
	defer cancel()
	var last error
	wait, most := 25*time.Millisecond, min(probeInterval, or(service.Readiness.Interval, probeInterval))
	for n := 1; n <= max(1, service.Replicas); {
		if err := s.Ask(ctx, run, address, service, n, service.Readiness); err == nil {
			n++
			continue
		} else if ctx.Err() == nil || last == nil {
			last = err
		}
		wait = min(wait*3/2, most) // soon at first, so that a quick start is not waited for
		if !pause(ctx, wait) {
			return fmt.Errorf("await %s: %w", service.Name, errors.Join(ctx.Err(), last))
		}
	}
	return nil
}

// pause waits d or until ctx ends; false when ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func or(value, fallback time.Duration) time.Duration {
	if value > 0 {
		return value
	}
	return fallback
}
