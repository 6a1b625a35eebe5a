-- +goose Up
-- keys of the control plane; private halves sealed
CREATE TABLE access_keys (
    name       TEXT PRIMARY KEY,
    public     TEXT NOT NULL,
    sealed     TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
-- nodes that joined; the generation grows with each join under the same name
CREATE TABLE access_nodes (
    name       TEXT PRIMARY KEY,
    site       TEXT NOT NULL,
    roles      TEXT NOT NULL,
    generation BIGINT NOT NULL,
    joined_at  BIGINT NOT NULL,
    revoked_at BIGINT NOT NULL
);
CREATE TABLE join_tokens (
    id         TEXT PRIMARY KEY,
    hash       TEXT NOT NULL,
    bounds     TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    ends_at    BIGINT NOT NULL,
    used_at    BIGINT NOT NULL,
    used_by    TEXT NOT NULL,
    used_key   TEXT NOT NULL
);
CREATE TABLE access_tokens (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    role       TEXT NOT NULL,
    hash       TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    ends_at    BIGINT NOT NULL,
    revoked_at BIGINT NOT NULL
);
-- sessions of browsers, opened with an API token and ended with it
CREATE TABLE access_sessions (
    id      TEXT PRIMARY KEY,
    token   TEXT NOT NULL,
    hash    TEXT NOT NULL,
    ends_at BIGINT NOT NULL
);
CREATE INDEX access_sessions_token ON access_sessions (token);
