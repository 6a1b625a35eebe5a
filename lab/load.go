package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"
)

// Write is one write that a customer's stack acknowledged.
type Write struct {
	Name   string
	SHA256 string
	Acked  time.Time
	File   bool
}

// Customer writes to one instance through the edge, steadily, and remembers what was acknowledged.
type Customer struct {
	Instance string
	Site     string // where the instance lives at first
	url      string
	client   *http.Client
	mu       sync.Mutex
	acked    []Write
	refused  int
}

// Connect gives the customer a way in: the edge at edgeAddr, which serves the instance as host.
func (c *Customer) Connect(host, edgeAddr string, roots *x509.CertPool) {
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, network, edgeAddr)
	}
	transport := &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: host}, MaxIdleConnsPerHost: 4}
	c.url, c.client = "https://"+host, &http.Client{Transport: transport, Timeout: 5 * time.Second}
}

// WaitServes waits until the instance answers through the edge.
func (c *Customer) WaitServes(ctx context.Context, within time.Duration) error {
	return Until(ctx, within, 100*time.Millisecond, "serve "+c.Instance, func() (bool, string) {
		err := c.Serves(ctx)
		return err == nil, fmt.Sprint(err)
	})
}

// Seed writes documents and files until that many are acknowledged.
func (c *Customer) Seed(ctx context.Context, documents, files, fileBytes int) error {
	for i := range documents {
		if err := c.write(ctx, fmt.Sprintf("seed-%05d", i), text(i), false); err != nil {
			return err
		}
	}
	for i := range files {
		if err := c.write(ctx, fmt.Sprintf("seed-%05d.bin", i), noise(fileBytes), true); err != nil {
			return err
		}
	}
	return nil
}

// Add writes one document and one file under names of their own that begin with label.
func (c *Customer) Add(ctx context.Context, label string) error {
	if err := c.write(ctx, label, text(len(label)), false); err != nil {
		return err
	}
	return c.write(ctx, label+".bin", noise(4096), true)
}

// Load writes one document each interval, and a file at every tenth, until ctx ends. What is refused is counted and
// not repeated: a lost write is a fact of the outage.
func (c *Customer) Load(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		name, body, file := fmt.Sprintf("load-%06d", i), text(i), i%10 == 9
		if file {
			name, body = name+".bin", noise(4096)
		}
		if err := c.write(ctx, name, body, file); err != nil && ctx.Err() == nil {
			c.mu.Lock()
			c.refused++
			c.mu.Unlock()
		}
	}
}

func (c *Customer) write(ctx context.Context, name string, body []byte, file bool) error {
	path := "/notes/"
	if file {
		path = "/files/"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, c.url+path+name, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("write %s to %s: %d: %.200s", name, c.Instance, resp.StatusCode, answer)
	}
	sum := sha256.Sum256(body)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked = append(c.acked, Write{Name: name, SHA256: hex.EncodeToString(sum[:]), Acked: time.Now(), File: file})
	return nil
}

// Acked returns what was acknowledged before the moment.
func (c *Customer) Acked(before time.Time) []Write {
	c.mu.Lock()
	defer c.mu.Unlock()
	var writes []Write
	for _, w := range c.acked {
		if w.Acked.Before(before) {
			writes = append(writes, w)
		}
	}
	return writes
}

// Refused counts the writes that were not acknowledged.
func (c *Customer) Refused() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refused
}

// Serves asks whether the instance answers through the edge.
func (c *Customer) Serves(ctx context.Context) error {
	body, err := c.get(ctx, "/readiness")
	if err != nil {
		return fmt.Errorf("%s: %w: %.100s", c.Instance, err, body)
	}
	return nil
}

func (c *Customer) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %d", path, resp.StatusCode)
	}
	return body, err
}

// Found is how much of what was acknowledged is really there.
type Found struct {
	DocumentsExpected, DocumentsFound int
	FilesExpected, FilesFound         int
	Missing                           []string
}

// Verify reads back, through the edge, every document's hash and every file's bytes that was acknowledged before the
// moment. Documents are compared by the hash that the store computes anew from their text (its invariants check);
// files are fetched and hashed here.
func (c *Customer) Verify(ctx context.Context, before time.Time) (Found, error) {
	if body, err := c.get(ctx, "/invariants"); err != nil {
		return Found{}, fmt.Errorf("%s: %w: %.300s", c.Instance, err, body)
	}
	body, err := c.get(ctx, "/notes")
	if err != nil {
		return Found{}, fmt.Errorf("%s: %w", c.Instance, err)
	}
	var notes []struct{ ID, SHA256 string }
	if err := json.Unmarshal(body, &notes); err != nil {
		return Found{}, fmt.Errorf("%s: read notes: %w", c.Instance, err)
	}
	have := map[string]string{}
	for _, n := range notes {
		have[n.ID] = n.SHA256
	}
	var found Found
	for _, w := range c.Acked(before) {
		found.count(w, c.holds(ctx, w, have))
	}
	return found, nil
}

func (c *Customer) holds(ctx context.Context, w Write, notes map[string]string) bool {
	if !w.File {
		return notes[w.Name] == w.SHA256
	}
	body, err := c.get(ctx, "/files/"+w.Name)
	sum := sha256.Sum256(body)
	return err == nil && hex.EncodeToString(sum[:]) == w.SHA256
}

func (f *Found) count(w Write, holds bool) {
	expected, found := &f.DocumentsExpected, &f.DocumentsFound
	if w.File {
		expected, found = &f.FilesExpected, &f.FilesFound
	}
	*expected++
	if holds {
		*found++
		return
	}
	f.Missing = append(f.Missing, w.Name)
}

// Add sums two findings.
func (f Found) Add(other Found) Found {
	return Found{
		DocumentsExpected: f.DocumentsExpected + other.DocumentsExpected, DocumentsFound: f.DocumentsFound + other.DocumentsFound,
		FilesExpected: f.FilesExpected + other.FilesExpected, FilesFound: f.FilesFound + other.FilesFound,
		Missing: append(append([]string{}, f.Missing...), other.Missing...),
	}
}

func text(i int) []byte {
	return fmt.Appendf(nil, "note %d: the quick brown fox jumps over the lazy dog, %d times today", i, rand.IntN(1000))
}

func noise(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}
