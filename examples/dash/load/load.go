// Package load fills instances of the product with public data, writes to them steadily, and tells afterwards whether
// what was acknowledged is there.
//
// Words: the ledger is the file of acknowledged writes, one JSON document a line, in the order of the answers.
//
// Invariant: a write is in the ledger when, and only when, the instance acknowledged it.
package load

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"holdfast/examples/dash/dash"
)

// ErrGone is returned for what an instance does not have.
var ErrGone = errors.New("not there")

// Target is one instance, asked through whatever its address leads to.
type Target struct {
	url    string // without the slash at its end
	base   string // of the API of its release
	major  int
	client *http.Client
	host   string // sent as Host; "" = that of the URL
}

// Reach asks an instance for its release. Host is the name to ask for where the URL is not it, or "".
func Reach(ctx context.Context, client *http.Client, url, host string) (Target, error) {
	t := Target{url: strings.TrimSuffix(url, "/"), client: client, host: host}
	body, err := t.send(ctx, http.MethodGet, "/version", nil)
	if err != nil {
		return t, fmt.Errorf("ask %s for its release: %w", url, err)
	}
	var version struct{ Version, Base string }
	if err := json.Unmarshal(body, &version); err != nil {
		return t, fmt.Errorf("ask %s for its release: %w", url, err)
	}
	release, err := dash.ParseRelease(version.Version)
	t.base, t.major = version.Base, release.Major
	return t, err
}

// send gives the body of a good answer.
func (t Target) send(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, t.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if t.host != "" {
		r.Host = t.host
	}
	answer, err := t.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(io.LimitReader(answer.Body, 64<<20))
	if err != nil {
		return nil, err
	}
	if answer.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("%s %s: %w", method, path, ErrGone)
	}
	if answer.StatusCode >= 300 {
		return nil, fmt.Errorf("%s %s: %s: %.200s", method, path, answer.Status, said)
	}
	return said, nil
}

// Entry is one acknowledged write.
type Entry struct {
	ID      string    `json:"id"`
	NoteSum string    `json:"note_sha256"`
	Picture string    `json:"picture_sha256"`
	Sent    time.Time `json:"sent"`
	Acked   time.Time `json:"acked"`
}

// Put writes one dashboard with its picture and gives the entry of its acknowledgement.
func (t Target) Put(ctx context.Context, id, title, note string, sections []string, picture []byte) (Entry, error) {
	e := Entry{ID: id, NoteSum: sum([]byte(note)), Picture: sum(picture), Sent: time.Now().UTC()}
	body, err := t.send(ctx, http.MethodPost, t.base+"/files", picture)
	if err != nil {
		return e, err
	}
	d := dash.Dashboard{Title: title, Note: note, Sections: sections, Picture: &dash.File{}}
	if err := json.Unmarshal(body, d.Picture); err != nil {
		return e, fmt.Errorf("read the name of a picture: %w", err)
	}
	if t.major == 1 {
		d.Section, d.Sections = sections[0], nil
	}
	if body, err = json.Marshal(d); err != nil {
		return e, err
	}
	_, err = t.send(ctx, http.MethodPut, t.base+"/dashboards/"+id, body)
	e.Acked = time.Now().UTC()
	return e, err
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
