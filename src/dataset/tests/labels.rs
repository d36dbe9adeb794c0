//! Label tables as common programs write them, and folders as labels.

use super::*;

fn names(dataset: &Dataset) -> Vec<(&str, Vec<&str>)> {
    let mut found = Vec::new();
    for picture in &dataset.images {
        found.push((
            picture.file.as_str(),
            picture.truth.names.iter().map(String::as_str).collect(),
        ));
    }
    found
}

fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(bytes).collect()
}

#[test]
fn a_table_is_read_in_every_encoding_with_every_line_end_separator_and_case() {
    for (name, separator) in [
        ("labels.csv", ","),
        ("Labels.csv", ";"),
        ("LABELS.CSV", "\t"),
        ("labels.TSV", "\t"),
        ("labels.tsv", ","),
    ] {
        for end in ["\n", "\r\n", "\r"] {
            let rows = [
                "\"File\"|other| LABEL ",
                "a.png|\"x, y; z\"|tabby|",
                "b.png||café ",
                "||",
                "",
            ];
            let text = rows.map(|row| row.replace('|', separator)).join(end);
            let marked = format!("\u{feff}{text}");
            let tables = [
                text.clone().into_bytes(),
                marked.clone().into_bytes(),
                utf16(&marked, u16::to_le_bytes),
                utf16(&marked, u16::to_be_bytes),
                utf16(&text, u16::to_le_bytes),
                format!("sep={separator}{end}{text}").into_bytes(),
            ];
            for table in tables {
                let dataset = open(&[
                    ("a.png", photo(1)),
                    ("b.png", photo(2)),
                    (name, table.clone()),
                ]);
                let context = format!(
                    "{name} {separator:?} {end:?} {}",
                    String::from_utf8_lossy(&table)
                );
                assert_eq!(
                    names(&dataset),
                    [("a.png", vec!["tabby"]), ("b.png", vec!["café"])],
                    "{context}"
                );
                assert_eq!(
                    (problems(&dataset), dataset.ignored.files),
                    (vec![], 0),
                    "{context}"
                );
            }
        }
    }
}

#[test]
fn files_are_found_whichever_way_the_table_writes_their_paths() {
    let table = "file,label,mask\ncafé.png,a,masks/m\u{e9}.png\ncre\u{300}me.png,b,.\\masks\\n.png\nsub\\x.png,c,\n./sub//y.png,d,\n";
    let dataset = open(&[
        ("cafe\u{301}.png", photo(1)),
        ("crème.png", photo(2)),
        ("sub/x.png", photo(3)),
        ("sub/y.png", photo(4)),
        ("masks/me\u{301}.png", photo(5)),
        ("masks/n.png", photo(6)),
        ("labels.csv", table.as_bytes().to_vec()),
    ]);
    let found: Vec<_> = dataset
        .images
        .iter()
        .map(|picture| picture.truth.names[0].as_str())
        .collect();
    assert_eq!(found, ["a", "b", "c", "d"], "{:?}", dataset.problems);
    assert_eq!((problems(&dataset), dataset.masks()), (vec![], 2));
    let mirrored = open(&[("cafe\u{301}.png", photo(1)), ("masks/café.png", photo(2))]);
    assert_eq!(mirrored.masks(), 1);
}

#[test]
fn of_two_tables_one_counts_and_the_problem_says_which() {
    for other in ["labels.tsv", "Labels.csv"] {
        let table = |label: &str| format!("file,label\na.png,{label}\n").into_bytes();
        let dataset = open(&[
            ("a.png", photo(1)),
            (other, table("no")),
            ("labels.csv", table("yes")),
        ]);
        assert_eq!(names(&dataset), [("a.png", vec!["yes"])]);
        assert_eq!(problems(&dataset), [(other, "bad_labels")]);
        assert!(
            dataset.problems[0].message.contains("labels.csv"),
            "{:?}",
            dataset.problems
        );
    }
}

#[test]
fn a_table_that_cannot_be_used_says_why_in_few_words() {
    let long = "x".repeat(1 << 20);
    let many = (0..33)
        .map(|label| label.to_string())
        .collect::<Vec<_>>()
        .join("|");
    for (table, told) in [
        (
            format!("name,class\na.png,{long}\n").into_bytes(),
            "it is `name,class`",
        ),
        (
            format!("{long},class\na.png,x\n").into_bytes(),
            "it is `xxx",
        ),
        (Vec::new(), "it is ``"),
        (
            b"file,label\na.png,caf\xe9\n".to_vec(),
            "save it as `CSV UTF-8`",
        ),
        (
            format!("file,label\na.png,{long}\n").into_bytes(),
            "a.png: a label has 1048576 bytes, at most 256 are read",
        ),
        (
            format!("file,label\na.png,{many}\n").into_bytes(),
            "a.png: there are more than 32 labels",
        ),
        (
            b"file,index\n\na.png,cat\n".to_vec(),
            "a.png: `cat` is no index",
        ),
        (
            b"file,index\na.png,-1\n".to_vec(),
            "a.png: `-1` is no index",
        ),
        (
            b"file,label\na.png,x\n,y\n".to_vec(),
            "row 2 below the first line names no file",
        ),
        (
            b"file,label\na.png,x\na.png,y\n".to_vec(),
            "a.png is there twice",
        ),
        (
            format!("file,label,mask\na.png,x,{long}\n").into_bytes(),
            "its mask xxx",
        ),
    ] {
        let dataset = open(&[("a.png", photo(1)), ("labels.csv", table)]);
        let messages: Vec<_> = dataset
            .problems
            .iter()
            .map(|problem| problem.message.as_str())
            .collect();
        assert!(
            messages.iter().any(|message| message.contains(told)),
            "{told}: {messages:?}"
        );
        assert!(messages.iter().all(|message| message.len() < 500));
        assert!(
            dataset.images[0]
                .truth
                .names
                .iter()
                .all(|name| name.len() < 10),
            "no label is kept that is too long"
        );
    }
}

#[test]
fn a_table_of_many_bad_lines_is_told_in_a_thousand() {
    let rows: String = (0..3000)
        .map(|row| format!("gone{row}{}.png,x\n", "z".repeat(400)))
        .collect();
    let dataset = open(&[
        ("a.png", photo(1)),
        (
            "labels.csv",
            format!("file,label\na.png,x\n{rows}").into_bytes(),
        ),
    ]);
    assert_eq!((dataset.labelled(), dataset.problems.len()), (1, 1001));
    assert!(
        dataset
            .problems
            .iter()
            .any(|problem| problem.message.contains("2000 more"))
    );
    assert!(
        dataset
            .problems
            .iter()
            .all(|problem| problem.file.len() < 210)
    );
}

#[test]
fn the_columns_label_and_index_are_both_kept_and_numbered_rows_are_known() {
    for (table, numbered, indices) in [
        (
            "index,file,label\n0,a.png,tabby\n1,b.png,espresso\n",
            true,
            [0, 1],
        ),
        (
            "file;index;label\na.png;0;tabby\n\ngone.png;1;x\nb.png;2;espresso\n",
            true,
            [0, 2],
        ),
        (
            "index,file,label\n1,b.png,espresso\n0,a.png,tabby\n",
            false,
            [0, 1],
        ),
        (
            "index,file,label\n281,a.png,tabby\n967,b.png,espresso\n",
            false,
            [281, 967],
        ),
    ] {
        let dataset = open(&[
            ("a.png", photo(1)),
            ("b.png", photo(2)),
            ("labels.csv", table.as_bytes().to_vec()),
        ]);
        assert_eq!(
            names(&dataset),
            [("a.png", vec!["tabby"]), ("b.png", vec!["espresso"])]
        );
        assert_eq!(
            dataset
                .images
                .iter()
                .map(|picture| picture.truth.indices[0])
                .collect::<Vec<_>>(),
            indices
        );
        assert_eq!(dataset.source == Source::NumberedTable, numbered, "{table}");
    }
    let only = open(&[
        ("a.png", photo(1)),
        ("labels.csv", b"index,file\n0,a.png\n".to_vec()),
    ]);
    assert_eq!(
        (only.source, &only.images[0].truth.indices),
        (Source::Table, &vec![0]),
        "an index alone is a class"
    );
    let words = open(&[
        ("a.png", photo(1)),
        ("labels.csv", b"index,file,label\nx7,a.png,tabby\n".to_vec()),
    ]);
    assert_eq!(
        (words.images[0].truth.clone().indices, problems(&words)),
        (vec![], vec![])
    );
}

#[test]
fn the_hash_tells_an_index_from_a_label_of_the_same_digits() {
    let hash = |table: &str| {
        open(&[
            ("a.png", photo(1)),
            ("labels.csv", table.as_bytes().to_vec()),
        ])
        .hash
    };
    let tables = [
        "file,label\na.png,0",
        "file,index\na.png,0",
        "file,label,index\na.png,0,0",
        "file,label,index\na.png,0,1",
    ];
    let hashes: std::collections::BTreeSet<String> = tables.into_iter().map(hash).collect();
    assert_eq!(hashes.len(), tables.len());
}

#[test]
fn an_only_folder_may_be_a_label_and_is_kept_with_an_upload() {
    let images = [("tabby/1.png", photo(1)), ("tabby/2.png", photo(2))];
    let data = tempfile::tempdir().unwrap();
    let datasets = datasets(data.path(), None);
    let (uploaded, _) = put(&datasets, "one", &zip(&images)).unwrap();
    let wrapped = [("set/tabby/1.png", photo(1)), ("set/tabby/2.png", photo(2))];
    let (wrapped, _) = put(&datasets, "wrapped", &zip(&wrapped)).unwrap();
    let deep = open(&[
        ("train/tabby/1.png", photo(1)),
        ("val/tabby/2.png", photo(2)),
    ]);
    for dataset in [&open(&images), &*uploaded, &*wrapped, &deep] {
        assert_eq!(dataset.source, Source::OnlyFolder);
        assert!(
            dataset
                .images
                .iter()
                .all(|picture| picture.truth.names == ["tabby"]),
            "{:?}",
            dataset.images
        );
    }
    assert_eq!(files(&uploaded), ["tabby/1.png", "tabby/2.png"]);
    // A folder with a table, or with folders, is the set.
    let table = ("set/labels.csv", b"file,label\na.png,x\n".to_vec());
    let (tabled, _) = put(&datasets, "tabled", &zip(&[("set/a.png", photo(1)), table])).unwrap();
    assert_eq!(names(&tabled), [("a.png", vec!["x"])]);
    let masked = [("set/a.png", photo(1)), ("set/masks/a.png", photo(2))];
    let (masked, _) = put(&datasets, "masked", &zip(&masked)).unwrap();
    assert_eq!((files(&masked), masked.masks()), (vec!["a.png"], 1));
    assert_eq!(names(&open(&[("a.png", photo(1))])), [("a.png", vec![])]);
}

#[test]
fn images_that_get_no_label_beside_those_that_do_are_told() {
    let folders = open(&[
        ("cat/a.png", photo(1)),
        ("dog/b.png", photo(2)),
        ("c.png", photo(3)),
    ]);
    assert_eq!(problems(&folders), [("c.png", "missing_label")]);
    let table = b"file,label\na.png,cat\nb.png,\nc.png\n".to_vec();
    let listed = open(&[
        ("a.png", photo(1)),
        ("b.png", photo(2)),
        ("c.png", photo(3)),
        ("labels.csv", table),
    ]);
    assert_eq!(
        problems(&listed),
        [("b.png", "missing_label"), ("c.png", "missing_label")]
    );
    let twice = b"file,label,label\na.png,cat,dog\n".to_vec();
    let columns = open(&[("a.png", photo(1)), ("labels.csv", twice)]);
    assert_eq!(
        (names(&columns)[0].1.clone(), problems(&columns)),
        (vec!["cat"], vec![("labels.csv", "bad_labels")])
    );
}

#[test]
fn a_table_that_is_too_large_is_not_read() {
    let photos = folder(&[
        ("a.png", photo(1)),
        ("labels.csv", b"file,label\n".to_vec()),
    ]);
    let table = fs::File::options()
        .write(true)
        .open(photos.path().join("labels.csv"))
        .unwrap();
    table.set_len(1 << 40).unwrap();
    let data = tempfile::tempdir().unwrap();
    let dataset = datasets(data.path(), Some(photos.path()))
        .open("photos")
        .unwrap();
    assert!(
        dataset
            .problems
            .iter()
            .any(|problem| problem.message == "it is not read: it is larger than 67108864 bytes"),
        "{:?}",
        dataset.problems
    );
}
