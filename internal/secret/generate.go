package secret

import (
	"crypto/rand"

	"holdfast/internal/problem"
)

// letters need no quoting in URLs, shells, YAML or connection strings. Their count divides no power of two, so
// Generate draws again instead of folding.
const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// Lengths of a generated secret, in characters. Sixteen characters of 62 are 95 bits.
const (
	MinLength     = 16
	DefaultLength = 32
	MaxLength     = 1024
)

// Generate draws a secret of length characters; 0 means DefaultLength.
func Generate(length int) (Value, error) {
	if length == 0 {
		length = DefaultLength
	}
	if length < MinLength || length > MaxLength {
		return Value{}, problem.New(problem.Invalid, "", "a generated secret has %d to %d characters, not %d", MinLength, MaxLength, length)
	}
	text := make([]byte, 0, length)
	draw := make([]byte, 2*length)
	for len(text) < length {
		rand.Read(draw) // never fails: crypto/rand ends the program instead
		text = appendLetters(text, draw, length)
	}
	return Of(string(text)), nil
}

func appendLetters(text, draw []byte, length int) []byte {
	for _, b := range draw {
		if at := int(b & 63); at < len(letters) && len(text) < length {
			text = append(text, letters[at])
		}
	}
	return text
}
