-- Jobs are counted by state whenever a monitor asks, without reading what they hold.
CREATE INDEX jobs_by_state ON jobs (state);
