package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestFlagWinsOverVariableWinsOverDefault(t *testing.T) {
	env := map[string]string{"HOLDFAST_DATA": "/env", "HOLDFAST_KEY_FILE": "/env.key", "HOLDFAST_NAME": "a.example,b.example"}
	var s Server
	flags := pflag.NewFlagSet("server", pflag.ContinueOnError)
	s.Flags(flags)
	if err := flags.Parse([]string{"--data", "/typed"}); err != nil {
		t.Fatal(err)
	}
	lookup := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	if err := FromEnvironment(flags, lookup); err != nil {
		t.Fatal(err)
	}
	if s.Data != "/typed" || s.KeyFile != "/env.key" || s.Listen != ":8443" || !slices.Equal(s.Names, []string{"a.example", "b.example"}) {
		t.Fatalf("settings: %+v", s)
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		with Server
		want string
	}{
		{Server{Listen: ":8443"}, "it needs a data folder"},
		{Server{Data: "/d", Listen: "8443"}, `"8443" is not host:port`},
		{Server{Data: "/d", Listen: "127.0.0.1:0"}, ""},
	} {
		err := c.with.Check()
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", c.with, err, c.want)
		}
	}
}

func TestURL(t *testing.T) {
	for _, c := range []struct {
		with Server
		want string
	}{
		{Server{Listen: ":8443"}, "https://localhost:8443"},
		{Server{Listen: "[::]:8443"}, "https://localhost:8443"},
		{Server{Listen: "127.0.0.7:0"}, "https://127.0.0.7:8443"},
		{Server{Listen: "[fd00::1]:0"}, "https://[fd00::1]:8443"},
		{Server{Listen: ":0", Names: []string{"hold.example"}}, "https://hold.example:8443"},
	} {
		if got := c.with.URL("8443"); got != c.want {
			t.Errorf("%+v: %s, want %s", c.with, got, c.want)
		}
	}
}
