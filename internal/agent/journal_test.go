package agent

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/link"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

func openTestJournal(t *testing.T, dir string) *Journal {
	t.Helper()
	j, moved, err := OpenJournal(t.Context(), dir)
	if err != nil || moved != "" {
		t.Fatalf("open journal: %v, moved %q", err, moved)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

// hurried takes the flushing of the disk out of a journal, for tests of a hundred thousand transactions that pull no plug.
func hurried(ctx context.Context, dir string) (*Journal, error) {
	j, _, err := OpenJournal(ctx, dir)
	if err != nil {
		return nil, err
	}
	_, err = j.db.ExecContext(ctx, "PRAGMA synchronous = OFF")
	return j, err
}

func TestJudge(t *testing.T) {
	done := &step.Update{State: step.Done}
	order := orderOf("x", nil)
	expired := problem.New(problem.Stale, "", "ended")
	for _, c := range []struct {
		name   string
		opened error
		m      memory
		take   bool
		answer bool
	}{
		{"new", nil, memory{epoch: 3}, true, false},
		{"lower known epoch", nil, memory{epoch: 2}, true, false},
		{"higher known epoch", nil, memory{epoch: 4}, false, false},
		{"known", nil, memory{state: step.Done, last: done}, false, true},
		{"known, expired and of an old epoch", expired, memory{state: step.Done, last: done, epoch: 9}, false, true},
		{"expired", expired, memory{}, false, false},
		{"replayed", nil, memory{nonceOwner: "other"}, false, false},
	} {
		v := judge(order, c.opened, c.m)
		if v.take != c.take || (v.answer != nil) != c.answer || (v.refuse != nil) != (!c.take && !c.answer) {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
}

// journalModel is what the journal must be equal to after any sequence of calls, closes and opens.
type journalModel struct {
	orders  map[string]step.State
	epoch   int64
	lastSeq int64
	through int64
}

// TestJournalKeepsWhatItTook drives a journal and a simple model with the same calls, in any order, with the file
// closed and opened in between.
func TestJournalKeepsWhatItTook(t *testing.T) {
	base := t.TempDir()
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		dir := filepath.Join(base, fmt.Sprint(runs))
		if err := os.Mkdir(dir, 0o700); err != nil {
			rt.Fatal(err)
		}
		ctx, now := context.Background(), time.Unix(1_800_000_000, 0)
		j, err := hurried(ctx, dir)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = j.Close() }()
		m := &journalModel{orders: map[string]step.State{}}
		rt.Repeat(map[string]func(*rapid.T){
			"take": func(rt *rapid.T) {
				order := orderOf(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "step"), nil)
				order.Epoch = rapid.Int64Range(1, 4).Draw(rt, "epoch")
				v, err := j.Take(ctx, order, nil, now)
				if err != nil {
					rt.Fatal(err)
				}
				known := m.orders[order.ID] != ""
				if want := !known && order.Epoch >= m.epoch; v.take != want {
					rt.Fatalf("take %s of epoch %d at epoch %d: %+v", order.ID, order.Epoch, m.epoch, v)
				}
				if v.take {
					m.orders[order.ID], m.epoch = step.Running, max(m.epoch, order.Epoch)
				}
			},
			"finish": func(rt *rapid.T) {
				for id, state := range m.orders {
					if state != step.Running {
						continue
					}
					if err := j.Finish(ctx, step.Update{OrderID: id, State: step.Done, At: now}); err != nil {
						rt.Fatal(err)
					}
					m.orders[id] = step.Done
				}
			},
			"progress": func(rt *rapid.T) {
				id := rapid.SampledFrom([]string{"op1/a/1", "op1/b/1"}).Draw(rt, "order")
				if err := j.Progress(ctx, step.Update{OrderID: id, State: step.Running, Note: "on", At: now}); err != nil {
					rt.Fatal(err)
				}
			},
			"event": func(rt *rapid.T) {
				if err := j.Spool(ctx, []entry{{report: link.Report{At: now, Event: &link.Event{Kind: "e"}}}, {replaces: "facts", report: link.Report{At: now}}}); err != nil {
					rt.Fatal(err)
				}
			},
			"send": func(rt *rapid.T) {
				reports, err := j.Unsent(ctx, rapid.IntRange(1, 10).Draw(rt, "limit"))
				if err != nil {
					rt.Fatal(err)
				}
				if len(reports) == 0 {
					return
				}
				m.through = reports[len(reports)-1].Seq
				if err := j.Acknowledged(ctx, m.through); err != nil {
					rt.Fatal(err)
				}
			},
			"crash": func(rt *rapid.T) {
				if err := j.Close(); err != nil {
					rt.Fatal(err)
				}
				if j, err = hurried(ctx, dir); err != nil {
					rt.Fatal(err)
				}
			},
			"": func(rt *rapid.T) { m.check(rt, ctx, j) },
		})
	})
}

// check holds the journal against the model, and the outbox against what an outbox must be.
func (m *journalModel) check(rt *rapid.T, ctx context.Context, j *Journal) {
	inFlight, err := j.InFlight(ctx)
	if err != nil {
		rt.Fatal(err)
	}
	running := 0
	for _, state := range m.orders {
		if state == step.Running {
			running++
		}
	}
	if len(inFlight) != running {
		rt.Fatalf("%d orders in flight, want %d", len(inFlight), running)
	}
	epochs, err := j.Epochs(ctx)
	if err != nil || epochs["acme"] != m.epoch {
		rt.Fatalf("epochs %v (%v), want %d", epochs, err, m.epoch)
	}
	unsent, err := j.Unsent(ctx, 10_000)
	if err != nil {
		rt.Fatal(err)
	}
	last, facts, progress := m.through, 0, map[string]int{}
	for _, r := range unsent {
		if r.Seq <= last {
			rt.Fatalf("report %d after %d", r.Seq, last)
		}
		last = r.Seq
		if r.Update == nil && r.Event == nil {
			facts++
		}
		if r.Update != nil && r.Update.State == step.Running {
			progress[r.Update.OrderID]++
			if m.orders[r.Update.OrderID] != step.Running {
				rt.Fatalf("progress of %s stands in the outbox after its end", r.Update.OrderID)
			}
		}
	}
	if facts > 1 {
		rt.Fatalf("%d facts wait", facts)
	}
	for id, n := range progress {
		if n > 1 {
			rt.Fatalf("%d words of progress of %s wait", n, id)
		}
	}
	seq, err := j.LastSeq(ctx)
	if err != nil || seq < last || seq < m.lastSeq {
		rt.Fatalf("last number %d (%v) after %d and %d", seq, err, last, m.lastSeq)
	}
	m.lastSeq = seq
}

func TestADamagedJournalIsMovedAside(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(path string) error
		moved  bool
	}{
		{"not a database", func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("garbage ", 4096)), 0o600) }, true},
		{"a page overwritten", func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte(strings.Repeat("x", 3*4096)), 4096)
			return errors.Join(err, f.Close())
		}, true},
		{"truncated to nothing", func(path string) error { return os.Truncate(path, 0) }, false}, // an empty file is a new journal
	} {
		dir := t.TempDir()
		j := openTestJournal(t, dir)
		if _, err := j.Take(t.Context(), orderOf("x", nil), nil, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if err := c.damage(filepath.Join(dir, "journal.db")); err != nil {
			t.Fatal(err)
		}
		again, moved, err := OpenJournal(t.Context(), dir)
		if err != nil || (moved != "") != c.moved {
			t.Fatalf("%s: moved to %q, %v", c.name, moved, err)
		}
		if _, err := os.Stat(moved); c.moved && err != nil {
			t.Errorf("%s: the damaged file is gone: %v", c.name, err)
		}
		if v, err := again.Take(t.Context(), orderOf("y", nil), nil, time.Now()); err != nil || !v.take {
			t.Errorf("%s: the new journal does not work: %+v, %v", c.name, v, err)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A full disk: what does not fit is not taken, nothing of before is lost, and once there is space it goes on.
func TestAFullDisk(t *testing.T) {
	j := openTestJournal(t, t.TempDir())
	if _, err := j.Take(t.Context(), orderOf("before", nil), nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	limit := func(pages int) {
		t.Helper()
		if _, err := j.db.Exec(fmt.Sprintf("PRAGMA max_page_count = %d", pages)); err != nil {
			t.Fatal(err)
		}
	}
	limit(1) // SQLite then takes the present size as the most, and says "full" as it does for a full disk
	big := orderOf("big", func(o *step.Order) { o.Step.Note = strings.Repeat("x", 100_000) })
	_, err := j.Take(t.Context(), big, nil, time.Now())
	if err == nil || Broken(err) || !strings.Contains(err.Error(), "full") {
		t.Fatalf("on a full disk: %v", err)
	}
	inFlight, err := j.InFlight(t.Context())
	if err != nil || len(inFlight) != 1 {
		t.Fatalf("in flight: %d, %v", len(inFlight), err)
	}
	limit(1 << 20)
	if v, err := j.Take(t.Context(), big, nil, time.Now()); err != nil || !v.take {
		t.Fatalf("with space again: %+v, %v", v, err)
	}
}

// A server that is away for long costs results, with a word about how many; never an event or the end of an order.
func TestOnlyResultsAreEverDropped(t *testing.T) {
	j := openTestJournal(t, t.TempDir())
	var entries []entry
	for range 10 {
		entries = append(entries, entry{report: link.Report{Result: &link.Result{Check: "edge"}}}, entry{report: link.Report{Event: &link.Event{Kind: "e"}}})
	}
	if err := j.Spool(t.Context(), entries); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int64{6, 0} {
		if dropped, err := j.Thin(t.Context(), 4, time.Now()); err != nil || dropped != want {
			t.Fatalf("dropped %d, %v; want %d", dropped, err, want)
		}
	}
	reports, err := j.Unsent(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	results, events := 0, map[string]int{}
	for _, r := range reports {
		if r.Result != nil {
			results++
		} else {
			events[r.Event.Kind+r.Event.Note]++
		}
	}
	if results != 4 || events["e"] != 10 || events["results_dropped6 results were dropped: the server was away for too long"] != 1 || len(events) != 2 {
		t.Fatalf("%d results, events %v", results, events)
	}
}

func TestTheJournalIsItsOwnersAlone(t *testing.T) {
	dir := t.TempDir()
	j := openTestJournal(t, dir)
	if _, err := j.Take(t.Context(), orderOf("x", nil), nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"journal.db", "journal.db-wal"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func TestAJournalOfANewerBinaryIsNotOpened(t *testing.T) {
	dir := t.TempDir()
	j := openTestJournal(t, dir)
	if _, err := j.db.Exec("PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	_, moved, err := OpenJournal(t.Context(), dir)
	want := "journal " + filepath.Join(dir, "journal.db") + " was not opened: it is at version 99, this binary knows 1"
	if problem.KindOf(err) != problem.Conflict || err.Error() != want || moved != "" {
		t.Fatalf("got %v, moved %q", err, moved)
	}
}

// A journal that was lost, or comes from an older copy, has numbers that the server knows as other reports.
func TestReportsAreNumberedBehindWhatTheServerHas(t *testing.T) {
	spoolOne := func(j *Journal, note string) {
		t.Helper()
		if err := j.Spool(t.Context(), []entry{{report: link.Report{Event: &link.Event{Note: note}}}}); err != nil {
			t.Fatal(err)
		}
	}
	agree := func(j *Journal, through int64, want bool) {
		t.Helper()
		if moved, err := j.Agree(t.Context(), through); err != nil || moved != want {
			t.Fatalf("agree on %d: moved %t, %v", through, moved, err)
		}
	}
	j := openTestJournal(t, t.TempDir())
	spoolOne(j, "a")
	spoolOne(j, "b")
	agree(j, 7, true) // a new journal of a node that the server knows
	spoolOne(j, "c")
	agree(j, 8, false) // the answer about a was lost: b and c are still to be sent under their numbers
	agree(j, 20, true) // an older copy
	spoolOne(j, "d")
	reports, err := j.Unsent(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	text, last := "", int64(20)
	for _, r := range reports {
		if r.Seq <= last {
			t.Fatalf("report %d after %d", r.Seq, last)
		}
		text, last = text+r.Event.Note, r.Seq
	}
	if text != "abcd" {
		t.Fatalf("reports %q", text)
	}
	fresh := openTestJournal(t, t.TempDir())
	spoolOne(fresh, "a")
	agree(fresh, 0, false)
	agree(fresh, 1, false) // committed, answer lost
}

func TestOldOrdersAreForgottenAndThoseInFlightAreNot(t *testing.T) {
	j := openTestJournal(t, t.TempDir())
	long := time.Now().Add(-KeepEnded - time.Hour)
	for _, id := range []string{"ended", "running"} {
		if _, err := j.Take(t.Context(), orderOf(id, nil), nil, long); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Finish(t.Context(), step.Update{OrderID: "op1/ended/1", State: step.Done}); err != nil {
		t.Fatal(err)
	}
	if err := j.Forget(t.Context(), time.Now().Add(-KeepEnded)); err != nil {
		t.Fatal(err)
	}
	inFlight, err := j.InFlight(t.Context())
	if err != nil || len(inFlight) != 1 || inFlight[0].ID != "op1/running/1" {
		t.Fatalf("in flight: %+v, %v", inFlight, err)
	}
	// Whoever replays it now is refused by its end.
	ended := orderOf("ended", func(o *step.Order) { o.ExpiresAt = time.Now().Add(-KeepEnded) })
	if v, err := j.Take(t.Context(), ended, problem.New(problem.Stale, "", "order ended"), time.Now()); err != nil || v.take {
		t.Fatalf("got %+v, %v", v, err)
	}
}

func TestNewestSettingIsAProperty(t *testing.T) {
	base := t.TempDir()
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		dir := filepath.Join(base, fmt.Sprint(runs))
		if err := os.Mkdir(dir, 0o700); err != nil {
			rt.Fatal(err)
		}
		j, err := hurried(context.Background(), dir)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = j.Close() }()
		highest := int64(0)
		for _, generation := range rapid.SliceOfN(rapid.Int64Range(1, 20), 1, 15).Draw(rt, "generations") {
			body, _ := json.Marshal(link.RoutesSetting{Routes: []link.Route{{Instance: fmt.Sprint(generation)}}})
			taken, err := j.PutSetting(context.Background(), link.Setting{Kind: link.SettingRoutes, Generation: generation, Body: body})
			if taken != (generation > highest) || (err != nil) != (generation < highest) {
				rt.Fatalf("generation %d after %d: taken %t, %v", generation, highest, taken, err)
			}
			highest = max(highest, generation)
			held, err := j.Setting(context.Background(), link.SettingRoutes)
			if err != nil || held.Generation != highest || !strings.Contains(string(held.Body), fmt.Sprintf("%q", fmt.Sprint(highest))) {
				rt.Fatalf("held %+v, %v", held, err)
			}
		}
	})
}

// What may be forgotten in a power failure must not leave the journal careless about all else.
func TestJournalFlushesAgainAfterALazyTransaction(t *testing.T) {
	j, _, err := OpenJournal(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	level := func(q interface {
		QueryRowContext(context.Context, string, ...any) *sql.Row
	}) (level int) {
		if err := q.QueryRowContext(t.Context(), "PRAGMA synchronous").Scan(&level); err != nil {
			t.Fatal(err)
		}
		return level
	}
	for name, broken := range map[string]error{"done": nil, "undone": errors.New("no")} {
		during := 0
		err := j.lazyTx(t.Context(), "test", func(tx *sql.Tx) error {
			during = level(tx)
			return broken
		})
		if !errors.Is(err, broken) {
			t.Fatalf("%s: ended with %v", name, err)
		}
		if after := level(j.db); during != 1 || after != 2 {
			t.Errorf("%s: synchronous was %d during it and is %d after it, want 1 and 2", name, during, after)
		}
	}
}
