package agent

import (
	"testing"

	"holdfast/internal/fleet"
)

// A $ that rendering escaped, because a customer's value holds it, is one $ again and never begins a reference.
func TestAnEscapedDollarIsOneDollar(t *testing.T) {
	spec := fleet.Spec{Services: []fleet.Service{{Name: "api", Env: map[string]string{
		"PRICE": "5$$", "LITERAL": "$${secret:key}", "MIXED": "a$b $$${secret:key}",
	}}}}
	resolved, err := resolve(spec, names{secrets: map[string]string{"key": "sesame"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"PRICE": "5$", "LITERAL": "${secret:key}", "MIXED": "a$b $sesame"} {
		if got := resolved.Services[0].Env[name]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}
