-- +goose Up
-- drills: one row for each drill and each real recovery. run is the whole state as JSON; rev grows with every change,
-- so that two servers never move the same run at once.
CREATE TABLE drills (
    id         TEXT PRIMARY KEY,
    kind       TEXT NOT NULL CHECK (kind IN ('drill', 'recovery')),
    plan       TEXT NOT NULL,
    phase      TEXT NOT NULL,
    run        TEXT NOT NULL,
    scorecard  TEXT NOT NULL,
    rev        BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at   BIGINT NOT NULL
);
CREATE INDEX drills_started ON drills (started_at);
CREATE INDEX drills_open ON drills (ended_at);

-- drill_events: what happened to a run, in order, never changed.
CREATE TABLE drill_events (
    drill  TEXT NOT NULL,
    seq    BIGINT NOT NULL,
    at     BIGINT NOT NULL,
    kind   TEXT NOT NULL,
    node   TEXT NOT NULL,
    note   TEXT NOT NULL,
    counts TEXT NOT NULL,
    PRIMARY KEY (drill, seq)
);
