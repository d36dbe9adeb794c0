//! Keeps the structure of `src/`: which room may use which, that files of one room do not import
//! one another in a circle, and which files may name certain crates. Read off the syntax tree;
//! `#[cfg(test)]` items may use what they like, and paths inside macros are not seen.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::visit::{self, Visit};

/// Room or file -> the paths it may use beside its own. A file's row adds to its room's. `cli`,
/// `commands`, `app` and `api` are the ends of the wiring and may use every room; nobody may use
/// `api`.
const MAY_USE: &[(&str, &[&str])] = &[
    ("tensor", &[]),
    ("text", &[]),
    ("faults", &[]),
    ("pool", &[]),
    ("quota", &[]),
    ("random", &[]),
    ("blur", &[]),
    ("segment", &["blur"]),
    ("picture", &["tensor", "blur", "segment"]),
    ("model", &["picture", "tensor", "files", "pool", "random"]),
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
    (
        "bam",
        &["dataset", "picture", "files", "model::labels", "random"],
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
        &[
            "blur",
            "tensor",
            "picture",
            "methods",
            "model",
            "random",
            "engine::GraphKey",
            "engine::Point",
            "engine::Row",
            "render",
        ],
    ),
    ("render", &["tensor", "picture"]),
    ("settings", &["dataset::is_id", "engine::provider"]),
    (
        "patterns",
        &["engine", "picture", "model", "pool", "tensor"],
    ),
    (
        "training",
        &[
            "dataset", "engine", "files", "model", "picture", "pool", "random", "tensor",
        ],
    ),
    ("tcav", &["dataset", "evaluation", "random", "render"]),
    ("telemetry", &[]),
    ("files", &[]),
    (
        "jobs",
        &[
            "app",
            "bam",
            "dataset",
            "driver",
            "evaluation",
            "incremental",
            "patterns",
            "training",
            "methods",
            "engine",
            "model",
            "files",
            "pool",
            "quota",
            "tensor",
            "picture",
            "render",
            "tcav",
            "telemetry::names",
        ],
    ),
];

/// What every room may use.
const COMMON: &[&str] = &["text", "faults"];

const FREE_ROOMS: &[&str] = &["api", "app", "cli", "commands", "lib", "main"];

/// Crates that only these files or folders may name.
const FENCED: &[(&str, &[&str])] = &[("ort", &["engine/backend_ort"]), ("sqlx", &["jobs/store"])];

#[test]
fn rooms_use_each_other_in_one_direction() {
    let mut faults = Vec::new();
    for Source {
        file, own_paths, ..
    } in sources("src")
    {
        let room = room_of(&file);
        for path in own_paths {
            let used = path[0].as_str();
            let path = path.join("::");
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
    for Source { file, .. } in sources("src") {
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
    for Source { file, crates, .. } in sources("src") {
        for (name, homes) in FENCED {
            if crates.contains(*name) && !homes.iter().any(|home| file.starts_with(home)) {
                faults.push(format!("src/{file} names {name}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A module may use what its parent declares, and a parent what its children do: only siblings,
/// and their descendants, make a circle.
#[test]
fn files_of_a_room_do_not_import_one_another_in_a_circle() {
    for root in ["src", "crates/onnx-autodiff/src"] {
        let circles = circles(&edges(&sources(root)));
        assert!(circles.is_empty(), "{root}:\n{}", circles.join("\n"));
    }
}

#[test]
fn paths_are_read_whole_and_circles_found() {
    let text = "
        use crate::{a::{B, c::D as E}, e};
        use super::{f, *};
        pub use self::g::H;
        // crate::comment
        fn i() { let x = crate::j::k::<u8>(ort::l()); }
        #[cfg(test)]
        mod tests { use crate::m; }";
    let source = Source::read("room/file.rs", text);
    let paths: BTreeSet<String> = source
        .own_paths
        .iter()
        .map(|path| path.join("::"))
        .collect();
    let expected = [
        "a::B",
        "a::c::D",
        "e",
        "j::k",
        "room",
        "room::f",
        "room::file::g::H",
    ];
    assert_eq!(paths, expected.map(String::from).into());
    assert!(source.crates.contains("ort"));
    let pair = |a: &str, b: &str| {
        let read = |name: &str, text: &str| Source::read(&format!("room/{name}.rs"), text);
        circles(&edges(&[
            Source::read("room/mod.rs", "mod a; mod b; pub use b::B; pub struct Own;"),
            read("a", a),
            read("b", b),
        ]))
    };
    let both = pair("use super::B;", "use crate::room::a::A;");
    assert_eq!(both, ["room::a -> room::b -> room::a"]);
    assert!(pair("use super::{B, Own};", "use super::Own;").is_empty());
}

/// A file under `src/`, without its `#[cfg(test)]` items.
struct Source {
    /// Relative to `src/`.
    file: String,
    /// The module that it is: `mod.rs` and `lib.rs` are their folder.
    module: Vec<String>,
    /// The paths to the crate's own items that it names, from the crate's root.
    own_paths: Vec<Vec<String>>,
    /// The first segments of the other paths.
    crates: BTreeSet<String>,
    /// What it hands on by `pub use`: name -> path from the crate's root.
    exported: BTreeMap<String, Vec<String>>,
}

impl Source {
    fn read(file: &str, text: &str) -> Self {
        let syntax = syn::parse_file(text).unwrap_or_else(|error| panic!("src/{file}: {error}"));
        let mut module: Vec<String> = file
            .trim_end_matches(".rs")
            .split('/')
            .map(String::from)
            .collect();
        if ["mod", "lib", "main"].contains(&module[module.len() - 1].as_str()) {
            module.pop();
        }
        let mut source = Self {
            file: file.into(),
            module,
            own_paths: Vec::new(),
            crates: BTreeSet::new(),
            exported: BTreeMap::new(),
        };
        source.visit_file(&syntax);
        source
    }

    /// From the crate's root; none for other crates and what is in scope.
    fn own(&self, path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let up = path.iter().take_while(|part| *part == "super").count();
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([&self.module[..], rest].concat()),
            "super" => {
                let parent = &self.module[..self.module.len().saturating_sub(up)];
                Some([parent, &path[up..]].concat())
            }
            _ => None,
        }
    }

    fn note(&mut self, path: &[String]) {
        match self.own(path) {
            Some(own) if !own.is_empty() => self.own_paths.push(own),
            Some(_) => {}
            None => self.crates.extend(path.first().cloned()),
        }
    }
}

impl<'ast> Visit<'ast> for Source {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_test(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut paths = Vec::new();
        expand(&item.tree, Vec::new(), &mut paths);
        let is_public = !matches!(item.vis, syn::Visibility::Inherited);
        for (path, name) in paths {
            if is_public {
                let own = self.own(&path);
                let own = own.unwrap_or_else(|| [&self.module[..], &path].concat());
                self.exported.insert(name, own);
            }
            self.note(&path);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<_> = path
            .segments
            .iter()
            .map(|part| part.ident.to_string())
            .collect();
        if parts.len() > 1 {
            self.note(&parts);
        }
        visit::visit_path(self, path);
    }
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let only = attribute
            .path()
            .is_ident("cfg")
            .then(|| attribute.parse_args::<syn::Path>());
        matches!(only, Some(Ok(path)) if path.is_ident("test"))
    })
}

/// The paths of a use tree, each with the name that it gets.
fn expand(tree: &syn::UseTree, mut path: Vec<String>, paths: &mut Vec<(Vec<String>, String)>) {
    let ends = |mut path: Vec<String>, last: &syn::Ident, name: &syn::Ident| {
        if last != "self" {
            path.push(last.to_string());
        }
        (path, name.to_string())
    };
    match tree {
        syn::UseTree::Path(tree) => {
            path.push(tree.ident.to_string());
            expand(&tree.tree, path, paths);
        }
        syn::UseTree::Name(tree) => paths.push(ends(path, &tree.ident, &tree.ident)),
        syn::UseTree::Rename(tree) => paths.push(ends(path, &tree.ident, &tree.rename)),
        syn::UseTree::Glob(_) => paths.push((path, "*".into())),
        syn::UseTree::Group(tree) => {
            for tree in &tree.items {
                expand(tree, path.clone(), paths);
            }
        }
    }
}

/// Module -> the modules in which the items are declared that it names, but for its ancestors and
/// descendants.
fn edges(sources: &[Source]) -> BTreeMap<String, BTreeSet<String>> {
    let modules: BTreeMap<&[String], &Source> = sources
        .iter()
        .map(|source| (&source.module[..], source))
        .collect();
    let home = |path: &[String]| {
        let mut path = path.to_vec();
        // Follows what modules hand on to where it is declared.
        for _ in 0..8 {
            let depth = (0..=path.len())
                .rev()
                .find(|&depth| modules.contains_key(&path[..depth]));
            let depth = depth.unwrap_or(0);
            let exported = modules.get(&path[..depth]).and_then(|module| {
                let target = module.exported.get(path.get(depth)?)?;
                Some([&target[..], &path[depth + 1..]].concat())
            });
            match exported {
                Some(target) if target != path => path = target,
                _ => return path[..depth].to_vec(),
            }
        }
        path
    };
    let used_by = |source: &Source| {
        let homes = source.own_paths.iter().map(|path| home(path));
        homes
            .filter(|used| !used.starts_with(&source.module) && !source.module.starts_with(used))
            .map(|used| used.join("::"))
            .collect()
    };
    sources
        .iter()
        .map(|source| (source.module.join("::"), used_by(source)))
        .collect()
}

/// One circle for each module that is in one: the shortest through it, unless told already.
fn circles(edges: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let (mut told, mut found) = (BTreeSet::new(), Vec::new());
    for start in edges.keys() {
        let mut ways: Vec<Vec<&str>> = vec![vec![start]];
        let mut seen = BTreeSet::new();
        let circle = loop {
            let next: Vec<Vec<&str>> = ways
                .iter()
                .flat_map(|way| {
                    let used = edges.get(way[way.len() - 1]).into_iter().flatten();
                    used.map(|used| [&way[..], &[used.as_str()]].concat())
                })
                .filter(|way| seen.insert(way[way.len() - 1]))
                .collect();
            if next.is_empty() {
                break None;
            }
            if let Some(way) = next.iter().find(|way| way[way.len() - 1] == start) {
                break Some(way.clone());
            }
            ways = next;
        };
        if let Some(way) = circle.filter(|_| !told.contains(start.as_str())) {
            found.push(way.join(" -> "));
            told.extend(way.into_iter().map(String::from));
        }
    }
    found
}

/// Every file under a folder of the project, but for those of tests.
fn sources(root: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
    let mut found = Vec::new();
    collect(&root, &mut found);
    found.sort();
    let names = found.iter().map(|path| {
        let name = path.strip_prefix(&root).unwrap_or(path);
        (
            name.to_string_lossy().replace('\\', "/"),
            fs::read_to_string(path),
        )
    });
    names
        .filter(|(name, _)| !TESTS.iter().any(|part| name.contains(part)))
        .map(|(name, text)| Source::read(&name, &text.unwrap_or_default()))
        .collect()
}

/// Modules that are declared under `#[cfg(test)]`.
const TESTS: &[&str] = &["/tests/", "/tests.rs", "methods/reference.rs"];

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
    let first = file.split('/').next().unwrap_or_default();
    first.trim_end_matches(".rs").to_owned()
}
