-- Times are milliseconds since 1970 by this clock alone, never by a host's.
CREATE VIEW clock AS SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now;

CREATE TABLE jobs (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    model TEXT,
    idempotency_key TEXT UNIQUE,
    asked TEXT NOT NULL,
    spec TEXT NOT NULL,
    state TEXT NOT NULL,
    shards BIGINT NOT NULL,
    shards_done BIGINT NOT NULL DEFAULT 0,
    units BIGINT NOT NULL,
    last_event BIGINT NOT NULL DEFAULT 0,
    leased_at BIGINT NOT NULL DEFAULT 0,
    result TEXT,
    error TEXT,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT
);
CREATE INDEX jobs_by_age ON jobs (created_at, id);

-- The shard whose idx is the job's number of shards is the reduction; it waits for the others.
CREATE TABLE shards (
    job_id TEXT NOT NULL REFERENCES jobs (id),
    idx BIGINT NOT NULL,
    state TEXT NOT NULL,
    units BIGINT NOT NULL,
    units_done BIGINT NOT NULL DEFAULT 0,
    payload TEXT NOT NULL,
    lease_token BIGINT NOT NULL DEFAULT 0,
    lease_owner TEXT,
    lease_until BIGINT NOT NULL DEFAULT 0,
    not_before BIGINT NOT NULL DEFAULT 0,
    failures BIGINT NOT NULL DEFAULT 0,
    losses BIGINT NOT NULL DEFAULT 0,
    result BLOB,
    error TEXT,
    finished_at BIGINT,
    PRIMARY KEY (job_id, idx)
);
CREATE INDEX shards_open ON shards (job_id, idx) WHERE state IN ('queued', 'running');

CREATE TABLE job_events (
    job_id TEXT NOT NULL REFERENCES jobs (id),
    seq BIGINT NOT NULL,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,
    PRIMARY KEY (job_id, seq)
);
