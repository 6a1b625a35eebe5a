-- +goose Up
CREATE TABLE audit_records (
    seq    BIGINT PRIMARY KEY,
    at     BIGINT NOT NULL,
    actor  TEXT NOT NULL,
    verb   TEXT NOT NULL,
    object TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX audit_records_object ON audit_records (object, seq);
-- the Merkle tree's hashes, numbered as sumdb/tlog stores them
CREATE TABLE audit_hashes (
    at   BIGINT PRIMARY KEY,
    hash TEXT NOT NULL
);
-- the signed head after each record
CREATE TABLE audit_heads (
    size   BIGINT PRIMARY KEY,
    signed TEXT NOT NULL
);
