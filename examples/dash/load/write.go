package load

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"hash/fnv"
)

// picture makes bytes that no other seed makes, and that compress badly, as pictures do.
func picture(seed string, size int) []byte {
	hash := fnv.New64a()
	_, _ = io.WriteString(hash, seed) // a hash takes everything
	source := rand.New(rand.NewPCG(hash.Sum64(), 1))
	body := make([]byte, 0, size+8)
	for len(body) < size {
		n := source.Uint64()
		body = append(body, byte(n), byte(n>>8), byte(n>>16), byte(n>>24), byte(n>>32), byte(n>>40), byte(n>>48), byte(n>>56))
	}
	return body[:size]
}

// Writing is a steady stream of writes.
type Writing struct {
	Run  string  // begins every id; two streams of one instance need two
	Rate float64 // writes a second
	Size int     // bytes of a picture
	Logs func(error)
}

// Write writes until ctx ends and puts each acknowledged write into the ledger before it sends the next. A write that
// fails is told to Logs and not repeated: whether it is there is open, so the ledger says nothing of it.
func (t Target) Write(ctx context.Context, w Writing, ledger io.Writer) (acknowledged int, err error) {
	if w.Rate <= 0 {
		return 0, errors.New("the rate of writes must be above 0")
	}
	ticker := time.NewTicker(time.Duration(float64(time.Second) / w.Rate))
	defer ticker.Stop()
	encoder := json.NewEncoder(ledger)
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return acknowledged, nil
		case <-ticker.C:
		}
		id := fmt.Sprintf("%s-%06d", w.Run, n)
		entry, err := t.Put(ctx, id, "written "+id, "note of "+id, []string{"written"}, picture(id, w.Size))
		if err != nil {
			if ctx.Err() == nil {
				w.Logs(err)
			}
			continue
		}
		if err := encoder.Encode(entry); err != nil {
			return acknowledged, fmt.Errorf("write ledger: %w", err)
		}
		acknowledged++
	}
}

// ReadLedger reads entries; a last line that was cut off is left out.
func ReadLedger(in io.Reader) ([]Entry, error) {
	scanner := bufio.NewScanner(in)
	var all []Entry
	var broken error
	for scanner.Scan() {
		if broken != nil {
			return nil, broken
		}
		var e Entry
		if err := json.Unmarshal(scanner.Bytes(), &e); err != nil {
			broken = fmt.Errorf("read ledger, line %d: %w", len(all)+1, err)
			continue
		}
		all = append(all, e)
	}
	return all, scanner.Err()
}

// Verdict is what became of acknowledged writes.
type Verdict struct {
	Asked   int      `json:"asked"`   // entries that had to be there
	Found   int      `json:"found"`   // of those, there and whole
	Later   int      `json:"later"`   // acknowledged after the moment, so that nothing is promised
	Kept    int      `json:"kept"`    // of those, there all the same
	Wrong   []string `json:"wrong"`   // what had to be there and is not, or is not whole
	Tainted []string `json:"tainted"` // later ones that are there and not whole
}

// Well tells whether every acknowledged write of before the moment is there, and nothing is there in part.
func (v Verdict) Well() bool { return len(v.Wrong) == 0 && len(v.Tainted) == 0 }

// Verify looks for every entry. Those acknowledged before the moment must be there; with the zero time all must.
func (t Target) Verify(ctx context.Context, entries []Entry, before time.Time) (Verdict, error) {
	v := Verdict{Wrong: []string{}, Tainted: []string{}}
	for _, e := range entries {
		err := t.look(ctx, e)
		if ctx.Err() != nil {
			return v, ctx.Err()
		}
		must := before.IsZero() || e.Acked.Before(before)
		switch {
		case must && err == nil:
			v.Asked, v.Found = v.Asked+1, v.Found+1
		case must:
			v.Asked, v.Wrong = v.Asked+1, append(v.Wrong, e.ID+": "+err.Error())
		case err == nil:
			v.Later, v.Kept = v.Later+1, v.Kept+1
		case errors.Is(err, ErrGone):
			v.Later++
		default:
			v.Later, v.Tainted = v.Later+1, append(v.Tainted, e.ID+": "+err.Error())
		}
	}
	return v, nil
}

// look reads a dashboard and its picture. Only a dashboard that is not there is ErrGone: one without its picture is
// there in part.
func (t Target) look(ctx context.Context, e Entry) error {
	body, err := t.send(ctx, http.MethodGet, t.base+"/dashboards/"+e.ID, nil)
	if err != nil {
		return err
	}
	var d struct {
		Note    string
		Picture struct{ SHA256 string }
	}
	if err := json.Unmarshal(body, &d); err != nil {
		return fmt.Errorf("read dashboard: %w", err)
	}
	if sum([]byte(d.Note)) != e.NoteSum || d.Picture.SHA256 != e.Picture {
		return errors.New("it is not what was written")
	}
	bytes, err := t.send(ctx, http.MethodGet, t.base+"/files/"+e.Picture, nil)
	if err != nil {
		return fmt.Errorf("its picture: %s", err) //nolint:errorlint // a missing picture is no missing dashboard
	}
	if sum(bytes) != e.Picture {
		return errors.New("its picture has other bytes")
	}
	return nil
}
