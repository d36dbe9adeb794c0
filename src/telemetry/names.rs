//! Every Prometheus metric of explaind: its type, its name and its description. Durations are in
//! seconds.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// One row per metric: a constant for its name, and its description.
macro_rules! metrics {
    ($($describe:ident $constant:ident = $name:literal: $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*

        /// Registers the description of every metric with the recorder.
        pub(super) fn describe() {
            $($describe!($constant, $help);)*
        }
    };
}

metrics! {
    describe_gauge BUILD_INFO = "explaind_build_info":
        "Always 1; the labels are the versions of explaind and of the ONNX Runtime library in use.";
    describe_histogram HTTP_REQUEST_DURATION_SECONDS = "explaind_http_request_duration_seconds":
        "Time from a request's header to its response's header, by HTTP method, route and status.";
    describe_gauge HTTP_REQUESTS_IN_FLIGHT = "explaind_http_requests_in_flight":
        "Requests that are being handled and have no response header yet.";
    describe_counter PROBLEMS_TOTAL = "explaind_problems_total":
        "Error responses (application/problem+json), by code.";
    describe_histogram STAGE_DURATION_SECONDS = "explaind_stage_duration_seconds":
        "Time that one stage of a request took: decode, preprocess, queue, model, render or encode.";
    describe_counter EXPLANATIONS_TOTAL = "explaind_explanations_total":
        "Explanations computed for requests, by model and attribution method.";
    describe_gauge QUEUE_ROWS = "explaind_queue_rows":
        "Rows (evaluations of one input) that wait for an execution provider.";
    describe_counter REJECTED_TOTAL = "explaind_rejected_total":
        "Requests refused with 429 because the queue was full or their deadline could not be met.";
    describe_counter ROWS_TOTAL = "explaind_rows_total":
        "Rows (evaluations of one input) computed, by model.";
    describe_counter BATCHES_TOTAL = "explaind_batches_total":
        "Batches run, by model; rows divided by batches is the mean batch size.";
    describe_histogram BATCH_DURATION_SECONDS = "explaind_batch_duration_seconds":
        "Time that one batch took on the execution provider, by model.";
    describe_gauge SESSIONS_OPEN = "explaind_sessions_open":
        "Derived graphs that have open ONNX Runtime sessions, by execution provider.";
    describe_gauge SESSION_MEMORY_BYTES = "explaind_session_memory_bytes":
        "Memory held by the constants of open sessions, by execution provider; session_memory_mib is its limit.";
    describe_counter SESSIONS_EVICTED_TOTAL = "explaind_sessions_evicted_total":
        "Derived graphs whose sessions were closed to stay within session_memory_mib, by execution provider.";
    describe_histogram SESSION_OPEN_DURATION_SECONDS = "explaind_session_open_duration_seconds":
        "Time to derive a graph and open its sessions, by execution provider.";
    describe_gauge JOBS = "explaind_jobs":
        "Jobs in the database by state, when it was last read; replicas with the same database report the same numbers.";
    describe_gauge JOBS_DATABASE_UP = "explaind_jobs_database_up":
        "1 if the database of jobs answered during this scrape, else 0.";
    describe_counter SHARDS_TOTAL = "explaind_shards_total":
        "Shards of jobs that ended in this process, by kind of job and outcome.";
    describe_histogram SHARD_DURATION_SECONDS = "explaind_shard_duration_seconds":
        "Time from leasing a shard of a job to writing its result, by kind of job.";
}
