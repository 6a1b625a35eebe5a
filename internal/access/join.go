package access

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"holdfast/internal/db"
	"holdfast/internal/problem"
)

// JoinBounds is what a join token admits.
type JoinBounds struct {
	Site  string        `json:"site"`
	Roles []string      `json:"roles"`          // the node may take these, or fewer
	Node  string        `json:"node,omitempty"` // "" = any new name; a name = also in place of the node that has it
	Life  time.Duration `json:"life"`
}

// JoinToken is what is known of one, without its secret.
type JoinToken struct {
	ID        string     `json:"id"`
	Bounds    JoinBounds `json:"bounds"`
	CreatedAt time.Time  `json:"created_at"`
	CreatedBy string     `json:"created_by"`
	EndsAt    time.Time  `json:"ends_at"`
	UsedAt    time.Time  `json:"used_at,omitzero"`
	UsedBy    string     `json:"used_by,omitempty"` // node
}

// CreateJoinToken makes a token that admits one node. The returned text is shown once: it names the server's
// authority too, so that a node trusts the right server from its first byte.
func (k *Keys) CreateJoinToken(ctx context.Context, tx db.Tx, bounds JoinBounds) (text string, made JoinToken, err error) {
	if err := bounds.check(); err != nil {
		return "", JoinToken{}, err
	}
	t := newTokenText(joinPrefix)
	made = JoinToken{ID: t.id, Bounds: bounds, CreatedAt: tx.Now, CreatedBy: From(ctx).Name, EndsAt: tx.Now.Add(bounds.Life)}
	if err := insertJoinToken(ctx, tx, made, t.hash()); err != nil {
		return "", JoinToken{}, fmt.Errorf("keep join token: %w", err)
	}
	return t.text() + "." + Fingerprint(k.Authority.Certificate), made, nil
}

func (b JoinBounds) check() error {
	switch {
	case b.Site == "":
		return problem.New(problem.Usage, "holdfast join-token create --site S --roles run", "join token was not made: it names no site")
	case len(b.Roles) == 0:
		return problem.New(problem.Usage, "holdfast join-token create --site S --roles run", "join token was not made: it names no roles")
	case b.Life <= 0:
		return problem.New(problem.Usage, "", "join token was not made: its life of %s has ended already", b.Life)
	case b.Node != "" && !nodeName.MatchString(b.Node):
		return badName(b.Node)
	}
	return nil
}

func badName(name string) error {
	return problem.New(problem.Invalid, "use lower-case letters, digits and hyphens, at most 63", "%q cannot be the name of a node", name)
}

// Applicant is a node that asks to join.
type Applicant struct {
	Node  string
	Site  string
	Roles []string
	CSR   []byte // DER PKCS#10, ECDSA P-256
}

// Join admits the applicant with a token's text, once, and returns its certificate in DER. The same applicant with the
// same key may ask again while the token lives, for an answer may be lost on the way; anybody else is refused.
func (k *Keys) Join(ctx context.Context, tx db.Tx, text string, who Applicant) ([]byte, error) {
	token, err := findJoinToken(ctx, tx, text)
	if err != nil {
		return nil, err
	}
	public, err := requestedKey(who.CSR)
	if err != nil {
		return nil, err
	}
	raw, err := public.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode the node's key: %w", err)
	}
	sum := sha256.Sum256(raw)
	again, err := token.admits(who, sum[:], tx.Now)
	if err != nil {
		return nil, err
	}
	id, err := k.seat(ctx, tx, token, who, again)
	if err != nil {
		return nil, err
	}
	if err := useJoinToken(ctx, tx, token.ID, who.Node, sum[:]); err != nil {
		return nil, err
	}
	return k.Authority.issueNode(who.CSR, id, tx.Now)
}

// joinRow is a join token with what only the store knows.
type joinRow struct {
	JoinToken
	usedKey []byte // SHA-256 of the key it was used with
}

// admits tells whether the token lets the applicant in, and whether it did so before.
func (t joinRow) admits(who Applicant, key []byte, now time.Time) (again bool, err error) {
	again = !t.UsedAt.IsZero() && t.UsedBy == who.Node && slices.Equal(t.usedKey, key)
	more := "holdfast join-token create --site " + t.Bounds.Site + " --roles " + strings.Join(t.Bounds.Roles, ",")
	switch {
	case !t.UsedAt.IsZero() && !again:
		return false, problem.New(problem.Denied, more, "node %s did not join: join token %s was used already, by node %s at %s", who.Node, t.ID, t.UsedBy, t.UsedAt.Format(time.RFC3339))
	case now.After(t.EndsAt):
		return false, problem.New(problem.Denied, more, "node %s did not join: join token %s ended at %s", who.Node, t.ID, t.EndsAt.Format(time.RFC3339))
	case !nodeName.MatchString(who.Node):
		return false, badName(who.Node)
	case t.Bounds.Node != "" && t.Bounds.Node != who.Node:
		return false, problem.New(problem.Denied, more, "node %s did not join: join token %s is for node %s", who.Node, t.ID, t.Bounds.Node)
	case t.Bounds.Site != who.Site:
		return false, problem.New(problem.Denied, more, "node %s did not join: join token %s is for site %s, not %s", who.Node, t.ID, t.Bounds.Site, who.Site)
	}
	for _, role := range who.Roles {
		if !slices.Contains(t.Bounds.Roles, role) {
			return false, problem.New(problem.Denied, "holdfast join-token create --site "+who.Site+" --roles "+strings.Join(who.Roles, ","),
				"node %s did not join: join token %s does not give the role %s", who.Node, t.ID, role)
		}
	}
	return again, nil
}

// seat gives the applicant its place in the register. A name that is taken goes only to a token made for that name,
// so that no newcomer can put itself in another node's place.
func (k *Keys) seat(ctx context.Context, tx db.Tx, token joinRow, who Applicant, again bool) (NodeID, error) {
	have, err := FindNode(ctx, tx, who.Node)
	switch {
	case problem.KindOf(err) == problem.NotFound:
		return NodeID{who.Node, 1}, insertNode(ctx, tx, who)
	case err != nil:
		return NodeID{}, err
	case again:
		return have.ID(), nil
	case token.Bounds.Node != who.Node:
		return NodeID{}, problem.New(problem.Conflict, "holdfast join-token create --node "+who.Node+" --site "+who.Site+" --roles "+strings.Join(who.Roles, ","),
			"node %s did not join: a node of that name joined at %s", who.Node, have.JoinedAt.Format(time.RFC3339))
	}
	next := NodeID{who.Node, have.Generation + 1}
	return next, replaceNode(ctx, tx, who, next.Generation)
}

// Node is a node that joined.
type Node struct {
	Name       string    `json:"name"`
	Site       string    `json:"site"`
	Roles      []string  `json:"roles"`
	Generation int64     `json:"generation"`
	JoinedAt   time.Time `json:"joined_at"`
	RevokedAt  time.Time `json:"revoked_at,omitzero"`
}

// ID is the identity that the node's current certificate carries.
func (n Node) ID() NodeID { return NodeID{n.Name, n.Generation} }

// Renew gives the node a fresh certificate, in DER.
func (k *Keys) Renew(ctx context.Context, tx db.Tx, id NodeID, csr []byte) ([]byte, error) {
	if err := CheckNode(ctx, tx, id); err != nil {
		return nil, err
	}
	return k.Authority.issueNode(csr, id, tx.Now)
}

// CheckNode refuses a certificate that was revoked, or replaced by a later join under the same name.
func CheckNode(ctx context.Context, conn bun.IDB, id NodeID) error {
	node, err := FindNode(ctx, conn, id.Name)
	if err != nil {
		return err
	}
	rejoin := fmt.Sprintf("holdfast join-token create --node %s --site %s --roles %s", node.Name, node.Site, strings.Join(node.Roles, ","))
	switch {
	case !node.RevokedAt.IsZero():
		return problem.New(problem.Denied, rejoin, "certificate of node %s was revoked at %s", id.Name, node.RevokedAt.Format(time.RFC3339))
	case node.Generation != id.Generation:
		return problem.New(problem.Denied, rejoin, "certificate of node %s was replaced when the node joined again at %s", id.Name, node.JoinedAt.Format(time.RFC3339))
	}
	return nil
}

// FindNode finds a node that joined; kind NotFound when none of that name did.
func FindNode(ctx context.Context, conn bun.IDB, name string) (Node, error) {
	node, err := selectNode(ctx, conn, name)
	if errors.Is(err, sql.ErrNoRows) {
		return Node{}, problem.New(problem.NotFound, "holdfast get nodes", "no node %s has joined", name)
	}
	return node, err
}

// RevokeNode turns off every certificate of the node. It returns as ever with a join token made for its name.
func RevokeNode(ctx context.Context, tx db.Tx, name string) error {
	if _, err := FindNode(ctx, tx, name); err != nil {
		return err
	}
	_, err := tx.NewRaw("UPDATE access_nodes SET revoked_at = ? WHERE name = ?", db.At(tx.Now), name).Exec(ctx)
	return err
}
