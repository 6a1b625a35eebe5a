-- +goose Up
-- prune_runs: when the repository of each instance was last tried to be pruned, and when it last was.
CREATE TABLE prune_runs (
    instance  TEXT PRIMARY KEY,
    tried_at  BIGINT NOT NULL,
    done_at   BIGINT NOT NULL,
    operation TEXT NOT NULL
);
-- since: when a writer key began, so that it is changed in time; 0 = before anybody wrote it down
ALTER TABLE writer_keys ADD COLUMN since BIGINT NOT NULL DEFAULT 0;
