// Package dash is the product that the lab runs: dashboards over package lists, with the parts that a customer's stack
// of this kind has. Documents lie in a database of the MongoDB protocol, pictures in a folder, what waits to be drawn
// in Redis. It is real in what matters to a deployment and to a recovery: releases change the data at their start,
// one may be reached only through another, writes are durable before they are acknowledged, documents and files refer
// to each other, and what customers entrusted is sealed with a secret.
//
// Words: a Fact is one package of the seed; a Dashboard is a document that shows facts, with a picture that a person
// gave and a tile that a worker draws; a Connection is a customer's credential, kept sealed; a File is known by the
// hash of its bytes alone.
//
// Invariant: an acknowledged dashboard, and the files that it names, are on disk, the files first. So a dump of the
// database followed by a copy of the folder holds every file that a dumped dashboard names. What is in Redis can be
// made again from the documents, and is in no backup.
package dash
