-- +goose Up
-- operations: one row for each durable piece of work. rev grows with every change of the operation or its steps,
-- seq with every event; fence grows each time another server takes the lease.
CREATE TABLE operations (
    id          TEXT PRIMARY KEY,
    kind        TEXT NOT NULL,
    title       TEXT NOT NULL,
    actor       TEXT NOT NULL,
    plan        TEXT NOT NULL,
    params      TEXT NOT NULL,
    resume      TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('running', 'cancelling', 'done', 'failed', 'partly', 'unknown', 'cancelled')),
    why         TEXT NOT NULL,
    counts      TEXT NOT NULL,
    patience    BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    ended_at    BIGINT NOT NULL,
    rev         BIGINT NOT NULL,
    seq         BIGINT NOT NULL,
    owner       TEXT NOT NULL,
    lease_until BIGINT NOT NULL,
    fence       BIGINT NOT NULL
);
CREATE INDEX operations_created ON operations (created_at);
CREATE INDEX operations_open ON operations (ended_at, created_at);

-- operation_steps: the steps of a graph, one row each, with where they stand now.
CREATE TABLE operation_steps (
    operation   TEXT NOT NULL,
    id          TEXT NOT NULL,
    pos         BIGINT NOT NULL,
    node        TEXT NOT NULL,
    placed      TEXT NOT NULL,
    needs       TEXT NOT NULL,
    on_failure  BOOLEAN NOT NULL,
    kind        TEXT NOT NULL,
    instance    TEXT NOT NULL,
    title       TEXT NOT NULL,
    args        TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('waiting', 'sent', 'running', 'done', 'failed', 'refused', 'unknown', 'cancelled', 'skipped')),
    attempt     BIGINT NOT NULL,
    note        TEXT NOT NULL,
    done_bytes  BIGINT NOT NULL,
    total_bytes BIGINT NOT NULL,
    result      TEXT NOT NULL,
    error       TEXT NOT NULL,
    error_kind  TEXT NOT NULL,
    hint        TEXT NOT NULL,
    not_before  BIGINT NOT NULL,
    sent_at     BIGINT NOT NULL,
    started_at  BIGINT NOT NULL,
    ended_at    BIGINT NOT NULL,
    unknown_at  BIGINT NOT NULL,
    cancel_at   BIGINT NOT NULL,
    cancel_why  TEXT NOT NULL,
    rev         BIGINT NOT NULL,
    PRIMARY KEY (operation, id)
);
CREATE INDEX operation_steps_rev ON operation_steps (operation, rev);

-- operation_events: what happened, in order, never changed. id runs over all operations without a gap.
CREATE TABLE operation_events (
    id          BIGINT PRIMARY KEY,
    operation   TEXT NOT NULL,
    seq         BIGINT NOT NULL,
    at          BIGINT NOT NULL,
    step        TEXT NOT NULL,
    instance    TEXT NOT NULL,
    kind        TEXT NOT NULL,
    node        TEXT NOT NULL,
    attempt     BIGINT NOT NULL,
    state       TEXT NOT NULL,
    note        TEXT NOT NULL,
    done_bytes  BIGINT NOT NULL,
    total_bytes BIGINT NOT NULL,
    error       TEXT NOT NULL,
    hint        TEXT NOT NULL,
    UNIQUE (operation, seq)
);

-- operation_counter: the last id of operation_events, whose row lock makes ids grow in the order of commits, and how
-- often any placement has changed.
CREATE TABLE operation_counter (
    name  TEXT PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO operation_counter (name, value) VALUES ('events', 0), ('placements', 0);

-- instance_leases: which one operation may work on an instance, until when; token grows with every taking.
CREATE TABLE instance_leases (
    instance  TEXT PRIMARY KEY,
    operation TEXT NOT NULL,
    token     BIGINT NOT NULL,
    until     BIGINT NOT NULL
);
CREATE INDEX instance_leases_operation ON instance_leases (operation);

-- placements: where each instance's one writer is, and at which epoch. former lists the nodes that held it before;
-- booted is true once it has ever been up, so that there is data to lose.
CREATE TABLE placements (
    instance TEXT PRIMARY KEY,
    node     TEXT NOT NULL,
    site     TEXT NOT NULL,
    epoch    BIGINT NOT NULL,
    slot     TEXT NOT NULL,
    spec     TEXT NOT NULL,
    release  TEXT NOT NULL,
    retired  BOOLEAN NOT NULL,
    since    BIGINT NOT NULL,
    former   TEXT NOT NULL,
    booted   BOOLEAN NOT NULL DEFAULT FALSE
);

-- specs: every rendered spec that an operation was given, by fingerprint, so that routes and backups can be derived.
CREATE TABLE specs (
    instance    TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    spec        TEXT NOT NULL,
    at          BIGINT NOT NULL,
    PRIMARY KEY (instance, fingerprint)
);

-- instance_slots: the highest slot number ever given out for an instance, so that no two copies share a name.
CREATE TABLE instance_slots (
    instance TEXT PRIMARY KEY,
    last     BIGINT NOT NULL
);
