package servers

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/problem"
	"holdfast/lab"
)

// Server is one machine of a lab.
type Server struct {
	Spec
	Site    string
	Address netip.Addr

	lab *Lab
	dir string // its folder on this machine
}

func (s *Server) disk() string     { return filepath.Join(s.dir, "disk.img") }
func (s *Server) mount() string    { return filepath.Join(s.dir, "mount") }
func (s *Server) seedFile() string { return filepath.Join(s.dir, "seed.tar") }

// unplugged is a file that is there while the server's cable lies beside the router.
func (s *Server) unplugged() string { return filepath.Join(s.dir, "unplugged") }

// Console is the file of what the server says before it has a journal.
func (s *Server) Console() string { return filepath.Join(s.dir, "console.log") }

// Command is a command inside the server, as root, whatever befell its network: it goes in as somebody who stands
// before the machine.
func (s *Server) Command(ctx context.Context, args ...string) (*exec.Cmd, error) {
	first, err := s.init()
	if err != nil {
		return nil, err
	}
	enter := []string{"-t", strconv.Itoa(first), "-m", "-u", "-i", "-p", "-n", "-C", "--",
		"env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}
	return exec.CommandContext(ctx, "nsenter", append(enter, args...)...), nil
}

// Run runs a command inside the server and returns what it printed; its error holds what it said.
func (s *Server) Run(ctx context.Context, args ...string) (string, error) {
	return s.RunWith(ctx, nil, args...)
}

// RunWith is Run with something to read.
func (s *Server) RunWith(ctx context.Context, input io.Reader, args ...string) (string, error) {
	cmd, err := s.Command(ctx, args...)
	if err != nil {
		return "", err
	}
	return s.finish(cmd, input, args)
}

func (s *Server) finish(cmd *exec.Cmd, input io.Reader, args []string) (string, error) {
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = input, &out, &said
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("on %s: %s: %w: %s", s.Name, strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return out.String(), nil
}

// SSHArgs are the arguments of ssh, scp (as options) or rsync -e that lead to the server, who is known and knows the
// operator.
func (s *Server) SSHArgs() []string {
	return []string{"-i", filepath.Join(s.lab.dir, "ssh", "operator"), "-o", "UserKnownHostsFile=" + s.lab.knownHosts(),
		"-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "LogLevel=ERROR"}
}

// SSH logs in over the network as root and types a command line.
func (s *Server) SSH(ctx context.Context, line string) (string, error) {
	args := append(s.SSHArgs(), "root@"+s.Address.String(), line)
	return s.finish(exec.CommandContext(ctx, "ssh", args...), nil, []string{"ssh", line})
}

// Put writes files into the running server.
func (s *Server) Put(ctx context.Context, files ...File) error {
	reader, writer := io.Pipe()
	go func() { _ = writer.CloseWithError(archive(writer, files)) }() // it always returns nil
	_, err := s.RunWith(ctx, reader, "tar", "-x", "-C", "/")
	_ = reader.Close() // lets the writer end when tar did not read all
	return err
}

// Docker is the URL of the server's Docker Engine, from this machine. It changes when the server boots again.
func (s *Server) Docker() (string, error) {
	first, err := s.init()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("unix:///proc/%d/root/run/docker.sock", first), nil
}

// PutFolder copies the files of a folder of this machine to every server with a Docker Engine that has power, at the
// path to.
func (l *Lab) PutFolder(ctx context.Context, dir, to string) error {
	var files []File
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		below, err := filepath.Rel(dir, path)
		files = append(files, File{Path: filepath.Join(to, below), From: path})
		return err
	})
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	return l.each(func(s *Server) error {
		if !s.Spec.Docker || !s.On() {
			return nil
		}
		return s.Put(ctx, files...)
	})
}

// LoadImages loads every tar file of a folder into every Docker Engine of the lab that has power, a few at a time.
func (l *Lab) LoadImages(ctx context.Context, dir string) error {
	tars, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil {
		return err
	}
	if len(tars) == 0 {
		return problem.New(problem.NotFound, "make dash, then: holdfast-lab load bin/dash/images", "no images were loaded: %s holds no .tar file", dir)
	}
	return l.each(func(s *Server) error {
		if !s.Spec.Docker || !s.On() {
			return nil
		}
		for _, tar := range tars {
			if err := s.loadFile(ctx, tar); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Server) loadFile(ctx context.Context, path string) error {
	images, err := os.Open(path)
	if err != nil {
		return err
	}
	defer images.Close()
	return s.LoadImages(ctx, images)
}

// LoadImages loads a tar file of `docker save` (or `docker image save`) into the server's engine.
func (s *Server) LoadImages(ctx context.Context, images io.Reader) error {
	_, err := s.RunWith(ctx, images, "docker", "load", "--quiet")
	return err
}

// waitBooted waits until the server has started all that it starts by itself, Docker Engine included.
func (s *Server) waitBooted(ctx context.Context) error {
	return lab.Until(ctx, 90*time.Second, 100*time.Millisecond, "boot "+s.Name, func() (bool, string) {
		out, err := s.Run(ctx, "systemctl", "is-system-running", "--wait")
		switch state := strings.TrimSpace(out); state {
		case "running", "degraded":
			return true, ""
		default:
			return false, fmt.Sprintf("it is %q: %v: see %s", state, err, s.Console())
		}
	})
}
