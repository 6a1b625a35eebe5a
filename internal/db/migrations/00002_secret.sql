-- +goose Up
-- the data key, sealed by the keeper
CREATE TABLE secret_keys (
    name       TEXT PRIMARY KEY,
    sealed     TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
-- generated secrets of instances, sealed by the data key; a version is written once
CREATE TABLE instance_secrets (
    instance   TEXT NOT NULL,
    name       TEXT NOT NULL,
    version    BIGINT NOT NULL,
    sealed     TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (instance, name, version)
);
