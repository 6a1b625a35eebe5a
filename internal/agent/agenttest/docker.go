package agenttest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/moby/moby/client"
)

// Dockerd starts a Docker Engine of its own, with its own directories and socket, and gives its address, such as
// unix:///tmp/hfd1/d.sock. Where that is not possible the test is left out and says what it needs;
// HOLDFAST_TEST_DOCKER names an engine that runs already. Engines of several test programs take turns: they would
// change each other's packet filters.
func Dockerd(t *testing.T) string {
	t.Helper()
	if host := os.Getenv("HOLDFAST_TEST_DOCKER"); host != "" {
		return host
	}
	program, err := exec.LookPath("dockerd")
	if err != nil || os.Geteuid() != 0 {
		t.Skip("what needs a Docker Engine is NOT tested here: that needs root and dockerd (apt-get install docker.io), or HOLDFAST_TEST_DOCKER=unix:///...")
	}
	turn(t)
	dir, err := os.MkdirTemp("", "hfd") // short: the path of a socket is limited
	if err != nil {
		t.Fatal(err)
	}
	host := "unix://" + filepath.Join(dir, "d.sock")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"),
		"--host", host, "--bridge", "none", "--default-address-pool", "base=10.213.0.0/16,size=26", "--cgroup-parent", "/"+filepath.Base(dir))
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = command.Wait() }() // it ends by our signal
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM) // it may have ended already, which the log then says
		<-ended
		if t.Failed() {
			said, _ := os.ReadFile(log.Name())
			t.Logf("dockerd said:\n%s", said[max(0, len(said)-4000):])
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Logf("leave %s behind: %v", dir, err)
		}
	})
	Await(t, func() bool { return answers(host) }, func() string { return "dockerd did not start" })
	return host
}

func answers(host string) bool {
	api, err := client.New(client.WithHost(host))
	if err != nil {
		return false
	}
	defer api.Close()
	_, err = api.Ping(context.Background(), client.PingOptions{})
	return err == nil
}

// turn waits until no other test program has an engine. The lock ends with the program that holds it.
func turn(t *testing.T) {
	t.Helper()
	lock, err := os.OpenFile(filepath.Join(os.TempDir(), "holdfast-test-dockerd.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lock.Close() }) // which lets go of it
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatalf("wait for the engine of another test: %v", err)
	}
}
