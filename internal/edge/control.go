package edge

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"holdfast/internal/link"
	"holdfast/internal/problem"
)

// Status is what an edge process says of itself.
type Status struct {
	PID          int                 `json:"pid"`
	Version      string              `json:"version"`
	Started      time.Time           `json:"started"`
	Applied      time.Time           `json:"applied,omitzero"` // when the table in service was handed over
	TLS          string              `json:"tls,omitempty"`    // addresses as bound
	Plain        string              `json:"plain,omitempty"`
	Settings     string              `json:"settings"` // fingerprint of what it was started with
	Routes       []RouteStatus       `json:"routes"`
	Notes        []string            `json:"notes,omitempty"`
	Certificates []CertificateStatus `json:"certificates"`
	LogDropped   int64               `json:"log_dropped"` // access lines that were lost
}

// RouteStatus is one route in service. AnsweredAt is the first answer that an endpoint of this epoch gave to a request.
type RouteStatus struct {
	Instance    string           `json:"instance"`
	Hosts       []string         `json:"hosts"`
	Epoch       int64            `json:"epoch"`
	Maintenance string           `json:"maintenance,omitempty"`
	Endpoints   []EndpointStatus `json:"endpoints"`
	AnsweredAt  time.Time        `json:"answered_at,omitzero"`
	Counts      Counts           `json:"counts"`
}

// EndpointStatus is what is believed of one endpoint. Proved means that it answered a check or a request since it
// came up; before that it is only assumed to be healthy.
type EndpointStatus struct {
	Address  string    `json:"address"`
	Healthy  bool      `json:"healthy"`
	Proved   bool      `json:"proved"`
	Since    time.Time `json:"since"`
	Why      string    `json:"why,omitempty"`
	InFlight int64     `json:"in_flight"`
}

// Serving tells whether the route's instance can answer now: an endpoint at this epoch is healthy and did answer.
func (r RouteStatus) Serving() bool {
	for _, e := range r.Endpoints {
		if e.Healthy && e.Proved {
			return r.Maintenance == ""
		}
	}
	return false
}

// Route finds an instance's route.
func (s Status) Route(instance string) (RouteStatus, bool) {
	for _, r := range s.Routes {
		if r.Instance == instance {
			return r, true
		}
	}
	return RouteStatus{}, false
}

func (s *Server) status() Status {
	s.mu.Lock()
	t, applied := s.table, s.applied
	s.mu.Unlock()
	status := Status{
		PID: os.Getpid(), Version: s.settings.Version, Started: s.started, Applied: applied, TLS: s.tlsAddr, Plain: s.plain,
		Settings: s.settings.fingerprint(), Routes: []RouteStatus{}, Notes: t.notes, Certificates: s.certs.status(), LogDropped: s.log.lost(),
	}
	for _, r := range t.routes {
		status.Routes = append(status.Routes, r.status())
	}
	return status
}

func (r *route) status() RouteStatus {
	status := RouteStatus{
		Instance: r.Instance, Hosts: r.Hosts, Epoch: r.Epoch, Maintenance: r.Maintenance, Endpoints: []EndpointStatus{},
		AnsweredAt: r.counts.firstAnswer(), Counts: r.counts.snapshot(),
	}
	for _, e := range r.endpoints {
		h, _ := e.now()
		status.Endpoints = append(status.Endpoints, EndpointStatus{
			Address: e.key.address, Healthy: h.up, Proved: h.proved, Since: h.since, Why: h.why, InFlight: e.inFlight.Load(),
		})
	}
	return status
}

// fingerprint tells two ways of starting an edge apart.
func (s Settings) fingerprint() string {
	s.Log, s.Version = nil, ""
	text, err := json.Marshal(s)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// SocketPath is where the edge of a data directory takes routes. A path that is too long for a socket moves to the
// system's temporary folder, under a name that follows from it.
func SocketPath(dir string) string {
	absolute, err := filepath.Abs(dir)
	if err != nil {
		absolute = dir
	}
	const longest = 100 // of the 108 bytes in sockaddr_un
	path := filepath.Join(absolute, "edge.sock")
	if len(path) <= longest {
		return path
	}
	sum := sha256.Sum256([]byte(absolute))
	return filepath.Join(os.TempDir(), fmt.Sprintf("holdfast-%d", os.Getuid()), "edge-"+hex.EncodeToString(sum[:8])+".sock")
}

// listenControl opens the socket for this user alone. The lock is ours, so a socket that lies there is a dead one's.
func (s *Server) listenControl(failed chan<- error) (*http.Server, error) {
	path := SocketPath(s.settings.Dir)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make socket folder: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove dead socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fmt.Errorf("protect control socket: %w", err)
	}
	s.open = append(s.open, listener)
	server := &http.Server{Handler: s.control(), ReadHeaderTimeout: 5 * time.Second}
	go func() { failed <- ignoreClosed(server.Serve(listener)) }()
	return server, nil
}

func (s *Server) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /routes", s.putRoutes)
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.status()) })
	mux.HandleFunc("POST /certificates", s.postCertificates)
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, struct{}{})
		s.end()
	})
	return mux
}

// putRoutes answers when the routes are in service and on disk.
func (s *Server) putRoutes(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<20))
	if err != nil {
		refuse(w, problem.Wrap(err, problem.Invalid, "", "the routes were not read"))
		return
	}
	setting, err := decodeRoutes(body)
	if err != nil {
		refuse(w, err)
		return
	}
	applied := s.apply(setting.Routes)
	if err := writeWhole(s.routesFile(), body, 0o600); err != nil {
		s.settings.Log.Error("routes not kept", "error", err)
		applied.Notes = append(applied.Notes, "the routes are served but not kept for a restart: "+err.Error())
	}
	answer(w, applied)
}

// decodeRoutes reads a hand-over. What it cannot read is refused whole; fields of a newer agent pass.
func decodeRoutes(body []byte) (link.RoutesSetting, error) {
	var setting link.RoutesSetting
	if err := json.Unmarshal(body, &setting); err != nil {
		return setting, problem.Wrap(err, problem.Invalid, "", "the routes were not taken")
	}
	return setting, nil
}

func (s *Server) postCertificates(w http.ResponseWriter, _ *http.Request) {
	if err := s.certs.reload(); err != nil {
		refuse(w, problem.Wrap(err, problem.Invalid, "", "a certificate was not taken"))
		return
	}
	answer(w, s.certs.status())
}

func (s *Server) routesFile() string { return filepath.Join(s.settings.Dir, "routes.json") }

// restore serves the last routes again at once, before an agent is heard. A file that cannot be read is reported and
// passed over: the agent hands the routes over anyway.
func (s *Server) restore() {
	body, err := os.ReadFile(s.routesFile())
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	setting, decodeErr := decodeRoutes(body)
	if err = errors.Join(err, decodeErr); err != nil {
		s.settings.Log.Error("kept routes not read", "file", s.routesFile(), "error", err)
		return
	}
	s.apply(setting.Routes)
}

// writeWhole replaces a file so that a reader sees the old or the new one.
func writeWhole(path string, data []byte, mode os.FileMode) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("make file: %w", err)
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Chmod(mode), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(file.Name()))
	}
	return nil
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // the caller left: nobody to tell
}

func refuse(w http.ResponseWriter, err error) {
	e, ok := errors.AsType[*problem.Error](err)
	if !ok {
		e = problem.New(problem.KindOf(err), "", "%s", err)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(problem.HTTPStatus(err))
	_ = json.NewEncoder(w).Encode(e) // the caller left: nobody to tell
}
