package db

import (
	"database/sql/driver"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"
)

// Time is a moment in a BIGINT column: microseconds since 1970 in UTC; the zero time is 0.
type Time struct{ time.Time }

// At wraps t.
func At(t time.Time) Time { return Time{t} }

// Value implements driver.Valuer.
func (t Time) Value() (driver.Value, error) {
	if t.IsZero() {
		return int64(0), nil
	}
	return t.UnixMicro(), nil
}

// Scan implements sql.Scanner.
func (t *Time) Scan(src any) error {
	us, ok := src.(int64)
	if !ok {
		return fmt.Errorf("scan time: %T is not an integer", src)
	}
	t.Time = time.Time{}
	if us != 0 {
		t.Time = time.UnixMicro(us).UTC()
	}
	return nil
}

// Bytes is binary data in a TEXT column, base64.
type Bytes []byte

// Value implements driver.Valuer.
func (b Bytes) Value() (driver.Value, error) { return base64.StdEncoding.EncodeToString(b), nil }

// Scan implements sql.Scanner.
func (b *Bytes) Scan(src any) error {
	text, err := scanText(src)
	if err != nil {
		return err
	}
	*b, err = base64.StdEncoding.DecodeString(text)
	return err
}

// JSON holds a value as JSON in a TEXT column.
type JSON[T any] struct{ V T }

// Of wraps v.
func Of[T any](v T) JSON[T] { return JSON[T]{v} }

// Value implements driver.Valuer.
func (j JSON[T]) Value() (driver.Value, error) {
	text, err := json.Marshal(j.V)
	return string(text), err
}

// Scan implements sql.Scanner.
func (j *JSON[T]) Scan(src any) error {
	text, err := scanText(src)
	if err != nil || text == "" {
		return err
	}
	return json.Unmarshal([]byte(text), &j.V)
}

func scanText(src any) (string, error) {
	switch v := src.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case []byte:
		return string(v), nil
	}
	return "", fmt.Errorf("scan text: %T is not text", src)
}
