package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	validator "github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// take checks a document against the schema of its kind and adds it to the fleet.
func (r *reader) take(d document) {
	err := r.schemas.compiled[d.kind].Validate(d.tree)
	if failed, ok := errors.AsType[*validator.ValidationError](err); ok {
		r.explain(d, failed)
		r.markBroken(d)
		return
	}
	r.add(d)
}

// markBroken remembers that a document of this name is there, though wrong.
func (r *reader) markBroken(d document) {
	if r.broken[d.kind] == nil {
		r.broken[d.kind] = map[string]bool{}
	}
	r.broken[d.kind][d.name] = true
}

// add decodes a valid document into its type.
func (r *reader) add(d document) {
	f := r.fleet
	switch d.kind {
	case KindSite:
		put(r, d, f.Sites, Site{Origin: d.Origin})
	case KindNode:
		put(r, d, f.Nodes, Node{Origin: d.Origin})
	case KindProduct:
		put(r, d, f.Products, Product{Origin: d.Origin})
	case KindRelease:
		put(r, d, f.Releases, Release{Origin: d.Origin})
	case KindRing:
		put(r, d, f.Rings, Ring{Origin: d.Origin})
	case KindInstance:
		put(r, d, f.Instances, Instance{Origin: d.Origin})
	case KindRecoveryPlan:
		put(r, d, f.RecoveryPlans, RecoveryPlan{Origin: d.Origin})
	}
}

// put decodes d into value and keeps it under its name, unless the name is taken.
func put[T interface{ origin() Origin }](r *reader, d document, all map[string]T, value T) {
	if first, twice := all[d.name]; twice {
		at := first.origin()
		r.wrong(d.Origin, []string{"name"}, "rename one of the two", "the name is taken: the first stands at %s:%d", at.File, at.Line)
		return
	}
	if err := decode(d.tree, &value); err != nil {
		r.wrong(d.Origin, nil, "holdfast schema "+string(d.kind)+" shows the form", "%s", err)
		r.markBroken(d)
		return
	}
	all[d.name] = value
}

func (o Origin) origin() Origin { return o }

// decode fills a type from plain data that its schema has passed.
func decode(tree map[string]any, target any) error {
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		TagName:    "json",
		Squash:     true,
		Result:     target,
		DecodeHook: mapstructure.ComposeDecodeHookFunc(durationHook, valueHook, selectorHook, mapstructure.TextUnmarshallerHookFunc()),
	})
	if err != nil {
		return fmt.Errorf("make decoder: %w", err)
	}
	return decoder.Decode(tree)
}

func durationHook(from, to reflect.Type, data any) (any, error) {
	text, ok := data.(string)
	if !ok || to != reflect.TypeFor[time.Duration]() {
		return data, nil
	}
	return ParseDuration(text)
}

func selectorHook(_, to reflect.Type, data any) (any, error) {
	equal, ok := data.(map[string]any)
	if !ok || to != reflect.TypeFor[Selector]() {
		return data, nil
	}
	return selectorOf(equal)
}

func valueHook(_, to reflect.Type, data any) (any, error) {
	if to != reflect.TypeFor[Value]() {
		return data, nil
	}
	switch data := data.(type) {
	case string:
		return TextValue(data), nil
	case json.Number:
		return TextValue(data.String()), nil
	case bool:
		return TextValue(fmt.Sprint(data)), nil
	}
	return Value{}, nil
}

// explain turns what the schema found into words, one for each thing that is wrong.
func (r *reader) explain(d document, failed *validator.ValidationError) {
	for _, leaf := range leaves(failed) {
		r.explainOne(d, leaf)
	}
}

// leaves finds the errors that say something: of alternatives only those that came furthest.
func leaves(e *validator.ValidationError) []*validator.ValidationError {
	if len(e.Causes) == 0 {
		return []*validator.ValidationError{e}
	}
	var all []*validator.ValidationError
	deepest := 0
	for _, cause := range e.Causes {
		for _, leaf := range leaves(cause) {
			all = append(all, leaf)
			deepest = max(deepest, len(leaf.InstanceLocation))
		}
	}
	if !isAlternative(e) {
		return all
	}
	best := slices.DeleteFunc(all, func(leaf *validator.ValidationError) bool { return len(leaf.InstanceLocation) < deepest })
	return joinTypes(best)
}

func isAlternative(e *validator.ValidationError) bool {
	switch e.ErrorKind.(type) {
	case *kind.OneOf, *kind.AnyOf:
		return true
	}
	return false
}

// joinTypes makes one error of "must be a string" and "must be a list" at the same place.
func joinTypes(all []*validator.ValidationError) []*validator.ValidationError {
	var want []string
	for _, e := range all {
		t, ok := e.ErrorKind.(*kind.Type)
		if !ok {
			return all[:1]
		}
		want = append(want, t.Want...)
	}
	first := all[0].ErrorKind.(*kind.Type)
	joined := *all[0]
	joined.ErrorKind = &kind.Type{Got: first.Got, Want: want}
	return []*validator.ValidationError{&joined}
}

// explainOne words one error of the schema.
func (r *reader) explainOne(d document, e *validator.ValidationError) {
	at := e.InstanceLocation
	where := dotted(at)
	switch k := e.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		for _, key := range k.Properties {
			r.unknownKey(d, append(slices.Clone(at), key))
		}
	case *kind.Required:
		for _, key := range k.Missing {
			r.wrong(d.Origin, at, "add `"+key+":`", "%s is missing", dotted(append(slices.Clone(at), key)))
		}
	case *kind.Type:
		r.wrong(d.Origin, at, "write "+typeNames(k.Want), "%s is %s", where, typeName(k.Got))
	case *kind.Enum:
		r.wrong(d.Origin, at, meant(fmt.Sprint(k.Got), texts(k.Want)), "%s cannot be %q", where, fmt.Sprint(k.Got))
	case *kind.Pattern:
		r.wrong(d.Origin, at, patternHint(k.Want), "%s cannot be %q", where, k.Got)
	case *kind.Minimum:
		r.wrong(d.Origin, at, "write "+k.Want.RatString()+" or more", "%s is %s", where, k.Got.RatString())
	case *kind.Maximum:
		r.wrong(d.Origin, at, "write "+k.Want.RatString()+" or less", "%s is %s", where, k.Got.RatString())
	case *kind.PropertyNames:
		r.wrong(d.Origin, append(slices.Clone(at), k.Property), patternHint(""), "%q cannot be the name of something in %s", k.Property, where)
	default:
		text := e.ErrorKind.LocalizedString(message.NewPrinter(language.English))
		r.wrong(d.Origin, at, "holdfast schema "+string(d.kind)+" shows the form", "%s: %s", where, text)
	}
}

// unknownKey tells a misspelt key from a Compose key that Holdfast does not run.
func (r *reader) unknownKey(d document, path []string) {
	key := path[len(path)-1]
	if d.kind == KindProduct && len(path) == 3 && path[0] == "services" && r.isCompose(key) {
		r.wrong(d.Origin, path, "remove it; run are: "+strings.Join(slices.Sorted(slices.Values(composeKeys())), ", "),
			"the Compose key %s is not run by Holdfast", dotted(path))
		return
	}
	r.wrong(d.Origin, path, meant(key, r.schemas.keysAt(d.kind, path[:len(path)-1])), "unknown key %q", dotted(path))
}

func (r *reader) isCompose(key string) bool { return slices.Contains(allComposeKeys(), key) }

func texts(all []any) []string {
	out := make([]string, len(all))
	for i, item := range all {
		out[i] = fmt.Sprint(item)
	}
	return out
}

// typeName says a JSON type as people say it of YAML.
func typeName(name string) string {
	switch name {
	case "object":
		return "a mapping"
	case "array":
		return "a list"
	case "string":
		return "a text"
	case "integer":
		return "a whole number"
	case "number":
		return "a number"
	case "boolean":
		return "true or false"
	case "null":
		return "empty"
	}
	return name
}

func typeNames(all []string) string {
	names := make([]string, 0, len(all))
	for _, name := range all {
		if !slices.Contains(names, typeName(name)) && (name != "null" || len(all) == 1) {
			names = append(names, typeName(name))
		}
	}
	return strings.Join(names, " or ")
}

// patternHint says what a pattern asks for.
func patternHint(pattern string) string {
	switch {
	case pattern == durationPattern:
		return "write a length of time such as 90s, 1h30m or 7d"
	case strings.Contains(pattern, "sha256"):
		return "write sha256: and 64 hexadecimal digits"
	case strings.Contains(pattern, "/v"):
		return "write PRODUCT/VERSION, such as notes/v1.2.0"
	case strings.Contains(pattern, "{0,38}"):
		return "write at most 40 small letters, digits and dashes, a letter first"
	case pattern == "":
		return "write small letters, digits, dashes and underscores, a letter first"
	}
	return "write it as " + pattern
}
