package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// bench runs tools over the data and gathers what it measures.
type bench struct {
	ctx     context.Context
	dir     string
	data    *dataSet
	bin     string
	ssh     *sshServer
	cold    bool      // caches are dropped before each step
	removed time.Time // when a tree was removed last
	results []measured
}

// commands are what a tool does at each step; each is a shell line. Empty ones are left out.
type commands struct {
	binary                                                   string // that must be there
	env                                                      []string
	init, first, second, restore, small, day1, delta, checks string
}

// tool measures one tool once, on a fresh repository.
func (b *bench) tool(name string, round int) error {
	repo, out := filepath.Join(b.dir, "repo"), filepath.Join(b.dir, "out")
	home := filepath.Join(b.dir, "home-"+name)
	if err := b.remove(repo, out, out+"-day1", out+"-full", out+"-small", home); err != nil {
		return err
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	c, err := b.commands(name, repo, out, home)
	if err != nil {
		return err
	}
	if _, err := exec.LookPath(c.binary); err != nil {
		fmt.Fprintf(os.Stderr, "%s is not installed and is left out\n", c.binary)
		return nil
	}
	if err := b.data.first(); err != nil {
		return err
	}
	if _, err := b.shell(c.init, c.env); err != nil {
		return err
	}
	return b.steps(name, round, c, repo, out)
}

// steps runs the steps of a tool. The first day is restored and laid aside before the second is backed up, so that every
// full restore finds an empty place; nothing is removed before the end.
func (b *bench) steps(name string, round int, c commands, repo, out string) error {
	aside := func(to string) func() error {
		return func() error {
			if _, err := os.Lstat(out); err != nil {
				return nil // the tool has no such step
			}
			return os.Rename(out, to)
		}
	}
	day1, full := out+"-day1", out+"-full"
	for _, s := range []struct {
		step, line string
		before     func() error
	}{
		{"first", c.first, nil},
		{"", c.day1, nil},
		{"second day", c.second, func() error { return errors.Join(aside(day1)(), b.data.second()) }},
		{"full restore", c.restore, b.settle},
		{"one small file", c.small, aside(full)},
		{"delta restore", c.delta, func() error { return errors.Join(os.RemoveAll(out), os.Rename(day1, out)) }},
		{"check", c.checks, nil},
	} {
		if s.line == "" {
			continue
		}
		if s.before != nil {
			if err := s.before(); err != nil {
				return err
			}
		}
		m, err := b.step(s.line, c.env, repo)
		if err != nil {
			return fmt.Errorf("%s: %w", s.step, err)
		}
		m.Tool, m.Step, m.Round = name, s.step, round
		if s.step == "" {
			continue
		}
		b.results = append(b.results, m)
		fmt.Fprintf(os.Stderr, "round %d %-10s %-15s %7.2f s, CPU %6.1f s, %5d MB memory, %6d MB added\n", round+1, name, s.step, m.Seconds, m.CPU, m.RSS/1e6, m.Added/1e6)
	}
	return b.remove(out, day1, full, out+"-small")
}

// step runs a line with nothing left to be written to the disk, and with cold caches where asked to.
func (b *bench) step(line string, env []string, repo string) (measured, error) {
	syscall.Sync()
	if b.cold {
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
			return measured{}, err
		}
	}
	was := size(repo)
	m, err := b.shell(line, env)
	m.Added = size(repo) - was
	return m, err
}

func (b *bench) remove(paths ...string) error {
	for _, p := range paths {
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	b.removed = time.Now()
	return nil
}

// settle waits until what was removed is forgotten: for a minute ext4 steps over the inodes of removed files, one by
// one, which would slow the restore of whoever comes next.
func (b *bench) settle() error {
	syscall.Sync()
	select {
	case <-time.After(time.Until(b.removed.Add(65 * time.Second))):
		return nil
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
}

// shell runs a line and measures it with all its children.
func (b *bench) shell(line string, env []string) (measured, error) {
	if line == "" {
		return measured{}, nil
	}
	cmd := exec.CommandContext(b.ctx, "bash", "-c", "set -o pipefail; "+line)
	cmd.Env = append(os.Environ(), env...)
	cmd.Dir = b.dir
	began := time.Now()
	text, err := cmd.CombinedOutput()
	m := measured{Seconds: elapsed(began)}
	if cmd.ProcessState != nil {
		m.CPU = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
		if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			m.RSS = usage.Maxrss << 10
		}
	}
	if err != nil {
		return m, errors.Join(err, errors.New(strings.TrimSpace(string(text))))
	}
	return m, nil
}

// commands gives the lines of a tool.
func (b *bench) commands(name, repo, out, home string) (commands, error) {
	data, small := b.data.tree, b.data.small
	env := []string{"HOME=" + home, "GNUPGHOME=" + filepath.Join(b.dir, "gnupg"), "RESTIC_PASSWORD=x", "KOPIA_PASSWORD=x", "BORG_PASSPHRASE=x", "PASSPHRASE=",
		"BORG_RELOCATED_REPO_ACCESS_IS_OK=yes", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes", "KOPIA_CHECK_FOR_UPDATES=false",
		"XDG_CACHE_HOME=" + home + "/cache", "XDG_CONFIG_HOME=" + home + "/config", "XDG_STATE_HOME=" + home + "/state"}
	at := func(local, remote string) string {
		if b.ssh == nil {
			return local
		}
		return remote
	}
	if b.ssh != nil {
		env = append(env, b.ssh.env()...)
	}
	switch name {
	case "holdfast":
		url := at(repo, b.ssh.url("sftp", repo))
		run := b.bin + " vault "
		key := " --key " + b.dir + "/secret.asc"
		if err := b.keys(); err != nil {
			return commands{}, err
		}
		return commands{
			binary: b.bin, env: env,
			init:    run + "init --repo " + url + " --recipient " + b.dir + "/public.asc",
			first:   run + "backup --repo " + url + " --as data " + data,
			second:  run + "backup --repo " + url + " --as data " + data,
			restore: run + "restore --repo " + url + key + " --to " + out,
			day1:    run + "restore --repo " + url + key + " --to " + out,
			delta:   run + "restore --repo " + url + key + " --to " + out,
			small:   run + "restore --repo " + url + key + " --to " + out + " --path data/" + small,
			checks:  run + "check --read-data --repo " + url + key,
		}, nil
	case "restic":
		url := at(repo, "sftp:bench:"+repo)
		return commands{binary: "restic", env: env, init: "restic -r " + url + " init",
			first:   "restic -r " + url + " backup " + data,
			second:  "restic -r " + url + " backup " + data,
			restore: "restic -r " + url + " restore latest --target " + out,
			small:   "restic -r " + url + " restore latest --target " + out + " --include " + data + "/" + small,
			checks:  "restic -r " + url + " check --read-data"}, nil
	case "kopia":
		store := at("filesystem --path="+repo, b.ssh.kopia(repo))
		return commands{binary: "kopia", env: env, init: "mkdir -p " + repo + " && kopia repository create " + store + " && kopia policy set --global --compression=zstd-fastest",
			first:   "kopia snapshot create " + data,
			second:  "kopia snapshot create " + data,
			restore: "kopia snapshot restore $(kopia snapshot list -n 1 " + data + " | grep -o 'k[0-9a-f]\\{32\\}' | tail -1) " + out,
			small:   "kopia snapshot restore $(kopia snapshot list -n 1 " + data + " | grep -o 'k[0-9a-f]\\{32\\}' | tail -1)/" + small + " " + out + "-small",
			checks:  "kopia snapshot verify --verify-files-percent=100"}, nil
	case "borg":
		url := at(repo, "bench:"+repo)
		return commands{binary: "borg", env: env, init: "borg init -e repokey-blake2 " + url,
			first:   "borg create -C zstd,1 " + url + "::one " + data,
			second:  "borg create -C zstd,1 " + url + "::two " + data,
			restore: "mkdir -p " + out + " && cd " + out + " && borg extract " + url + "::two",
			small:   "mkdir -p " + out + " && cd " + out + " && borg extract " + url + "::two " + strings.TrimPrefix(data, "/") + "/" + small,
			checks:  "borg check --verify-data " + url}, nil
	case "duplicity":
		if err := b.keys(); err != nil {
			return commands{}, err
		}
		url := at("file://"+repo, b.ssh.url("sftp", repo))
		run := "duplicity --archive-dir " + home + "/archive "
		return commands{binary: "duplicity", env: env, init: "mkdir -p " + repo,
			first:   run + "full --encrypt-key bench@example.org --volsize 200 " + data + " " + url,
			second:  run + "incremental --encrypt-key bench@example.org --volsize 200 " + data + " " + url,
			restore: run + "restore " + url + " " + out,
			small:   run + "restore --file-to-restore " + small + " " + url + " " + out}, nil
	case "tar":
		if err := b.keys(); err != nil {
			return commands{}, err
		}
		seal := "tar -C " + data + " -c . | zstd -3 -q | gpg --batch --trust-model always -e -r bench@example.org --compress-algo none -o "
		keep := func(n string) string {
			if b.ssh == nil {
				return "mkdir -p " + repo + " && " + seal + repo + "/" + n
			}
			return "mkdir -p " + repo + " && " + seal + home + "/" + n + " && rsync " + home + "/" + n + " bench:" + repo + "/"
		}
		fetch := at("cat "+repo+"/two", "ssh bench cat "+repo+"/two")
		return commands{binary: "gpg", env: env, first: keep("one"), second: keep("two"),
			restore: "mkdir -p " + out + " && " + fetch + " | gpg --batch -q -d | zstd -dc | tar -x -C " + out,
			small:   "mkdir -p " + out + " && " + fetch + " | gpg --batch -q -d | zstd -dc | tar -x -C " + out + " ./" + small}, nil
	}
	return commands{}, fmt.Errorf("no such tool")
}

// keys makes a GPG key pair for the tools that encrypt to one.
func (b *bench) keys() error {
	home := filepath.Join(b.dir, "gnupg")
	if _, err := os.Stat(home); err == nil {
		return nil
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	_, err := b.shell("export GNUPGHOME="+home+"; gpg --batch --passphrase '' --quick-gen-key bench@example.org default default never && "+
		"gpg --armor --export bench@example.org > public.asc && gpg --armor --export-secret-keys bench@example.org > secret.asc", nil)
	return err
}
