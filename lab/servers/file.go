package servers

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
)

// File is a file to be in a server: its Content, a copy of the file From on this machine, or a link to Link.
type File struct {
	Path    string      // absolute, in the server
	Mode    os.FileMode // 0 = 0644, or 0755 for a copy that may be run
	Content []byte
	From    string
	Link    string
}

// text is a file with words in it.
func text(path, format string, args ...any) File {
	return File{Path: path, Content: fmt.Appendf(nil, format, args...)}
}

// private is text that only root may read.
func private(path string, content []byte) File {
	return File{Path: path, Mode: 0o600, Content: content}
}

// wanted enables a unit, as systemctl would.
func wanted(unit string) File {
	return File{Path: "/etc/systemd/system/multi-user.target.wants/" + unit, Link: "/usr/lib/systemd/system/" + unit}
}

// unit is a systemd unit of the lab's own, enabled.
func unit(name, content string) []File {
	path := "/etc/systemd/system/" + name
	return []File{
		{Path: path, Content: []byte(content)},
		{Path: "/etc/systemd/system/multi-user.target.wants/" + name, Link: path},
	}
}

// archive writes the files as tar, for the root of a server.
func archive(w io.Writer, files []File) error {
	out := tar.NewWriter(w)
	for _, f := range files {
		if err := f.archive(out); err != nil {
			return fmt.Errorf("pack %s: %w", f.Path, err)
		}
	}
	return out.Close()
}

func (f File) archive(out *tar.Writer) error {
	header := &tar.Header{Name: strings.TrimPrefix(f.Path, "/"), Mode: int64(f.Mode), Typeflag: tar.TypeReg, Size: int64(len(f.Content))}
	if f.Mode == 0 {
		header.Mode = 0o644
	}
	if f.Link != "" {
		header.Typeflag, header.Linkname, header.Mode, header.Size = tar.TypeSymlink, f.Link, 0o777, 0
		return out.WriteHeader(header)
	}
	if f.From != "" {
		return f.copyInto(out, header)
	}
	if err := out.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(out, bytes.NewReader(f.Content))
	return err
}

func (f File) copyInto(out *tar.Writer, header *tar.Header) error {
	from, err := os.Open(f.From)
	if err != nil {
		return err
	}
	defer from.Close()
	about, err := from.Stat()
	if err != nil {
		return err
	}
	header.Size = about.Size()
	if f.Mode == 0 {
		header.Mode = int64(about.Mode().Perm())
	}
	if err := out.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(out, from)
	return err
}
