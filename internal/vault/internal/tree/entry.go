// Package tree holds what a snapshot says about files: entries, and the manifest
// that lists them.
//
// A snapshot is a POSIX (pax) tar archive that is never stored as a whole. Its headers
// lie in the manifest, the bytes of its files in packs, and the manifest's list names
// the pieces in order, so that `cat` of the pieces is the archive.
//
// Words: an entry is one file system object; its header is the tar form of it; stored
// bytes are those of an entry that lie in chunks (for a sparse file its data extents);
// a ref names a chunk by the number of its pack in this manifest and its ordinal there.
//
// Invariant: the headers are the only account of an entry, read by this package and by
// any tar; a path in an accepted entry is relative and never climbs.
package tree

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Kinds of entries: the type flags of tar, and Socket, which tar does not know.
const (
	File      = '0'
	HardLink  = '1'
	Symlink   = '2'
	CharDev   = '3'
	BlockDev  = '4'
	Directory = '5'
	Fifo      = '6'
	Socket    = 's'
)

// Entry is one file system object of a snapshot.
type Entry struct {
	Path    string // slash-separated, relative, bytes as the file system has them
	Kind    byte
	Mode    uint32 // permission bits with set-user, set-group and sticky: 07777
	UID     uint32
	GID     uint32
	ModTime time.Time // to the nanosecond
	Size    int64     // of a File in bytes, holes counted
	Link    string    // target of a Symlink; path of the first name of a HardLink
	Major   uint32    // of a device
	Minor   uint32
	Xattrs  []Xattr  // sorted by name; ACLs are system.posix_acl_*
	Extents []Extent // of a sparse File: where data lies; ends with an empty one at Size
	Sparse  bool
}

// Xattr is one extended attribute.
type Xattr struct{ Name, Value string }

// Extent is a range of a sparse file that holds data, in bytes.
type Extent struct{ Offset, Length int64 }

// Stored is how many bytes of the entry lie in chunks.
func (e *Entry) Stored() int64 {
	if e.Kind != File {
		return 0
	}
	if !e.Sparse {
		return e.Size
	}
	sum := int64(0)
	for _, x := range e.Extents {
		sum += x.Length
	}
	return sum
}

var errHeader = errors.New("not a header of format 1")

// AppendHeader appends the tar form of e: a pax header where ustar does not suffice, the
// ustar header and, for a sparse file, the map that begins its content.
func AppendHeader(out []byte, e *Entry) []byte {
	name, size := e.Path, e.Stored()
	if e.Kind == Directory {
		name += "/"
	}
	var pax records
	var sparse []byte
	if e.Sparse {
		sparse = sparseMap(e.Extents)
		size += int64(len(sparse))
		pax.add("GNU.sparse.major", "1")
		pax.add("GNU.sparse.minor", "0")
		pax.add("GNU.sparse.name", name)
		pax.add("GNU.sparse.realsize", strconv.FormatInt(e.Size, 10))
		name = "GNUSparseFile.0"
	}
	pax.addText("path", name, 100)
	pax.addText("linkpath", e.Link, 100)
	pax.addNumber("size", size, 1<<33-1)
	pax.addNumber("uid", int64(e.UID), 1<<21-1)
	pax.addNumber("gid", int64(e.GID), 1<<21-1)
	pax.addTime(e.ModTime)
	for _, x := range e.Xattrs {
		pax.add("SCHILY.xattr."+xattrEscape.Replace(x.Name), x.Value)
	}
	if len(pax) > 0 {
		var h [512]byte
		fill(&h, &Entry{Kind: 'x', Mode: 0o600}, "pax", int64(len(pax)))
		out = append(append(out, h[:]...), pax...)
		out = append(out, zeros[:pad(int64(len(pax)))]...)
	}
	var h [512]byte
	fill(&h, e, name, size)
	return append(append(out, h[:]...), sparse...)
}

// GNU tar writes these two characters of a name so.
var (
	xattrEscape   = strings.NewReplacer("%", "%25", "=", "%3D")
	xattrUnescape = strings.NewReplacer("%25", "%", "%3D", "=")
)

var zeros [512]byte //nolint:gochecknoglobals // never written

// pad is how many zeros follow n bytes in a tar archive.
func pad(n int64) int { return int(-n & 511) }

// sparseMap is the map of GNU sparse format 1.0, padded to blocks.
func sparseMap(extents []Extent) []byte {
	out := strconv.AppendInt(nil, int64(len(extents)), 10)
	out = append(out, '\n')
	for _, x := range extents {
		out = append(strconv.AppendInt(out, x.Offset, 10), '\n')
		out = append(strconv.AppendInt(out, x.Length, 10), '\n')
	}
	return append(out, zeros[:pad(int64(len(out)))]...)
}

// records are pax records in their byte form.
type records []byte

func (r *records) add(key, value string) {
	n := len(key) + len(value) + 3
	length := n + len(strconv.Itoa(n))
	if len(strconv.Itoa(length)) > len(strconv.Itoa(n)) {
		length++
	}
	*r = strconv.AppendInt(*r, int64(length), 10)
	*r = append(*r, ' ')
	*r = append(*r, key...)
	*r = append(*r, '=')
	*r = append(*r, value...)
	*r = append(*r, '\n')
}

func (r *records) addText(key, value string, room int) {
	if len(value) > room {
		r.add(key, value)
	}
}

func (r *records) addNumber(key string, value, most int64) {
	if value > most {
		r.add(key, strconv.FormatInt(value, 10))
	}
}

func (r *records) addTime(t time.Time) {
	if t.Nanosecond() == 0 && t.Unix() >= 0 && t.Unix() < 1<<33 {
		return
	}
	r.add("mtime", formatTime(t))
}

// formatTime gives seconds since 1970 with nine decimals; before 1970 the decimals count downwards too.
func formatTime(t time.Time) string {
	sec, nsec, sign := t.Unix(), int64(t.Nanosecond()), ""
	if sec < 0 && nsec > 0 {
		sec, nsec = sec+1, 1e9-nsec
		if sec == 0 {
			sign = "-"
		}
	}
	return fmt.Sprintf("%s%d.%09d", sign, sec, nsec)
}

func parseTime(s string) (time.Time, error) {
	whole, part, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || len(part) > 9 {
		return time.Time{}, errHeader
	}
	nsec, err := strconv.ParseUint((part + "000000000")[:9], 10, 32)
	if err != nil {
		return time.Time{}, errHeader
	}
	if strings.HasPrefix(whole, "-") {
		return time.Unix(sec, -int64(nsec)), nil
	}
	return time.Unix(sec, int64(nsec)), nil
}

// fill writes a ustar header. What does not fit stands in the pax header before it.
func fill(h *[512]byte, e *Entry, name string, size int64) {
	copy(h[0:100], name)
	octal(h[100:107], uint64(e.Mode))
	octal(h[108:115], fit(uint64(e.UID), 1<<21-1))
	octal(h[116:123], fit(uint64(e.GID), 1<<21-1))
	octal(h[124:135], fit(uint64(size), 1<<33-1))
	if sec := e.ModTime.Unix(); sec >= 0 && sec < 1<<33 {
		octal(h[136:147], uint64(sec))
	} else {
		octal(h[136:147], 0)
	}
	copy(h[148:156], "        ")
	h[156] = e.Kind
	copy(h[157:257], e.Link)
	copy(h[257:], "ustar\x0000")
	if e.Kind == CharDev || e.Kind == BlockDev {
		octal(h[329:336], fit(uint64(e.Major), 1<<21-1))
		octal(h[337:344], fit(uint64(e.Minor), 1<<21-1))
	}
	octal(h[148:154], checksum(h))
	h[154], h[155] = 0, ' '
}

func checksum(h *[512]byte) uint64 {
	sum := uint64(0)
	for _, c := range h[:345] {
		sum += uint64(c)
	}
	return sum
}

func fit(v, most uint64) uint64 {
	if v > most {
		return 0
	}
	return v
}

// octal writes v right-aligned.
func octal(field []byte, v uint64) {
	for i := len(field) - 1; i >= 0; i-- {
		field[i] = '0' + byte(v&7)
		v >>= 3
	}
}
