package vault

import (
	"context"
	"io"

	"golang.org/x/time/rate"
)

// Limited bounds what goes to and comes from a store, in bytes per second; 0 does not.
func Limited(s Store, up, down int) Store {
	if up <= 0 && down <= 0 {
		return s
	}
	return &limited{Store: s, up: limiter(up), down: limiter(down)}
}

type limited struct {
	Store
	up, down *rate.Limiter
}

// limitStep is how much goes at once: small enough to be even, large enough not to be slow.
const limitStep = 64 << 10

func limiter(perSecond int) *rate.Limiter {
	if perSecond <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(perSecond), limitStep)
}

func wait(ctx context.Context, l *rate.Limiter, n int) error {
	for ; l != nil && n > 0; n -= limitStep {
		if err := l.WaitN(ctx, min(n, limitStep)); err != nil {
			return err
		}
	}
	return nil
}

// Put waits for the body's share before it sends: over many objects the rate holds.
func (l *limited) Put(ctx context.Context, name string, body []byte) error {
	if err := wait(ctx, l.up, len(body)); err != nil {
		return err
	}
	return l.Store.Put(ctx, name, body)
}

func (l *limited) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	r, err := l.Store.Get(ctx, name, offset, length)
	if err != nil || l.down == nil {
		return r, err
	}
	return &slowReader{r, ctx, l.down}, nil
}

type slowReader struct {
	io.ReadCloser
	ctx context.Context
	l   *rate.Limiter
}

func (s *slowReader) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p[:min(len(p), limitStep)])
	if err := wait(s.ctx, s.l, n); err != nil {
		return n, err
	}
	return n, err
}
