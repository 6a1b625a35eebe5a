package fleet

import (
	"fmt"
	"strings"
)

// Reference is one ${kind:name} in a text.
type Reference struct {
	Kind string // secret, port, host, state, value or instance
	Name string // for port: SERVICE.PORT
}

// String gives the form it has in a text.
func (r Reference) String() string { return "${" + r.Kind + ":" + r.Name + "}" }

// Resolve replaces every reference in text by what lookup gives, and $$ by $. A $ before anything else stays.
func Resolve(text string, lookup func(Reference) (string, error)) (string, error) {
	return rewrite(text, "$", lookup)
}

// References lists the references of text in order.
func References(text string) ([]Reference, error) {
	var all []Reference
	_, err := rewrite(text, "$", func(r Reference) (string, error) {
		all = append(all, r)
		return "", nil
	})
	return all, err
}

// resolveKnown replaces the references of kind value and instance and keeps all others, and $$, for the node. What
// they give is plain text: a $ in it never becomes a reference.
func resolveKnown(text string, lookup func(Reference) (string, error)) (string, error) {
	return rewrite(text, "$$", func(r Reference) (string, error) {
		if r.Kind != "value" && r.Kind != "instance" {
			return r.String(), nil
		}
		value, err := lookup(r)
		return strings.ReplaceAll(value, "$", "$$"), err
	})
}

// rewrite walks over text once; dollar is what $$ becomes.
func rewrite(text, dollar string, replace func(Reference) (string, error)) (string, error) {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(text, "$")
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		switch {
		case strings.HasPrefix(rest, "$"):
			out.WriteString(dollar)
			text = rest[1:]
		case strings.HasPrefix(rest, "{"):
			reference, after, err := parseReference(rest)
			if err != nil {
				return "", err
			}
			replaced, err := replace(reference)
			if err != nil {
				return "", err
			}
			out.WriteString(replaced)
			text = after
		default:
			out.WriteString("$")
			text = rest
		}
	}
}

// parseReference reads "{kind:name}" at the start of text.
func parseReference(text string) (Reference, string, error) {
	inner, after, closed := strings.Cut(text[1:], "}")
	if !closed {
		return Reference{}, "", fmt.Errorf("reference $%s has no end", text)
	}
	kind, name, found := strings.Cut(inner, ":")
	if !found || kind == "" || name == "" {
		return Reference{}, "", fmt.Errorf("${%s} is not a reference", inner)
	}
	return Reference{Kind: kind, Name: name}, after, nil
}
