package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"holdfast/internal/fleet"
	"holdfast/internal/problem"
)

// A service may bring its image as an archive instead of from a registry: a site then recovers with no registry in
// reach. The archive is pinned by the digest of its bytes, which are checked before the engine sees any of them; a mark
// of that digest at the loaded image tells, on every version of the engine, that the image is there already.

// markName holds the marks of loaded archives; no registry has it.
const markName = "holdfast.invalid/archive"

// largest is how many bytes an archive may have that is fetched.
const largest = 16 << 30

// loadArchive makes the service's image the one in its archive.
func (e *Engine) loadArchive(ctx context.Context, service fleet.Service) error {
	from, sum, _ := strings.Cut(service.Archive, "@sha256:")
	if raw, err := hex.DecodeString(sum); err != nil || len(raw) != sha256.Size {
		return problem.New(problem.Invalid, "holdfast validate", "archive %q says no digest", service.Archive)
	}
	mark := markName + ":" + sum
	_, err := e.api.ImageInspect(ctx, mark)
	if errdefs.IsNotFound(err) {
		err = e.loadAndMark(ctx, service.Image, from, sum, mark)
	}
	if err != nil {
		return err
	}
	return e.call(ctx, service.Image, mark)
}

func (e *Engine) loadAndMark(ctx context.Context, image, from, sum, mark string) error {
	archive, err := openArchive(ctx, from)
	if err != nil {
		return err
	}
	defer archive.Close()
	if err := holds(archive, sum); err != nil {
		return problem.Wrap(err, problem.Corrupt, "sha256sum "+from, "archive %s not loaded", from)
	}
	if err := e.load(ctx, archive); err != nil {
		return fmt.Errorf("load %s: %w", from, err)
	}
	_, err = e.api.ImageTag(ctx, client.ImageTagOptions{Source: image, Target: mark})
	if errdefs.IsNotFound(err) {
		return problem.New(problem.Invalid, "tar xOf "+from+" manifest.json", "archive %s holds no image %s", from, image)
	}
	return err
}

// holds reads the archive whole, and puts it back to its beginning.
func holds(archive io.ReadSeeker, sum string) error {
	hash := sha256.New()
	if _, err := io.Copy(hash, archive); err != nil {
		return err
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != sum {
		return fmt.Errorf("its digest is sha256:%s, and sha256:%s is wanted", got, sum)
	}
	_, err := archive.Seek(0, io.SeekStart)
	return err
}

// load reads the whole answer: a load that fails half-way says so only there.
func (e *Engine) load(ctx context.Context, archive io.Reader) error {
	answer, err := e.api.ImageLoad(ctx, archive, client.ImageLoadWithQuiet(true))
	if err != nil {
		return err
	}
	defer answer.Close()
	for lines := json.NewDecoder(answer); ; {
		var line struct {
			Error string `json:"error"`
		}
		err := lines.Decode(&line)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && line.Error != "" {
			err = errors.New(line.Error)
		}
		if err != nil {
			return err
		}
	}
}

// call gives the marked image its name, if somebody gave the name to another.
func (e *Engine) call(ctx context.Context, image, mark string) error {
	marked, err := e.api.ImageInspect(ctx, mark)
	if err != nil {
		return err
	}
	named, err := e.api.ImageInspect(ctx, image)
	if err == nil && named.ID == marked.ID {
		return nil
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	_, err = e.api.ImageTag(ctx, client.ImageTagOptions{Source: mark, Target: image})
	return err
}

// openArchive opens a file of the node, or fetches one: it lies in no folder, and is gone when it is closed.
func openArchive(ctx context.Context, from string) (*os.File, error) {
	if !strings.HasPrefix(from, "https://") {
		file, err := os.Open(from)
		if err != nil {
			return nil, fmt.Errorf("open archive: %w", err)
		}
		return file, nil
	}
	spool, err := os.CreateTemp("", "holdfast-archive-*")
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", from, err)
	}
	err = errors.Join(os.Remove(spool.Name()), fetchInto(ctx, from, spool))
	if err == nil {
		_, err = spool.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fetch %s: %w", from, err), spool.Close())
	}
	return spool, nil
}

func fetchInto(ctx context.Context, from string, spool io.Writer) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %s", answer.Status)
	}
	n, err := io.Copy(spool, io.LimitReader(answer.Body, largest+1))
	if err == nil && n > largest {
		err = fmt.Errorf("more than %d bytes", int64(largest))
	}
	return err
}
