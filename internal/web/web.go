package web

import (
	"context"
	"embed"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/problem"
)

//go:embed pages/*.html
var pageFiles embed.FS

//go:embed static
var staticFiles embed.FS

// Reads is where the pages get what they show; app gives the control database's, tests give fixed ones.
type Reads struct {
	Inventory  func(context.Context) (fleet.Inventory, error)
	Proofs     func(context.Context) (map[string]Proof, error)
	Instance   func(ctx context.Context, name string) (InstanceReads, error)
	Operations func(ctx context.Context) ([]Operation, error)
	Operation  func(ctx context.Context, id string) (Operation, []Step, error)
	Drills     func(ctx context.Context) ([]Drill, error)
	// Report renders a drill's scorecard; format is html, json or md.
	Report func(ctx context.Context, id, format string) ([]byte, error)
}

// Config is what the pages need.
type Config struct {
	Reads
	// Enter checks a token and gives the cookie of a session; a problem of kind denied when it is wrong.
	Enter func(ctx context.Context, token string) (*http.Cookie, error)
	// Allowed tells whether the request comes from someone who may look.
	Allowed func(*http.Request) bool
	// Changed gives a channel that closes at the next change.
	Changed func() <-chan struct{}
	Now     func() time.Time
	Log     *slog.Logger
}

// Web draws the rooms.
type Web struct {
	Config
	pages map[string]*template.Template
}

// room is an entry of the navigation.
type room struct {
	Name, Path string
	Here       bool
}

// New parses the pages.
func New(c Config) (*Web, error) {
	w := &Web{Config: c, pages: map[string]*template.Template{}}
	names, err := fs.Glob(pageFiles, "pages/*.html")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		page := name[len("pages/") : len(name)-len(".html")]
		t, err := template.ParseFS(pageFiles, "pages/layout.html", "pages/operations.html", name)
		if err != nil {
			return nil, err
		}
		w.pages[page] = t
	}
	return w, nil
}

func (w *Web) now() time.Time {
	if w.Now != nil {
		return w.Now()
	}
	return time.Now()
}

// Handler serves the pages. Everything but the way in and the style needs a session.
func (w *Web) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /static/", cached(http.FileServerFS(staticFiles)))
	mux.HandleFunc("GET /login", w.login)
	mux.HandleFunc("POST /login", w.enter)
	mux.Handle("GET /{$}", w.inside(w.fleet))
	mux.Handle("GET /nodes", w.inside(w.nodes))
	mux.Handle("GET /instances/{name}", w.inside(w.instance))
	mux.Handle("GET /operations", w.inside(w.operations))
	mux.Handle("GET /operations/{id}", w.inside(w.operation))
	mux.Handle("GET /drills", w.inside(w.drills))
	mux.Handle("GET /drills/{id}", w.inside(w.drill))
	mux.Handle("GET /drills/{id}/{file}", w.inside(w.report))
	mux.Handle("GET /live", w.inside(w.live))
	return guarded(mux)
}

// guarded keeps other sites from framing the pages or running anything in them.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		h := rw.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'self'; form-action 'self'; base-uri 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		next.ServeHTTP(rw, r)
	})
}

func cached(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Cache-Control", "max-age=300")
		next.ServeHTTP(rw, r)
	})
}

// inside lets in who may look; a token in the address is traded for a session, so that a printed link works once typed.
func (w *Web) inside(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if w.Allowed(r) {
			next(rw, r)
			return
		}
		if token := r.URL.Query().Get("token"); token != "" {
			w.trade(rw, r, token, r.URL.Path)
			return
		}
		http.Redirect(rw, r, "/login?next="+r.URL.Path, http.StatusSeeOther)
	})
}

type loginView struct{ Wrong, Next string }

func (w *Web) login(rw http.ResponseWriter, r *http.Request) {
	w.draw(rw, r, "login", "Enter", loginView{Next: inner(r.URL.Query().Get("next"))})
}

func (w *Web) enter(rw http.ResponseWriter, r *http.Request) {
	w.trade(rw, r, r.PostFormValue("token"), r.PostFormValue("next"))
}

func (w *Web) trade(rw http.ResponseWriter, r *http.Request, token, next string) {
	cookie, err := w.Enter(r.Context(), token)
	if err != nil {
		rw.WriteHeader(problem.HTTPStatus(err))
		w.draw(rw, r, "login", "Enter", loginView{Wrong: err.Error(), Next: inner(next)})
		return
	}
	http.SetCookie(rw, cookie)
	http.Redirect(rw, r, inner(next), http.StatusSeeOther)
}

// inner lets a redirect lead only to our own pages.
func inner(path string) string {
	if len(path) < 1 || path[0] != '/' || len(path) > 1 && (path[1] == '/' || path[1] == '\\') {
		return "/"
	}
	return path
}

type pageView struct {
	Title string
	Rooms []room
	Live  bool
	View  any
}

func (w *Web) draw(rw http.ResponseWriter, r *http.Request, page, title string, view any) {
	rw.Header().Set("Content-Type", "text/html; charset=utf-8")
	rw.Header().Set("Cache-Control", "no-store")
	p := pageView{Title: title, Rooms: rooms(r.URL.Path), Live: page != "login", View: view}
	if err := w.pages[page].ExecuteTemplate(rw, "layout", p); err != nil {
		w.Log.Warn("draw page", "page", page, "err", err)
	}
}

func rooms(path string) []room {
	list := []room{{Name: "Fleet", Path: "/"}, {Name: "Nodes", Path: "/nodes"}, {Name: "Operations", Path: "/operations"}, {Name: "Drills", Path: "/drills"}}
	for i, room := range list {
		list[i].Here = path == room.Path || room.Path != "/" && len(path) > len(room.Path) && path[:len(room.Path)+1] == room.Path+"/"
	}
	return list
}

func (w *Web) fail(rw http.ResponseWriter, r *http.Request, err error) {
	if problem.KindOf(err) == problem.Internal {
		w.Log.Error("page", "path", r.URL.Path, "err", err)
	}
	http.Error(rw, err.Error(), problem.HTTPStatus(err))
}

// liveEvery is the least time between two signals to one browser.
const liveEvery = time.Second

// live tells the browser that something changed; it carries no data, so a missed signal costs nothing but time.
func (w *Web) live(rw http.ResponseWriter, r *http.Request) {
	rw.Header().Set("Content-Type", "text/event-stream")
	rw.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(rw)
	if _, err := rw.Write([]byte(": hello\n\n")); err != nil || out.Flush() != nil {
		return
	}
	for {
		changed := w.Changed()
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		case <-time.After(5 * time.Second): // ages grow even when nothing happens
		}
		if _, err := rw.Write([]byte("data: changed\n\n")); err != nil || out.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(liveEvery):
		}
	}
}
