package link

import (
	"context"
	"math/rand/v2"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"holdfast/internal/problem"
)

// caller is who speaks, from the connection's certificate and from nothing else.
type caller struct {
	node   string
	remote string
	err    error // why there is no node
}

type callerKey struct{}

// identify reads the caller from the verified client certificate.
func (s *Server) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := caller{remote: r.RemoteAddr}
		who.node, who.err = s.nodeOf(r)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, who)))
	})
}

func (s *Server) nodeOf(r *http.Request) (string, error) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return "", problem.New(problem.Denied, "holdfast agent --join TOKEN", "this call needs the certificate of a node, and none that this server issued was shown")
	}
	return s.gate.Node(r.Context(), r.TLS.PeerCertificates[0])
}

func callerOf(ctx context.Context) caller {
	who, ok := ctx.Value(callerKey{}).(caller)
	if !ok {
		who.err = problem.New(problem.Internal, "", "the call did not come through the link's handler")
	}
	return who
}

// mustBe refuses a caller whose certificate does not name the node that it claims to be.
func (who caller) mustBe(claimed string) error {
	if who.err != nil {
		return who.err
	}
	if claimed != who.node {
		return problem.New(problem.Denied, "holdfast agent --join TOKEN on node "+claimed,
			"the certificate of node %s was shown by an agent that calls itself %s: a node speaks for itself alone", who.node, claimed)
	}
	return nil
}

// unary turns a plain function into a Connect one and its errors into what crosses the wire.
func unary[Req, Res any](do func(context.Context, Req) (Res, error)) func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error) {
	return func(ctx context.Context, request *connect.Request[Req]) (*connect.Response[Res], error) {
		answer, err := do(ctx, *request.Msg)
		if err != nil {
			return nil, toWire(err)
		}
		return connect.NewResponse(&answer), nil
	}
}

func (s *Server) join(ctx context.Context, request JoinRequest) (JoinResponse, error) {
	if err := speaks(request.Node, request.Capability); err != nil {
		return JoinResponse{}, err
	}
	return s.gate.Join(ctx, request)
}

func (s *Server) renew(ctx context.Context, request RenewRequest) (RenewResponse, error) {
	who := callerOf(ctx)
	if who.err != nil {
		return RenewResponse{}, who.err
	}
	certificate, err := s.gate.Renew(ctx, who.node, request.CSR)
	return RenewResponse{Certificate: certificate}, err
}

func (s *Server) certify(ctx context.Context, request CertifyRequest) (CertifyResponse, error) {
	who := callerOf(ctx)
	if who.err != nil {
		return CertifyResponse{}, who.err
	}
	if s.gate.Certify == nil {
		return CertifyResponse{}, problem.New(problem.Unavailable, "", "this server issues no certificates for edges")
	}
	chain, err := s.gate.Certify(ctx, who.node, request.CSR)
	return CertifyResponse{Chain: chain}, err
}

func (s *Server) report(ctx context.Context, batch Batch) (Ack, error) {
	who := callerOf(ctx)
	if err := who.mustBe(batch.Node); err != nil {
		return Ack{}, err
	}
	if err := checkBatch(batch); err != nil {
		return Ack{}, err
	}
	s.touch(who.node)
	if err := s.intake.Acquire(ctx, 1); err != nil {
		return Ack{}, err
	}
	defer s.intake.Release(1)
	through, err := s.gate.Intake(ctx, who.node, batch.Reports)
	return Ack{Through: through}, err
}

// checkBatch refuses reports out of order and facts of another node, whole: half a batch would be a gap.
func checkBatch(batch Batch) error {
	last := int64(0)
	for _, r := range batch.Reports {
		if r.Seq <= last {
			return problem.New(problem.Invalid, "", "reports of node %s are out of order: %d after %d", batch.Node, r.Seq, last)
		}
		if r.Facts != nil && r.Facts.Node != batch.Node {
			return problem.New(problem.Denied, "", "node %s reported facts of node %s: a node speaks for itself alone", batch.Node, r.Facts.Node)
		}
		last = r.Seq
	}
	return nil
}

// speaks is the capability handshake: N and N-1 work together, either way round.
func speaks(node string, capability int) error {
	if capability >= Capability-1 && capability <= Capability+1 && capability > 0 {
		return nil
	}
	return problem.New(problem.Conflict, "upgrade the older of the two",
		"the agent of node %s speaks link version %d, this server %d: only neighbours work together", node, capability, Capability)
}

func (s *Server) listen(ctx context.Context, request *connect.Request[ListenRequest], stream *connect.ServerStream[Delivery]) error {
	who, hello := callerOf(ctx), *request.Msg
	if err := who.mustBe(hello.Node); err != nil {
		return toWire(err)
	}
	if err := speaks(hello.Node, hello.Capability); err != nil {
		return toWire(err)
	}
	se, old := s.enter(who, hello)
	defer s.leave(se)
	if old != nil && s.gate.Displaced != nil {
		s.gate.Displaced(ctx, *old, se.info)
	}
	go s.greet(ctx, se.info)
	return toWire(s.pump(ctx, se, stream))
}

// greet lets the rest of the server send what the node has missed; a few nodes at a time, so that a restart with a
// thousand of them does not become a thousand transactions at once.
func (s *Server) greet(ctx context.Context, info Session) {
	if s.gate.Listening == nil || s.welcome.Acquire(ctx, 1) != nil {
		return
	}
	defer s.welcome.Release(1)
	s.gate.Listening(ctx, info)
}

// enter makes a session the node's one, and ends the one before it. It returns the old one if it was alive under
// another boot, which no agent of the same node could be.
func (s *Server) enter(who caller, hello ListenRequest) (*session, *Session) {
	now := s.now()
	se := &session{out: make(chan Delivery, queue), gone: make(chan struct{}), seen: now, info: Session{
		Node: who.node, BootID: hello.BootID, Version: hello.Version, Capability: hello.Capability, Remote: who.remote, Since: now, Seen: now,
	}}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.sessions[who.node]
	s.sessions[who.node] = se
	if old == nil {
		return se, nil
	}
	old.why = problem.New(problem.Conflict, "if this node was cloned: holdfast agent --join TOKEN on one of the two",
		"another agent has taken over as node %s, from %s", who.node, who.remote)
	close(old.gone)
	if old.info.BootID == hello.BootID || now.Sub(old.seen) > s.keepAlive {
		return se, nil
	}
	shown := old.shown()
	return se, &shown
}

func (s *Server) leave(se *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[se.info.Node] == se {
		delete(s.sessions, se.info.Node)
	}
}

// touch notes that a node was heard.
func (s *Server) touch(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if se, ok := s.sessions[node]; ok {
		se.seen = s.now()
	}
}

// pump writes what is queued to the stream until one of them ends. The first, empty delivery tells the agent that it
// is heard.
func (s *Server) pump(ctx context.Context, se *session, stream *connect.ServerStream[Delivery]) error {
	if err := stream.Send(&Delivery{}); err != nil {
		return err
	}
	for {
		alive := time.NewTimer(jitter(s.keepAlive))
		select {
		case delivery := <-se.out:
			if err := stream.Send(&delivery); err != nil {
				return err
			}
		case <-alive.C:
			if err := stream.Send(&Delivery{}); err != nil {
				return err
			}
		case <-se.gone:
			return se.why
		case <-s.closed:
			return problem.New(problem.Unavailable, "", "the server is stopping")
		case <-ctx.Done():
			return ctx.Err()
		}
		alive.Stop()
	}
}

// jitter takes up to a fifth off d, so that a thousand streams do not tick as one.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/5+1) }
