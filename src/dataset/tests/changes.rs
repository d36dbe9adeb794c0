//! Concurrent uploads, removals and readers; several servers on one data folder; limits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::*;
use crate::quota::QuotaError;

/// Two servers on one data folder.
fn pair(data: &Path) -> [Catalogue; 2] {
    [datasets(data, None), datasets(data, None)]
}

fn set(shade: u8) -> Vec<u8> {
    zip(&[
        ("a/x.png", photo(shade)),
        ("b/y.png", photo(shade)),
        ("b/z.png", photo(200)),
    ])
}

/// A set is one of those that were sent, complete; reading it succeeds, or reports a change.
fn check(datasets: &Catalogue, dataset: &Dataset) {
    assert_eq!((dataset.images.len(), problems(dataset)), (3, vec![]));
    for index in 0..3 {
        match dataset.read(index, datasets.limits()) {
            Ok(decoded) => {
                let other = if index == 2 {
                    200
                } else {
                    decoded.image.get_pixel(0, 0).0[0]
                };
                assert_eq!(decoded.image.get_pixel(0, 0).0, [other, 0, 0]);
            }
            Err(error) => assert!(matches!(error, DatasetError::Changed { .. }), "{error}"),
        }
    }
}

/// Opens the set again and again until `end`.
fn watch(datasets: &Catalogue, end: &AtomicBool) -> usize {
    let mut opened = 0;
    while !end.load(Ordering::Relaxed) {
        match datasets.open("mine") {
            Ok(dataset) => {
                check(datasets, &dataset);
                opened += 1;
            }
            Err(error) => {
                assert!(
                    matches!(
                        error,
                        DatasetError::Unknown { .. } | DatasetError::Replaced { .. }
                    ),
                    "{error}"
                );
            }
        }
    }
    opened
}

#[test]
fn uploads_at_once_leave_one_of_them_whole_and_readers_see_whole_ones() {
    let data = tempfile::tempdir().unwrap();
    let servers = pair(data.path());
    let end = AtomicBool::new(false);
    let opened = thread::scope(|scope| {
        let watching: Vec<_> = servers
            .iter()
            .map(|server| scope.spawn(|| watch(server, &end)))
            .collect();
        for round in 0..12_u8 {
            let put = |at: u8| {
                let server = &servers[usize::from(at) % 2];
                scope.spawn(move || {
                    put(server, "mine", &set(8 * round + at))
                        .unwrap()
                        .0
                        .hash
                        .clone()
                })
            };
            let uploads: Vec<_> = (0..8).map(put).collect();
            let sent: Vec<String> = uploads
                .into_iter()
                .map(|upload| upload.join().unwrap())
                .collect();
            for server in &servers {
                let dataset = server.open("mine").unwrap();
                assert!(sent.contains(&dataset.hash));
                check(server, &dataset);
                assert!(dataset.read(0, server.limits()).is_ok());
            }
        }
        end.store(true, Ordering::Relaxed);
        watching
            .into_iter()
            .map(|watching| watching.join().unwrap())
            .sum::<usize>()
    });
    assert!(opened > 0);
    assert_eq!(
        fs::read_dir(data.path().join("datasets/mine"))
            .unwrap()
            .count(),
        2,
        "one version and its name"
    );
    assert_eq!(staged(data.path()), [""; 0]);
}

#[test]
fn an_upload_and_a_removal_at_once_leave_the_set_or_nothing() {
    let data = tempfile::tempdir().unwrap();
    let servers = pair(data.path());
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        servers
            .iter()
            .for_each(|server| drop(scope.spawn(|| watch(server, &end))));
        for round in 0..24_u8 {
            let [one, two] = &servers;
            let upload = scope.spawn(move || put(one, "mine", &set(round)).unwrap());
            let removal = scope.spawn(move || two.remove("mine"));
            upload.join().unwrap();
            let removed = removal.join().unwrap();
            assert!(
                matches!(removed, Ok(()) | Err(DatasetError::Unknown { .. })),
                "{removed:?}"
            );
            match one.open("mine") {
                Ok(dataset) => assert!(dataset.read(0, one.limits()).is_ok()),
                Err(error) => assert!(
                    removed.is_ok() && matches!(error, DatasetError::Unknown { .. }),
                    "{error}"
                ),
            }
        }
        end.store(true, Ordering::Relaxed);
    });
    let _ = servers[0].remove("mine");
    assert_eq!((left(data.path()), staged(data.path())), (vec![], vec![]));
}

#[test]
fn the_same_content_again_disturbs_no_reader_and_what_was_damaged_is_mended() {
    let data = tempfile::tempdir().unwrap();
    let [one, two] = pair(data.path());
    let entries = [("a/x.png", photo(1)), ("b/y.png", photo(2))];
    let (first, _) = put(&one, "mine", &zip(&entries)).unwrap();
    for archive in [zip(&entries), gzip(&tar(&entries))] {
        let (again, is_new) = put(&two, "mine", &archive).unwrap();
        assert_eq!(
            (is_new, &again.hash, &again.folder),
            (false, &first.hash, &first.folder)
        );
        assert!(first.read(0, one.limits()).is_ok());
        assert!(Arc::ptr_eq(&first, &one.open("mine").unwrap()));
    }
    fs::remove_file(first.folder.join("a/x.png")).unwrap();
    let (mended, _) = put(&two, "mine", &zip(&entries)).unwrap();
    assert_ne!(mended.folder, first.folder);
    assert!(mended.read(0, two.limits()).is_ok());
}

#[test]
fn a_reader_of_a_replaced_set_goes_on_with_the_images_that_stayed() {
    let data = tempfile::tempdir().unwrap();
    let [one, two] = pair(data.path());
    let (old, _) = put(&one, "mine", &set(1)).unwrap();
    put(&two, "mine", &set(2)).unwrap();
    assert!(matches!(
        old.read(0, one.limits()),
        Err(DatasetError::Changed { .. })
    ));
    assert_eq!(
        old.read(2, one.limits()).unwrap().image.get_pixel(0, 0).0,
        [200, 0, 0]
    );
    two.remove("mine").unwrap();
    assert!(matches!(
        old.read(2, one.limits()),
        Err(DatasetError::Changed { .. })
    ));
}

#[test]
fn an_upload_is_looked_at_once_and_known_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let [one, two] = pair(data.path());
    let (dataset, _) = put(&one, "mine", &set(1)).unwrap();
    fs::remove_file(dataset.folder.join("a/x.png")).unwrap();
    assert_eq!(
        one.open("mine").unwrap().images.len(),
        3,
        "its files are not looked for again"
    );
    assert_eq!(two.open("mine").unwrap().images.len(), 2);
    fs::remove_dir_all(&dataset.folder).unwrap();
    assert!(matches!(
        datasets(data.path(), None).open("mine"),
        Err(DatasetError::Lost { .. })
    ));
}

#[test]
fn what_is_known_of_a_version_is_not_taken_for_another_with_the_same_names_lengths_and_times() {
    let data = tempfile::tempdir().unwrap();
    let (index, staging) = (
        data.path().join("index"),
        staging::Staging::new(
            data.path().join("datasets"),
            Quota::new(data.path(), 1 << 30),
        ),
    );
    let known = index::Known {
        stamp: crate::dataset::listing::Stamp::from(&fs::metadata(data.path()).unwrap()),
        hash: "x".into(),
        fault: None,
        size: Some((6, 4)),
        is_lossless: true,
    };
    let files = BTreeMap::from([("a.png".to_owned(), known)]);
    index::save(&staging, &index, "mine", "one", &files).unwrap();
    assert_eq!(index::load(&index, "mine", "one"), files);
    assert_eq!(index::load(&index, "mine", "two"), BTreeMap::new());
}

#[test]
fn what_the_dead_left_goes_and_what_the_living_write_stays() {
    let data = tempfile::tempdir().unwrap();
    let [one, two] = pair(data.path());
    let (dataset, _) = put(&one, "mine", &set(1)).unwrap();
    let (mut arriving, _) = two.receive("other").unwrap();
    arriving.write_all(&set(2)).unwrap();
    let sets = data.path().join("datasets");
    let dead = sets.join(".staging-dead");
    fs::create_dir_all(dead.join("unpacked")).unwrap();
    fs::write(dead.join("alive"), "").unwrap();
    fs::write(dead.join("upload"), "half").unwrap();
    fs::create_dir_all(sets.join(".unpack-x/a")).unwrap();
    fs::write(sets.join(".upload-x"), "half").unwrap();
    for unnamed in ["mine/old", "gone/only", "../copies/datasets/shared/only"] {
        fs::create_dir_all(sets.join(unnamed)).unwrap();
        fs::write(sets.join(unnamed).join("a.png"), photo(1)).unwrap();
    }
    one.sweep().unwrap();
    assert_eq!(
        (left(data.path()), staged(data.path()).len()),
        (vec!["mine".to_owned()], 1)
    );
    assert_eq!(fs::read_dir(sets.join("mine")).unwrap().count(), 2);
    assert_eq!(
        fs::read_dir(data.path().join("copies/datasets"))
            .unwrap()
            .count(),
        0
    );
    assert!(dataset.read(0, one.limits()).is_ok());
    two.put("other", &mut arriving).unwrap();
    drop((one, two, arriving));
    let hidden = fs::read_dir(&sets).unwrap().filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with(".staging")
    });
    assert_eq!(
        hidden.count(),
        0,
        "a process that ends takes its folder with it"
    );
}

#[test]
fn sets_are_limited_in_number() {
    let data = tempfile::tempdir().unwrap();
    let [one, two] = pair(data.path());
    thread::scope(|scope| {
        let put = |at: usize| {
            let server = if at.is_multiple_of(2) { &one } else { &two };
            scope.spawn(move || put(server, &format!("set{at}"), &set(1)))
        };
        let uploads: Vec<_> = (0..14).map(put).collect();
        let taken: Vec<_> = uploads
            .into_iter()
            .map(|upload| upload.join().unwrap())
            .collect();
        assert_eq!(taken.iter().filter(|taken| taken.is_ok()).count(), 10);
        assert!(
            taken
                .iter()
                .all(|taken| matches!(taken, Ok(_) | Err(DatasetError::TooMany { limit: 10 })))
        );
    });
    assert!(
        matches!(one.receive("more"), Err(DatasetError::TooMany { .. })),
        "before anything is sent"
    );
    let some = one.ids()[0].clone();
    put(&one, &some, &set(2)).unwrap();
    one.remove(&some).unwrap();
    put(&two, "more", &set(2)).unwrap();
}

#[test]
fn an_upload_over_the_quota_is_refused_with_the_numbers_and_leaves_nothing() {
    let data = tempfile::tempdir().unwrap();
    let limits = ArchiveLimits {
        max_bytes: 10 << 20,
        max_files: 20,
        max_sets: 10,
    };
    let quota = Quota::new(data.path(), 200_000);
    let datasets = Catalogue::new(
        BTreeMap::new(),
        data.path(),
        Limits::default(),
        limits,
        quota,
    );
    put(&datasets, "small", &set(1)).unwrap();
    // Small when packed.
    let large = zip(&[("a.png", vec![7; 150_000]), ("b.png", vec![7; 150_000])]);
    let error = put(&datasets, "large", &large).unwrap_err();
    let DatasetError::Archive(ArchiveError::Quota(QuotaError {
        used,
        asked,
        limit: 200_000,
    })) = error
    else {
        panic!("{error}")
    };
    assert!(used <= 200_000 && used + asked > 200_000, "{used} {asked}");
    assert_eq!(
        (left(data.path()), staged(data.path())),
        (vec!["small".to_owned()], vec![])
    );
    let fits = zip(&[("a.png", vec![7; 130_000])]);
    put(&datasets, "fits", &fits).unwrap();
    assert!(put(&datasets, "again", &fits).is_err());
    datasets.remove("fits").unwrap();
    put(&datasets, "again", &fits).unwrap();
}

#[test]
fn a_folder_that_cannot_be_written_is_told_without_its_path() {
    let data = tempfile::tempdir().unwrap();
    fs::write(data.path().join("datasets"), "in the way").unwrap();
    let datasets = datasets(data.path(), None);
    let error = datasets.receive("mine").unwrap_err();
    assert!(matches!(error, DatasetError::File { .. }), "{error}");
    assert!(
        !error.to_string().contains(data.path().to_str().unwrap()),
        "{error}"
    );
    assert!(matches!(
        datasets.open("mine"),
        Err(DatasetError::Unknown { .. })
    ));
}
