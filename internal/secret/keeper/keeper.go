// Package keeper opens the keeper of the data key from a URL, by gocloud.dev/secrets: the local key (base64key://) or
// a key service (services.go). Any other URL is refused by name.
//
// Words: a key file holds one line, the URL of the keeper. A key service keeps the key itself and is asked to use it.
//
// Invariant: no error of this package quotes a key.
package keeper

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"gocloud.dev/secrets"
	_ "gocloud.dev/secrets/localsecrets" // the scheme base64key://

	"holdfast/internal/problem"
)

const localScheme = "base64key://"

// Keeper guards the data key.
type Keeper struct {
	keeper  *secrets.Keeper
	service string // what a person calls the key service; "" = a local key
}

// Open opens the keeper that url names. A local key without bytes is refused, for it would be a fresh random one. A key
// service is not asked before the first Encrypt or Decrypt.
func Open(ctx context.Context, url string) (*Keeper, error) {
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok || rest == "" {
		return nil, problem.New(problem.Usage, "holdfast server --new-key FILE", "key is not a URL such as base64key://...")
	}
	if !secrets.DefaultURLMux().ValidKeeperScheme(scheme) {
		return nil, problem.New(problem.Usage, "holdfast server --new-key FILE, or use one of these: "+schemes(),
			"keeper %s://... was not opened: no keeper is called %q", scheme, scheme)
	}
	k, err := secrets.OpenKeeper(ctx, url)
	if err != nil && scheme+"://" == localScheme {
		return nil, problem.New(problem.Usage, "holdfast server --new-key FILE", "local key is not 32 bytes in URL-safe base64") // the cause may quote it
	}
	if err != nil {
		return nil, problem.Wrap(err, problem.Usage, settingsOf(scheme), "keeper %s://... was not opened", scheme)
	}
	if scheme+"://" == localScheme {
		return &Keeper{keeper: k}, nil
	}
	return &Keeper{k, scheme + "://" + rest}, nil
}

func schemes() string {
	return strings.Join(secrets.DefaultURLMux().KeeperSchemes(), ", ")
}

// settingsOf says where a key service's driver looks for what its URL does not hold.
func settingsOf(scheme string) string {
	switch scheme {
	case "hashivault":
		return "set VAULT_ADDR and VAULT_TOKEN; the URL is hashivault://KEY[?engine=transit]"
	case "awskms":
		return "give AWS credentials as the AWS command line takes them; the URL is awskms://alias/NAME?region=REGION"
	case "gcpkms":
		return "set GOOGLE_APPLICATION_CREDENTIALS; the URL is gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K"
	case "azurekeyvault":
		return "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET; the URL is azurekeyvault://NAME.vault.azure.net/keys/KEY"
	}
	return "holdfast server --new-key FILE"
}

// Encrypt seals plaintext. A key service that does not do it gives kind Unavailable.
func (k *Keeper) Encrypt(ctx context.Context, plaintext []byte) ([]byte, error) {
	sealed, err := k.keeper.Encrypt(ctx, plaintext)
	return sealed, k.explain(err, "seal")
}

// Decrypt opens what Encrypt sealed. A key service that does not do it gives kind Unavailable: it cannot be told apart
// from here whether it is out of reach, locked, or has another key under that name.
func (k *Keeper) Decrypt(ctx context.Context, sealed []byte) ([]byte, error) {
	plaintext, err := k.keeper.Decrypt(ctx, sealed)
	return plaintext, k.explain(err, "open")
}

func (k *Keeper) explain(err error, verb string) error {
	if err == nil || k.service == "" {
		return err
	}
	scheme, _, _ := strings.Cut(k.service, "://")
	return problem.Wrap(err, problem.Unavailable, "look at the key service and at what this process may do there ("+settingsOf(scheme)+"); then start the server again",
		"key service %s did not %s the data key", k.service, verb)
}

// Close ends the talk with the key service.
func (k *Keeper) Close() error { return k.keeper.Close() }

// Read finds the keeper's URL: the line in file when file is given, else env (the value of HOLDFAST_KEY). Without
// either it refuses and says how to make a key.
func Read(file, env string) (string, error) {
	if file == "" && env == "" {
		return "", problem.New(problem.Usage, "holdfast server --new-key holdfast.key, then give --key-file holdfast.key (or set HOLDFAST_KEY); keep a copy off this machine",
			"server was not started: it needs a key that seals its secrets")
	}
	if file == "" {
		return env, nil
	}
	info, err := os.Stat(file)
	if err != nil {
		return "", problem.Wrap(err, problem.Usage, "holdfast server --new-key "+file, "key file was not read")
	}
	if open := info.Mode().Perm() & 0o077; open != 0 {
		return "", problem.New(problem.Denied, "chmod 600 "+file, "key file %s can be read by others (mode %04o)", file, info.Mode().Perm())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", problem.Wrap(err, problem.Usage, "", "key file was not read")
	}
	return strings.TrimSpace(string(text)), nil
}

// Create writes a fresh local key to file, readable by its owner only. An existing file is never overwritten.
func Create(file string) error {
	key := make([]byte, 32)
	rand.Read(key) // never fails: crypto/rand ends the program instead
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return problem.New(problem.Conflict, "choose another name, or use this key: --key-file "+file, "key file %s exists and was not overwritten", file)
	}
	if err != nil {
		return fmt.Errorf("create key file: %w", err)
	}
	_, err = fmt.Fprintln(f, localScheme+base64.URLEncoding.EncodeToString(key))
	return errors.Join(err, f.Sync(), f.Close())
}
