package observe

import (
	"context"
	"sync"

	"holdfast/internal/db"
	"holdfast/internal/link"
)

// parcel is the reports of one node on their way into the database.
type parcel struct {
	node    string
	reports []link.Report
	through int64
	err     error
}

// gathering lets batches of different nodes share one commit, and so one flush of the disk: while one transaction
// runs, the next gathers. A thousand agents that come back at once cost a few dozen commits.
type gathering struct {
	writing sync.Mutex // held while a group is committed
	mu      sync.Mutex // guards group
	group   *group
}

type group struct {
	batches []*parcel
	done    chan struct{} // closed when every batch of it has its answer
}

// share commits a batch with those of whoever else reports now. The first of a group does the work for all.
func (o *Observer) share(ctx context.Context, b *parcel) (through int64, err error) {
	g, leads := o.join(b)
	if !leads {
		select {
		case <-g.done:
			return b.through, b.err
		case <-ctx.Done():
			return 0, ctx.Err() // it may be committed all the same: the node sends it again, and it is taken once
		}
	}
	o.writing.Lock()
	defer o.writing.Unlock()
	o.mu.Lock()
	o.group = nil
	o.mu.Unlock()
	defer close(g.done)
	// The work is for others too: it must not end because the one who leads has hung up.
	o.commitAll(context.WithoutCancel(ctx), g.batches)
	return b.through, b.err
}

func (o *Observer) join(b *parcel) (g *group, leads bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if leads = o.group == nil; leads {
		o.group = &group{done: make(chan struct{})}
	}
	o.group.batches = append(o.group.batches, b)
	return o.group, leads
}

// commitAll takes all batches in one transaction; if that fails, each in its own, so that one node's trouble is not
// another's.
func (o *Observer) commitAll(ctx context.Context, batches []*parcel) {
	err := o.commitTogether(ctx, batches)
	if err == nil || len(batches) == 1 {
		batches[0].err = err
		return
	}
	for _, b := range batches {
		b.err = o.commitTogether(ctx, []*parcel{b})
	}
}

func (o *Observer) commitTogether(ctx context.Context, batches []*parcel) error {
	return o.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		for _, b := range batches {
			if err := o.commit(ctx, tx, b); err != nil {
				return err
			}
		}
		return nil
	})
}
