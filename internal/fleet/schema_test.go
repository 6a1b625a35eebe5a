package fleet_test

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	validator "github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"holdfast/internal/fleet"
)

// Every file of the examples passes the schema that editors use, by a validator and without our reader.
func TestSchemaTakesTheExamples(t *testing.T) {
	schema := anySchema(t)
	for _, dir := range []string{"../../examples/notes/fleet", "../../examples/dash/fleet"} {
		files, err := fleet.Collect(dir)
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for _, name := range slices.Sorted(maps.Keys(files)) {
			for _, document := range documents(t, name, files[name]) {
				seen++
				if err := schema.Validate(document); err != nil {
					t.Errorf("%s/%s: %v", dir, name, err)
				}
			}
		}
		if seen < 10 {
			t.Errorf("%s: only %d documents were looked at", dir, seen)
		}
	}
}

func TestSchemaRefuses(t *testing.T) {
	schema := anySchema(t)
	for what, text := range map[string]string{
		"an unknown kind":            "kind: Sight\nname: par1\n",
		"no kind":                    "name: par1\n",
		"an unknown key":             "kind: Site\nname: par1\ndomian: example.org\n",
		"a wrong type":               "kind: Site\nname: [par1]\n",
		"a name that is none":        "kind: Site\nname: Par 1\n",
		"an instance without a site": "kind: Instance\nname: acme\nproduct: p\nrelease: p/v1\nplacement: {}\n",
		"a duration that is none":    "kind: Ring\nname: a\nbackup: {every: soon}\n",
		"an unknown role":            "kind: Node\nname: n1\nsite: par1\nroles: [master]\n",
		"a key Compose has, unrun":   "kind: Product\nname: p\nservices: {a: {image: 'a:v1', privileged: true}}\n",
		"an unknown key of state":    "kind: Product\nname: p\nservices: {a: {image: 'a:v1'}}\nx-holdfast: {stat: []}\n",
	} {
		for _, document := range documents(t, what, []byte(text)) {
			if schema.Validate(document) == nil {
				t.Errorf("%s passes:\n%s", what, text)
			}
		}
	}
}

// An editor shows a description beside every key that is ours. What Compose brings has its own.
func TestEveryKeyIsDescribed(t *testing.T) {
	for _, kind := range fleet.Kinds() {
		tree, err := fleet.Schema(kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range undescribed(string(kind), tree) {
			t.Errorf("%s has no description", key)
		}
		below, _ := tree["$defs"].(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(below)) {
			if name == "Service" || strings.HasPrefix(name, "compose_") {
				continue
			}
			for _, key := range undescribed(name, below[name].(map[string]any)) {
				t.Errorf("%s has no description", key)
			}
		}
	}
}

// undescribed lists the keys of a mapping that say nothing of themselves; kind says it by its one word.
func undescribed(at string, node map[string]any) []string {
	var keys []string
	properties, _ := node["properties"].(map[string]any)
	for _, key := range slices.Sorted(maps.Keys(properties)) {
		property, _ := properties[key].(map[string]any)
		if text, _ := property["description"].(string); text == "" && key != "kind" {
			keys = append(keys, at+"."+key)
		}
	}
	return keys
}

// anySchema compiles what `holdfast schema` prints, as an editor does.
func anySchema(t *testing.T) *validator.Schema {
	t.Helper()
	tree, err := fleet.AnySchema()
	if err != nil {
		t.Fatal(err)
	}
	compiler := validator.NewCompiler()
	if err := compiler.AddResource("fleet.schema.json", tree); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("fleet.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// documents are the YAML documents of a file as plain data; a key file has none.
func documents(t *testing.T, name string, content []byte) []any {
	t.Helper()
	if path.Ext(name) == ".asc" {
		return nil
	}
	var all []any
	for decoder := yaml.NewDecoder(bytes.NewReader(content)); ; {
		var document any
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, document)
	}
}
