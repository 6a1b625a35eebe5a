package keeper_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"holdfast/internal/db"
	"holdfast/internal/db/dbtest"
	"holdfast/internal/problem"
	"holdfast/internal/secret"
	"holdfast/internal/secret/keeper"
)

// transit answers as the transit engine of HashiCorp Vault and OpenBao does: it seals by prefix, knows one key, and
// asks for a token. Vault's documentation of the engine is its model.
type transit struct {
	token  string
	sealed atomic.Bool // the service is locked, as after a restart
	asked  atomic.Int64
}

func (s *transit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	w.Header().Set("Content-Type", "application/json")
	verb, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/transit/"), "/")
	var body struct{ Plaintext, Ciphertext string }
	switch {
	case s.sealed.Load():
		refuse(w, http.StatusServiceUnavailable, "Vault is sealed")
	case r.Header.Get("X-Vault-Token") != s.token:
		refuse(w, http.StatusForbidden, "permission denied")
	case key != "holdfast":
		refuse(w, http.StatusBadRequest, "encryption key not found")
	case json.NewDecoder(r.Body).Decode(&body) != nil:
		refuse(w, http.StatusBadRequest, "error parsing JSON")
	case verb == "encrypt":
		answer(w, "ciphertext", "vault:v1:"+body.Plaintext)
	case verb == "decrypt" && strings.HasPrefix(body.Ciphertext, "vault:v1:"):
		answer(w, "plaintext", strings.TrimPrefix(body.Ciphertext, "vault:v1:"))
	default:
		refuse(w, http.StatusBadRequest, "invalid ciphertext: no prefix")
	}
}

func refuse(w http.ResponseWriter, status int, words string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string][]string{"errors": {words}})
}

func answer(w http.ResponseWriter, key, value string) {
	_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]string{key: value}})
}

// One story, for the driver dials once in a process: a key service makes the data key, is asked for it at each start,
// and says what is wrong when it does not give it.
func TestAKeyServiceKeepsTheDataKey(t *testing.T) {
	service := &transit{token: "s.right"}
	server := httptest.NewServer(service)
	defer server.Close()
	t.Setenv("VAULT_ADDR", server.URL)
	t.Setenv("VAULT_TOKEN", "s.right")
	t.Setenv("VAULT_MAX_RETRIES", "0")
	d := dbtest.Open(t)

	box := openBox(t, "hashivault://holdfast", d)
	sealed := box.Seal("instance/acme/x/1", []byte("words"))
	if n := service.asked.Load(); n != 1 {
		t.Fatalf("the key service was asked %d times for one new data key", n)
	}
	again := openBox(t, "hashivault://holdfast", d)
	if got, err := again.Open("instance/acme/x/1", sealed); err != nil || !bytes.Equal(got, []byte("words")) {
		t.Fatalf("after a restart: %q, %v", got, err)
	}

	wrong(t, "hashivault://other", d, "key service hashivault://other did not open the data key: ", "encryption key not found")
	service.sealed.Store(true)
	wrong(t, "hashivault://holdfast", d, "key service hashivault://holdfast did not open the data key: ", "Vault is sealed")
	wrong(t, "hashivault://holdfast", dbtest.Open(t), "key service hashivault://holdfast did not seal the data key: ", "Vault is sealed")
	service.sealed.Store(false)
	service.token = "s.changed"
	wrong(t, "hashivault://holdfast", d, "key service hashivault://holdfast did not open the data key: ", "permission denied")
	server.Close()
	wrong(t, "hashivault://holdfast", d, "key service hashivault://holdfast did not open the data key: ", server.URL) // reset or refused: the kernel decides
}

func openBox(t *testing.T, url string, d *db.DB) *secret.Box {
	t.Helper()
	k, err := keeper.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	box, err := secret.OpenBox(t.Context(), d, k)
	if err != nil {
		t.Fatal(err)
	}
	return box
}

func wrong(t *testing.T, url string, d *db.DB, begins, holds string) {
	t.Helper()
	k, err := keeper.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	_, err = secret.OpenBox(t.Context(), d, k)
	if problem.KindOf(err) != problem.Unavailable || !strings.HasPrefix(err.Error(), begins) || !strings.Contains(err.Error(), holds) {
		t.Fatalf("got %v, want %q ... %q", err, begins, holds)
	}
}

// What each service's driver needs besides the URL is said when it is missing or malformed; nothing is asked before.
func TestKeyServicesThatCannotBeOpened(t *testing.T) {
	for url, want := range map[string][2]string{
		"hashivault://k?color=red":            {"keeper hashivault://... was not opened: ", "set VAULT_ADDR and VAULT_TOKEN; the URL is hashivault://KEY[?engine=transit]"},
		"awskms://alias/x?color=red":          {"keeper awskms://... was not opened: ", "give AWS credentials as the AWS command line takes them; the URL is awskms://alias/NAME?region=REGION"},
		"azurekeyvault://x/keys/k?color=red":  {"keeper azurekeyvault://... was not opened: ", "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET; the URL is azurekeyvault://NAME.vault.azure.net/keys/KEY"},
		"gcpkms://projects/p/wrong?color=red": {"keeper gcpkms://... was not opened: ", "set GOOGLE_APPLICATION_CREDENTIALS; the URL is gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K"},
		"pkcs11://slot/1":                     {`keeper pkcs11://... was not opened: no keeper is called "pkcs11"`, "holdfast server --new-key FILE, or use one of these: awskms, azurekeyvault, base64key, gcpkms, hashivault"},
	} {
		_, err := keeper.Open(t.Context(), url)
		refused, ok := errors.AsType[*problem.Error](err)
		if !ok || refused.Kind != problem.Usage || !strings.HasPrefix(refused.Message, want[0]) || refused.Hint != want[1] {
			t.Errorf("%s: %v (next: %s)", url, err, hint(err))
		}
	}
}

func hint(err error) string {
	if refused, ok := errors.AsType[*problem.Error](err); ok {
		return refused.Hint
	}
	return ""
}
