// Package plan says what must be done so that what is becomes what is declared.
//
// Words: an Item is what is to be done to one instance: create, change, move or retire; a Change is one value that
// becomes another; what is blocked may not be done and says why; what is unknown cannot be foretold from what was
// last seen. A fingerprint is over content alone: the fleet's, and that of the facts of the inventory that matter.
//
// Invariant: a plan is a pure function of fleet, inventory and selector: no clock, no randomness, everything sorted;
// it never places an instance that lives somewhere onto another node but by a move, and it never destroys data.
package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"

	"holdfast/internal/fleet"
)

// Plan is the difference between what is declared and what is.
type Plan struct {
	ID        string    `json:"id"`        // 20 hex digits of the SHA-256 over all else
	Fleet     string    `json:"fleet"`     // revision of the fleet
	Inventory string    `json:"inventory"` // fingerprint of the facts that matter; the ages of facts do not
	Selector  string    `json:"selector,omitempty"`
	Home      bool      `json:"home,omitempty"` // what a recovery or a restore took away goes home
	Items     []Item    `json:"items"`          // sorted by instance
	Blocked   []Blocked `json:"blocked,omitempty"`
	Unknown   []Unknown `json:"unknown,omitempty"`
	Away      []Away    `json:"away,omitempty"` // what stays where a recovery or a restore has brought it, until told
}

// Away is an instance that is not where it is declared, because a recovery or a restore has taken it from there.
// Nothing moves it but a word: a plan with Home, or another placement in its file.
type Away struct {
	Instance string `json:"instance"`
	At       Where  `json:"at"`
	Home     Where  `json:"home"`
	Note     string `json:"note,omitempty"` // what is worse away than at home
}

// Action is what happens to an instance.
type Action string

// The actions.
const (
	Create Action = "create" // place it and start it
	Change Action = "change" // bring what runs to the new spec, in its place
	Move   Action = "move"   // stop, back up, restore elsewhere, check, switch; the old copy stays, fenced
	Retire Action = "retire" // stop it; its data and its backups stay
)

// Item is what is to be done to one instance.
type Item struct {
	Instance string       `json:"instance"`
	Action   Action       `json:"action"`
	Ring     string       `json:"ring,omitempty"`
	After    []string     `json:"after,omitempty"` // rings whose changes are done first
	From     Where        `json:"from,omitzero"`   // where it is
	To       Where        `json:"to,omitzero"`     // where it will be
	Changes  []Difference `json:"changes"`         // sorted by name
	Home     bool         `json:"home,omitempty"`  // a move back to where it was taken from
	Again    bool         `json:"again,omitempty"` // it does not serve now: place it anew where its data is, and switch
	Notes    []string     `json:"notes,omitempty"` // for the reader
	Spec     fleet.Spec   `json:"spec,omitzero"`   // to run; nothing for a retire
	Slot     string       `json:"slot,omitempty"`  // the slot it has now, or its first one
	Was      *fleet.Spec  `json:"was,omitempty"`   // a move: what runs now, to go back to
}

// Where is a place.
type Where struct {
	Site string `json:"site,omitempty"`
	Node string `json:"node,omitempty"`
}

// Difference is one value that changes. A secret's values are never here: both are [sealed].
type Difference struct {
	Name string `json:"name"` // "services.api.image"
	From string `json:"from"` // "" = was not there
	To   string `json:"to"`   // "" = goes away
}

// Blocked is an instance that would be touched and may not be.
type Blocked struct {
	Instance string `json:"instance"`
	Why      string `json:"why"`
	Next     string `json:"next"` // what to type or do
}

// Unknown is what the plan cannot foretell. Instance is empty where it is about all.
type Unknown struct {
	Instance string `json:"instance,omitempty"`
	Why      string `json:"why"`
}

// Empty tells whether nothing is to be done and nothing is blocked.
func (p Plan) Empty() bool { return len(p.Items) == 0 && len(p.Blocked) == 0 }

// DoesAs tells whether both plans bring the same fleet about by the same deeds, however old their facts are.
func (p Plan) DoesAs(other Plan) bool {
	return p.Fleet == other.Fleet && p.Selector == other.Selector && p.Home == other.Home && reflect.DeepEqual(p.Items, other.Items) && reflect.DeepEqual(p.Blocked, other.Blocked)
}

// Count counts the items of an action.
func (p Plan) Count(action Action) int {
	n := 0
	for _, item := range p.Items {
		if item.Action == action {
			n++
		}
	}
	return n
}

// Request asks the server for a plan.
type Request struct {
	Files    fleet.Files `json:"files"`
	Selector string      `json:"selector,omitempty"`
	Home     bool        `json:"home,omitempty"` // send home what a recovery or a restore took away
}

// Applied is the server's answer to an apply: the operation that does it; "" when there was nothing to do.
type Applied struct {
	Operation string `json:"operation,omitempty"`
}

// hash is the hex SHA-256 of a value's JSON, which is canonical: struct order, sorted maps.
func hash(value any) (string, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return "", fmt.Errorf("fingerprint: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}
