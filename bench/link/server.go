package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"holdfast/internal/api"
)

// server is a real control plane in a process of its own.
type server struct {
	binary, dir, addr string
	process           *exec.Cmd
}

func newServer(ctx context.Context, binary, dir string) (*server, error) {
	if _, err := os.Stat(binary); err != nil {
		return nil, fmt.Errorf("find the server's program (make build): %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, binary, "server", "--new-key", filepath.Join(dir, "key")).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make a key: %w: %s", err, out)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{binary: binary, dir: dir, addr: free.Addr().String()}
	if err := free.Close(); err != nil {
		return nil, err
	}
	return s, s.start(ctx)
}

// start returns once the server takes connections.
func (s *server) start(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own handle
	s.process = exec.CommandContext(ctx, s.binary, "server", "--data", filepath.Join(s.dir, "data"), "--key-file", filepath.Join(s.dir, "key"), "--listen", s.addr)
	s.process.Stdout, s.process.Stderr = log, log
	if err := s.process.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); wait(ctx, 10*time.Millisecond) {
		if _, err := os.Stat(s.admin()); err != nil {
			continue // a new server listens before it has written who may administer it
		}
		conn, err := net.DialTimeout("tcp", s.addr, time.Second)
		if err == nil {
			return conn.Close()
		}
	}
	return errors.New("the server did not answer within 30 seconds: " + filepath.Join(s.dir, "log"))
}

func (s *server) kill() {
	_ = s.process.Process.Kill() // it may be dead already
	_ = s.process.Wait()         // it says "killed"
}

func (s *server) admin() string { return filepath.Join(s.dir, "data", "admin.json") }

func (s *server) url() string { return "https://" + s.addr }

func (s *server) client() (*api.Client, error) {
	admin, err := api.ReadContext(s.admin())
	if err != nil {
		return nil, err
	}
	return api.NewClient(admin)
}

// memoryMB is the resident memory of the process.
func (s *server) memoryMB() (float64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.Process.Pid))
	if err != nil {
		return 0, err
	}
	var kB float64
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		if _, err := fmt.Sscanf(lines.Text(), "VmRSS: %f kB", &kB); err == nil {
			return kB / 1024, nil
		}
	}
	return 0, errors.New("read resident memory: no VmRSS")
}

// cpu is the processor time that the process has used.
func (s *server) cpu() (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.process.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	var user, system int64
	fields := strings.Fields(rest)
	if _, err := fmt.Sscan(strings.Join(fields[11:13], " "), &user, &system); err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	return time.Duration(user+system) * (time.Second / 100), nil // in clock ticks of 10 ms
}
