package apply

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"holdfast/internal/access"
	"holdfast/internal/audit"
	"holdfast/internal/db"
	"holdfast/internal/fleet"
	"holdfast/internal/op"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/secret"
	"holdfast/internal/step"
)

// Planner makes plans and applies them.
type Planner struct {
	DB        *db.DB
	Secrets   *secret.Store
	Audit     *audit.Log
	Inventory func(ctx context.Context) (fleet.Inventory, error) // as of the last commit
	// Held reads what vaults hold, by instance; nil = there are none.
	Held func(ctx context.Context) (map[string]plan.Held, error)
}

// Make compares fleet files with what was last seen, and keeps the plan under its id. What is wrong with the files is
// one problem.List.
func (p *Planner) Make(ctx context.Context, r plan.Request) (plan.Plan, error) {
	made, err := p.diff(ctx, r.Files, r.Selector, r.Home)
	if err != nil {
		return plan.Plan{}, err
	}
	err = p.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		base, err := appliedOrNone(ctx, tx)
		if err != nil {
			return err
		}
		if err := keepFiles(ctx, tx, made.Fleet, r.Files); err != nil {
			return err
		}
		return keepPlan(ctx, tx, made, base, access.From(ctx).Name)
	})
	return made, err
}

// Plan reads a kept plan.
func (p *Planner) Plan(ctx context.Context, id string) (plan.Plan, error) {
	kept, err := selectPlan(ctx, p.DB, id)
	return kept.plan, err
}

func (p *Planner) diff(ctx context.Context, files fleet.Files, selector string, home bool) (plan.Plan, error) {
	if adopting, err := op.Adopting(ctx, p.DB); err != nil || adopting {
		return plan.Plan{}, errors.Join(err, notAdopted(adopting))
	}
	chosen, err := fleet.ParseSelector(selector)
	if err != nil {
		return plan.Plan{}, problem.Wrap(err, problem.Usage, "holdfast plan -l ring=canary,site=par1", "nothing was planned")
	}
	read, err := fleet.Read(files)
	if err != nil {
		return plan.Plan{}, err
	}
	inventory, err := p.Inventory(ctx)
	if err != nil {
		return plan.Plan{}, err
	}
	applied, err := op.AppliedSpecs(ctx, p.DB)
	if err != nil {
		return plan.Plan{}, err
	}
	w := plan.World{Inventory: inventory, Applied: applied, Home: home}
	if p.Held != nil {
		if w.Held, err = p.Held(ctx); err != nil {
			return plan.Plan{}, err
		}
	}
	return plan.Diff(read, w, chosen)
}

// notAdopted refuses to plan on a server that was rebuilt and does not know yet what nodes hold.
func notAdopted(adopting bool) error {
	if !adopting {
		return nil
	}
	return problem.New(problem.Conflict, "holdfast adopt", "nothing was planned: this server was rebuilt, and does not know yet what its nodes hold")
}

// Apply submits the operation that carries out a kept plan, and makes its fleet the declared one. A plan that would
// not be made the same now is refused with kind Stale. A plan without items has no operation.
func (p *Planner) Apply(ctx context.Context, id string) (done plan.Applied, err error) {
	err = p.DB.Tx(ctx, func(ctx context.Context, tx db.Tx) error {
		kept, err := selectPlan(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := p.refuseStale(ctx, tx, kept); err != nil {
			return err
		}
		if done.Operation, err = p.submit(ctx, tx, kept.plan); err != nil {
			return err
		}
		if err := markApplied(ctx, tx, kept.plan.Fleet, access.From(ctx).Name); err != nil {
			return err
		}
		return p.Audit.Append(ctx, tx, audit.Entry{Verb: "apply plan", Object: "plan/" + id, Detail: detail{kept.plan.Fleet, done.Operation, title(kept.plan)}})
	})
	return done, err
}

// detail is what the audit record of an apply says.
type detail struct {
	Fleet     string `json:"fleet"`
	Operation string `json:"operation,omitempty"`
	What      string `json:"what"`
}

// refuseStale makes the plan anew. It is called inside the transaction that submits it, beside which nothing else is
// written: what it sees stays true until then.
func (p *Planner) refuseStale(ctx context.Context, tx db.Tx, kept keptPlan) error {
	again := "holdfast plan -f DIR"
	declared, err := appliedOrNone(ctx, tx)
	if err != nil {
		return err
	}
	if declared != kept.base {
		return problem.New(problem.Stale, again, "plan %s was not applied: another fleet was applied since it was made", kept.plan.ID)
	}
	files, err := selectFiles(ctx, tx, kept.plan.Fleet)
	if err != nil {
		return err
	}
	now, err := p.diff(ctx, files, kept.plan.Selector, kept.plan.Home)
	if err != nil {
		return err
	}
	if now.ID != kept.plan.ID {
		return problem.New(problem.Stale, again, "plan %s was not applied: the inventory has changed since it was made", kept.plan.ID)
	}
	return nil
}

// submit makes missing secrets and writes the operation down; "" when there is nothing to do.
func (p *Planner) submit(ctx context.Context, tx db.Tx, made plan.Plan) (operation string, err error) {
	if len(made.Items) == 0 {
		return "", nil
	}
	instances := make([]string, len(made.Items))
	for i, item := range made.Items {
		instances[i] = item.Instance
		if _, err := p.Secrets.Ensure(ctx, tx, item.Instance, refs(item.Spec)); err != nil {
			return "", err
		}
	}
	graph, err := p.graph(ctx, tx, made)
	if err != nil {
		return "", err
	}
	o, err := op.Submit(ctx, tx, op.New{
		Kind: "deploy", Title: title(made), Graph: graph, Actor: access.From(ctx).Name, Plan: made.ID, Instances: instances,
		Params: map[string]any{"fleet": made.Fleet, "instances": instances}, Resume: "holdfast apply -f DIR",
	})
	if err != nil {
		return "", err
	}
	return o.ID, markOperation(ctx, tx, made.ID, o.ID)
}

// graph names the slots of moves as it goes; plan.Graph itself knows no database.
func (p *Planner) graph(ctx context.Context, tx db.Tx, made plan.Plan) (step.Graph, error) {
	var failed error
	graph, err := plan.Graph(made, func(instance string) string {
		slot, err := op.NextSlot(ctx, tx, instance)
		if err != nil {
			failed = err
		}
		return slot
	})
	if failed != nil {
		return nil, failed
	}
	return graph, err
}

func refs(spec fleet.Spec) []secret.Ref {
	all := make([]secret.Ref, len(spec.Secrets))
	for i, ref := range spec.Secrets {
		all[i] = secret.Ref(ref)
	}
	return all
}

// title says what a plan does in a few words: "create 3, change 1".
func title(made plan.Plan) string {
	var words []string
	for _, action := range []plan.Action{plan.Create, plan.Change, plan.Move, plan.Retire} {
		if n := made.Count(action); n > 0 {
			words = append(words, fmt.Sprintf("%s %d", action, n))
		}
	}
	if len(words) == 0 {
		return "nothing to do on nodes"
	}
	return strings.Join(words, ", ")
}
