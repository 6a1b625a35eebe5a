package fleet

import "time"

// RecoveryPlan is the disaster plan as code: what may be lost, who is in it and in which order, where it goes, what
// "back to normal" means, and who is told. It is read from a fleet file like every other kind.
type RecoveryPlan struct {
	Origin
	Kind     Kind             `json:"kind,omitempty" jsonschema:"enum=RecoveryPlan"`
	Name     string           `json:"name" jsonschema_description:"name of the plan: holdfast recover NAME, holdfast drill run NAME"`
	About    string           `json:"about,omitempty" jsonschema_description:"what it is for, in words people read in the night"`
	Scenario RecoveryScenario `json:"scenario" jsonschema_description:"what is lost: a whole site, or one node"`
	Lost     string           `json:"lost" jsonschema_description:"the site or the node that the scenario takes away"`
	Scope    RecoveryScope    `json:"scope" jsonschema_description:"which instances are rebuilt, and how many they must be"`
	Target   RecoveryTarget   `json:"target" jsonschema_description:"where they may be rebuilt"`
	Tiers    []RecoveryTier   `json:"tiers" jsonschema_description:"the order in which they are rebuilt, with the times promised"`
	Checks   []string         `json:"checks,omitempty" jsonschema_description:"what back to normal means: readiness, invariants, canary, outside; all when left out"`
	Normal   RecoveryNormal   `json:"normal,omitzero" jsonschema_description:"how many answers from outside make an instance bad, and good again"`
	Tell     []RecoveryTell   `json:"tell,omitempty" jsonschema_description:"who is told at which event"`
	Fault    RecoveryFault    `json:"fault,omitzero" jsonschema_description:"what a drill injects when the command line names nothing else"`
	Custody  RecoveryCustody  `json:"custody,omitzero" jsonschema_description:"who can open the backups when the plan runs"`
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
	Select    Selector `json:"select,omitzero" jsonschema_description:"only instances with these labels; left out: every instance there"`
	Never     []string `json:"never,omitempty" jsonschema_description:"instances that are never touched"`
	Expect    int      `json:"expect" jsonschema_description:"the count you counted; another count is refused, so that a wrong selector fires nothing"`
	Tolerance int      `json:"tolerance,omitempty" jsonschema_description:"instances more or fewer than expected that are still right"`
}

// RecoveryTarget says where instances may be rebuilt. Sites empty means any site but the lost one; Nodes empty means
// any node of those sites with one of the Roles; Roles empty means spare and run.
type RecoveryTarget struct {
	Sites    []string `json:"sites,omitempty" jsonschema_description:"sites to rebuild in; left out: any but the lost one"`
	Nodes    []string `json:"nodes,omitempty" jsonschema_description:"nodes to rebuild on; left out: any of the sites with one of the roles"`
	Roles    []Role   `json:"roles,omitempty" jsonschema_description:"roles of the nodes to rebuild on; spare and run when left out"`
	Headroom int      `json:"headroom,omitempty" jsonschema_description:"percent of memory and disk kept free on every node"`
	MaxShare int      `json:"max_share,omitempty" jsonschema_description:"percent of the instances that one node takes at most; any when left out"`
}

// RecoveryTier promises times for the instances it selects. The first tier whose Select matches takes the instance.
type RecoveryTier struct {
	Name   string        `json:"name" jsonschema_description:"name of the tier"`
	Select Selector      `json:"select,omitzero" jsonschema_description:"instances of this tier; the first tier that matches takes the instance; left out: all that are left"`
	RTO    time.Duration `json:"rto" jsonschema_description:"promised: from the first failed probe outside until back to normal"`
	RPO    time.Duration `json:"rpo" jsonschema_description:"promised: data lost at most, in time"`
}

// RecoveryNormal says when an instance is back: Good results in a row from outside probes, after it was verdict bad
// by Bad results in a row. Share is the part of the instances (percent) that must be bad before the scope is lost.
type RecoveryNormal struct {
	Good   int           `json:"good,omitempty" jsonschema_description:"good answers in a row that make an instance back; 3 when left out"`
	Bad    int           `json:"bad,omitempty" jsonschema_description:"bad answers in a row that make it down; 2 when left out"`
	Share  int           `json:"share,omitempty" jsonschema_description:"percent of the instances that must be down before the scope counts as lost; 50 when left out"`
	Within time.Duration `json:"within,omitempty" jsonschema_description:"how long back to normal may take after the last step; 2m when left out"`
}

// RecoveryTell is a communication: when Event happens, Audience is told Text. Events: declared, tier_restored,
// restored, failed, undone.
type RecoveryTell struct {
	Event    string   `json:"event" jsonschema_description:"when: declared, tier_restored, restored, failed or undone"`
	Audience string   `json:"audience" jsonschema_description:"who they are: customers, team, partners"`
	To       []string `json:"to" jsonschema_description:"their addresses"`
	Text     string   `json:"text" jsonschema_description:"what they are told"`
}

// RecoveryFault is what a drill injects when the command line names nothing else.
type RecoveryFault struct {
	Kind string        `json:"kind,omitempty" jsonschema_description:"cut, kill or stop"`
	For  time.Duration `json:"for,omitempty" jsonschema_description:"when it ends by itself"`
}

// RecoveryCustody says who can open backups when the plan runs: the custodian alone is enough for an automatic
// recovery; Keepers are the people who hold the recovery key, at least two of them.
type RecoveryCustody struct {
	Keepers []string `json:"keepers,omitempty" jsonschema_description:"people who hold the recovery key, at least two"`
}

// RecoveryChecks are the names that Checks may hold; an empty Checks means all of them.
func RecoveryChecks() []string { return []string{"readiness", "invariants", "canary", "outside"} }
