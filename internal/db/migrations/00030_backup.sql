-- +goose Up
-- snapshots: every finished backup. proof_level is '' until a restore of this very snapshot was checked.
CREATE TABLE snapshots (
    instance    TEXT NOT NULL,
    id          TEXT NOT NULL,
    node        TEXT NOT NULL,
    vault       TEXT NOT NULL,
    release     TEXT NOT NULL,
    spec        TEXT NOT NULL,
    operation   TEXT NOT NULL,
    taken_at    BIGINT NOT NULL,
    ended_at    BIGINT NOT NULL,
    bytes       BIGINT NOT NULL,
    added       BIGINT NOT NULL,
    files       BIGINT NOT NULL,
    canary_from BIGINT NOT NULL,
    canary_to   BIGINT NOT NULL,
    epochs      TEXT NOT NULL,
    notes       TEXT NOT NULL,
    proof_level TEXT NOT NULL,
    proof_at    BIGINT NOT NULL,
    pruned_at   BIGINT NOT NULL,
    PRIMARY KEY (instance, id)
);
CREATE INDEX snapshots_taken ON snapshots (instance, taken_at);

-- envelopes: the sealed identity of each epoch of a repository, for the custodian and for people. Nothing here can be
-- opened without a key that is not in this table.
CREATE TABLE envelopes (
    instance  TEXT NOT NULL,
    vault     TEXT NOT NULL,
    epoch     TEXT NOT NULL,
    custodian TEXT NOT NULL,
    people    TEXT NOT NULL,
    PRIMARY KEY (instance, vault, epoch)
);

-- writer_keys: what a node needs to add to a repository, sealed to the server.
CREATE TABLE writer_keys (
    instance TEXT NOT NULL,
    vault    TEXT NOT NULL,
    sealed   TEXT NOT NULL,
    PRIMARY KEY (instance, vault)
);

-- backup_runs: when each instance was last tried and last done.
CREATE TABLE backup_runs (
    instance  TEXT PRIMARY KEY,
    tried_at  BIGINT NOT NULL,
    done_at   BIGINT NOT NULL,
    operation TEXT NOT NULL
);

-- releases: that the custodian's envelopes of a snapshot may be opened for one step on one node.
CREATE TABLE releases (
    operation TEXT NOT NULL,
    step      TEXT NOT NULL,
    instance  TEXT NOT NULL,
    snapshot  TEXT NOT NULL,
    node      TEXT NOT NULL,
    order_id  TEXT NOT NULL,
    at        BIGINT NOT NULL,
    PRIMARY KEY (operation, step)
);
