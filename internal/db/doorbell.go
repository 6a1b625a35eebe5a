package db

import "sync"

// Doorbell wakes whoever waits after a commit. It carries no data: a missed ring costs one poll interval.
type Doorbell struct {
	mu   sync.Mutex
	next chan struct{}
}

func newDoorbell() *Doorbell { return &Doorbell{next: make(chan struct{})} }

// Wait returns a channel that closes at the next ring. Take it before reading the tables, or a ring may be missed.
func (d *Doorbell) Wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.next
}

// Ring wakes everyone who waits.
func (d *Doorbell) Ring() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.next)
	d.next = make(chan struct{})
}
