// Package op is durable work: an operation is a graph of steps that is carried to its end over any crash.
//
// Words: an Operation is one durable run of a graph; a Step is one piece of it; an attempt is one order of a step; an
// Event is one thing that happened to it, numbered in its operation (Seq) and over all operations (ID). An instance
// is leased to one operation at a time; an operation is leased to one server at a time. A Placement says where an
// instance's one writer is and at which epoch. A step is settled when nothing more is waited for: it has a final
// state, or its node has been out of reach for longer than the operation's patience.
//
// How it runs: Next is a pure function from what stands in the rows to what is to be done; the Interpreter writes
// that down and only then acts; Fold takes what nodes tell. A step that was in flight when a process died is never
// done from scratch: its order goes out again under the same id, and the node answers from its journal.
//
// Invariant: whatever is sent was written first; an attempt has one order id and the node gives that id one effect;
// events are only appended; unknown is never rounded to done or failed; at most one operation at a time may change
// an instance, and only the newest epoch of an instance may serve.
package op
