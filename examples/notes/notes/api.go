package notes

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"
)

// API serves one instance. Version is shown in the status; StatusAgent, when set, is the secret User-Agent without
// which /status answers 404.
type API struct {
	Store       *Store
	Instance    string
	Version     string
	StatusAgent string
}

// workerSilence is how long the worker may be silent before the status says so.
const workerSilence = 10 * time.Second

// Handler routes the requests.
func (a API) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.home)
	mux.HandleFunc("GET /liveness", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"alive": a.Instance})
	})
	mux.HandleFunc("GET /readiness", a.readiness)
	mux.HandleFunc("GET /status", a.status)
	mux.HandleFunc("GET /invariants", a.invariants)
	mux.HandleFunc("GET /notes", a.list)
	mux.HandleFunc("GET /notes/{id}", a.get)
	mux.HandleFunc("PUT /notes/{id}", a.put)
	mux.HandleFunc("GET /files", a.files)
	mux.HandleFunc("GET /files/{name}", a.file)
	mux.HandleFunc("PUT /files/{name}", a.putFile)
	return mux
}

func (a API) home(w http.ResponseWriter, r *http.Request) {
	all, err := a.Store.Notes(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusOK, map[string]any{"instance": a.Instance, "version": a.Version, "notes": len(all)})
}

func (a API) readiness(w http.ResponseWriter, r *http.Request) {
	if err := a.Store.Ping(r.Context()); err != nil {
		answer(w, http.StatusServiceUnavailable, map[string]string{"ready": "no", "why": err.Error()})
		return
	}
	answer(w, http.StatusOK, map[string]string{"ready": "yes"})
}

func (a API) status(w http.ResponseWriter, r *http.Request) {
	if a.StatusAgent != "" && subtle.ConstantTimeCompare([]byte(r.UserAgent()), []byte(a.StatusAgent)) != 1 {
		http.NotFound(w, r)
		return
	}
	beat, err := a.Store.LastBeat(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	worker, code := "ok", http.StatusOK
	if time.Since(beat) > workerSilence {
		worker, code = "silent", http.StatusServiceUnavailable
	}
	answer(w, code, map[string]any{"instance": a.Instance, "version": a.Version, "database": "ok", "worker": worker, "worker_beat": beat})
}

func (a API) invariants(w http.ResponseWriter, r *http.Request) {
	v, err := a.Store.Verify(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	code := http.StatusOK
	if len(v.Problems) > 0 {
		code = http.StatusConflict
	}
	answer(w, code, v)
}

func (a API) list(w http.ResponseWriter, r *http.Request) {
	all, err := a.Store.Notes(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusOK, all)
}

func (a API) get(w http.ResponseWriter, r *http.Request) {
	n, err := a.Store.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusOK, n)
}

func (a API) put(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		fail(w, err)
		return
	}
	n, err := a.Store.Put(r.Context(), r.PathValue("id"), string(text))
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusCreated, n)
}

func (a API) files(w http.ResponseWriter, r *http.Request) {
	all, err := a.Store.Files(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusOK, all)
}

func (a API) file(w http.ResponseWriter, r *http.Request) {
	f, err := a.Store.OpenFile(r.Context(), r.PathValue("name"))
	if err != nil {
		fail(w, err)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = io.Copy(w, f) // the client went away: nobody is left to tell
}

func (a API) putFile(w http.ResponseWriter, r *http.Request) {
	f, err := a.Store.PutFile(r.Context(), r.PathValue("name"), http.MaxBytesReader(w, r.Body, 64<<20))
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusCreated, f)
}

func answer(w http.ResponseWriter, code int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(value) // the client went away: nobody is left to tell
}

func fail(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, ErrNotFound):
		code = http.StatusNotFound
	case errors.Is(err, ErrInvalidName):
		code = http.StatusBadRequest
	}
	answer(w, code, map[string]string{"error": err.Error()})
}
