//! The page of a report of a training: one file, without anything from elsewhere.

use maud::{Markup, PreEscaped, html};
use serde_json::Value;

use crate::evaluation::report::{STYLE, again};

/// A page with this title and body, and the request of the job to be posted again.
pub(in crate::jobs::kinds) fn page(
    title: &str,
    body: &Markup,
    (kind, request): (&str, &Value),
    paper: Option<&str>,
) -> serde_json::Result<String> {
    let page = html! {
        (PreEscaped("<!doctype html>\n"))
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                "\n"
                h1 { (title) } "\n"
                (body)
                (again(kind, request, paper)?)
                p { small { "explaind " (env!("CARGO_PKG_VERSION")) "." } } "\n"
            }
        } "\n"
    };
    Ok(page.into_string())
}
