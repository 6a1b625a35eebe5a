-- +goose Up
-- node_reports: through which sequence number each node's reports are taken, and when it was last heard.
CREATE TABLE node_reports (
    node    TEXT PRIMARY KEY,
    through BIGINT NOT NULL,
    seen_at BIGINT NOT NULL
);

-- node_facts: each node's newest word about itself. shape is a digest of what settings are derived from.
CREATE TABLE node_facts (
    node     TEXT PRIMARY KEY,
    site     TEXT NOT NULL,
    seal_to  TEXT NOT NULL,
    seen_at  BIGINT NOT NULL,
    shape    TEXT NOT NULL,
    facts    TEXT NOT NULL
);

-- probe_results: every answer of every probe, never changed. id runs without a gap in the order of commits.
CREATE TABLE probe_results (
    id       BIGINT PRIMARY KEY,
    node     TEXT NOT NULL,
    question TEXT NOT NULL,
    instance TEXT NOT NULL,
    ok       BOOLEAN NOT NULL,
    status   BIGINT NOT NULL,
    took_us  BIGINT NOT NULL,
    error    TEXT NOT NULL,
    at       BIGINT NOT NULL
);
CREATE INDEX probe_results_instance ON probe_results (instance, at);
CREATE INDEX probe_results_at ON probe_results (at);

-- node_events: what nodes say happened, never changed. at is the node's clock, seen_at the server's.
CREATE TABLE node_events (
    id       BIGINT PRIMARY KEY,
    node     TEXT NOT NULL,
    kind     TEXT NOT NULL,
    instance TEXT NOT NULL,
    epoch    BIGINT NOT NULL,
    note     TEXT NOT NULL,
    labels   TEXT NOT NULL,
    at       BIGINT NOT NULL,
    seen_at  BIGINT NOT NULL
);
CREATE INDEX node_events_at ON node_events (at);
CREATE INDEX node_events_instance ON node_events (instance, at);

-- node_settings: the newest document of each kind for each node.
CREATE TABLE node_settings (
    node       TEXT NOT NULL,
    kind       TEXT NOT NULL,
    generation BIGINT NOT NULL,
    body       TEXT NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (node, kind)
);

CREATE TABLE observe_counter (
    name  TEXT PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO observe_counter (name, value) VALUES ('results', 0), ('events', 0), ('shape', 0);
