// Package secret holds what nobody may read by accident: values, how they are sealed at rest, and how they travel.
//
// Words: a Value is one secret in memory; a Keeper guards the data key (a local key or a key service, by URL); the Box
// seals bytes at rest under the data key and a label; the Store holds the generated secrets of instances.
//
// Invariant: a Value prints as [sealed] wherever it is printed, and what lies in the database opens only with the
// Keeper and only under the label it was sealed for, so a row moved to another place does not open there.
package secret

import (
	"fmt"
	"log/slog"
)

// Mask stands wherever a secret would have been printed.
const Mask = "[sealed]"

// Value is one secret. It is printed, encoded and logged as Mask; Reveal is the only way to its text.
type Value struct{ text string }

// Of wraps text.
func Of(text string) Value { return Value{text} }

// Reveal gives the text. Each call site is a place where a secret leaves; keep them few.
func (v Value) Reveal() string { return v.text }

// Format implements fmt.Formatter for every verb.
func (v Value) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(Mask)) }

// MarshalText implements encoding.TextMarshaler, which JSON, YAML and slog's text form follow.
func (v Value) MarshalText() ([]byte, error) { return []byte(Mask), nil }

// LogValue implements slog.LogValuer.
func (v Value) LogValue() slog.Value { return slog.StringValue(Mask) }
