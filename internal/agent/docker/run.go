package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"holdfast/internal/agent"
	"holdfast/internal/fleet"
	"holdfast/internal/link"
)

// Run executes command in the service's container, or, when that does not run, in one made for the command.
func (e *Engine) Run(ctx context.Context, slot agent.Slot, command fleet.Command, in io.Reader, out io.Writer) error {
	service, ok := slot.Service(command.Service)
	if !ok || len(command.Args) == 0 {
		return fmt.Errorf("run beside %q: no such service, or no command", command.Service)
	}
	timeout := command.Timeout
	if timeout <= 0 {
		timeout = 10 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	plan := e.plan(slot, service, 1)
	found, err := e.api.ContainerInspect(ctx, plan.name, client.ContainerInspectOptions{})
	switch {
	case err == nil && found.Container.State != nil && found.Container.State.Running:
		err = e.runInside(ctx, plan, command.Args, in, out)
	case err == nil || errdefs.IsNotFound(err):
		err = e.runBeside(ctx, slot, plan, command.Args, in, out)
	}
	if err != nil {
		return fmt.Errorf("run %s beside %s: %w", command.Args[0], service.Name, errors.Join(err, ctx.Err()))
	}
	return nil
}

func (e *Engine) runInside(ctx context.Context, plan plan, args []string, in io.Reader, out io.Writer) error {
	made, err := e.api.ExecCreate(ctx, plan.name, client.ExecCreateOptions{
		Cmd: args, AttachStdin: in != nil, AttachStdout: true, AttachStderr: true,
	})
	if err != nil {
		return err
	}
	attached, err := e.api.ExecAttach(ctx, made.ID, client.ExecAttachOptions{})
	if err != nil {
		return err
	}
	words, err := stream(ctx, attached.HijackedResponse, in, out)
	after, inspectErr := e.api.ExecInspect(context.WithoutCancel(ctx), made.ID, client.ExecInspectOptions{})
	if ctx.Err() != nil && inspectErr == nil && after.Running && after.PID > 0 {
		_ = syscall.Kill(after.PID, syscall.SIGKILL) // the engine has no way to end it; it may have ended by itself
	}
	return verdict(after.ExitCode, words, err, inspectErr)
}

func (e *Engine) runBeside(ctx context.Context, slot agent.Slot, plan plan, args []string, in io.Reader, out io.Writer) error {
	network, err := e.network(ctx, slot)
	if err != nil {
		return err
	}
	made, err := e.api.ContainerCreate(ctx, plan.beside(network, args, in != nil))
	if err != nil {
		return err
	}
	defer e.drop(context.WithoutCancel(ctx), made.ID)
	attached, err := e.api.ContainerAttach(ctx, made.ID, client.ContainerAttachOptions{Stream: true, Stdin: in != nil, Stdout: true, Stderr: true})
	if err != nil {
		return err
	}
	wait := e.api.ContainerWait(ctx, made.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	if _, err := e.api.ContainerStart(ctx, made.ID, client.ContainerStartOptions{}); err != nil {
		attached.Close()
		return err
	}
	words, err := stream(ctx, attached.HijackedResponse, in, out)
	if err != nil {
		return err
	}
	select {
	case err := <-wait.Error:
		return err
	case ended := <-wait.Result:
		return verdict(int(ended.StatusCode), words)
	}
}

func (e *Engine) drop(ctx context.Context, id string) {
	_, err := e.api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if err != nil {
		e.cfg.Log.Warn("remove container of a command", "container", id, "error", err)
	}
}

// stream feeds in and takes output until the command closes it; words is what it said on standard error.
func stream(ctx context.Context, attached client.HijackedResponse, in io.Reader, out io.Writer) (words string, err error) {
	defer attached.Close()
	stop := context.AfterFunc(ctx, attached.Close)
	defer stop()
	fed := make(chan error, 1)
	go func() { fed <- feed(attached, in) }()
	said := &capped{left: 4096}
	if _, err := stdcopy.StdCopy(out, said, attached.Reader); err != nil {
		return said.String(), fmt.Errorf("read output: %w", err)
	}
	select {
	case err := <-fed:
		return said.String(), err
	default: // the command ended without reading all, which is its own affair
		return said.String(), nil
	}
}

func feed(attached client.HijackedResponse, in io.Reader) error {
	if in == nil {
		return nil
	}
	_, err := io.Copy(attached.Conn, in)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return nil // the command need not read all; its exit code decides
	}
	if err != nil {
		attached.Close() // else the command would wait for more
		return fmt.Errorf("feed input: %w", err)
	}
	return attached.CloseWrite()
}

func verdict(code int, words string, errs ...error) error {
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("exit code %d: %s", code, strings.TrimSpace(words))
	}
	return nil
}

// capped keeps the first bytes written to it and drops the rest.
type capped struct {
	bytes.Buffer
	left int
}

func (c *capped) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	c.left -= n
	c.Buffer.Write(p[:n])
	return len(p), nil
}

// memoryMB is what the container uses now, without the page cache that can be dropped.
func (e *Engine) memoryMB(ctx context.Context, id string) int64 {
	answer, err := e.api.ContainerStats(ctx, id, client.ContainerStatsOptions{})
	if err != nil {
		return 0
	}
	defer answer.Body.Close()
	var stats container.StatsResponse
	if json.NewDecoder(answer.Body).Decode(&stats) != nil {
		return 0
	}
	inactive := max(stats.MemoryStats.Stats["total_inactive_file"], stats.MemoryStats.Stats["inactive_file"])
	return int64(stats.MemoryStats.Usage-min(inactive, stats.MemoryStats.Usage)) >> 20
}

// watch listens for containers of this node that end, until ctx does.
func (e *Engine) watch(ctx context.Context) {
	for ctx.Err() == nil {
		e.listen(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second): // the engine was restarted, or is being
		}
	}
}

func (e *Engine) listen(ctx context.Context) {
	filters := make(client.Filters).Add("type", "container").Add("event", "die").Add("label", labelNode+"="+e.cfg.Node)
	stream := e.api.Events(ctx, client.EventsListOptions{Filters: filters})
	for {
		select {
		case <-stream.Err:
			return
		case message := <-stream.Messages:
			e.died(ctx, message.Actor, time.Unix(0, message.TimeNano))
		}
	}
}

func (e *Engine) died(ctx context.Context, who events.Actor, at time.Time) {
	attributes := who.Attributes
	if attributes[labelService] == "" || e.ordered(who.ID) {
		return // a command that ran beside a service, or an end that was wanted
	}
	how := ending(attributes["exitCode"], false)
	wait := e.note(attributes["name"], how, at)
	e.ended.Go(func() { e.startAgain(ctx, who.ID, wait) })
	e.cfg.Emit(link.Event{
		Kind: "service_died", Instance: attributes[labelInstance], Note: how, At: at,
		Labels: map[string]string{"service": attributes[labelService], "slot": attributes[labelSlot], "replica": attributes[labelReplica]},
	})
}

// steady is how far apart two ends of a container must be for the second to count as a first one.
const steady = 10 * time.Second

// again counts the starts of a container after an end.
type again struct {
	times int
	at    time.Time
	wait  *backoff.ExponentialBackOff
}

// note keeps the last words of a container and says how long to wait before it is started again.
func (e *Engine) note(name, how string, at time.Time) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last[name] = how
	a := e.again[name]
	if a == nil {
		a = &again{wait: backoff.NewExponentialBackOff()}
		a.wait.InitialInterval, a.wait.MaxInterval, a.wait.Multiplier = 200*time.Millisecond, 30*time.Second, 2
		e.again[name] = a
	}
	if at.Sub(a.at) > steady+a.wait.MaxInterval {
		a.wait.Reset()
	}
	a.times, a.at = a.times+1, at
	return a.wait.NextBackOff()
}

// startAgain starts a container that ended by itself, unless it is ended on order meanwhile.
func (e *Engine) startAgain(ctx context.Context, id string, wait time.Duration) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(wait):
	}
	if e.ordered(id) {
		return
	}
	_, err := e.api.ContainerStart(ctx, id, client.ContainerStartOptions{})
	if err != nil && !errdefs.IsNotFound(err) && ctx.Err() == nil {
		e.cfg.Log.Warn("start container again", "container", id, "error", err)
	}
}

// order notes that a container ends on order.
func (e *Engine) order(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ends[id] = true
}

func (e *Engine) ordered(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ends[id]
}

// forget drops what was kept of a container that was removed on order. Its id stays noted: its end may be told late.
func (e *Engine) forget(c container.Summary) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.last, strings.TrimPrefix(c.Names[0], "/"))
	delete(e.again, strings.TrimPrefix(c.Names[0], "/"))
}
