//! Keeps the direction of use between rooms: reads every `crate::` path of `src/` and compares it
//! with the table below. Test modules (all that follows `#[cfg(test)]`) may use what they like.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Room or file -> the paths it may use beside its own. A file's row adds to its room's. `cli`,
/// `commands`, `app` and `api` are the ends of the wiring and may use every room; nobody may use
/// `api`.
const MAY_USE: &[(&str, &[&str])] = &[
    ("tensor", &[]),
    ("text", &[]),
    ("fields", &[]),
    ("pool", &[]),
    ("quota", &[]),
    ("random", &[]),
    ("blur", &[]),
    ("segment", &["blur"]),
    ("picture", &["tensor", "blur"]),
    (
        "model",
        &["fields", "picture", "tensor", "files", "pool", "random"],
    ),
    (
        "dataset",
        &[
            "picture",
            "model::labels",
            "tensor",
            "files",
            "pool",
            "quota",
        ],
    ),
    ("engine", &["model", "tensor", "telemetry::names"]),
    (
        "methods",
        &[
            "tensor",
            "picture",
            "random",
            "segment",
            "model",
            "engine::GraphKey",
            "engine::Point",
            "engine::Row",
        ],
    ),
    ("incremental", &["engine", "model", "tensor"]),
    (
        "driver",
        &[
            "engine",
            "incremental",
            "methods",
            "model",
            "picture",
            "pool",
            "segment",
            "tensor",
        ],
    ),
    (
        "evaluation",
        &["tensor", "picture", "methods", "model", "engine::Row"],
    ),
    ("render", &["tensor", "picture"]),
    (
        "settings",
        &["fields", "dataset::is_id", "engine::provider"],
    ),
    (
        "patterns",
        &["engine", "picture", "model", "pool", "tensor"],
    ),
    ("telemetry", &[]),
    ("files", &[]),
    (
        "jobs",
        &[
            "app",
            "dataset",
            "driver",
            "evaluation",
            "incremental",
            "patterns",
            "methods",
            "engine",
            "model",
            "files",
            "pool",
            "quota",
            "tensor",
            "picture",
            "render",
            "telemetry::names",
        ],
    ),
];

/// What every room may use.
const COMMON: &[&str] = &["text"];

const FREE_ROOMS: &[&str] = &["api", "app", "cli", "commands", "lib", "main"];

/// Crates that only these files or folders may name.
const FENCED: &[(&str, &[&str])] = &[("ort", &["engine/backend_ort"]), ("sqlx", &["jobs/store"])];

#[test]
fn rooms_use_each_other_in_one_direction() {
    let mut faults = Vec::new();
    for (file, text) in sources() {
        let room = room_of(&file);
        for path in crate_paths(&text) {
            let used = path.split("::").next().unwrap_or_default();
            let allowed = used == room
                || COMMON.contains(&used)
                || (used != "api" && FREE_ROOMS.contains(&room.as_str()))
                || (used == "api" && room == "cli")
                || MAY_USE
                    .iter()
                    .filter(|(who, _)| *who == room || *who == file)
                    .flat_map(|(_, allowed)| *allowed)
                    .any(|allowed| path == *allowed || path.starts_with(&format!("{allowed}::")));
            if !allowed {
                faults.push(format!("src/{file} uses crate::{path}"));
            }
        }
    }
    assert!(
        faults.is_empty(),
        "against the direction of use in MAY_USE:\n{}",
        faults.join("\n")
    );
}

#[test]
fn every_room_has_a_row() {
    for (file, _) in sources() {
        let room = room_of(&file);
        assert!(
            FREE_ROOMS.contains(&room.as_str()) || MAY_USE.iter().any(|(who, _)| *who == room),
            "src/{file}: the room `{room}` has no row in MAY_USE"
        );
    }
}

#[test]
fn fenced_crates_stay_behind_their_fence() {
    let mut faults = Vec::new();
    for (file, text) in sources() {
        for (name, homes) in FENCED {
            let named = code_of(&text)
                .match_indices(&format!("{name}::"))
                .any(|(at, _)| {
                    !code_of(&text)[..at]
                        .ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
                });
            if named && !homes.iter().any(|home| file.starts_with(home)) {
                faults.push(format!("src/{file} names {name}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn use_trees_are_read_whole() {
    let text = "use crate::{a::{B, c::D}, e};\n// crate::comment\nlet x = crate::f::g::<u8>();";
    assert_eq!(crate_paths(text), ["a::B", "a::c::D", "e", "f::g"]);
}

/// Every file under `src/`, as (path relative to it, text before its test module).
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root, &mut found);
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let text = text
                .split("#[cfg(test)]")
                .next()
                .unwrap_or_default()
                .to_owned();
            (
                path.strip_prefix(&root)
                    .unwrap()
                    .to_string_lossy()
                    .replace('\\', "/"),
                text,
            )
        })
        .collect()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn room_of(file: &str) -> String {
    file.split('/')
        .next()
        .unwrap_or_default()
        .trim_end_matches(".rs")
        .to_owned()
}

/// The text without its comment lines.
fn code_of(text: &str) -> String {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The paths after each `crate::`, use trees expanded.
fn crate_paths(text: &str) -> Vec<String> {
    let code = code_of(text);
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        expand(
            &mut code[at + "crate::".len()..].chars().peekable(),
            String::new(),
            &mut paths,
        );
    }
    paths
}

/// Reads one use tree: `a::b`, or `a::{b, c::{d}}`.
fn expand(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    mut prefix: String,
    paths: &mut Vec<String>,
) {
    while let Some(&c) = chars.peek() {
        if c.is_alphanumeric() || c == '_' || c == ':' {
            prefix.push(c);
            chars.next();
        } else if c == '{' && (prefix.is_empty() || prefix.ends_with("::")) {
            loop {
                chars.next();
                while chars.peek().is_some_and(|c| c.is_whitespace()) {
                    chars.next();
                }
                if chars.peek().is_none_or(|c| *c == '}') {
                    break;
                }
                expand(chars, prefix.clone(), paths);
                while chars.peek().is_some_and(|c| *c != ',' && *c != '}') {
                    chars.next();
                }
                if chars.peek().is_none_or(|c| *c == '}') {
                    break;
                }
            }
            chars.next();
            return;
        } else {
            break;
        }
    }
    paths.push(prefix.trim_end_matches("::").to_owned());
}
