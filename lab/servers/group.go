package servers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const groupRoot = "/sys/fs/cgroup"

// hierarchies lists the trees of control groups: one with version 2 alone, several where version 1 is in use.
func hierarchies() ([]string, error) {
	if _, err := os.Stat(filepath.Join(groupRoot, "cgroup.controllers")); err == nil {
		return []string{groupRoot}, nil
	}
	found, err := filepath.Glob(filepath.Join(groupRoot, "*", "cgroup.procs"))
	if err != nil || len(found) == 0 {
		return nil, errors.Join(err, fmt.Errorf("find control groups below %s: none is mounted", groupRoot))
	}
	var trees []string
	for _, file := range found {
		// cpu may be a second name of cpu,cpuacct: each tree counts once.
		if at, err := os.Lstat(filepath.Dir(file)); err == nil && at.IsDir() {
			trees = append(trees, filepath.Dir(file))
		}
	}
	return trees, nil
}

// makeGroup makes a control group PARENT/NAME in every tree, ready to take processes.
func makeGroup(group string) error {
	trees, err := hierarchies()
	if err != nil {
		return err
	}
	for _, tree := range trees {
		at := tree
		for _, part := range strings.Split(group, "/") {
			if err := giveControllers(at); err != nil {
				return err
			}
			at = filepath.Join(at, part)
			if err := os.MkdirAll(at, 0o755); err != nil {
				return fmt.Errorf("make control group: %w", err)
			}
			if err := inherit(at, "cpuset.cpus", "cpuset.mems"); err != nil {
				return err
			}
		}
	}
	return nil
}

// giveControllers lets the groups below one count and limit (version 2; a file that version 1 has not).
func giveControllers(group string) error {
	raw, err := os.ReadFile(filepath.Join(group, "cgroup.controllers"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, controller := range strings.Fields(string(raw)) {
		// One that cannot be given, for instance one with real-time processes, is not needed.
		_ = os.WriteFile(filepath.Join(group, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
	}
	return nil
}

// inherit copies settings that version 1 leaves empty in a new group, and that must not be empty.
func inherit(group string, settings ...string) error {
	for _, setting := range settings {
		if have, err := os.ReadFile(filepath.Join(group, setting)); err != nil || strings.TrimSpace(string(have)) != "" {
			continue // version 2, or another tree, or set already
		}
		parent, err := os.ReadFile(filepath.Join(filepath.Dir(group), setting))
		if err != nil {
			continue // version 2 inherits by itself
		}
		if err := os.WriteFile(filepath.Join(group, setting), parent, 0o644); err != nil {
			return fmt.Errorf("set %s of control group: %w", setting, err)
		}
	}
	return nil
}

// removeGroup removes a control group and all below it; its processes have ended.
func removeGroup(group string) error {
	trees, err := hierarchies()
	if err != nil {
		return err
	}
	for _, tree := range trees {
		if err := removeTree(filepath.Join(tree, group)); err != nil {
			return err
		}
	}
	return nil
}

// removeTree removes the innermost groups first, for a group with others below it cannot be removed.
func removeTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list control groups: %w", err)
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := os.Remove(dirs[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove control group: %w", err)
		}
	}
	return nil
}
