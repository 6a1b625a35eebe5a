package vault

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/zeebo/blake3"

	"holdfast/internal/vault/internal/index"
	"holdfast/internal/vault/internal/seal"
	"holdfast/internal/vault/internal/tree"
)

// The cache is a file per source on the writing machine: what each file looked like when it was
// read, and where its chunks are. It is in the order of the scan, so that it is read beside the
// scan and never held in memory. A cache that is missing, damaged or of another writer costs a
// read of every file, and nothing else.

// cached is what the last run knew about a file.
type cached struct {
	path         string
	size         int64
	mtime, ctime int64 // nanoseconds
	inode        uint64
	sparse       bool
	extents      []tree.Extent
	refs         []stored
}

const cacheMagic = "holdfast vault cache 1\n"

// settled is how much older than the scan the times of a file must be to be believed: clocks of
// file systems are coarse, and a file can change twice within one tick.
const settled = int64(1e9)

func cacheName(dir, repository, source string) string {
	return filepath.Join(dir, repository, "files-"+seal.Name([]byte(source))[:16])
}

// cacheReader gives the entries of a cache in order. A nil one knows nothing.
type cacheReader struct {
	file  *os.File
	r     *bufio.Reader
	index *index.Index
	began int64
	packs []packNumber
	next  *cached
}

type packNumber struct {
	number uint32
	living bool
}

// openCache returns nil when there is no cache to be trusted.
func (b *backup) openCache(source string) *cacheReader {
	if b.o.Cache == "" {
		return nil
	}
	f, err := os.Open(cacheName(b.o.Cache, b.repo.config.ID, source))
	if err != nil {
		return nil
	}
	c := &cacheReader{file: f, index: b.index}
	if !whole(f) || !c.open(writerName(b.keys)) {
		f.Close()
		return nil
	}
	c.advance()
	return c
}

// whole holds the checksum at the end of a file against all before it.
func whole(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Size() < 32 {
		return false
	}
	h := blake3.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, info.Size()-32)); err != nil {
		return false
	}
	var want [32]byte
	_, err = f.ReadAt(want[:], info.Size()-32)
	return err == nil && bytes.Equal(want[:], h.Sum(nil))
}

func (c *cacheReader) open(writer string) bool {
	c.r = bufio.NewReaderSize(c.file, 256<<10)
	head := make([]byte, len(cacheMagic)+len(writer)+8)
	if _, err := io.ReadFull(c.r, head); err != nil || string(head[:len(head)-8]) != cacheMagic+writer {
		return false
	}
	c.began = int64(binary.LittleEndian.Uint64(head[len(head)-8:]))
	return c.readPacks()
}

// readPacks reads the names of packs, which stand behind the entries, and their place in the index.
func (c *cacheReader) readPacks() bool {
	info, err := c.file.Stat()
	if err != nil {
		return false
	}
	var at [8]byte
	end := info.Size() - 32 - 8
	if _, err := c.file.ReadAt(at[:], end); err != nil {
		return false
	}
	begin := int64(binary.LittleEndian.Uint64(at[:]))
	if begin < 0 || begin > end || (end-begin)%64 != 0 {
		return false
	}
	names := make([]byte, end-begin)
	if _, err := c.file.ReadAt(names, begin); err != nil {
		return false
	}
	for ; len(names) > 0; names = names[64:] {
		number, living := c.index.Number(string(names[:64]))
		c.packs = append(c.packs, packNumber{number, living})
	}
	return true
}

func (c *cacheReader) close() {
	if c != nil {
		c.file.Close()
	}
}

// find returns what is known about an item, when it is unchanged and all its chunks are there.
func (c *cacheReader) find(it *item) *cached {
	if c == nil {
		return nil
	}
	for c.next != nil && before(c.next.path, it.entry.Path) {
		c.advance()
	}
	was := c.next
	if was == nil || was.path != it.entry.Path || was.refs == nil {
		return nil
	}
	st := &it.stat
	same := was.size == st.Size && was.mtime == st.Mtim.Nano() && was.ctime == st.Ctim.Nano() && was.inode == st.Ino
	if !same || max(was.mtime, was.ctime) > c.began-settled {
		return nil
	}
	return was
}

// before is the order of the scan: as of bytes, with the slash before all others.
func before(a, b string) bool {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return a[i] == '/' || (b[i] != '/' && a[i] < b[i])
		}
	}
	return len(a) < len(b)
}

// advance reads the next entry; at the end, or when something is wrong, there is none.
func (c *cacheReader) advance() {
	c.next = nil
	e := &cached{path: string(c.bytes())}
	if e.path == "" {
		return
	}
	e.size, e.mtime, e.ctime, e.inode = c.signed(), c.signed(), c.signed(), c.number()
	if n := c.number(); n > 0 {
		e.sparse = true
		for range n - 1 {
			e.extents = append(e.extents, tree.Extent{Offset: c.signed(), Length: c.signed()})
		}
	}
	living := true
	e.refs = []stored{}
	for range c.number() {
		p, first, count := c.pack(), uint32(c.number()), uint32(c.number())
		living = living && p.living
		for i := range count {
			e.refs = append(e.refs, stored{Pack: p.number, Ordinal: first + i})
		}
	}
	if !living {
		e.refs = nil
	}
	c.next = e
}

// pack reads which pack a run of chunks is in.
func (c *cacheReader) pack() packNumber {
	n := c.number()
	if n >= uint64(len(c.packs)) {
		return packNumber{}
	}
	return c.packs[n]
}

func (c *cacheReader) number() uint64 {
	v, err := binary.ReadUvarint(c.r)
	if err != nil {
		return 0
	}
	return v
}

func (c *cacheReader) signed() int64 {
	v, err := binary.ReadVarint(c.r)
	if err != nil {
		return 0
	}
	return v
}

func (c *cacheReader) bytes() []byte {
	b := make([]byte, min(c.number(), 1<<16))
	if _, err := io.ReadFull(c.r, b); err != nil {
		return nil
	}
	return b
}

// cacheWriter writes the cache of one source; it counts only once keep was called.
type cacheWriter struct {
	path  string
	file  *os.File
	at    int64
	w     *bufio.Writer
	hash  *blake3.Hasher
	packs map[uint32]int // number in the index to place in order
	order []uint32
	line  []byte
}

func (b *backup) createCache(source string) *cacheWriter {
	path := cacheName(b.o.Cache, b.repo.config.ID, source)
	if os.MkdirAll(filepath.Dir(path), 0o700) != nil {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), "new-")
	if err != nil {
		return nil
	}
	c := &cacheWriter{path: path, file: f, hash: blake3.New(), packs: map[uint32]int{}}
	c.w = bufio.NewWriterSize(io.MultiWriter(f, c.hash), 256<<10)
	c.write([]byte(cacheMagic + writerName(b.keys)))
	c.write(binary.LittleEndian.AppendUint64(nil, uint64(b.began.UnixNano())))
	return c
}

// remember adds a file that was read, or known, without a remark.
func (b *backup) remember(m *manifest, it *item) {
	if b.o.Cache == "" || it.entry.Kind != tree.File || it.path == "" || len(it.notes) > 0 {
		return
	}
	c := b.cacheOf(m, it)
	if c == nil {
		return
	}
	out := appendBytes(c.line[:0], it.entry.Path)
	for _, v := range []int64{it.stat.Size, it.stat.Mtim.Nano(), it.stat.Ctim.Nano()} {
		out = binary.AppendVarint(out, v)
	}
	out = binary.AppendUvarint(out, it.stat.Ino)
	if !it.entry.Sparse {
		out = append(out, 0)
	} else {
		out = binary.AppendUvarint(out, uint64(len(it.entry.Extents)+1))
		for _, x := range it.entry.Extents {
			out = binary.AppendVarint(binary.AppendVarint(out, x.Offset), x.Length)
		}
	}
	c.line = c.appendRefs(out, it.known)
	c.write(c.line)
}

// cacheOf gives the cache of the source an item belongs to.
func (b *backup) cacheOf(m *manifest, it *item) *cacheWriter {
	for len(m.caches) < len(b.o.Sources) {
		m.caches = append(m.caches, nil)
	}
	for i, s := range b.o.Sources {
		if s.Stream == nil && (s.Name == "." || s.Name == it.entry.Path || len(it.entry.Path) > len(s.Name) && it.entry.Path[:len(s.Name)+1] == s.Name+"/") {
			if m.caches[i] == nil {
				m.caches[i] = b.createCache(s.Name)
			}
			return m.caches[i]
		}
	}
	return nil
}

func appendBytes(out []byte, s string) []byte {
	return append(binary.AppendUvarint(out, uint64(len(s))), s...)
}

// appendRefs writes chunks as runs of ordinals in one pack.
func (c *cacheWriter) appendRefs(out []byte, refs []stored) []byte {
	var runs [][2]int // first and behind last
	for i, r := range refs {
		if n := len(runs); n > 0 && refs[i-1].Pack == r.Pack && refs[i-1].Ordinal+1 == r.Ordinal {
			runs[n-1][1]++
		} else {
			runs = append(runs, [2]int{i, i + 1})
		}
	}
	out = binary.AppendUvarint(out, uint64(len(runs)))
	for _, run := range runs {
		first := refs[run[0]]
		n, seen := c.packs[first.Pack]
		if !seen {
			n = len(c.packs)
			c.packs[first.Pack] = n
			c.order = append(c.order, first.Pack)
		}
		out = binary.AppendUvarint(out, uint64(n))
		out = binary.AppendUvarint(out, uint64(first.Ordinal))
		out = binary.AppendUvarint(out, uint64(run[1]-run[0]))
	}
	return out
}

// keep ends the cache with the names of its packs and puts it in the place of the old one.
func (c *cacheWriter) keep(x *index.Index) {
	if c == nil {
		return
	}
	c.write([]byte{0})
	at := c.at
	for _, number := range c.order {
		c.write([]byte(x.Pack(number).Name))
	}
	c.write(binary.LittleEndian.AppendUint64(nil, uint64(at)))
	err := c.w.Flush()
	_, err2 := c.file.Write(c.hash.Sum(nil))
	if errors.Join(err, err2, c.file.Close()) != nil || os.Rename(c.file.Name(), c.path) != nil {
		os.Remove(c.file.Name())
	}
}

// write counts; bufio keeps the first error for Flush.
func (c *cacheWriter) write(p []byte) {
	c.at += int64(len(p))
	_, _ = c.w.Write(p) // Flush returns what went wrong
}

// drop throws the new cache away.
func (c *cacheWriter) drop() {
	if c != nil {
		c.file.Close()
		os.Remove(c.file.Name())
	}
}

// journal remembers, on the writing machine, packs that were stored and are in no index yet, so
// that not even a killed run sends them again.
type journal struct {
	path  string
	packs []index.Pack // that a former run left
}

func openJournal(dir, repository string) (*journal, error) {
	if dir == "" {
		return &journal{}, nil
	}
	j := &journal{path: filepath.Join(dir, repository, "journal")}
	if err := os.MkdirAll(filepath.Dir(j.path), 0o700); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(j.path), "new-*")) // of a killed run
	for _, name := range left {
		_ = os.Remove(name)
	}
	data, err := os.ReadFile(j.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	var length int
	j.packs, length = parseJournal(data)
	if length < len(data) {
		if err := os.Truncate(j.path, int64(length)); err != nil {
			return nil, fmt.Errorf("mend journal: %w", err)
		}
	}
	return j, nil
}

// parseJournal reads records up to the first that is not whole, and tells where that is.
func parseJournal(all []byte) (out []index.Pack, length int) {
	data := all
	for len(data) > 4 {
		length = len(all) - len(data)
		n := int(binary.LittleEndian.Uint32(data))
		if n < 8 || n > len(data)-4 {
			return out, length
		}
		record, sum := data[4:4+n-8], data[4+n-8:4+n]
		if want := blake3.Sum256(record); !bytes.Equal(want[:8], sum) {
			return out, length
		}
		data = data[4+n:]
		line, ids, _ := bytes.Cut(record, []byte{'\n'})
		var p index.Pack
		if json.Unmarshal(line, &p) != nil || len(ids) < 32 || len(ids)%32 != 0 {
			return out, length
		}
		ids = ids[copy(p.MAC[:], ids):]
		for ; len(ids) > 0; ids = ids[32:] {
			p.IDs = append(p.IDs, seal.ID(ids[:32]))
		}
		out = append(out, p)
	}
	return out, len(all) - len(data)
}

func journalRecord(p index.Pack) ([]byte, error) {
	line, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	record := append(append(line, '\n'), p.MAC[:]...)
	for _, id := range p.IDs {
		record = append(record, id[:]...)
	}
	sum := blake3.Sum256(record)
	out := binary.LittleEndian.AppendUint32(nil, uint32(len(record)+8))
	return append(append(out, record...), sum[:8]...), nil
}

// add appends with one write, which several goroutines may do at once.
func (j *journal) add(p index.Pack) error {
	if j.path == "" {
		return nil
	}
	record, err := journalRecord(p)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	_, err = f.Write(record)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// clear forgets what is in an index now.
func (j *journal) clear() {
	if j.path != "" {
		_ = os.Remove(j.path) // what stays is recognised as known
	}
}
