package link

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"time"

	"connectrpc.com/connect"

	"holdfast/internal/problem"
)

// Path is where the link is mounted on the server's one port.
const Path = "/holdfast.link.v1/"

const (
	joinPath    = Path + "Join"
	renewPath   = Path + "Renew"
	certifyPath = Path + "Certify"
	listenPath  = Path + "Listen"
	reportPath  = Path + "Report"
)

// KeepAlive is the longest silence of a stream: the server then sends an empty Delivery, because proxies cut streams
// on which nothing moves. An agent that has heard nothing for three of them dials anew.
const KeepAlive = 15 * time.Second

// maxMessage bounds one message in bytes; a peer that sends more is cut off before it fills memory.
const maxMessage = 8 << 20

// problemMeta carries the problem.Error of an answer beside the Connect error, so that kind and hint cross the wire.
const problemMeta = "Holdfast-Problem"

// plainJSON lets Connect carry Go structs as they are: the messages are few and both ends are this package, so a
// schema compiler would be one more tool for no gain. It takes the name "json", so that curl can speak to it.
type plainJSON struct{}

func (plainJSON) Name() string                         { return "json" }
func (plainJSON) Marshal(message any) ([]byte, error)  { return json.Marshal(message) }
func (plainJSON) Unmarshal(raw []byte, into any) error { return json.Unmarshal(raw, into) }

// toWire gives err a Connect code and sends its kind, message and hint along.
func toWire(err error) error {
	if err == nil {
		return nil
	}
	told, ok := errors.AsType[*problem.Error](err)
	if !ok {
		told = &problem.Error{Kind: problem.KindOf(err), Message: err.Error()}
	}
	wire := connect.NewError(code(told.Kind), err)
	if raw, err := json.Marshal(told); err == nil {
		wire.Meta().Set(problemMeta, base64.StdEncoding.EncodeToString(raw))
	}
	return wire
}

// fromWire gives back the problem that the other end told; what never reached it becomes Unreachable.
func fromWire(err error, what string) error {
	if err == nil {
		return nil
	}
	if told, ok := errors.AsType[*problem.Error](err); ok {
		return told // this end's own refusal, such as a server that is not the pinned one
	}
	wire, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return problem.Wrap(err, problem.Unreachable, "", "%s", what)
	}
	raw, decodeErr := base64.StdEncoding.DecodeString(wire.Meta().Get(problemMeta))
	told := &problem.Error{}
	if decodeErr == nil && json.Unmarshal(raw, told) == nil {
		return told
	}
	return problem.Wrap(err, kind(wire.Code()), "", "%s", what)
}

// code is the Connect code of a kind; clients that know only Connect still see the right class of trouble.
func code(kind problem.Kind) connect.Code {
	switch kind {
	case problem.Usage, problem.Invalid:
		return connect.CodeInvalidArgument
	case problem.Unauthenticated:
		return connect.CodeUnauthenticated
	case problem.Denied, problem.Unapproved, problem.WrongKey:
		return connect.CodePermissionDenied
	case problem.NotFound:
		return connect.CodeNotFound
	case problem.Conflict, problem.Busy:
		return connect.CodeAborted
	case problem.Stale:
		return connect.CodeFailedPrecondition
	case problem.Unreachable, problem.Unavailable:
		return connect.CodeUnavailable
	case problem.Corrupt:
		return connect.CodeDataLoss
	case problem.Partial, problem.Internal:
		return connect.CodeInternal
	}
	return connect.CodeInternal
}

// kind reads a Connect code that came without a problem: from a proxy, an older server, or the wire itself.
func kind(code connect.Code) problem.Kind {
	switch code {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange, connect.CodeResourceExhausted:
		return problem.Invalid
	case connect.CodePermissionDenied, connect.CodeUnauthenticated:
		return problem.Denied
	case connect.CodeNotFound, connect.CodeUnimplemented:
		return problem.NotFound
	case connect.CodeAborted, connect.CodeAlreadyExists, connect.CodeFailedPrecondition:
		return problem.Conflict
	case connect.CodeDataLoss:
		return problem.Corrupt
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeCanceled, connect.CodeUnknown:
		return problem.Unreachable
	case connect.CodeInternal:
		return problem.Unavailable // a proxy's 500, or a stream that broke midway
	}
	return problem.Unreachable
}
