package dash

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Worker draws tiles: bars of the sections that a dashboard shows.
type Worker struct {
	Name  string
	Store *Store
	Queue Queue
	Again time.Duration // between two looks for what was forgotten; 0 = 30 s
}

// Run works until ctx ends. What Redis lost, or never had, is queued again from the documents.
func (w Worker) Run(ctx context.Context) error {
	if w.Again == 0 {
		w.Again = 30 * time.Second
	}
	var looked time.Time
	for ctx.Err() == nil {
		if time.Since(looked) >= w.Again {
			looked = time.Now()
			w.complain(w.requeue(ctx))
		}
		w.complain(w.turn(ctx))
	}
	return nil
}

// complain waits a little, so that a cache that is away is not asked without end.
func (w Worker) complain(err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	slog.Warn("worker turn", "worker", w.Name, "err", err)
	time.Sleep(200 * time.Millisecond)
}

// requeue queues what has no tile, when nothing is queued.
func (w Worker) requeue(ctx context.Context) error {
	waiting, err := w.Queue.client.LLen(ctx, waitingKey).Result()
	if err != nil || waiting > 0 {
		return err
	}
	if err := w.Queue.Forget(ctx); err != nil {
		return err
	}
	ids, err := w.Store.Undrawn(ctx, 5000)
	if err != nil {
		return err
	}
	return w.Queue.Put(ctx, ids...)
}

// turn beats, and draws one dashboard if one waits.
func (w Worker) turn(ctx context.Context) error {
	if err := w.Queue.Beat(ctx, w.Name); err != nil {
		return err
	}
	id, ok, err := w.Queue.Take(ctx)
	if err != nil || !ok {
		return err
	}
	if err := w.draw(ctx, id); err != nil && !errors.Is(err, ErrNotFound) {
		return err // it stays in hand, and is queued again from its document
	}
	return w.Queue.Done(ctx, id)
}

func (w Worker) draw(ctx context.Context, id string) error {
	d, err := w.Store.Dashboard(ctx, id)
	if err != nil {
		return err
	}
	names := d.Sections
	if d.Section != "" {
		names = []string{d.Section}
	}
	sizes, err := w.Store.Sections(ctx, names...)
	if err != nil {
		return err
	}
	file, err := w.Store.Folder.Put(bytes.NewReader(tile(d.Title, sizes)))
	if err != nil {
		return err
	}
	return w.Store.SetTile(ctx, d, file)
}

// tile draws one bar for each section.
func tile(title string, sizes []SectionSize) []byte {
	most := int64(1)
	for _, size := range sizes {
		most = max(most, size.KB)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="480" height="%d" font-family="sans-serif" font-size="12">`, 30+20*len(sizes))
	fmt.Fprintf(&out, `<text x="4" y="16" font-weight="bold">%s</text>`, escape(title))
	for i, size := range sizes {
		y := 30 + 20*i
		fmt.Fprintf(&out, `<rect x="160" y="%d" width="%d" height="14" fill="#3b6"/>`, y, max(1, 300*size.KB/most))
		fmt.Fprintf(&out, `<text x="4" y="%d">%s</text><text x="166" y="%d">%d packages, %d MB</text>`, y+12, escape(size.Section), y+12, size.Packages, size.KB>>10)
	}
	out.WriteString("</svg>\n")
	return out.Bytes()
}

func escape(text string) string {
	var out bytes.Buffer
	_ = xml.EscapeText(&out, []byte(text)) // a buffer takes everything
	return out.String()
}
