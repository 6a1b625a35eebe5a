package fleet_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/fleet"
)

const (
	referenceFile = "../../docs/reference/fleet.md"
	generatedFrom = "<!-- From here on generated from the types: go test ./internal/fleet -run Reference -update -->\n"
)

// The reference lists every key that can be written, in the words that editors show.
func TestReferenceIsCurrent(t *testing.T) {
	text, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	written, _, found := strings.Cut(string(text), generatedFrom)
	if !found {
		t.Fatalf("%s has lost the line that says what is generated", referenceFile)
	}
	want := written + generatedFrom + reference(t)
	if *update {
		if err := os.WriteFile(referenceFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(text) != want {
		t.Errorf("%s is not what the types say; go test ./internal/fleet -run Reference -update", referenceFile)
	}
}

func reference(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	for _, kind := range fleet.Kinds() {
		schema, err := fleet.Schema(kind)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "\n## %s\n\n| key | is | |\n|---|---|---|\n", kind)
		keysOf(&out, schema, schema, "", 0)
	}
	return out.String()
}

// keysOf writes the keys of a mapping and, below each, those of what it holds. The Compose format is not repeated.
func keysOf(out *strings.Builder, root, node map[string]any, path string, depth int) {
	properties, _ := node["properties"].(map[string]any)
	required, _ := node["required"].([]any)
	for _, key := range slices.Sorted(maps.Keys(properties)) {
		property := properties[key].(map[string]any)
		below, suffix := held(root, property)
		name := path + key
		must := ""
		if slices.Contains(required, any(key)) {
			must = ", required"
		}
		description, _ := property["description"].(string)
		fmt.Fprintf(out, "| `%s` | %s%s | %s |\n", name, kindOf(root, property), must, strings.ReplaceAll(description, "|", "\\|"))
		if below["properties"] != nil && depth < 4 && !strings.HasSuffix(name, "services") {
			keysOf(out, root, below, name+suffix+".", depth+1)
		}
		if name == "services" && below["properties"] != nil && root["properties"].(map[string]any)["x-holdfast"] != nil {
			own, _ := held(root, below["properties"].(map[string]any)["x-holdfast"].(map[string]any))
			keysOf(out, root, own, "services.*.x-holdfast.", depth+1)
		} else if name == "services" {
			keysOf(out, root, below, "services.*.", depth+1)
		}
	}
}

// held is the schema of what a key holds: itself, the elements of a list, or the values of a mapping.
func held(root, property map[string]any) (below map[string]any, suffix string) {
	property = resolved(root, property)
	if items, ok := property["items"].(map[string]any); ok {
		return resolved(root, items), "[]"
	}
	if values, ok := property["additionalProperties"].(map[string]any); ok && property["properties"] == nil {
		return resolved(root, values), ".*"
	}
	return property, ""
}

func resolved(root, node map[string]any) map[string]any {
	reference, ok := node["$ref"].(string)
	if !ok {
		return node
	}
	next, _ := root["$defs"].(map[string]any)[strings.TrimPrefix(reference, "#/$defs/")].(map[string]any)
	return next
}

// kindOf says what may be written: a type, or one of some words.
func kindOf(root, property map[string]any) string {
	node := resolved(root, property)
	if words, ok := node["enum"].([]any); ok {
		all := make([]string, len(words))
		for i, word := range words {
			all[i] = fmt.Sprint(word)
		}
		return strings.Join(all, " or ")
	}
	switch node["type"] {
	case "array":
		below, _ := held(root, property)
		return "list of " + kindOf(root, below)
	case "object":
		if below, suffix := held(root, property); suffix != "" {
			return "mapping of names to " + kindOf(root, below)
		}
		return "mapping"
	case "integer":
		return "whole number"
	case "string":
		if pattern, _ := node["pattern"].(string); strings.Contains(pattern, "ns|us|ms") {
			return "length of time"
		}
		return "text"
	case "number", "boolean":
		return fmt.Sprint(node["type"])
	}
	if either, _ := node["oneOf"].([]any); len(either) == 2 {
		return "a selector: text such as `tier=gold,site!=par1`, or a mapping of names to text"
	}
	return "text, number or boolean"
}
