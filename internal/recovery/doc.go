// Package recovery rebuilds what a lost site or node held, rehearses that, and measures it.
//
// Words: a recovery plan (fleet.RecoveryPlan) says what may be lost and where it goes; its members are the instances
// it takes in; a drill is a rehearsal with an injected fault, a recovery is the real thing, and both are a run: a row
// with a phase and a list of events; a scorecard is what was measured; a finding is what would fail today.
//
// Everything that decides is a pure function of rows: Members, Place, Lint, Graph, Next and Score take data and a
// moment and give data. Runner alone acts, and it can be killed at any moment: it reads the run's events and goes on.
//
// Invariant: every number of a scorecard is computed from events. What was not measured is nil and is shown as
// unknown; it is never rounded to 0, and a drill with an unknown does not pass.
package recovery
