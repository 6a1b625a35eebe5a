package fleet

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	compose "github.com/compose-spec/compose-go/v2/schema"
	"github.com/invopop/jsonschema"
	validator "github.com/santhosh-tekuri/jsonschema/v6"
)

// composeKeys are the keys of a Compose service that Holdfast runs. Others are refused rather than ignored.
func composeKeys() []string {
	return []string{"image", "command", "environment", "ports", "expose", "depends_on", "volumes", "healthcheck",
		"mem_limit", "cpus", "deploy", "scale", "stop_grace_period", "restart"}
}

// Schema gives the JSON Schema (2020-12) of one kind, for editors. The same schema decides what is read.
func Schema(kind Kind) (map[string]any, error) {
	sample, ok := samples()[kind]
	if !ok {
		return nil, fmt.Errorf("describe kind %q: it is not known", kind)
	}
	tree, err := reflected(sample)
	if err != nil {
		return nil, fmt.Errorf("describe kind %s: %w", kind, err)
	}
	if kind == KindProduct {
		err = addCompose(tree)
	}
	return tree, err
}

// AnySchema gives one JSON Schema for a document of any kind: `kind` decides which.
func AnySchema() (map[string]any, error) {
	defs, branches := map[string]any{}, []any{}
	for _, kind := range Kinds() {
		tree, err := Schema(kind)
		if err != nil {
			return nil, err
		}
		below, _ := tree["$defs"].(map[string]any)
		maps.Copy(defs, below) // a type has one definition, whichever kind refers to it
		delete(tree, "$defs")
		delete(tree, "$schema")
		defs[string(kind)] = tree
		branches = append(branches, map[string]any{
			"if":   map[string]any{"properties": map[string]any{"kind": map[string]any{"const": string(kind)}}},
			"then": map[string]any{"$ref": "#/$defs/" + string(kind)},
		})
	}
	kinds := []any{}
	for _, kind := range Kinds() {
		kinds = append(kinds, string(kind))
	}
	return map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "required": []any{"kind"},
		"properties": map[string]any{"kind": map[string]any{"enum": kinds}}, "allOf": branches, "$defs": defs,
	}, nil
}

// samples maps each kind to its type.
func samples() map[Kind]any {
	return map[Kind]any{KindSite: Site{}, KindNode: Node{}, KindProduct: Product{}, KindRelease: Release{}, KindRing: Ring{},
		KindInstance: Instance{}, KindRecoveryPlan: RecoveryPlan{}}
}

// reflected gives the schema of a type as plain data.
func reflected(sample any) (map[string]any, error) {
	reflector := jsonschema.Reflector{Anonymous: true, ExpandedStruct: true, Mapper: special}
	return plain(reflector.Reflect(sample))
}

func plain(value any) (map[string]any, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	var tree map[string]any
	return tree, json.Unmarshal(data, &tree)
}

// special describes types whose text form is not their Go form.
func special(t reflect.Type) *jsonschema.Schema {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return &jsonschema.Schema{Type: "string", Pattern: durationPattern, Examples: []any{"90s", "24h", "7d"}}
	case reflect.TypeFor[Role]():
		return &jsonschema.Schema{Type: "string", Enum: []any{RoleRun, RoleSpare, RoleVault, RoleEdge, RoleProbe}}
	case reflect.TypeFor[StateKind]():
		return &jsonschema.Schema{Type: "string", Enum: []any{StateFolder, StateSQLite, StateMongoDB, StateRedis, StatePostgres, StateMariaDB, StateCommand}}
	case reflect.TypeFor[RecoveryScenario]():
		return &jsonschema.Schema{Type: "string", Enum: []any{SiteLost, NodeLost}}
	}
	return nil
}

// addCompose describes the services and volumes of a product by the Compose specification's own schema, cut to the
// keys that Holdfast runs.
func addCompose(product map[string]any) error {
	var spec map[string]any
	if err := json.Unmarshal([]byte(compose.Schema), &spec); err != nil {
		return fmt.Errorf("read the Compose schema: %w", err)
	}
	keys, err := reflected(ServiceKeys{})
	if err != nil {
		return err
	}
	defs := product["$defs"].(map[string]any)
	maps.Copy(defs, keys["$defs"].(map[string]any))
	delete(keys, "$defs")
	delete(keys, "$schema")
	defs["ServiceKeys"] = keys
	service := composeService(spec)
	copyDefinitions(defs, spec["$defs"].(map[string]any), service)
	defs["Service"] = service
	services := product["properties"].(map[string]any)["services"].(map[string]any)
	services["additionalProperties"] = map[string]any{"$ref": "#/$defs/Service"}
	services["propertyNames"] = map[string]any{"pattern": "^[a-z][a-z0-9_-]*$"}
	return nil
}

// composeService is the schema of a service. Of deploy only replicas and limits are run.
func composeService(spec map[string]any) map[string]any {
	all := composeProperties(spec)
	properties := map[string]any{"x-holdfast": map[string]any{"$ref": "#/$defs/ServiceKeys"}}
	for _, key := range composeKeys() {
		properties[key] = all[key]
	}
	limits := object(map[string]any{"memory": map[string]any{"type": "string"}, "cpus": map[string]any{"type": []any{"number", "string"}}})
	properties["deploy"] = object(map[string]any{
		"replicas":  map[string]any{"type": "integer", "minimum": 1},
		"resources": object(map[string]any{"limits": limits}),
	})
	properties["scale"] = map[string]any{"type": "integer", "minimum": 1}
	return object(properties)
}

func object(properties map[string]any) map[string]any {
	return map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
}

// composeProperties joins the three places where the Compose schema keeps the keys of a service.
func composeProperties(spec map[string]any) map[string]any {
	all := map[string]any{}
	definitions := spec["$defs"].(map[string]any)
	for _, name := range []string{"container_spec", "workload_spec", "service"} {
		properties, _ := definitions[name].(map[string]any)["properties"].(map[string]any)
		maps.Copy(all, properties)
	}
	return all
}

// copyDefinitions brings what node refers to into defs under compose_NAME, and points the references there.
func copyDefinitions(defs, from map[string]any, node any) {
	switch node := node.(type) {
	case []any:
		for _, item := range node {
			copyDefinitions(defs, from, item)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(node)) {
			if key != "$ref" {
				copyDefinitions(defs, from, node[key])
				continue
			}
			copyReferred(defs, from, node)
		}
	}
}

func copyReferred(defs, from map[string]any, node map[string]any) {
	reference, _ := node["$ref"].(string)
	name := strings.TrimPrefix(reference, "#/$defs/")
	definition, ok := from[name]
	if !ok || strings.HasPrefix(name, "compose_") {
		return
	}
	node["$ref"] = "#/$defs/compose_" + name
	if _, done := defs["compose_"+name]; !done {
		defs["compose_"+name] = definition
		copyDefinitions(defs, from, definition)
	}
}

// schemas are the schemas of all kinds, compiled.
type schemas struct {
	compiled map[Kind]*validator.Schema
	trees    map[Kind]map[string]any
}

// compiledSchemas is made once for the process: it depends on nothing but our types, and takes longer than reading a
// fleet of hundreds of instances.
var compiledSchemas = sync.OnceValues(compileSchemas) //nolint:gochecknoglobals // as said

func compileSchemas() (schemas, error) {
	s := schemas{compiled: map[Kind]*validator.Schema{}, trees: map[Kind]map[string]any{}}
	compiler := validator.NewCompiler()
	for _, kind := range Kinds() {
		tree, err := Schema(kind)
		if err != nil {
			return s, err
		}
		name := string(kind) + ".json"
		if err := compiler.AddResource(name, tree); err != nil {
			return s, fmt.Errorf("add schema of %s: %w", kind, err)
		}
		if s.compiled[kind], err = compiler.Compile(name); err != nil {
			return s, fmt.Errorf("compile schema of %s: %w", kind, err)
		}
		s.trees[kind] = tree
	}
	return s, nil
}

// keysAt lists the keys that may stand at path of a kind's documents.
func (s schemas) keysAt(kind Kind, path []string) []string {
	root := s.trees[kind]
	node := root
	for _, part := range path {
		node = follow(root, below(follow(root, node), part))
	}
	properties, _ := follow(root, node)["properties"].(map[string]any)
	return slices.Sorted(maps.Keys(properties))
}

// below is the schema of one key or list element.
func below(node map[string]any, part string) map[string]any {
	if properties, ok := node["properties"].(map[string]any); ok {
		if next, ok := properties[part].(map[string]any); ok {
			return next
		}
	}
	for _, key := range []string{"additionalProperties", "items"} {
		if next, ok := node[key].(map[string]any); ok {
			return next
		}
	}
	return nil
}

// follow goes where a reference leads.
func follow(root, node map[string]any) map[string]any {
	reference, ok := node["$ref"].(string)
	if !ok {
		return node
	}
	defs, _ := root["$defs"].(map[string]any)
	next, _ := defs[strings.TrimPrefix(reference, "#/$defs/")].(map[string]any)
	return next
}

// allComposeKeys lists every key a service can have in the Compose specification.
func allComposeKeys() []string {
	var spec map[string]any
	if json.Unmarshal([]byte(compose.Schema), &spec) != nil {
		return nil // the schema is part of the program and is read by every test
	}
	return slices.Collect(maps.Keys(composeProperties(spec)))
}
