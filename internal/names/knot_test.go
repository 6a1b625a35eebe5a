package names

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"holdfast/internal/secret"
)

var knotConfig = template.Must(template.New("knot").Parse(`
server:
    rundir: {{.Dir}}
    listen: 127.0.0.1@{{.Port}}
key:
  - id: holdfast
    algorithm: hmac-sha256
    secret: {{.Key}}
acl:
  - id: holdfast
    key: holdfast
    action: [update, transfer]
database:
    storage: {{.Dir}}/db
zone:
  - domain: example.test
    storage: {{.Dir}}
    file: zone
    acl: holdfast
    zonefile-load: difference
log:
  - target: stderr
    any: info
`))

const emptyZone = `$ORIGIN example.test.
@ 60 SOA ns.example.test. admin.example.test. 1 60 60 60 60
@ 60 NS ns.example.test.
ns 60 A 127.0.0.1
www 3600 A 198.51.100.7
`

// knot is a real Knot DNS on loopback that takes updates signed with Key.
type knot struct {
	Dir, Key string
	Port     int
}

func startKnot(t *testing.T) *knot {
	t.Helper()
	k := &knot{Dir: t.TempDir(), Port: freePort(t)}
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		t.Fatal(err)
	}
	k.Key = base64.StdEncoding.EncodeToString(raw)
	var config strings.Builder
	if err := knotConfig.Execute(&config, k); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(k.Dir, "db"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"zone": emptyZone, "knot.conf": config.String()} {
		if err := os.WriteFile(filepath.Join(k.Dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k.run(t)
	return k
}

func (k *knot) run(t *testing.T) {
	t.Helper()
	cmd := exec.Command(program(t), "-c", filepath.Join(k.Dir, "knot.conf"))
	var words strings.Builder
	cmd.Stdout, cmd.Stderr = &words, &words
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended already
		<-ended
		if t.Failed() {
			t.Log(words.String())
		}
	})
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("knotd ended: %v\n%s", err, words.String())
		case <-deadline.C:
			t.Fatal("knotd does not answer within 20 s")
		case <-tick.C:
		}
		if found, err := k.ask(t.Context(), "www.example.test"); err == nil && len(found) == 1 {
			return
		}
	}
}

// program finds knotd, which `make setup` installs.
func program(t *testing.T) string {
	t.Helper()
	for _, path := range []string{"knotd", "/usr/sbin/knotd", "/usr/local/sbin/knotd"} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("knotd is not installed: make setup (package knot)")
	}
	t.Skip("NOT TESTED against a real DNS server: knotd is not installed; make setup (package knot) installs it")
	return ""
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func (k *knot) server() string { return fmt.Sprintf("127.0.0.1:%d", k.Port) }

func (k *knot) resolver() *net.Resolver {
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, network, k.server())
	}
	return &net.Resolver{PreferGo: true, Dial: dial}
}

func (k *knot) ask(ctx context.Context, host string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	found, err := k.resolver().LookupHost(ctx, host+".")
	slices.Sort(found)
	return found, err
}

func TestPointOnARealServer(t *testing.T) {
	k := startKnot(t)
	settings := Settings{Provider: "rfc2136", Zone: "example.test", Server: k.server(), KeyName: "holdfast", Key: secret.Of(k.Key)}
	zone, err := Open(settings)
	if err != nil {
		t.Fatal(err)
	}
	hosts := []string{"acme.example.test"}
	for i := range 150 { // more than one update carries
		hosts = append(hosts, fmt.Sprintf("customer%d.example.test", i))
	}
	for _, targets := range [][]string{{"192.0.2.1", "192.0.2.2"}, {"192.0.2.3"}, {"2001:db8::1", "192.0.2.2"}} {
		changes, err := zone.Point(t.Context(), hosts, targets)
		if err != nil {
			t.Fatal(err)
		}
		for _, host := range []string{"acme.example.test", "customer149.example.test"} {
			found, err := k.ask(t.Context(), host)
			slices.Sort(targets)
			if err != nil || !slices.Equal(found, targets) {
				t.Fatalf("%s leads to %v (%v), want %v", host, found, err, targets)
			}
		}
		t.Logf("%d records set, %d removed", len(changes.Set), len(changes.Removed))
	}
	if _, err := zone.Point(t.Context(), []string{"acme.example.test"}, []string{"www.example.test"}); err != nil {
		t.Fatal(err)
	}
	if name, err := k.resolver().LookupCNAME(t.Context(), "acme.example.test."); err != nil || name != "www.example.test." {
		t.Fatalf("acme is %q (%v)", name, err)
	}
	if _, err := zone.Withdraw(t.Context(), hosts); err != nil {
		t.Fatal(err)
	}
	if found, err := k.ask(t.Context(), "acme.example.test"); err == nil {
		t.Fatalf("a withdrawn name still leads to %v", found)
	}
	if found, err := k.ask(t.Context(), "www.example.test"); err != nil || len(found) != 1 {
		t.Fatalf("a name that is not ours was touched: %v %v", found, err)
	}
}

func TestAWrongKeyChangesNothing(t *testing.T) {
	k := startKnot(t)
	zone, err := Open(Settings{Provider: "rfc2136", Zone: "example.test", Server: k.server(), KeyName: "holdfast", Key: secret.Of("d3Jvbmc=")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = zone.Point(t.Context(), []string{"www.example.test"}, []string{"192.0.2.66"})
	if err == nil || strings.Contains(err.Error(), "d3Jvbmc=") {
		t.Fatalf("got %v", err)
	}
	if found, err := k.ask(t.Context(), "www.example.test"); err != nil || !slices.Equal(found, []string{"198.51.100.7"}) {
		t.Fatalf("www leads to %v (%v)", found, err)
	}
}
