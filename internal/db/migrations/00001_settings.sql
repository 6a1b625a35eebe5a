-- +goose Up
-- settings of the control plane itself: its authority, keys, generations. One row a name.
CREATE TABLE settings (
    name       TEXT PRIMARY KEY,
    value      TEXT NOT NULL,
    changed_at BIGINT NOT NULL
);
