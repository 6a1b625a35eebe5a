package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"holdfast/lab"
)

// stateDir is where labs are kept: HOLDFAST_LAB_DIR, or a folder of the system's. It must be on a file system that can
// hold images of disks.
func stateDir() string { return orVariable("HOLDFAST_LAB_DIR", "/var/lib/holdfast-lab") }

// cacheDir is where is kept what takes long to make and is the same for every lab: HOLDFAST_LAB_CACHE.
func cacheDir() string { return orVariable("HOLDFAST_LAB_CACHE", "/var/cache/holdfast-lab") }

func orVariable(variable, otherwise string) string {
	if value := os.Getenv(variable); value != "" {
		return value
	}
	return otherwise
}

// lock waits until this process alone holds the file. The lock ends with the process at the latest; unlock removes the
// file too, and its folder when nothing else is there.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	var held *os.File
	err = lab.Until(ctx, 15*time.Minute, 100*time.Millisecond, "wait for "+path, func() (bool, string) {
		if held, err = tryLock(path); err != nil {
			return false, err.Error()
		}
		return held != nil, "another process holds it"
	})
	if err != nil {
		return nil, err
	}
	return func() {
		_ = os.Remove(path) // while it is held: who waits finds another file, or none
		_ = held.Close()
		_ = os.Remove(filepath.Dir(path))
	}, nil
}

// tryLock locks the file at path; nil when another process holds it, or has removed it meanwhile.
func tryLock(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make folder for %s: %w", filepath.Base(path), err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, file.Close()
	}
	ours, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if there, err := os.Stat(path); err != nil || !os.SameFile(ours, there) {
		return nil, file.Close()
	}
	return file, nil
}
