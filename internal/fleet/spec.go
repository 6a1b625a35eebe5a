package fleet

import (
	"slices"
	"time"
)

// Spec is one instance rendered for running: what a node is told to run, as plain data. It holds references to
// secrets, never their values, and no other instance's bytes. Rendering is pure: the same fleet gives the same Spec.
//
// Texts in Env, Command, Probe and Dump/Load commands may hold these references, which only the node resolves:
//
//	${secret:NAME}         value of a secret of this instance
//	${port:SERVICE.PORT}   the port the node allotted (exec: on loopback; docker: inside the network it is the container port)
//	${host:SERVICE}        where SERVICE is reached from inside the stack (exec: 127.0.0.1; docker: the service name)
//	${state:NAME}          path of the state as the service sees it
//	${value:NAME}          a value of the five layers (resolved by rendering; a node never sees it)
//	${instance:FACT}       name, host, site or release of the instance (resolved by rendering; a node never sees it)
//
// $$ stands for $. The node resolves with Resolve.
type Spec struct {
	Instance    string             `json:"instance"`
	Product     string             `json:"product"`
	Release     string             `json:"release"`     // "notes/v1.2.0"
	Fingerprint string             `json:"fingerprint"` // hex SHA-256 of the canonical JSON of all else here
	Services    []Service          `json:"services"`    // in start order: dependencies first, then by name
	State       []State            `json:"state"`       // sorted by name
	Secrets     []SecretRef        `json:"secrets,omitempty"`
	Invariants  []Invariant        `json:"invariants,omitempty"`
	Hooks       map[string]Command `json:"hooks,omitempty"` // after_restore, neutralise
	Values      map[string]string  `json:"values,omitempty"`
	Hosts       []string           `json:"hosts"` // names the edge answers for, first is the canonical one
	Backup      BackupPolicy       `json:"backup"`
}

// Engines lists the engines that can run every service: exec needs an artifact of each, docker an image.
func (s Spec) Engines() []string {
	var engines []string
	if !slices.ContainsFunc(s.Services, func(service Service) bool { return service.Artifact == "" }) {
		engines = append(engines, "exec")
	}
	if !slices.ContainsFunc(s.Services, func(service Service) bool { return service.Image == "" }) {
		engines = append(engines, "docker")
	}
	return engines
}

// ReadyWithin is the longest that any service may take to be ready; a minute at least.
func (s Spec) ReadyWithin() time.Duration {
	longest := time.Minute
	for _, service := range s.Services {
		if service.Readiness != nil {
			longest = max(longest, service.Readiness.Within)
		}
	}
	return longest
}

// Service is one process or container of a stack.
type Service struct {
	Name      string            `json:"name"`
	Image     string            `json:"image,omitempty"`    // docker: a pinned reference, by digest or version tag
	Archive   string            `json:"archive,omitempty"`  // docker: PATH@sha256:HEX or https://...@sha256:HEX of an image archive; "" = a registry has it
	Artifact  string            `json:"artifact,omitempty"` // exec: absolute path of the program on the node
	Digest    string            `json:"digest,omitempty"`   // "sha256:..." of the artifact; empty = not pinned
	Command   []string          `json:"command,omitempty"`  // arguments after the program or the image's entrypoint
	Env       map[string]string `json:"env,omitempty"`
	Ports     []Port            `json:"ports,omitempty"`
	Needs     []Need            `json:"needs,omitempty"`  // depends_on
	Mounts    []Mount           `json:"mounts,omitempty"` // state it sees
	Readiness *Probe            `json:"readiness,omitempty"`
	Liveness  *Probe            `json:"liveness,omitempty"`
	MemoryMB  int64             `json:"memory_mb,omitempty"` // limit; 0 = none
	CPUs      float64           `json:"cpus,omitempty"`      // limit in cores; 0 = none
	Replicas  int               `json:"replicas"`            // at least 1
	StopGrace time.Duration     `json:"stop_grace"`          // SIGTERM to SIGKILL
	Writes    bool              `json:"writes"`              // takes writes from outside or on its own; fenced first
}

// Port is a port a service listens on. Edge marks the one that the edge sends requests to.
type Port struct {
	Name     string `json:"name"`
	Internal int    `json:"internal"` // container port; exec: only a name, the node allots the real one
	Edge     bool   `json:"edge,omitempty"`
}

// Need is an edge of the start order.
type Need struct {
	Service string `json:"service"`
	Ready   bool   `json:"ready"` // wait for readiness (service_healthy), not just for the start
}

// Mount shows a state to a service.
type Mount struct {
	State string `json:"state"`
	Path  string `json:"path"` // in the container; exec: ignored, use ${state:NAME}
}

// StateKind is how a state is dumped and loaded. Presets: see package fleet's presets table.
type StateKind string

// The kinds of state.
const (
	StateFolder   StateKind = "folder"
	StateSQLite   StateKind = "sqlite"
	StateMongoDB  StateKind = "mongodb"
	StateRedis    StateKind = "redis"
	StatePostgres StateKind = "postgres"
	StateMariaDB  StateKind = "mariadb"
	StateCommand  StateKind = "command" // two commands, given by the product
)

// State is one thing of an instance that must survive: a database or a folder.
type State struct {
	Name    string    `json:"name"`
	Kind    StateKind `json:"kind"`
	Service string    `json:"service,omitempty"` // the service that holds it (databases)
	File    string    `json:"file,omitempty"`    // sqlite: file name inside the state's folder
	Dump    Command   `json:"dump,omitempty"`    // writes the dump to standard output
	Load    Command   `json:"load,omitempty"`    // reads the dump from standard input
}

// Command is an argument list, run without a shell; on docker inside the named service's container.
type Command struct {
	Service string        `json:"service,omitempty"`
	Args    []string      `json:"args,omitempty"`
	Timeout time.Duration `json:"timeout,omitempty"` // 0 = 10 minutes
}

// Probe asks a service whether it is ready or alive. Exactly one of HTTP, TCP or Args is set.
type Probe struct {
	HTTP     string            `json:"http,omitempty"` // path, asked on Port
	Port     string            `json:"port,omitempty"` // name of the service's port; "" = its first
	Headers  map[string]string `json:"headers,omitempty"`
	TCP      bool              `json:"tcp,omitempty"`
	Args     []string          `json:"args,omitempty"` // exit code 0 = well
	Interval time.Duration     `json:"interval"`
	Timeout  time.Duration     `json:"timeout"`
	Within   time.Duration     `json:"within"` // readiness: how long a start may take
}

// SecretRef names a secret of an instance and the version that was rendered, so that a rotation changes the
// fingerprint without showing the value.
type SecretRef struct {
	Name    string `json:"name"`
	Version int    `json:"version"`
	Length  int    `json:"length"` // characters to generate when it does not exist yet
}

// Invariant is asked of the data itself after a restore: an HTTP request or a command whose answer must hold.
type Invariant struct {
	Name    string  `json:"name"`
	Service string  `json:"service"`
	HTTP    string  `json:"http,omitempty"`   // path that must answer 200
	Command Command `json:"command,omitzero"` // or a command that must end with 0
	Expect  string  `json:"expect,omitempty"` // text the answer must contain
}

// BackupPolicy is what the instance promises about its backups.
type BackupPolicy struct {
	Every      time.Duration `json:"every"`
	RPO        time.Duration `json:"rpo"`
	KeepDaily  int           `json:"keep_daily"`
	Vault      string        `json:"vault"`                // name of the vault node
	Recipients []string      `json:"recipients,omitempty"` // armored OpenPGP public keys
	Custodian  bool          `json:"custodian"`            // the server's custodian can open it for one order
}
