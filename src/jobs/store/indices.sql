-- What is open is looked at all the time; it is little beside what is kept.
CREATE INDEX jobs_open ON jobs (created_at, id) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_ended ON jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX shards_running ON shards (job_id) WHERE state = 'running';
