// Package vault keeps backups that the machines which write them cannot read.
//
// # Words
//
// A repository holds the backups of one instance; it lies in a Store. A snapshot is one
// point to return to: a manifest, which lists files, and packs, which hold their bytes.
// A recipient is an OpenPGP public key of people (the recovery key); a custodian is an
// age recipient, for the service that makes automatic proofs and restores. An epoch is a
// key pair of the repository: packs are encrypted to it, and its identity exists only in
// envelopes, which recipients and custodians open. A writer holds a WriterKey: enough to
// recognise what is stored and to add to it, never to read it.
//
// # Invariants
//
// Nothing is ever overwritten, and every object is named by, or listed with, the hash of its
// bytes, so anyone can check a repository without a key. Objects are written in the order
// packs, index, manifest, snapshot: an interruption leaves bytes that nothing refers to,
// never a snapshot that lacks something. What is restored was authenticated with the hash
// key, which a Store does not have: a vault can lose a backup, and cannot make one up.
//
// # Use
//
//	repo, key, err := vault.Init(ctx, store, vault.InitOptions{Instance: "acme", Recipients: []string{armored}})
//	info, err := repo.Backup(ctx, key, vault.BackupOptions{Sources: []vault.Source{{Name: "data", Path: "/srv/data"}}})
//	envelopes, err := repo.Envelopes(ctx, info.ID)               // no key needed
//	id, err := vault.OpenEnvelopePGP(envelopes[0], secretKey, passphrase)
//	err = repo.Restore(ctx, vault.RestoreOptions{Snapshot: info.ID, Identities: []vault.EpochIdentity{id}, To: dir})
//
// The format with its bytes, write order and threat model: docs/format/vault.md. This package
// imports nothing else of Holdfast: the way back must work when all else is gone.
package vault
