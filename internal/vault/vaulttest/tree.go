package vaulttest

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zeebo/blake3"
)

// Describe gives one line for everything below dir: kind, mode, owner, time, link target, attributes
// and a hash of the content. Two trees are equal when their lines are.
func Describe(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	inodes := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		line, err := describe(path, name, inodes)
		if name != "." {
			out = append(out, line)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(out)
	return out
}

func describe(path, name string, inodes map[uint64]string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", err
	}
	line := fmt.Sprintf("%q mode %o owner %d:%d time %d", name, st.Mode, st.Uid, st.Gid, st.Mtim.Nano())
	if attrs := xattrs(path); attrs != "" {
		line += " attrs " + attrs
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if st.Nlink > 1 {
			if first, ok := inodes[st.Ino]; ok {
				return fmt.Sprintf("%s link %q", line, first), nil
			}
			inodes[st.Ino] = name
		}
		data, err := os.ReadFile(path)
		sum := blake3.Sum256(data)
		return fmt.Sprintf("%s size %d sum %x", line, st.Size, sum[:8]), err
	case unix.S_IFLNK:
		to, err := os.Readlink(path)
		return fmt.Sprintf("%s -> %q", line, to), err
	case unix.S_IFCHR, unix.S_IFBLK:
		return fmt.Sprintf("%s device %d:%d", line, unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
	}
	return line, nil
}

func xattrs(path string) string {
	list := make([]byte, 4096)
	n, err := unix.Llistxattr(path, list)
	if err != nil || n == 0 {
		return ""
	}
	names := strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00")
	sort.Strings(names)
	var out []string
	for _, name := range names {
		value := make([]byte, 4096)
		if n, err := unix.Lgetxattr(path, name, value); err == nil {
			out = append(out, fmt.Sprintf("%s=%x", name, value[:n]))
		}
	}
	return strings.Join(out, ",")
}

// Diff gives the lines that only one of two descriptions has.
func Diff(want, got []string) []string {
	seen := map[string]int{}
	for _, l := range want {
		seen[l]++
	}
	for _, l := range got {
		seen[l]--
	}
	var out []string
	for l, n := range seen {
		if n > 0 {
			out = append(out, "- "+l)
		} else if n < 0 {
			out = append(out, "+ "+l)
		}
	}
	sort.Strings(out)
	return out
}

// MakeTree fills dir with a tree that follows from seed: files of all sizes, links, holes, times.
func MakeTree(t testing.TB, dir string, seed uint64, files int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 7))
	m := maker{t: t, rng: rng, dirs: []string{dir}, small: files < 10}
	for range files {
		m.one()
	}
	for i := len(m.dirs) - 1; i > 0; i-- {
		m.time(m.dirs[i])
	}
}

type maker struct {
	t     testing.TB
	rng   *rand.Rand
	dirs  []string
	files []string
	small bool // trees of few files have small ones: there are many such trees
}

func (m *maker) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *maker) name() string {
	odd := []string{"plain", "with space", "новый", "new\nline", "bad\xff\xfeutf8", "-dash", "ümlaut", "quote'\"", "tab\t", strings.Repeat("long", 40)}
	return fmt.Sprintf("%s.%x", odd[m.rng.IntN(len(odd))], m.rng.Uint32())
}

func (m *maker) one() {
	path := filepath.Join(m.dirs[m.rng.IntN(len(m.dirs))], m.name())
	switch n := m.rng.IntN(20); {
	case n < 3:
		m.must(os.Mkdir(path, 0o700|fs.FileMode(m.rng.IntN(0o100))))
		m.dirs = append(m.dirs, path)
		return
	case n == 3:
		m.must(os.Symlink("../"+m.name(), path))
	case n == 4 && len(m.files) > 0:
		m.must(os.Link(m.files[m.rng.IntN(len(m.files))], path))
		return
	case n == 5:
		m.sparse(path)
	case n == 6:
		m.must(unix.Mkfifo(path, 0o640))
	default:
		m.must(os.WriteFile(path, m.content(), 0o600|fs.FileMode(m.rng.IntN(0o200))))
		m.files = append(m.files, path)
	}
	m.time(path)
}

func (m *maker) content() []byte {
	sizes := []int{0, 1, 511, 512, 513, 4000, 70000, 300000, 1500000}
	if m.small {
		sizes = sizes[:7]
	}
	size := sizes[m.rng.IntN(len(sizes))] + m.rng.IntN(3)
	data := make([]byte, size)
	noise := m.rng.IntN(2) == 0
	for i := range data {
		if noise {
			data[i] = byte(m.rng.Uint32())
		} else {
			data[i] = "some text that repeats, "[i%24] + byte(i/5000)
		}
	}
	return data
}

func (m *maker) sparse(path string) {
	f, err := os.Create(path)
	m.must(err)
	unit := uint(20)
	if m.small {
		unit = 16
	}
	_, err = f.WriteAt(m.content(), int64(1+m.rng.IntN(3))<<unit)
	m.must(err)
	m.must(f.Truncate(int64(8+m.rng.IntN(3)) << unit))
	m.must(f.Close())
	m.files = append(m.files, path)
}

func (m *maker) time(path string) {
	at := time.Unix(1_500_000_000+int64(m.rng.IntN(200_000_000)), int64(m.rng.IntN(1_000_000_000)))
	ts, err := unix.TimeToTimespec(at)
	m.must(err)
	m.must(unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}

// Noise fills p with bytes that no compressor shortens, always the same for a seed.
func Noise(seed uint64, p []byte) {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	rand.NewChaCha8(key).Read(p)
}
