package exec

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openLog opens a log for appending only: every write then goes to the present end, also after the file was cut.
func openLog(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make log directory: %w", err)
	}
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return log, nil
}

// rotate moves the head of a log that has outgrown size to path.1, path.1 to path.2 and so on up to keep. The
// service keeps its open file: no signal, no pipe through the agent, so logs go on while the agent is away. Where
// the file system can cut a file's head in one piece (ext4, xfs), no byte is lost; elsewhere what is written
// between copy and cut is.
func rotate(path string, size int64, keep int) error {
	info, err := os.Stat(path)
	if err != nil || info.Size() <= size {
		return err
	}
	for n := keep; n > 1; n-- {
		if err := os.Rename(numbered(path, n-1), numbered(path, n)); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("shift log: %w", err)
		}
	}
	block := int64(os.Getpagesize())
	head := (info.Size() - 1) / block * block // a cut must not reach the end
	if err := appendRange(path, numbered(path, 1), os.O_TRUNC, 0, head); err != nil {
		return err
	}
	return cutHead(path, head)
}

func numbered(path string, n int) string { return fmt.Sprintf("%s.%d", path, n) }

// appendRange copies length bytes from offset of one file to the end of another; flag may be os.O_TRUNC.
func appendRange(from, to string, flag int, offset, length int64) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_APPEND|os.O_WRONLY|flag, 0o600)
	if err != nil {
		return fmt.Errorf("open older log: %w", err)
	}
	defer out.Close()
	if _, err := io.Copy(out, io.NewSectionReader(in, offset, length)); err != nil {
		return fmt.Errorf("copy log: %w", err)
	}
	return nil
}

func cutHead(path string, head int64) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer file.Close()
	if err := unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_COLLAPSE_RANGE, 0, head); err == nil {
		return nil
	}
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("size of log: %w", err)
	}
	if err := appendRange(path, numbered(path, 1), 0, head, info.Size()-head); err != nil {
		return err
	}
	return file.Truncate(0)
}

// tail gives the last bytes of a log, for the words of an error.
func tail(path string, length int64) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > length {
		if _, err := file.Seek(-length, io.SeekEnd); err != nil {
			return ""
		}
	}
	text, err := io.ReadAll(io.LimitReader(file, length))
	if err != nil {
		return ""
	}
	return string(text)
}
