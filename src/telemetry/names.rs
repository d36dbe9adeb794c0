//! Every Prometheus metric name, once. Durations are seconds; labels stand beside each name.

/// Histogram by `method`, `route`, `status`: from the request's head to the answer's head.
pub const HTTP_REQUEST_DURATION_SECONDS: &str = "explaind_http_request_duration_seconds";
/// Gauge: requests being answered.
pub const HTTP_REQUESTS_IN_FLIGHT: &str = "explaind_http_requests_in_flight";
/// Histogram by `stage`: decode, preprocess, queue, model, render, encode.
pub const STAGE_DURATION_SECONDS: &str = "explaind_stage_duration_seconds";
/// Counter by `model`, `method`: explanations given.
pub const EXPLANATIONS_TOTAL: &str = "explaind_explanations_total";
/// Counter by `code`: answers that were a problem.
pub const PROBLEMS_TOTAL: &str = "explaind_problems_total";
/// Gauge: rows that wait for a device.
pub const QUEUE_ROWS: &str = "explaind_queue_rows";
/// Counter: calls refused because the queue was full.
pub const REJECTED_TOTAL: &str = "explaind_rejected_total";
/// Counter by `model`: rows evaluated.
pub const ROWS_TOTAL: &str = "explaind_rows_total";
/// Counter by `model`: batches run; rows over batches is how well they fill.
pub const BATCHES_TOTAL: &str = "explaind_batches_total";
/// Histogram by `model`: one batch on the device.
pub const BATCH_DURATION_SECONDS: &str = "explaind_batch_duration_seconds";
/// Counter by `kind`, `outcome`: shards of jobs that ended here: succeeded, failed, stopped (cancelled or lost), refused (too late),
/// given_back (at the end of the server), unwritten.
pub const SHARDS_TOTAL: &str = "explaind_shards_total";
/// Histogram by `kind`: one shard of a job, from lease to write.
pub const SHARD_DURATION_SECONDS: &str = "explaind_shard_duration_seconds";
/// Gauge by `provider`: sessions of derived graphs that are open.
pub const SESSIONS_OPEN: &str = "explaind_sessions_open";
/// Counter by `provider`: sessions closed for lack of memory.
pub const SESSIONS_EVICTED_TOTAL: &str = "explaind_sessions_evicted_total";
/// Histogram by `provider`: deriving a graph and opening its session, or the copies that share batches.
pub const SESSION_OPEN_DURATION_SECONDS: &str = "explaind_session_open_duration_seconds";
