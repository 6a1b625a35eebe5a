package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/internal/access"
	"holdfast/internal/api"
	"holdfast/internal/problem"
)

// SessionCookie is the cookie that holds a browser's session.
const SessionCookie = "__Host-holdfast"

// signedIn puts who asks into the request's context: a bearer token, or a browser's session. A token that does not
// hold is refused here; without one the request goes on and each handler refuses what takes a role.
func (s *Server) signedIn(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, bearer := credential(r)
		if text == "" {
			next.ServeHTTP(w, r)
			return
		}
		actor, err := access.SignIn(r.Context(), s.DB, text, time.Now())
		if err != nil && bearer {
			refuse(w, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(access.With(r.Context(), actor)))
	})
}

// credential is the token or session text of a request. A session that has ended is let pass as nobody, for the
// browser must reach the page where one signs in.
func credential(r *http.Request) (text string, bearer bool) {
	if text, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return text, true
	}
	if cookie, err := r.Cookie(SessionCookie); err == nil {
		return cookie.Value, false
	}
	return "", false
}

// refuse answers with a problem.
func refuse(w http.ResponseWriter, err error) {
	found := api.ToProblem(err)
	w.Header().Set("Content-Type", found.ContentType(""))
	w.WriteHeader(found.Status)
	_ = json.NewEncoder(w).Encode(found) // the caller has gone; there is nobody to tell
}

// survive turns a panic of a handler into an answer and a line in the log.
func (s *Server) survive(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			fault := recover()
			if fault == nil {
				return
			}
			if err, ok := fault.(error); ok && errors.Is(err, http.ErrAbortHandler) { // how a handler ends a connection on purpose
				panic(fault)
			}
			s.Log.Error("handler panicked", "path", r.URL.Path, "fault", fault, "stack", string(debug.Stack()))
			refuse(w, problem.New(problem.Internal, "look into the server's log", "%s %s was not finished: the server met a fault of its own", r.Method, r.URL.Path))
		}()
		next.ServeHTTP(w, r)
	})
}

// logFault logs what an operator of the server should look at; a caller's own mistakes are not.
func (s *Server) logFault(ctx context.Context, deed string, err error) {
	if kind := problem.KindOf(err); kind == problem.Internal || kind == problem.Corrupt {
		s.Log.Error("deed failed", "deed", deed, "actor", access.From(ctx).Name, "err", err)
	}
}

// measured counts and times requests by route.
func (s *Server) measured(next http.Handler) http.Handler {
	took := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "holdfast_http_request_seconds", Help: "Time to answer a request, by route and status.",
		Buckets: []float64{.005, .02, .1, .5, 2, 10},
	}, []string{"route", "status"})
	s.Metrics.MustRegister(took)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		seen := &watched{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(seen, r)
		took.WithLabelValues(routeOf(r), strconv.Itoa(seen.status)).Observe(time.Since(began).Seconds())
		s.Log.Debug("answered", "method", r.Method, "path", r.URL.Path, "status", seen.status, "took", time.Since(began))
	})
}

// routeOf is the pattern that took the request, so that ids do not become labels.
func routeOf(r *http.Request) string {
	if r.Pattern == "" {
		return "none"
	}
	return r.Pattern
}

// watched remembers the status of an answer.
type watched struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *watched) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach flushing and deadlines below.
func (w *watched) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush implements http.Flusher, which event streams ask for.
func (w *watched) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }
