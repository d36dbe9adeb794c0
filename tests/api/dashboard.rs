//! The page at `/` and its files, as a browser asks for them; tests/clients/dashboard.py uses it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use axum::{body::Body, http::Request};

use crate::client::{Answered, get, send, with};

/// What a text names between quotes after `start`.
fn named<'a>(text: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(start)
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
}

fn policy(answer: &Answered) -> BTreeMap<String, String> {
    let text = answer.header("content-security-policy").unwrap();
    text.split(';')
        .filter_map(|part| part.trim().split_once(' '))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[tokio::test]
async fn the_page_and_all_that_it_loads_are_in_the_binary_and_of_this_server() {
    let page = send(with(get("/"), "accept", "text/html,*/*;q=0.8")).await;
    assert_eq!(
        (page.status.as_u16(), page.header("content-type")),
        (200, Some("text/html; charset=utf-8"))
    );
    let policy = policy(&page);
    assert_eq!(policy["default-src"], "'self'");
    assert!(!policy.contains_key("script-src") && !policy.contains_key("style-src"));
    let text = page.text();
    assert!(!text.contains("<script>") && !text.contains("style=") && !text.contains("//"));
    let mut due: Vec<String> = ["href=\"assets/", "src=\"assets/"]
        .iter()
        .flat_map(|start| named(&text, start))
        .map(str::to_owned)
        .collect();
    let mut seen = BTreeSet::new();
    while let Some(name) = due.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let file = send(get(&format!("/assets/{name}"))).await;
        assert_eq!(file.status, 200, "{name}");
        let content_type = match name.rsplit_once('.').unwrap().1 {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            other => panic!("{other}"),
        };
        assert_eq!(file.header("content-type"), Some(content_type), "{name}");
        if name.ends_with(".js") {
            let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
            let text = file.text();
            due.extend(
                named(&text, "from \"./")
                    .chain(named(&text, "from\"./"))
                    .map(|module| Path::new(folder).join(module).to_str().unwrap().to_owned()),
            );
        }
    }
    // Every module of the folder is a part of the page.
    for entry in fs::read_dir("dashboard").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            name == "index.html" || name == "vendor" || seen.contains(&name),
            "{name} is not loaded"
        );
    }
    assert!(seen.contains("vendor/preact.js"), "{seen:?}");
}

#[tokio::test]
async fn a_file_that_a_browser_has_is_not_sent_again() {
    let first = send(get("/assets/main.js")).await;
    let tag = first.header("etag").unwrap().to_owned();
    let again = |tag: &str| {
        Request::get("/assets/main.js")
            .header("if-none-match", tag)
            .body(Body::empty())
            .unwrap()
    };
    let known = send(again(&tag)).await;
    assert_eq!((known.status.as_u16(), known.body.len()), (304, 0));
    let other = send(again("\"other\"")).await;
    assert_eq!((other.status.as_u16(), &other.body), (200, &first.body));
    for missing in [
        "/assets/nothing.js",
        "/assets/../Cargo.toml",
        "/assets/vendor",
    ] {
        assert_eq!(
            send(get(missing)).await.problem(),
            (404, "no_such_route".into()),
            "{missing}"
        );
    }
}
