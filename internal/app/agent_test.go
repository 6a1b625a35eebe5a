//go:build !slim

package app

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"holdfast/internal/agent"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/link/linktest"
	"holdfast/internal/problem"
	"holdfast/internal/step"
	"holdfast/internal/vault/s3/s3test"
)

func nodeOf(t *testing.T, register *linktest.Register, url string, roles ...fleet.Role) Agent {
	t.Helper()
	return Agent{
		Self: agent.Self{Server: url, Node: "a1", Site: "a", Roles: roles, Address: "127.0.0.1"},
		Dir:  filepath.Join(t.TempDir(), "data"), Token: register.Token("a1"), Version: "test", Engines: []string{"exec"},
		Vault: VaultSettings{Listen: "127.0.0.1:0"}, Log: slog.New(slog.DiscardHandler),
	}
}

// start runs an agent; end stops it and gives its error.
func start(t *testing.T, a Agent) (end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- RunAgent(ctx, a) }()
	ended := false
	end = func() error {
		ended = true
		cancel()
		return <-over
	}
	t.Cleanup(func() {
		if !ended {
			_ = end() // the test has failed already
		}
	})
	return end
}

func newestFacts(register *linktest.Register, ok func(fleet.NodeFacts) bool) (fleet.NodeFacts, bool) {
	all := register.Reports("a1")
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Facts != nil {
			return *all[i].Facts, ok(*all[i].Facts)
		}
	}
	return fleet.NodeFacts{}, false
}

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// A node with role vault lets in whom the grants name, for the repository they name, and nobody else.
func TestAVaultObeysItsGrants(t *testing.T) {
	t.Run("in a folder", func(t *testing.T) { vaultObeys(t, "") })
	t.Run("in a bucket", func(t *testing.T) {
		storage, at := s3test.New(t)
		t.Setenv("AWS_ACCESS_KEY_ID", at.AccessKey)
		t.Setenv("AWS_SECRET_ACCESS_KEY", at.SecretKey)
		vaultObeys(t, "s3://"+at.Endpoint+"/vault/par1?plain=1&region=here")
		if names := storage.Names(); !slices.Equal(names, []string{"par1/acme/config.json", "par1/globex/config.json"}) {
			t.Errorf("in the bucket are %q", names)
		}
	})
}

func TestAVaultInABucketThatCannotBe(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	for bucket, want := range map[string]string{
		"s3://store.example/backups": "the agent did not start: the bucket s3://store.example/backups has no credentials",
		"s3://store.example":         `repository "s3://store.example": endpoint or bucket is missing`,
		"/var/backups":               `repository "/var/backups": endpoint or bucket is missing`,
	} {
		register, server := linktest.Up(t)
		a := nodeOf(t, register, server.URL, fleet.RoleVault)
		a.Vault.Bucket = bucket
		if err := RunAgent(t.Context(), a); problem.KindOf(err) != problem.Usage || err.Error() != want {
			t.Errorf("%s: %v", bucket, err)
		}
	}
}

func vaultObeys(t *testing.T, bucket string) {
	register, server := linktest.Up(t)
	a := nodeOf(t, register, server.URL, fleet.RoleVault)
	a.Vault.Bucket = bucket
	end := start(t, a)
	var facts fleet.NodeFacts
	linktest.Until(t, "the vault listens", func() (ok bool) {
		facts, ok = newestFacts(register, func(f fleet.NodeFacts) bool { return f.VaultAddr != "" })
		return ok
	})
	if facts.Engines[0] != "exec" || facts.Node != "a1" || !strings.HasPrefix(facts.VaultKey, "ssh-ed25519 ") || facts.VaultKey == facts.SSHKey {
		t.Fatalf("facts: %+v", facts)
	}
	key := newSigner(t)
	open := func(instance string, signer ssh.Signer) error {
		store, err := openStore(signer)(t.Context(), step.Repository{URL: "sftp://" + instance + "@" + facts.VaultAddr + "/" + instance, HostKey: facts.VaultKey})
		if err != nil {
			return err
		}
		if err := store.Put(t.Context(), "config.json", []byte("{}")); err != nil {
			return err
		}
		return store.Close()
	}
	if err := open("acme", key); problem.KindOf(err) != problem.Unreachable {
		t.Fatalf("before any grant: %v", err)
	}
	body, err := json.Marshal(link.GrantsSetting{Grants: []link.Grant{
		{Key: authorized(key.PublicKey()), Instance: "acme", Rights: "write"}, {Key: authorized(key.PublicKey()), Instance: "globex", Rights: "write"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	session, _ := server.Session("a1")
	setting, err := register.Setting(link.Setting{Kind: link.SettingGrants, Node: "a1", Generation: 1, BootID: session.BootID, Body: body})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Deliver("a1", setting); err != nil {
		t.Fatal(err)
	}
	linktest.Until(t, "the grant holds", func() bool { return open("acme", key) == nil })
	if err := open("globex", key); err != nil {
		t.Errorf("the second repository of the same node: %v", err)
	}
	if err := open("umbrella", key); err == nil {
		t.Error("a repository without a grant was opened")
	}
	if err := open("acme", newSigner(t)); err == nil {
		t.Error("a key without a grant was let in")
	}
	if err := end(); err != nil {
		t.Fatalf("the agent stopped with %v", err)
	}
}

func TestOneAgentOnADataDirectory(t *testing.T) {
	register, server := linktest.Up(t)
	a := nodeOf(t, register, server.URL, fleet.RoleRun)
	end := start(t, a)
	linktest.Until(t, "the agent listens", func() bool { _, ok := server.Session("a1"); return ok })
	err := RunAgent(t.Context(), a)
	if problem.KindOf(err) != problem.Busy || err.Error() != "the agent did not start: another agent runs on "+a.Dir {
		t.Fatalf("a second agent: %v", err)
	}
	first, _ := server.Session("a1")
	if err := end(); err != nil {
		t.Fatal(err)
	}
	a.Token = "" // it has joined
	end = start(t, a)
	linktest.Until(t, "the agent is back, as another life", func() bool {
		s, ok := server.Session("a1")
		return ok && s.BootID != first.BootID
	})
	if err := end(); err != nil {
		t.Fatal(err)
	}
}

func TestAnEngineThatIsNone(t *testing.T) {
	register, server := linktest.Up(t)
	a := nodeOf(t, register, server.URL, fleet.RoleRun)
	a.Engines = []string{"podman"}
	err := RunAgent(t.Context(), a)
	if problem.KindOf(err) != problem.Usage || err.Error() != `the agent did not start: there is no engine "podman"` {
		t.Fatalf("got %v", err)
	}
}
