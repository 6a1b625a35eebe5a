package servers

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"holdfast/lab"
)

// CustomerDomain is the zone that Holdfast keeps the instances' names in, on the services' name server.
const CustomerDomain = "dash.test"

// Endpoints are where the services of a lab are reached, from its servers and from this machine alike.
type Endpoints struct {
	S3   S3
	SMTP string // host:port; takes mail for everyone and delivers none
	Mail string // URL of the web page and the JSON API that show it: GET /api/v1/messages
	DNS  DNS
	ACME ACME
}

// S3 is the object storage.
type S3 struct {
	Endpoint  string // host:port, plain HTTP
	AccessKey string
	SecretKey string
	Region    string
}

// DNS is the name server. It answers for the servers' names and for CustomerDomain, of which it takes RFC 2136 updates.
type DNS struct {
	Address   string // host:port, UDP and TCP
	Zone      string
	KeyName   string // of the TSIG key
	Algorithm string
	Key       string // base64
}

// ACME is the issuer of test certificates. It asks the name server, and ports 80 and 443 of whom it is led to.
type ACME struct {
	Directory string // URL
	CAFile    string // on this machine: PEM of the authority of the directory's own certificate
	Roots     string // URL of the PEM of the authority that it issues from; made anew at its every start
}

// the ports of the services.
const (
	s3Port, smtpPort, mailPort, dnsPort, acmePort, rootsPort = 7070, 25, 8025, 53, 14000, 15000
	s3AccessKey                                              = "holdfast"
	dnsKeyName                                               = "holdfast"
)

// Services tells where the services are; all empty in a lab without them.
func (l *Lab) Services() Endpoints {
	name := l.of(Services)
	if name == "" {
		return Endpoints{}
	}
	at := l.addresses()[name].String()
	port := func(n int) string { return fmt.Sprintf("%s:%d", at, n) }
	return Endpoints{
		S3:   S3{Endpoint: port(s3Port), AccessKey: s3AccessKey, SecretKey: l.secrets.S3Secret, Region: "us-east-1"},
		SMTP: port(smtpPort),
		Mail: "http://" + port(mailPort),
		DNS:  DNS{Address: port(dnsPort), Zone: CustomerDomain, KeyName: dnsKeyName, Algorithm: "hmac-sha256", Key: l.secrets.DNSKey},
		ACME: ACME{Directory: "https://" + port(acmePort) + "/dir", CAFile: filepath.Join(l.dir, "services.pem"), Roots: "https://" + port(rootsPort) + "/roots/0"},
	}
}

// startServices puts the services onto their server, which has booted, and waits until they answer.
func (l *Lab) startServices(ctx context.Context) error {
	name := l.of(Services)
	if name == "" {
		return nil
	}
	s, err := l.Server(name)
	if err != nil {
		return err
	}
	if _, err := s.Run(ctx, "systemctl", "is-active", "lab-s3", "lab-mail", "lab-acme", "lab-dns"); err == nil {
		return nil
	}
	files, err := l.serviceFiles(ctx, s)
	if err != nil {
		return err
	}
	if err := s.Put(ctx, files...); err != nil {
		return err
	}
	if _, err := s.Run(ctx, "sh", "-ec", "systemctl daemon-reload; systemctl restart lab-s3 lab-mail lab-acme lab-dns"); err != nil {
		return err
	}
	return s.waitPorts(ctx, s3Port, smtpPort, mailPort, dnsPort, acmePort, rootsPort)
}

// trustIssuer lets every server trust the certificates that the issuer gives, as it would trust a public one's. The
// issuer has another authority after each start of its own: up tells the servers again.
func (l *Lab) trustIssuer(ctx context.Context) error {
	if !l.ACME {
		return nil
	}
	issuer, err := l.Server(l.of(Services))
	if err != nil {
		return err
	}
	roots, err := issuer.Run(ctx, "curl", "-fsS", "--cacert", "/etc/lab/acme.pem", fmt.Sprintf("https://%s:%d/roots/0", issuer.Name, rootsPort))
	if err != nil {
		return err
	}
	const path = "/usr/local/share/ca-certificates/lab-acme.crt"
	return l.each(func(s *Server) error {
		if have, err := s.Run(ctx, "cat", path); err == nil && have == roots {
			return nil
		}
		if err := s.Put(ctx, text(path, "%s", roots)); err != nil {
			return err
		}
		_, err := s.Run(ctx, "update-ca-certificates")
		return err
	})
}

// waitPorts waits until the server accepts on every port.
func (s *Server) waitPorts(ctx context.Context, ports ...int) error {
	return lab.Until(ctx, 30*time.Second, 50*time.Millisecond, "reach the services of "+s.Name, func() (bool, string) {
		for _, port := range ports {
			if err := s.Answers(ctx, port); err != nil {
				return false, err.Error()
			}
		}
		return true, ""
	})
}

// serviceFiles is what makes the services: their programs, settings and units.
func (l *Lab) serviceFiles(ctx context.Context, s *Server) ([]File, error) {
	built, err := makePrograms(ctx, l.out)
	if err != nil {
		return nil, err
	}
	cert, key, err := l.certificate(s.Name, s.Address)
	if err != nil {
		return nil, err
	}
	files := []File{
		{Path: "/usr/local/bin/versitygw", From: filepath.Join(built, "versitygw")},
		{Path: "/usr/local/bin/mailpit", From: filepath.Join(built, "mailpit")},
		{Path: "/usr/local/bin/pebble", From: filepath.Join(built, "pebble")},
		{Path: "/etc/lab/acme.pem", From: cert},
		{Path: "/etc/lab/acme.key", From: key},
		text("/etc/lab/acme.json", acmeSettings, acmePort, rootsPort),
		private("/etc/lab/knot.conf", fmt.Appendf(nil, knotSettings, dnsKeyName, l.secrets.DNSKey, dnsKeyName, nameDomain, CustomerDomain)),
		text("/etc/lab/"+nameDomain+".zone", "%s", l.zone(s)),
		text("/etc/lab/"+CustomerDomain+".zone", zoneHead, CustomerDomain, CustomerDomain, CustomerDomain, CustomerDomain, s.Address),
		private("/etc/lab/s3.env", fmt.Appendf(nil, "ROOT_ACCESS_KEY=%s\nROOT_SECRET_KEY=%s\n", s3AccessKey, l.secrets.S3Secret)),
	}
	files = append(files, service("lab-s3.service", "EnvironmentFile=/etc/lab/s3.env\nExecStartPre=/bin/mkdir -p /srv/s3/data /srv/s3/versions\n"+
		fmt.Sprintf("ExecStart=/usr/local/bin/versitygw --port :%d posix --versioning-dir /srv/s3/versions /srv/s3/data", s3Port))...)
	files = append(files, service("lab-mail.service", "ExecStartPre=/bin/mkdir -p /srv/mail\n"+
		fmt.Sprintf("ExecStart=/usr/local/bin/mailpit --smtp 0.0.0.0:%d --listen 0.0.0.0:%d --database /srv/mail/mail.db", smtpPort, mailPort))...)
	files = append(files, service("lab-dns.service", "ExecStartPre=/bin/mkdir -p /srv/dns /run/lab-dns\nExecStart=/usr/sbin/knotd -c /etc/lab/knot.conf")...)
	files = append(files, service("lab-acme.service", "Environment=PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=0\n"+
		fmt.Sprintf("ExecStart=/usr/local/bin/pebble -config /etc/lab/acme.json -dnsserver 127.0.0.1:%d", dnsPort))...)
	return files, nil
}

// service is a unit that runs a service and starts it again when it ends.
func service(name, how string) []File {
	return unit(name, "[Unit]\nDescription=lab: "+strings.TrimSuffix(name, ".service")+"\nStartLimitIntervalSec=0\n[Service]\n"+how+"\nRestart=always\nRestartSec=1\n[Install]\nWantedBy=multi-user.target\n")
}

// zone is the zone of the servers' own names.
func (l *Lab) zone(s *Server) string {
	var b strings.Builder
	fmt.Fprintf(&b, zoneHead, nameDomain, nameDomain, nameDomain, nameDomain, s.Address)
	for _, server := range l.servers {
		fmt.Fprintf(&b, "%s 60 A %s\n", server.Name, server.Address)
	}
	return b.String()
}

const zoneHead = `$ORIGIN %s.
@ 60 SOA ns.%s. admin.%s. 1 60 60 60 1
@ 60 NS ns.%s.
ns 60 A %s
`

const acmeSettings = `{"pebble": {
  "listenAddress": "0.0.0.0:%d", "managementListenAddress": "0.0.0.0:%d",
  "certificate": "/etc/lab/acme.pem", "privateKey": "/etc/lab/acme.key",
  "httpPort": 80, "tlsPort": 443, "ocspResponderURL": "", "externalAccountBindingRequired": false,
  "retryAfter": {"authz": 1, "order": 1}, "keyAlgorithm": "ecdsa",
  "profiles": {"default": {"description": "ninety days", "validityPeriod": 7776000}}
}}
`

const knotSettings = `
server:
    rundir: /run/lab-dns
    listen: 0.0.0.0@53
key:
  - id: %s
    algorithm: hmac-sha256
    secret: %s
acl:
  - id: updates
    key: %s
    action: [update, transfer]
database:
    storage: /srv/dns
zone:
  - domain: %s
    storage: /etc/lab
  - domain: %s
    storage: /etc/lab
    acl: updates
    zonefile-sync: -1
    zonefile-load: difference
    journal-content: changes
log:
  - target: stderr
    any: warning
`
