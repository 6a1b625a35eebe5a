package agent

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver that reads and writes SQLite states

	"holdfast/internal/fleet"
	"holdfast/internal/problem"
	"holdfast/internal/step"
	"holdfast/internal/vault"
)

// OpenStore reaches the store of a repository. The node's rights there are to add, and to read only what the vault
// grants it for one restore.
type OpenStore func(ctx context.Context, repository step.Repository) (vault.Store, error)

// backupWait is how long a backup waits for another one of the same instance.
const backupWait = 30 * time.Second

// about is the part of a snapshot that says what it is; it is the manifest's Meta.
type about struct {
	Instance string     `json:"instance"`
	Release  string     `json:"release"`
	Spec     fleet.Spec `json:"spec"`
	Node     string     `json:"node"`
	Slot     string     `json:"slot"`
	Epoch    int64      `json:"epoch"`
	Canary   Canary     `json:"canary"` // newest tick before the first dump began
}

// backup makes one snapshot of the active slot: dumps and folders, the rendered spec, the secrets, the canary.
func (i *instance) backup(ctx context.Context, order step.Order, args step.BackupArgs, progress Progress) (*step.BackupResult, error) {
	rec := i.now()
	if rec.Slot == "" || rec.Fenced {
		return nil, problem.New(problem.Conflict, "holdfast get instances",
			"instance %s: no backup made on node %s: it does not serve here", i.name, i.stack.cfg.Node)
	}
	if err := i.admit(order, false); err != nil {
		return nil, err
	}
	store, err := i.openStore(ctx, args.Repository)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	repository, key, fresh, err := i.writer(ctx, store, args)
	if err != nil {
		return nil, i.vaultProblem(err, "backup of instance %s not made", i.name)
	}
	result, err := i.snapshot(ctx, repository, key, rec, progress)
	if err != nil {
		return nil, i.vaultProblem(err, "backup of instance %s not made", i.name)
	}
	if err := i.complete(ctx, repository, key, fresh, args, result); err != nil {
		return nil, err
	}
	return result, writeJSON(filepath.Join(i.dir, "backup.json"), lastBackup{Order: order.ID, Result: *result})
}

type lastBackup struct {
	Order  string            `json:"order"`
	Result step.BackupResult `json:"result"`
}

// backedUp finds the result of an order whose backup had ended when the agent was lost.
func (i *instance) backedUp(order step.Order) (any, bool) {
	var last lastBackup
	body, err := os.ReadFile(filepath.Join(i.dir, "backup.json"))
	if err != nil || json.Unmarshal(body, &last) != nil || last.Order != order.ID {
		return nil, false
	}
	return last.Result, true
}

func (i *instance) openStore(ctx context.Context, repository step.Repository) (vault.Store, error) {
	if i.stack.cfg.Stores == nil {
		return nil, problem.New(problem.Unavailable, "", "node %s reaches no vault", i.stack.cfg.Node)
	}
	store, err := i.stack.cfg.Stores(ctx, repository)
	if err != nil {
		return nil, i.vaultProblem(err, "vault of instance %s not reached", i.name)
	}
	return store, nil
}

// writer opens the repository with the node's writer key: the one of the order, the one this node has kept, or a
// new one. Fresh tells that the server does not know it yet.
func (i *instance) writer(ctx context.Context, store vault.Store, args step.BackupArgs) (r *vault.Repository, key vault.WriterKey, fresh bool, err error) {
	if len(args.Repository.WriterKey) > 0 {
		body, err := unseal(args.Repository.WriterKey, i.stack.cfg.Seal)
		if err != nil {
			return nil, key, false, fmt.Errorf("%w: writer key is not sealed to this node: %w", vault.ErrWrongKey, err)
		}
		if key, err = vault.ParseWriterKey(body); err != nil {
			return nil, key, false, err
		}
		if r, err = vault.Open(ctx, store); err != nil || !args.Rotate {
			return r, key, false, err
		}
		key, err = i.rotated(ctx, r, key)
		return r, key, true, firstOf(err, i.keepKey(key, err))
	}
	r, err = vault.Open(ctx, store)
	if errors.Is(err, vault.ErrNotFound) {
		r, key, err = vault.Init(ctx, store, vault.InitOptions{
			Instance: i.name, Recipients: args.Spec.Backup.Recipients, Custodians: args.Custodians, Now: i.stack.cfg.Now(),
		})
		return r, key, true, firstOf(err, i.keepKey(key, err))
	}
	if err != nil {
		return nil, key, false, err
	}
	if kept, ok := i.keptKey(r); ok {
		return r, kept, true, nil
	}
	key, err = r.Join(ctx, args.Spec.Backup.Recipients, args.Custodians, i.stack.cfg.Now())
	return r, key, true, firstOf(err, i.keepKey(key, err))
}

// rotated begins the next epoch of a repository. An order that is done again after a crash goes on with the epoch that
// it had begun.
func (i *instance) rotated(ctx context.Context, r *vault.Repository, old vault.WriterKey) (vault.WriterKey, error) {
	if kept, ok := i.keptKey(r); ok && kept.Began.After(old.Began) {
		return kept, nil
	}
	return r.Rotate(ctx, old, i.stack.cfg.Now())
}

// keepKey keeps a writer key on the node until the server has it; it opens nothing.
func (i *instance) keepKey(key vault.WriterKey, made error) error {
	if made != nil {
		return nil
	}
	return writeJSON(filepath.Join(i.dir, "writer-key"), key)
}

func (i *instance) keptKey(r *vault.Repository) (vault.WriterKey, bool) {
	body, err := os.ReadFile(filepath.Join(i.dir, "writer-key"))
	if err != nil {
		return vault.WriterKey{}, false
	}
	key, err := vault.ParseWriterKey(body)
	return key, err == nil && key.Repository == r.Config().ID
}

func (i *instance) snapshot(ctx context.Context, r *vault.Repository, key vault.WriterKey, rec record, progress Progress) (*step.BackupResult, error) {
	if r.Config().Instance != i.name {
		return nil, fmt.Errorf("%w: the repository is of instance %s", vault.ErrForeign, r.Config().Instance)
	}
	slot, choice, err := i.resolved(rec.Slot)
	if err != nil {
		return nil, err
	}
	result := &step.BackupResult{TakenAt: i.stack.cfg.Now(), Release: slot.Spec.Release}
	i.tick() // so that a snapshot always holds a tick of about the moment it began
	before := i.newestCanary(rec.Slot)
	result.CanaryFrom = before.Sequence
	sources, drop, err := i.sources(ctx, slot, choice, before, progress)
	defer drop()
	if err != nil {
		return nil, err
	}
	meta, err := i.about(rec, before)
	if err != nil {
		return nil, err
	}
	info, err := r.Backup(ctx, key, vault.BackupOptions{
		Sources: sources, Meta: meta, Wait: backupWait, Now: result.TakenAt,
		Cache: filepath.Join(i.dir, "vault-cache"),
		Skip:  func(path string) bool { return filepath.Base(path) == canaryName+".new" },
		Warn:  func(n vault.Note) { result.Notes = append(result.Notes, n.Detail) },
		Progress: func(p vault.Progress) {
			progress(fmt.Sprintf("%d files, %d bytes new", p.Files, p.Stored), p.Bytes, p.TotalBytes)
		},
	})
	if err != nil {
		return nil, err
	}
	result.Snapshot, result.Bytes, result.AddedBytes, result.Files = info.ID, info.Bytes, info.AddedBytes, info.Files
	result.CanaryTo, result.EndedAt = i.newestCanary(rec.Slot).Sequence, i.stack.cfg.Now()
	if info.Notes > 0 {
		result.Notes = append(result.Notes, fmt.Sprintf("%d files changed or vanished while they were read; the manifest names them", info.Notes))
	}
	return result, nil
}

func (i *instance) about(rec record, before Canary) (json.RawMessage, error) {
	spec, _, err := i.readSpec(rec.Slot)
	if err != nil {
		return nil, err
	}
	return json.Marshal(about{
		Instance: i.name, Release: spec.Release, Spec: spec, Node: i.stack.cfg.Node, Slot: rec.Slot, Epoch: rec.Epoch, Canary: before,
	})
}

// sources names all of a snapshot, as it will lie in a restored slot. Databases come first and folders after them:
// what a document refers to was written before it. The canary is the tick from before the first dump, so that it
// never promises more than the dumps hold. drop removes what was written to disk for the backup.
func (i *instance) sources(ctx context.Context, slot Slot, choice EngineChoice, before Canary, progress Progress) (all []vault.Source, drop func(), err error) {
	var made []string
	drop = func() {
		for _, path := range made {
			_ = os.Remove(path) // it lies in dumps/, which the next backup overwrites
		}
	}
	tick, err := json.Marshal(before)
	if err != nil {
		return nil, drop, err
	}
	var folders []vault.Source
	for _, state := range slot.Spec.State {
		switch state.Kind {
		case fleet.StateFolder:
			folders = append(folders, vault.Source{Name: "state/" + state.Name, Path: slot.States[state.Name]})
		case fleet.StateSQLite:
			progress("dump "+state.Name, 0, 0)
			path := filepath.Join(slot.Dir, "dumps", state.Name+".backup")
			made = append(made, path)
			found, err := dumpSQLite(ctx, filepath.Join(slot.States[state.Name], state.File), path)
			if err != nil {
				return nil, drop, fmt.Errorf("dump state %s: %w", state.Name, err)
			}
			if found {
				all = append(all, vault.Source{Name: dumpName(state), Path: path})
			}
		case fleet.StateMongoDB, fleet.StateRedis, fleet.StatePostgres, fleet.StateMariaDB, fleet.StateCommand:
			if len(state.Dump.Args) == 0 {
				return nil, drop, problem.New(problem.Invalid, "give the state a dump and a load command",
					"state %s of kind %s has no command that dumps it", state.Name, state.Kind)
			}
			all = append(all, vault.Source{Name: dumpName(state), Stream: func(ctx context.Context, w io.Writer) error {
				return unlessSilent(ctx, w, "dump of state "+state.Name, func(ctx context.Context, w io.Writer) error {
					return choice.Engine.Run(ctx, slot, state.Dump, nil, w)
				})
			}})
		}
	}
	all = append(all, folders...)
	all = append(all, vault.Source{Name: "canary/" + canaryName, Stream: func(_ context.Context, w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(tick))
		return err
	}})
	for _, name := range []string{"spec.json", "secrets"} {
		if _, err := os.Stat(filepath.Join(slot.Dir, name)); err == nil {
			all = append(all, vault.Source{Name: name, Path: filepath.Join(slot.Dir, name)})
		}
	}
	return all, drop, nil
}

// dumpSilence is how long a dump may write nothing. One that hangs would hold its instance for as long as a backup may
// take, and no other backup of it could begin.
const dumpSilence = 15 * time.Minute

// unlessSilent ends a command that has written nothing for dumpSilence. Waiting for the reader does not count.
func unlessSilent(ctx context.Context, w io.Writer, what string, run func(context.Context, io.Writer) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := problem.New(problem.Unavailable, "look at the database's own log; the backup is tried again",
		"%s was ended: it wrote nothing for %s", what, dumpSilence)
	timer := time.AfterFunc(dumpSilence, func() { cancel(silent) })
	defer timer.Stop()
	err := run(ctx, noticed{w, timer})
	if err != nil && errors.Is(context.Cause(ctx), silent) {
		return silent
	}
	return err
}

// noticed starts a timer again with every write.
type noticed struct {
	to    io.Writer
	timer *time.Timer
}

func (n noticed) Write(p []byte) (int, error) {
	n.timer.Stop()
	defer n.timer.Reset(dumpSilence)
	return n.to.Write(p)
}

// dumpName is where a database's dump lies in a snapshot and in a restored slot.
func dumpName(state fleet.State) string {
	if state.Kind == fleet.StateSQLite {
		return "dumps/" + state.Name + ".sqlite"
	}
	return "dumps/" + state.Name + ".dump"
}

// dumpSQLite writes a consistent copy of a live database. Found is false when the service has not made one yet.
func dumpSQLite(ctx context.Context, from, to string) (found bool, err error) {
	if _, err := os.Stat(from); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	db, err := openSQLite(from, "rw")
	if err != nil {
		return false, err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", to); err != nil {
		return false, fmt.Errorf("copy database: %w", err)
	}
	return true, nil
}

func openSQLite(path, mode string) (*sql.DB, error) {
	name := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: "mode=" + mode + "&_pragma=busy_timeout(15000)"}
	return sql.Open("sqlite", name.String())
}

// complete adds what the server needs to let somebody restore: the envelopes, and a writer key it does not know.
func (i *instance) complete(ctx context.Context, r *vault.Repository, key vault.WriterKey, fresh bool, args step.BackupArgs, result *step.BackupResult) error {
	envelopes, err := r.Envelopes(ctx, result.Snapshot)
	if err != nil {
		return i.vaultProblem(err, "envelopes of instance %s not read", i.name)
	}
	result.Envelopes, result.Recovery = map[string][]byte{}, map[string][]byte{}
	for _, envelope := range envelopes {
		if n := len(envelope.Age); n > 0 {
			result.Envelopes[envelope.Epoch] = envelope.Age[n-1]
		}
		if n := len(envelope.PGP); n > 0 {
			result.Recovery[envelope.Epoch] = envelope.PGP[n-1]
		}
	}
	replyTo := args.ReplyTo
	if replyTo == "" {
		replyTo = i.stack.cfg.ReplyTo
	}
	if !fresh || replyTo == "" {
		return nil
	}
	body, err := json.Marshal(key)
	if err != nil {
		return fmt.Errorf("encode writer key: %w", err)
	}
	result.WriterKey, err = sealTo(replyTo, body)
	return err
}

// vaultProblem gives an error of the vault its kind and its next step.
func (i *instance) vaultProblem(err error, format string, args ...any) error {
	message := strings.TrimSpace(fmt.Sprintf(format, args...))
	for _, known := range []struct {
		is   error
		kind problem.Kind
		hint string
	}{
		{vault.ErrWrongKey, problem.WrongKey, "holdfast backup list instance/" + i.name},
		{vault.ErrFull, problem.Unavailable, "make room on the vault, then: holdfast backup run instance/" + i.name},
		{vault.ErrLocked, problem.Busy, "wait for the other backup to end"},
		{vault.ErrDamaged, problem.Corrupt, "holdfast vault check, or another snapshot"},
		{vault.ErrImpostor, problem.Corrupt, "look at the vault before anything else; holdfast backup list instance/" + i.name},
		{vault.ErrRolledBack, problem.Corrupt, "look at the vault before anything else; holdfast backup list instance/" + i.name},
		{vault.ErrIncomplete, problem.Partial, "let the service's files be read by the agent"},
		{vault.ErrNotFound, problem.NotFound, "holdfast backup list instance/" + i.name},
		{vault.ErrForeign, problem.Conflict, "give the instance a place of its own in the vault"},
		{vault.ErrDenied, problem.Unavailable, "holdfast get nodes: the vault must have heard of the grant"}, // a grant may come after the order: worth another try
		{vault.ErrNewerFormat, problem.Invalid, "upgrade the agent of node " + i.stack.cfg.Node},
	} {
		if errors.Is(err, known.is) {
			return problem.Wrap(err, known.kind, known.hint, "%s", message)
		}
	}
	if problem.KindOf(err) != problem.Internal {
		return err
	}
	return problem.Wrap(err, problem.Unavailable, "look at the vault's disk and at the way to it", "%s", message)
}
