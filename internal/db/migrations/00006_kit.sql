-- +goose Up
-- the newest copy of what this server cannot do without, sealed; digest is of the rows that it was made from
CREATE TABLE server_kit (
    name    TEXT PRIMARY KEY,
    digest  TEXT NOT NULL,
    sealed  TEXT NOT NULL,
    made_at BIGINT NOT NULL
);
