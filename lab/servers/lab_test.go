package servers_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/internal/problem"
	"holdfast/lab"
	"holdfast/lab/servers"
	"holdfast/lab/servers/serverstest"
)

// small is a lab that shows every kind of place and is up in seconds.
func small(name string) servers.Shape {
	shape := servers.Shape{Name: name, Sites: []servers.Site{servers.DockerSite("par1", 2), servers.DockerSite("ams1", 1)}}
	for i := range shape.Sites {
		for k := range shape.Sites[i].Servers {
			shape.Sites[i].Servers[k].DiskMB = 1024
		}
	}
	return shape
}

// TestLab tells one lab's life: every fault is made, seen, and undone.
func TestLab(t *testing.T) {
	serverstest.Needed(t)
	before := residue(t, "labtest")
	t.Run("life", func(t *testing.T) { live(t, serverstest.Up(t, small("labtest"))) })
	if after := residue(t, "labtest"); after != before {
		t.Errorf("down left something:\n%s\nbefore it was:\n%s", after, before)
	}
}

func live(t *testing.T, l *servers.Lab) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	p1, p2, a1 := serverstest.Server(t, l, "par1-n1"), serverstest.Server(t, l, "par1-n2"), serverstest.Server(t, l, "ams1-n1")

	t.Run("every server is one of its own", func(t *testing.T) {
		for _, s := range l.Servers() {
			if got := say(ctx, t, s, "hostname"); got != s.Name {
				t.Errorf("%s calls itself %q", s.Name, got)
			}
			if got, err := s.SSH(ctx, "hostname"); err != nil || strings.TrimSpace(got) != s.Name {
				t.Errorf("ssh to %s: %q, %v", s.Name, got, err)
			}
			if got := say(ctx, t, s, "docker", "info", "--format", "{{.Name}} {{.ServerVersion}}"); !strings.HasPrefix(got, s.Name+" ") {
				t.Errorf("docker on %s says %q", s.Name, got)
			}
			if got := say(ctx, t, s, "systemctl", "--failed", "--plain", "--no-legend"); got != "" {
				t.Errorf("on %s failed: %s", s.Name, got)
			}
		}
	})
	t.Run("up again changes nothing", func(t *testing.T) {
		boot := say(ctx, t, p1, "cat", "/proc/1/stat")
		if _, err := servers.Up(ctx, small("labtest"), t.Output()); err != nil {
			t.Fatal(err)
		}
		if again := say(ctx, t, p1, "cat", "/proc/1/stat"); strings.Fields(again)[21] != strings.Fields(boot)[21] {
			t.Error("a server that was on has booted again")
		}
		if _, err := servers.Up(ctx, servers.Default("labtest"), t.Output()); err == nil || !strings.Contains(err.Error(), "another shape") {
			t.Errorf("up in another shape: %v", err)
		}
	})
	t.Run("a cut site is alone and whole", func(t *testing.T) {
		reaches(ctx, t, a1, p1, true)
		act(t, l.Cut(ctx, "par1"))
		act(t, l.Cut(ctx, "par1")) // twice is once
		reaches(ctx, t, a1, p1, false)
		reaches(ctx, t, p1, a1, false)
		reaches(ctx, t, p1, p2, true)
		if p1.Answers(ctx, 22) == nil {
			t.Error("this machine still reaches a site that is cut")
		}
		act(t, l.Heal(ctx, "par1"))
		reaches(ctx, t, a1, p1, true)
	})
	t.Run("two sites are cut from each other alone", func(t *testing.T) {
		act(t, l.CutBetween(ctx, "par1", "ams1"))
		reaches(ctx, t, a1, p1, false)
		if err := p1.Answers(ctx, 22); err != nil {
			t.Errorf("this machine does not reach it: %v", err)
		}
		act(t, l.Heal(ctx, "ams1"))
		reaches(ctx, t, a1, p1, true)
	})
	t.Run("an unplugged server is alone", func(t *testing.T) {
		act(t, l.Cut(ctx, "par1-n2"))
		reaches(ctx, t, p1, p2, false)
		reaches(ctx, t, a1, p1, true)
		act(t, l.Heal(ctx, "par1-n2"))
		reaches(ctx, t, p1, p2, true)
	})
	t.Run("without power nothing runs, and the disk stays", func(t *testing.T) {
		say(ctx, t, p1, "sh", "-c", "echo kept > /srv/word && sync && useradd ada")
		act(t, p1.Kill(ctx))
		if p1.On() {
			t.Fatal("it is still on")
		}
		if _, err := p1.Run(ctx, "true"); err == nil || !strings.Contains(err.Error(), "is off") {
			t.Errorf("a command on it: %v", err)
		}
		reaches(ctx, t, a1, p1, false)
		act(t, p1.Start(ctx))
		if got := say(ctx, t, p1, "sh", "-c", "cat /srv/word; id -un ada"); got != "kept\nada" {
			t.Errorf("its disk holds %q", got)
		}
		reaches(ctx, t, a1, p1, true)
		say(ctx, t, p1, "docker", "info")
	})
	t.Run("a disk is full for everyone and only there", func(t *testing.T) {
		act(t, p2.Fill(ctx, 0))
		if out, err := p2.Run(ctx, "sh", "-ec", "head -c 100000 /dev/urandom > /srv/more"); err == nil {
			t.Errorf("root still writes: %s", out)
		}
		if free := freeMB(ctx, t, p2); free != 0 {
			t.Errorf("%d MB are free", free)
		}
		say(ctx, t, p1, "sh", "-ec", "head -c 100000 /dev/urandom > /srv/more")
		act(t, p2.Free(ctx))
		say(ctx, t, p2, "sh", "-ec", "head -c 100000 /dev/urandom > /srv/more")
		act(t, p2.Fill(ctx, 50))
		if free := freeMB(ctx, t, p2); free < 45 || free > 51 {
			t.Errorf("%d MB are free, want about 50", free)
		}
		act(t, p2.Free(ctx))
	})
	t.Run("a slow site is slow outward alone", func(t *testing.T) {
		act(t, l.Slow(ctx, "par1", 8))
		begun := time.Now()
		if _, err := p1.SSH(ctx, "head -c 3000000 /dev/zero"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took < 2*time.Second {
			t.Errorf("3 MB came in %s at 8 Mbit/s", took)
		}
		act(t, l.Heal(ctx, "par1"))
		limits, err := exec.CommandContext(ctx, "tc", "-n", "hf-labtest-core", "qdisc", "show", "dev", "par1").CombinedOutput()
		if err != nil || strings.Contains(string(limits), "tbf") {
			t.Errorf("after heal: %s, %v", limits, err)
		}
	})
	t.Run("a server that reboots itself comes back", func(t *testing.T) {
		first, err := p2.Docker()
		act(t, err)
		_, err = p2.Run(ctx, "systemctl", "reboot")
		act(t, err)
		act(t, lab.Until(ctx, 30*time.Second, 50*time.Millisecond, "reboot", func() (bool, string) {
			now, err := p2.Docker()
			if err != nil || now == first {
				return false, "it is the same boot"
			}
			_, err = p2.Run(ctx, "docker", "info")
			return err == nil, "docker does not answer"
		}))
	})
	t.Run("a wiped server is a new one", func(t *testing.T) {
		act(t, p1.Wipe(ctx))
		act(t, p1.Start(ctx))
		if out, err := p1.Run(ctx, "cat", "/srv/word"); err == nil {
			t.Errorf("its disk still holds %q", out)
		}
		if _, err := p1.SSH(ctx, "true"); err != nil {
			t.Errorf("it has another ssh key: %v", err)
		}
	})
}

func freeMB(ctx context.Context, t *testing.T, s *servers.Server) int {
	t.Helper()
	free, err := s.FreeMB(ctx)
	act(t, err)
	return free
}

// say runs a command that must succeed and returns what it printed.
func say(ctx context.Context, t *testing.T, s *servers.Server, args ...string) string {
	t.Helper()
	out, err := s.Run(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func act(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// reaches asks whether one server reaches another.
func reaches(ctx context.Context, t *testing.T, from, to *servers.Server, want bool) {
	t.Helper()
	_, err := from.Run(ctx, "ping", "-c", "1", "-W", "1", to.Address.String())
	if (err == nil) != want {
		t.Errorf("%s reaches %s: %v, want %v", from.Name, to.Name, err == nil, want)
	}
}

// residue lists what a lab of that name has on this machine, in every place that the kernel keeps such things.
func residue(t *testing.T, name string) string {
	t.Helper()
	var found []string
	for _, pattern := range []string{
		"/run/netns/hf-" + name + "-*", "/sys/class/net/hf-" + name, "/sys/fs/cgroup/hf-" + name, "/sys/fs/cgroup/*/hf-" + name,
		"/var/lib/holdfast-lab/" + name, "/var/lib/holdfast-lab/" + name + ".lock",
	} {
		there, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, there...)
	}
	return strings.Join(append(found, mentions(t, "/holdfast-lab/"+name+"/")...), "\n")
}

// mentions lists mounts of this machine, loop devices and processes that name a folder.
func mentions(t *testing.T, folder string) []string {
	t.Helper()
	files := []string{"/proc/self/mountinfo"}
	for _, pattern := range []string{"/sys/block/loop*/loop/backing_file", "/proc/[0-9]*/cmdline"} {
		there, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, there...)
	}
	var found []string
	for _, file := range files {
		if raw, err := os.ReadFile(file); err == nil && strings.Contains(string(raw), folder) {
			found = append(found, file+": "+strings.ReplaceAll(string(raw), "\x00", " "))
		}
	}
	return found
}

// A name that something else has taken is left to it.
func TestUpRefusesATakenName(t *testing.T) {
	serverstest.Needed(t)
	act(t, exec.CommandContext(t.Context(), "ip", "netns", "add", "hf-labtkn-theirs").Run())
	defer func() { act(t, exec.Command("ip", "netns", "del", "hf-labtkn-theirs").Run()) }()
	_, err := servers.Up(t.Context(), small("labtkn"), t.Output())
	if err == nil || !strings.Contains(err.Error(), "hf-labtkn-theirs exist already and belong to no lab") {
		t.Errorf("up: %v", err)
	}
	if problem.KindOf(err) != problem.Conflict {
		t.Errorf("it is %s, want a conflict", problem.KindOf(err))
	}
	if found := residue(t, "labtkn"); found != "/run/netns/hf-labtkn-theirs" {
		t.Errorf("the refused lab left:\n%s", found)
	}
}

// A program built with the skewed clock tells another time, and the right one when nothing is set.
func TestSkewedClock(t *testing.T) {
	source := t.TempDir()
	program := "package main\n\nimport \"time\"\n\nfunc main() { println(time.Now().Unix()) }\n"
	act(t, os.WriteFile(filepath.Join(source, "main.go"), []byte(program), 0o600))
	act(t, os.WriteFile(filepath.Join(source, "go.mod"), []byte("module clock\n\ngo 1.26\n"), 0o600))
	clock := filepath.Join(source, "clock")
	act(t, servers.BuildSkewed(t.Context(), source, clock, "."))
	for _, by := range []string{"", "600", "-86400", "rubbish"} {
		cmd := exec.CommandContext(t.Context(), clock)
		cmd.Env = append(os.Environ(), "HOLDFAST_LAB_SKEW="+by)
		said, err := cmd.CombinedOutput()
		act(t, err)
		told, err := strconv.ParseInt(strings.TrimSpace(string(said)), 10, 64)
		act(t, err)
		want, _ := strconv.ParseInt(by, 10, 64) // 0 for what is no number
		if off := told - time.Now().Unix() - want; off < -30 || off > 0 {
			t.Errorf("with %q it is %d s off", by, off)
		}
	}
}
