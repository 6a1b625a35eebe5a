// Package problem holds the error a person reads.
//
// Words: a Kind says what sort of trouble it is and crosses every wire as data; the Message says what did not
// happen, to which object, and where; the Hint is the next command to type. One table maps a kind to an HTTP
// status, one to an exit code, and nothing else in Holdfast decides either.
//
// Invariant: a kind that is not in the tables is Internal.
package problem

import (
	"errors"
	"fmt"
	"net/http"
)

// Kind classifies an error for machines: HTTP status, exit code and retry decisions follow from it.
type Kind string

// The kinds. Their text crosses the API and the agent link and is kept stable.
const (
	Usage           Kind = "usage"           // the command or its flags are wrong
	Invalid         Kind = "invalid"         // what was declared or sent is wrong
	Unauthenticated Kind = "unauthenticated" // nobody is signed in, or the token does not hold
	Denied          Kind = "denied"          // this actor may not do this
	Unapproved      Kind = "unapproved"      // an approval is missing or was given to something else
	NotFound        Kind = "not_found"       // no such object
	Conflict        Kind = "conflict"        // exists already, or holds something else
	Stale           Kind = "stale"           // the plan was made for an older fleet or inventory
	Busy            Kind = "busy"            // somebody else holds the lease
	Unreachable     Kind = "unreachable"     // a node or a vault does not answer
	Unavailable     Kind = "unavailable"     // the server cannot do it now; trying again may help
	WrongKey        Kind = "wrong_key"       // the key does not open this
	Corrupt         Kind = "corrupt"         // bytes are not what they were
	Partial         Kind = "partial"         // some was done, some was not
	Internal        Kind = "internal"        // a fault of Holdfast itself
)

// Error is an error for a person. Message says what did not happen and to which object, in lower case without a
// final stop; Hint is the next command or deed; File and Line are set where a declared file is at fault.
type Error struct {
	Kind    Kind   `json:"kind"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	cause   error
}

// Error renders "file:line: message".
func (e *Error) Error() string {
	if e.File == "" {
		return e.Message
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Message)
}

// Unwrap gives the cause, when the error was made by Wrap.
func (e *Error) Unwrap() error { return e.cause }

// New makes an error of a kind with a hint.
func New(kind Kind, hint, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// Wrap gives cause a kind and a hint, and a message that ends with the cause's own.
func Wrap(cause error, kind Kind, hint, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...) + ": " + cause.Error(), Hint: hint, cause: cause}
}

// At places the error in a declared file.
func (e *Error) At(file string, line int) *Error {
	placed := *e
	placed.File, placed.Line = file, line
	return &placed
}

// KindOf finds the kind of err; Internal when err carries none, and "" for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// row is one line of the table: how a kind leaves the program.
type row struct {
	status int // HTTP status
	exit   int // exit code of the command line
}

func table(kind Kind) row {
	switch kind {
	case Usage:
		return row{http.StatusBadRequest, 2}
	case Invalid:
		return row{http.StatusUnprocessableEntity, 1}
	case Unauthenticated:
		return row{http.StatusUnauthorized, 1}
	case Denied:
		return row{http.StatusForbidden, 1}
	case Unapproved:
		return row{http.StatusForbidden, 13}
	case NotFound:
		return row{http.StatusNotFound, 10}
	case Conflict, Stale:
		return row{http.StatusConflict, 1}
	case Busy:
		return row{http.StatusLocked, 11}
	case Unreachable:
		return row{http.StatusBadGateway, 1}
	case Unavailable:
		return row{http.StatusServiceUnavailable, 1}
	case WrongKey:
		return row{http.StatusForbidden, 12}
	case Corrupt:
		return row{http.StatusInternalServerError, 14}
	case Partial:
		return row{http.StatusInternalServerError, 3}
	case Internal:
		return row{http.StatusInternalServerError, 1}
	}
	return row{http.StatusInternalServerError, 1}
}

// HTTPStatus is the status code that answers a request which met err.
func HTTPStatus(err error) int {
	if err == nil {
		return http.StatusOK
	}
	return table(KindOf(err)).status
}

// Exit codes that are not errors.
const (
	ExitDone           = 0
	ExitChangesPending = 4   // plan found changes
	ExitInterrupted    = 130 // Ctrl-C
)

// ExitCode is what the command line ends with after err.
func ExitCode(err error) int {
	if err == nil {
		return ExitDone
	}
	return table(KindOf(err)).exit
}

// List is several errors of one run, shown together.
type List []*Error

// Error renders one error a line.
func (l List) Error() string {
	text := ""
	for i, e := range l {
		if i > 0 {
			text += "\n"
		}
		text += e.Error()
	}
	return text
}

// Unwrap lets errors.Is and errors.As look into every member.
func (l List) Unwrap() []error {
	all := make([]error, len(l))
	for i, e := range l {
		all[i] = e
	}
	return all
}

// OrNil gives nil for an empty list, so that it can be returned as an error.
func (l List) OrNil() error {
	if len(l) == 0 {
		return nil
	}
	return l
}
