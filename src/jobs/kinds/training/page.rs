//! The page of a report of a training.

use maud::{Markup, html};
use serde_json::Value;

use crate::evaluation::report::{self, again};

/// A page with this title and body, and the request of the job to be posted again.
pub(in crate::jobs::kinds) fn page(
    title: &str,
    body: &Markup,
    (kind, request): (&str, &Value),
    paper: Option<&str>,
) -> serde_json::Result<String> {
    let body = html! {
        (body)
        (again(kind, request, paper)?)
        p { small { "explaind " (env!("CARGO_PKG_VERSION")) "." } } "\n"
    };
    Ok(report::page(title, "", &body))
}
