// Package adopt lets a server that was rebuilt take over what is: the nodes' own records say where every instance's one
// writer is and what runs there, the vaults say what there is to return to.
//
// Words: a survey is a node's answer to what it holds; to adopt is to take the surveys for what is, all in one
// transaction. Until that is done, a rebuilt server hands out no leases, routes, grants or probes: nodes and edges go on
// with those that they have.
//
// Invariant: adopting starts and stops nothing; it never makes a second writer, never changes a place that this server
// gave itself, and epochs given out afterwards are above all that any node may have heard.
package adopt

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"holdfast/internal/access"
	"holdfast/internal/audit"
	"holdfast/internal/backup"
	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/observe"
	"holdfast/internal/op"
	"holdfast/internal/problem"
	"holdfast/internal/secret"
	"holdfast/internal/step"
)

// parts is in how many steps each node is asked, so that no answer is larger than a message of the link.
const parts = 4

// Begin submits the operation that surveys every node in reach and adopts what they tell. Nodes that have joined and are
// not in reach are named in the problem that refuses it, unless without says that they are to be left out.
func Begin(ctx context.Context, tx db.Tx, keys *access.Keys, inventory fleet.Inventory, without bool) (op.Operation, error) {
	joined, err := access.ListNodes(ctx, tx)
	if err != nil {
		return op.Operation{}, err
	}
	var nodes, silent []string
	for _, node := range joined {
		seen, known := inventory.Nodes[node.Name]
		switch {
		case !node.RevokedAt.IsZero():
		case known && tx.Now.Sub(seen.SeenAt) <= observe.Silent:
			nodes = append(nodes, node.Name)
		default:
			silent = append(silent, node.Name)
		}
	}
	if len(nodes) == 0 {
		return op.Operation{}, problem.New(problem.Unreachable, "holdfast get nodes", "nothing was adopted: no node is in reach")
	}
	if len(silent) > 0 && !without {
		return op.Operation{}, problem.New(problem.Unreachable, "wait until they speak (holdfast get nodes), or holdfast adopt --without-silent if they are lost",
			"nothing was adopted: not in reach: %v", silent)
	}
	graph, err := graphOf(nodes, keys.ReplyToRecipient())
	if err != nil {
		return op.Operation{}, err
	}
	return op.Submit(ctx, tx, op.New{
		Kind: "adopt", Title: fmt.Sprintf("adopt what %d nodes hold", len(nodes)), Graph: graph, Actor: access.From(ctx).Name,
		Params: map[string]any{"nodes": nodes, "silent": silent}, Resume: "holdfast adopt",
	})
}

func graphOf(nodes []string, replyTo string) (step.Graph, error) {
	var graph step.Graph
	var surveys []string
	for _, node := range nodes {
		for part := range parts {
			args, err := json.Marshal(step.SurveyArgs{ReplyTo: replyTo, Part: part, Parts: parts})
			if err != nil {
				return nil, fmt.Errorf("encode arguments of a survey: %w", err)
			}
			id := fmt.Sprintf("survey/%s/%d", node, part+1)
			surveys = append(surveys, id)
			graph = append(graph, step.Planned{ID: id, Node: node, Step: step.Step{
				Kind: step.Survey, Args: args, Note: fmt.Sprintf("ask %s what it holds, part %d of %d", node, part+1, parts),
			}})
		}
	}
	return append(graph, step.Planned{ID: "adopt", Needs: surveys, Step: step.Step{
		Kind: step.Adopt, Args: json.RawMessage("{}"), Note: "take what the nodes have told for what is",
	}}), nil
}

// Adopter does the adopting step.
type Adopter struct {
	Keys    *access.Keys
	Secrets *secret.Store
	Audit   *audit.Log
	Log     *slog.Logger
}

// Summary is what an adopting step came to; it is its result and its audit record.
type Summary struct {
	Instances []Found  `json:"instances"`
	Snapshots int      `json:"snapshots"`
	Trouble   []string `json:"trouble,omitempty"`
}

// Adopt is how the server does the step: all that the surveys of its operation found, in one transaction.
func (a Adopter) Adopt(ctx context.Context, tx db.Tx, call op.Call) (json.RawMessage, error) {
	ctx = access.With(ctx, access.System())
	told, err := op.Surveys(ctx, tx, call.Operation.ID)
	if err != nil {
		return nil, err
	}
	sites, err := sitesOf(ctx, tx)
	if err != nil {
		return nil, err
	}
	summary := Summary{Instances: []Found{}}
	for _, found := range Decide(told, sites) {
		taken, err := op.Adopt(ctx, tx, found.Adopted)
		if err != nil {
			return nil, err
		}
		if err := a.keepSecrets(ctx, tx, found); err != nil {
			return nil, err
		}
		if taken {
			summary.Instances = append(summary.Instances, found)
		}
	}
	for _, vault := range slices.Sorted(maps.Keys(told)) {
		for _, repository := range told[vault].Repositories {
			n, err := backup.AdoptRepository(ctx, tx, vault, repository)
			if err != nil {
				return nil, err
			}
			summary.Snapshots += n
			if repository.Trouble != "" {
				summary.Trouble = append(summary.Trouble, fmt.Sprintf("vault %s, repository of %s: %s", vault, repository.Instance, repository.Trouble))
			}
		}
	}
	if err := op.EndAdopting(ctx, tx); err != nil {
		return nil, err
	}
	for _, trouble := range summary.Trouble {
		a.Log.Warn("adopted with trouble", "trouble", trouble)
	}
	if err := a.Audit.Append(ctx, tx, audit.Entry{Verb: "adopt", Object: "operation/" + call.Operation.ID, Detail: summary}); err != nil {
		return nil, err
	}
	return json.Marshal(summary)
}

func sitesOf(ctx context.Context, tx db.Tx) (map[string]string, error) {
	joined, err := access.ListNodes(ctx, tx)
	sites := make(map[string]string, len(joined))
	for _, node := range joined {
		sites[node.Name] = node.Site
	}
	return sites, err
}

// keepSecrets takes the secrets that a copy runs with and that this server lacks; those it has stay as they are.
func (a Adopter) keepSecrets(ctx context.Context, tx db.Tx, found Found) error {
	if len(found.Secrets) == 0 {
		return nil
	}
	values, err := secret.OpenFrom(a.Keys.ReplyTo(), found.Secrets)
	if err != nil {
		a.Log.Warn("secrets of an instance were not adopted", "instance", found.Instance, "err", err)
		return nil // a later restore or a person brings them; the rest is adopted all the same
	}
	for _, ref := range found.Content.Secrets {
		value, ok := values[ref.Name]
		if !ok {
			continue
		}
		err := a.Secrets.Put(ctx, tx, found.Instance, secret.Ref(ref), value)
		if problem.KindOf(err) == problem.Conflict {
			a.Log.Warn("an instance runs with another secret than this server has", "instance", found.Instance, "secret", ref.Name)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}
