package fleet

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/invopop/jsonschema"
	"github.com/xhit/go-str2duration/v2"
)

// Duration is a length of time as Compose writes it: 90s, 1h30m, 7d.
type Duration time.Duration

// durationPattern is what a Duration looks like in a file.
const durationPattern = `^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h|d|w))+$`

// ParseDuration reads 90s, 1h30m, 7d or 2w.
func ParseDuration(text string) (Duration, error) {
	d, err := str2duration.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("parse duration %q: %w", text, err)
	}
	return Duration(d), nil
}

// String writes a duration as people do: 24h, 1h30m, 90s.
func (d Duration) String() string {
	text := time.Duration(d).String()
	for _, zero := range []string{"m0s", "h0m"} {
		if len(text) > len(zero) && text[len(text)-len(zero):] == zero {
			text = text[:len(text)-len(zero)+1]
		}
	}
	return text
}

// MarshalJSON writes the text form.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON reads the text form.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf("read duration: %w", err)
	}
	parsed, err := ParseDuration(text)
	*d = parsed
	return err
}

// JSONSchema describes the text form to editors.
func (Duration) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Pattern: durationPattern, Examples: []any{"90s", "24h", "7d"}}
}

// Value is one setting, as the text it was written as: 1.10 stays 1.10. A product may declare a value and not give it
// (null); then a higher layer must.
type Value struct {
	Text  string
	Given bool
}

// TextValue is a given value.
func TextValue(text string) Value { return Value{Text: text, Given: true} }

// MarshalJSON writes a string, or null.
func (v Value) MarshalJSON() ([]byte, error) {
	if !v.Given {
		return []byte("null"), nil
	}
	return json.Marshal(v.Text)
}

// UnmarshalJSON keeps numbers and booleans as they were written.
func (v *Value) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		*v = Value{}
		return nil
	}
	if len(data) > 0 && data[0] != '"' {
		*v = TextValue(string(data))
		return nil
	}
	v.Given = true
	return json.Unmarshal(data, &v.Text)
}

// JSONSchema describes a value to editors: any scalar.
func (Value) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "string"}, {Type: "number"}, {Type: "boolean"}, {Type: "null"}}}
}
