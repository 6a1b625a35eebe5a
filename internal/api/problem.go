package api

import (
	"errors"
	"net/http"

	"holdfast/internal/problem"
)

// Problem is an error on the wire: application/problem+json.
type Problem struct {
	Type   string           `json:"type"` // "about:blank": the kind below says more
	Title  string           `json:"title"`
	Status int              `json:"status"`
	Detail string           `json:"detail"`
	Kind   problem.Kind     `json:"kind,omitempty"`
	Errors []*problem.Error `json:"errors,omitempty"`
}

// ToProblem wraps err for the wire.
func ToProblem(err error) *Problem {
	status := problem.HTTPStatus(err)
	return &Problem{"about:blank", http.StatusText(status), status, err.Error(), problem.KindOf(err), members(err)}
}

func members(err error) []*problem.Error {
	if list, ok := errors.AsType[problem.List](err); ok {
		return list
	}
	if e, ok := errors.AsType[*problem.Error](err); ok {
		return []*problem.Error{e}
	}
	return []*problem.Error{{Kind: problem.Internal, Message: err.Error()}}
}

// Error implements error.
func (p *Problem) Error() string { return p.Detail }

// GetStatus tells the HTTP status to the API library.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType tells the content type to the API library.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// asError gives back what ToProblem was given. What did not come from it (a proxy, the API library's own checks of a
// request) becomes one problem of the nearest kind.
func (p *Problem) asError() error {
	if p.Kind == "" {
		return p.foreign()
	}
	if len(p.Errors) == 1 {
		return p.Errors[0]
	}
	return problem.List(p.Errors).OrNil()
}

func (p *Problem) foreign() error {
	kind := problem.Unavailable
	if p.Status < http.StatusInternalServerError {
		kind = problem.Invalid
	}
	text := p.Detail
	for _, e := range p.Errors {
		text += ": " + e.Message
	}
	return problem.New(kind, "", "server answered %d %s: %s", p.Status, http.StatusText(p.Status), text)
}
