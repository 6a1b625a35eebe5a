-- +goose Up
-- fleet directories that plans were made from; the newest with applied_at is what the server knows as declared
CREATE TABLE fleet_revisions (
    revision   TEXT PRIMARY KEY,
    files      TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    applied_at BIGINT NOT NULL,
    applied_by TEXT NOT NULL
);
CREATE INDEX fleet_revisions_applied ON fleet_revisions (applied_at);
-- plans that wait to be applied; base is the revision that was declared when each was made
CREATE TABLE plans (
    id         TEXT PRIMARY KEY,
    base       TEXT NOT NULL,
    plan       TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    operation  TEXT NOT NULL
);
