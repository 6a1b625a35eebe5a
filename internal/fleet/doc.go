// Package fleet says what should be, in files under git, and in the same words what is (the inventory).
//
// Words: a Site can be lost as a whole; a Node runs an agent and has roles; a Product is what the company sells; a
// Release is one immutable version of it; an Instance is one customer's dedicated stack; a Ring orders instances for
// rollouts; a RecoveryPlan is the disaster plan as code. Values come from five layers, lowest first: product,
// release, site, ring, instance. A Spec is an instance rendered for running.
//
// Invariant: reading is strict and total (every error of a run, with file and line, and nothing half-read), and
// rendering is pure: no clock, no randomness, no secret value, no byte of another instance.
package fleet
