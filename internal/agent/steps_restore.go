package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"holdfast/internal/fleet"
	"holdfast/internal/problem"
	"holdfast/internal/step"
	"holdfast/internal/vault"
)

// got is fetched.json in a slot: the restore that filled it.
type got struct {
	Snapshot string           `json:"snapshot"`
	Result   step.FetchResult `json:"result"`
}

// fetch brings a snapshot into a slot that never served. A fetch that was cut short goes on with what it has.
func (i *instance) fetch(ctx context.Context, order step.Order, args step.FetchArgs, progress Progress) (any, error) {
	if err := firstOf(i.checkSlot(args.Slot), i.checkSpec(args.Spec)); err != nil {
		return nil, err
	}
	ctx, release, err := i.hold(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	if result, done := i.fetched(args); done {
		return result, nil
	}
	if err := i.admit(order, false); err != nil {
		return nil, err
	}
	if rec := i.now(); args.Slot == rec.Slot || slices.Contains(rec.Past, args.Slot) {
		return nil, problem.New(problem.Denied, "restore into a new slot",
			"instance %s: snapshot not fetched into slot %s: it serves or has served", i.name, args.Slot)
	}
	store, err := i.openStore(ctx, args.Repository)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	result, err := i.fetchFrom(ctx, store, args, progress)
	if err != nil {
		return nil, i.vaultProblem(err, "snapshot %.12s of instance %s not fetched", args.Snapshot, i.name)
	}
	return result, nil
}

func (i *instance) fetchFrom(ctx context.Context, store vault.Store, args step.FetchArgs, progress Progress) (*step.FetchResult, error) {
	repository, err := vault.Open(ctx, store)
	if err != nil {
		return nil, err
	}
	info, err := repository.Snapshot(ctx, args.Snapshot)
	if err != nil {
		return nil, err
	}
	if info.Instance != i.name || repository.Config().Instance != i.name {
		return nil, problem.New(problem.Denied, "holdfast backup list instance/"+i.name,
			"snapshot %s is of instance %s and not of %s", info.Short(), info.Instance, i.name)
	}
	identities, err := i.identities(args.Identities)
	if err != nil {
		return nil, err
	}
	if err := i.fits(args.Spec, args.Slot, info.Bytes); err != nil {
		return nil, err
	}
	if err := i.beginFetch(ctx, args, info.ID); err != nil {
		return nil, err
	}
	restored, err := repository.Restore(ctx, vault.RestoreOptions{
		Snapshot: info.ID, Identities: identities, To: i.slotDir(args.Slot), Delta: true, Verify: true,
		Progress: func(p vault.Progress) {
			progress(fmt.Sprintf("%d of %d files", p.Files, p.TotalFiles), p.Bytes, p.TotalBytes)
		},
	})
	if err != nil {
		return nil, err
	}
	i.stack.cfg.Point("fetch/restored")
	return i.endFetch(args, restored)
}

// identities opens what the custodian released for this order. It stays in memory.
func (i *instance) identities(sealed []byte) ([]vault.EpochIdentity, error) {
	body, err := unseal(sealed, i.stack.cfg.Seal)
	if err != nil {
		return nil, fmt.Errorf("%w: identities are not sealed to this node: %w", vault.ErrWrongKey, err)
	}
	var byEpoch map[string]vault.EpochIdentity
	if err := json.Unmarshal(body, &byEpoch); err != nil {
		return nil, fmt.Errorf("%w: identities are not readable", vault.ErrWrongKey) // the cause could show a part of one
	}
	var all []vault.EpochIdentity
	for _, identity := range byEpoch {
		all = append(all, identity)
	}
	return all, nil
}

// beginFetch marks the slot as unfinished before its first byte. What another fetch left there goes first.
func (i *instance) beginFetch(ctx context.Context, args step.FetchArgs, snapshot string) error {
	mark := filepath.Join(i.slotDir(args.Slot), markFetching)
	if begun, err := os.ReadFile(mark); err == nil && string(begun) == snapshot {
		return nil
	}
	if i.slotExists(args.Slot) {
		if err := firstOf(i.down(ctx, args.Slot), i.removeSlot(args.Slot)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(i.slotDir(args.Slot), 0o700); err != nil {
		return fmt.Errorf("make slot %s: %w", args.Slot, err)
	}
	i.stack.cfg.Point("fetch/made")
	if err := writeDurable(mark, []byte(snapshot)); err != nil {
		return err
	}
	i.stack.cfg.Point("fetch/marked")
	return i.mark(args.Slot, markBeside)
}

// endFetch turns what came into a slot that can be loaded; its mark goes last.
func (i *instance) endFetch(args step.FetchArgs, restored vault.RestoreInfo) (*step.FetchResult, error) {
	spec, _, err := i.readSpec(args.Slot)
	if err != nil {
		return nil, err
	}
	if args.Expect != "" && spec.Release != args.Expect {
		return nil, problem.New(problem.Conflict, "apply a fleet with release "+spec.Release+" first, or holdfast restore instance/"+i.name+" --release current",
			"instance %s: snapshot %s is of release %s, and %s was to be started on its data", i.name, restored.Snapshot.Short(), spec.Release, args.Expect)
	}
	canary := i.commonCanary(args.Slot)
	result := &step.FetchResult{
		Bytes: restored.Bytes, Files: restored.Files, CanarySeq: canary.Sequence, CanaryAt: canary.Time, Release: spec.Release,
	}
	if result.Secrets, err = i.sealedSecrets(args.Slot); err != nil {
		return nil, err
	}
	if err := firstOf(i.makeSlot(args.Slot, args.Spec), i.writeSpec(args.Slot, args.Spec)); err != nil {
		return nil, err
	}
	i.stack.cfg.Point("fetch/spec")
	if err := firstOf(i.mark(args.Slot, markUnloaded), writeJSON(i.gotPath(args.Slot), got{restored.Snapshot.ID, *result})); err != nil {
		return nil, err
	}
	i.stack.cfg.Point("fetch/got")
	return result, i.unmark(args.Slot, markFetching)
}

// sealedSecrets lets a server that was rebuilt learn the secrets which the data needs.
func (i *instance) sealedSecrets(slot string) ([]byte, error) {
	secrets, err := i.readSecrets(slot)
	if err != nil || len(secrets) == 0 || i.stack.cfg.ReplyTo == "" {
		return nil, err
	}
	body, err := json.Marshal(secrets)
	if err != nil {
		return nil, fmt.Errorf("encode secrets of slot %s", slot)
	}
	return sealTo(i.stack.cfg.ReplyTo, body)
}

func (i *instance) gotPath(slot string) string { return filepath.Join(i.slotDir(slot), "fetched.json") }

// fetched tells whether the slot holds the whole snapshot.
func (i *instance) fetched(args step.FetchArgs) (any, bool) {
	var have got
	body, err := os.ReadFile(i.gotPath(args.Slot))
	if err != nil || json.Unmarshal(body, &have) != nil || i.marked(args.Slot, markFetching) {
		return nil, false
	}
	return have.Result, have.Snapshot == args.Snapshot
}

// loaded tells whether nothing waits to be loaded in the slot.
func (i *instance) loaded(slot string) bool {
	return i.slotExists(slot) && !i.marked(slot, markFetching) && !i.marked(slot, markUnloaded)
}

// loadDumps fills the databases of a slot from its dumps, and leaves all of it stopped. A load that was cut short
// begins again with empty databases.
func (i *instance) loadDumps(ctx context.Context, args step.SlotArgs, progress Progress) error {
	if err := i.checkSlot(args.Slot); err != nil {
		return err
	}
	ctx, release, err := i.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	if i.loaded(args.Slot) {
		return nil
	}
	if i.marked(args.Slot, markFetching) || !i.slotExists(args.Slot) {
		return problem.New(problem.Conflict, "order fetch of the slot again", "instance %s: slot %s not loaded: no whole snapshot is in it", i.name, args.Slot)
	}
	spec, _, err := i.readSpec(args.Slot)
	if err != nil {
		return err
	}
	if _, err := i.stack.ports.give(spec, args.Slot, func(service string) bool { return i.serviceRuns(args.Slot, service) }); err != nil {
		return err
	}
	slot, choice, err := i.resolved(args.Slot)
	if err != nil {
		return err
	}
	if err := i.loadStates(ctx, slot, choice, progress); err != nil {
		return err
	}
	i.stack.cfg.Point("load/loaded")
	return i.unmark(args.Slot, markUnloaded)
}

func (i *instance) loadStates(ctx context.Context, slot Slot, choice EngineChoice, progress Progress) error {
	for _, state := range slot.Spec.State {
		progress("load "+state.Name, 0, 0)
		var err error
		switch state.Kind {
		case fleet.StateFolder:
			continue // it lies where it belongs
		case fleet.StateSQLite:
			err = loadSQLite(filepath.Join(slot.Dir, dumpName(state)), filepath.Join(slot.States[state.Name], state.File))
		case fleet.StateMongoDB, fleet.StateRedis, fleet.StatePostgres, fleet.StateMariaDB, fleet.StateCommand:
			err = i.loadCommand(ctx, slot, choice, state)
		}
		if err != nil {
			return problem.Wrap(err, problem.Unavailable, "order load again; what served before still does",
				"instance %s: state %s not loaded into slot %s", i.name, state.Name, slot.Name)
		}
		i.stack.cfg.Point("load/" + state.Name)
	}
	return nil
}

// loadSQLite puts a dump in the place of the database; journals of an older one must not meet it.
func loadSQLite(dump, database string) error {
	for _, suffix := range []string{"-wal", "-shm", "-journal"} {
		if err := os.Remove(database + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	in, err := os.Open(dump)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the service had made no database when the backup was taken
	}
	if err != nil {
		return err
	}
	defer in.Close()
	if err := copySynced(in, database+".loading"); err != nil {
		return err
	}
	if err := os.Rename(database+".loading", database); err != nil {
		return err
	}
	return syncDir(filepath.Dir(database))
}

func copySynced(in io.Reader, to string) error {
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}

// loadCommand empties the state, starts the service that holds it, feeds the dump to the load command, and stops
// the service again.
func (i *instance) loadCommand(ctx context.Context, slot Slot, choice EngineChoice, state fleet.State) (err error) {
	dump, err := os.Open(filepath.Join(slot.Dir, dumpName(state)))
	if err != nil {
		return err
	}
	defer dump.Close()
	if err := choice.Engine.Down(ctx, slot); err != nil {
		return err
	}
	if err := emptyFolder(slot.States[state.Name]); err != nil {
		return err
	}
	if _, known := slot.Service(state.Service); !known {
		return choice.Engine.Run(ctx, slot, state.Load, dump, io.Discard)
	}
	defer func() { err = firstOf(err, choice.Engine.Down(context.WithoutCancel(ctx), slot)) }()
	if err := choice.Engine.Up(ctx, slot, withNeeds(slot, state.Service)...); err != nil {
		return err
	}
	service, _ := slot.Service(state.Service)
	if err := slot.AwaitReady(ctx, choice.Engine.Run, i.stack.cfg.Address, service); err != nil {
		return err
	}
	return choice.Engine.Run(ctx, slot, state.Load, dump, io.Discard)
}

// withNeeds names a service and all that it needs.
func withNeeds(slot Slot, name string) []string {
	names := []string{name}
	for at := 0; at < len(names); at++ {
		service, _ := slot.Service(names[at])
		for _, need := range service.Needs {
			if !slices.Contains(names, need.Service) {
				names = append(names, need.Service)
			}
		}
	}
	return names
}

func emptyFolder(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(path, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}
