package dash

import (
	"fmt"
	"strconv"
	"strings"
)

// Release is what one version of the product does differently from the others.
type Release struct {
	Version string // "v2.0.0"
	Major   int    // of the version; the frontend asks below /api/vMAJOR
}

// newest is the last release that this source knows.
const newest = 4

// ParseRelease reads a version such as v2.0.0. The release that it names is one of v1 to v4.
func ParseRelease(version string) (Release, error) {
	text, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	major, err := strconv.Atoi(text)
	if err != nil || major < 1 || major > newest {
		return Release{}, fmt.Errorf("version %q is not one of v1 to v%d: build with -ldflags '-X main.version=v2.0.0'", version, newest)
	}
	return Release{Version: version, Major: major}, nil
}

// Base is where the API of this release is.
func (r Release) Base() string { return "/api/v" + strconv.Itoa(r.Major) }

// schema is the number of the last migration of the release.
func (r Release) schema() int { return r.Major }

// hasSections tells whether a dashboard shows several sections; until v2 it showed one.
func (r Release) hasSections() bool { return r.Major >= 2 }

// hasSlugs tells whether a dashboard has an address of its own, made of its title.
func (r Release) hasSlugs() bool { return r.Major >= 3 }
