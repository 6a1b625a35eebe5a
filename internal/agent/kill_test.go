package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/fleet"
	"holdfast/internal/link"
	"holdfast/internal/link/linktest"
	"holdfast/internal/step"
)

// childVariable makes the test binary an agent: DIR|URL.
const childVariable = "HOLDFAST_TEST_CHILD"

// TestChildAgent is the agent that TestKilledWithSIGKILL kills. It counts: an event is spooled, and once the spool has
// taken it, its number is written to a file. Without the variable there is nothing to be.
func TestChildAgent(t *testing.T) {
	dir, url, ok := strings.Cut(os.Getenv(childVariable), "|")
	if !ok {
		return
	}
	ctx := context.Background()
	self := Self{Server: url, Node: "a1", Site: "a", Roles: []fleet.Role{fleet.RoleRun}}
	id, err := Enter(ctx, dir, self, "", "test", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	journal, moved, err := OpenJournal(ctx, dir)
	if err != nil || moved != "" {
		t.Fatalf("open journal: %v, moved %q", err, moved)
	}
	spool := NewSpool(journal, nil)
	a, err := New(Config{Self: self, Dir: dir, Identity: id, Journal: journal, Spool: spool, Steps: ledger{filepath.Join(dir, "effects")},
		BootID: fmt.Sprint(os.Getpid()), Version: "test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for n := len(lines(filepath.Join(dir, "counted"))) + 1; ; n++ {
			if err := spool.Event(ctx, link.Event{Kind: "counted", Note: strconv.Itoa(n)}); err != nil {
				t.Error(err)
				return
			}
			appendLine(filepath.Join(dir, "counted"), strconv.Itoa(n))
			rest(ctx, 5*time.Millisecond)
		}
	}()
	t.Fatal(a.Run(ctx))
}

// ledger is steps whose effect is a line in a file. Doing one twice shows.
type ledger struct{ path string }

func (l ledger) Do(ctx context.Context, order step.Order, progress Progress) (json.RawMessage, error) {
	progress("working", 0, 0)
	rest(ctx, time.Duration(rand.IntN(30))*time.Millisecond)
	appendLine(l.path, order.ID)
	rest(ctx, time.Duration(rand.IntN(30))*time.Millisecond)
	return resultOf(order), nil
}

func (l ledger) Done(_ context.Context, order step.Order) (json.RawMessage, bool, error) {
	return resultOf(order), slices.Contains(lines(l.path), order.ID), nil
}

func lines(path string) (all []string) {
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		panic(err)
	}
	for s := bufio.NewScanner(strings.NewReader(string(raw))); s.Scan(); {
		all = append(all, s.Text())
	}
	return all
}

func appendLine(path, line string) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	if _, err := io.WriteString(f, line+"\n"); err != nil {
		panic(err)
	}
	if err := f.Close(); err != nil {
		panic(err)
	}
}

// TestKilledWithSIGKILL kills the agent's process and the server at random moments while orders are done and events
// are counted. Afterwards every order has had one effect and its end is told, and no number that the spool had taken
// is missing or out of order.
func TestKilledWithSIGKILL(t *testing.T) {
	register, server := linktest.Up(t)
	dir := t.TempDir()
	if _, err := Enter(t.Context(), dir, selfOf(server.URL), register.Token("a1"), "test", time.Now); err != nil {
		t.Fatal(err)
	}
	child := spawn(t, dir, server.URL)
	var orders []step.Order
	for i := range 40 {
		orders = append(orders, orderOf(fmt.Sprint("s", i), func(o *step.Order) { o.Step.Instance = fmt.Sprint("i", i%4) }))
	}
	finished := func() bool { return deliverUnfinished(t, register, server, orders) }
	for kills := 0; kills < 8; kills++ {
		pause := time.After(time.Duration(50+rand.IntN(250)) * time.Millisecond)
		for waiting := true; waiting; {
			select {
			case <-pause:
				waiting = false
			case <-time.After(10 * time.Millisecond):
				finished()
			}
		}
		if kills%3 == 2 {
			server.Kill()
			var err error
			if server, err = linktest.Start(register.Authority, register.Gate(), server.Addr); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(server.Kill)
			continue
		}
		kill(t, child)
		child = spawn(t, dir, server.URL)
	}
	linktest.Until(t, "the end of every order is told", finished)
	kill(t, child)
	counted := lines(filepath.Join(dir, "counted"))
	child = spawn(t, dir, server.URL) // what is still in the journal is told by the next life
	defer kill(t, child)
	linktest.Until(t, "every number is told", func() bool { return lastCounted(register) >= len(counted) })
	checkCounted(t, register)
	for _, order := range orders {
		effects := 0
		for _, id := range lines(filepath.Join(dir, "effects")) {
			if id == order.ID {
				effects++
			}
		}
		if effects != 1 {
			t.Errorf("order %s had %d effects", order.ID, effects)
		}
	}
}

// deliverUnfinished does what an operation does: it sends what has not ended again.
func deliverUnfinished(t *testing.T, register *linktest.Register, server *linktest.Server, orders []step.Order) bool {
	t.Helper()
	ended := map[string]bool{}
	for _, u := range register.Updates("a1") {
		if u.State.Final() {
			ended[u.OrderID] = true
			if u.State != step.Done {
				t.Fatalf("order ended as %+v", u)
			}
		}
	}
	for _, order := range orders {
		if ended[order.ID] {
			continue
		}
		d, err := register.Order(order)
		if err != nil {
			t.Fatal(err)
		}
		_ = server.Deliver("a1", d) // away at the moment: the next round tries again
	}
	return len(ended) == len(orders)
}

func lastCounted(register *linktest.Register) (last int) {
	for _, e := range register.Events("a1", "counted") {
		last, _ = strconv.Atoi(e.Note)
	}
	return last
}

// checkCounted wants 1, 2, 3 ... without a gap; a number may come twice, when the agent died between the spool's word
// and its own note.
func checkCounted(t *testing.T, register *linktest.Register) {
	t.Helper()
	last := 0
	for _, e := range register.Events("a1", "counted") {
		n, err := strconv.Atoi(e.Note)
		if err != nil || n != last && n != last+1 {
			t.Fatalf("number %q came after %d", e.Note, last)
		}
		last = n
	}
	t.Logf("%d numbers", last)
}

func spawn(t *testing.T, dir, url string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildAgent$")
	cmd.Env = append(os.Environ(), childVariable+"="+dir+"|"+url)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // usually dead already
	return cmd
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatalf("the agent had ended by itself: %v", err)
	}
	_ = cmd.Wait() // it says "killed"
}
