package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"holdfast/internal/access"
	"holdfast/internal/audit"
)

// Me is who the server takes the caller for.
type Me struct {
	Name    string      `json:"name"`
	Role    access.Role `json:"role"`
	Version string      `json:"version"` // of the server
}

// NewToken asks for an API token.
type NewToken struct {
	Name string      `json:"name"`
	Role access.Role `json:"role" enum:"viewer,operator,admin"`
	Ends string      `json:"ends,omitempty" doc:"how long it lives, such as 24h; empty: until it is revoked"`
}

// MadeToken is a new token; Text is shown this once.
type MadeToken struct {
	Text  string       `json:"token"`
	Token access.Token `json:"known_as"`
}

// NewJoinToken asks for a join token.
type NewJoinToken struct {
	Site  string   `json:"site"`
	Roles []string `json:"roles"`
	Node  string   `json:"node,omitempty" doc:"the one node it admits, also in place of a node of that name"`
	Ends  string   `json:"ends,omitempty" doc:"how long it lives, such as 1h, which is the default"`
}

// MadeJoinToken is a new join token; Text is shown this once.
type MadeJoinToken struct {
	Text  string           `json:"token"`
	Token access.JoinToken `json:"known_as"`
}

// VerifyAudit asks for a check of the whole audit log.
type VerifyAudit struct {
	Head string `json:"head,omitempty" doc:"a signed head that was kept elsewhere"`
}

// Me asks who the caller is.
func (c *Client) Me(ctx context.Context) (Me, error) { return get[Me](ctx, c, "/api/v1/me", nil) }

// CreateToken makes an API token.
func (c *Client) CreateToken(ctx context.Context, token NewToken) (MadeToken, error) {
	return post[MadeToken](ctx, c, "/api/v1/tokens", token)
}

// Tokens lists API tokens, newest first.
func (c *Client) Tokens(ctx context.Context) ([]access.Token, error) {
	return get[[]access.Token](ctx, c, "/api/v1/tokens", nil)
}

// RevokeToken ends a token, named by its id.
func (c *Client) RevokeToken(ctx context.Context, id string) (access.Token, error) {
	return call[access.Token](ctx, c, http.MethodDelete, "/api/v1/tokens/"+url.PathEscape(id), nil, nil)
}

// CreateJoinToken makes a join token.
func (c *Client) CreateJoinToken(ctx context.Context, token NewJoinToken) (MadeJoinToken, error) {
	return post[MadeJoinToken](ctx, c, "/api/v1/join-tokens", token)
}

// JoinTokens lists join tokens, newest first.
func (c *Client) JoinTokens(ctx context.Context) ([]access.JoinToken, error) {
	return get[[]access.JoinToken](ctx, c, "/api/v1/join-tokens", nil)
}

// Audit lists records, newest first.
func (c *Client) Audit(ctx context.Context, f audit.Filter) ([]audit.Record, error) {
	query := url.Values{"object": {f.Object}, "actor": {f.Actor}, "before": {strconv.FormatInt(f.Before, 10)}, "limit": {strconv.Itoa(f.Limit)}}
	return get[[]audit.Record](ctx, c, "/api/v1/audit", query)
}

// VerifyAudit checks the whole audit log, and that it goes on from head when one is given.
func (c *Client) VerifyAudit(ctx context.Context, head string) (audit.Verified, error) {
	return post[audit.Verified](ctx, c, "/api/v1/audit/verify", VerifyAudit{head})
}
