package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"holdfast/internal/db"
	"holdfast/internal/problem"
)

// Prefixes tell what a token is for, to people and to scanners for leaked secrets.
const (
	joinPrefix    = "hfj" // join token
	tokenPrefix   = "hft" // API token
	sessionPrefix = "hfs" // web session
)

// SessionLife is how long a web session lasts.
const SessionLife = 12 * time.Hour

// Token is what is known of an API token, without its secret.
type Token struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Role      Role      `json:"role"`
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by"`
	EndsAt    time.Time `json:"ends_at,omitzero"` // zero = never
	RevokedAt time.Time `json:"revoked_at,omitzero"`
}

var tokenName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// CreateToken makes an API token; life 0 means without end. The returned text is shown once.
func CreateToken(ctx context.Context, tx db.Tx, name string, role Role, life time.Duration) (text string, made Token, err error) {
	if !tokenName.MatchString(name) {
		return "", Token{}, problem.New(problem.Usage, "use lower-case letters, digits, dots and hyphens", "%q cannot be the name of a token", name)
	}
	t := newTokenText(tokenPrefix)
	made = Token{ID: t.id, Name: name, Role: role, CreatedAt: tx.Now, CreatedBy: From(ctx).Name}
	if life > 0 {
		made.EndsAt = tx.Now.Add(life)
	}
	if err := insertToken(ctx, tx, made, t.hash()); err != nil {
		return "", Token{}, fmt.Errorf("keep token %s: %w", name, err)
	}
	return t.text(), made, nil
}

// RevokeToken ends a token, named by its id, and with it every session that was opened with it.
func RevokeToken(ctx context.Context, tx db.Tx, id string) (Token, error) {
	token, _, err := selectToken(ctx, tx, id)
	if errors.Is(err, sql.ErrNoRows) {
		return Token{}, problem.New(problem.NotFound, "holdfast token list", "no token has the id %s", id)
	}
	if err != nil {
		return Token{}, fmt.Errorf("find token %s: %w", id, err)
	}
	if token.RevokedAt.IsZero() {
		token.RevokedAt = tx.Now
	}
	return token, endToken(ctx, tx, token)
}

// SignIn finds who holds the text of an API token or of a session. Anything else gives kind Unauthenticated, with the
// same words whether the token is unknown, wrong, ended or revoked.
func SignIn(ctx context.Context, conn bun.IDB, text string, now time.Time) (Actor, error) {
	t, err := parseTokenText(text)
	if err != nil {
		return Actor{}, err
	}
	id, hash := t.id, t.hash()
	if t.prefix == sessionPrefix {
		session, err := selectSession(ctx, conn, id)
		if errors.Is(err, sql.ErrNoRows) || (err == nil && !session.opens(hash, now)) {
			return Actor{}, notSignedIn()
		}
		if err != nil {
			return Actor{}, fmt.Errorf("find session: %w", err)
		}
		id = session.token
	}
	token, want, err := selectToken(ctx, conn, id)
	if errors.Is(err, sql.ErrNoRows) {
		return Actor{}, notSignedIn()
	}
	if err != nil {
		return Actor{}, fmt.Errorf("find token: %w", err)
	}
	if !token.lives(now) || (t.prefix == tokenPrefix && subtle.ConstantTimeCompare(hash, want) != 1) {
		return Actor{}, notSignedIn()
	}
	return Actor{Name: "token/" + token.Name, Role: token.Role}, nil
}

// OpenSession trades an API token's text for a session's, which a browser keeps in a cookie.
func OpenSession(ctx context.Context, tx db.Tx, tokenText string) (sessionText string, ends time.Time, err error) {
	t, err := parseTokenText(tokenText)
	if err != nil {
		return "", time.Time{}, err
	}
	if t.prefix != tokenPrefix {
		return "", time.Time{}, notSignedIn()
	}
	if _, err := SignIn(ctx, tx, tokenText, tx.Now); err != nil {
		return "", time.Time{}, err
	}
	s := newTokenText(sessionPrefix)
	ends = tx.Now.Add(SessionLife)
	return s.text(), ends, insertSession(ctx, tx, s.id, session{t.id, s.hash(), ends})
}

// CloseSession ends a session; one that is not there is let be.
func CloseSession(ctx context.Context, tx db.Tx, sessionText string) error {
	t, err := parseTokenText(sessionText)
	if err != nil {
		return err
	}
	return deleteSession(ctx, tx, t.id, t.hash())
}

func (t Token) lives(now time.Time) bool {
	return t.RevokedAt.IsZero() && (t.EndsAt.IsZero() || now.Before(t.EndsAt))
}

type session struct {
	token string // id
	hash  []byte
	ends  time.Time
}

func (s session) opens(hash []byte, now time.Time) bool {
	return now.Before(s.ends) && subtle.ConstantTimeCompare(hash, s.hash) == 1
}

func notSignedIn() error {
	return problem.New(problem.Unauthenticated, "holdfast login URL", "the token is not known here, or has ended")
}

// tokenText is PREFIX.ID.SECRET. The secret has 256 random bits, so its plain SHA-256 is safe to keep.
type tokenText struct{ prefix, id, secret string }

const idLetters = "abcdefghijklmnopqrstuvwxyz234567"

func newTokenText(prefix string) tokenText {
	raw := make([]byte, 8+32)
	rand.Read(raw) // never fails: crypto/rand ends the program instead
	id := make([]byte, 8)
	for i := range id {
		id[i] = idLetters[raw[i]&31]
	}
	return tokenText{prefix, string(id), base64.RawURLEncoding.EncodeToString(raw[8:])}
}

// parseTokenText reads a token's first three parts; a join token has a fourth, the authority.
func parseTokenText(text string) (tokenText, error) {
	parts := strings.Split(strings.TrimSpace(text), ".")
	if len(parts) < 3 {
		return tokenText{}, notSignedIn()
	}
	return tokenText{parts[0], parts[1], parts[2]}, nil
}

func (t tokenText) text() string { return t.prefix + "." + t.id + "." + t.secret }

func (t tokenText) hash() []byte {
	sum := sha256.Sum256([]byte(t.secret))
	return sum[:]
}
