package step

import (
	"time"

	"holdfast/internal/fleet"
)

// PruneArgs lets old snapshots of one instance go, in the vault that holds them. No key is needed. The newest proven
// snapshot stays always, and of an instance without a proof the newest; one run forgets half of them at most.
type PruneArgs struct {
	KeepDaily int                  `json:"keep_daily"`        // days of which the newest snapshot stays
	KeepLast  int                  `json:"keep_last"`         // newest snapshots that stay
	Proven    map[string]time.Time `json:"proven,omitempty"`  // snapshot id -> when it was restored and checked; the vault writes them down
	Protect   []string             `json:"protect,omitempty"` // snapshots that stay whatever the rules say
	Hold      time.Duration        `json:"hold"`              // how long bytes stay after nothing needs them
}

// PruneResult is what a prune did. Snapshots is what the repository holds now: what the catalogue knows beyond that is gone.
type PruneResult struct {
	Forgotten []string `json:"forgotten"`
	Snapshots []string `json:"snapshots"`
	Freed     int64    `json:"freed"`   // bytes deleted now
	Waiting   int      `json:"waiting"` // packs that nothing needs and that are still held
}

// SurveyArgs asks for one part of what a node holds: instances and repositories whose name falls to Part of Parts, so
// that no result is larger than a message. ReplyTo is the server's age recipient, to which secrets are sealed.
type SurveyArgs struct {
	ReplyTo string `json:"reply_to"`
	Part    int    `json:"part"`
	Parts   int    `json:"parts"`
}

// SurveyResult is what a node holds.
type SurveyResult struct {
	Instances    []SurveyedInstance   `json:"instances,omitempty"`
	Repositories []SurveyedRepository `json:"repositories,omitempty"`
}

// SurveyedInstance is one instance as its node's record says.
type SurveyedInstance struct {
	Instance string     `json:"instance"`
	Slot     string     `json:"slot"`  // the active one; "" = none, such as a copy beside
	Epoch    int64      `json:"epoch"` // under which the slot became active
	Lease    FenceArgs  `json:"lease"` // newest word on who serves
	Fenced   bool       `json:"fenced"`
	Retired  bool       `json:"retired"`
	Slots    []string   `json:"slots"`             // all on disk
	Spec     fleet.Spec `json:"spec"`              // of the active slot
	Secrets  []byte     `json:"secrets,omitempty"` // of the active slot, sealed to the server
}

// SurveyedRepository is one repository of a vault, as far as it can be read without a key.
type SurveyedRepository struct {
	Instance  string             `json:"instance"`
	Snapshots []SurveyedSnapshot `json:"snapshots"`
	Envelopes []SurveyedEnvelope `json:"envelopes"`
	Trouble   string             `json:"trouble,omitempty"` // what of it could not be read
}

// SurveyedSnapshot is one point to return to.
type SurveyedSnapshot struct {
	ID         string    `json:"id"`
	TakenAt    time.Time `json:"taken_at"`
	EndedAt    time.Time `json:"ended_at"`
	Bytes      int64     `json:"bytes"`
	AddedBytes int64     `json:"added_bytes"`
	Files      int64     `json:"files"`
	Epochs     []string  `json:"epochs"`
	ProvenAt   time.Time `json:"proven_at,omitzero"`
}

// SurveyedEnvelope is the sealed identity of one epoch.
type SurveyedEnvelope struct {
	Epoch     string `json:"epoch"`
	Custodian []byte `json:"custodian,omitempty"`
	People    []byte `json:"people,omitempty"`
}
