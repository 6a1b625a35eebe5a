package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// sshServer is a plain sshd on loopback, and what the tools need to reach it as "bench".
type sshServer struct {
	dir  string
	port int
	cmd  *exec.Cmd
}

func (b *bench) startSSH() error {
	s := &sshServer{dir: filepath.Join(b.dir, "ssh")}
	if err := os.RemoveAll(s.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	lines := fmt.Sprintf("cd %[1]s && ssh-keygen -q -t ed25519 -N '' -f host && ssh-keygen -q -t ed25519 -N '' -f id && cp id.pub authorized && "+
		"printf '[127.0.0.1]:%[2]d %%s\\n' \"$(cut -d' ' -f1,2 host.pub)\" > known_hosts && "+
		"printf 'Port %[2]d\\nListenAddress 127.0.0.1\\nHostKey %[1]s/host\\nAuthorizedKeysFile %[1]s/authorized\\nStrictModes no\\nUsePAM no\\nPidFile none\\nPermitRootLogin yes\\nSubsystem sftp internal-sftp\\n' > sshd_config && "+
		"printf 'Host bench 127.0.0.1\\nHostName 127.0.0.1\\nPort %[2]d\\nUser root\\nIdentityFile %[1]s/id\\nUserKnownHostsFile %[1]s/known_hosts\\n' > config && mkdir -p /run/sshd", s.dir, s.port)
	if _, err := b.shell(lines, nil); err != nil {
		return err
	}
	s.cmd = exec.CommandContext(b.ctx, "/usr/sbin/sshd", "-D", "-f", filepath.Join(s.dir, "sshd_config"))
	if err := s.cmd.Start(); err != nil {
		return err
	}
	b.ssh = s
	for end := time.Now().Add(10 * time.Second); ; {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
		if err == nil {
			return c.Close()
		}
		if time.Now().After(end) {
			return err
		}
	}
}

func (b *bench) stopSSH() {
	_ = b.ssh.cmd.Process.Kill()
	_ = b.ssh.cmd.Wait() // it was killed
}

// env puts a wrapper of ssh first in the path, so that all tools reach the server by the name bench.
func (s *sshServer) env() []string {
	bin := filepath.Join(s.dir, "bin")
	_ = os.MkdirAll(bin, 0o700) // the next line tells
	for _, name := range []string{"ssh", "sftp"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\nexec /usr/bin/"+name+" -F "+s.dir+"/config \"$@\"\n"), 0o700); err != nil {
			panic(err) // a disk that takes no script takes no measurement
		}
	}
	return []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOLDFAST_SSH_KEY=" + s.dir + "/id", "HOLDFAST_KNOWN_HOSTS=" + s.dir + "/known_hosts"}
}

func (s *sshServer) url(scheme, path string) string {
	if s == nil {
		return ""
	}
	return fmt.Sprintf("%s://root@127.0.0.1:%d%s", scheme, s.port, path)
}

func (s *sshServer) kopia(path string) string {
	if s == nil {
		return ""
	}
	return fmt.Sprintf("sftp --host 127.0.0.1 --port %d --username root --path %s --keyfile %s/id --known-hosts %s/known_hosts", s.port, path, s.dir, s.dir)
}
