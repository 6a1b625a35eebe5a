package names

import (
	"time"

	"github.com/libdns/cloudflare"
	"github.com/libdns/hetzner"
	"github.com/libdns/ovh"
	"github.com/libdns/rfc2136"

	"holdfast/internal/problem"
	"holdfast/internal/secret"
)

// Settings say which zone is ours and how its provider is reached.
type Settings struct {
	Provider string        `json:"provider"` // rfc2136, cloudflare, hetzner, ovh
	Zone     string        `json:"zone"`     // "example.com"
	TTL      time.Duration `json:"ttl"`      // 0 = DefaultTTL

	Server       string       `json:"server"`        // rfc2136: host:port of the primary
	KeyName      string       `json:"key_name"`      // rfc2136: name of the TSIG key
	KeyAlgorithm string       `json:"key_algorithm"` // rfc2136: "hmac-sha256" when empty
	Key          secret.Value `json:"key"`           // rfc2136: TSIG secret, base64

	Token secret.Value `json:"token"` // cloudflare, hetzner: API token

	Endpoint    string       `json:"endpoint"`    // ovh: "ovh-eu"
	Application string       `json:"application"` // ovh: application key
	Secret      secret.Value `json:"secret"`      // ovh: application secret
	Consumer    secret.Value `json:"consumer"`    // ovh: consumer key
}

// Open gives the zone of the settings. It speaks to nobody yet.
func Open(s Settings) (*Zone, error) {
	if s.Zone == "" {
		return nil, problem.New(problem.Invalid, "set names.zone to the domain of the instances", "DNS names are not kept: no zone is set")
	}
	provider, err := providerOf(s)
	if err != nil {
		return nil, err
	}
	return NewZone(s.Zone, s.TTL, provider), nil
}

func providerOf(s Settings) (Provider, error) {
	switch s.Provider {
	case "rfc2136":
		if s.KeyAlgorithm == "" {
			s.KeyAlgorithm = "hmac-sha256"
		}
		return &rfc2136.Provider{Server: s.Server, KeyName: s.KeyName, KeyAlg: s.KeyAlgorithm, Key: s.Key.Reveal()}, nil
	case "cloudflare":
		return &cloudflare.Provider{APIToken: s.Token.Reveal()}, nil
	case "hetzner":
		return &hetzner.Provider{AuthAPIToken: s.Token.Reveal()}, nil
	case "ovh":
		return &ovh.Provider{
			Endpoint: s.Endpoint, ApplicationKey: s.Application, ApplicationSecret: s.Secret.Reveal(), ConsumerKey: s.Consumer.Reveal(),
		}, nil
	}
	return nil, problem.New(problem.Invalid, "set names.provider to rfc2136, cloudflare, hetzner or ovh", "DNS names are not kept: provider %q is not known", s.Provider)
}
