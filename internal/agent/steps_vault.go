package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/step"
	"holdfast/internal/vault"
)

// KeptRepositories are the repositories that a vault node keeps for other nodes' instances, one for each instance.
type KeptRepositories struct {
	Names func(ctx context.Context) ([]string, error)                     // the instances that have one
	Open  func(ctx context.Context, instance string) (vault.Store, error) // that of an instance without any is empty
}

// kept opens the repository of an instance in the vault of this node.
func (s *Stack) kept(ctx context.Context, instance string) (*vault.Repository, func(), error) {
	if s.cfg.Kept == nil {
		return nil, nil, problem.New(problem.Invalid, "holdfast get nodes", "node %s is no vault", s.cfg.Node)
	}
	if !plainName.MatchString(instance) {
		return nil, nil, problem.New(problem.Invalid, "", "order for the repository of %q: that is no name of an instance", instance)
	}
	store, err := s.cfg.Kept.Open(ctx, instance)
	if err != nil {
		return nil, nil, problem.Wrap(err, problem.Unavailable, "look at the vault's disk on node "+s.cfg.Node, "repository of %s not opened", instance)
	}
	leave := func() { _ = store.Close() } // everything was waited for before
	repository, err := vault.Open(ctx, store)
	if err != nil {
		leave()
		return nil, nil, keptProblem(err, "repository of %s not opened on node %s", instance, s.cfg.Node)
	}
	return repository, leave, nil
}

func keptProblem(err error, format string, args ...any) error {
	kind := problem.Unavailable
	switch {
	case errors.Is(err, vault.ErrNotFound):
		kind = problem.NotFound
	case errors.Is(err, vault.ErrDamaged):
		kind = problem.Corrupt
	case errors.Is(err, vault.ErrLocked):
		kind = problem.Busy
	}
	return problem.Wrap(err, kind, "holdfast vault check --repo DIR on the vault's machine", format, args...)
}

// prune lets snapshots of an instance go by its rules. What was proven is written down in the repository first: there
// it outlives the server, and the last of them stays whatever the rules say.
func (s *Stack) prune(ctx context.Context, instance string, args step.PruneArgs, progress Progress) (*step.PruneResult, error) {
	if args.KeepDaily < 1 || args.KeepLast < 1 {
		return nil, problem.New(problem.Invalid, "set backup.keep_daily of "+instance, "%s was not pruned: its rules keep nothing", instance)
	}
	repository, leave, err := s.kept(ctx, instance)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := markProven(ctx, repository, args.Proven); err != nil {
		return nil, keptProblem(err, "proofs of %s not written down", instance)
	}
	progress("decide what goes", 0, 0)
	done, err := repository.Prune(ctx, vault.PruneOptions{
		Keep: vault.Keep{Daily: args.KeepDaily, Last: args.KeepLast}, Protect: args.Protect, Hold: args.Hold, Now: s.cfg.Now(), Location: time.UTC,
	})
	if err != nil {
		return nil, keptProblem(err, "%s was not pruned", instance)
	}
	result := &step.PruneResult{Forgotten: []string{}, Snapshots: []string{}, Freed: done.Freed(), Waiting: len(done.Waiting)}
	for _, d := range done.Forget {
		result.Forgotten = append(result.Forgotten, snapshotOf(d.Object))
	}
	left, err := repository.ListSnapshots(ctx)
	if err != nil {
		return nil, keptProblem(err, "what is left of %s was not listed", instance)
	}
	for _, info := range left {
		result.Snapshots = append(result.Snapshots, info.ID)
	}
	return result, nil
}

// snapshotOf is the id in the name of a snapshot's object.
func snapshotOf(object string) string {
	base := path.Base(object)
	return base[:len(base)-len(path.Ext(base))]
}

// markProven writes proofs down that the repository does not have yet. A snapshot that is gone needs none.
func markProven(ctx context.Context, repository *vault.Repository, proven map[string]time.Time) error {
	have, err := repository.Proofs(ctx)
	if err != nil {
		return err
	}
	for id, at := range proven {
		if !have[id].Time.Before(at) {
			continue
		}
		if err := repository.MarkProven(ctx, id, "a restore whose checks held", at); err != nil && !errors.Is(err, vault.ErrNotFound) {
			return err
		}
	}
	return nil
}

// survey tells one part of what the node holds. It changes nothing.
func (s *Stack) survey(ctx context.Context, args step.SurveyArgs) (*step.SurveyResult, error) {
	if args.Parts < 1 || args.Part < 0 || args.Part >= args.Parts {
		return nil, problem.New(problem.Invalid, "", "part %d of %d was asked for", args.Part, args.Parts)
	}
	result := &step.SurveyResult{}
	for _, inst := range s.list() {
		if slots := inst.slots(); len(slots) > 0 && falls(inst.name, args) {
			found, err := inst.surveyed(slots, args.ReplyTo)
			if err != nil {
				return nil, err
			}
			result.Instances = append(result.Instances, found)
		}
	}
	if s.cfg.Kept == nil {
		return result, nil
	}
	names, err := s.cfg.Kept.Names(ctx)
	if err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "look at the vault's disk on node "+s.cfg.Node, "repositories of node %s not listed", s.cfg.Node)
	}
	for _, name := range names {
		if plainName.MatchString(name) && falls(name, args) {
			result.Repositories = append(result.Repositories, s.surveyedRepository(ctx, name))
		}
	}
	return result, nil
}

// falls tells whether a name belongs to the part that was asked for.
func falls(name string, args step.SurveyArgs) bool {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(name)) // a hash takes everything
	return int(sum.Sum32()%uint32(args.Parts)) == args.Part
}

func (i *instance) surveyed(slots []string, replyTo string) (found step.SurveyedInstance, err error) {
	rec := i.now()
	found = step.SurveyedInstance{
		Instance: i.name, Slot: rec.Slot, Epoch: rec.Epoch, Lease: rec.Lease, Fenced: rec.Fenced, Retired: rec.Stopped == stoppedLong, Slots: slots,
	}
	if rec.Slot == "" {
		return found, nil
	}
	if found.Spec, _, err = i.readSpec(rec.Slot); err != nil {
		return found, err
	}
	secrets, err := i.readSecrets(rec.Slot)
	if err != nil || len(secrets) == 0 || replyTo == "" {
		return found, err
	}
	body, err := json.Marshal(secrets)
	if err != nil {
		return found, fmt.Errorf("encode secrets of instance %s", i.name) // the cause could show a part of one
	}
	found.Secrets, err = sealTo(replyTo, body)
	return found, err
}

// surveyedRepository reads what can be read of a repository; trouble with one does not hide the others.
func (s *Stack) surveyedRepository(ctx context.Context, name string) step.SurveyedRepository {
	found := step.SurveyedRepository{Instance: name}
	err := s.readRepository(ctx, &found)
	if err != nil {
		found.Trouble = err.Error()
	}
	return found
}

func (s *Stack) readRepository(ctx context.Context, found *step.SurveyedRepository) error {
	repository, leave, err := s.kept(ctx, found.Instance)
	if err != nil {
		return err
	}
	defer leave()
	if of := repository.Config().Instance; of != found.Instance {
		return fmt.Errorf("it is the repository of instance %s", of)
	}
	snapshots, listErr := repository.ListSnapshots(ctx) // those that can be read, beside the error about the others
	proofs, err := repository.Proofs(ctx)
	if err != nil {
		return err
	}
	for _, info := range snapshots {
		found.Snapshots = append(found.Snapshots, step.SurveyedSnapshot{
			ID: info.ID, TakenAt: info.Time, EndedAt: info.Time.Add(time.Duration(info.Seconds * float64(time.Second))),
			Bytes: info.Bytes, AddedBytes: info.AddedBytes, Files: info.Files, Epochs: info.Epochs, ProvenAt: proofs[info.ID].Time,
		})
	}
	envelopes, err := repository.Envelopes(ctx, "")
	if err != nil {
		return err
	}
	for _, e := range envelopes {
		found.Envelopes = append(found.Envelopes, step.SurveyedEnvelope{Epoch: e.Epoch, Custodian: lastOf(e.Age), People: lastOf(e.PGP)})
	}
	return listErr
}

func lastOf(messages [][]byte) []byte {
	if len(messages) == 0 {
		return nil
	}
	return messages[len(messages)-1]
}

// Folders lists the folders in dir that can be an instance's, in order of their names; dir may not exist yet.
func Folders(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Clean(dir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() && plainName.MatchString(entry.Name()) {
			names = append(names, entry.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}
