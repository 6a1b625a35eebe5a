package e2e_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"holdfast/internal/db/dbtest"
	"holdfast/internal/vault/s3/s3test"
	"holdfast/lab"
)

// TestTheLossOnEveryEngine tells the main story, of a deploy, a backup, the loss of a site and its recovery with the
// control plane killed in the middle, on other engines than the default ones: the control database in PostgreSQL and
// backups in S3. The other stories hold SQLite and folders; make e2e tells the mixed pairs as well.
func TestTheLossOnEveryEngine(t *testing.T) {
	pairs := []struct{ database, vault string }{{"postgres", "s3"}}
	if os.Getenv("HOLDFAST_E2E") != "" {
		pairs = append(pairs, []struct{ database, vault string }{{"postgres", "folder"}, {"sqlite", "s3"}, {"sqlite", "folder"}}...)
	}
	for _, pair := range pairs {
		t.Run(pair.database+" and "+pair.vault, func(t *testing.T) {
			lossOn(t, func(n *lab.Notes) error {
				if pair.database == "postgres" {
					n.DB = dbtest.PostgresDSN(t)
				}
				if pair.vault == "s3" {
					inBucket(t, n)
				}
				return nil
			}, one(pair.database == "sqlite"), one(pair.vault == "folder"))
		})
	}
}

func one(is bool) int {
	if is {
		return 1
	}
	return 0
}

// lossOn tells the story; databases and repositories are how many of the lost customer's lie in files of the lab itself.
func lossOn(t *testing.T, engines func(*lab.Notes) error, databases, repositories int) {
	w := begin(t, 2, engines)
	c := w.In(lab.SiteA)[0]
	w.holdfast("backup", "run", "--all")
	w.inFiles(databases, "server", "*.db")
	w.inFiles(repositories, "nodes", lab.SiteB+"-vault", "vault", c.Instance)
	w.recoverWithKill(serverKilled, 9, c)
	w.goHome(c)
	w.must(c.Add(w.ctx, "after-the-loss"))
	w.holdfast("backup", "run", "instance/"+c.Instance)
	w.holdfast("restore", "instance/"+c.Instance)
	w.whole("restored in place", c)
	w.holdfast("plan", "-f", w.Fleet) // exit code 0: nothing to do
	w.holdfast("audit", "verify")
}

// inFiles checks how many files of the lab match, so that a story is not told on another engine than it says.
func (w *world) inFiles(want int, pattern ...string) {
	w.Helper()
	found, err := filepath.Glob(filepath.Join(append([]string{w.Dir}, pattern...)...))
	w.must(err)
	if len(found) != want {
		w.Fatalf("%d files, want %d: %s", len(found), want, found)
	}
}

// inBucket lets every vault of the lab keep its repositories in a bucket, each below its own name.
func inBucket(t *testing.T, n *lab.Notes) {
	t.Helper()
	endpoint := bucketServer(t)
	for i, node := range n.Nodes {
		if node.Roles == "vault" {
			bucket := fmt.Sprintf("s3://%s/vault/%s?plain=1&region=us-east-1", endpoint, node.Name)
			n.Nodes[i].Extra = append(slices.Clone(node.Extra), "--vault-bucket", bucket)
		}
	}
}

// bucketServer starts the S3 server that make setup builds, with one bucket, vault; where it is not there, the one in
// memory. The credentials are in the environment that nodes inherit.
func bucketServer(t *testing.T) (endpoint string) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "owner")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "owners-secret")
	program, err := filepath.Abs("../../bin/versitygw")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Logf("S3 is our own server in memory: %v (make setup builds another)", err)
		_, config := s3test.New(t)
		return config.Endpoint
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "vault"), 0o700); err != nil { // a folder is a bucket
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	endpoint = l.Addr().String()
	_ = l.Close() // the next one to listen is the gateway
	cmd := exec.Command(program, "--port", endpoint, "--access", "owner", "--secret", "owners-secret", "--quiet", "posix", dir)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed on purpose
	})
	if err := lab.Until(t.Context(), 20*time.Second, 50*time.Millisecond, "start versitygw", func() (bool, string) {
		c, err := net.Dial("tcp", endpoint)
		if err != nil {
			return false, err.Error() + said.String()
		}
		return true, fmt.Sprint(c.Close())
	}); err != nil {
		t.Fatal(err)
	}
	return endpoint
}
