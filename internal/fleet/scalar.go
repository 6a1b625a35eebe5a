package fleet

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/invopop/jsonschema"
	"github.com/xhit/go-str2duration/v2"
)

// durationPattern is what a length of time looks like in a file.
const durationPattern = `^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h|d|w))+$`

// ParseDuration reads a length of time as Compose writes it: 90s, 1h30m, 7d or 2w.
func ParseDuration(text string) (time.Duration, error) {
	d, err := str2duration.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("parse duration %q: %w", text, err)
	}
	return d, nil
}

// FormatDuration writes a length of time as people do: 24h, 1h30m, 90s.
func FormatDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
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
	return &jsonschema.Schema{Extras: map[string]any{"type": []string{"string", "number", "boolean", "null"}}}
}
