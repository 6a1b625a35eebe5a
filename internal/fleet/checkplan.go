package fleet

import (
	"slices"
	"strconv"
)

// checkRecoveryPlan: what it names is there, and it does not rebuild inside what was lost.
func (r *reader) checkRecoveryPlan(p RecoveryPlan) {
	f := r.fleet
	switch p.Scenario {
	case SiteLost:
		refers(r, p.Origin, []string{"lost"}, KindSite, f.Sites, p.Lost)
	case NodeLost:
		r.declaredNode(p.Origin, []string{"lost"}, p.Lost)
	}
	for i, site := range p.Target.Sites {
		at := []string{"target", "sites", strconv.Itoa(i)}
		refers(r, p.Origin, at, KindSite, f.Sites, site)
		if p.Scenario == SiteLost && site == p.Lost {
			r.wrong(p.Origin, at, "write a site that is left", "it would rebuild in %s, the site that is lost", site)
		}
	}
	for i, node := range p.Target.Nodes {
		r.declaredNode(p.Origin, []string{"target", "nodes", strconv.Itoa(i)}, node)
	}
	for i, name := range p.Scope.Never {
		refers(r, p.Origin, []string{"scope", "never", strconv.Itoa(i)}, KindInstance, f.Instances, name)
	}
	r.checkPromises(p)
}

// checkPromises: counts, times and words of a plan.
func (r *reader) checkPromises(p RecoveryPlan) {
	if p.Scope.Expect < 1 {
		r.wrong(p.Origin, []string{"scope", "expect"}, "count the instances and write the number", "expects %d instances", p.Scope.Expect)
	}
	if len(p.Tiers) == 0 {
		r.wrong(p.Origin, []string{"tiers"}, "add at least one tier with rto and rpo", "has no tier")
	}
	for i, tier := range p.Tiers {
		if tier.RTO <= 0 || tier.RPO <= 0 {
			r.wrong(p.Origin, []string{"tiers", strconv.Itoa(i)}, "write both, such as rto: 30m and rpo: 25h", "tier %s promises no time", tier.Name)
		}
	}
	for i, check := range p.Checks {
		if !slices.Contains(RecoveryChecks(), check) {
			r.wrong(p.Origin, []string{"checks", strconv.Itoa(i)}, meant(check, RecoveryChecks()), "check %q is not known", check)
		}
	}
}
