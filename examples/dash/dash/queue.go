package dash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// Queue is what the parts of an instance say to each other through Redis: ids of dashboards to draw, signs of life of
// the workers, and sums that are costly to make.
type Queue struct{ client *redis.Client }

// Keys in Redis.
const (
	waitingKey = "dash:draw"     // list of ids
	takenKey   = "dash:taken"    // list of ids that a worker has in hand
	beatsKey   = "dash:beats"    // sorted set: worker -> Unix time in milliseconds
	sumsKey    = "dash:sections" // JSON, for a while
)

// silence is how long a worker may say nothing and still count as alive.
const silence = 15 * time.Second

// OpenQueue does not wait for Redis to answer.
func OpenQueue(address string) Queue {
	return Queue{redis.NewClient(&redis.Options{Addr: address, DialTimeout: 2 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 2 * time.Second})}
}

// Close ends the connections.
func (q Queue) Close() error { return q.client.Close() }

// Ping tells whether Redis answers.
func (q Queue) Ping(ctx context.Context) error {
	if err := q.client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("ping cache: %w", err)
	}
	return nil
}

// Put asks for dashboards to be drawn.
func (q Queue) Put(ctx context.Context, ids ...string) error {
	if len(ids) == 0 {
		return nil
	}
	values := make([]any, len(ids))
	for i, id := range ids {
		values[i] = id
	}
	if err := q.client.LPush(ctx, waitingKey, values...).Err(); err != nil {
		return fmt.Errorf("queue %d dashboards: %w", len(ids), err)
	}
	return nil
}

// Take waits up to a second for an id and holds it in hand until Done; ok is false where none came.
func (q Queue) Take(ctx context.Context) (id string, ok bool, err error) {
	id, err = q.client.BLMove(ctx, waitingKey, takenKey, "RIGHT", "LEFT", time.Second).Result()
	if errors.Is(err, redis.Nil) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("take from queue: %w", err)
	}
	return id, true, nil
}

// Done lets go of an id.
func (q Queue) Done(ctx context.Context, id string) error {
	if err := q.client.LRem(ctx, takenKey, 1, id).Err(); err != nil {
		return fmt.Errorf("let go of %s: %w", id, err)
	}
	return nil
}

// Waiting counts what is queued and in hand.
func (q Queue) Waiting(ctx context.Context) (int64, error) {
	waiting, err := q.client.LLen(ctx, waitingKey).Result()
	if err != nil {
		return 0, fmt.Errorf("count queue: %w", err)
	}
	taken, err := q.client.LLen(ctx, takenKey).Result()
	return waiting + taken, err
}

// Forget empties the queue; what has no tile is queued again by a worker.
func (q Queue) Forget(ctx context.Context) error {
	return q.client.Del(ctx, waitingKey, takenKey).Err()
}

// Beat says that a worker is alive.
func (q Queue) Beat(ctx context.Context, worker string) error {
	return q.client.ZAdd(ctx, beatsKey, redis.Z{Score: float64(time.Now().UnixMilli()), Member: worker}).Err()
}

// Alive counts the workers that beat lately.
func (q Queue) Alive(ctx context.Context) (int64, error) {
	since := time.Now().Add(-silence).UnixMilli()
	n, err := q.client.ZCount(ctx, beatsKey, strconv.FormatInt(since, 10), "+inf").Result()
	if err != nil {
		return 0, fmt.Errorf("count workers: %w", err)
	}
	return n, nil
}

// Sums gives the sums of all sections, made again when they are older than half a minute.
func (q Queue) Sums(ctx context.Context, sum func() ([]SectionSize, error)) ([]SectionSize, error) {
	var all []SectionSize
	if text, err := q.client.Get(ctx, sumsKey).Bytes(); err == nil && json.Unmarshal(text, &all) == nil {
		return all, nil
	}
	all, err := sum()
	if err != nil {
		return nil, err
	}
	if text, err := json.Marshal(all); err == nil {
		_ = q.client.Set(ctx, sumsKey, text, 30*time.Second).Err() // it is only made again sooner
	}
	return all, nil
}

// DropSums makes the next Sums ask anew.
func (q Queue) DropSums(ctx context.Context) {
	_ = q.client.Del(ctx, sumsKey).Err() // it grows old by itself
}
