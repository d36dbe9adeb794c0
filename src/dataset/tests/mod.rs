//! Folders, tables and archives as they come, the good ones and the others.

use std::{
    collections::BTreeMap,
    fs,
    io::{Cursor, Write},
    path::Path,
};

use flate2::{Compression, write::GzEncoder};
use image::{ImageFormat, Rgb, RgbImage};
use tempfile::{NamedTempFile, TempDir};
use zip::{ZipWriter, write::SimpleFileOptions};

use super::*;
use crate::quota::Quota;

mod changes;
mod labels;
mod listing;
mod regions;
mod shared;

type Entries<'a> = &'a [(&'a str, Vec<u8>)];

fn photo(shade: u8) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(6, 4, Rgb([shade, 0, 0]))
        .write_to(&mut bytes, ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

fn folder(entries: Entries<'_>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, bytes) in entries {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

fn open(entries: Entries<'_>) -> Dataset {
    let (data, photos) = (tempfile::tempdir().unwrap(), folder(entries));
    let datasets = datasets(data.path(), Some(photos.path()));
    let dataset = datasets.open("photos").unwrap();
    drop(datasets);
    std::sync::Arc::into_inner(dataset).unwrap()
}

fn datasets(data: &Path, photos: Option<&Path>) -> Catalogue {
    let folders = photos
        .map(|folder| ("photos".to_owned(), folder.to_owned()))
        .into_iter()
        .collect::<BTreeMap<_, _>>();
    let archive_limits = ArchiveLimits {
        max_bytes: 1 << 20,
        max_files: 20,
        max_sets: 10,
    };
    Catalogue::new(
        folders,
        data,
        Limits::default(),
        archive_limits,
        Quota::new(data, 1 << 30),
    )
}

fn files(dataset: &Dataset) -> Vec<&str> {
    dataset
        .images
        .iter()
        .map(|picture| picture.file.as_str())
        .collect()
}

fn problems(dataset: &Dataset) -> Vec<(&str, &str)> {
    dataset
        .problems
        .iter()
        .map(|problem| (problem.file.as_str(), problem.kind))
        .collect()
}

fn zip(entries: Entries<'_>) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        writer
            .start_file(*name, SimpleFileOptions::default())
            .unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Names go into the header as they are: the library would refuse the bad ones.
fn tar(entries: Entries<'_>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(if name.ends_with(".link") {
            tar::EntryType::Symlink
        } else {
            tar::EntryType::Regular
        });
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, bytes.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn put(
    datasets: &Catalogue,
    id: &str,
    archive: &[u8],
) -> Result<(std::sync::Arc<Dataset>, bool), DatasetError> {
    let mut file: NamedTempFile = datasets.receive_copy().unwrap().0;
    file.write_all(archive).unwrap();
    datasets.put(id, &mut file)
}

/// What lies in the folder of uploads, but for what the process itself needs there.
fn left(data: &Path) -> Vec<String> {
    let entries = fs::read_dir(data.join("datasets")).into_iter().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.retain(|name| name != ".lock" && !name.starts_with(".staging-"));
    names
}

/// What lies in this process's folder for uploads.
fn staged(data: &Path) -> Vec<String> {
    let entries = fs::read_dir(data.join("datasets"))
        .into_iter()
        .flatten()
        .map(Result::unwrap);
    let own = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(".staging-"));
    let inside = own
        .flat_map(|own| fs::read_dir(own.path()).unwrap())
        .map(Result::unwrap);
    inside
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| name != "alive")
        .collect()
}

#[test]
fn folders_name_labels_and_a_table_does_so_before_them() {
    let plain = [
        ("cat/b.png", photo(1)),
        ("dog/a.png", photo(2)),
        ("cat/notes.txt", vec![]),
        (".hidden.png", photo(3)),
    ];
    let dataset = open(&plain);
    assert_eq!(files(&dataset), ["cat/b.png", "dog/a.png"]);
    assert_eq!(
        (
            &dataset.images[0].truth.names,
            &dataset.images[1].truth.names
        ),
        (&vec!["cat".into()], &vec!["dog".into()])
    );
    assert_eq!(
        (
            dataset.labelled(),
            dataset.ignored.files,
            problems(&dataset)
        ),
        (2, 1, vec![])
    );

    let table = "file,extra,index\ncat/b.png,x,281|282\ngone.png,x,3\n"
        .as_bytes()
        .to_vec();
    let dataset = open(&[plain[0].clone(), plain[1].clone(), ("labels.csv", table)]);
    assert_eq!(dataset.images[0].truth.indices, [281, 282]);
    assert_eq!((dataset.labelled(), dataset.ignored.files), (1, 0));
    assert_eq!(
        problems(&dataset),
        [("dog/a.png", "missing_label"), ("gone.png", "missing_file")]
    );

    let headless = open(&[("a.png", photo(1)), ("labels.tsv", b"a.png\t3\n".to_vec())]);
    assert_eq!(
        problems(&headless),
        [("a.png", "missing_label"), ("labels.tsv", "bad_labels")]
    );
}

#[test]
fn masks_mirror_the_images_or_stand_in_the_table() {
    let mirrored = [
        ("a/x.jpg.png", photo(1)),
        ("b/y.png", photo(2)),
        ("masks/a/x.jpg.bmp", photo(9)),
    ];
    let dataset = open(&mirrored);
    assert_eq!(
        (files(&dataset), dataset.masks()),
        (vec!["a/x.jpg.png", "b/y.png"], 1)
    );
    assert_eq!(
        dataset.images[0]
            .mask
            .as_ref()
            .map(|mask| mask.file.as_str()),
        Some("masks/a/x.jpg.bmp")
    );
    let table = b"file\tlabel\tmask\nx.png\tcat\tmasks/m.png\ny.png\tdog\tmasks/n.png\n".to_vec();
    let named = open(&[
        ("x.png", photo(1)),
        ("y.png", photo(2)),
        ("masks/m.png", photo(9)),
        ("labels.tsv", table),
    ]);
    assert_eq!(
        (named.masks(), problems(&named)),
        (1, vec![("y.png", "missing_file")])
    );
}

#[test]
fn a_corrupt_image_is_told_and_the_others_can_be_read() {
    let dataset = open(&[
        ("a.png", photo(1)),
        ("b.png", photo(2)[..40].to_vec()),
        ("c.png", photo(3)),
    ]);
    assert_eq!(
        (files(&dataset), problems(&dataset)),
        (
            vec!["a.png", "b.png", "c.png"],
            vec![("b.png", "corrupt_image")]
        )
    );
    assert!(dataset.images[1].fault.is_some());
}

#[test]
fn the_hash_follows_names_contents_labels_and_masks_and_nothing_else() {
    let base = [("a/x.png", photo(1)), ("b/y.png", photo(2))];
    let hash = open(&base).hash;
    assert_eq!(
        open(&[base[1].clone(), base[0].clone(), ("b/readme.txt", vec![1])]).hash,
        hash
    );
    let changed: [Vec<(&str, Vec<u8>)>; 4] = [
        vec![("a/x.png", photo(3)), base[1].clone()],
        vec![("a/z.png", photo(1)), base[1].clone()],
        vec![
            base[0].clone(),
            base[1].clone(),
            ("masks/a/x.png", photo(9)),
        ],
        vec![
            base[0].clone(),
            base[1].clone(),
            ("labels.csv", b"file,label\na/x.png,b\nb/y.png,b\n".to_vec()),
        ],
    ];
    for entries in changed {
        assert_ne!(
            open(&entries).hash,
            hash,
            "{:?}",
            entries.iter().map(|(name, _)| name).collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_file_that_changed_since_it_was_looked_at_is_refused_and_seen_at_the_next_look() {
    let (data, photos) = (
        tempfile::tempdir().unwrap(),
        folder(&[("a.png", photo(1)), ("b.png", photo(2))]),
    );
    let datasets = datasets(data.path(), Some(photos.path()));
    let before = datasets.open("photos").unwrap();
    assert!(std::sync::Arc::ptr_eq(
        &before,
        &datasets.open("photos").unwrap()
    ));
    assert_eq!(
        before
            .read(0, datasets.limits())
            .unwrap()
            .image
            .get_pixel(0, 0)
            .0,
        [1, 0, 0]
    );
    fs::write(photos.path().join("a.png"), [photo(7), vec![0]].concat()).unwrap();
    fs::remove_file(photos.path().join("b.png")).unwrap();
    for index in [0, 1] {
        assert!(matches!(
            before.read(index, datasets.limits()),
            Err(DatasetError::Changed { .. })
        ));
    }
    let after = datasets.open("photos").unwrap();
    assert_eq!(files(&after), ["a.png"]);
    assert_ne!(after.hash, before.hash);
    assert_eq!(
        after
            .read(0, datasets.limits())
            .unwrap()
            .image
            .get_pixel(0, 0)
            .0,
        [7, 0, 0]
    );
}

#[test]
fn zip_tar_and_gzipped_tar_become_the_same_set() {
    let data = tempfile::tempdir().unwrap();
    let datasets = datasets(data.path(), None);
    let entries = [
        ("set/cat/a.png", photo(1)),
        ("set/dog/b.png", photo(2)),
        ("set/README.txt", b"hello".to_vec()),
        ("__MACOSX/set/._a.png", vec![0]),
    ];
    let kinds = [
        ("zip", zip(&entries)),
        ("tar", tar(&entries)),
        ("tgz", gzip(&tar(&entries))),
    ];
    let hashes: Vec<String> = kinds
        .iter()
        .map(|(id, archive)| {
            let (dataset, is_new) = put(&datasets, id, archive).unwrap();
            assert!(is_new);
            assert_eq!(
                (files(&dataset), dataset.labelled()),
                (vec!["cat/a.png", "dog/b.png"], 2),
                "{id}"
            );
            dataset.hash.clone()
        })
        .collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]));
    assert_eq!(datasets.ids(), ["tar", "tgz", "zip"]);
}

#[test]
fn long_names_of_both_kinds_of_tar_are_read() {
    let data = tempfile::tempdir().unwrap();
    let datasets = datasets(data.path(), None);
    let name = format!("{}/a.png", "long".repeat(60));
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(photo(1).len() as u64);
    header.set_cksum();
    builder
        .append_data(
            &mut header.clone(),
            format!("x/{name}"),
            photo(1).as_slice(),
        )
        .unwrap();
    builder
        .append_pax_extensions([("path", format!("y/{name}").as_bytes())])
        .unwrap();
    header.set_path("short.png").unwrap();
    header.set_cksum();
    builder.append(&header, photo(1).as_slice()).unwrap();
    let (dataset, _) = put(&datasets, "long", &builder.into_inner().unwrap()).unwrap();
    assert_eq!(files(&dataset), [format!("x/{name}"), format!("y/{name}")]);
}

#[test]
fn archives_that_leave_their_folder_or_hold_links_are_refused_whole() {
    let data = tempfile::tempdir().unwrap();
    let datasets = datasets(data.path(), None);
    let bad = [
        "../evil.png",
        "/evil.png",
        "a/../../evil.png",
        "..\\evil.png",
        "a\\..\\..\\evil.png",
        "\\evil.png",
        "\\\\host\\share\\evil.png",
        "C:\\evil.png",
        "c:evil.png",
        "a\u{1}.png",
        "good.png/evil.png",
        ".\\good.png",
    ];
    for name in bad {
        let entries = [("good.png", photo(1)), (name, photo(2))];
        for archive in [zip(&entries), tar(&entries), gzip(&tar(&entries))] {
            let error = put(&datasets, "bad", &archive).unwrap_err();
            assert!(
                matches!(error, DatasetError::Archive(ArchiveError::Entry { .. })),
                "{name}: {error}"
            );
        }
    }
    let entries = [("good.png", photo(1)), ("a.link", vec![])];
    assert!(matches!(
        put(&datasets, "bad", &tar(&entries)),
        Err(DatasetError::Archive(ArchiveError::Entry { .. }))
    ));
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer
        .add_symlink("a.png", "/etc/passwd", SimpleFileOptions::default())
        .unwrap();
    let linked = writer.finish().unwrap().into_inner();
    assert!(matches!(
        put(&datasets, "bad", &linked),
        Err(DatasetError::Archive(ArchiveError::Entry { .. }))
    ));
    let twice = [("a.png", photo(1)), ("./a.png", photo(2))];
    assert!(matches!(
        put(&datasets, "bad", &tar(&twice)),
        Err(DatasetError::Archive(ArchiveError::Entry { .. }))
    ));
    assert_eq!(datasets.ids(), [""; 0]);
    assert_eq!((left(data.path()), staged(data.path())), (vec![], vec![]));
}

#[test]
fn bombs_are_refused_by_count_size_and_ratio() {
    let data = tempfile::tempdir().unwrap();
    let small = datasets(data.path(), None);
    let names: Vec<String> = (0..21).map(|at| format!("{at}.png")).collect();
    let many: Vec<(&str, Vec<u8>)> = names.iter().map(|name| (name.as_str(), photo(1))).collect();
    let large = [("a.png", vec![0; 2 << 20])];
    for (entries, too_many) in [(many.as_slice(), true), (large.as_slice(), false)] {
        for archive in [zip(entries), tar(entries), gzip(&tar(entries))] {
            let error = put(&small, "bomb", &archive).unwrap_err();
            let expected = match &error {
                DatasetError::Archive(ArchiveError::TooManyFiles { limit: 20 }) => too_many,
                DatasetError::Archive(ArchiveError::TooLarge { limit: 1_048_576 }) => !too_many,
                _ => false,
            };
            assert!(expected, "{error}");
        }
    }
    let limits = ArchiveLimits {
        max_bytes: 1 << 40,
        max_files: 20,
        max_sets: 10,
    };
    let quota = Quota::new(data.path(), 1 << 40);
    let vast = Catalogue::new(
        BTreeMap::new(),
        data.path(),
        Limits::default(),
        limits,
        quota,
    );
    let zeros = [("a.png", vec![0; 64 << 20])];
    for archive in [zip(&zeros), gzip(&tar(&zeros))] {
        assert!(matches!(
            put(&vast, "bomb", &archive),
            Err(DatasetError::Archive(ArchiveError::Ratio))
        ));
    }
}

#[test]
fn names_that_no_disk_stores_are_the_archives_fault_and_no_path_of_the_server_is_told() {
    let data = tempfile::tempdir().unwrap();
    let datasets = datasets(data.path(), None);
    let long = format!("{}.png", "n".repeat(300));
    let long_folder = format!("{}/a.png", "n".repeat(256));
    for names in [
        vec![long.as_str()],
        vec![&long_folder],
        vec!["a.png", "a.png/b.png"],
        vec!["a.png/b.png", "a.png"],
    ] {
        let entries: Vec<_> = names.iter().map(|name| (*name, photo(1))).collect();
        let error = put(&datasets, "x", &zip(&entries)).unwrap_err();
        assert!(
            matches!(error, DatasetError::Archive(ArchiveError::Entry { .. })),
            "{names:?}: {error}"
        );
        let text = error.to_string();
        assert!(
            !text.contains(data.path().to_str().unwrap()) && text.len() < 400,
            "{text}"
        );
    }
    assert_eq!((left(data.path()), staged(data.path())), (vec![], vec![]));
}

#[test]
fn backslashes_of_windows_join_folders() {
    let data = tempfile::tempdir().unwrap();
    let datasets = datasets(data.path(), None);
    let entries = [
        ("tabby\\a.png", photo(1)),
        ("espresso\\deep\\b.png", photo(2)),
        ("espresso/c.png", photo(3)),
    ];
    for (id, archive) in [("zip", zip(&entries)), ("tar", tar(&entries))] {
        let (dataset, _) = put(&datasets, id, &archive).unwrap();
        assert_eq!(
            files(&dataset),
            ["espresso/c.png", "espresso/deep/b.png", "tabby/a.png"],
            "{id}"
        );
    }
    let twice = [("a\\b.png", photo(1)), ("a/b.png", photo(2))];
    assert!(matches!(
        put(&datasets, "x", &zip(&twice)),
        Err(DatasetError::Archive(ArchiveError::Entry { .. }))
    ));
}

#[test]
fn what_an_archive_leaves_out_is_counted_by_extension_for_good() {
    let data = tempfile::tempdir().unwrap();
    let entries = [
        ("set/a.png", photo(1)),
        ("set/b.JFIF", photo(2)),
        ("set/c.jpe", photo(3)),
        ("set/IMG_1.HEIC", vec![1]),
        ("set/IMG_2.heic", vec![1]),
        ("set/README", vec![1]),
        ("set/Thumbs.db", vec![1]),
        ("set/desktop.ini", vec![1]),
        ("set/.DS_Store", vec![1]),
        ("__MACOSX/set/._a.png", vec![1]),
    ];
    let expected = BTreeMap::from([(".heic".to_owned(), 2), ("none".to_owned(), 1)]);
    for archive in [zip(&entries), tar(&entries)] {
        let (dataset, _) = put(&datasets(data.path(), None), "mine", &archive).unwrap();
        assert_eq!(
            (
                dataset.images.len(),
                dataset.ignored.files,
                &dataset.ignored.extensions
            ),
            (3, 3, &expected)
        );
    }
    let after_a_restart = datasets(data.path(), None).open("mine").unwrap();
    assert_eq!(
        (
            after_a_restart.ignored.files,
            &after_a_restart.ignored.extensions
        ),
        (3, &expected)
    );

    let mut many = Ignored::default();
    (0..100).for_each(|at| many.add(&format!("a.x{at}")));
    many.add(&format!("a.{}", "x".repeat(1000)));
    assert_eq!(
        (many.files, many.extensions.len(), many.extensions["other"]),
        (101, 20, 82)
    );
}

#[test]
fn a_compressed_tar_is_read_to_its_checksum() {
    let data = tempfile::tempdir().unwrap();
    let datasets = datasets(data.path(), None);
    let whole = gzip(&tar(&[("a.png", photo(1))]));
    for missing in 1..=20 {
        let error = put(&datasets, "x", &whole[..whole.len() - missing]).unwrap_err();
        assert!(
            matches!(error, DatasetError::Archive(ArchiveError::Broken { .. })),
            "{missing}: {error}"
        );
    }
    for at in 1..=8 {
        let mut wrong = whole.clone();
        wrong[whole.len() - at] ^= 1;
        assert!(
            matches!(
                put(&datasets, "x", &wrong),
                Err(DatasetError::Archive(ArchiveError::Broken { .. }))
            ),
            "{at}"
        );
    }
    put(&datasets, "x", &whole).unwrap();
}

#[test]
fn what_is_no_archive_or_holds_no_image_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let datasets = datasets(data.path(), None);
    let photos = [("a.png", photo(1))];
    let whole = zip(&photos);
    assert!(matches!(
        put(&datasets, "x", b"words"),
        Err(DatasetError::Archive(ArchiveError::Unknown))
    ));
    assert!(matches!(
        put(&datasets, "x", b""),
        Err(DatasetError::Archive(ArchiveError::Unknown))
    ));
    for broken in [
        whole[..whole.len() - 30].to_vec(),
        gzip(&tar(&photos))[..60].to_vec(),
        tar(&photos)[..600].to_vec(),
    ] {
        let error = put(&datasets, "x", &broken).unwrap_err();
        assert!(
            matches!(error, DatasetError::Archive(ArchiveError::Broken { .. })),
            "{error}"
        );
    }
    let error = put(
        &datasets,
        "x",
        &zip(&[("a.txt", vec![1]), ("b.HEIC", vec![1]), ("c.heic", vec![1])]),
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "data set x holds no image that can be read (left out: 2 .heic, 1 .txt); images are PNG, JPEG, WebP, BMP, GIF or TIFF"
    );
    assert!(matches!(
        put(&datasets, "../x", &whole),
        Err(DatasetError::Id { .. })
    ));
}

#[test]
fn an_upload_is_replaced_whole_and_taken_away_whole() {
    let (data, photos) = (tempfile::tempdir().unwrap(), folder(&[("a.png", photo(1))]));
    let datasets = datasets(data.path(), Some(photos.path()));
    let (old, _) = put(
        &datasets,
        "mine",
        &zip(&[("a.png", photo(1)), ("b.png", photo(2))]),
    )
    .unwrap();
    let (new, is_new) = put(&datasets, "mine", &zip(&[("c.png", photo(3))])).unwrap();
    assert!(!is_new && new.hash != old.hash);
    assert!(matches!(
        old.read(0, datasets.limits()),
        Err(DatasetError::Changed { .. })
    ));
    assert_eq!(files(&datasets.open("mine").unwrap()), ["c.png"]);
    assert_eq!(
        fs::read_dir(data.path().join("datasets/mine"))
            .unwrap()
            .count(),
        2,
        "one version and its name"
    );
    datasets.remove("mine").unwrap();
    assert!(matches!(
        datasets.open("mine"),
        Err(DatasetError::Unknown { .. })
    ));
    assert!(matches!(
        datasets.remove("photos"),
        Err(DatasetError::Configured { .. })
    ));
    assert!(matches!(
        put(&datasets, "photos", &zip(&[("c.png", photo(3))])),
        Err(DatasetError::Configured { .. })
    ));
    assert_eq!(datasets.ids(), ["photos"]);
}

#[test]
fn baselines_are_drawn_from_what_can_be_decoded_and_repeat_by_seed() {
    let entries = [
        ("a.png", photo(10)),
        ("b.png", vec![1]),
        ("c.png", photo(30)),
        ("d.png", photo(40)),
    ];
    let (data, photos) = (tempfile::tempdir().unwrap(), folder(&entries));
    let datasets = datasets(data.path(), Some(photos.path()));
    let rule = crate::picture::preprocess::Preprocess {
        filter: crate::picture::preprocess::Filter::Nearest,
        ..crate::picture::preprocess::Preprocess::plain(2, 2)
    };
    let reds = |count, seed| {
        let drawn = datasets.draw("photos", count, seed, &rule).unwrap();
        drawn
            .iter()
            .map(|input| input[[0, 0, 0]])
            .collect::<Vec<_>>()
    };
    let mut three = reds(3, 1);
    assert_eq!(three, reds(3, 1));
    three.sort_by(f32::total_cmp);
    assert_eq!(three, [10.0, 30.0, 40.0]);
    assert!((0..20).any(|seed| reds(3, seed) != reds(3, 1)));
    assert_eq!(reds(50, 1), reds(3, 1), "none is drawn twice");
    assert!(
        datasets
            .draw("other", 1, 0, &rule)
            .unwrap_err()
            .to_string()
            .contains("photos")
    );
}
