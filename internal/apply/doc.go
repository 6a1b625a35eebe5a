// Package apply turns fleet files into plans that are kept, and a kept plan into an operation.
//
// Words: a revision is one whole fleet directory, known by its hash; declared is the revision that was applied last; a
// kept plan waits under its id for somebody to apply it; it is stale once the fleet or the inventory it was made from
// has moved on.
//
// Invariant: what is applied is exactly what was planned and shown: apply makes the plan anew in the transaction that
// submits the operation, and refuses when its fingerprints differ. Missing secrets are generated in that transaction
// too, so that no instance is ever booted without them.
package apply
