package fleet

import "time"

// Inventory is what was last seen on every node, with the age of each fact.
type Inventory struct {
	Nodes      map[string]NodeFacts `json:"nodes"`
	Placements map[string]Placement `json:"placements"` // instance -> where the server last placed it
}

// Role is what a node is for.
type Role string

// The roles.
const (
	RoleRun   Role = "run"
	RoleSpare Role = "spare"
	RoleVault Role = "vault"
	RoleEdge  Role = "edge"
	RoleProbe Role = "probe"
)

// NodeFacts is one node's report of itself, whole.
type NodeFacts struct {
	Node       string                    `json:"node"`
	Site       string                    `json:"site"`
	Roles      []Role                    `json:"roles"`
	Labels     map[string]string         `json:"labels,omitempty"`
	Engines    []string                  `json:"engines"` // exec, docker
	Address    string                    `json:"address"` // where the edge reaches the node's services
	Capability int                       `json:"capability"`
	Version    string                    `json:"version"`
	BootID     string                    `json:"boot_id"` // of this life of the agent: another one at every start
	Capacity   Capacity                  `json:"capacity"`
	Instances  map[string]InstanceFacts  `json:"instances"`
	SealTo     string                    `json:"seal_to"`            // age recipient: secrets for this node are sealed to it
	VaultAddr  string                    `json:"vault_addr"`         // role vault: host:port of its SFTP listener
	VaultKey   string                    `json:"vault_key"`          // role vault: its SSH host key, authorized_keys form
	SSHKey     string                    `json:"ssh_key"`            // public key this node writes backups with
	EdgeAddr   string                    `json:"edge_addr"`          // role edge: host:port where it takes requests
	Faults     []string                  `json:"faults,omitempty"`   // armed or active faults of drills
	TakenAt    time.Time                 `json:"taken_at"`           // on the node's clock
	SeenAt     time.Time                 `json:"seen_at"`            // on the server's clock, set at intake
	Extra      map[string]map[string]any `json:"extra,omitempty"`    // facts of a newer agent that this server only shows
	Journal    int64                     `json:"journal,omitempty"`  // last report sequence the node has written
	Restarts   int                       `json:"restarts,omitempty"` // agent starts since the data directory was made
}

// Capacity is what a node has and what is taken, as the engines see it.
type Capacity struct {
	MemoryMB     int64   `json:"memory_mb"`
	MemoryUsedMB int64   `json:"memory_used_mb"` // promised to instances
	CPUs         float64 `json:"cpus"`
	DiskMB       int64   `json:"disk_mb"`
	DiskFreeMB   int64   `json:"disk_free_mb"`
	Instances    int     `json:"instances"`
	MaxInstances int     `json:"max_instances"` // 0 = only memory and disk decide
}

// InstanceState is the node's word about one instance.
type InstanceState string

// The states of an instance on a node.
const (
	StateStarting InstanceState = "starting"
	StateRunning  InstanceState = "running"  // every service is ready
	StateDegraded InstanceState = "degraded" // some service is not
	StateStopped  InstanceState = "stopped"  // data kept, nothing runs, on order
	StateFenced   InstanceState = "fenced"   // an old epoch: serves nothing, deletes nothing
	StateBeside   InstanceState = "beside"   // a restore in a slot that does not serve yet
	StateUnknown  InstanceState = "unknown"  // the node is out of reach (set by the server)
)

// InstanceFacts is what a node says of one instance it holds. One instance may have several slots; exactly one of
// them at most is active.
type InstanceFacts struct {
	Instance    string             `json:"instance"`
	Epoch       int64              `json:"epoch"`
	Slot        string             `json:"slot"` // the active slot
	Spec        string             `json:"spec"` // fingerprint of the Spec that runs
	Release     string             `json:"release"`
	State       InstanceState      `json:"state"`
	Services    []ServiceFacts     `json:"services"`
	Endpoints   []string           `json:"endpoints"` // host:port of every replica that the edge may send requests to
	Beside      []string           `json:"beside,omitempty"`
	CanarySeq   int64              `json:"canary_seq"`
	CanaryAt    time.Time          `json:"canary_at"`
	ServingFrom time.Time          `json:"serving_from,omitzero"` // since when this epoch could take writes here
	ServedUntil time.Time          `json:"served_until,omitzero"` // last moment it could, once it no longer does
	Salvage     *SalvageFacts      `json:"salvage,omitempty"`     // fenced data newer than what was restored elsewhere
	Values      map[string]float64 `json:"values,omitempty"`
}

// SalvageFacts says what a fenced copy holds that may be newer than what serves.
type SalvageFacts struct {
	CanarySeq int64     `json:"canary_seq"`
	CanaryAt  time.Time `json:"canary_at"`
	Slot      string    `json:"slot"`
}

// ServiceFacts is one service as the engine sees it.
type ServiceFacts struct {
	Name     string    `json:"name"`
	Ready    bool      `json:"ready"`
	Running  int       `json:"running"` // replicas
	Wanted   int       `json:"wanted"`
	Restarts int       `json:"restarts"`
	Since    time.Time `json:"since"`
	MemoryMB int64     `json:"memory_mb"`
	Note     string    `json:"note,omitempty"` // last words, such as an exit code
}

// Placement is where the server decided that an instance lives, and at which epoch. It is the fence: an instance
// may serve only on Node and only with Epoch.
type Placement struct {
	Instance string    `json:"instance"`
	Node     string    `json:"node"`
	Site     string    `json:"site"`
	Epoch    int64     `json:"epoch"`
	Slot     string    `json:"slot"`
	Spec     string    `json:"spec"`    // fingerprint last applied
	Release  string    `json:"release"` // last applied
	Retired  bool      `json:"retired"`
	Since    time.Time `json:"since"`
	Home     Place     `json:"home,omitzero"` // from where a recovery or a restore took it; it stays away until told
	Booted   bool      `json:"booted"`        // it has been up at least once, here or elsewhere: there is data to lose
}
