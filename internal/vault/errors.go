package vault

import "errors"

// Errors that callers act on. All errors of this package and of its engines that have one
// of these causes wrap it.
var (
	// ErrNotFound: no such repository, snapshot, path or object.
	ErrNotFound = errors.New("not found")
	// ErrExists: an object of this name is there already; Put never overwrites.
	ErrExists = errors.New("exists already")
	// ErrWrongKey: the key given does not open this, or is not of this repository.
	ErrWrongKey = errors.New("wrong key")
	// ErrLocked: another backup, or another prune, is at work in the repository.
	ErrLocked = errors.New("locked")
	// ErrDamaged: bytes are not what was written.
	ErrDamaged = errors.New("damaged")
	// ErrIncomplete: the snapshot was written, and lacks something that could not be read.
	ErrIncomplete = errors.New("incomplete")
	// ErrNewerFormat: written by a later version than this one understands.
	ErrNewerFormat = errors.New("of a newer format")
	// ErrForeign: the directory holds something that is not a repository.
	ErrForeign = errors.New("not a vault repository")
	// ErrImpostor: a repository stands where another one is known to be, or was written under a hash key that is not known.
	ErrImpostor = errors.New("not the repository that is known")
	// ErrRolledBack: the newest snapshot that is known is not listed, and none newer.
	ErrRolledBack = errors.New("older than it was")
	// ErrFull: no room is left where the repository lies. What is there stays whole.
	ErrFull = errors.New("the disk of the vault is full")
	// ErrDenied: the store refuses this for these credentials.
	ErrDenied = errors.New("not permitted")
)
