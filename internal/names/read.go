package names

import (
	"fmt"
	"os"
	"time"

	"github.com/goccy/go-yaml"

	"holdfast/internal/problem"
	"holdfast/internal/secret"
)

// file is Settings as they are written down. Secrets are plain there, so only their owner may read the file.
type file struct {
	Provider     string        `yaml:"provider"`
	Zone         string        `yaml:"zone"`
	TTL          time.Duration `yaml:"ttl"`
	Server       string        `yaml:"server"`
	KeyName      string        `yaml:"key_name"`
	KeyAlgorithm string        `yaml:"key_algorithm"`
	Key          string        `yaml:"key"`
	Token        string        `yaml:"token"`
	Endpoint     string        `yaml:"endpoint"`
	Application  string        `yaml:"application"`
	Secret       string        `yaml:"secret"`
	Consumer     string        `yaml:"consumer"`
}

// Read reads settings from a YAML file that nobody but its owner may read. An unknown key is refused.
func Read(path string) (Settings, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Settings{}, problem.Wrap(err, problem.Invalid, "check --dns", "DNS names are not kept: the settings were not read")
	}
	if info.Mode().Perm()&0o077 != 0 {
		return Settings{}, problem.New(problem.Invalid, "chmod 600 "+path, "DNS names are not kept: %s holds a key and can be read by others (mode %04o)", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Settings{}, fmt.Errorf("read %s: %w", path, err)
	}
	var f file
	if err := yaml.UnmarshalWithOptions(text, &f, yaml.Strict()); err != nil {
		return Settings{}, problem.New(problem.Invalid, "", "DNS names are not kept: %s: %s", path, yaml.FormatError(err, false, false))
	}
	return Settings{
		Provider: f.Provider, Zone: f.Zone, TTL: f.TTL, Server: f.Server, KeyName: f.KeyName, KeyAlgorithm: f.KeyAlgorithm,
		Key: secret.Of(f.Key), Token: secret.Of(f.Token), Endpoint: f.Endpoint, Application: f.Application,
		Secret: secret.Of(f.Secret), Consumer: secret.Of(f.Consumer),
	}, nil
}
