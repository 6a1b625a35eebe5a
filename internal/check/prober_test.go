package check

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/link"
)

func serve(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

// runProber gives the results of a prober that runs until the test ends.
func runProber(t *testing.T, checks ...link.Check) (*Prober, <-chan link.Result) {
	t.Helper()
	results := make(chan link.Result, 1000)
	p := NewProber(func(r link.Result) { results <- r })
	p.Set(link.ProbesSetting{Checks: checks})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return p, results
}

// await reads results until one is as wanted.
func await(t *testing.T, results <-chan link.Result, what string, wanted func(link.Result) bool) link.Result {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	for {
		select {
		case r := <-results:
			if wanted(r) {
				return r
			}
		case <-deadline.C:
			t.Fatalf("no result within 10 s: %s", what)
		}
	}
}

func TestProberSeesAnOutageAndItsEnd(t *testing.T) {
	var down atomic.Bool
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("X-Holdfast-Epoch", "7")
		fmt.Fprintf(w, "welcome to %s", r.Host)
	})
	_, results := runProber(t, link.Check{
		Name: "edge", Instance: "acme", URL: "http://acme.example.test/", Connect: server.Listener.Addr().String(), Status: 200,
		Contains: "acme.example.test", Interval: 100 * time.Millisecond, Timeout: 2 * time.Second,
	})
	good := await(t, results, "good", func(r link.Result) bool { return r.OK })
	if good.Epoch != 7 || good.Status != 200 || good.Phases == nil || good.Phases.Wait <= 0 || good.Instance != "acme" || good.At.IsZero() {
		t.Errorf("good result: %+v", good)
	}
	down.Store(true)
	bad := await(t, results, "bad", func(r link.Result) bool { return !r.OK })
	if bad.Inconclusive || bad.Status != 503 || !strings.Contains(bad.Error, "503 instead of 200") {
		t.Errorf("bad result: %+v", bad)
	}
	down.Store(false)
	await(t, results, "good again", func(r link.Result) bool { return r.OK })
}

// TestProberWithoutANetworkGivesNoVerdict takes the prober's mirror away while its target is dead too.
func TestProberWithoutANetworkGivesNoVerdict(t *testing.T) {
	server := serve(t, func(http.ResponseWriter, *http.Request) {})
	p, results := runProber(t, link.Check{Name: "edge", Instance: "acme", URL: server.URL, Interval: 100 * time.Millisecond, Timeout: time.Second})
	await(t, results, "good", func(r link.Result) bool { return r.OK })
	if err := p.self.close(); err != nil {
		t.Fatal(err)
	}
	server.Close()
	await(t, results, "inconclusive", func(r link.Result) bool { return r.Inconclusive && !r.OK })
}

func TestSetReplacesWhatIsAsked(t *testing.T) {
	var first, second atomic.Int64
	a := serve(t, func(http.ResponseWriter, *http.Request) { first.Add(1) })
	b := serve(t, func(http.ResponseWriter, *http.Request) { second.Add(1) })
	of := func(name, url string) link.Check {
		return link.Check{Name: name, Instance: "acme", URL: url, Interval: 100 * time.Millisecond}
	}
	p, results := runProber(t, of("a", a.URL))
	await(t, results, "a", func(r link.Result) bool { return r.Check == "a" && r.OK })
	p.Set(link.ProbesSetting{Checks: []link.Check{of("b", b.URL)}})
	for range 3 {
		await(t, results, "b", func(r link.Result) bool { return r.Check == "b" && r.OK })
	}
	asked := first.Load()
	for range 3 {
		if r := await(t, results, "b", func(r link.Result) bool { return r.OK }); r.Check != "b" {
			t.Fatalf("%s is still asked", r.Check)
		}
	}
	if first.Load() != asked {
		t.Error("a removed check is still asked")
	}
}

func TestAskJudgesTheCertificate(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(server.Close)
	c := link.Check{URL: "https://example.com/", Connect: server.Listener.Addr().String(), Timeout: 5 * time.Second}
	if r := Ask(t.Context(), c); r.OK || !strings.Contains(r.Error, "certificate") {
		t.Errorf("an unknown authority was believed: %+v", r)
	}
	c.Authority = server.Certificate().Raw
	if r := Ask(t.Context(), c); !r.OK || r.Phases.TLS <= 0 {
		t.Errorf("the given authority was not believed: %+v", r)
	}
	c.URL, c.Host = "https://"+server.Listener.Addr().String()+"/", "other.test"
	if r := Ask(t.Context(), c); r.OK {
		t.Error("a certificate of another name was believed")
	}
}

func TestAskTimesOutAndConnects(t *testing.T) {
	release := make(chan struct{})
	slow := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	r := Ask(t.Context(), link.Check{URL: slow.URL, Timeout: 50 * time.Millisecond})
	if r.OK || r.Inconclusive || r.Took < 50*time.Millisecond || r.Phases.Wait == 0 {
		t.Errorf("slow: %+v", r)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if r := Ask(t.Context(), link.Check{URL: "tcp://" + address}); !r.OK {
		t.Errorf("open port: %+v", r)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if r := Ask(t.Context(), link.Check{URL: "tcp://" + address}); r.OK || r.Inconclusive {
		t.Errorf("closed port: %+v", r)
	}
}
