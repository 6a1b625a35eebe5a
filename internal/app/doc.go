// Package app wires the processes: it alone names engines, opens what they need, and holds the order in which they
// start and stop.
//
// Words: a part is something an agent or a server does beside its core; the order of parts is the order of starting,
// and the reverse is the order of stopping.
//
// Invariant: nothing is decided here. What can be decided is a function of a package to the left.
package app
