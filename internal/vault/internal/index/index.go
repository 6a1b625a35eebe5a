// Package index knows which chunks are stored and where.
//
// An index file begins with one line of JSON that everyone may read: the packs it
// describes. What follows is sealed with the hash key: the IDs of the chunks of each pack.
// So a vault without keys can hold the index against the packs, and only a writer can
// tell which chunk lies where.
//
// Invariant: an Index only gives a chunk as stored when its pack was added, and whoever
// adds a pack has seen that it is there.
package index

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"holdfast/internal/vault/internal/seal"
)

// Pack is one pack and the IDs of its chunks in the order of their ordinals.
type Pack struct {
	Name  string    `json:"name"`
	Size  int64     `json:"size"`
	Epoch string    `json:"epoch"`
	MAC   seal.MAC  `json:"-"`
	IDs   []seal.ID `json:"-"`
}

// Head is the readable first line of an index file.
type Head struct {
	Format int    `json:"format"`
	Writer string `json:"writer"` // whose hash key opens the rest
	Packs  []Pack `json:"packs"`
	// Supersedes names older index files whose living packs are all described here.
	Supersedes []string `json:"supersedes,omitempty"`
}

var errForm = errors.New("not an index of format 1")

// Encode returns the file form of an index.
func Encode(keys *seal.Keys, head Head) ([]byte, error) {
	line, err := json.Marshal(head)
	if err != nil {
		return nil, fmt.Errorf("write index: %w", err)
	}
	var body []byte
	for _, p := range head.Packs {
		body = append(body, p.MAC[:]...)
		body = binary.AppendUvarint(body, uint64(len(p.IDs)))
		for _, id := range p.IDs {
			body = append(body, id[:]...)
		}
	}
	return append(append(line, '\n'), keys.Seal("index\n"+string(line), body)...), nil
}

// ParseHead reads the first line of an index file; no key is needed.
func ParseHead(data []byte) (Head, []byte, error) {
	var head Head
	line, rest, ok := bytes.Cut(data, []byte{'\n'})
	if !ok {
		return head, nil, errForm
	}
	if err := json.Unmarshal(line, &head); err != nil {
		return head, nil, fmt.Errorf("read index: %w", err)
	}
	for _, p := range head.Packs {
		if !seal.IsName(p.Name) || p.Size < 0 {
			return head, nil, fmt.Errorf("read index: pack %.70q: %w", p.Name, errForm)
		}
	}
	return head, rest, nil
}

// Decode reads a whole index file.
func Decode(keys *seal.Keys, data []byte) (Head, error) {
	head, sealed, err := ParseHead(data)
	if err != nil {
		return head, err
	}
	line := data[:len(data)-len(sealed)-1]
	body, err := keys.Open("index\n"+string(line), sealed)
	if err != nil {
		return head, fmt.Errorf("read index: %w", err)
	}
	for i := range head.Packs {
		if body, err = head.Packs[i].read(body); err != nil {
			return head, err
		}
	}
	if len(body) > 0 {
		return head, errForm
	}
	return head, nil
}

func (p *Pack) read(body []byte) ([]byte, error) {
	if len(body) < len(p.MAC)+1 {
		return nil, errForm
	}
	body = body[copy(p.MAC[:], body):]
	count, n := binary.Uvarint(body)
	if n <= 0 || count > uint64(len(body)/32) {
		return nil, errForm
	}
	body = body[n:]
	if len(body) < int(count)*32 {
		return nil, errForm
	}
	p.IDs = make([]seal.ID, count)
	for i := range p.IDs {
		body = body[copy(p.IDs[i][:], body):]
	}
	return body, nil
}

// Ref is where a chunk is: the number of its pack in the Index and its ordinal there.
type Ref struct{ Pack, Ordinal uint32 }

// Index is what one writer knows while it writes. It is safe for concurrent use.
type Index struct {
	mu     sync.Mutex // guards all below
	chunks map[[16]byte]Ref
	packs  []Pack // without IDs
	byName map[string]uint32
}

// New returns an empty index.
func New() *Index {
	return &Index{chunks: map[[16]byte]Ref{}, byName: map[string]uint32{}}
}

// Add makes the chunks of a stored pack known. A pack that is known already is left as it is.
func (x *Index) Add(p Pack) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, known := x.byName[p.Name]; known {
		return
	}
	number := uint32(len(x.packs))
	for i, id := range p.IDs {
		if _, known := x.chunks[[16]byte(id[:16])]; !known {
			x.chunks[[16]byte(id[:16])] = Ref{number, uint32(i)}
		}
	}
	p.IDs = nil
	x.packs = append(x.packs, p)
	x.byName[p.Name] = number
}

// Begin returns the number of a pack that is about to be written.
func (x *Index) Begin() uint32 {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.packs = append(x.packs, Pack{})
	return uint32(len(x.packs) - 1)
}

// End says what the pack begun under this number has become.
func (x *Index) End(number uint32, p Pack) {
	x.mu.Lock()
	defer x.mu.Unlock()
	p.IDs = nil
	x.packs[number] = p
	x.byName[p.Name] = number
}

// Claim returns where a chunk is. When it is nowhere yet, it is from now on at mine, and
// fresh is true: the caller must put it there.
func (x *Index) Claim(id seal.ID, mine Ref) (at Ref, fresh bool) {
	key := [16]byte(id[:16])
	x.mu.Lock()
	defer x.mu.Unlock()
	if at, known := x.chunks[key]; known {
		return at, false
	}
	x.chunks[key] = mine
	return mine, true
}

// Pack returns a pack by its number, without IDs.
func (x *Index) Pack(number uint32) Pack {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.packs[number]
}

// Number returns the number of a pack by its name.
func (x *Index) Number(name string) (uint32, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	n, ok := x.byName[name]
	return n, ok
}

// Len is the number of known chunks.
func (x *Index) Len() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.chunks)
}

// Names returns the names in a head in order.
func (h Head) Names() []string {
	var out []string
	for _, p := range h.Packs {
		out = append(out, p.Name)
	}
	slices.Sort(out)
	return out
}
