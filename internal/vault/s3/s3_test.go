package s3_test

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/vault"
	"holdfast/internal/vault/s3"
	"holdfast/internal/vault/vaulttest"
)

// server is as much of S3 as a store needs, with a knob for trouble.
type server struct {
	mu      sync.Mutex // guards what follows
	objects map[string][]byte
	times   map[string]time.Time
	uploads map[string]map[int][]byte
	next    int
	trouble func(r *http.Request) int // a status to answer with, or 0
}

func newServer(t *testing.T) (*server, s3.Config) {
	s := &server{objects: map[string][]byte{}, times: map[string]time.Time{}, uploads: map[string]map[int][]byte{}}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return s, s3.Config{Endpoint: strings.TrimPrefix(h.URL, "http://"), Bucket: "vault", Prefix: "acme", Region: "here", AccessKey: "a", SecretKey: "b", Plain: true, Part: 5 << 20, Retries: 1}
}

type fault struct {
	XMLName xml.Name `xml:"Error"`
	Code    string
	Message string
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	if v != nil {
		_ = xml.NewEncoder(w).Encode(v) // a client that left is not answered
	}
}

func etag(body []byte) string {
	sum := md5.Sum(body)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trouble != nil {
		if status := s.trouble(r); status != 0 {
			answer(w, status, fault{Code: "Trouble", Message: "asked for"})
			return
		}
	}
	if err != nil {
		answer(w, 400, nil)
		return
	}
	if strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-") {
		body = unchunk(body)
	}
	key := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/vault"), "/")
	query := r.URL.Query()
	switch {
	case key == "" && r.Method == http.MethodHead:
		answer(w, 200, nil)
	case key == "":
		s.list(w, query.Get("prefix"))
	case r.Method == http.MethodPut && query.Has("partNumber"):
		n, _ := strconv.Atoi(query.Get("partNumber")) // the client is ours
		s.uploads[query.Get("uploadId")][n] = body
		w.Header().Set("ETag", etag(body))
	case r.Method == http.MethodPost && query.Has("uploads"):
		s.next++
		id := strconv.Itoa(s.next)
		s.uploads[id] = map[int][]byte{}
		answer(w, 200, struct {
			XMLName     xml.Name `xml:"InitiateMultipartUploadResult"`
			Bucket, Key string
			UploadId    string
		}{Bucket: "vault", Key: key, UploadId: id})
	case r.Method == http.MethodPost:
		s.complete(w, r, key, query.Get("uploadId"))
	case r.Method == http.MethodPut:
		s.put(w, r, key, body)
	case r.Method == http.MethodDelete:
		delete(s.objects, key)
		answer(w, 204, nil)
	default:
		s.get(w, r, key)
	}
}

// unchunk takes the signatures off a streamed body.
func unchunk(body []byte) (out []byte) {
	for len(body) > 0 {
		line, rest, _ := strings.Cut(string(body), "\r\n")
		size, _, _ := strings.Cut(line, ";")
		n, err := strconv.ParseInt(size, 16, 64)
		if err != nil || n == 0 || int(n) > len(rest) {
			return out
		}
		out = append(out, rest[:n]...)
		body = []byte(strings.TrimPrefix(rest[n:], "\r\n"))
	}
	return out
}

func (s *server) put(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	if _, there := s.objects[key]; there && r.Header.Get("If-None-Match") == "*" {
		answer(w, 412, fault{Code: "PreconditionFailed"})
		return
	}
	s.objects[key], s.times[key] = body, time.Now()
	w.Header().Set("ETag", etag(body))
}

func (s *server) complete(w http.ResponseWriter, r *http.Request, key, id string) {
	var numbers []int
	for n := range s.uploads[id] {
		numbers = append(numbers, n)
	}
	sort.Ints(numbers)
	var body []byte
	for _, n := range numbers {
		body = append(body, s.uploads[id][n]...)
	}
	if _, there := s.objects[key]; there {
		answer(w, 412, fault{Code: "PreconditionFailed"})
		return
	}
	s.objects[key], s.times[key] = body, time.Now()
	answer(w, 200, struct {
		XMLName           xml.Name `xml:"CompleteMultipartUploadResult"`
		Bucket, Key, ETag string
	}{Bucket: "vault", Key: key, ETag: etag(body)})
}

func (s *server) get(w http.ResponseWriter, r *http.Request, key string) {
	body, there := s.objects[key]
	if !there {
		answer(w, 404, fault{Code: "NoSuchKey"})
		return
	}
	w.Header().Set("ETag", etag(body))
	http.ServeContent(w, r, "", s.times[key], strings.NewReader(string(body)))
}

type listed struct {
	Key, ETag, LastModified string
	Size                    int
}

func (s *server) list(w http.ResponseWriter, prefix string) {
	out := struct {
		XMLName     xml.Name `xml:"ListBucketResult"`
		Name        string
		IsTruncated bool
		Contents    []listed
	}{Name: "vault"}
	for key, body := range s.objects {
		if rest, ok := strings.CutPrefix(key, prefix); ok && !strings.Contains(rest, "/") {
			out.Contents = append(out.Contents, listed{key, etag(body), s.times[key].UTC().Format(time.RFC3339Nano), len(body)})
		}
	}
	answer(w, 200, out)
}

func open(t *testing.T, c s3.Config) vault.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	vaulttest.Run(t, func(t *testing.T) vault.Store {
		_, c := newServer(t)
		return open(t, c)
	})
}

// TestTroubleInTheMiddleOfAMultipart breaks a part: the name must stay free, and the next try work.
func TestTroubleInTheMiddleOfAMultipart(t *testing.T) {
	s, c := newServer(t)
	store := open(t, c)
	broken := true
	s.mu.Lock()
	s.trouble = func(r *http.Request) int {
		if broken && r.URL.Query().Get("partNumber") == "2" {
			return 500
		}
		return 0
	}
	s.mu.Unlock()
	body := make([]byte, 12<<20)
	vaulttest.Noise(1, body)
	name := fmt.Sprintf("packs/%064x", 1)
	if err := store.Put(t.Context(), name, body); err == nil {
		t.Fatal("a put whose second part was refused went well")
	}
	if r, err := store.Get(t.Context(), name, 0, -1); !errors.Is(err, vault.ErrNotFound) {
		t.Fatalf("after it: %v, %v", r, err)
	}
	s.mu.Lock()
	broken = false
	s.mu.Unlock()
	if err := store.Put(t.Context(), name, body); err != nil {
		t.Fatal(err)
	}
	r, err := store.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || string(got) != string(body) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

func TestMissingBucket(t *testing.T) {
	s, c := newServer(t)
	s.trouble = func(*http.Request) int { return 404 }
	if _, err := s3.Open(t.Context(), c); !errors.Is(err, vault.ErrNotFound) {
		t.Fatalf("open: %v", err)
	}
}
