package fleet

import "time"

// Kind is the word after `kind:` in a fleet document.
type Kind string

// The kinds of fleet documents.
const (
	KindSite         Kind = "Site"
	KindNode         Kind = "Node"
	KindProduct      Kind = "Product"
	KindRelease      Kind = "Release"
	KindRing         Kind = "Ring"
	KindInstance     Kind = "Instance"
	KindRecoveryPlan Kind = "RecoveryPlan"
)

// Kinds lists every kind, in the order in which they refer to each other.
func Kinds() []Kind {
	return []Kind{KindSite, KindNode, KindProduct, KindRelease, KindRing, KindInstance, KindRecoveryPlan}
}

// Fleet is everything that is declared, read whole and found free of errors. It is not changed after reading.
type Fleet struct {
	Revision      string // hex SHA-256 of every document's content; the order and the names of the files do not matter
	Sites         map[string]Site
	Nodes         map[string]Node
	Products      map[string]Product
	Releases      map[string]Release
	Rings         map[string]Ring
	Instances     map[string]Instance
	RecoveryPlans map[string]RecoveryPlan

	keys map[string]string // recipient file -> armored public key
}

// Origin is where a document stands: its file, relative to the fleet directory, and the line it begins at.
type Origin struct {
	File    string `json:"-"`
	Line    int    `json:"-"`
	lines   lines  // of every key below
	subject string // kind and name, for messages
}

// Site is a place that can be lost as a whole.
type Site struct {
	Origin
	Kind   Kind              `json:"kind" jsonschema:"enum=Site"`
	Name   string            `json:"name" jsonschema:"pattern=^[a-z]([a-z0-9-]{0\\,38}[a-z0-9])?$" jsonschema_description:"name of the site, such as par1"`
	Domain string            `json:"domain,omitempty" jsonschema_description:"instances of this site are reached at INSTANCE.DOMAIN"`
	Labels map[string]string `json:"labels,omitempty" jsonschema_description:"for selectors"`
	Values map[string]Value  `json:"values,omitempty" jsonschema_description:"settings of every instance placed here (third layer)"`
	Backup Backup            `json:"backup,omitzero" jsonschema_description:"defaults of every instance placed here"`
}

// Node declares a machine. A node may also enroll itself; what is declared here wins over what it says.
type Node struct {
	Origin
	Kind     Kind              `json:"kind" jsonschema:"enum=Node"`
	Name     string            `json:"name" jsonschema:"pattern=^[a-z]([a-z0-9-]{0\\,38}[a-z0-9])?$" jsonschema_description:"name the node enrolled with"`
	Site     string            `json:"site" jsonschema_description:"the site it stands in"`
	Roles    []Role            `json:"roles,omitempty" jsonschema_description:"what it is for"`
	Labels   map[string]string `json:"labels,omitempty" jsonschema_description:"for selectors"`
	Address  string            `json:"address,omitempty" jsonschema_description:"where the edge reaches its services"`
	Capacity NodeCapacity      `json:"capacity,omitzero" jsonschema_description:"overrides what the node measures of itself"`
}

// NodeCapacity overrides what a node says it has. Zero = as the node says.
type NodeCapacity struct {
	MemoryMB     int64   `json:"memory_mb,omitempty" jsonschema:"minimum=1" jsonschema_description:"memory for instances, in MB"`
	CPUs         float64 `json:"cpus,omitempty" jsonschema:"minimum=0" jsonschema_description:"processors for instances"`
	DiskMB       int64   `json:"disk_mb,omitempty" jsonschema:"minimum=1" jsonschema_description:"disk for instances, in MB"`
	MaxInstances int     `json:"max_instances,omitempty" jsonschema:"minimum=1" jsonschema_description:"instances at once, however small"`
}

// Release is one immutable version of a product: every component pinned, and where it may be reached from.
type Release struct {
	Origin
	Kind      Kind                 `json:"kind" jsonschema:"enum=Release"`
	Name      string               `json:"name" jsonschema:"pattern=^[a-z][a-z0-9-]*/v[0-9]+(\\.[0-9]+){0\\,2}([-+][0-9A-Za-z.-]+)?$" jsonschema_description:"PRODUCT/VERSION, such as notes/v1.2.0"`
	Services  map[string]Component `json:"services,omitempty" jsonschema_description:"what each service of the product is made of in this release"`
	From      []string             `json:"from,omitempty" jsonschema_description:"versions it may be reached from, each such as >=v1.0.0; all must hold"`
	SameMajor []string             `json:"same_major,omitempty" jsonschema_description:"services that must be of one major version, beside those the product names"`
	Values    map[string]Value     `json:"values,omitempty" jsonschema_description:"settings of this release (second layer)"`
	Notes     string               `json:"notes,omitempty" jsonschema_description:"what changed, for people"`
}

// Component pins one service of a release.
type Component struct {
	Image    string `json:"image,omitempty" jsonschema_description:"docker: reference with a version tag or a digest"`
	Archive  string `json:"archive,omitempty" jsonschema_description:"docker: where the image comes from instead of a registry: PATH@sha256:DIGEST, a path on the node or an https address, of what docker save wrote"`
	Artifact string `json:"artifact,omitempty" jsonschema_description:"exec: absolute path of the program on the node"`
	Digest   string `json:"digest,omitempty" jsonschema:"pattern=^sha256:[0-9a-f]{64}$" jsonschema_description:"exec: digest of the program"`
	Version  string `json:"version,omitempty" jsonschema_description:"version of the component where the image tag does not say it"`
}

// Ring is a group of instances in the order of rollouts: what changes in a ring waits for the ring it stands after.
type Ring struct {
	Origin
	Kind   Kind              `json:"kind" jsonschema:"enum=Ring"`
	Name   string            `json:"name" jsonschema:"pattern=^[a-z]([a-z0-9-]{0\\,38}[a-z0-9])?$" jsonschema_description:"name of the ring"`
	After  string            `json:"after,omitempty" jsonschema_description:"the ring whose changes must be done first"`
	Labels map[string]string `json:"labels,omitempty" jsonschema_description:"for selectors"`
	Values map[string]Value  `json:"values,omitempty" jsonschema_description:"settings of every instance of the ring (fourth layer)"`
	Backup Backup            `json:"backup,omitzero" jsonschema_description:"defaults of every instance of the ring"`
}

// Instance is one customer's dedicated stack.
type Instance struct {
	Origin
	Kind      Kind              `json:"kind" jsonschema:"enum=Instance"`
	Name      string            `json:"name" jsonschema:"pattern=^[a-z]([a-z0-9-]{0\\,38}[a-z0-9])?$" jsonschema_description:"name of the instance and first part of its address"`
	Product   string            `json:"product" jsonschema_description:"what runs"`
	Release   string            `json:"release" jsonschema_description:"PRODUCT/VERSION"`
	Ring      string            `json:"ring,omitempty" jsonschema_description:"group for rollouts"`
	Placement Place             `json:"placement" jsonschema_description:"where it runs"`
	Backup    InstanceBackup    `json:"backup,omitzero" jsonschema_description:"what is promised about its backups"`
	Labels    map[string]string `json:"labels,omitempty" jsonschema_description:"for selectors, such as customer and tier"`
	Values    map[string]Value  `json:"values,omitempty" jsonschema_description:"settings of this instance (fifth layer)"`
	Secrets   map[string]int    `json:"secrets,omitempty" jsonschema_description:"version wanted of a secret; a higher one rotates it"`
	Contacts  []Contact         `json:"contacts,omitempty" jsonschema_description:"whom to tell about this instance"`
	Domain    string            `json:"domain,omitempty" jsonschema_description:"instead of the domain of the site"`
	Hosts     []string          `json:"hosts,omitempty" jsonschema_description:"further names the edge answers for; the first is the canonical one"`
}

// Place is where an instance is wanted.
type Place struct {
	Site string `json:"site" jsonschema_description:"the site it runs in"`
	Node string `json:"node,omitempty" jsonschema_description:"one node; left out: the plan chooses one with room"`
}

// Contact is somebody to tell.
type Contact struct {
	Name  string   `json:"name,omitempty" jsonschema_description:"who it is"`
	Email string   `json:"email,omitempty" jsonschema:"format=email" jsonschema_description:"where mail reaches them"`
	For   []string `json:"for,omitempty" jsonschema_description:"events this contact wants; none = all"`
}

// Backup is what is promised about backups. Every layer may give some of it; a higher layer wins key by key.
type Backup struct {
	Every     time.Duration `json:"every,omitempty" jsonschema_description:"time between two backups; 24h when nobody says"`
	RPO       time.Duration `json:"rpo,omitempty" jsonschema_description:"data a loss of the site may cost at most, in time; 25h when nobody says"`
	KeepDaily int           `json:"keep_daily,omitempty" jsonschema:"minimum=1" jsonschema_description:"days of which one backup each is kept; 20 when nobody says"`
	Vault     string        `json:"vault,omitempty" jsonschema_description:"node with role vault that keeps them, in another site"`
	Custodian *bool         `json:"custodian,omitempty" jsonschema_description:"the server's custodian can open a backup for one restore; without it a person must give the recovery key"`
}

// InstanceBackup is Backup and the keys of the people who can always read.
type InstanceBackup struct {
	Backup
	Recipients []string `json:"recipients,omitempty" jsonschema_description:"files of armored OpenPGP public keys, relative to the fleet directory"`
}
