package vault_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/vault"
	"holdfast/internal/vault/vaulttest"
)

// gpg runs GnuPG with a home of its own.
type gpg struct {
	t    *testing.T
	home string
}

func newGPG(t *testing.T) gpg {
	home, err := os.MkdirTemp("", "gpg") // a short path: sockets live in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run() // no agent may have been started
		os.RemoveAll(home)
	})
	return gpg{t, home}
}

func (g gpg) run(args ...string) string {
	g.t.Helper()
	cmd := exec.Command("gpg", append([]string{"--homedir", g.home, "--batch", "--quiet", "--pinentry-mode", "loopback"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		g.t.Fatalf("gpg %q: %v\n%s", args, err, stderr.String())
	}
	return string(out)
}

// TestKeysOfGnuPG seals to keys that GnuPG made and opens with their secret halves, with and without a passphrase.
func TestKeysOfGnuPG(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, algorithm, passphrase string }{
		{"curve25519", "future-default", ""}, {"locked", "future-default", "correct horse"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGPG(t)
			g.run("--passphrase", c.passphrase, "--quick-gen-key", c.name, c.algorithm, "default", "never")
			public, secret := g.run("--armor", "--export"), g.run("--armor", "--passphrase", c.passphrase, "--export-secret-keys")
			r, _, err := vault.Init(t.Context(), &vaulttest.Memory{}, vault.InitOptions{Recipients: []string{public}})
			if err != nil {
				t.Fatal(err)
			}
			envelopes, err := r.Envelopes(t.Context(), "")
			if err != nil || len(envelopes) != 1 {
				t.Fatalf("%d envelopes, %v", len(envelopes), err)
			}
			if _, err := vault.OpenEnvelopePGP(envelopes[0], secret, []byte(c.passphrase)); err != nil {
				t.Error(err)
			}
			if c.passphrase != "" {
				if _, err := vault.OpenEnvelopePGP(envelopes[0], secret, []byte("wrong")); !errors.Is(err, vault.ErrWrongKey) {
					t.Errorf("wrong passphrase: %v", err)
				}
			}
		})
	}
}

// TestRSAKeysOfGnuPG takes kept keys, which gpg 2.2 made with --quick-gen-key and --quick-add-key: they take long to make.
func TestRSAKeysOfGnuPG(t *testing.T) {
	for _, name := range []string{"rsa3072", "rsa4096"} {
		file := func(half string) string {
			text, err := os.ReadFile(filepath.Join("testdata", "gnupg", name+"."+half+".asc"))
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		p := &place{store: &vaulttest.Memory{}, people: vaulttest.Key{Public: file("pub"), Secret: file("sec")}}
		var err error
		if p.repo, p.key, err = vault.Init(t.Context(), p.store, vault.InitOptions{Recipients: []string{p.people.Public}}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		src, out := t.TempDir(), t.TempDir()
		if err := os.WriteFile(filepath.Join(src, "file"), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		p.backup(t, vault.Source{Name: "d", Path: src})
		p.restore(t, vault.RestoreOptions{To: out})
		if text, err := os.ReadFile(filepath.Join(out, "d", "file")); err != nil || string(text) != name {
			t.Errorf("%s: restored %q, %v", name, text, err)
		}
	}
}

// TestUnusableKeysAreRefused names the reason.
func TestUnusableKeysAreRefused(t *testing.T) {
	t.Parallel()
	expired := newGPG(t)
	expired.run("--faked-system-time", "20200101T000000", "--passphrase", "", "--quick-gen-key", "old", "future-default", "default", "1d")
	revoked := newGPG(t)
	revoked.run("--passphrase", "", "--quick-gen-key", "gone", "future-default", "default", "never")
	files, err := filepath.Glob(filepath.Join(revoked.home, "openpgp-revocs.d", "*.rev"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%q, %v", files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], bytes.Replace(text, []byte(":-----BEGIN"), []byte("-----BEGIN"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	revoked.run("--import", files[0])
	for want, key := range map[string]string{"the key expired": expired.run("--armor", "--export"), "the key is revoked": revoked.run("--armor", "--export")} {
		if err := vault.CheckRecipient(key, time.Now()); !errors.Is(err, vault.ErrWrongKey) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s key: %v", want, err)
		}
	}
}

// TestGnuPGTakesOurKeys imports a pair that we made and opens with it what was sealed to it.
func TestGnuPGTakesOurKeys(t *testing.T) {
	t.Parallel()
	pair, err := vault.NewKeyPair("acme", nil, time.Now().Add(-time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	g := newGPG(t)
	file := filepath.Join(g.home, "secret")
	if err := os.WriteFile(file, pair.Secret(), 0o600); err != nil {
		t.Fatal(err)
	}
	g.run("--import", file)
	r, _, err := vault.Init(t.Context(), &vaulttest.Memory{}, vault.InitOptions{Recipients: []string{pair.Public}})
	if err != nil {
		t.Fatal(err)
	}
	envelopes, err := r.Envelopes(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	message := filepath.Join(g.home, "message")
	if err := os.WriteFile(message, envelopes[0].PGP[0], 0o600); err != nil {
		t.Fatal(err)
	}
	var id vault.EpochIdentity
	if err := id.UnmarshalText([]byte(g.run("--decrypt", message))); err != nil || id.Epoch != envelopes[0].Epoch {
		t.Fatalf("epoch %q, %v", id.Epoch, err)
	}
}

// TestCustodian opens with the other envelope.
func TestCustodian(t *testing.T) {
	recipient, identity, err := vault.NewCustodian()
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := vault.Init(t.Context(), &vaulttest.Memory{}, vault.InitOptions{Custodians: []string{recipient}})
	if err != nil {
		t.Fatal(err)
	}
	envelopes, err := r.Envelopes(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vault.OpenEnvelopeAge(envelopes[0], identity); err != nil {
		t.Error(err)
	}
	_, other, err := vault.NewCustodian()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vault.OpenEnvelopeAge(envelopes[0], other); !errors.Is(err, vault.ErrWrongKey) {
		t.Errorf("another custodian: %v", err)
	}
}

// TestViewReadsAnywhere compares reads at random places with the files.
func TestViewReadsAnywhere(t *testing.T) {
	p, src := newPlaceIn(t, &vaulttest.Memory{}), t.TempDir()
	vaulttest.MakeTree(t, src, 9, 40)
	p.backup(t, vault.Source{Name: ".", Path: src})
	v, err := p.repo.View(t.Context(), "latest", p.identities(t, "latest"))
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for number, e := range v.Entries() {
		if e.Kind != "file" {
			continue
		}
		files++
		want, err := os.ReadFile(filepath.Join(src, e.Path))
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int64{0, 1, e.Size / 3, e.Size - 1} {
			if at < 0 || at >= e.Size {
				continue
			}
			got := make([]byte, 200_000)
			n, err := v.ReadAt(t.Context(), number, got, at)
			if err != nil || !bytes.Equal(got[:n], want[at:min(at+200_000, e.Size)]) {
				t.Fatalf("%q at %d: %d bytes, %v", e.Path, at, n, err)
			}
		}
		if _, err := v.ReadAt(t.Context(), number, make([]byte, 1), e.Size); !errors.Is(err, io.EOF) {
			t.Errorf("%q at its end: %v", e.Path, err)
		}
	}
	if files < 10 {
		t.Fatalf("only %d files", files)
	}
}
