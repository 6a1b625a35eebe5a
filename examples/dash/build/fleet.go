package build

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var pinnedImage = regexp.MustCompile(`image: (dash/[a-z]+:[A-Za-z0-9.]+)`)

// PinFleet copies the fleet files and adds to every image of the releases the archive that was made for it, with its
// digest. Replace gives other images instead of some, such as dash/ferretdb:v1.24.0 -> mongo:7.0.14, which then come
// from a registry.
func PinFleet(from, to string, images []Image, replace map[string]string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return fmt.Errorf("copy fleet: %w", err)
	}
	path := filepath.Join(to, "releases.yaml")
	body, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read releases: %w", err)
	}
	text, err := pinned(string(body), images, replace)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644) //nolint:gosec // anybody may read it
}

func pinned(text string, images []Image, replace map[string]string) (string, error) {
	made := map[string]Image{}
	for _, image := range images {
		made[image.Name] = image
	}
	var missing []string
	text = pinnedImage.ReplaceAllStringFunc(text, func(found string) string {
		name := strings.TrimPrefix(found, "image: ")
		if other := replace[name]; other != "" {
			return `image: "` + other + `"`
		}
		image, ok := made[name]
		if !ok {
			missing = append(missing, name)
			return found
		}
		return fmt.Sprintf(`image: "%s", archive: "${value:images}/%s@sha256:%s"`, name, image.Archive, image.SHA256)
	})
	if len(missing) > 0 {
		return "", fmt.Errorf("releases name images that are not made: %s", strings.Join(missing, ", "))
	}
	return text, nil
}
