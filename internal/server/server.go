// Package server is the HTTP face of the control plane: one handler per resource, each a few lines that check the
// role, call a package to the left and answer in the words of package api.
//
// Words: a resource's file registers its routes; a deed is what a route does, in the words an audit record and a
// refusal use.
//
// Invariant: no handler works before it knows who asks and that the role suffices; every deed that changes something
// writes its audit record in the same transaction.
package server

import (
	"context"
	"log/slog"
	"net/http"
	"path"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"

	"holdfast/internal/access"
	"holdfast/internal/api"
	"holdfast/internal/apply"
	"holdfast/internal/audit"
	"holdfast/internal/db"
	"holdfast/internal/observe"
	"holdfast/internal/recovery"
	"holdfast/internal/secret"
)

// Parts is what the handlers work with.
type Parts struct {
	DB      *db.DB
	Keys    *access.Keys
	Secrets *secret.Store
	Audit   *audit.Log
	Log     *slog.Logger
	Metrics *prometheus.Registry
	Version string
	Ready   func(ctx context.Context) error // why the server cannot serve now; nil = it can
	Mounts  []Mount                         // the agent link and the web

	Observer *observe.Observer
	Declared *apply.Declared
	Planner  *apply.Planner
	Recovery *recovery.Runner // drills and recoveries; nil leaves their routes out
}

// Mount is a handler of its own under a path: "/" or "/holdfast.link/".
type Mount struct {
	Path    string
	Handler http.Handler
	Machine bool // its callers are machines, not browsers: the check for forged cross-site requests does not apply
}

// Server answers requests.
type Server struct {
	Parts
	api huma.API
}

// New makes the handler of the one port.
func New(parts Parts) http.Handler {
	mux := http.NewServeMux()
	s := &Server{Parts: parts, api: humago.New(mux, apiConfig(parts.Version))}
	s.health(mux)
	s.me()
	s.tokens()
	s.joinTokens()
	s.audit()
	if parts.Recovery != nil {
		s.drills()
	}
	s.nodes()
	s.sites()
	s.instances()
	s.plans()
	s.operations()
	s.streams()
	s.backups()
	s.adoptions()
	for _, m := range parts.Mounts {
		if !m.Machine {
			mux.Handle(m.Path, m.Handler)
		}
	}
	return s.outer(mux)
}

// apiConfig turns off what would load scripts from other machines or add fields to answers.
func apiConfig(version string) huma.Config {
	config := huma.DefaultConfig("Holdfast", version)
	config.OpenAPIPath, config.DocsPath, config.SchemasPath = "/api/openapi", "", ""
	config.CreateHooks = nil
	config.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	return config
}

// schemaName tells apart types of one name: an Event of package op is OpEvent. Those of package api are named as they are.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if home := path.Base(t.PkgPath()); home != "." && home != "api" {
		return strings.ToUpper(home[:1]) + home[1:] + name
	}
	return name
}

// outer wraps the whole: machines' mounts first, then for everybody else the refusal of requests that another site
// makes a browser send, who it is, and the measure.
func (s *Server) outer(people http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", http.NewCrossOriginProtection().Handler(s.signedIn(s.measured(people))))
	for _, m := range s.Mounts {
		if m.Machine {
			mux.Handle(m.Path, m.Handler)
		}
	}
	return s.survive(mux)
}

// answer is what huma sends as the response's body.
type answer[T any] struct{ Body T }

// route is where a deed is found and who may do it.
type route struct {
	method string
	path   string
	id     string // operation id in the OpenAPI document
	deed   string // "list nodes"
	role   access.Role
}

// handle registers do under a route, with the role checked before and errors turned into problems after.
func handle[In, Out any](s *Server, r route, do func(ctx context.Context, in *In) (Out, error)) {
	operation := huma.Operation{Method: r.method, Path: r.path, OperationID: r.id, Summary: r.deed, Description: "Takes the role " + string(r.role) + "."}
	operation.MaxBodyBytes = maxBody
	huma.Register(s.api, operation, func(ctx context.Context, in *In) (*answer[Out], error) {
		if err := access.From(ctx).May(r.role, r.deed); err != nil {
			return nil, api.ToProblem(err)
		}
		out, err := do(ctx, in)
		if err != nil {
			s.logFault(ctx, r.deed, err)
			return nil, api.ToProblem(err)
		}
		return &answer[Out]{out}, nil
	})
}

// maxBody bounds a request; a fleet directory of thousands of instances fits.
const maxBody = 64 << 20

// nothing is the input of routes without parameters.
type nothing struct{}

// body is the input of routes that take only a body.
type body[T any] struct{ Body T }

// byID is the input of routes that name one object.
type byID struct {
	ID string `path:"id"`
}

// list makes nil an empty list, which JSON shows as [] and not as null.
func list[T any](items []T, err error) ([]T, error) {
	if items == nil {
		items = []T{}
	}
	return items, err
}
