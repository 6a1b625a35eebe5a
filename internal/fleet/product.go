package fleet

import "time"

// Product is what the company sells. Its document is a Compose file with two keys more: `kind: Product`, and
// `x-holdfast`, here and in each service.
type Product struct {
	Origin
	Kind     Kind                      `json:"kind" jsonschema:"enum=Product"`
	Name     string                    `json:"name" jsonschema:"pattern=^[a-z]([a-z0-9-]{0\\,38}[a-z0-9])?$" jsonschema_description:"what is sold; releases are named after it"`
	Services map[string]map[string]any `json:"services" jsonschema:"minProperties=1" jsonschema_description:"services in the Compose format"`
	Volumes  map[string]any            `json:"volumes,omitempty" jsonschema_description:"named volumes in the Compose format; each is a state below x-holdfast"`
	Holdfast ProductKeys               `json:"x-holdfast,omitzero" jsonschema_description:"what Compose has no word for"`

	stack stack // the services, read by compose-go
}

// ProductKeys is what stands under x-holdfast of a product.
type ProductKeys struct {
	Values     map[string]Value         `json:"values,omitempty" jsonschema_description:"every setting an instance can have, with its default; without one (null) a higher layer must give it"`
	Secrets    map[string]Secret        `json:"secrets,omitempty" jsonschema_description:"secrets generated for each instance"`
	State      map[string]StateKeys     `json:"state,omitempty" jsonschema_description:"what must survive; a service sees it as the named volume of the same name"`
	Invariants map[string]InvariantKeys `json:"invariants,omitempty" jsonschema_description:"what must hold of the data after a restore"`
	Hooks      Hooks                    `json:"hooks,omitzero" jsonschema_description:"commands at two moments of an instance's life"`
	SameMajor  []string                 `json:"same_major,omitempty" jsonschema_description:"services that must be of one major version in every release"`
	Labels     map[string]string        `json:"labels,omitempty" jsonschema_description:"for selectors"`
	Backup     Backup                   `json:"backup,omitzero" jsonschema_description:"defaults of every instance of the product"`
}

// Secret is generated once for each instance and never written into a file.
type Secret struct {
	Length  int `json:"length,omitempty" jsonschema:"minimum=12,maximum=256" jsonschema_description:"characters; 32 when left out"`
	Version int `json:"version,omitempty" jsonschema:"minimum=1" jsonschema_description:"a higher one generates it anew for every instance; 1 when left out"`
}

// StateKeys says how one state is dumped and loaded: by a preset, or by two commands.
type StateKeys struct {
	Kind     StateKind    `json:"kind" jsonschema_description:"how it is dumped and loaded: a preset, or command for your own two"`
	Service  string       `json:"service,omitempty" jsonschema_description:"databases: the service that holds it"`
	File     string       `json:"file,omitempty" jsonschema_description:"sqlite: file name inside the state's folder"`
	User     string       `json:"user,omitempty" jsonschema_description:"databases: who dumps and loads; the preset knows the usual one"`
	Password string       `json:"password,omitempty" jsonschema_description:"databases: a reference such as ${secret:db_password}"`
	Database string       `json:"database,omitempty" jsonschema_description:"databases: which one; mongodb and mariadb: left out = all"`
	Dump     *CommandKeys `json:"dump,omitempty" jsonschema_description:"command: writes the dump to standard output"`
	Load     *CommandKeys `json:"load,omitempty" jsonschema_description:"command: reads the dump from standard input"`
}

// CommandKeys is an argument list that runs without a shell.
type CommandKeys struct {
	Service string        `json:"service,omitempty" jsonschema_description:"docker: in whose container; left out: the service of the state"`
	Args    []string      `json:"args" jsonschema:"minItems=1" jsonschema_description:"the program and its arguments; no shell reads them"`
	Timeout time.Duration `json:"timeout,omitempty" jsonschema_description:"10m when left out"`
}

// Hooks are commands at two moments of an instance's life.
type Hooks struct {
	AfterRestore *CommandKeys `json:"after_restore,omitempty" jsonschema_description:"runs when restored data is ready, before it serves"`
	Neutralise   *CommandKeys `json:"neutralise,omitempty" jsonschema_description:"runs in a rehearsal copy before anything else may act: no mail, no payments"`
}

// InvariantKeys is one question to the data.
type InvariantKeys struct {
	Service string       `json:"service" jsonschema_description:"the service that is asked"`
	HTTP    string       `json:"http,omitempty" jsonschema_description:"path that must answer 200"`
	Command *CommandKeys `json:"command,omitempty" jsonschema_description:"or a command that must end with 0"`
	Expect  string       `json:"expect,omitempty" jsonschema_description:"text the answer must contain"`
}

// ServiceKeys is what stands under x-holdfast of a service.
type ServiceKeys struct {
	Artifact  string     `json:"artifact,omitempty" jsonschema_description:"exec: absolute path of the program on the node"`
	Digest    string     `json:"digest,omitempty" jsonschema:"pattern=^sha256:[0-9a-f]{64}$" jsonschema_description:"exec: digest of the program"`
	Archive   string     `json:"archive,omitempty" jsonschema_description:"docker: where the image comes from instead of a registry: PATH@sha256:DIGEST, a path on the node or an https address, of what docker save wrote"`
	Edge      string     `json:"edge,omitempty" jsonschema_description:"name of the port the edge sends requests to"`
	Readiness *ProbeKeys `json:"readiness,omitempty" jsonschema_description:"asked until it may serve; left out: the Compose healthcheck"`
	Liveness  *ProbeKeys `json:"liveness,omitempty" jsonschema_description:"asked while it serves; failing restarts it"`
	Writes    *bool      `json:"writes,omitempty" jsonschema_description:"takes writes; left out: true where it has an edge port or sees a state"`
}

// ProbeKeys asks a service. Exactly one of http, tcp and args is given.
type ProbeKeys struct {
	HTTP     string            `json:"http,omitempty" jsonschema_description:"path that must answer 2xx"`
	TCP      bool              `json:"tcp,omitempty" jsonschema_description:"the port must accept"`
	Args     []string          `json:"args,omitempty" jsonschema_description:"command that must end with 0"`
	Port     string            `json:"port,omitempty" jsonschema_description:"name of the port; left out: the first"`
	Headers  map[string]string `json:"headers,omitempty" jsonschema_description:"headers of the request"`
	Interval time.Duration     `json:"interval,omitempty" jsonschema_description:"readiness 500ms, liveness 10s when left out"`
	Timeout  time.Duration     `json:"timeout,omitempty" jsonschema_description:"2s when left out"`
	Within   time.Duration     `json:"within,omitempty" jsonschema_description:"readiness: how long a start may take; 60s when left out"`
}
