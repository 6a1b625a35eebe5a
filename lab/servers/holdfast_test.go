package servers_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/smtp"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"holdfast/internal/names"
	"holdfast/internal/secret"
	"holdfast/lab"
	"holdfast/lab/servers"
	"holdfast/lab/servers/serverstest"
)

// TestHoldfastLab brings up a lab in which Holdfast runs, and asks every service for what it is there for.
func TestHoldfastLab(t *testing.T) {
	serverstest.Needed(t)
	shape := servers.Default("labhf")
	shape.Sites[0], shape.Sites[1] = servers.DockerSite("par1", 1), servers.DockerSite("ams1", 1)
	shape.Bin, shape.ACME = serverstest.Programs(t), true
	l := serverstest.Up(t, shape)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()

	t.Run("every node has joined", func(t *testing.T) {
		var seen []lab.NodeView
		act(t, l.JSON(ctx, &seen, "get", "nodes"))
		if len(seen) != 5 {
			t.Errorf("nodes: %+v, want five", seen)
		}
	})
	t.Run("the fleet files hold", func(t *testing.T) {
		if out, err := l.Holdfast(ctx, "validate", "-f", l.Fleet()); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("object storage keeps objects", func(t *testing.T) { keepsObjects(ctx, t, l.Services().S3) })
	t.Run("mail arrives", func(t *testing.T) { mailArrives(ctx, t, l.Services()) })
	t.Run("the name server takes updates and tells them to nodes", func(t *testing.T) { namesChange(ctx, t, l) })
	t.Run("the issuer of certificates answers", func(t *testing.T) { issuerAnswers(ctx, t, l.Services().ACME) })
	t.Run("every server trusts the issuer", func(t *testing.T) {
		for _, s := range l.Servers() {
			say(ctx, t, s, "openssl", "verify", "/usr/local/share/ca-certificates/lab-acme.crt")
		}
	})
	t.Run("the vault is reached over SFTP alone", func(t *testing.T) { vaultIsClosed(ctx, t, l) })
	t.Run("a node that was killed is seen again", func(t *testing.T) {
		s := serverstest.Server(t, l, "ams1-n1")
		act(t, s.Kill(ctx))
		act(t, lab.Until(ctx, time.Minute, 200*time.Millisecond, "miss the node", func() (bool, string) {
			return stateOf(ctx, t, l, s.Name) != "ready", "it is ready"
		}))
		act(t, s.Start(ctx))
		act(t, l.WaitSeen(ctx))
	})
	t.Run("a node that was wiped joins again", func(t *testing.T) {
		s := serverstest.Server(t, l, "par1-n1")
		act(t, s.Wipe(ctx))
		act(t, s.Start(ctx))
		act(t, s.Join(ctx))
		act(t, l.WaitSeen(ctx))
	})
}

func stateOf(ctx context.Context, t *testing.T, l *servers.Lab, node string) string {
	t.Helper()
	var seen []lab.NodeView
	act(t, l.JSON(ctx, &seen, "get", "nodes"))
	for _, n := range seen {
		if n.Node == node {
			return n.State
		}
	}
	return ""
}

func keepsObjects(ctx context.Context, t *testing.T, s3 servers.S3) {
	client, err := minio.New(s3.Endpoint, &minio.Options{Creds: credentials.NewStaticV4(s3.AccessKey, s3.SecretKey, ""), Region: s3.Region})
	act(t, err)
	act(t, client.MakeBucket(ctx, "backups", minio.MakeBucketOptions{}))
	_, err = client.PutObject(ctx, "backups", "a/b", strings.NewReader("kept"), 4, minio.PutObjectOptions{})
	act(t, err)
	object, err := client.GetObject(ctx, "backups", "a/b", minio.GetObjectOptions{})
	act(t, err)
	defer object.Close()
	if got, err := io.ReadAll(object); err != nil || string(got) != "kept" {
		t.Errorf("the object is %q, %v", got, err)
	}
	stranger, err := minio.New(s3.Endpoint, &minio.Options{Creds: credentials.NewStaticV4(s3.AccessKey, "wrong", ""), Region: s3.Region})
	act(t, err)
	if _, err := stranger.StatObject(ctx, "backups", "a/b", minio.StatObjectOptions{}); err == nil {
		t.Error("a wrong secret reads the object")
	}
}

func mailArrives(ctx context.Context, t *testing.T, services servers.Endpoints) {
	act(t, smtp.SendMail(services.SMTP, nil, "lab@lab.test", []string{"ada@customer.test"}, []byte("Subject: moved\r\n\r\nYour stack is back.\r\n")))
	act(t, lab.Until(ctx, 10*time.Second, 50*time.Millisecond, "see the mail", func() (bool, string) {
		body, err := fetch(ctx, http.DefaultClient, services.Mail+"/api/v1/messages")
		if err != nil {
			return false, err.Error()
		}
		var shown struct {
			Messages []struct{ Subject string } `json:"messages"`
		}
		act(t, json.Unmarshal(body, &shown))
		return len(shown.Messages) == 1 && shown.Messages[0].Subject == "moved", string(body)
	}))
}

func namesChange(ctx context.Context, t *testing.T, l *servers.Lab) {
	dns := l.Services().DNS
	zone, err := names.Open(names.Settings{
		Provider: "rfc2136", Zone: dns.Zone, Server: dns.Address, KeyName: dns.KeyName, KeyAlgorithm: dns.Algorithm, Key: secret.Of(dns.Key),
	})
	act(t, err)
	_, err = zone.Point(ctx, []string{"acme." + dns.Zone}, []string{"10.1.2.3"})
	act(t, err)
	node := serverstest.Server(t, l, "par1-n1")
	if got := say(ctx, t, node, "getent", "ahostsv4", "acme."+dns.Zone); !strings.HasPrefix(got, "10.1.2.3 ") {
		t.Errorf("a node is told %q", got)
	}
	if got := say(ctx, t, node, "getent", "ahostsv4", "probe2"); !strings.HasPrefix(got, serverstest.Server(t, l, "probe2").Address.String()+" ") {
		t.Errorf("of another server a node is told %q", got)
	}
}

func issuerAnswers(ctx context.Context, t *testing.T, acme servers.ACME) {
	authority, err := os.ReadFile(acme.CAFile)
	act(t, err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		t.Fatalf("%s holds no certificate", acme.CAFile)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	directory, err := fetch(ctx, client, acme.Directory)
	act(t, err)
	if !bytes.Contains(directory, []byte("newOrder")) {
		t.Errorf("the directory is %s", directory)
	}
	roots, err := fetch(ctx, client, acme.Roots)
	act(t, err)
	if !x509.NewCertPool().AppendCertsFromPEM(roots) {
		t.Errorf("the roots are %s", roots)
	}
}

func fetch(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	return io.ReadAll(answer.Body)
}

// vaultIsClosed asks what a stranger would: SSH and the backup listener answer, all else is silent, and the account for
// plain SFTP has no shell.
func vaultIsClosed(ctx context.Context, t *testing.T, l *servers.Lab) {
	vault := serverstest.Server(t, l, "vault1")
	say(ctx, t, vault, "systemd-run", "--unit", "stranger", "systemd-socket-activate", "--listen", "9000", "/bin/cat")
	act(t, lab.Until(ctx, 10*time.Second, 50*time.Millisecond, "start a stranger", func() (bool, string) {
		_, err := vault.Run(ctx, "sh", "-ec", "ss -Htln | grep -q :9000")
		return err == nil, "nothing listens on port 9000"
	}))
	if vault.Answers(ctx, 9000) == nil {
		t.Error("port 9000 answers")
	}
	act(t, vault.Answers(ctx, 22))
	act(t, lab.Until(ctx, 10*time.Second, 100*time.Millisecond, "reach the backup listener", func() (bool, string) {
		err := vault.Answers(ctx, 7422)
		return err == nil, "closed"
	}))
	file := filepath.Join(t.TempDir(), "backup")
	act(t, os.WriteFile(file, []byte("sealed"), 0o600))
	put := exec.CommandContext(ctx, "sftp", append(vault.SSHArgs(), "-b", "-", "sftp@"+vault.Address.String())...)
	put.Stdin = strings.NewReader("put " + file + " /backups/one\n")
	if said, err := put.CombinedOutput(); err != nil {
		t.Errorf("put a file: %v: %s", err, said)
	}
	if got := say(ctx, t, vault, "cat", "/srv/sftp/backups/one"); got != "sealed" {
		t.Errorf("the vault holds %q", got)
	}
	shell := exec.CommandContext(ctx, "ssh", append(vault.SSHArgs(), "sftp@"+vault.Address.String(), "id")...)
	if said, _ := shell.CombinedOutput(); bytes.Contains(said, []byte("uid=")) {
		t.Errorf("the account has a shell: %s", said)
	}
}
