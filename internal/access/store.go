package access

import (
	"context"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"

	"github.com/uptrace/bun"

	"holdfast/internal/db"
	"holdfast/internal/problem"
)

func loadKey(ctx context.Context, tx db.Tx, name string) (public, sealed []byte, err error) {
	var row struct {
		Public db.Bytes
		Sealed db.Bytes
	}
	err = tx.NewRaw("SELECT public, sealed FROM access_keys WHERE name = ?", name).Scan(ctx, &row)
	return row.Public, row.Sealed, err
}

func insertKey(ctx context.Context, tx db.Tx, name string, public, sealed []byte) error {
	_, err := tx.NewRaw("INSERT INTO access_keys (name, public, sealed, created_at) VALUES (?, ?, ?, ?)",
		name, db.Bytes(public), db.Bytes(sealed), db.At(tx.Now)).Exec(ctx)
	if err != nil {
		return fmt.Errorf("keep the %s key: %w", name, err)
	}
	return nil
}

func insertJoinToken(ctx context.Context, tx db.Tx, t JoinToken, hash []byte) error {
	_, err := tx.NewRaw(`INSERT INTO join_tokens (id, hash, bounds, created_at, created_by, ends_at, used_at, used_by, used_key)
		VALUES (?, ?, ?, ?, ?, ?, 0, '', '')`,
		t.ID, db.Bytes(hash), db.Of(t.Bounds), db.At(t.CreatedAt), t.CreatedBy, db.At(t.EndsAt)).Exec(ctx)
	return err
}

// joinTokenRow is a row of join_tokens.
type joinTokenRow struct {
	ID        string
	Hash      db.Bytes
	Bounds    db.JSON[JoinBounds]
	CreatedAt db.Time
	CreatedBy string
	EndsAt    db.Time
	UsedAt    db.Time
	UsedBy    string
	UsedKey   db.Bytes
}

func (r joinTokenRow) token() JoinToken {
	return JoinToken{r.ID, r.Bounds.V, r.CreatedAt.Time, r.CreatedBy, r.EndsAt.Time, r.UsedAt.Time, r.UsedBy}
}

// findJoinToken finds the token that text is of; kind Denied when there is none or its secret is another.
func findJoinToken(ctx context.Context, tx db.Tx, text string) (joinRow, error) {
	t, err := parseTokenText(text)
	if err != nil || t.prefix != joinPrefix {
		return joinRow{}, unknownJoinToken()
	}
	var row joinTokenRow
	err = tx.NewRaw("SELECT * FROM join_tokens WHERE id = ?", t.id).Scan(ctx, &row)
	if errors.Is(err, sql.ErrNoRows) || (err == nil && subtle.ConstantTimeCompare(row.Hash, t.hash()) != 1) {
		return joinRow{}, unknownJoinToken()
	}
	if err != nil {
		return joinRow{}, fmt.Errorf("find join token: %w", err)
	}
	return joinRow{row.token(), row.UsedKey}, nil
}

func unknownJoinToken() error {
	return problem.New(problem.Denied, "holdfast join-token create --site S --roles run", "the join token is not known here")
}

func useJoinToken(ctx context.Context, tx db.Tx, id, node string, key []byte) error {
	_, err := tx.NewRaw("UPDATE join_tokens SET used_at = ?, used_by = ?, used_key = ? WHERE id = ? AND used_at = 0",
		db.At(tx.Now), node, db.Bytes(key), id).Exec(ctx)
	if err != nil {
		return fmt.Errorf("use join token %s: %w", id, err)
	}
	return nil
}

// ListJoinTokens lists join tokens, newest first.
func ListJoinTokens(ctx context.Context, conn bun.IDB) ([]JoinToken, error) {
	var rows []joinTokenRow
	if err := conn.NewRaw("SELECT * FROM join_tokens ORDER BY created_at DESC, id").Scan(ctx, &rows); err != nil {
		return nil, fmt.Errorf("list join tokens: %w", err)
	}
	tokens := make([]JoinToken, len(rows))
	for i, row := range rows {
		tokens[i] = row.token()
	}
	return tokens, nil
}

// nodeRow is a row of access_nodes.
type nodeRow struct {
	Name       string
	Site       string
	Roles      db.JSON[[]string]
	Generation int64
	JoinedAt   db.Time
	RevokedAt  db.Time
}

func (r nodeRow) node() Node {
	return Node{r.Name, r.Site, r.Roles.V, r.Generation, r.JoinedAt.Time, r.RevokedAt.Time}
}

func selectNode(ctx context.Context, conn bun.IDB, name string) (Node, error) {
	var row nodeRow
	err := conn.NewRaw("SELECT * FROM access_nodes WHERE name = ?", name).Scan(ctx, &row)
	return row.node(), err
}

// ListNodes lists the nodes that joined, by name.
func ListNodes(ctx context.Context, conn bun.IDB) ([]Node, error) {
	var rows []nodeRow
	if err := conn.NewRaw("SELECT * FROM access_nodes ORDER BY name").Scan(ctx, &rows); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	nodes := make([]Node, len(rows))
	for i, row := range rows {
		nodes[i] = row.node()
	}
	return nodes, nil
}

func insertNode(ctx context.Context, tx db.Tx, who Applicant) error {
	_, err := tx.NewRaw("INSERT INTO access_nodes (name, site, roles, generation, joined_at, revoked_at) VALUES (?, ?, ?, 1, ?, 0)",
		who.Node, who.Site, db.Of(who.Roles), db.At(tx.Now)).Exec(ctx)
	if err != nil {
		return fmt.Errorf("register node %s: %w", who.Node, err)
	}
	return nil
}

func replaceNode(ctx context.Context, tx db.Tx, who Applicant, generation int64) error {
	_, err := tx.NewRaw("UPDATE access_nodes SET site = ?, roles = ?, generation = ?, joined_at = ?, revoked_at = 0 WHERE name = ?",
		who.Site, db.Of(who.Roles), generation, db.At(tx.Now), who.Node).Exec(ctx)
	if err != nil {
		return fmt.Errorf("register node %s again: %w", who.Node, err)
	}
	return nil
}

// tokenRow is a row of access_tokens.
type tokenRow struct {
	ID        string
	Name      string
	Role      Role
	Hash      db.Bytes
	CreatedAt db.Time
	CreatedBy string
	EndsAt    db.Time
	RevokedAt db.Time
}

func (r tokenRow) token() Token {
	return Token{r.ID, r.Name, r.Role, r.CreatedAt.Time, r.CreatedBy, r.EndsAt.Time, r.RevokedAt.Time}
}

func insertToken(ctx context.Context, tx db.Tx, t Token, hash []byte) error {
	_, err := tx.NewRaw(`INSERT INTO access_tokens (id, name, role, hash, created_at, created_by, ends_at, revoked_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, 0)`,
		t.ID, t.Name, t.Role, db.Bytes(hash), db.At(t.CreatedAt), t.CreatedBy, db.At(t.EndsAt)).Exec(ctx)
	return err
}

func selectToken(ctx context.Context, conn bun.IDB, id string) (token Token, hash []byte, err error) {
	var row tokenRow
	err = conn.NewRaw("SELECT * FROM access_tokens WHERE id = ?", id).Scan(ctx, &row)
	return row.token(), row.Hash, err
}

// ListTokens lists API tokens, newest first.
func ListTokens(ctx context.Context, conn bun.IDB) ([]Token, error) {
	var rows []tokenRow
	if err := conn.NewRaw("SELECT * FROM access_tokens ORDER BY created_at DESC, id").Scan(ctx, &rows); err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	tokens := make([]Token, len(rows))
	for i, row := range rows {
		tokens[i] = row.token()
	}
	return tokens, nil
}

func endToken(ctx context.Context, tx db.Tx, t Token) error {
	if _, err := tx.NewRaw("UPDATE access_tokens SET revoked_at = ? WHERE id = ?", db.At(t.RevokedAt), t.ID).Exec(ctx); err != nil {
		return fmt.Errorf("revoke token %s: %w", t.Name, err)
	}
	if _, err := tx.NewRaw("DELETE FROM access_sessions WHERE token = ?", t.ID).Exec(ctx); err != nil {
		return fmt.Errorf("close the sessions of token %s: %w", t.Name, err)
	}
	return nil
}

func insertSession(ctx context.Context, tx db.Tx, id string, s session) error {
	if _, err := tx.NewRaw("DELETE FROM access_sessions WHERE ends_at < ?", db.At(tx.Now)).Exec(ctx); err != nil {
		return fmt.Errorf("forget ended sessions: %w", err)
	}
	_, err := tx.NewRaw("INSERT INTO access_sessions (id, token, hash, ends_at) VALUES (?, ?, ?, ?)",
		id, s.token, db.Bytes(s.hash), db.At(s.ends)).Exec(ctx)
	if err != nil {
		return fmt.Errorf("keep session: %w", err)
	}
	return nil
}

func selectSession(ctx context.Context, conn bun.IDB, id string) (session, error) {
	var row struct {
		Token  string
		Hash   db.Bytes
		EndsAt db.Time
	}
	err := conn.NewRaw("SELECT token, hash, ends_at FROM access_sessions WHERE id = ?", id).Scan(ctx, &row)
	return session{row.Token, row.Hash, row.EndsAt.Time}, err
}

func deleteSession(ctx context.Context, tx db.Tx, id string, hash []byte) error {
	_, err := tx.NewRaw("DELETE FROM access_sessions WHERE id = ? AND hash = ?", id, db.Bytes(hash)).Exec(ctx)
	if err != nil {
		return fmt.Errorf("close session: %w", err)
	}
	return nil
}
