package vault

import (
	"fmt"
	"path"

	"holdfast/internal/vault/internal/tree"
)

// coherent refuses a manifest whose entries no scan could have found: two things of one name, or something below what
// is no directory. A writer who was broken into could lead a restore out of its target with them: through a link that
// it makes first.
func coherent(entries []fileEntry) error {
	kinds := make(map[string]byte, len(entries)+1)
	kinds["."] = tree.Directory
	for i := range entries {
		e := &entries[i]
		if was, twice := kinds[e.Path]; twice && (was != tree.Directory || e.Kind != tree.Directory) {
			return fmt.Errorf("%q is there twice", e.Path)
		}
		kinds[e.Path] = e.Kind
	}
	for i := range entries {
		e := &entries[i]
		if err := reachable(e.Path, kinds); err != nil {
			return err
		}
		if e.Kind != tree.HardLink {
			continue
		}
		if err := reachable(e.Link, kinds); err != nil {
			return err
		}
	}
	return nil
}

// reachable tells whether only directories lead to a path.
func reachable(name string, kinds map[string]byte) error {
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		switch kind, listed := kinds[dir]; {
		case listed && kind != tree.Directory:
			return fmt.Errorf("%q lies below %q, which is no directory", name, dir)
		case listed:
			return nil // what leads to it was looked at for itself
		}
	}
}
