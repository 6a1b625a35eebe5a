package fleet

import "time"

// RecoveryPlan is the disaster plan as code: what may be lost, who is in it and in which order, where it goes, what
// "back to normal" means, and who is told. It is read from a fleet file like every other kind.
type RecoveryPlan struct {
	Origin
	Kind     Kind             `json:"kind,omitempty" jsonschema:"enum=RecoveryPlan"`
	Name     string           `json:"name"`
	About    string           `json:"about,omitempty"`
	Scenario RecoveryScenario `json:"scenario"`
	Lost     string           `json:"lost"` // the site or the node that the scenario takes away
	Scope    RecoveryScope    `json:"scope"`
	Target   RecoveryTarget   `json:"target"`
	Tiers    []RecoveryTier   `json:"tiers"` // in the order in which they are rebuilt
	Checks   []string         `json:"checks,omitempty"`
	Normal   RecoveryNormal   `json:"normal,omitzero"`
	Tell     []RecoveryTell   `json:"tell,omitempty"`
	Fault    RecoveryFault    `json:"fault,omitzero"`
	Custody  RecoveryCustody  `json:"custody,omitzero"`
}

// RecoveryScenario says what is lost.
type RecoveryScenario string

// The scenarios a plan can be for.
const (
	SiteLost RecoveryScenario = "site_lost"
	NodeLost RecoveryScenario = "node_lost"
)

// RecoveryScope selects instances among those that live in what was lost. Expect is the count the author counted;
// more or fewer than Expect by Tolerance is refused, so that a selector that is wrong by one label fires nothing.
type RecoveryScope struct {
	Select    Selector `json:"select,omitzero"` // empty selects every instance there
	Never     []string `json:"never,omitempty"` // instances never touched
	Expect    int      `json:"expect"`
	Tolerance int      `json:"tolerance,omitempty"`
}

// RecoveryTarget says where instances may be rebuilt. Sites empty means any site but the lost one; Nodes empty means
// any node of those sites with one of the Roles; Roles empty means spare and run.
type RecoveryTarget struct {
	Sites    []string `json:"sites,omitempty"`
	Nodes    []string `json:"nodes,omitempty"`
	Roles    []Role   `json:"roles,omitempty"`
	Headroom int      `json:"headroom,omitempty"`  // percent of memory and disk kept free on every node
	MaxShare int      `json:"max_share,omitempty"` // percent of the instances that one node may take at most; 0 = any
}

// RecoveryTier promises times for the instances it selects. The first tier whose Select matches takes the instance.
type RecoveryTier struct {
	Name   string        `json:"name"`
	Select Selector      `json:"select,omitzero"` // empty takes all that is left
	RTO    time.Duration `json:"rto"`             // from the first failed outside probe to back to normal
	RPO    time.Duration `json:"rpo"`             // of data lost at most
}

// RecoveryNormal says when an instance is back: Good results in a row from outside probes, after it was verdict bad
// by Bad results in a row. Share is the part of the instances (percent) that must be bad before the scope is lost.
type RecoveryNormal struct {
	Good   int           `json:"good,omitempty"`   // 0 = 3
	Bad    int           `json:"bad,omitempty"`    // 0 = 2
	Share  int           `json:"share,omitempty"`  // 0 = 50
	Within time.Duration `json:"within,omitempty"` // how long back to normal may take after the last step; 0 = 2 minutes
}

// RecoveryTell is a communication: when Event happens, Audience is told Text. Events: declared, tier_restored,
// restored, failed, undone.
type RecoveryTell struct {
	Event    string   `json:"event"`
	Audience string   `json:"audience"` // customers, team, partners, ...
	To       []string `json:"to"`
	Text     string   `json:"text"`
}

// RecoveryFault is what a drill injects when the command line names nothing else.
type RecoveryFault struct {
	Kind string        `json:"kind,omitempty"` // cut, kill, stop
	For  time.Duration `json:"for,omitempty"`
}

// RecoveryCustody says who can open backups when the plan runs: the custodian alone is enough for an automatic
// recovery; Keepers are the people who hold the recovery key, at least two of them.
type RecoveryCustody struct {
	Keepers []string `json:"keepers,omitempty"`
}

// RecoveryChecks are the names that Checks may hold; an empty Checks means all of them.
func RecoveryChecks() []string { return []string{"readiness", "invariants", "canary", "outside"} }
