package tree

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxPax bounds the pax header of one entry: all its extended attributes and a long path.
const maxPax = 4 << 20

// ParseHeader reads the first header of data as AppendHeader wrote it and returns what
// follows it. It accepts only entries whose path stays inside of the tree.
func ParseHeader(data []byte) (*Entry, []byte, error) {
	e := &Entry{}
	pax, rest, err := cutPax(data)
	if err != nil {
		return nil, nil, err
	}
	if len(rest) < 512 {
		return nil, nil, errHeader
	}
	h := [512]byte(rest[:512])
	size, err := e.readBase(&h)
	if err != nil {
		return nil, nil, err
	}
	sparse, err := e.apply(pax, &size)
	if err != nil {
		return nil, nil, err
	}
	rest = rest[512:]
	if sparse.on {
		if rest, err = e.readMap(rest, size, sparse.size); err != nil {
			return nil, nil, err
		}
	} else if e.Kind == File {
		e.Size = size
	}
	if e.Kind == Directory {
		e.Path = strings.TrimSuffix(e.Path, "/")
	}
	return e, rest, e.validate()
}

// cutPax takes a pax header off data, if there is one.
func cutPax(data []byte) (pax, rest []byte, err error) {
	if len(data) < 512 || data[156] != 'x' {
		return nil, data, nil
	}
	length, err := parseOctal(data[124:136])
	if err != nil || length > maxPax || 512+length+int64(pad(length)) > int64(len(data)) {
		return nil, nil, errHeader
	}
	return data[512 : 512+length], data[512+length+int64(pad(length)):], nil
}

func (e *Entry) readBase(h *[512]byte) (size int64, err error) {
	sum, err := parseOctal(h[148:154])
	copy(h[148:156], "        ")
	if err != nil || uint64(sum) != checksum(h) {
		return 0, fmt.Errorf("checksum: %w", errHeader)
	}
	e.Kind = h[156]
	e.Path, e.Link = text(h[0:100]), text(h[157:257])
	for _, f := range []struct {
		into  *uint32
		field []byte
	}{{&e.Mode, h[100:108]}, {&e.UID, h[108:116]}, {&e.GID, h[116:124]}, {&e.Major, h[329:337]}, {&e.Minor, h[337:345]}} {
		v, err := parseOctal(f.field)
		if err != nil {
			return 0, err
		}
		*f.into = uint32(v)
	}
	sec, err := parseOctal(h[136:148])
	if err != nil {
		return 0, err
	}
	e.ModTime = time.Unix(sec, 0)
	return parseOctal(h[124:136])
}

func text(field []byte) string {
	if i := bytes.IndexByte(field, 0); i >= 0 {
		field = field[:i]
	}
	return string(field)
}

func parseOctal(field []byte) (int64, error) {
	s := text(field)
	if s == "" {
		return 0, nil
	}
	v, err := strconv.ParseUint(s, 8, 62)
	if err != nil {
		return 0, errHeader
	}
	return int64(v), nil
}

// sparseInfo is what pax records say about a sparse file.
type sparseInfo struct {
	on   bool
	size int64
}

// apply overrides fields by pax records.
func (e *Entry) apply(pax []byte, size *int64) (s sparseInfo, err error) {
	for len(pax) > 0 {
		key, value, rest, err := cutRecord(pax)
		if err != nil {
			return s, err
		}
		pax = rest
		if err := e.applyOne(key, value, size, &s); err != nil {
			return s, fmt.Errorf("record %.40q: %w", key, err)
		}
	}
	return s, nil
}

func cutRecord(pax []byte) (key, value string, rest []byte, err error) {
	space := bytes.IndexByte(pax, ' ')
	if space < 1 || space > 8 {
		return "", "", nil, errHeader
	}
	length, err := strconv.Atoi(string(pax[:space]))
	if err != nil || length < space+4 || length > len(pax) || pax[length-1] != '\n' {
		return "", "", nil, errHeader
	}
	key, value, ok := strings.Cut(string(pax[space+1:length-1]), "=")
	if !ok {
		return "", "", nil, errHeader
	}
	return key, value, pax[length:], nil
}

func (e *Entry) applyOne(key, value string, size *int64, s *sparseInfo) (err error) {
	var n int64
	switch key {
	case "path", "GNU.sparse.name":
		e.Path = value
	case "linkpath":
		e.Link = value
	case "mtime":
		e.ModTime, err = parseTime(value)
	case "size":
		*size, err = parseNumber(value)
	case "uid":
		n, err = parseNumber(value)
		e.UID = uint32(n)
	case "gid":
		n, err = parseNumber(value)
		e.GID = uint32(n)
	case "GNU.sparse.major", "GNU.sparse.minor":
	case "GNU.sparse.realsize":
		s.on = true
		s.size, err = parseNumber(value)
	default:
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok {
			return errHeader
		}
		e.Xattrs = append(e.Xattrs, Xattr{xattrUnescape.Replace(name), value})
	}
	return err
}

func parseNumber(s string) (int64, error) {
	v, err := strconv.ParseUint(s, 10, 62)
	if err != nil {
		return 0, errHeader
	}
	return int64(v), nil
}

// readMap reads the map in front of a sparse file's content, and checks it.
func (e *Entry) readMap(data []byte, size, realSize int64) ([]byte, error) {
	e.Sparse, e.Size = true, realSize
	r := mapReader{rest: data}
	count := r.line()
	if count < 0 || count > int64(len(data)/4) {
		return nil, errHeader
	}
	end := int64(0)
	e.Extents = make([]Extent, 0, count)
	for range count {
		x := Extent{r.line(), r.line()}
		if x.Offset < end || x.Length < 0 || x.Length > realSize || x.Offset > realSize-x.Length {
			return nil, errHeader
		}
		end = x.Offset + x.Length
		e.Extents = append(e.Extents, x)
	}
	length := int64(len(data) - len(r.rest))
	length += int64(pad(length))
	if r.bad || length > int64(len(data)) || size != length+e.Stored() {
		return nil, errHeader
	}
	return data[length:], nil
}

type mapReader struct {
	rest []byte
	bad  bool
}

func (r *mapReader) line() int64 {
	end := bytes.IndexByte(r.rest[:min(len(r.rest), 24)], '\n')
	if r.bad || end < 0 {
		r.bad = true
		return -1
	}
	v, err := parseNumber(string(r.rest[:end]))
	if err != nil {
		r.bad = true
		return -1
	}
	r.rest = r.rest[end+1:]
	return v
}

// validate refuses what no writer writes and what would leave the target of a restore.
func (e *Entry) validate() error {
	if !strings.ContainsRune("0123456s", rune(e.Kind)) {
		return fmt.Errorf("kind %q: %w", e.Kind, errHeader)
	}
	if err := checkPath(e.Path); err != nil {
		return err
	}
	if e.Kind == HardLink {
		return checkPath(e.Link)
	}
	return nil
}

func checkPath(p string) error {
	if p == "" || strings.HasPrefix(p, "/") || strings.IndexByte(p, 0) >= 0 {
		return fmt.Errorf("path %.80q: %w", p, errHeader)
	}
	if p != "." && slices.ContainsFunc(strings.Split(p, "/"), func(s string) bool { return s == ".." || s == "" || s == "." }) {
		return fmt.Errorf("path %.80q: %w", p, errHeader)
	}
	return nil
}
