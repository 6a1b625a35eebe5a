// Package api is the contract of the HTTP API and its Go client.
//
// Words: a Context is where a server is, how it is known and who asks; a Problem is problem+json (RFC 9457) that
// carries a problem.Error or a list of them whole, so that the command line shows what the server found, word by word.
//
// Invariant: a type here that crosses the wire only ever grows; no field is renamed or given another meaning.
package api
