// Command edge measures what the edge costs a request: the same endpoint asked directly, through a plain
// httputil.ReverseProxy with the same connection pool, and through the edge with its routing, health, counts and access
// log. It also measures how long a hand-over takes until the routes serve. It prints a table, and JSON with -json.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"holdfast/internal/edge"
	"holdfast/internal/link"
)

// row is one way to the endpoint; times in milliseconds.
type row struct {
	Way     string  `json:"way"`
	Clients int     `json:"clients"`
	Rate    float64 `json:"requests_per_second"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	Max     float64 `json:"max_ms"`
}

// handOver is one size of table.
type handOver struct {
	Routes int     `json:"routes"`
	P50    float64 `json:"p50_ms"`
	Max    float64 `json:"max_ms"`
}

// result is all of it.
type result struct {
	Ways      []row      `json:"ways"`
	HandOvers []handOver `json:"hand_overs"`
}

const host = "acme.example.test"

func main() {
	asJSON := flag.Bool("json", false, "print JSON")
	each := flag.Duration("each", 3*time.Second, "how long each way is measured")
	flag.Parse()
	all, err := measure(*each)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/edge:", err)
		os.Exit(1)
	}
	if *asJSON {
		_ = json.NewEncoder(os.Stdout).Encode(all) // nowhere to report that standard output is gone
		return
	}
	fmt.Printf("%-24s %8s %10s %8s %8s %8s\n", "way", "clients", "req/s", "p50 ms", "p99 ms", "max ms")
	for _, r := range all.Ways {
		fmt.Printf("%-24s %8d %10.0f %8.2f %8.2f %8.2f\n", r.Way, r.Clients, r.Rate, r.P50, r.P99, r.Max)
	}
	fmt.Printf("\n%-24s %8s %8s\n", "routes handed over", "p50 ms", "max ms")
	for _, h := range all.HandOvers {
		fmt.Printf("%-24d %8.2f %8.2f\n", h.Routes, h.P50, h.Max)
	}
}

func measure(each time.Duration) (result, error) {
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "a small answer") }))
	defer endpoint.Close()
	plain := httptest.NewServer(plainProxy(endpoint.URL))
	defer plain.Close()
	ours, err := startEdge()
	if err != nil {
		return result{}, err
	}
	defer ours.stop()
	address := endpoint.Listener.Addr().String()
	if _, err := ours.client.Apply(context.Background(), []link.Route{{Instance: "acme", Hosts: []string{host}, Endpoints: []string{address}, Epoch: 1}}); err != nil {
		return result{}, err
	}
	var all result
	for _, clients := range []int{1, 16} {
		for _, way := range []struct{ name, url string }{{"direct", endpoint.URL}, {"plain reverse proxy", plain.URL}, {"edge", "http://" + ours.address}} {
			r, err := load(way.url, clients, each)
			if err != nil {
				return all, fmt.Errorf("%s: %w", way.name, err)
			}
			r.Way = way.name
			all.Ways = append(all.Ways, r)
		}
	}
	for _, routes := range []int{10, 100, 1000} {
		h, err := handOvers(ours.client, routes, address)
		if err != nil {
			return all, err
		}
		all.HandOvers = append(all.HandOvers, h)
	}
	return all, nil
}

func plainProxy(endpoint string) http.Handler {
	target, err := url.Parse(endpoint)
	if err != nil {
		panic(err) // httptest made it
	}
	return &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.SetXForwarded() },
		Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true},
	}
}

// running is an edge in this process.
type running struct {
	client  *edge.Client
	address string
	stop    func()
}

func startEdge() (*running, error) {
	dir, err := os.MkdirTemp("", "bench-edge")
	if err != nil {
		return nil, err
	}
	settings := edge.Defaults(dir)
	settings.Plain, settings.Log = "127.0.0.1:0", slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- edge.Run(ctx, settings) }()
	r := &running{client: edge.NewClient(dir), stop: func() {
		cancel()
		<-ended
		_ = os.RemoveAll(dir) // a temporary folder
	}}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-tick.C {
		if status, err := r.client.Status(ctx); err == nil {
			r.address = status.Plain
			return r, nil
		}
	}
	r.stop()
	return nil, fmt.Errorf("the edge did not come up")
}

// load asks from so many clients, each with its own connection, and measures every answer.
func load(target string, clients int, each time.Duration) (row, error) {
	var (
		mu   sync.Mutex
		took []time.Duration
		fail error
		wg   sync.WaitGroup
	)
	began := time.Now()
	for range clients {
		wg.Go(func() {
			own, err := ask(target, began.Add(each))
			mu.Lock()
			defer mu.Unlock()
			took = append(took, own...)
			if err != nil {
				fail = err
			}
		})
	}
	wg.Wait()
	if fail != nil {
		return row{}, fail
	}
	slices.Sort(took)
	r := row{Clients: clients, Rate: float64(len(took)) / time.Since(began).Seconds()}
	r.P50, r.P99, r.Max = ms(took[len(took)/2]), ms(took[len(took)*99/100]), ms(took[len(took)-1])
	return r, nil
}

func ask(target string, until time.Time) (took []time.Duration, err error) {
	transport := &http.Transport{DialContext: (&net.Dialer{}).DialContext}
	defer transport.CloseIdleConnections()
	for time.Now().Before(until) {
		req, err := http.NewRequest(http.MethodGet, target+"/", nil)
		if err != nil {
			return nil, err
		}
		req.Host = host
		start := time.Now()
		res, err := transport.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		_, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("answered %d, %w", res.StatusCode, err)
		}
		took = append(took, time.Since(start))
	}
	return took, nil
}

// handOvers measures tables of one size that replace each other, as seen by the agent.
func handOvers(client *edge.Client, routes int, address string) (handOver, error) {
	var took []time.Duration
	for round := range 20 {
		table := make([]link.Route, routes)
		for i := range table {
			name := fmt.Sprintf("customer%d", i)
			table[i] = link.Route{Instance: name, Hosts: []string{name + ".example.test"}, Endpoints: []string{address}, Epoch: int64(round + 1)}
		}
		start := time.Now()
		if _, err := client.Apply(context.Background(), table); err != nil {
			return handOver{}, err
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return handOver{Routes: routes, P50: ms(took[len(took)/2]), Max: ms(took[len(took)-1])}, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
