package link

import (
	"context"
	"crypto/x509"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/semaphore"

	"holdfast/internal/problem"
)

// Gate is what the link needs from the rest of the server. Every function must be safe for many callers at once.
type Gate struct {
	// Node gives the name of the node that a verified certificate was issued to, or refuses it (revoked, not a node's).
	Node func(ctx context.Context, certificate *x509.Certificate) (string, error)
	// Join spends a join token and signs the request's CSR.
	Join func(ctx context.Context, request JoinRequest) (JoinResponse, error)
	// Renew signs a fresh CSR for a node that has proved who it is; the name in the CSR counts for nothing.
	Renew func(ctx context.Context, node string, csr []byte) (certificate []byte, err error)
	// Certify signs a CSR for names that the node's edge serves, and refuses all others. May be nil.
	Certify func(ctx context.Context, node string, csr []byte) (chain [][]byte, err error)
	// Intake commits reports and tells through which sequence number this node's reports now are; none at all asks
	// only for that number.
	Intake func(ctx context.Context, node string, reports []Report) (through int64, err error)
	// Listening is called when a node's stream is open: whoever has settings or orders for it sends them now. May be nil.
	Listening func(ctx context.Context, session Session)
	// Displaced is called when a second agent took over a stream that was alive under another boot: a copied
	// certificate, or a machine that was cloned. May be nil.
	Displaced func(ctx context.Context, old, now Session)
}

// Session is one open stream of a node.
type Session struct {
	Node       string    `json:"node"`
	BootID     string    `json:"boot_id"`
	Version    string    `json:"version"`
	Capability int       `json:"capability"`
	Remote     string    `json:"remote"` // address the agent dialled from
	Since      time.Time `json:"since"`
	Seen       time.Time `json:"seen"` // last report or keep-alive that got through
}

// Server is the server's end of the link: it knows which nodes listen, and hands each what is for it.
type Server struct {
	gate      Gate
	now       func() time.Time
	keepAlive time.Duration
	silence   time.Duration       // a session without a report for so long counts as away
	welcome   *semaphore.Weighted // how many nodes are greeted at once after a restart
	intake    *semaphore.Weighted // how many batches are committed at once
	closed    chan struct{}
	closing   sync.Once

	mu       sync.Mutex
	sessions map[string]*session
}

// session is a Session with its queue. gone is closed by whoever ends it, after why was set.
type session struct {
	info Session
	out  chan Delivery
	gone chan struct{}
	why  error
	seen time.Time // guarded by Server.mu
}

// queue is how many deliveries may wait for one node. More than that means the node does not read: it is as good as away.
const queue = 256

// NewServer makes the server's end. Mount its Handler on a port that asks for client certificates
// (tls.VerifyClientCertIfGiven with the node CA in ClientCAs).
func NewServer(gate Gate) *Server {
	width := int64(4 * runtime.GOMAXPROCS(0))
	return &Server{
		gate:      gate,
		now:       time.Now,
		keepAlive: KeepAlive,
		silence:   2 * KeepAlive,
		welcome:   semaphore.NewWeighted(width),
		intake:    semaphore.NewWeighted(width),
		closed:    make(chan struct{}),
		sessions:  map[string]*session{},
	}
}

// Handler gives the path to mount and what serves it.
func (s *Server) Handler() (path string, handler http.Handler) {
	options := connect.WithHandlerOptions(
		connect.WithCodec(plainJSON{}),
		connect.WithReadMaxBytes(maxMessage),
		connect.WithCompressMinBytes(1024),
	)
	mux := http.NewServeMux()
	mux.Handle(joinPath, connect.NewUnaryHandler(joinPath, unary(s.join), options))
	mux.Handle(renewPath, connect.NewUnaryHandler(renewPath, unary(s.renew), options))
	mux.Handle(certifyPath, connect.NewUnaryHandler(certifyPath, unary(s.certify), options))
	mux.Handle(reportPath, connect.NewUnaryHandler(reportPath, unary(s.report), options))
	mux.Handle(listenPath, connect.NewServerStreamHandler(listenPath, s.listen, options))
	return Path, s.identify(mux)
}

// Close ends every stream, so that the HTTP server can stop; agents dial again on their own.
func (s *Server) Close() { s.closing.Do(func() { close(s.closed) }) }

// Deliver hands a delivery to the node's open stream. It waits for nothing: a node that does not listen is
// Unreachable, and its order is sent again by its operation once the node is back.
func (s *Server) Deliver(node string, delivery Delivery) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	se, ok := s.sessions[node]
	if !ok {
		return problem.New(problem.Unreachable, "holdfast get nodes", "nothing was delivered to node %s: its agent is not connected", node)
	}
	if quiet := s.now().Sub(se.seen); quiet > s.silence {
		return problem.New(problem.Unreachable, "holdfast get nodes", "nothing was delivered to node %s: its agent has been silent for %s", node, quiet.Round(time.Second))
	}
	select {
	case se.out <- delivery:
		return nil
	default:
		return problem.New(problem.Unreachable, "holdfast get nodes", "nothing was delivered to node %s: %d deliveries wait for it already", node, queue)
	}
}

// Sessions lists the open streams, by node.
func (s *Server) Sessions() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Session, 0, len(s.sessions))
	for _, se := range s.sessions {
		all = append(all, se.shown())
	}
	slices.SortFunc(all, func(a, b Session) int { return strings.Compare(a.Node, b.Node) })
	return all
}

// Session gives the open stream of a node.
func (s *Server) Session(node string) (Session, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	se, ok := s.sessions[node]
	if !ok {
		return Session{}, false
	}
	return se.shown(), true
}

func (se *session) shown() Session {
	info := se.info
	info.Seen = se.seen
	return info
}
