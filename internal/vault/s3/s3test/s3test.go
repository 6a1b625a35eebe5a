// Package s3test is an S3 server in memory, for tests: objects, ranges, conditions, multipart uploads, lists.
//
// Words: trouble is a status that a test makes the server answer with.
package s3test

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/vault/s3"
)

// Server is as much of S3 as a store needs, with a knob for trouble.
type Server struct {
	mu      sync.Mutex // guards what follows
	objects map[string][]byte
	times   map[string]time.Time
	uploads map[string]map[int][]byte
	next    int
	trouble func(r *http.Request) int
}

// New starts a server, and gives the configuration of a store in it.
func New(t testing.TB) (*Server, s3.Config) {
	s := &Server{objects: map[string][]byte{}, times: map[string]time.Time{}, uploads: map[string]map[int][]byte{}}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return s, s3.Config{Endpoint: strings.TrimPrefix(h.URL, "http://"), Bucket: "vault", Prefix: "acme", Region: "here", AccessKey: "a", SecretKey: "b", Plain: true, Part: 5 << 20, Retries: 1}
}

// Trouble makes the server ask f first, for each request: it answers with the status that f gives, and does the request
// when that is 0.
func (s *Server) Trouble(f func(r *http.Request) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = f
}

// Names gives the keys of all objects, sorted.
func (s *Server) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.objects))
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

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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

func (s *Server) put(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	if _, there := s.objects[key]; there && r.Header.Get("If-None-Match") == "*" {
		answer(w, 412, fault{Code: "PreconditionFailed"})
		return
	}
	s.objects[key], s.times[key] = body, time.Now()
	w.Header().Set("ETag", etag(body))
}

func (s *Server) complete(w http.ResponseWriter, r *http.Request, key, id string) {
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

func (s *Server) get(w http.ResponseWriter, r *http.Request, key string) {
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

func (s *Server) list(w http.ResponseWriter, prefix string) {
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
