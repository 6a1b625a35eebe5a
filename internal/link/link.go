// Package link is the agent link: the messages, the capability version, and both ends of the wire.
//
// Words: an agent dials out, joins once with a token and from then on speaks mutual TLS with its own certificate; it
// receives a stream of deliveries (signed orders and signed settings) and sends reports in batches with sequence
// numbers. Capability is one integer; its history stands beside it.
//
// Invariant: a report is acknowledged only when it is committed; an unacknowledged report is sent again, in order;
// the server takes each sequence number of a node once.
package link

import (
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/step"
)

// Capability is what this binary speaks. N and N-1 work together.
//
//	1  2026-11: first version
//	2  2026-11: the setting kit, and the steps prune and survey
const Capability = 2

// CapabilityKit is the first version whose vaults keep the server's kit.
const CapabilityKit = 2

// JoinRequest asks for a certificate with a one-time token.
type JoinRequest struct {
	Token      string            `json:"token"`
	Node       string            `json:"node"`
	Site       string            `json:"site"`
	Roles      []fleet.Role      `json:"roles"`
	Labels     map[string]string `json:"labels,omitempty"`
	CSR        []byte            `json:"csr"` // DER PKCS#10, ECDSA P-256
	Capability int               `json:"capability"`
	Version    string            `json:"version"`
}

// JoinResponse gives the node its identity and the keys it trusts.
type JoinResponse struct {
	Certificate []byte `json:"certificate"` // DER
	Authority   []byte `json:"authority"`   // DER of the server's CA
	OrderKey    []byte `json:"order_key"`   // Ed25519 public key that signs orders
	ReplyTo     string `json:"reply_to"`    // age recipient of the server
}

// RenewRequest asks for a fresh certificate over the old one's connection.
type RenewRequest struct {
	CSR []byte `json:"csr"`
}

// RenewResponse is the fresh certificate.
type RenewResponse struct {
	Certificate []byte `json:"certificate"`
}

// CertifyRequest asks, for an edge, for a certificate for the names that it serves.
type CertifyRequest struct {
	CSR []byte `json:"csr"` // DER PKCS#10; its DNS names are what is asked for
}

// CertifyResponse is that certificate, leaf first, as DER.
type CertifyResponse struct {
	Chain [][]byte `json:"chain"`
}

// ListenRequest opens the stream of deliveries. Node is who the agent believes to be: it must be the name in its
// certificate, so that a certificate that was copied to another node is noticed.
type ListenRequest struct {
	Node       string `json:"node"`
	Capability int    `json:"capability"`
	Version    string `json:"version"`
	BootID     string `json:"boot_id"`
}

// Delivery is one message of the stream; exactly one field is set. An empty Delivery keeps the connection alive.
type Delivery struct {
	Order   *step.Signed `json:"order,omitempty"`   // payload: step.Order
	Setting *step.Signed `json:"setting,omitempty"` // payload: Setting
	Cancel  string       `json:"cancel,omitempty"`  // order id: stop it if it runs
}

// SettingKind names a document that a node holds in its newest version.
type SettingKind string

// The settings.
const (
	SettingLeases SettingKind = "leases" // LeasesSetting, to every node with role run or spare
	SettingRoutes SettingKind = "routes" // RoutesSetting, to nodes with role edge
	SettingProbes SettingKind = "probes" // ProbesSetting, to nodes with role probe
	SettingGrants SettingKind = "grants" // GrantsSetting, to nodes with role vault
	SettingKit    SettingKind = "kit"    // KitSetting, to nodes with role vault
)

// Setting is a whole document with a generation; a node takes only a higher generation than it has.
type Setting struct {
	Kind       SettingKind `json:"kind"`
	Node       string      `json:"node"`
	Generation int64       `json:"generation"`
	IssuedAt   time.Time   `json:"issued_at"`
	BootID     string      `json:"boot_id"` // echoes the listener's, so that a replayed document cannot unfence a fresh boot
	Body       []byte      `json:"body"`    // JSON of the kind's type
}

// LeasesSetting says for every instance that the node may hold a copy of, who may serve it.
type LeasesSetting struct {
	Leases map[string]step.FenceArgs `json:"leases"`
}

// RoutesSetting is what an edge serves.
type RoutesSetting struct {
	Routes []Route `json:"routes"`
}

// Route sends the requests for Hosts to Endpoints.
type Route struct {
	Instance    string   `json:"instance"`
	Hosts       []string `json:"hosts"`
	Endpoints   []string `json:"endpoints"` // empty: the maintenance page
	Epoch       int64    `json:"epoch"`
	Health      string   `json:"health"` // path asked of each endpoint; "" = TCP connect
	Maintenance string   `json:"maintenance,omitempty"`
}

// ProbesSetting is what a prober asks.
type ProbesSetting struct {
	Checks []Check `json:"checks"`
}

// Check is one question to ask from outside, again and again.
type Check struct {
	Name      string            `json:"name"`     // "edge"
	Instance  string            `json:"instance"` // "" for a check of a node or site
	URL       string            `json:"url"`
	Connect   string            `json:"connect,omitempty"` // host:port to dial instead of the URL's host
	Host      string            `json:"host,omitempty"`
	Headers   map[string]string `json:"headers,omitempty"`
	Status    int               `json:"status"`
	Contains  string            `json:"contains,omitempty"`
	Authority []byte            `json:"authority,omitempty"` // DER of a CA to trust beside those of the system
	Interval  time.Duration     `json:"interval"`
	Timeout   time.Duration     `json:"timeout"`
}

// GrantsSetting is who may do what in a vault.
type GrantsSetting struct {
	Grants []Grant `json:"grants"`
}

// KitSetting is the sealed copy of what the server cannot do without. Nobody reads it without the server's key.
type KitSetting struct {
	Kit []byte `json:"kit"`
}

// Grant gives an SSH key rights on one instance's repository.
type Grant struct {
	Key      string `json:"key"` // authorized_keys form
	Instance string `json:"instance"`
	Rights   string `json:"rights"` // write or read
}

// Report is one thing a node tells; exactly one of the pointers is set. Seq grows with every report of a node; what
// a newer report replaced before it was sent (facts, progress) leaves a gap.
type Report struct {
	Seq    int64            `json:"seq"`
	At     time.Time        `json:"at"` // node clock
	Facts  *fleet.NodeFacts `json:"facts,omitempty"`
	Update *step.Update     `json:"update,omitempty"`
	Result *Result          `json:"result,omitempty"`
	Event  *Event           `json:"event,omitempty"`
}

// Result is one answer to one check.
type Result struct {
	Check    string        `json:"check"`
	Instance string        `json:"instance"`
	OK       bool          `json:"ok"`
	Status   int           `json:"status,omitempty"`
	Took     time.Duration `json:"took"`
	Error    string        `json:"error,omitempty"`
	At       time.Time     `json:"at"` // when it was asked
	// Inconclusive means that the prober itself was in trouble: the answer says nothing of the instance, and OK is false.
	Inconclusive bool    `json:"inconclusive,omitempty"`
	Epoch        int64   `json:"epoch,omitempty"` // of the route that answered, as the edge says
	Phases       *Phases `json:"phases,omitempty"`
}

// Phases is how long each part of one answer took; 0 for a part that did not happen.
type Phases struct {
	Resolve time.Duration `json:"resolve"`
	Connect time.Duration `json:"connect"`
	TLS     time.Duration `json:"tls"`
	Wait    time.Duration `json:"wait"` // request sent until the first byte
	Read    time.Duration `json:"read"`
}

// Event is a fact with a moment, such as serving_started, serving_stopped, fenced, boot, undo_fired, fault_fired,
// service_died, grant_refused, order_refused.
type Event struct {
	Kind     string            `json:"kind"`
	Instance string            `json:"instance,omitempty"`
	Epoch    int64             `json:"epoch,omitempty"`
	Note     string            `json:"note,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	At       time.Time         `json:"at"`
}

// Batch is reports of one node in the order of their Seq. An empty batch asks how far the server has come.
type Batch struct {
	Node    string   `json:"node"`
	Reports []Report `json:"reports"`
}

// Ack says up to which sequence number the server has committed.
type Ack struct {
	Through int64 `json:"through"`
}
