//go:build !slim

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"holdfast/internal/api"
	"holdfast/internal/op"
	"holdfast/internal/problem"
)

// watchOperation shows an operation until it ends, and ends as it does. Ctrl-C stops watching and nothing else.
func watchOperation(cmd *cobra.Command, c *api.Client, id string) error {
	o, err := c.Operation(cmd.Context(), id)
	if err != nil {
		return err
	}
	switch out, terminal := terminalOf(cmd); {
	case wantsJSON(cmd):
		o, err = watchLines(cmd, c, o, jsonLine)
	case terminal:
		o, err = watchTree(cmd, c, o, out)
	default:
		o, err = watchLines(cmd, c, o, textLine)
	}
	if errors.Is(err, errDetached) || err != nil && cmd.Context().Err() != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "operation %s goes on; to come back: holdfast op watch %s\n", id, id)
		return exitWith(problem.ExitInterrupted)
	}
	if err != nil {
		return err
	}
	return o.Operation.Err()
}

// errDetached says that the person stopped watching.
var errDetached = errors.New("stopped watching") //nolint:gochecknoglobals // a sentinel, never assigned again

// terminalOf is the command's output, and whether a person looks at it live.
func terminalOf(cmd *cobra.Command) (*os.File, bool) {
	out, ok := cmd.OutOrStdout().(*os.File)
	return out, ok && term.IsTerminal(int(out.Fd()))
}

// askFor is how long the server may wait before it answers that nothing happened.
const askFor = 20 * time.Second

// feed gives every event after o to each, in order, until the operation has ended. The server may restart meanwhile.
func feed(ctx context.Context, c *api.Client, o op.Shown, each func([]op.Event) error) error {
	after, ended, missed := o.Operation.Seq, o.Operation.State.Ended(), 0
	for !ended {
		events, err := c.OperationEvents(ctx, o.Operation.ID, after, askFor)
		if err != nil {
			if missed++; problem.KindOf(err) != problem.Unavailable || missed > 60 || !wait(ctx, time.Second) {
				return err
			}
			continue
		}
		missed = 0
		for _, e := range events {
			after = e.Seq
			ended = ended || e.Step == "" && op.State(e.State).Ended()
		}
		if err := each(events); err != nil {
			return err
		}
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// watchLines prints one line an event, from the first on.
func watchLines(cmd *cobra.Command, c *api.Client, o op.Shown, line func(*cobra.Command, op.Event) error) (op.Shown, error) {
	steps := append([]op.Step(nil), o.Steps...)
	from := op.Shown{Operation: op.Operation{ID: o.Operation.ID, State: op.Running}, Steps: steps}
	err := feed(cmd.Context(), c, from, func(events []op.Event) error {
		for _, e := range events {
			if err := line(cmd, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return o, err
	}
	return c.Operation(cmd.Context(), o.Operation.ID)
}

func textLine(cmd *cobra.Command, e op.Event) error {
	_, err := fmt.Fprintln(cmd.OutOrStdout(), eventText(e))
	return err
}

func jsonLine(cmd *cobra.Command, e op.Event) error {
	return json.NewEncoder(cmd.OutOrStdout()).Encode(e)
}

// watchTree draws the operation live.
func watchTree(cmd *cobra.Command, c *api.Client, o op.Shown, out *os.File) (op.Shown, error) {
	ctx, stop := context.WithCancel(cmd.Context())
	defer stop()
	program := tea.NewProgram(treeModel{shown: o, palette: colours(), now: time.Now()}, tea.WithContext(ctx), tea.WithOutput(out), tea.WithInput(cmd.InOrStdin()))
	go func() {
		err := feed(ctx, c, o, func(events []op.Event) error { program.Send(events); return nil })
		program.Send(feedEnd{err})
	}()
	last, err := program.Run()
	if err != nil {
		return o, err
	}
	tree := last.(treeModel)
	if tree.err != nil {
		return tree.shown, tree.err
	}
	return c.Operation(ctx, o.Operation.ID)
}

// feedEnd tells the tree that no more events come.
type feedEnd struct{ err error }

// tick moves the clock of the tree.
type tick time.Time

// treeModel is the live tree.
type treeModel struct {
	shown         op.Shown
	palette       palette
	now           time.Time
	width, height int
	err           error
}

func ticking() tea.Cmd {
	return tea.Tick(250*time.Millisecond, func(at time.Time) tea.Msg { return tick(at) })
}

// Init starts the clock.
func (m treeModel) Init() tea.Cmd { return ticking() }

// Update takes events, keys and the clock.
func (m treeModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case []op.Event:
		for _, e := range msg {
			m.shown = caughtUp(m.shown, e)
		}
	case feedEnd:
		m.err, m.now = msg.err, time.Now()
		return m, tea.Quit
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tick:
		m.now = time.Time(msg)
		return m, ticking()
	case tea.KeyPressMsg:
		if key := msg.String(); key == "ctrl+c" || key == "q" {
			m.err = errDetached
			return m, tea.Quit
		}
	}
	return m, nil
}

// View draws the tree.
func (m treeModel) View() tea.View {
	return tea.NewView(drawTree(m.shown, m.now, canvas{m.width, m.height, m.palette}))
}
