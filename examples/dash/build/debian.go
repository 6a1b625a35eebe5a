package build

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Packages of the distribution become part of an image without being installed: apt resolves and downloads them for a
// machine on which nothing is installed, and their files are read out of them. That needs no root.

// left are packages that only serve the installation of others.
var left = regexp.MustCompile(`^(debconf|cdebconf|perl|dpkg|init-system|lsb-base|sysvinit|adduser|passwd|ucf|iproute2|libpam|libbpf|libelf|libmnl|libxtables|libcap2-bin|libdb|libtirpc|libnsl|gcc-12-base|libsemanage|libsepol|libaudit|libcap-ng|tar$|iptables|libgdbm|libdebconf|lua-)`)

// shadow are files of packages that no program reads.
var shadow = regexp.MustCompile(`^(usr/share/(doc|man|lintian|bash-completion|locale|info|zsh|vim|bug|doc-base|initramfs-tools|apport)|lib/systemd|usr/lib/systemd|etc/(init\.d|logrotate\.d|cron|ufw|default|systemd|apparmor)|var/)`)

// debian downloads packages with all that they need and gives the paths of the archives.
func debian(ctx context.Context, cache string, names ...string) ([]string, error) {
	if err := os.MkdirAll(filepath.Join(cache, "archives", "partial"), 0o755); err != nil {
		return nil, err
	}
	nothing := filepath.Join(cache, "status") // what is installed: nothing
	if err := os.WriteFile(nothing, nil, 0o600); err != nil {
		return nil, err
	}
	options := []string{"-o", "Dir::State::status=" + nothing, "-o", "Dir::Cache=" + cache, "-o", "APT::Install-Recommends=false", "-o", "Debug::NoLocking=true", "-qq"}
	plan, err := apt(ctx, append(append(slices.Clone(options), "-s", "install"), names...))
	if err != nil && os.Geteuid() == 0 { // a new machine has no lists yet
		if _, err := apt(ctx, []string{"-qq", "update"}); err != nil {
			return nil, err
		}
		plan, err = apt(ctx, append(append(slices.Clone(options), "-s", "install"), names...))
	}
	if err != nil {
		return nil, err
	}
	if _, err := apt(ctx, append(append(slices.Clone(options), "-y", "-d", "install"), names...)); err != nil {
		return nil, err
	}
	return archives(filepath.Join(cache, "archives"), string(plan))
}

func apt(ctx context.Context, args []string) ([]byte, error) {
	command := exec.CommandContext(ctx, "apt-get", args...)
	command.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var words bytes.Buffer
	command.Stderr = &words
	out, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("ask apt-get for packages (the images need Debian or Ubuntu; apt-get update may help): %w\n%s", err, &words)
	}
	return out, nil
}

var planned = regexp.MustCompile(`(?m)^Inst (\S+) \((\S+) .*\[(\S+)\]\)`)

// archives finds the files that apt downloaded for a plan, without those that only serve the installation.
func archives(folder, plan string) ([]string, error) {
	var all []string
	for _, match := range planned.FindAllStringSubmatch(plan, -1) {
		name, version, arch := match[1], match[2], match[3]
		if left.MatchString(name) {
			continue
		}
		file := filepath.Join(folder, name+"_"+strings.ReplaceAll(version, ":", "%3a")+"_"+arch+".deb")
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("find the archive of %s: %w", name, err)
		}
		all = append(all, file)
	}
	if len(all) == 0 {
		return nil, errors.New("apt-get planned nothing")
	}
	slices.Sort(all)
	return all, nil
}

// tree is the files of an image to be, by path without a slash in front. Merged folders (bin, lib) lie below usr.
type tree map[string]entry

type entry struct {
	header tar.Header
	body   []byte
}

// add reads a package into the tree.
func (t tree) add(ctx context.Context, archive string) error {
	command := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", archive)
	files, err := command.Output()
	if err != nil {
		return fmt.Errorf("read %s: %w", archive, err)
	}
	for reader := tar.NewReader(bytes.NewReader(files)); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", archive, err)
		}
		if err := t.take(header, reader); err != nil {
			return fmt.Errorf("read %s: %w", archive, err)
		}
	}
}

func (t tree) take(header *tar.Header, body io.Reader) error {
	name := strings.TrimPrefix(path.Clean("/"+header.Name), "/")
	if name == "" || shadow.MatchString(name) || header.Typeflag == tar.TypeDir {
		return nil // folders are made for what is in them
	}
	var bytes []byte
	if header.Typeflag == tar.TypeReg {
		var err error
		if bytes, err = io.ReadAll(body); err != nil {
			return err
		}
	}
	kept := tar.Header{Name: merged(name), Typeflag: header.Typeflag, Mode: header.Mode &^ 0o7000, Size: int64(len(bytes)), Linkname: header.Linkname, ModTime: header.ModTime}
	if header.Typeflag == tar.TypeLink {
		kept.Linkname = merged(strings.TrimPrefix(path.Clean("/"+header.Linkname), "/"))
	}
	t[kept.Name] = entry{kept, bytes}
	return nil
}

// merged gives the place of a file where bin, sbin and lib lie below usr.
func merged(name string) string {
	first, _, _ := strings.Cut(name, "/")
	if slices.Contains([]string{"bin", "sbin", "lib", "lib64"}, first) {
		return "usr/" + name
	}
	return name
}

// put adds a file.
func (t tree) put(name string, mode int64, body []byte) {
	t[name] = entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(body))}, body}
}

// folder adds an empty folder.
func (t tree) folder(name string, mode int64) {
	t[name] = entry{header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode}}
}

// link adds a symbolic link, unless something is there.
func (t tree) link(name, to string) {
	if _, taken := t[name]; !taken {
		t[name] = entry{header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}}
	}
}

// base is what every program of a distribution expects: merged folders, names of users, a shell with the usual commands.
func (t tree) base(version string) {
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		t.link(name, "usr/"+name)
	}
	t.put("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"))
	t.put("etc/group", 0o644, []byte("root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n"))
	t.put("etc/nsswitch.conf", 0o644, []byte("passwd: files\ngroup: files\nhosts: files dns\n"))
	t.put("etc/dash-image", 0o644, []byte(version+"\n"))
	t.folder("tmp", 0o1777)
	t.folder("run", 0o755)
	t.folder("var/log/nginx", 0o755)
	t.folder("var/lib/nginx", 0o755)
	for _, applet := range strings.Fields("sh cat cp env head ls mkdir mktemp mv printf ps rm sleep tail test wget") {
		t.link("usr/bin/"+applet, "busybox")
	}
}

// tar writes the tree, every folder before what is in it, always in the same order and with the same times.
func (t tree) tar() ([]byte, error) {
	for name := range t {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, there := t[dir]; !there {
				t.folder(dir, 0o755)
			}
		}
	}
	names := make([]string, 0, len(t))
	for name := range t {
		names = append(names, name)
	}
	slices.Sort(names)
	var out bytes.Buffer
	writer := tar.NewWriter(&out)
	for _, hard := range []bool{false, true} { // a hard link follows what it names
		for _, name := range names {
			e := t[name]
			if (e.header.Typeflag == tar.TypeLink) != hard {
				continue
			}
			if err := writer.WriteHeader(&e.header); err != nil {
				return nil, fmt.Errorf("write %s: %w", name, err)
			}
			if _, err := writer.Write(e.body); err != nil {
				return nil, fmt.Errorf("write %s: %w", name, err)
			}
		}
	}
	return out.Bytes(), writer.Close()
}
