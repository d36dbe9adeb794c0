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
