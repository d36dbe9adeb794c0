//! The page of a report of a training: one file, without anything from elsewhere.

use maud::{Markup, PreEscaped, html};
use serde_json::{Value, json};

use crate::evaluation::report::STYLE;

/// A page with this title and body, and the request of the job to be posted again.
pub(in crate::jobs::kinds) fn page(
    title: &str,
    body: &Markup,
    kind: &str,
    request: &Value,
) -> serde_json::Result<String> {
    let mut again = request.clone();
    again["kind"] = json!(kind);
    let again = serde_json::to_string_pretty(&again)?;
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
                h2 { "To run it again" } "\n"
                p {
                    "POST this to /jobs of a server that has the same model and data, and no model of that name. It holds every \
                     parameter, settled, and the hashes of model and data: on others it is refused."
                } "\n"
                pre { (again) } "\n"
                p { small { "explaind " (env!("CARGO_PKG_VERSION")) "." } } "\n"
            }
        } "\n"
    };
    Ok(page.into_string())
}
