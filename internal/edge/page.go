package edge

import (
	_ "embed"
	"encoding/json"
	"html/template"
	"mime"
	"net/http"
	"strings"
	"time"
)

//go:embed page.html
var pageHTML string

var pageTemplate = template.Must(template.New("page").Parse(pageHTML))

// page is what a person reads when no endpoint answers. It tells nothing of nodes, endpoints or other customers.
type page struct {
	Status int
	Title  string
	Text   string
	Retry  time.Duration // 0 = no Retry-After
	ID     string        // request id, to quote to support
}

//nolint:gochecknoglobals // a table, never written
var (
	pageMaintenance = page{http.StatusServiceUnavailable, "Back in a moment", "This service is being worked on. Your data is safe. The page tries again by itself.", 10 * time.Second, ""}
	pageUnknown     = page{http.StatusNotFound, "No such address", "Nothing answers under this name here. Please check the spelling.", 0, ""}
	pageTooLarge    = page{http.StatusRequestEntityTooLarge, "Too large", "What was sent is larger than this service takes.", 0, ""}
	pageTimeout     = page{http.StatusGatewayTimeout, "No answer in time", "The service did not answer in time. Please try again.", 5 * time.Second, ""}
	pageBroken      = page{http.StatusBadGateway, "The answer broke off", "The service ended the connection before it answered. Please try again.", 5 * time.Second, ""}
)

func (p *proxy) unknownHost(x *exchange, r *http.Request) { p.page(x, r, pageUnknown) }
func (p *proxy) tooLarge(x *exchange, r *http.Request)    { p.page(x, r, pageTooLarge) }

// maintenance says that the instance is down; a route's own text replaces the usual one.
func (p *proxy) maintenance(x *exchange, r *http.Request) {
	x.counts.pages.Add(1)
	shown := pageMaintenance
	if x.route.Maintenance != "" {
		shown.Text = x.route.Maintenance
	}
	p.page(x, r, shown)
}

// page answers in the form that was asked for: HTML for people, problem+json for programs.
func (p *proxy) page(x *exchange, r *http.Request, shown page) {
	if x.status != 0 {
		return
	}
	shown.ID = x.id
	h := x.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if shown.Retry > 0 {
		h.Set("Retry-After", retryAfter(shown.Retry))
	}
	if !wantsHTML(r) {
		shown.writeJSON(x)
		return
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	x.WriteHeader(shown.Status)
	if r.Method != http.MethodHead {
		_ = pageTemplate.Execute(x, shown) // the client may be gone, and its line in the access log says how much it took
	}
}

func (s page) writeJSON(x *exchange) {
	x.Header().Set("Content-Type", "application/problem+json")
	x.WriteHeader(s.Status)
	_ = json.NewEncoder(x).Encode(map[string]any{"status": s.Status, "title": s.Title, "detail": s.Text, "instance": s.ID})
}

// RetrySeconds is what the page's own refresh waits.
func (s page) RetrySeconds() int { return int(s.Retry / time.Second) }

// wantsHTML tells whether the client is a browser: it names text/html among what it accepts.
func wantsHTML(r *http.Request) bool {
	for _, accept := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(accept, ",") {
			if kind, _, err := mime.ParseMediaType(part); err == nil && kind == "text/html" {
				return true
			}
		}
	}
	return false
}
