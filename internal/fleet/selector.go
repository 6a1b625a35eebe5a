package fleet

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/invopop/jsonschema"
)

// Labels is what a selector looks at: for each key every value it holds. Most keys hold one value; a node's role
// holds several.
type Labels map[string][]string

// Selector picks instances or nodes: "ring=canary,site=par1|ams1,name!=acme". Every term must hold; a bare word is a
// name. The zero Selector picks all.
type Selector struct {
	terms []term
	text  string
}

type term struct {
	key    string
	not    bool
	values []string
}

// ParseSelector reads the text form.
func ParseSelector(text string) (Selector, error) {
	s := Selector{text: strings.TrimSpace(text)}
	if s.text == "" {
		return Selector{}, nil
	}
	for part := range strings.SplitSeq(s.text, ",") {
		t, err := parseTerm(strings.TrimSpace(part))
		if err != nil {
			return Selector{}, fmt.Errorf("parse selector %q: %w", text, err)
		}
		s.terms = append(s.terms, t)
	}
	return s, nil
}

func parseTerm(text string) (term, error) {
	key, values, found := strings.Cut(text, "=")
	if !found {
		key, values = "name", text
	}
	t := term{key: strings.TrimSpace(key)}
	t.key, t.not = strings.CutSuffix(t.key, "!")
	t.key = strings.TrimSpace(t.key)
	for value := range strings.SplitSeq(values, "|") {
		t.values = append(t.values, strings.TrimSpace(value))
	}
	if t.key == "" || slices.Contains(t.values, "") {
		return term{}, fmt.Errorf("%q is not KEY=VALUE, KEY!=VALUE or a name", text)
	}
	return t, nil
}

// Matches tells whether every term holds of labels.
func (s Selector) Matches(labels Labels) bool {
	for _, t := range s.terms {
		if t.holds(labels[t.key]) == t.not {
			return false
		}
	}
	return true
}

func (t term) holds(values []string) bool {
	return slices.ContainsFunc(values, func(v string) bool { return slices.Contains(t.values, v) })
}

// Keys lists the label keys the selector asks for.
func (s Selector) Keys() []string {
	keys := make([]string, len(s.terms))
	for i, t := range s.terms {
		keys[i] = t.key
	}
	return keys
}

// IsZero tells whether the selector picks all.
func (s Selector) IsZero() bool { return len(s.terms) == 0 }

// String gives the text it was read from.
func (s Selector) String() string { return s.text }

// MarshalText gives the text form.
func (s Selector) MarshalText() ([]byte, error) { return []byte(s.text), nil }

// UnmarshalText reads the text form.
func (s *Selector) UnmarshalText(text []byte) error {
	parsed, err := ParseSelector(string(text))
	*s = parsed
	return err
}

// UnmarshalJSON reads the text form, or a mapping of keys to the one value each must hold: {tier: gold}.
func (s *Selector) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) == nil {
		return s.UnmarshalText([]byte(text))
	}
	var equal map[string]any
	if err := json.Unmarshal(data, &equal); err != nil {
		return fmt.Errorf("read selector: %w", err)
	}
	text, err := selectorOf(equal)
	if err != nil {
		return err
	}
	return s.UnmarshalText([]byte(text))
}

// selectorOf is the text form of a mapping of keys to the one value each must hold.
func selectorOf(equal map[string]any) (string, error) {
	var terms []string
	for _, key := range slices.Sorted(maps.Keys(equal)) {
		value := fmt.Sprint(equal[key])
		if strings.ContainsAny(key+value, ",|=!") {
			return "", fmt.Errorf("read selector: %s: %s holds one of , | = !; write it as text: select: %q", key, value, "KEY=A|B,KEY!=C")
		}
		terms = append(terms, key+"="+value)
	}
	return strings.Join(terms, ","), nil
}

// JSONSchema describes both forms to editors.
func (Selector) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{
		{Type: "string", Examples: []any{"site=par1,tier=gold|silver", "role=spare"}},
		{Type: "object", AdditionalProperties: &jsonschema.Schema{Type: "string"}, Examples: []any{map[string]any{"tier": "gold"}}},
	}}
}

// Selectable gives what selectors see of an instance: its own labels, and name, product, release, ring, site and node.
// The built-in keys win over labels of the same key.
func (i Instance) Selectable() Labels {
	labels := fromMap(i.Labels)
	labels.set("name", i.Name)
	labels.set("product", i.Product)
	labels.set("release", i.Release)
	labels.set("ring", i.Ring)
	labels.set("site", i.Placement.Site)
	labels.set("node", i.Placement.Node)
	return labels
}

// Selectable gives what selectors see of a node as it reported itself: its labels, and name, site, role and engine.
func (n NodeFacts) Selectable() Labels {
	labels := fromMap(n.Labels)
	labels.set("name", n.Node)
	labels.set("site", n.Site)
	labels["role"] = nil
	for _, role := range n.Roles {
		labels["role"] = append(labels["role"], string(role))
	}
	labels["engine"] = slices.Clone(n.Engines)
	return labels
}

func fromMap(m map[string]string) Labels {
	labels := make(Labels, len(m)+6)
	for key, value := range m {
		labels[key] = []string{value}
	}
	return labels
}

func (l Labels) set(key, value string) {
	delete(l, key)
	if value != "" {
		l[key] = []string{value}
	}
}
