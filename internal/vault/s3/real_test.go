package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"holdfast/internal/vault"
	"holdfast/internal/vault/s3"
	"holdfast/internal/vault/vaulttest"
)

// gateway is a running versitygw, a server of S3 that is none of ours.
type gateway struct {
	config s3.Config // of its owner
	client *minio.Client
}

// real starts the server that make e2e builds; nil where it is not there, and the log says so.
func real(t *testing.T) *gateway {
	t.Helper()
	program, err := filepath.Abs("../../../bin/versitygw")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Logf("S3 was tried with our own server only: %v (make bin/versitygw builds it)", err)
		return nil
	}
	dir := t.TempDir()
	for _, sub := range []string{"data", "versions", "iam"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	cmd := exec.Command(program, "--port", addr, "--access", "owner", "--secret", "owners-secret", "--quiet", "--iam-dir", filepath.Join(dir, "iam"),
		"posix", "--versioning-dir", filepath.Join(dir, "versions"), filepath.Join(dir, "data"))
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("versitygw said:\n%s", log.String())
		}
	})
	g := &gateway{config: s3.Config{Endpoint: addr, Bucket: "vault", Prefix: "acme", Region: "us-east-1", AccessKey: "owner", SecretKey: "owners-secret", Plain: true, Part: 5 << 20, Retries: 2}}
	g.client, err = minio.New(addr, &minio.Options{Creds: credentials.NewStaticV4("owner", "owners-secret", ""), Region: "us-east-1"})
	if err != nil {
		t.Fatal(err)
	}
	g.await(t)
	g.account(t, program, "node")
	return g
}

func (g *gateway) await(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		_, err := g.client.ListBuckets(t.Context())
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the server does not answer: %v", err)
		}
	}
}

// account makes one with no rights but those that policies give.
func (g *gateway) account(t *testing.T, program, name string) {
	t.Helper()
	out, err := exec.Command(program, "admin", "--access", "owner", "--secret", "owners-secret", "--endpoint-url", "http://"+g.config.Endpoint,
		"create-user", "--access", name, "--secret", name+"s-secret", "--role", "user").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func (g *gateway) bucket(t *testing.T, name string, locked bool) s3.Config {
	t.Helper()
	if err := g.client.MakeBucket(t.Context(), name, minio.MakeBucketOptions{ObjectLocking: locked}); err != nil {
		t.Fatal(err)
	}
	c := g.config
	c.Bucket = name
	return c
}

// TestRealConformance runs the suite against the real server, in a plain bucket and in one with versions and object lock.
func TestRealConformance(t *testing.T) {
	g := real(t)
	if g == nil {
		return
	}
	for _, locked := range []bool{false, true} {
		c := g.bucket(t, fmt.Sprintf("conform-%v", locked), locked)
		n := 0
		vaulttest.Run(t, func(t *testing.T) vault.Store {
			n++
			c := c
			c.Prefix = fmt.Sprintf("instance-%d", n)
			return open(t, c)
		})
	}
	if _, err := s3.Open(t.Context(), s3.Config{Endpoint: g.config.Endpoint, Bucket: "none", Prefix: "x", Region: "us-east-1", AccessKey: "owner", SecretKey: "owners-secret", Plain: true, Retries: 1}); !errors.Is(err, vault.ErrNotFound) {
		t.Errorf("a bucket that is not there: %v", err)
	}
	c := g.config
	c.Bucket, c.SecretKey = "conform-false", "wrong"
	if _, err := s3.Open(t.Context(), c); !errors.Is(err, vault.ErrDenied) {
		t.Errorf("a wrong secret: %v", err)
	}
}

// TestRealObjectLock deletes and overwrites with all rights: what was stored is still there, and stays.
func TestRealObjectLock(t *testing.T) {
	g := real(t)
	if g == nil {
		return
	}
	c := g.bucket(t, "locked", true)
	mode, days, unit := minio.Compliance, uint(30), minio.Days
	if err := g.client.SetBucketObjectLockConfig(t.Context(), c.Bucket, &mode, &days, &unit); err != nil {
		t.Fatal(err)
	}
	store, name := open(t, c), fmt.Sprintf("packs/%064x", 1)
	if err := store.Put(t.Context(), name, []byte("the pack")); err != nil {
		t.Fatal(err)
	}
	key := c.Prefix + "/" + name
	first, err := g.client.StatObject(t.Context(), c.Bucket, key, minio.StatObjectOptions{})
	if err != nil || first.VersionID == "" {
		t.Fatalf("version %q, %v", first.VersionID, err)
	}
	if err := store.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Get(t.Context(), name, 0, -1); !errors.Is(err, vault.ErrNotFound) {
		t.Errorf("after the delete: %v", err)
	}
	if _, err := g.client.PutObject(t.Context(), c.Bucket, key, strings.NewReader("evil"), 4, minio.PutObjectOptions{SendContentMd5: true}); err != nil {
		t.Fatal(err)
	}
	for _, bypass := range []bool{false, true} {
		err := g.client.RemoveObject(t.Context(), c.Bucket, key, minio.RemoveObjectOptions{VersionID: first.VersionID, GovernanceBypass: bypass})
		if err == nil {
			t.Errorf("a version under lock was destroyed, bypass %v", bypass)
		}
	}
	r, err := g.client.GetObject(t.Context(), c.Bucket, key, minio.GetObjectOptions{VersionID: first.VersionID})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(r); err != nil || body.String() != "the pack" {
		t.Fatalf("the first version is %q, %v", body.String(), err)
	}
}

// documented is the policy for nodes as docs/format/vault.md prints it, for this bucket, instance and account.
func documented(t *testing.T, bucket, instance, account string) string {
	t.Helper()
	page, err := os.ReadFile("../../../docs/format/vault.md")
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?s)\{"Version": "2012-10-17".*?\}\}\}\]\}`).FindString(string(page))
	if text == "" {
		t.Fatal("the page prints no policy")
	}
	text = strings.NewReplacer("BUCKET", bucket, "INSTANCE", instance, `"Effect": "Allow"`, fmt.Sprintf(`"Effect": "Allow", "Principal": {"AWS": [%q]}`, account)).Replace(text)
	return text
}

// TestRealPolicyWithoutDelete gives a node the documented policy: it can back up, and can neither delete, nor read
// backups, nor reach another instance; what it overwrites is kept by the versions.
func TestRealPolicyWithoutDelete(t *testing.T) {
	g := real(t)
	if g == nil {
		return
	}
	owner := g.bucket(t, "policy", true)
	if err := g.client.SetBucketPolicy(t.Context(), owner.Bucket, documented(t, owner.Bucket, owner.Prefix, "node")); err != nil {
		t.Fatal(err)
	}
	other := owner
	other.Prefix = "other"
	if err := open(t, other).Put(t.Context(), "config.json", []byte("not yours")); err != nil {
		t.Fatal(err)
	}
	people := vaulttest.NewKey(t)
	_, key, err := vault.Init(t.Context(), open(t, owner), vault.InitOptions{Instance: "acme", Recipients: []string{people.Public}})
	if err != nil {
		t.Fatal(err)
	}

	mine := owner
	mine.AccessKey, mine.SecretKey, mine.Retries = "node", "nodes-secret", 1
	node := open(t, mine)
	info := backUp(t, node, key, "the first day")
	backUp(t, node, key, "the second day")
	pack := "packs/" + info.Packs[0]
	if r, err := node.Get(t.Context(), pack, 0, -1); !errors.Is(err, vault.ErrDenied) {
		t.Errorf("a node reads a pack: %v, %v", r, err)
	}
	if r, err := node.Get(t.Context(), info.Manifest, 0, -1); !errors.Is(err, vault.ErrDenied) {
		t.Errorf("a node reads a manifest: %v, %v", r, err)
	}
	for _, name := range []string{pack, info.Manifest, "config.json", "snapshots/" + info.ID + ".json"} {
		if err := node.Delete(t.Context(), name); !errors.Is(err, vault.ErrDenied) {
			t.Errorf("a node deletes %s: %v", name, err)
		}
	}
	if err := node.Put(t.Context(), pack, []byte("evil")); !errors.Is(err, vault.ErrExists) {
		t.Errorf("a node overwrites a pack: %v", err)
	}
	foreign := mine
	foreign.Prefix = "other"
	if s, err := s3.Open(t.Context(), foreign); !errors.Is(err, vault.ErrDenied) {
		t.Errorf("a node opens another instance: %v, %v", s, err)
	}
	overwriteByHand(t, g, mine, pack)
	restored(t, open(t, owner), people, info.ID)
}

// overwriteByHand goes past our client, as a thief of the key would: S3 has no right to create without the right to
// overwrite, so what was stored must still be there as a version, and no version may be deleted.
func overwriteByHand(t *testing.T, g *gateway, c s3.Config, name string) {
	t.Helper()
	thief, err := minio.New(c.Endpoint, &minio.Options{Creds: credentials.NewStaticV4(c.AccessKey, c.SecretKey, ""), Region: c.Region})
	if err != nil {
		t.Fatal(err)
	}
	key := c.Prefix + "/" + name
	before, err := g.client.StatObject(t.Context(), c.Bucket, key, minio.StatObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := thief.PutObject(t.Context(), c.Bucket, key, strings.NewReader("evil"), 4, minio.PutObjectOptions{SendContentMd5: true}); err != nil {
		t.Fatalf("the test wants to see an overwrite survived: %v", err)
	}
	if err := thief.RemoveObject(t.Context(), c.Bucket, key, minio.RemoveObjectOptions{VersionID: before.VersionID}); err == nil {
		t.Error("a node destroyed a version")
	}
	after, err := g.client.StatObject(t.Context(), c.Bucket, key, minio.StatObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// The vault's owner takes the evil version away, and the true one is back.
	if err := g.client.RemoveObject(t.Context(), c.Bucket, key, minio.RemoveObjectOptions{VersionID: after.VersionID}); err != nil {
		t.Fatal(err)
	}
}

func backUp(t *testing.T, s vault.Store, key vault.WriterKey, text string) vault.SnapshotInfo {
	t.Helper()
	r, err := vault.Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "file"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := r.Backup(t.Context(), key, vault.BackupOptions{Sources: []vault.Source{{Name: "data", Path: src}}})
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func restored(t *testing.T, s vault.Store, people vaulttest.Key, snapshot string) {
	t.Helper()
	r, err := vault.Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	envelopes, err := r.Envelopes(t.Context(), snapshot)
	if err != nil {
		t.Fatal(err)
	}
	id, err := vault.OpenEnvelopePGP(envelopes[0], people.Secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	if _, err := r.Restore(context.Background(), vault.RestoreOptions{Snapshot: snapshot, Identities: []vault.EpochIdentity{id}, To: to}); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(to, "data", "file")); err != nil || string(text) != "the first day" {
		t.Fatalf("%q, %v", text, err)
	}
}
