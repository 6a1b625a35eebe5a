// Package keeper opens the keeper of the data key from a URL, by gocloud.dev/secrets. Built in is the local key
// (base64key://); a key service becomes one when its driver is imported here, and until then its URL is refused by name.
//
// Words: a key file holds one line, the URL of the keeper.
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

// Open opens the keeper that url names. A local key without bytes is refused, for it would be a fresh random one.
func Open(ctx context.Context, url string) (*secrets.Keeper, error) {
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok || rest == "" {
		return nil, problem.New(problem.Usage, "holdfast server --new-key FILE", "key is not a URL such as base64key://...")
	}
	k, err := secrets.OpenKeeper(ctx, url)
	if err != nil && scheme+"://" == localScheme {
		return nil, problem.New(problem.Usage, "holdfast server --new-key FILE", "local key is not 32 bytes in URL-safe base64") // the cause may quote it
	}
	if err != nil {
		return nil, problem.Wrap(err, problem.Usage, "holdfast server --new-key FILE", "keeper %s://... was not opened", scheme)
	}
	return k, nil
}

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
