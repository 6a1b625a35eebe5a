package dash

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"
)

// API serves one instance. StatusAgent is the secret User-Agent without which /status answers 404.
type API struct {
	Store       *Store
	Queue       Queue
	Instance    string
	Release     Release
	StatusAgent string
}

// Handler routes the requests. What customers see lies below the base of the release, so that a frontend of another
// major version finds nothing; the rest is for whoever runs the instance.
func (a API) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /liveness", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"alive": a.Instance})
	})
	mux.HandleFunc("GET /readiness", a.readiness)
	mux.HandleFunc("GET /status", a.status)
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"instance": a.Instance, "version": a.Release.Version, "base": a.Release.Base()})
	})
	mux.Handle("GET /invariants", serve(func(r *http.Request) (any, error) { return a.invariants(r) }))
	base := a.Release.Base()
	mux.Handle("POST "+base+"/facts", serve(a.putFacts))
	mux.Handle("GET "+base+"/sections", serve(a.sections))
	mux.Handle("GET "+base+"/dashboards", serve(func(r *http.Request) (any, error) { return a.Store.Dashboards(r.Context()) }))
	mux.Handle("GET "+base+"/dashboards/{id}", serve(func(r *http.Request) (any, error) { return a.Store.Dashboard(r.Context(), r.PathValue("id")) }))
	mux.Handle("PUT "+base+"/dashboards/{id}", serve(a.putDashboard))
	mux.Handle("POST "+base+"/files", serve(func(r *http.Request) (any, error) {
		return a.Store.Folder.Put(http.MaxBytesReader(nil, r.Body, 64<<20))
	}))
	mux.HandleFunc("GET "+base+"/files/{name}", a.file)
	mux.Handle("PUT "+base+"/connections/{id}", serve(a.putConnection))
	mux.Handle("GET "+base+"/connections/{id}", serve(a.connection))
	return mux
}

func (a API) readiness(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if err := errors.Join(a.Store.Ping(ctx), a.Queue.Ping(ctx)); err != nil {
		answer(w, http.StatusServiceUnavailable, map[string]string{"ready": "no", "why": err.Error()})
		return
	}
	answer(w, http.StatusOK, map[string]string{"ready": "yes"})
}

// Status is what /status says. Each part is "ok", or what is wrong with it.
type Status struct {
	Instance string `json:"instance"`
	Version  string `json:"version"`
	Engine   string `json:"engine"` // of the database
	Database string `json:"database"`
	Storage  string `json:"storage"`
	Cache    string `json:"cache"`
	Workers  string `json:"workers"`
	Alive    int64  `json:"alive"`   // workers
	Waiting  int64  `json:"waiting"` // dashboards to draw
}

func (a API) status(w http.ResponseWriter, r *http.Request) {
	if a.StatusAgent == "" || subtle.ConstantTimeCompare([]byte(r.UserAgent()), []byte(a.StatusAgent)) != 1 {
		http.NotFound(w, r)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	status, well := a.look(ctx)
	code := http.StatusOK
	if !well {
		code = http.StatusServiceUnavailable
	}
	answer(w, code, status)
}

func (a API) look(ctx context.Context) (Status, bool) {
	well := true
	word := func(err error) string {
		if err != nil {
			well = false
			return err.Error()
		}
		return "ok"
	}
	s := Status{Instance: a.Instance, Version: a.Release.Version}
	var err error
	s.Engine, err = a.Store.Engine(ctx)
	s.Database = word(err)
	s.Storage = word(a.Store.Folder.Writable())
	s.Waiting, err = a.Queue.Waiting(ctx)
	s.Cache = word(err)
	s.Alive, err = a.Queue.Alive(ctx)
	if err == nil && s.Alive == 0 {
		err = errors.New("none was heard of lately")
	}
	s.Workers = word(err)
	return s, well
}

// problems is an answer that is given with 409: the data is not what it should be.
type problems struct{ Verified }

func (a API) invariants(r *http.Request) (any, error) {
	v, err := a.Store.Verify(r.Context())
	if err != nil {
		return nil, err
	}
	if len(v.Problems) > 0 {
		return problems{v}, nil
	}
	return v, nil
}

func (a API) putFacts(r *http.Request) (any, error) {
	decoder, total := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 64<<20)), 0
	for {
		batch, err := nextFacts(decoder, 500)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if len(batch) == 0 {
			break
		}
		if err := a.Store.PutFacts(r.Context(), batch); err != nil {
			return nil, err
		}
		total += len(batch)
	}
	a.Queue.DropSums(r.Context())
	return map[string]int{"stored": total}, nil
}

// nextFacts reads up to n facts, one JSON document after another.
func nextFacts(decoder *json.Decoder, n int) ([]Fact, error) {
	var batch []Fact
	for len(batch) < n {
		var fact Fact
		err := decoder.Decode(&fact)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read fact: %w", err)
		}
		batch = append(batch, fact)
	}
	return batch, nil
}

func (a API) sections(r *http.Request) (any, error) {
	return a.Queue.Sums(r.Context(), func() ([]SectionSize, error) { return a.Store.Sections(r.Context()) })
}

// putDashboard acknowledges what is durable. Drawing comes later: where the queue is away, a worker finds the document.
func (a API) putDashboard(r *http.Request) (any, error) {
	var d Dashboard
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 4<<20)).Decode(&d); err != nil {
		return nil, fmt.Errorf("%w: read dashboard: %w", ErrInvalid, err)
	}
	d.ID = r.PathValue("id")
	stored, err := a.Store.PutDashboard(r.Context(), d)
	if err != nil {
		return nil, err
	}
	if err := a.Queue.Put(r.Context(), stored.ID); err != nil {
		slog.Warn("dashboard not queued", "dashboard", stored.ID, "err", err)
	}
	return stored, nil
}

func (a API) putConnection(r *http.Request) (any, error) {
	text, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("%w: read connection: %w", ErrInvalid, err)
	}
	id := r.PathValue("id")
	return map[string]string{"id": id, "sha256": digest(text)}, a.Store.PutConnection(r.Context(), id, text)
}

func (a API) connection(r *http.Request) (any, error) {
	id := r.PathValue("id")
	sum, err := a.Store.ConnectionSum(r.Context(), id)
	return map[string]string{"id": id, "sha256": sum}, err
}

func (a API) file(w http.ResponseWriter, r *http.Request) {
	file, err := a.Store.Folder.Open(r.PathValue("name"))
	if err != nil {
		fail(w, err)
		return
	}
	defer file.Close()
	start := make([]byte, 512)
	n, _ := io.ReadFull(file, start) // a short file is all there is
	w.Header().Set("Content-Type", contentType(start[:n]))
	if _, err := file.Seek(0, io.SeekStart); err == nil {
		_, _ = io.Copy(w, file) // the client went away: nobody is left to tell
	}
}

// contentType knows the one thing that the workers make; what customers bring is only ever downloaded.
func contentType(start []byte) string {
	if len(start) > 4 && string(start[:4]) == "<svg" {
		return "image/svg+xml"
	}
	return "application/octet-stream"
}

// serve answers with what the handler gives.
func serve(handle func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		value, err := handle(r)
		if err != nil {
			fail(w, err)
			return
		}
		code := http.StatusOK
		switch value.(type) {
		case problems:
			code = http.StatusConflict
		case Dashboard, File:
			if r.Method != http.MethodGet {
				code = http.StatusCreated
			}
		}
		answer(w, code, value)
	})
}

func answer(w http.ResponseWriter, code int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(value) // the client went away: nobody is left to tell
}

func fail(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, ErrInvalid):
		code = http.StatusUnprocessableEntity
	case errors.Is(err, ErrNotFound):
		code = http.StatusNotFound
	}
	answer(w, code, map[string]string{"error": err.Error()})
}
