// Package access says who is asking and what they may do, and holds the keys that the control plane speaks with.
//
// Words: an Actor is who does a deed: a person or a program with a token, a node with a certificate, or the server
// itself; a Role is what an actor may do; the Authority is the server's own CA; the order key signs what nodes obey; the
// custodian's identity opens snapshots for automatic restores; a join token admits one node once.
//
// Invariant: no private key and no token text is stored readable; a token is shown once, when it is made; a node is
// who its certificate says, and only its newest certificate counts.
package access

import (
	"context"
	"slices"

	"holdfast/internal/problem"
)

// Role is what an actor may do. Each role may do all that the ones before it may.
type Role string

// The roles, weakest first.
const (
	Viewer   Role = "viewer"   // read everything that is not secret
	Operator Role = "operator" // plan, apply, back up, restore, recover, drill
	Admin    Role = "admin"    // tokens, join tokens, nodes
)

// Roles lists the roles, weakest first.
func Roles() []Role { return []Role{Viewer, Operator, Admin} }

// ParseRole reads a role as a person types it.
func ParseRole(text string) (Role, error) {
	if role := Role(text); slices.Contains(Roles(), role) {
		return role, nil
	}
	return "", problem.New(problem.Usage, "", "role %q is not one of viewer, operator, admin", text)
}

// Actor is who does a deed, as audit records name them.
type Actor struct {
	Name string `json:"name"` // "token/ci", "node/a1", "server"
	Role Role   `json:"role"` // "" for nodes: they do nothing through the API
}

// System is the server acting on its own: schedules, probes, recoveries it was told to watch over.
func System() Actor { return Actor{Name: "server", Role: Operator} }

// May returns nil when the actor holds the role, and a problem of kind Denied that names the deed otherwise.
func (a Actor) May(role Role, deed string) error {
	if a.Name == "" {
		return problem.New(problem.Unauthenticated, "holdfast login URL", "nobody is signed in: %s takes the role %s", deed, role)
	}
	if slices.Index(Roles(), a.Role) >= slices.Index(Roles(), role) {
		return nil
	}
	return problem.New(problem.Denied, "holdfast token create NAME --role "+string(role), "%s may not %s: it has the role %s, this takes %s", a.Name, deed, a.Role, role)
}

type actorKey struct{}

// With returns a context in which actor acts.
func With(ctx context.Context, actor Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

// From returns who acts in ctx; an actor without a name when nobody was signed in.
func From(ctx context.Context) Actor {
	actor, _ := ctx.Value(actorKey{}).(Actor)
	return actor
}
