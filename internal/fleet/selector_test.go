package fleet

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSelector(t *testing.T) {
	acme := Instance{Name: "acme", Product: "notes", Release: "notes/v1.0.0", Ring: "canary",
		Placement: Place{Site: "par1"}, Labels: map[string]string{"tier": "gold", "name": "a label cannot hide the name"}}
	cases := []struct {
		selector string
		want     bool
	}{
		{"", true},
		{"acme", true},
		{"name=acme", true},
		{"beta", false},
		{"ring=canary,site=par1", true},
		{"ring=canary,site=ams1", false},
		{"site=ams1|par1", true},
		{"tier!=gold", false},
		{"tier != silver", true},
		{"node!=par1-1", true},
		{"node=par1-1", false},
	}
	for _, c := range cases {
		s, err := ParseSelector(c.selector)
		if err != nil {
			t.Errorf("ParseSelector(%q): %v", c.selector, err)
		}
		if got := s.Matches(acme.Selectable()); got != c.want {
			t.Errorf("%q matches acme: %v, want %v", c.selector, got, c.want)
		}
	}
}

func TestSelectorSeesEveryRole(t *testing.T) {
	node := NodeFacts{Node: "ams1-2", Site: "ams1", Roles: []Role{RoleRun, RoleSpare}}
	s, err := ParseSelector("site=ams1,role=spare|vault")
	if err != nil || !s.Matches(node.Selectable()) {
		t.Errorf("role=spare|vault on %v: no match (%v)", node.Roles, err)
	}
}

func TestSelectorRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"ring=":     `parse selector "ring=": "ring=" is not KEY=VALUE, KEY!=VALUE or a name`,
		"a,,b":      `parse selector "a,,b": "" is not KEY=VALUE, KEY!=VALUE or a name`,
		"=x":        `parse selector "=x": "=x" is not KEY=VALUE, KEY!=VALUE or a name`,
		"site=a||b": `parse selector "site=a||b": "site=a||b" is not KEY=VALUE, KEY!=VALUE or a name`,
	} {
		_, err := ParseSelector(text)
		if err == nil || err.Error() != want {
			t.Errorf("ParseSelector(%q): %v, want %s", text, err, want)
		}
	}
}

func TestResolve(t *testing.T) {
	lookup := func(r Reference) (string, error) { return "<" + r.Kind + " " + r.Name + ">", nil }
	cases := map[string]string{
		"${state:db}/notes.db":                  "<state db>/notes.db",
		"${host:api}:${port:api.http}":          "<host api>:<port api.http>",
		"a$b $$HOME $${not:one}":                "a$b $HOME ${not:one}",
		"":                                      "",
		"price: 5$":                             "price: 5$",
		"${secret:with.dots}${secret:adjacent}": "<secret with.dots><secret adjacent>",
	}
	for text, want := range cases {
		if got, err := Resolve(text, lookup); err != nil || got != want {
			t.Errorf("Resolve(%q) = %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestResolveRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"${HOME}":     "${HOME} is not a reference",
		"${secret:}":  "${secret:} is not a reference",
		"x ${secret:": "reference ${secret: has no end",
	} {
		if _, err := References(text); err == nil || err.Error() != want {
			t.Errorf("References(%q): %v, want %s", text, err, want)
		}
	}
}

// What a value holds reaches the service as it was written: nothing in it is read as a reference on the node.
func TestValuesAreNeverReadAsReferences(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.StringOfN(rapid.SampledFrom([]rune("${}:ab$ secret")), 0, 20, -1).Draw(t, "value")
		rendered, err := resolveKnown("<${value:v}>", func(Reference) (string, error) { return value, nil })
		if err != nil {
			t.Fatal(err)
		}
		onNode, err := Resolve(rendered, func(r Reference) (string, error) {
			t.Fatalf("the node would look up %s", r)
			return "", nil
		})
		if err != nil || onNode != "<"+value+">" {
			t.Fatalf("%q became %q, %v", value, onNode, err)
		}
	})
}

func FuzzReferences(f *testing.F) {
	f.Add("${secret:a}$$${port:api.http}")
	f.Fuzz(func(t *testing.T, text string) {
		kept, err := resolveKnown(text, func(Reference) (string, error) { return "", nil })
		if err == nil && !strings.Contains(text, "${value:") && !strings.Contains(text, "${instance:") && kept != text {
			t.Errorf("resolving no value changed %q to %q", text, kept)
		}
	})
}

// A selector in a file or in JSON is text, or a mapping of keys to the one value each must hold.
func TestSelectorForms(t *testing.T) {
	for given, want := range map[string]string{
		`"tier=gold|silver,site!=par1"`:  "tier=gold|silver,site!=par1",
		`{"tier": "gold", "site": "b1"}`: "site=b1,tier=gold",
		`{}`:                             "",
		`""`:                             "",
	} {
		var s Selector
		if err := json.Unmarshal([]byte(given), &s); err != nil || s.String() != want {
			t.Errorf("%s is read as %q (%v), want %q", given, s, err, want)
		}
		text, err := json.Marshal(s)
		var again Selector
		if err != nil || json.Unmarshal(text, &again) != nil || again.String() != want {
			t.Errorf("%s is written as %s (%v)", given, text, err)
		}
	}
	for given, want := range map[string]string{
		`"a,,b"`:             `parse selector "a,,b": "" is not KEY=VALUE, KEY!=VALUE or a name`,
		`{"tier": "gold|x"}`: `read selector: tier: gold|x holds one of , | = !; write it as text: select: "KEY=A|B,KEY!=C"`,
	} {
		var s Selector
		if err := json.Unmarshal([]byte(given), &s); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", given, err, want)
		}
	}
}

// What a recovery plan selects is written in either form.
func TestRecoveryPlanSelects(t *testing.T) {
	text := `kind: Site
name: par1
---
kind: Site
name: ams1
---
kind: RecoveryPlan
name: lose-par1
scenario: site_lost
lost: par1
scope: {select: "product=notes,ring!=canary", expect: 1}
target: {sites: [ams1]}
tiers:
  - {name: gold, select: {tier: gold}, rto: 20m, rpo: 30m}
  - {name: rest, rto: 1h, rpo: 2h}
`
	f, err := Read(Files{"fleet.yaml": []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	p := f.RecoveryPlans["lose-par1"]
	if p.Scope.Select.String() != "product=notes,ring!=canary" || p.Tiers[0].Select.String() != "tier=gold" || !p.Tiers[1].Select.IsZero() {
		t.Errorf("the plan selects %q, %q, %q", p.Scope.Select, p.Tiers[0].Select, p.Tiers[1].Select)
	}
	_, err = Read(Files{"fleet.yaml": []byte(strings.Replace(text, "product=notes,", "product=,", 1))})
	if err == nil || !strings.Contains(err.Error(), "fleet.yaml:") || !strings.Contains(err.Error(), `"product=" is not KEY=VALUE, KEY!=VALUE or a name`) {
		t.Errorf("a selector that is none: %v", err)
	}
}
