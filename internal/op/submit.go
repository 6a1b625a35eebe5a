package op

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/problem"
	"holdfast/internal/step"
)

// Submit writes an operation down and leases its instances to it, in the caller's transaction. The interpreter takes
// it up once that is committed. An instance that another operation holds gives problem.Busy, unless n.Preempt.
func Submit(ctx context.Context, tx db.Tx, n New) (Operation, error) {
	if err := validate(n); err != nil {
		return Operation{}, err
	}
	params, err := json.Marshal(n.Params)
	if err != nil {
		return Operation{}, fmt.Errorf("encode parameters of %s: %w", n.Kind, err)
	}
	if n.Patience == 0 {
		n.Patience = DefaultPatience
	}
	row := operationRow{
		ID: newID(), Kind: n.Kind, Title: n.Title, Actor: n.Actor, Plan: n.Plan, Params: string(params), Resume: n.Resume, State: string(Running),
		Patience: int64(n.Patience), CreatedAt: db.At(tx.Now), Rev: 1,
	}
	if err := lease(ctx, tx, row.ID, n.Title, n.Instances, n.Preempt); err != nil {
		return Operation{}, err
	}
	return row.operation(), insert(ctx, tx, row, n)
}

func insert(ctx context.Context, tx db.Tx, row operationRow, n New) error {
	steps := make([]stepRow, len(n.Graph))
	for i, p := range n.Graph {
		steps[i] = rowOf(row.ID, i, p)
		steps[i].Rev = row.Rev
	}
	if _, err := tx.NewInsert().Model(&row).Exec(ctx); err != nil {
		return fmt.Errorf("write operation %s: %w", row.ID, err)
	}
	if len(steps) > 0 {
		if _, err := tx.NewInsert().Model(&steps).Exec(ctx); err != nil {
			return fmt.Errorf("write steps of operation %s: %w", row.ID, err)
		}
	}
	if err := keepSpecs(ctx, tx, n.Graph); err != nil {
		return err
	}
	return appendEvents(ctx, tx, []Event{{Operation: row.ID, State: string(Running), Note: n.Title + ", asked for by " + n.Actor}})
}

// newID is a name that a person can type: 8 characters, 40 random bits.
func newID() string { return strings.ToLower(rand.Text()[:8]) }

func validate(n New) error {
	if n.Kind == "" || n.Title == "" || n.Actor == "" {
		return problem.New(problem.Internal, "", "an operation needs a kind, a title and an actor; this one has %q, %q, %q", n.Kind, n.Title, n.Actor)
	}
	if err := n.Graph.Validate(); err != nil {
		return problem.Wrap(err, problem.Invalid, "", "operation %q was not taken", n.Title)
	}
	kinds := map[string]step.Kind{}
	for _, p := range n.Graph {
		kinds[p.ID] = p.Step.Kind
	}
	for _, p := range n.Graph {
		if err := validateStep(p, kinds, n); err != nil {
			return problem.Wrap(err, problem.Invalid, "", "operation %q was not taken", n.Title)
		}
	}
	return nil
}

func validateStep(p step.Planned, kinds map[string]step.Kind, n New) error {
	if serverDoes(p.Step.Kind) != (p.Node == "") {
		return fmt.Errorf("step %s of kind %s has the node %q", p.ID, p.Step.Kind, p.Node)
	}
	if claim, ok := strings.CutPrefix(p.Node, "@claim:"); ok && (kinds[claim] != step.Claim || !slices.Contains(p.Needs, claim) && !reaches(n.Graph, p.ID, claim)) {
		return fmt.Errorf("step %s goes where %s was placed, and does not wait for such a claim", p.ID, claim)
	}
	if p.Step.Instance != "" && !slices.Contains(n.Instances, p.Step.Instance) {
		return fmt.Errorf("step %s is for instance %s, which the operation does not lease", p.ID, p.Step.Instance)
	}
	return nil
}

// serverDoes tells whether the server itself does steps of a kind.
func serverDoes(kind step.Kind) bool {
	switch kind {
	case step.Claim, step.Route, step.Release, step.Tell, step.Adopt:
		return true
	case step.Stage, step.Boot, step.Ready, step.Checks, step.Switch, step.Stop, step.Fence, step.Discard, step.Backup, step.Fetch, step.Load,
		step.Arm, step.Fire, step.Undo, step.Prune, step.Survey:
		return false
	}
	return false
}

// reaches tells whether step from waits, even through others, for step to. The graph has no cycle.
func reaches(g step.Graph, from, to string) bool {
	needs := map[string][]string{}
	for _, p := range g {
		needs[p.ID] = p.Needs
	}
	var look func(id string) bool
	look = func(id string) bool {
		return slices.ContainsFunc(needs[id], func(need string) bool { return need == to || look(need) })
	}
	return look(from)
}

// keepSpecs stores every rendered spec that the graph carries.
func keepSpecs(ctx context.Context, tx db.Tx, g step.Graph) error {
	kept := map[string]bool{}
	for _, p := range g {
		var args struct {
			Spec fleet.Spec `json:"spec"`
		}
		switch p.Step.Kind {
		case step.Boot, step.Stage, step.Backup, step.Fetch:
			if err := json.Unmarshal(p.Step.Args, &args); err != nil {
				return problem.Wrap(err, problem.Invalid, "", "the arguments of step %s do not parse", p.ID)
			}
		default:
			continue
		}
		if key := p.Step.Instance + " " + args.Spec.Fingerprint; args.Spec.Fingerprint != "" && !kept[key] {
			kept[key] = true
			if err := putSpec(ctx, tx, p.Step.Instance, args.Spec); err != nil {
				return err
			}
		}
	}
	return nil
}
