package backup

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"holdfast/internal/access"
	"holdfast/internal/audit"
	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/op"
	"holdfast/internal/problem"
	"holdfast/internal/secret"
	"holdfast/internal/step"
	"holdfast/internal/vault"
)

// Custodian opens the envelopes that are sealed to it, for steps that were released, and completes the orders of
// backups and fetches with where the repository is and with keys sealed to their node.
type Custodian struct {
	DB    *db.DB
	Keys  *access.Keys
	Audit *audit.Log
	// Node reads a node's newest facts; observe has them.
	Node func(ctx context.Context, node string) (fleet.NodeFacts, error)
}

// Release is how the server does a release step. It refuses a snapshot that the custodian cannot open, and writes
// down, with an audit record, for which step on which node the snapshot's epochs may be opened. Nothing is opened for
// keeping: that happens when the order goes out.
func (c Custodian) Release(ctx context.Context, tx db.Tx, call op.Call) (json.RawMessage, error) {
	var args step.ReleaseArgs
	if err := json.Unmarshal(call.Step.Args, &args); err != nil {
		return nil, fmt.Errorf("read arguments of step %s: %w", call.Step.ID, err)
	}
	instance := call.Step.Instance
	node, err := c.released(ctx, tx, call, args)
	if err != nil {
		return nil, err
	}
	snapshot, err := Find(ctx, tx, instance, args.Snapshot)
	if err != nil {
		return nil, err
	}
	if _, err := c.identities(ctx, tx, snapshot); err != nil {
		return nil, err
	}
	detail := released{call.Operation.ID, args.ForStep, call.Operation.Actor, snapshot.ID, node, snapshot.Epochs}
	err = c.Audit.Append(access.With(ctx, access.System()), tx, audit.Entry{Verb: "release snapshot", Object: "instance/" + instance, Detail: detail})
	if err != nil {
		return nil, err
	}
	row := releaseRow{Operation: call.Operation.ID, Step: args.ForStep, Instance: instance, Snapshot: snapshot.ID, Node: node, At: db.At(tx.Now)}
	if err := putRelease(ctx, tx, row); err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"snapshot": snapshot.ID, "node": node, "epochs": len(snapshot.Epochs)})
}

// released is what an audit record says of a release.
type released struct {
	Operation string   `json:"operation"`
	Step      string   `json:"step"`
	AskedBy   string   `json:"asked_by"`
	Snapshot  string   `json:"snapshot"`
	Node      string   `json:"node"`
	Epochs    []string `json:"epochs"`
}

// released finds the step that a release is for, and the node that it goes to.
func (c Custodian) released(ctx context.Context, tx db.Tx, call op.Call, args step.ReleaseArgs) (node string, err error) {
	steps, err := op.WholeOf(ctx, tx, call.Operation.ID, call.Step.Instance)
	if err != nil {
		return "", err
	}
	s, ok := steps[args.ForStep]
	var fetch step.FetchArgs
	if !ok || s.Kind != step.Fetch || s.Instance != call.Step.Instance || json.Unmarshal(s.Args, &fetch) != nil || fetch.Snapshot != args.Snapshot {
		return "", problem.New(problem.Denied, "holdfast op show "+call.Operation.ID, "snapshot %.12s of %s was not released: step %s does not fetch it", args.Snapshot, call.Step.Instance, args.ForStep)
	}
	return s.Node, nil
}

// identities opens the custodian's envelope of every epoch that the snapshot needs.
func (c Custodian) identities(ctx context.Context, in bun.IDB, s Snapshot) (map[string]vault.EpochIdentity, error) {
	held, err := envelopesOf(ctx, in, s.Instance)
	if err != nil {
		return nil, err
	}
	open := make(map[string]vault.EpochIdentity, len(s.Epochs))
	for _, epoch := range s.Epochs {
		envelope := held[epochKey{s.Instance, s.Vault, epoch}].Custodian
		if len(envelope) == 0 {
			return nil, problem.New(problem.WrongKey, "holdfast restore instance/"+s.Instance+" --snapshot "+s.Short()+" --key SECRET.asc",
				"snapshot %s of %s was not opened: it has no envelope for the custodian; a person's recovery key can open it", s.Short(), s.Instance)
		}
		text, err := secret.OpenBytes(c.Keys.Custodian(), envelope)
		if err != nil {
			return nil, problem.Wrap(err, problem.WrongKey, "holdfast restore instance/"+s.Instance+" --snapshot "+s.Short()+" --key SECRET.asc",
				"snapshot %s of %s was not opened by the custodian", s.Short(), s.Instance)
		}
		var identity vault.EpochIdentity
		if err := identity.UnmarshalText(text); err != nil {
			return nil, problem.New(problem.Corrupt, "", "the envelope of epoch %s of %s does not hold an identity", epoch, s.Instance) // the cause could show a part of it
		}
		open[epoch] = identity
	}
	return open, nil
}

// Short is enough of the id for a person to tell it from others.
func (s Snapshot) Short() string { return s.ID[:min(12, len(s.ID))] }

// FillFetch completes the order of a fetch: where the repository is, and the identities that were released to it,
// sealed to its node. Identities from a person's recovery key are passed on as they came.
func (c Custodian) FillFetch(ctx context.Context, call op.Call) (json.RawMessage, error) {
	var args step.FetchArgs
	if err := json.Unmarshal(call.Step.Args, &args); err != nil {
		return nil, fmt.Errorf("read arguments of step %s: %w", call.Step.ID, err)
	}
	snapshot, err := Find(ctx, c.DB, call.Step.Instance, args.Snapshot)
	if err != nil {
		return nil, err
	}
	if args.Repository, err = c.repository(ctx, snapshot.Instance, snapshot.Vault); err != nil {
		return nil, err
	}
	if len(args.Identities) == 0 {
		if args.Identities, err = c.open(ctx, call, snapshot); err != nil {
			return nil, err
		}
	}
	return json.Marshal(args)
}

// open gives the released identities, sealed to the order's node; each order that uses a release is recorded.
func (c Custodian) open(ctx context.Context, call op.Call, s Snapshot) (sealed []byte, err error) {
	err = c.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		first, err := useRelease(ctx, tx, call.Operation.ID, call.Step.ID, call.OrderID(), s.ID, call.Node)
		if err != nil {
			return err
		}
		identities, err := c.identities(ctx, tx, s)
		if err != nil {
			return err
		}
		if sealed, err = sealIdentities(call.SealTo, identities); err != nil || !first {
			return err
		}
		detail := map[string]any{"order": call.OrderID(), "snapshot": s.ID, "node": call.Node}
		return c.Audit.Append(access.With(ctx, access.System()), tx, audit.Entry{Verb: "open snapshot", Object: "instance/" + s.Instance, Detail: detail})
	})
	return sealed, err
}

// sealIdentities makes the message that only the node reads: a JSON object epoch id -> identity. It is also what the
// command line makes from a person's recovery key.
func sealIdentities(sealTo string, identities map[string]vault.EpochIdentity) ([]byte, error) {
	raw, err := json.Marshal(identities)
	if err != nil {
		return nil, fmt.Errorf("encode identities of %d epochs", len(identities)) // the cause could show a part of one
	}
	return secret.SealBytes(sealTo, raw)
}

// FillBackup completes the order of a backup: where the repository is, the node's writer key, who may open it.
func (c Custodian) FillBackup(ctx context.Context, call op.Call) (json.RawMessage, error) {
	var args step.BackupArgs
	if err := json.Unmarshal(call.Step.Args, &args); err != nil {
		return nil, fmt.Errorf("read arguments of step %s: %w", call.Step.ID, err)
	}
	policy, instance := args.Spec.Backup, call.Step.Instance
	repository, err := c.repository(ctx, instance, policy.Vault)
	if err != nil {
		return nil, err
	}
	args.Repository, args.ReplyTo = repository, c.Keys.ReplyToRecipient()
	if policy.Custodian {
		args.Custodians = []string{c.Keys.CustodianRecipient()}
	}
	sealed, since, err := writerKey(ctx, c.DB, instance, policy.Vault)
	if err != nil {
		return nil, err
	}
	if len(sealed) > 0 {
		if args.Repository.WriterKey, err = reseal(c.Keys, sealed, call.SealTo); err != nil {
			return nil, fmt.Errorf("pass the writer key of %s to node %s: %w", instance, call.Node, err)
		}
		args.Rotate = c.DB.Now().Sub(since) >= RotateEvery
	}
	return json.Marshal(args)
}

// RotateEvery is how long a node writes with one key and seals to one epoch: a backup that begins later changes both
// first. What one epoch's identity opens is then never more than a month of an instance.
const RotateEvery = 30 * 24 * time.Hour

// reseal turns what was sealed to the server into what is sealed to a node.
func reseal(keys *access.Keys, sealed []byte, sealTo string) ([]byte, error) {
	plain, err := secret.OpenBytes(keys.ReplyTo(), sealed)
	if err != nil {
		return nil, err
	}
	return secret.SealBytes(sealTo, plain)
}

// repository says where an instance's repository is in a vault: a directory of its own.
func (c Custodian) repository(ctx context.Context, instance, vaultNode string) (step.Repository, error) {
	facts, err := c.Node(ctx, vaultNode)
	if err != nil {
		return step.Repository{}, err
	}
	if !slices.Contains(facts.Roles, fleet.RoleVault) || facts.VaultAddr == "" {
		return step.Repository{}, problem.New(problem.Unavailable, "holdfast agent --role vault on node "+vaultNode, "the vault of %s is not known: node %s takes no backups", instance, vaultNode)
	}
	return step.Repository{URL: "sftp://" + instance + "@" + facts.VaultAddr + "/" + instance, HostKey: facts.VaultKey}, nil
}

// Fill gives what op's interpreter completes orders with.
func (c Custodian) Fill() map[step.Kind]func(context.Context, op.Call) (json.RawMessage, error) {
	return map[step.Kind]func(context.Context, op.Call) (json.RawMessage, error){step.Fetch: c.FillFetch, step.Backup: c.FillBackup}
}
