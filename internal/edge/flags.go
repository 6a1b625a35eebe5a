package edge

import (
	"flag"
	"fmt"
	"net/netip"
	"strings"
)

// Bind gives every setting a flag, with the value that s has as the default. The command line and Ensure share this
// list, so an agent's edge is started with exactly what the agent wants.
func (s *Settings) Bind(flags *flag.FlagSet) {
	flags.StringVar(&s.Dir, "data", s.Dir, "data directory of the edge")
	flags.StringVar(&s.Listen, "listen", s.Listen, "address for TLS, such as 0.0.0.0:443")
	flags.StringVar(&s.Plain, "plain-listen", s.Plain, "address for plain HTTP, such as 0.0.0.0:80")
	flags.BoolVar(&s.Redirect, "redirect", s.Redirect, "send plain requests to https")
	flags.StringVar(&s.AccessLog, "access-log", s.AccessLog, "file of the access log, - for standard output (default: access.log in the data directory)")
	flags.Var((*prefixes)(&s.Trusted), "trusted", "networks of proxies whose X-Forwarded-For is believed, comma between them")
	flags.StringVar(&s.ACME.Directory, "acme-directory", s.ACME.Directory, "URL of an ACME issuer that certificates are asked from")
	flags.StringVar(&s.ACME.Email, "acme-email", s.ACME.Email, "contact address for the ACME issuer")
	flags.StringVar(&s.ACME.CAFile, "acme-ca", s.ACME.CAFile, "PEM file of the authority that signed the ACME issuer's own certificate")
	s.Limits.bind(flags)
	s.Health.bind(flags)
}

func (l *Limits) bind(flags *flag.FlagSet) {
	flags.IntVar(&l.HeaderBytes, "header-bytes", l.HeaderBytes, "largest request header")
	flags.DurationVar(&l.HeaderWait, "header-wait", l.HeaderWait, "how long a client may take for its request header")
	flags.DurationVar(&l.Idle, "idle", l.Idle, "how long a connection may be kept without a request")
	flags.DurationVar(&l.Stall, "stall", l.Stall, "how long a body or an answer may stand still")
	flags.Int64Var(&l.BodyBytes, "body-bytes", l.BodyBytes, "largest request body, -1 for no limit")
	flags.IntVar(&l.Connections, "connections", l.Connections, "connections at once on each address")
	flags.DurationVar(&l.DialWait, "dial-wait", l.DialWait, "how long a connection to an endpoint may take")
	flags.DurationVar(&l.AnswerWait, "answer-wait", l.AnswerWait, "how long until an endpoint's answer begins")
	flags.DurationVar(&l.DrainWait, "drain-wait", l.DrainWait, "what requests to a withdrawn endpoint may still take")
	flags.DurationVar(&l.HoldWait, "hold-wait", l.HoldWait, "how long after an instance's last endpoint fell a request waits for the next, -1s for not at all")
	flags.IntVar(&l.AccessLogMB, "access-log-mb", l.AccessLogMB, "size in MiB at which the access log is rotated")
	flags.IntVar(&l.AccessLogKeep, "access-log-keep", l.AccessLogKeep, "rotated access logs that are kept")
}

func (h *Health) bind(flags *flag.FlagSet) {
	flags.DurationVar(&h.Every, "health-every", h.Every, "how often a healthy endpoint is asked")
	flags.DurationVar(&h.EveryDown, "health-every-down", h.EveryDown, "how often an ejected endpoint is asked")
	flags.DurationVar(&h.Timeout, "health-timeout", h.Timeout, "how long an endpoint may take to answer a check")
	flags.IntVar(&h.FailAfter, "health-fail-after", h.FailAfter, "failed checks in a row that eject an endpoint")
	flags.IntVar(&h.ErrorAfter, "health-error-after", h.ErrorAfter, "failed requests in a row that eject an endpoint")
}

// Defaults are the settings of an edge in dir before anything else is said.
func Defaults(dir string) Settings { return Settings{Dir: dir}.withDefaults() }

// flags is the command line that gives s again.
func (s Settings) flags() []string {
	set := flag.NewFlagSet("edge", flag.ContinueOnError)
	s.Bind(set)
	var words []string
	set.VisitAll(func(f *flag.Flag) {
		if text := f.Value.String(); text != "" {
			words = append(words, "--"+f.Name+"="+text)
		}
	})
	return words
}

// prefixes is a flag that holds networks.
type prefixes []netip.Prefix

// String lists the networks with commas.
func (p *prefixes) String() string {
	if p == nil {
		return ""
	}
	texts := make([]string, len(*p))
	for i, prefix := range *p {
		texts[i] = prefix.String()
	}
	return strings.Join(texts, ",")
}

// Set reads networks with commas between them.
func (p *prefixes) Set(text string) error {
	*p = nil
	for part := range strings.SplitSeq(text, ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return fmt.Errorf("%q is no network such as 10.0.0.0/8", part)
		}
		*p = append(*p, prefix)
	}
	return nil
}
