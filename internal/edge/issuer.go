package edge

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"go.uber.org/zap"
)

// issuer gets certificates for the hosts of the table from an ACME issuer and renews them; a nil issuer gets none.
type issuer struct {
	cache  *certmagic.Cache
	config *certmagic.Config
	acme   *certmagic.ACMEIssuer

	mu    sync.Mutex
	hosts map[string]bool // whose certificates are kept
}

// newIssuer gives nil when no directory is set. Keys, accounts and certificates are kept in DIR/acme.
func newIssuer(settings Settings) (*issuer, error) {
	if settings.ACME.Directory == "" {
		return nil, nil
	}
	roots, err := rootsOf(settings.ACME.CAFile)
	if err != nil {
		return nil, err
	}
	i := &issuer{hosts: map[string]bool{}}
	i.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return i.config, nil },
		Logger:           zap.NewNop(),
	})
	i.config = certmagic.New(i.cache, certmagic.Config{
		Storage: &certmagic.FileStorage{Path: filepath.Join(settings.Dir, "acme")},
		Logger:  zap.NewNop(),
		OnEvent: func(_ context.Context, event string, data map[string]any) error { return i.tell(settings, event, data) },
	})
	i.acme = certmagic.NewACMEIssuer(i.config, certmagic.ACMEIssuer{
		CA: settings.ACME.Directory, TestCA: settings.ACME.Directory, Email: settings.ACME.Email, Agreed: true,
		TrustedRoots: roots, Logger: zap.NewNop(),
		DisableHTTPChallenge: settings.Plain == "", DisableTLSALPNChallenge: settings.Listen == "",
		ListenHost: hostOf(settings), AltHTTPPort: portOf(settings.Plain), AltTLSALPNPort: portOf(settings.Listen),
	})
	i.config.Issuers = []certmagic.Issuer{i.acme}
	return i, nil
}

func rootsOf(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read ACME authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read ACME authority %s: no certificate in it", file)
	}
	return roots, nil
}

// hostOf is the host that the edge listens on. The issuer's library sees by it that the ports are taken, by us, and
// leaves the challenges to our listeners.
func hostOf(settings Settings) string {
	host, _, err := net.SplitHostPort(cmp.Or(settings.Listen, settings.Plain))
	if err != nil {
		return ""
	}
	return host
}

func (i *issuer) tell(settings Settings, event string, data map[string]any) error {
	if event == "cert_obtained" || event == "cert_failed" {
		settings.Log.Info("certificate", "event", event, "host", data["identifier"], "error", data["error"])
	}
	return nil
}

// manage keeps, in the background, the certificates of exactly those hosts that no file covers. Only hosts with a
// route are asked for, so that nobody can spend the issuer's limits with made-up names.
func (i *issuer) manage(ctx context.Context, hosts []string, covered func(string) bool) error {
	if i == nil {
		return nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	wanted := map[string]bool{}
	var fresh []string
	for _, host := range hosts {
		if covered(host) || !certmagic.SubjectQualifiesForCert(host) {
			continue
		}
		if wanted[host] = true; !i.hosts[host] {
			fresh = append(fresh, host)
		}
	}
	var gone []certmagic.SubjectIssuer
	for host := range i.hosts {
		if !wanted[host] {
			gone = append(gone, certmagic.SubjectIssuer{Subject: host})
		}
	}
	i.hosts = wanted
	i.cache.RemoveManaged(gone)
	if err := i.config.ManageAsync(ctx, fresh); err != nil {
		return fmt.Errorf("ask for certificates: %w", err)
	}
	return nil
}

func (i *issuer) keeps(host string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.hosts[hostName(host)]
}

func (i *issuer) protocols() []string {
	if i == nil {
		return []string{"h2", "http/1.1"}
	}
	return []string{"h2", "http/1.1", acmez.ACMETLS1Protocol}
}

func challenge(hello *tls.ClientHelloInfo) bool {
	return slices.Contains(hello.SupportedProtos, acmez.ACMETLS1Protocol)
}

func (i *issuer) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if i == nil || (!i.keeps(hello.ServerName) && !challenge(hello)) {
		return nil, nil
	}
	return i.config.GetCertificate(hello)
}

// answersChallenges puts HTTP-01 before next.
func (i *issuer) answersChallenges(next http.Handler) http.Handler {
	if i == nil {
		return next
	}
	return i.acme.HTTPChallengeHandler(next)
}

func (i *issuer) stop() {
	if i != nil {
		i.cache.Stop()
	}
}
