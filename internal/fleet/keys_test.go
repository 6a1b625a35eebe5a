package fleet_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"

	"holdfast/internal/fleet"
)

// A private key in the repository is refused, and never becomes part of a fleet.
func TestPrivateKeyIsRefused(t *testing.T) {
	entity, err := openpgp.NewEntity("Acme", "", "acme@example.org", nil)
	if err != nil {
		t.Fatal(err)
	}
	files := example(t)
	files["keys/acme.asc"] = armored(t, openpgp.PrivateKeyType, func(w *bytes.Buffer) error { return entity.SerializePrivate(w, nil) })
	_, err = fleet.Read(files)
	want := "instances/acme.yaml:12: Instance acme: recipient keys/acme.asc holds a private key: take it out of the repository and out of its history\n" +
		"  next: export it with gpg --armor --export KEY\n"
	if got := words(t, err); got != want {
		t.Errorf("private key: got\n%s\nwant\n%s", got, want)
	}
	files["keys/acme.asc"] = armored(t, openpgp.PublicKeyType, func(w *bytes.Buffer) error { return entity.Serialize(w) })
	f, err := fleet.Read(files)
	if err != nil {
		t.Fatalf("its public half was refused: %v", words(t, err))
	}
	spec, err := fleet.Render(f, "acme")
	if err != nil || len(spec.Backup.Recipients) != 1 || !strings.Contains(spec.Backup.Recipients[0], "PUBLIC KEY BLOCK") {
		t.Errorf("rendered recipients: %q, %v", spec.Backup.Recipients, err)
	}
}

func armored(t *testing.T, kind string, write func(*bytes.Buffer) error) []byte {
	t.Helper()
	var binary, text bytes.Buffer
	if err := write(&binary); err != nil {
		t.Fatal(err)
	}
	w, err := armor.Encode(&text, kind, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(binary.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return text.Bytes()
}
