package agent

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"holdfast/internal/link"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// memory is what the journal knows that bears on one order.
type memory struct {
	state      step.State   // of the order with this id; "" = never seen
	last       *step.Update // the newest word about it
	nonceOwner string       // id of the order that came with this nonce; "" = none
	epoch      int64        // newest epoch heard of for the order's instance
}

// verdict is what becomes of an order that was delivered; exactly one of take, answer and refuse is set.
type verdict struct {
	take   bool
	answer *step.Update // it is known: this is what is to be said of it
	refuse error        // a problem.Error
}

// judge decides about an order. opened is what step.OpenOrder said of it. An order that is known is answered even when
// it has ended since, because the server asks again until it hears.
func judge(order step.Order, opened error, m memory) verdict {
	switch {
	case m.state != "":
		return verdict{answer: m.last}
	case opened != nil:
		return verdict{refuse: opened}
	case order.Nonce == "":
		return verdict{refuse: problem.New(problem.Invalid, "", "order %s has no nonce", order.ID)}
	case m.nonceOwner != "":
		return verdict{refuse: problem.New(problem.Denied, "", "order %s is a replay: its nonce came with order %s", order.ID, m.nonceOwner)}
	case order.Step.Instance != "" && order.Epoch < m.epoch:
		return verdict{refuse: problem.New(problem.Stale, "", "order %s is for epoch %d of instance %s, this node knows of epoch %d",
			order.ID, order.Epoch, order.Step.Instance, m.epoch)}
	}
	return verdict{take: true}
}

// Take judges an order and keeps the outcome and its report in one transaction. Only a taken order may be done.
func (j *Journal) Take(ctx context.Context, order step.Order, opened error, now time.Time) (v verdict, err error) {
	err = j.tx(ctx, "take", func(tx *sql.Tx) error {
		m, err := recall(ctx, tx, order)
		if err != nil {
			return err
		}
		v = judge(order, opened, m)
		switch {
		case v.take:
			return take(ctx, tx, order, now)
		case v.answer != nil:
			return answer(ctx, tx, *v.answer, now)
		}
		return refuse(ctx, tx, order, v.refuse, now)
	})
	return v, err
}

func recall(ctx context.Context, tx *sql.Tx, order step.Order) (m memory, err error) {
	var last sql.NullString
	err = tx.QueryRowContext(ctx, "SELECT state, last FROM orders WHERE id = ?", order.ID).Scan(&m.state, &last)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return m, err
	}
	if last.Valid {
		m.last = &step.Update{}
		if err := json.Unmarshal([]byte(last.String), m.last); err != nil {
			return m, fmt.Errorf("read last word of order %s: %w", order.ID, err)
		}
	}
	err = tx.QueryRowContext(ctx, "SELECT id FROM orders WHERE nonce = ?", order.Nonce).Scan(&m.nonceOwner)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return m, err
	}
	m.epoch, err = epochOf(ctx, tx, order.Step.Instance)
	return m, err
}

func take(ctx context.Context, tx *sql.Tx, order step.Order, now time.Time) error {
	payload, err := encode(order)
	if err != nil {
		return err
	}
	running := updateOf(order, step.Running, now)
	last, err := encode(running)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO orders (id, nonce, payload, state, last, taken_at) VALUES (?, ?, ?, ?, ?, ?)",
		order.ID, order.Nonce, payload, stateTaken, last, micros(now)); err != nil {
		return err
	}
	if err := raiseEpoch(ctx, tx, order.Step.Instance, order.Epoch); err != nil {
		return err
	}
	return spoolUpdate(ctx, tx, running, now)
}

func answer(ctx context.Context, tx *sql.Tx, last step.Update, now time.Time) error {
	return spoolUpdate(ctx, tx, last, now)
}

// refuse keeps only the report: a refused order leaves no trace that could stand in the way of a good one.
func refuse(ctx context.Context, tx *sql.Tx, order step.Order, why error, now time.Time) error {
	refused := ended(order, nil, why, now)
	refused.State = step.Refused
	event := link.Event{Kind: "order_refused", Instance: order.Step.Instance, Epoch: order.Epoch, Note: why.Error(), At: now,
		Labels: map[string]string{"order": order.ID, "reason": string(problem.KindOf(why))}}
	return errors.Join(
		spoolUpdate(ctx, tx, refused, now),
		spool(ctx, tx, "", link.Report{At: now, Event: &event}),
	)
}

// Refuse keeps the report about an order that could not even be read.
func (j *Journal) Refuse(ctx context.Context, order step.Order, why error, now time.Time) error {
	return j.tx(ctx, "refuse", func(tx *sql.Tx) error { return refuse(ctx, tx, order, why, now) })
}

// Finish keeps the last word about an order and its report in one transaction.
func (j *Journal) Finish(ctx context.Context, last step.Update) error {
	return j.tx(ctx, "finish", func(tx *sql.Tx) error {
		text, err := encode(last)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "UPDATE orders SET state = ?, last = ? WHERE id = ?", last.State, text, last.OrderID); err != nil {
			return err
		}
		return spoolUpdate(ctx, tx, last, last.At)
	})
}

// Forbid makes sure that an order which has not come yet will be answered as cancelled when it does; one that is
// known stays as it is. It tells whether the order was unknown.
func (j *Journal) Forbid(ctx context.Context, cancelled step.Update) (unknown bool, err error) {
	err = j.tx(ctx, "forbid", func(tx *sql.Tx) error {
		last, err := encode(cancelled)
		if err != nil {
			return err
		}
		done, err := tx.ExecContext(ctx, "INSERT INTO orders (id, state, last, taken_at) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
			cancelled.OrderID, cancelled.State, last, micros(cancelled.At))
		if err != nil {
			return err
		}
		n, err := done.RowsAffected()
		unknown = n == 1
		return err
	})
	return unknown, err
}

// InFlight lists the orders that are taken and have not ended, oldest first.
func (j *Journal) InFlight(ctx context.Context) ([]step.Order, error) {
	rows, err := j.db.QueryContext(ctx, "SELECT payload FROM orders WHERE state = ? ORDER BY taken_at, rowid", stateTaken)
	if err != nil {
		return nil, fmt.Errorf("read orders in flight from journal: %w", err)
	}
	defer func() { _ = rows.Close() }() // reading only; rows.Err tells what matters
	var all []step.Order
	for rows.Next() {
		var payload string
		if err := rows.Scan(&payload); err != nil {
			return nil, fmt.Errorf("read orders in flight from journal: %w", err)
		}
		var order step.Order
		if err := json.Unmarshal([]byte(payload), &order); err != nil {
			return nil, fmt.Errorf("read order in flight from journal: %w", err)
		}
		all = append(all, order)
	}
	return all, rows.Err()
}

// KeepEnded is how long an ended order is remembered. It is far beyond the life of any order, so that a replay that
// comes after it is refused by its end alone.
const KeepEnded = 90 * 24 * time.Hour

// Forget drops orders that ended and were taken before the moment.
func (j *Journal) Forget(ctx context.Context, before time.Time) error {
	return j.tx(ctx, "forget", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM orders WHERE state <> ? AND taken_at < ?", stateTaken, micros(before))
		return err
	})
}

// updateOf begins an update about an order.
func updateOf(order step.Order, state step.State, now time.Time) step.Update {
	return step.Update{OrderID: order.ID, Operation: order.Operation, StepID: order.StepID, Attempt: order.Attempt, State: state, At: now}
}

// ended is the last update of an order: done with its result, or failed with what stood in the way.
func ended(order step.Order, result json.RawMessage, err error, now time.Time) step.Update {
	if err == nil {
		u := updateOf(order, step.Done, now)
		u.Result = result
		return u
	}
	u := updateOf(order, step.Failed, now)
	u.Error, u.ErrorKind, u.Retryable = err.Error(), string(problem.KindOf(err)), retryable(problem.KindOf(err))
	if told, ok := errors.AsType[*problem.Error](err); ok {
		u.Hint = told.Hint
	}
	return u
}

// retryable tells whether trying again may help without anybody changing anything.
func retryable(kind problem.Kind) bool {
	switch kind {
	case problem.Unreachable, problem.Unavailable, problem.Busy, problem.Internal:
		return true
	case problem.Usage, problem.Invalid, problem.Unauthenticated, problem.Denied, problem.Unapproved, problem.NotFound, problem.Conflict,
		problem.Stale, problem.WrongKey, problem.Corrupt, problem.Partial:
		return false
	}
	return false
}
