//! What README and the pages of docs/ say must be so: links, settings, methods, fields of model.toml,
//! the version.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use explaind::{
    evaluation::{parameters::Values, registry::METRICS},
    model::registry::Registry,
};
use serde_json::{Value, json};

use crate::{
    client::{get, send},
    fixture::colour_model,
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Every page for people.
fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    docs.filter(|path| path.extension().is_some_and(|end| end == "md"))
        .chain([root().join("README.md")])
        .collect()
}

/// docs/settings.md: a row for each setting of default.toml, below the headings there.
fn settings_page() -> String {
    let mut page = "# Settings\n\nEach can be given in a file (`--config FILE` or `EXPLAIND_CONFIG`, in TOML), in the environment \
        (`EXPLAIND_MAX_PIXELS`) or as a flag\n(`--max-pixels`); a flag wins over the environment, and that over the file. Lists are \
        separated by commas in flags and in the environment.\n\n<!-- Written by `make docs` from src/settings/default.toml. -->\n"
        .to_owned();
    let head = "\n| Setting | Default | |\n|---|---|---|\n";
    let mut words: Vec<&str> = Vec::new();
    let mut open = false;
    for line in read("src/settings/default.toml").lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            page.push_str(&format!("\n## {heading}\n"));
            open = false;
        } else if let Some(text) = line.strip_prefix("# ") {
            words.push(text);
        } else if let Some((name, value)) = line.split_once(" = ") {
            let value = value.split(" # ").next().unwrap();
            if !open {
                page.push_str(head);
                open = true;
            }
            page.push_str(&format!(
                "| `{name}` | `{value}` | {} |\n",
                words.join(" ").replace('|', "\\|")
            ));
            words.clear();
        } else {
            words.clear();
        }
    }
    page
}

#[test]
fn the_page_of_settings_has_each_of_them() {
    let page = settings_page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(root().join("docs/settings.md"), &page).unwrap();
    }
    assert!(
        read("docs/settings.md") == page,
        "docs/settings.md is out of date; `make docs` writes it"
    );
    assert!(
        page.contains("| `max_side` | `16384` | Longest side of an image, in pixels. |"),
        "{page}"
    );
}

/// Replaces what stands between the markers of a written part.
fn with_part(page: &str, name: &str, part: &str) -> String {
    let (before, rest) = page
        .split_once(&format!("<!-- {name}: "))
        .unwrap_or_else(|| panic!("no part {name}"));
    let (marker, rest) = rest.split_once('\n').unwrap();
    let end = format!("<!-- end of {name} -->");
    let (_, after) = rest.split_once(&end).unwrap();
    format!("{before}<!-- {name}: {marker}\n{part}{end}{after}")
}

/// A text as a cell of a table of Markdown holds it.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

/// Rows of docs/methods.md, one for each parameter with one meaning: its values, its defaults, and
/// the methods that take it.
fn parameter_rows(methods: &[Value]) -> String {
    struct Row<'a> {
        name: &'a str,
        doc: &'a str,
        allowed: String,
        /// Methods, each with its default.
        takers: Vec<(&'a str, String)>,
    }
    let mut rows: Vec<Row<'_>> = Vec::new();
    for method in methods {
        for parameter in method["parameters"].as_array().unwrap() {
            let text = |key: &str| parameter[key].as_str().unwrap();
            let default = match &parameter["default"] {
                _ if parameter["default_from_model"] == true => "the model's".to_owned(),
                Value::Null => "off".to_owned(),
                Value::String(default) => format!("`{default}`"),
                default => format!("`{default}`"),
            };
            let taker = (method["id"].as_str().unwrap(), default);
            let (name, doc) = (text("name"), text("doc"));
            if let Some(row) = rows
                .iter_mut()
                .find(|row| (row.name, row.doc) == (name, doc))
            {
                row.takers.push(taker);
                continue;
            }
            let allowed = parameter["allowed"].as_array().unwrap().iter();
            let allowed: Vec<&str> = allowed.map(|one| one.as_str().unwrap()).collect();
            rows.push(Row {
                name,
                doc,
                allowed: cell(&allowed.join(", ")),
                takers: vec![taker],
            });
        }
    }
    let mut table =
        "| Parameter | Values | Default | Methods | |\n|---|---|---|---|---|\n".to_owned();
    for row in rows {
        let usual = &row.takers[0].1;
        let others = row.takers.iter().filter(|(_, default)| default != usual);
        let default = others.fold(usual.clone(), |text, (method, default)| {
            format!("{text}; {default} for `{method}`")
        });
        let names: Vec<String> = row
            .takers
            .iter()
            .map(|(method, _)| format!("`{method}`"))
            .collect();
        let names = match names.len() == methods.len() {
            true => "all".to_owned(),
            false => names.join(", "),
        };
        let (name, allowed, doc) = (row.name, row.allowed, cell(row.doc));
        table.push_str(&format!(
            "| `{name}` | {allowed} | {default} | {names} | {doc} |\n"
        ));
    }
    table
}

#[tokio::test]
async fn the_page_of_methods_has_each_of_them_with_its_formula_and_parameters() {
    let list = send(get("/methods")).await.answer();
    let methods = list["methods"].as_array().unwrap();
    let page = with_part(
        &read("docs/methods.md"),
        "parameters",
        &parameter_rows(methods),
    );
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(root().join("docs/methods.md"), &page).unwrap();
    }
    assert!(
        read("docs/methods.md") == page,
        "docs/methods.md is out of date; `make docs` writes its table of parameters"
    );
    let sections: Vec<_> = page.split("\n### ").skip(1).collect();
    for method in methods {
        let (id, formula) = (method["id"].as_str().unwrap(), &method["formula"]);
        let section = sections
            .iter()
            .find(|section| section.starts_with(&format!("`{id}`\n")))
            .unwrap_or_else(|| panic!("docs/methods.md has no section {id}"));
        assert!(
            section.contains(formula.as_str().unwrap()),
            "{id}: {formula}"
        );
    }
    assert_eq!(sections.len(), methods.len());
}

#[test]
fn the_page_of_metrics_has_each_of_them_with_its_parameters() {
    let page = read("docs/metrics.md");
    let papers = read("docs/papers.md");
    let sections: Vec<_> = page.split("\n### ").skip(1).collect();
    for metric in METRICS {
        let id = metric.id;
        let section = sections
            .iter()
            .find(|section| section.starts_with(&format!("`{id}`\n")))
            .unwrap_or_else(|| panic!("docs/metrics.md has no section {id}"));
        let words: Vec<&str> = section.split_whitespace().collect();
        let unwrapped = words.join(" ");
        let is_told = |words: &str| assert!(unwrapped.contains(words), "{id}: {words}");
        is_told(&format!(
            "{} is better",
            (metric.direction)(&Values::default()).name()
        ));
        is_told(&format!(
            "beside the methods' own: {}",
            metric.needs.cost.words
        ));
        is_told("Code: `src/evaluation/");
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
        let told: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
        let names: Vec<&str> = metric.parameters.iter().map(|one| one.name).collect();
        assert_eq!(told, names, "{id}");
        metric.parameters.iter().for_each(|one| is_told(one.doc));
        let category = json!(metric.category);
        let row = format!("| [`{id}`](#{id}) |");
        let row = page.lines().find(|line| line.starts_with(&row)).unwrap();
        assert!(
            row.ends_with(&format!("| {} |", category.as_str().unwrap())),
            "{row}"
        );
        assert!(
            papers.contains(&format!("the metric `{id}`")),
            "docs/papers.md: {id}"
        );
    }
    assert_eq!(sections.len(), METRICS.len());
}

/// The fields that the reader of model.toml knows in the table `heading` (empty: at the top), as
/// its errors list them.
fn known_fields(heading: &str) -> BTreeSet<String> {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("one");
    fs::create_dir(&model).unwrap();
    fs::write(model.join("model.onnx"), colour_model()).unwrap();
    fs::write(
        model.join("model.toml"),
        format!("{heading}\nnot_a_field = 1\n"),
    )
    .unwrap();
    let registry = Registry::load(folder.path(), None).unwrap();
    let fault = registry.broken[0]
        .faults
        .iter()
        .find(|fault| fault.contains("not_a_field"))
        .unwrap()
        .clone();
    let (_, allowed) = fault
        .split_once("(allowed: ")
        .unwrap_or_else(|| panic!("{fault}"));
    allowed
        .trim_end_matches(')')
        .split(", ")
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_page_of_models_has_each_field_of_model_toml() {
    let page = read("docs/models.md");
    let told: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|name| !name.contains(['.', ' ']))
        .map(str::to_owned)
        .collect();
    let mut known = known_fields("");
    known.remove("input");
    known.extend(known_fields("[input]"));
    assert_eq!(told, known);
}

#[test]
fn every_file_that_a_page_links_to_is_there() {
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split([')', '#']).next());
        let pictures = text
            .split("src=\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next());
        for link in links
            .chain(pictures)
            .filter(|link| !link.is_empty() && !link.contains("://"))
        {
            assert!(
                page.parent().unwrap().join(link).exists(),
                "{}: {link}",
                page.display()
            );
        }
    }
}

/// The anchor that a heading of Markdown gets.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase().replace(' ', "-");
    kept.chars()
        .filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_')
        .collect()
}

#[test]
fn every_heading_that_a_page_links_to_is_there() {
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let headings: Vec<String> = text
            .lines()
            .filter(|line| line.starts_with('#'))
            .map(|line| anchor(line.trim_start_matches('#')))
            .collect();
        for link in text
            .split("](#")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            assert!(
                headings.iter().any(|heading| heading == link),
                "{}: #{link}",
                page.display()
            );
        }
    }
}

#[test]
fn the_container_has_the_version_of_the_crate() {
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        read("Dockerfile").contains(&format!("org.opencontainers.image.version=\"{version}\""))
    );
    assert!(read("docs/kubernetes.yaml").contains(&format!("image: explaind:{version}")));
}
