//! Folders with links, fifos and other files that are not images.

use std::os::unix::{
    ffi::OsStrExt,
    fs::{PermissionsExt, symlink},
};

use super::*;

fn list(photos: &Path) -> Dataset {
    let data = tempfile::tempdir().unwrap();
    let dataset = datasets(data.path(), Some(photos)).open("photos").unwrap();
    std::sync::Arc::into_inner(dataset).unwrap()
}

fn unreadable(dataset: &Dataset) -> Vec<&str> {
    assert!(
        dataset
            .problems
            .iter()
            .all(|problem| problem.kind == "unreadable_file"),
        "{:?}",
        dataset.problems
    );
    dataset
        .problems
        .iter()
        .map(|problem| problem.file.as_str())
        .collect()
}

#[test]
fn links_that_lead_nowhere_or_back_are_problems_of_their_own() {
    let photos = folder(&[("cat/a.png", photo(1)), ("dog/b.png", photo(2))]);
    let link = |to: &str, from: &str| symlink(to, photos.path().join(from)).unwrap();
    link("nowhere.png", "dog/gone.png");
    link("round.png", "dog/round.png");
    link("nowhere", "dog/folder");
    link("..", "dog/up");
    link(".", "self");
    // A folder elsewhere that is linked, and a file.
    let elsewhere = folder(&[("c.png", photo(3))]);
    symlink(elsewhere.path(), photos.path().join("linked")).unwrap();
    symlink(
        elsewhere.path().join("c.png"),
        photos.path().join("cat/d.png"),
    )
    .unwrap();
    let dataset = list(photos.path());
    assert_eq!(
        files(&dataset),
        ["cat/a.png", "cat/d.png", "dog/b.png", "linked/c.png"]
    );
    assert_eq!(
        unreadable(&dataset),
        [
            "dog/folder",
            "dog/gone.png",
            "dog/round.png",
            "dog/up",
            "self"
        ]
    );
    assert!(
        dataset
            .problems
            .iter()
            .all(|problem| !problem.message.contains(photos.path().to_str().unwrap()))
    );
}

#[test]
fn fifos_are_never_waited_for() {
    let photos = folder(&[("a.png", photo(1))]);
    for name in ["pipe.png", "pipe", "labels.csv"] {
        let path = std::ffi::CString::new(photos.path().join(name).as_os_str().as_bytes()).unwrap();
        // SAFETY: the path is a string that ends with a zero byte.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o644) }, 0);
    }
    let dataset = list(photos.path());
    assert_eq!(
        (files(&dataset), unreadable(&dataset)),
        (vec!["a.png"], vec!["pipe.png"])
    );
    // A fifo replaces an image after the scan.
    fs::remove_file(photos.path().join("a.png")).unwrap();
    fs::rename(photos.path().join("pipe.png"), photos.path().join("a.png")).unwrap();
    assert!(matches!(
        dataset.read(0, &Limits::default()),
        Err(DatasetError::Changed { .. })
    ));
}

#[test]
fn what_may_not_be_read_and_names_that_are_no_text_are_told() {
    let photos = folder(&[
        ("a.png", photo(1)),
        ("closed/b.png", photo(2)),
        ("secret.png", photo(3)),
    ]);
    let strange = std::ffi::OsStr::from_bytes(b"caf\xe9.png");
    fs::write(photos.path().join(strange), photo(4)).unwrap();
    let (closed, secret) = (
        photos.path().join("closed"),
        photos.path().join("secret.png"),
    );
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o0)).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o0)).unwrap();
    let obeyed = fs::read_dir(&closed).is_err();
    let dataset = list(photos.path());
    let found = files(&dataset);
    let told: Vec<_> = problems(&dataset)
        .into_iter()
        .filter(|(_, kind)| *kind != "missing_label")
        .collect();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
    let strange = ("caf\u{fffd}.png", "unreadable_file");
    // Root may read everything.
    match obeyed {
        true => {
            assert_eq!(found, ["a.png", "secret.png"]);
            assert_eq!(
                told,
                [
                    strange,
                    ("closed", "unreadable_file"),
                    ("secret.png", "corrupt_image")
                ]
            );
        }
        false => assert_eq!(
            (found, told),
            (vec!["a.png", "closed/b.png", "secret.png"], vec![strange])
        ),
    }
}

#[test]
fn what_could_not_be_read_is_tried_again_though_it_looks_the_same() {
    let (data, photos) = (tempfile::tempdir().unwrap(), folder(&[("a.png", photo(1))]));
    let look = || {
        datasets(data.path(), Some(photos.path()))
            .open("photos")
            .unwrap()
    };
    let (datasets, whole) = (super::datasets(data.path(), Some(photos.path())), look());
    let index = data.path().join("index/photos.json");
    let unread = fs::read_to_string(&index)
        .unwrap()
        .replace(&whole.images[0].hash, "");
    fs::write(
        &index,
        unread.replace("\"fault\":null", "\"fault\":\"it cannot be read\""),
    )
    .unwrap();
    assert_eq!(datasets.open("photos").unwrap().images, whole.images);
}

#[test]
fn a_folder_that_goes_while_it_is_listed_takes_nothing_else_with_it() {
    let photos = folder(&[("a.png", photo(1))]);
    let end = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let there = photos.path().join("there");
            while !end.load(std::sync::atomic::Ordering::Relaxed) {
                fs::create_dir_all(there.join("and/back")).unwrap();
                fs::write(there.join("and/b.png"), photo(2)).unwrap();
                fs::remove_dir_all(&there).unwrap();
            }
        });
        for _ in 0..100 {
            let found = crate::dataset::listing::list(photos.path(), false).unwrap();
            assert!(found.images.contains_key("a.png"));
            assert_eq!(found.problems, []);
        }
        end.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_file_that_is_too_large_is_hashed_and_never_held() {
    let photos = folder(&[("a.png", photo(1)), ("huge.png", vec![])]);
    let huge = fs::File::options()
        .write(true)
        .open(photos.path().join("huge.png"))
        .unwrap();
    huge.set_len(30 << 20).unwrap();
    let dataset = list(photos.path());
    assert_eq!(
        (files(&dataset), problems(&dataset)),
        (
            vec!["a.png", "huge.png"],
            vec![("huge.png", "corrupt_image")]
        )
    );
    assert_eq!(
        dataset.images[1].hash,
        crate::files::hex(&Sha256::digest(vec![0; 30 << 20]))
    );
    assert!(matches!(
        dataset.read(1, &Limits::default()),
        Err(DatasetError::Image {
            source: ImageError::TooManyBytes { .. },
            ..
        })
    ));
}

#[test]
fn a_set_whose_folder_is_away_is_told_without_its_path() {
    let photos = tempfile::tempdir().unwrap();
    let (data, away) = (tempfile::tempdir().unwrap(), photos.path().join("away"));
    let error = datasets(data.path(), Some(&away))
        .open("photos")
        .unwrap_err();
    assert!(matches!(error, DatasetError::File { .. }), "{error}");
    assert!(
        !error.to_string().contains(away.to_str().unwrap()),
        "{error}"
    );
}
