// Package config is the settings of a process, not of the fleet: flags, and behind each flag an environment variable.
//
// Words: the variable of the flag --key-file is HOLDFAST_KEY_FILE. A flag that was typed wins over its variable, a
// variable over the default.
//
// Invariant: what runs can be told from its command line and environment alone; there is no third place.
package config

import (
	"net"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"holdfast/internal/problem"
)

// Server is the settings of the control plane.
type Server struct {
	Data     string   // folder of the server's own files
	Database string   // DSN; "" = a SQLite file in Data
	Listen   string   // host:port of the one TLS port
	Names    []string // names and addresses that the server's certificate is for, besides those of Listen and this machine
	KeyFile  string   // file with the URL of the keeper; "" = the variable HOLDFAST_KEY
	DNS      string   // file that says how the instances' DNS names are kept; "" = they are not
	SMTP     string   // smtp://USER@HOST:PORT or smtps://..., for communications to mail addresses; "" = none are sent
	MailFrom string   // sender of mail
	LogLevel string   // debug, info, warn, error
}

// Flags declares the server's flags and fills s when they are parsed.
func (s *Server) Flags(flags *pflag.FlagSet) {
	flags.StringVar(&s.Data, "data", "", "folder of the server's own files")
	flags.StringVar(&s.Database, "db", "", "control database: postgres://... (default: a SQLite file in the data folder)")
	flags.StringVar(&s.Listen, "listen", ":8443", "host:port for the command line, the web and the agents")
	flags.StringSliceVar(&s.Names, "name", nil, "name or address that the server is reached by, for its certificate (repeatable)")
	flags.StringVar(&s.KeyFile, "key-file", "", "file with the key that seals secrets (or set HOLDFAST_KEY)")
	flags.StringVar(&s.DNS, "dns", "", "file with the DNS provider that the instances' names are kept with (default: they are not kept)")
	flags.StringVar(&s.SMTP, "smtp", "", "mail server for the communications of recovery plans: smtp://USER@HOST:587 or smtps://USER@HOST:465; password in HOLDFAST_SMTP_PASSWORD")
	flags.StringVar(&s.MailFrom, "mail-from", "", "sender of mail")
	flags.StringVar(&s.LogLevel, "log-level", "info", "debug, info, warn or error")
}

// Check refuses settings that cannot work, before anything is touched.
func (s *Server) Check() error {
	if s.Data == "" {
		return problem.New(problem.Usage, "holdfast server --data DIR", "server was not started: it needs a data folder")
	}
	if _, _, err := net.SplitHostPort(s.Listen); err != nil {
		return problem.New(problem.Usage, "holdfast server --listen 0.0.0.0:8443", "server was not started: %q is not host:port", s.Listen)
	}
	return nil
}

// CertificateNames is every name that the server's certificate is for. The first one stands in the addresses that the
// server gives out.
func (s *Server) CertificateNames() []string {
	names := slices.Clone(s.Names)
	if host, _, err := net.SplitHostPort(s.Listen); err == nil && !unspecified(host) {
		names = append(names, host)
	}
	names = append(names, "localhost", "127.0.0.1", "::1")
	if machine, err := os.Hostname(); err == nil {
		names = append(names, machine)
	}
	return unique(names)
}

// URL is where the server is reached when it listens on port.
func (s *Server) URL(port string) string {
	return (&url.URL{Scheme: "https", Host: net.JoinHostPort(s.CertificateNames()[0], port)}).String()
}

func unspecified(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || (ip != nil && ip.IsUnspecified())
}

func unique(names []string) []string {
	var out []string
	for _, name := range names {
		if name != "" && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// FromEnvironment sets every flag that was not typed from its variable. Lookup is os.LookupEnv.
func FromEnvironment(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var refused error
	flags.VisitAll(func(f *pflag.Flag) {
		text, ok := lookup(Variable(f.Name))
		if !ok || f.Changed || refused != nil {
			return
		}
		if err := flags.Set(f.Name, text); err != nil {
			refused = problem.Wrap(err, problem.Usage, "", "variable %s was not taken", Variable(f.Name))
		}
	})
	return refused
}

// Variable is the environment variable of a flag.
func Variable(flag string) string {
	return "HOLDFAST_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}
