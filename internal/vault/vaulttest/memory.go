package vaulttest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/internal/vault"
)

// Memory is a store for tests that touch every object many times. The zero value is empty and ready.
type Memory struct {
	// Clock gives the time of new objects; nil means time.Now.
	Clock func() time.Time

	mu      sync.Mutex // guards what follows
	objects map[string]memoryObject
}

type memoryObject struct {
	body []byte
	time time.Time
}

func checkName(name string) error {
	if strings.HasPrefix(name, "/") || strings.Contains(name, "..") || strings.Count(name, "/") > 1 {
		return fmt.Errorf("object name %q: %w", name, vault.ErrDenied)
	}
	return nil
}

// Put implements vault.Store.
func (m *Memory) Put(ctx context.Context, name string, body []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := checkName(name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, there := m.objects[name]; there {
		return fmt.Errorf("%s: %w", name, vault.ErrExists)
	}
	if m.objects == nil {
		m.objects = map[string]memoryObject{}
	}
	now := time.Now
	if m.Clock != nil {
		now = m.Clock
	}
	m.objects[name] = memoryObject{bytes.Clone(body), now()}
	return nil
}

// Get implements vault.Store.
func (m *Memory) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o, there := m.objects[name]
	if !there {
		return nil, fmt.Errorf("%s: %w", name, vault.ErrNotFound)
	}
	body := o.body[min(offset, int64(len(o.body))):]
	if length >= 0 {
		body = body[:min(length, int64(len(body)))]
	}
	return io.NopCloser(bytes.NewReader(body)), nil
}

// List implements vault.Store.
func (m *Memory) List(ctx context.Context, folder string) ([]vault.Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []vault.Object
	for name, o := range m.objects {
		if dir := path.Dir(name); dir == folder || dir == "." && folder == "" {
			out = append(out, vault.Object{Name: name, Size: int64(len(o.body)), Time: o.time})
		}
	}
	return out, ctx.Err()
}

// Delete implements vault.Store.
func (m *Memory) Delete(ctx context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, name)
	return ctx.Err()
}

// Close implements vault.Store.
func (m *Memory) Close() error { return nil }

// Names gives all names in order.
func (m *Memory) Names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.objects))
}

// Body gives the bytes of an object.
func (m *Memory) Body(name string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.objects[name].body)
}

// Set puts other bytes under a name, as damage does.
func (m *Memory) Set(name string, body []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.objects[name]
	o.body = body
	m.objects[name] = o
}

// Clone gives a second store with the same objects.
func (m *Memory) Clone() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &Memory{Clock: m.Clock, objects: maps.Clone(m.objects)}
}
