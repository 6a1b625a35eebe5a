package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"

	"holdfast/internal/problem"
)

// SealTo seals values to an age recipient, such as a node's, as the age message of a JSON object name -> text.
func SealTo(recipient string, values map[string]Value) ([]byte, error) {
	plain := make(map[string]string, len(values))
	for name, value := range values {
		plain[name] = value.Reveal()
	}
	raw, err := json.Marshal(plain)
	if err != nil {
		return nil, errors.New("encode secrets") // the cause might quote a value
	}
	return SealBytes(recipient, raw)
}

// OpenFrom opens what SealTo made, with the recipient's identity.
func OpenFrom(identity age.Identity, sealed []byte) (map[string]Value, error) {
	raw, err := OpenBytes(identity, sealed)
	if err != nil {
		return nil, err
	}
	var plain map[string]string
	if err := json.Unmarshal(raw, &plain); err != nil {
		return nil, problem.New(problem.Corrupt, "", "sealed secrets are not an object of texts") // the cause might quote a value
	}
	values := make(map[string]Value, len(plain))
	for name, text := range plain {
		values[name] = Of(text)
	}
	return values, nil
}

// SealBytes seals plaintext to an age recipient ("age1...").
func SealBytes(recipient string, plaintext []byte) ([]byte, error) {
	to, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		return nil, fmt.Errorf("parse age recipient %q: %w", recipient, err)
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, to)
	if err != nil {
		return nil, fmt.Errorf("seal to %s: %w", recipient, err)
	}
	if _, err := w.Write(plaintext); err != nil {
		return nil, fmt.Errorf("seal to %s: %w", recipient, err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("seal to %s: %w", recipient, err)
	}
	return sealed.Bytes(), nil
}

// OpenBytes opens an age message. The wrong identity gives kind WrongKey, damaged bytes kind Corrupt.
func OpenBytes(identity age.Identity, sealed []byte) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(sealed), identity)
	if _, wrong := errors.AsType[*age.NoIdentityMatchError](err); wrong {
		return nil, problem.New(problem.WrongKey, "", "message is sealed to somebody else")
	}
	if err != nil {
		return nil, problem.Wrap(err, problem.Corrupt, "", "sealed message cannot be read")
	}
	plaintext, err := io.ReadAll(r)
	if err != nil {
		return nil, problem.Wrap(err, problem.Corrupt, "", "sealed message cannot be read")
	}
	return plaintext, nil
}
