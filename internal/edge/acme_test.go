package edge_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"

	"holdfast/internal/edge"
)

// pebble is a real ACME issuer (Let's Encrypt's own test server) that asks for challenges on the edge's ports.
type pebble struct {
	directory string
	authority string         // PEM file of the CA of its HTTPS address
	roots     *x509.CertPool // of the certificates that it issues
}

func startPebble(t *testing.T, plainPort, tlsPort int) pebble {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", "0")
	silent := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	authority := ca.New(silent, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "default"}})
	validator := va.New(silent, plainPort, tlsPort, false, everyNameIsLocal(t), store)
	front := wfe.New(silent, store, validator, authority, []string{"pebble.test"}, false, false, 0, 0)
	server := httptest.NewTLSServer(front.Handler())
	t.Cleanup(server.Close)
	p := pebble{directory: server.URL + wfe.DirectoryPath, authority: filepath.Join(t.TempDir(), "ca.pem"), roots: x509.NewCertPool()}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(p.authority, text, 0o600); err != nil {
		t.Fatal(err)
	}
	p.roots.AppendCertsFromPEM(authority.GetRootCert(0).PEM())
	return p
}

// everyNameIsLocal is a DNS server for which every name is this machine.
func everyNameIsLocal(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{Listener: listener, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) {
		answer := new(dns.Msg).SetReply(question)
		if q := question.Question[0]; q.Qtype == dns.TypeA {
			header := dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}
			answer.Answer = []dns.RR{&dns.A{Hdr: header, A: net.IPv4(127, 0, 0, 1)}}
		}
		_ = w.WriteMsg(answer) // who asked is gone
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown() })
	return listener.Addr().String()
}

func freePort(t *testing.T) int {
	t.Helper()
	_, port, err := net.SplitHostPort(deadAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return number
}

func TestCertificateFromACMEIssuer(t *testing.T) {
	for _, challenge := range []string{"tls-alpn-01", "http-01"} {
		t.Run(challenge, func(t *testing.T) {
			plainPort, tlsPort := freePort(t), freePort(t)
			asked := tlsPort
			if challenge == "http-01" {
				asked = freePort(t) // nothing answers there, so only HTTP can prove the name
			}
			issuer := startPebble(t, plainPort, asked)
			e := start(t, func(s *edge.Settings) {
				s.Listen, s.Plain, s.Redirect = "127.0.0.1:"+strconv.Itoa(tlsPort), "", true
				if challenge == "http-01" {
					s.Plain = "127.0.0.1:" + strconv.Itoa(plainPort)
				}
				s.ACME = edge.ACME{Directory: issuer.directory, CAFile: issuer.authority}
			})
			e.apply(routeTo("acme", 1, backend(t, says("acme, encrypted"))))
			var got *http.Response
			until(t, "a certificate of the issuer is served", func() bool {
				var err error
				got, err = overTLS(t, e, "acme.example.test", issuer.roots)
				return err == nil
			})
			text, err := io.ReadAll(got.Body)
			if err != nil || string(text) != "acme, encrypted" || got.ProtoMajor != 2 {
				t.Fatalf("%q over %s (%v)", text, got.Proto, err)
			}
			if res, err := overTLS(t, e, "nobody.example.test", issuer.roots); err == nil {
				t.Fatalf("a host without a route got a certificate: %s", res.Status)
			}
		})
	}
}

// overTLS asks the edge's encrypted address as a browser would that found it under host's name.
func overTLS(t *testing.T, e *running, host string, roots *x509.CertPool) (*http.Response, error) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: host}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+e.status.TLS+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	res, err := transport.RoundTrip(req)
	if err == nil {
		t.Cleanup(func() { res.Body.Close() })
	}
	return res, err
}
