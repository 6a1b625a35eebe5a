// Package kit keeps what a control plane cannot do without in one small sealed file: its authority, order key and other
// keys, the register of nodes and tokens, the generated secrets of instances, and the writer keys of repositories.
//
// Words: a kit is that file; it is made anew whenever a row in it changes, every vault holds the newest, and a person
// may keep one too. Rebuild makes a new control database of it. All else that a server knows is read back from the
// nodes and the vaults, which are the truth of it, and is in no kit.
//
// Invariant: a kit is worth nothing without the keeper's key: private keys and secrets in it are sealed as they lie in the
// database, and the whole is sealed once more, so that a vault neither reads nor changes it. The rows move as they are;
// a column that one of these tables gets later needs a default.
package kit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"holdfast/internal/audit"
	"holdfast/internal/db"
	"holdfast/internal/problem"
	"holdfast/internal/secret"
)

// tables are what a kit holds, whole.
func tables() []string {
	return []string{"secret_keys", "access_keys", "access_nodes", "access_tokens", "instance_secrets", "writer_keys"}
}

// format is the version of the file; a newer one is not opened.
const format = 1

// label binds the sealed part to its place.
const label = "kit"

// file is how a kit lies on a disk.
type file struct {
	Format  int    `json:"holdfast_kit"`
	DataKey []byte `json:"data_key"` // sealed by the keeper
	Sealed  []byte `json:"sealed"`   // content, sealed by the data key
}

// content is what is in a kit.
type content struct {
	MadeAt time.Time           `json:"made_at"`
	Audit  string              `json:"audit"` // the signed head of the audit log when it was made
	Tables map[string][]db.Row `json:"tables"`
}

// About is what is known of a kit that was opened.
type About struct {
	MadeAt  time.Time `json:"made_at"`
	Audit   string    `json:"audit"` // the signed head of the old server's audit log, to hold a copy of it against
	Nodes   int       `json:"nodes"`
	Secrets int       `json:"secrets"`
}

// Refresh makes the kit anew if a row of it has changed since the newest one, and tells whether it did.
func Refresh(ctx context.Context, d *db.DB, box *secret.Box) (made bool, err error) {
	err = d.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		rows, err := read(ctx, tx)
		if err != nil {
			return err
		}
		digest, err := digestOf(rows)
		if err != nil {
			return err
		}
		if have, err := Digest(ctx, tx); err != nil || have == digest {
			return err
		}
		sealed, err := seal(ctx, tx, box, rows)
		if err != nil {
			return err
		}
		made = true
		return put(ctx, tx, digest, sealed)
	})
	if err != nil {
		return false, fmt.Errorf("make the server's kit: %w", err)
	}
	return made, nil
}

func read(ctx context.Context, tx db.Tx) (map[string][]db.Row, error) {
	all := map[string][]db.Row{}
	for _, table := range tables() {
		rows, err := db.CopyOut(ctx, tx, table)
		if err != nil {
			return nil, err
		}
		all[table] = rows
	}
	return all, nil
}

func digestOf(rows map[string][]db.Row) (string, error) {
	text, err := json.Marshal(rows)
	if err != nil {
		return "", errors.New("encode the rows of a kit") // the cause could show a part of one
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

func seal(ctx context.Context, tx db.Tx, box *secret.Box, rows map[string][]db.Row) ([]byte, error) {
	head, err := audit.Head(ctx, tx)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(content{MadeAt: tx.Now, Audit: head, Tables: rows})
	if err != nil {
		return nil, errors.New("encode a kit") // the cause could show a part of a row
	}
	key, err := secret.SealedDataKey(ctx, tx)
	if err != nil {
		return nil, err
	}
	return json.Marshal(file{Format: format, DataKey: key, Sealed: box.Seal(label, text)})
}

// open reads a kit with the keeper's key.
func open(ctx context.Context, keeper secret.Keeper, raw []byte) (content, error) {
	var f file
	if err := json.Unmarshal(raw, &f); err != nil || f.Format == 0 {
		return content{}, problem.New(problem.Invalid, "take FILE.kit of a vault's data directory, or what holdfast server kit has written", "the file is no kit of a server")
	}
	if f.Format > format {
		return content{}, problem.New(problem.Invalid, "take the binary that the lost server ran, or a newer one", "the kit has format %d, and this binary reads up to %d", f.Format, format)
	}
	box, err := secret.OpenSealed(ctx, keeper, f.DataKey)
	if problem.KindOf(err) == problem.WrongKey {
		return content{}, problem.Wrap(err, problem.WrongKey, "give the key that the lost server was started with (--key-file or HOLDFAST_KEY)", "the kit was not opened")
	}
	if err != nil {
		return content{}, fmt.Errorf("open the kit: %w", err)
	}
	text, err := box.Open(label, f.Sealed)
	if err != nil {
		return content{}, problem.Wrap(err, problem.Corrupt, "take the copy of another vault", "the kit was not opened")
	}
	var c content
	if err := json.Unmarshal(text, &c); err != nil {
		return content{}, problem.New(problem.Corrupt, "take the copy of another vault", "the kit cannot be read") // the cause could show a part of a row
	}
	return c, nil
}

// Newest opens several kits, such as the copies of all vaults, and gives the one that was made last. A copy that does
// not open is left out and told; it is an error when none does.
func Newest(ctx context.Context, keeper secret.Keeper, files map[string][]byte) (Opened, []error) {
	var newest Opened
	var left []error
	for name, raw := range files {
		c, err := open(ctx, keeper, raw)
		if err != nil {
			left = append(left, fmt.Errorf("%s: %w", name, err))
			continue
		}
		if newest.content == nil || c.MadeAt.After(newest.content.MadeAt) {
			newest = Opened{File: name, content: &c}
		}
	}
	return newest, left
}

// Opened is a kit that was opened; its zero value is none.
type Opened struct {
	File    string
	content *content
}

// Whole tells whether there is a kit at all.
func (o Opened) Whole() bool { return o.content != nil }

// About describes the kit.
func (o Opened) About() About {
	return About{MadeAt: o.content.MadeAt, Audit: o.content.Audit, Nodes: len(o.content.Tables["access_nodes"]), Secrets: len(o.content.Tables["instance_secrets"])}
}

// Restore writes a kit into a control database that holds nothing yet; kind Conflict when it does.
func (o Opened) Restore(ctx context.Context, tx db.Tx) error {
	for _, table := range tables() {
		have, err := db.CopyOut(ctx, tx, table)
		if err != nil {
			return err
		}
		if len(have) > 0 {
			return problem.New(problem.Conflict, "holdfast server rebuild --data ANOTHERDIR ...", "nothing was rebuilt: a control plane is in this database already")
		}
	}
	for _, table := range tables() {
		if err := db.CopyIn(ctx, tx, table, o.content.Tables[table]); err != nil {
			return err
		}
	}
	return nil
}
