package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"

	"filippo.io/age"

	"holdfast/internal/fleet"
	"holdfast/internal/problem"
)

// readSpec gives the spec that a slot was last booted with; ok is false when it never was.
func (i *instance) readSpec(slot string) (spec fleet.Spec, ok bool, err error) {
	body, err := os.ReadFile(filepath.Join(i.slotDir(slot), "spec.json"))
	if errors.Is(err, os.ErrNotExist) {
		return spec, false, nil
	}
	if err != nil {
		return spec, false, fmt.Errorf("instance %s, slot %s: read spec: %w", i.name, slot, err)
	}
	if err := json.Unmarshal(body, &spec); err != nil {
		return spec, false, fmt.Errorf("instance %s, slot %s: read spec: %w", i.name, slot, err)
	}
	return spec, true, nil
}

func (i *instance) writeSpec(slot string, spec fleet.Spec) error {
	return writeJSON(filepath.Join(i.slotDir(slot), "spec.json"), spec)
}

// makeSlot makes the directories of a slot. What services write into belongs to whoever they run as.
func (i *instance) makeSlot(slot string, spec fleet.Spec) error {
	for _, dir := range []string{i.slotDir(slot), filepath.Join(i.slotDir(slot), "canary"), filepath.Join(i.slotDir(slot), "dumps")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("instance %s: make slot %s: %w", i.name, slot, err)
		}
	}
	for _, state := range spec.State {
		if err := os.MkdirAll(filepath.Join(i.slotDir(slot), "state", state.Name), 0o755); err != nil {
			return fmt.Errorf("instance %s: make state %s: %w", i.name, state.Name, err)
		}
	}
	return syncDir(filepath.Dir(i.slotDir(slot)))
}

func (i *instance) readSecrets(slot string) (map[string]string, error) {
	secrets := map[string]string{}
	body, err := os.ReadFile(filepath.Join(i.slotDir(slot), "secrets"))
	if errors.Is(err, os.ErrNotExist) {
		return secrets, nil
	}
	if err != nil {
		return nil, fmt.Errorf("instance %s, slot %s: read secrets: %w", i.name, slot, err)
	}
	if err := json.Unmarshal(body, &secrets); err != nil {
		// The cause could show a part of a value, so it is left out.
		return nil, fmt.Errorf("instance %s, slot %s: secrets are not readable", i.name, slot)
	}
	return secrets, nil
}

// takeSecrets merges what the order brings with what the slot has. In a restored slot the data's own secrets win:
// what was encrypted with them opens with nothing else.
func (i *instance) takeSecrets(slot string, spec fleet.Spec, sealed []byte, restored bool) error {
	have, err := i.readSecrets(slot)
	if err != nil {
		return err
	}
	brought, err := i.unsealSecrets(sealed)
	if err != nil {
		return err
	}
	merged := maps.Clone(have)
	maps.Copy(merged, brought)
	if restored {
		maps.Copy(merged, have)
	}
	for _, ref := range spec.Secrets {
		if _, ok := merged[ref.Name]; !ok {
			return problem.New(problem.Invalid, "holdfast plan, then apply: the server makes the secret and sends it",
				"instance %s: secret %s is neither in the order nor in slot %s of node %s", i.name, ref.Name, slot, i.stack.cfg.Node)
		}
	}
	if maps.Equal(merged, have) {
		return nil
	}
	return writeJSON(filepath.Join(i.slotDir(slot), "secrets"), merged)
}

func (i *instance) unsealSecrets(sealed []byte) (map[string]string, error) {
	secrets := map[string]string{}
	if len(sealed) == 0 {
		return secrets, nil
	}
	body, err := unseal(sealed, i.stack.cfg.Seal)
	if err != nil {
		return nil, problem.Wrap(err, problem.WrongKey, "let the node report its key again and order anew",
			"instance %s: secrets were not sealed to node %s", i.name, i.stack.cfg.Node)
	}
	if err := json.Unmarshal(body, &secrets); err != nil {
		return nil, problem.New(problem.Invalid, "", "instance %s: the sealed secrets are not an object of texts", i.name)
	}
	return secrets, nil
}

// unseal opens an age message of at most 1 MiB.
func unseal(sealed []byte, identity age.Identity) ([]byte, error) {
	reader, err := age.Decrypt(bytes.NewReader(sealed), identity)
	if err != nil {
		return nil, fmt.Errorf("unseal: %w", err)
	}
	body, err := io.ReadAll(io.LimitReader(reader, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("unseal: %w", err)
	}
	return body, nil
}

// sealTo encrypts body to an age recipient.
func sealTo(recipient string, body []byte) ([]byte, error) {
	to, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	var sealed bytes.Buffer
	writer, err := age.Encrypt(&sealed, to)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	_, err = writer.Write(body)
	if err := errors.Join(err, writer.Close()); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return sealed.Bytes(), nil
}
