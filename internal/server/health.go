package server

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"holdfast/internal/access"
	"holdfast/internal/problem"
)

// health answers machines that watch the server: /healthz while the process lives, /readyz while it can do its work,
// /metrics for who may view.
func (s *Server) health(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("alive\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := s.Ready(r.Context()); err != nil {
			refuse(w, problem.Wrap(err, problem.Unavailable, "look into the server's log", "server is not ready"))
			return
		}
		_, _ = w.Write([]byte("ready\n"))
	})
	metrics := promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if err := access.From(r.Context()).May(access.Viewer, "read metrics"); err != nil {
			refuse(w, err)
			return
		}
		metrics.ServeHTTP(w, r)
	})
}
