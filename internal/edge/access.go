package edge

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// accessLine is one exchange in the access log.
type accessLine struct {
	Time     time.Time `json:"time"` // when the request began
	Instance string    `json:"instance,omitempty"`
	Host     string    `json:"host"`
	Method   string    `json:"method"`
	Path     string    `json:"path"` // without the query, which may hold secrets
	Status   int       `json:"status"`
	Bytes    int64     `json:"bytes"` // of the answer's body
	Took     float64   `json:"took"`  // milliseconds
	Endpoint string    `json:"endpoint,omitempty"`
	Epoch    int64     `json:"epoch,omitempty"`
	Remote   string    `json:"remote"`
	Request  string    `json:"request"` // id, as in X-Request-Id
	Proto    string    `json:"proto"`
	Agent    string    `json:"agent,omitempty"`
	Retries  int       `json:"retries,omitempty"`
	Note     string    `json:"note,omitempty"` // why no endpoint answered
}

func lineOf(x *exchange, r *http.Request, took time.Duration) accessLine {
	remote, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		remote = r.RemoteAddr
	}
	line := accessLine{
		Time: x.began.UTC(), Host: hostName(r.Host), Method: r.Method, Path: r.URL.Path, Status: x.status, Bytes: x.bytes,
		Took: float64(took.Microseconds()) / 1000, Remote: remote, Request: x.id, Proto: r.Proto, Agent: r.UserAgent(),
		Retries: x.retries, Note: x.note,
	}
	if x.route != nil {
		line.Instance, line.Epoch = x.route.Instance, x.route.Epoch
	}
	if x.endpoint != nil {
		line.Endpoint = x.endpoint.key.address
	}
	return line
}

// accessLog writes lines behind the requests' back: an exchange never waits for the disk. What does not fit into the
// buffer because the disk stands still is dropped and counted.
type accessLog struct {
	out  io.WriteCloser
	ring chan struct{} // a doorbell: there are lines
	done chan struct{}

	mu      sync.Mutex
	pending []byte
	dropped int64
	closed  bool
}

const accessBuffer = 8 << 20

func newAccessLog(out io.WriteCloser) *accessLog {
	l := &accessLog{out: out, ring: make(chan struct{}, 1), done: make(chan struct{})}
	go l.write()
	return l
}

func (l *accessLog) add(line accessLine) {
	text, err := json.Marshal(line)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil || l.closed || len(l.pending)+len(text) >= accessBuffer {
		l.dropped++
		return
	}
	l.pending = append(append(l.pending, text...), '\n')
	select {
	case l.ring <- struct{}{}:
	default:
	}
}

func (l *accessLog) write() {
	defer close(l.done)
	var spare []byte
	for range l.ring {
		l.mu.Lock()
		lines := l.pending
		l.pending = spare[:0]
		l.mu.Unlock()
		if _, err := l.out.Write(lines); err != nil {
			l.drop()
		}
		spare = lines
	}
}

func (l *accessLog) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropped++
}

func (l *accessLog) lost() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}

// Close writes what is left and closes the output.
func (l *accessLog) Close() error {
	l.mu.Lock()
	already := l.closed
	l.closed = true
	l.mu.Unlock()
	if already {
		return nil
	}
	close(l.ring)
	<-l.done
	_, err := l.out.Write(l.pending)
	if closeErr := l.out.Close(); err == nil {
		err = closeErr
	}
	return err
}

// rotated is a file that is renamed to NAME.1 (and .1 to .2 ...) when it would grow beyond its size.
type rotated struct {
	path string
	size int64
	keep int
	file *os.File
	at   int64
}

func openRotated(path string, size int64, keep int) (*rotated, error) {
	r := &rotated{path: path, size: size, keep: keep}
	return r, r.open()
}

func (r *rotated) open() error {
	file, err := os.OpenFile(r.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("open log %s: %w", r.path, err)
	}
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("stat log %s: %w", r.path, err)
	}
	r.file, r.at = file, info.Size()
	return nil
}

func (r *rotated) Write(p []byte) (int, error) {
	if r.at > 0 && r.at+int64(len(p)) > r.size {
		if err := r.rotate(); err != nil {
			return 0, err
		}
	}
	n, err := r.file.Write(p)
	r.at += int64(n)
	return n, err
}

func (r *rotated) rotate() error {
	if err := r.file.Close(); err != nil {
		return fmt.Errorf("close log %s: %w", r.path, err)
	}
	for i := r.keep; i >= 1; i-- {
		older, newer := fmt.Sprintf("%s.%d", r.path, i), fmt.Sprintf("%s.%d", r.path, i-1)
		if i == 1 {
			newer = r.path
		}
		if err := os.Rename(newer, older); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("rotate log %s: %w", r.path, err)
		}
	}
	return r.open()
}

// Close closes the file.
func (r *rotated) Close() error { return r.file.Close() }
