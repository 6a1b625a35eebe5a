package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"holdfast/examples/dash/dash"
	"holdfast/examples/dash/frontend"
)

// Image is one archive that was made.
type Image struct {
	Name    string `json:"name"`    // REPOSITORY:TAG, as the releases pin it
	Archive string `json:"archive"` // file name
	SHA256  string `json:"sha256"`  // of the archive, hex
	ID      string `json:"id"`      // sha256:HEX, as the engine shows it
	Size    int64  `json:"size"`    // of the archive, bytes
}

// recipe is how an image is made: from trees, each a layer, and how it starts.
type recipe struct {
	name   string
	layers []tree
	config v1.Config
}

// MakeImages makes every image into the folder into and gives them; images.json beside them says the same. Programs are
// those of MakePrograms; cache keeps what was downloaded.
func MakeImages(ctx context.Context, programs map[string]string, into, cache string, say func(string)) ([]Image, error) {
	if err := os.MkdirAll(into, 0o755); err != nil {
		return nil, err
	}
	recipes, err := recipes(ctx, programs, cache)
	if err != nil {
		return nil, err
	}
	var all []Image
	for _, r := range recipes {
		image, err := r.make(into, say)
		if err != nil {
			return nil, fmt.Errorf("make image %s: %w", r.name, err)
		}
		all = append(all, image)
	}
	body, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return nil, err
	}
	return all, os.WriteFile(filepath.Join(into, "images.json"), append(body, '\n'), 0o644) //nolint:gosec // anybody may read it
}

func recipes(ctx context.Context, programs map[string]string, cache string) ([]recipe, error) {
	redis, err := distribution(ctx, cache, "redis-server", "busybox-static")
	if err != nil {
		return nil, err
	}
	nginx, err := distribution(ctx, cache, "nginx", "busybox-static")
	if err != nil {
		return nil, err
	}
	shell, err := distribution(ctx, cache, "busybox-static")
	if err != nil {
		return nil, err
	}
	all := []recipe{{"dash/redis:debian", []tree{redis}, v1.Config{
		Entrypoint: []string{"/usr/bin/redis-server"},
		Cmd:        []string{"--save", "", "--appendonly", "no", "--dir", "/tmp", "--protected-mode", "no"},
		Env:        []string{"PATH=/usr/sbin:/usr/bin"},
	}}}
	for _, version := range []string{"1.23", "1.24"} {
		r, err := ferretdb(programs, shell, version)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	for _, version := range Releases() {
		both, err := ours(programs, nginx, version)
		if err != nil {
			return nil, err
		}
		all = append(all, both...)
	}
	return all, nil
}

// distribution is a layer of packages.
func distribution(ctx context.Context, cache string, names ...string) (tree, error) {
	files, err := debian(ctx, cache, names...)
	if err != nil {
		return nil, err
	}
	t := tree{}
	var version []string
	for _, file := range files {
		if err := t.add(ctx, file); err != nil {
			return nil, err
		}
		version = append(version, strings.TrimSuffix(filepath.Base(file), ".deb"))
	}
	t.base(strings.Join(version, "\n"))
	return t, nil
}

// restore leaves out the indexes of a dump: FerretDB refuses the "ns" that mongorestore gives each. The backend makes
// its indexes at every start.
const restore = "#!/bin/sh\nexec /usr/lib/mongo-tools/mongorestore --noIndexRestore \"$@\"\n"

// exactly is the version behind the two numbers that a program is called by.
func exactly(version string) string {
	return map[string]string{"1.23": "v1.23.1", "1.24": "v1.24.0"}[version]
}

func ferretdb(programs map[string]string, shell tree, version string) (recipe, error) {
	t := tree{}
	t.put("usr/bin/mongorestore", 0o755, []byte(restore))
	t.folder("data/db", 0o700)
	for to, program := range map[string]string{"usr/bin/ferretdb": "ferretdb-" + version, "usr/bin/mongodump": "mongodump", "usr/lib/mongo-tools/mongorestore": "mongorestore"} {
		body, err := os.ReadFile(programs[program])
		if err != nil {
			return recipe{}, fmt.Errorf("read program %s: %w", program, err)
		}
		t.put(to, 0o755, body)
	}
	return recipe{"dash/ferretdb:" + exactly(version), []tree{shell, t}, v1.Config{
		Entrypoint: []string{"/usr/bin/ferretdb"}, Env: []string{"PATH=/usr/sbin:/usr/bin"},
	}}, nil
}

// ours are the backend and the frontend of a release.
func ours(programs map[string]string, nginx tree, version string) ([]recipe, error) {
	release, err := dash.ParseRelease(version)
	if err != nil {
		return nil, err
	}
	body, err := os.ReadFile(programs["dash-backend-"+version])
	if err != nil {
		return nil, fmt.Errorf("read program: %w", err)
	}
	backend := tree{}
	backend.put("usr/bin/dash-backend", 0o755, body)
	backend.folder("app/storage", 0o755)
	backend.folder("tmp", 0o1777)
	page := tree{}
	page.put("etc/nginx/nginx.conf", 0o644, frontend.Conf(version))
	page.put("usr/share/dash/index.html", 0o644, frontend.Page(version, release.Base()))
	return []recipe{
		{"dash/backend:" + version, []tree{backend}, v1.Config{Entrypoint: []string{"/usr/bin/dash-backend"}, Cmd: []string{"api"}}},
		{"dash/frontend:" + version, []tree{nginx, page}, v1.Config{Entrypoint: []string{"/usr/sbin/nginx"}, StopSignal: "SIGQUIT", Env: []string{"PATH=/usr/sbin:/usr/bin"}}},
	}, nil
}

// make writes the archive, unless one of the same content is there.
func (r recipe) make(into string, say func(string)) (Image, error) {
	file := strings.NewReplacer("/", "-", ":", "-").Replace(r.name) + ".tar"
	path := filepath.Join(into, file)
	layers, stamp, err := r.tars()
	if err != nil {
		return Image{}, err
	}
	image, err := r.image(layers)
	if err != nil {
		return Image{}, err
	}
	if !stamped(path, stamp) {
		say("image " + r.name)
		tag, err := name.NewTag(r.name)
		if err != nil {
			return Image{}, err
		}
		if err := tarball.WriteToFile(path, tag, image); err != nil {
			return Image{}, err
		}
		if err := stampIt(path, stamp); err != nil {
			return Image{}, err
		}
	}
	return described(r.name, path, image)
}

// tars gives the layers, and a stamp over them and the settings.
func (r recipe) tars() ([][]byte, string, error) {
	hash := sha256.New()
	if err := json.NewEncoder(hash).Encode(r.config); err != nil {
		return nil, "", err
	}
	var all [][]byte
	for _, t := range r.layers {
		body, err := t.tar()
		if err != nil {
			return nil, "", err
		}
		hash.Write(body)
		all = append(all, body)
	}
	return all, hex.EncodeToString(hash.Sum(nil)), nil
}

func (r recipe) image(layers [][]byte) (v1.Image, error) {
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, Config: r.config, RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		return nil, err
	}
	for _, body := range layers {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil })
		if err != nil {
			return nil, err
		}
		if image, err = mutate.AppendLayers(image, layer); err != nil {
			return nil, err
		}
	}
	return image, nil
}

func described(name, path string, image v1.Image) (Image, error) {
	id, err := image.ConfigName()
	if err != nil {
		return Image{}, err
	}
	sum, err := digestOf(path)
	if err != nil {
		return Image{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return Image{}, err
	}
	return Image{Name: name, Archive: filepath.Base(path), SHA256: sum, ID: id.String(), Size: info.Size()}, nil
}
