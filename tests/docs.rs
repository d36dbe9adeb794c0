//! Keeps comments and pages true to the tree: files and folders that they name exist, links lead
//! somewhere, docs/architecture.md lists the rooms that there are, and docs/papers.md every paper
//! that is cited. Reads text alone; tests/api/documents.rs holds pages against the program.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Folders at the root that hold no file of the project.
const NOT_OURS: [&str; 3] = ["target", "data", "runtime"];

/// Ends of names that are taken for files of the project.
const FILES: [&str; 7] = ["rs", "md", "py", "sh", "toml", "txt", "yaml"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Paths below the root of all files, hidden ones and those of [`NOT_OURS`] left out.
fn files() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = folder.join(&name);
            if name.starts_with('.') || NOT_OURS.iter().any(|top| path == Path::new(top)) {
                continue;
            }
            if root().join(&path).is_dir() {
                folders.push(path);
            } else {
                found.insert(path.to_str().unwrap().to_owned());
            }
        }
    }
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The pages for people: Markdown, but for what is told of a model.
fn pages(files: &BTreeSet<String>) -> impl Iterator<Item = &String> {
    files
        .iter()
        .filter(|path| path.ends_with(".md") && !path.starts_with("models/"))
}

/// The comments of a Rust file, one text for each block.
fn comments(code: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in code.lines() {
        match line.trim_start().strip_prefix("//") {
            Some(text) => {
                let block = blocks.last_mut().unwrap();
                block.push_str(text.trim_start_matches(['/', '!']).trim());
                block.push(' ');
            }
            None => blocks.push(String::new()),
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// A page without its blocks of code, which speak of the reader's files.
fn prose(page: &str) -> String {
    page.split("```").step_by(2).collect()
}

/// Files and folders that a text names.
fn named<'a>(text: &'a str, folders: &BTreeSet<String>) -> Vec<&'a str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || "_./-".contains(c)))
        .map(|word| word.trim_end_matches(['.', '-']))
        .filter(|word| {
            let end = word.rsplit_once('.').map_or("", |(_, end)| end);
            let start = word.split_once('/').map_or("", |(start, _)| start);
            FILES.contains(&end) && !word.starts_with('.') || folders.contains(start)
        })
        .collect()
}

#[test]
fn every_file_that_a_comment_or_a_page_names_exists() {
    let files = files();
    let folders: BTreeSet<String> = files
        .iter()
        .flat_map(|path| Path::new(path).ancestors().skip(1))
        .map(|folder| folder.to_str().unwrap().to_owned())
        .collect();
    let tops = folders
        .iter()
        .filter(|folder| !folder.is_empty() && !folder.contains('/'))
        .cloned()
        .collect();
    let exists = |word: &str| {
        let ends = |path: &String| path == word || path.ends_with(&format!("/{word}"));
        folders.contains(word.trim_end_matches('/')) || files.iter().any(ends)
    };
    let mut missing = Vec::new();
    for path in &files {
        let texts = if path.ends_with(".rs") {
            comments(&read(path))
        } else if pages(&files).any(|page| page == path) {
            vec![prose(&read(path))]
        } else {
            continue;
        };
        for text in &texts {
            let words = named(text, &tops).into_iter();
            missing.extend(
                words
                    .filter(|word| !exists(word))
                    .map(|word| format!("{path}: {word}")),
            );
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// The anchor of a heading, as Markdown viewers make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase().replace(' ', "-");
    kept.chars()
        .filter(|c| c.is_alphanumeric() || "-_".contains(*c))
        .collect()
}

#[test]
fn every_link_of_a_page_leads_to_a_file_and_to_a_heading() {
    let mut broken = Vec::new();
    for page in pages(&files()) {
        let text = read(page);
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        let pictures = text
            .split("src=\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next());
        for link in links.chain(pictures).filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => root().join(page),
                file => root().join(page).parent().unwrap().join(file),
            };
            let holds_heading = || {
                let headings = fs::read_to_string(&target).unwrap();
                let mut headings = headings.lines().filter(|line| line.starts_with('#'));
                headings.any(|line| anchor(line.trim_start_matches('#')) == heading)
            };
            if !target.exists() || !heading.is_empty() && !holds_heading() {
                broken.push(format!("{page}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_page_of_the_architecture_lists_the_rooms_of_the_tree() {
    let page = read("docs/architecture.md");
    let listed: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|room| room.starts_with("src/") || room.starts_with("crates/"))
        .map(str::to_owned)
        .collect();
    let mut rooms = BTreeSet::new();
    for home in ["src", "crates"] {
        for entry in fs::read_dir(root().join(home)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if !["lib.rs", "main.rs"].contains(&name.as_str()) {
                let end = if entry.path().is_dir() { "/" } else { "" };
                rooms.insert(format!("{home}/{name}{end}"));
            }
        }
    }
    assert_eq!(listed, rooms);
}

/// The authors of papers cited as `Erion et al.` or `Zeiler & Fergus`, in that form.
fn cited(text: &str) -> Vec<String> {
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || "*(\"".contains(c))
        .filter(|word| !word.is_empty())
        .collect();
    let is_name = |word: &str| {
        word.len() > 2
            && word.starts_with(|c: char| c.is_uppercase())
            && word.chars().all(char::is_alphabetic)
    };
    words
        .windows(3)
        .filter_map(|three| match three {
            [name, "et", al] if is_name(name) && al.starts_with("al.") => {
                Some(format!("{name} et al."))
            }
            [one, "&", other] => {
                let other = other.trim_end_matches([',', ':', ')', '.']);
                (is_name(one) && is_name(other)).then(|| format!("{one} & {other}"))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn every_paper_that_is_cited_is_listed() {
    let papers = read("docs/papers.md");
    let files = files();
    let mut missing = Vec::new();
    for path in &files {
        let text = if path.ends_with(".rs") {
            let code = read(path);
            let rows = code
                .lines()
                .filter(|line| line.contains(" et al.") || line.contains(" & "));
            let rows: Vec<&str> = rows.filter(|line| line.contains('"')).collect();
            comments(&code).join("\n ") + &rows.join("\n ")
        } else if pages(&files).any(|page| page == path) {
            read(path)
        } else {
            continue;
        };
        let of = |paper: &String| format!("{path}: {paper}");
        missing.extend(
            cited(&text)
                .iter()
                .filter(|paper| !papers.contains(*paper))
                .map(of),
        );
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(cited("as in \"Zeiler & Fergus, 2013\" and Erion et al. 2019").len() == 2);
}
