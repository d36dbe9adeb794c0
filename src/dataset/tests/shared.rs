//! Replicas with data folders of their own and one store of files.

use futures::future::join_all;
use object_store::path::Path as FilePath;

use super::*;
use crate::files::Files;

struct Replicas {
    store: TempDir,
    data: Vec<TempDir>,
    datasets: Vec<Datasets>,
}

fn replicas(count: usize) -> Replicas {
    let store = tempfile::tempdir().unwrap();
    let data: Vec<TempDir> = (0..count).map(|_| tempfile::tempdir().unwrap()).collect();
    let open = |data: &TempDir| {
        let files = Files::new(data.path(), Some(store.path().to_str().unwrap()));
        Datasets::new(datasets(data.path(), None), Some(files))
    };
    let datasets = data.iter().map(open).collect();
    Replicas {
        store,
        data,
        datasets,
    }
}

impl Replicas {
    /// What lies in the copies of a replica: folders of sets, and what is in them.
    fn copies(&self, replica: usize) -> Vec<String> {
        let mut found = Vec::new();
        for set in fs::read_dir(self.data[replica].path().join("copies/datasets"))
            .into_iter()
            .flatten()
        {
            let set = set.unwrap().path();
            found.extend(
                fs::read_dir(&set)
                    .unwrap()
                    .map(|entry| entry.unwrap().path().display().to_string()),
            );
        }
        found
    }

    fn stored(&self) -> Vec<std::path::PathBuf> {
        fs::read_dir(self.store.path().join("datasets/mine"))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .collect()
    }
}

async fn put(datasets: &Datasets, entries: Entries<'_>) -> (String, bool) {
    let (dataset, is_new) = try_put(datasets, entries).await.unwrap();
    (dataset.hash.clone(), is_new)
}

async fn try_put(
    datasets: &Datasets,
    entries: Entries<'_>,
) -> Result<(std::sync::Arc<Dataset>, bool), DatasetError> {
    let arrival = datasets.receive("mine").await?.write(&zip(entries)).await?;
    datasets.put("mine", arrival).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_to_one_replica_is_every_replicas() {
    let replicas = replicas(2);
    let [one, two] = [&replicas.datasets[0], &replicas.datasets[1]];
    let (first, is_new) = put(one, &[("a.png", photo(1)), ("b.png", photo(2))]).await;
    assert!(is_new);
    assert_eq!(two.ids().await.unwrap(), ["mine"]);
    assert!(replicas.copies(1).is_empty(), "nobody needed it yet");
    for opened in join_all((0..8).map(|_| two.open("mine"))).await {
        let opened = opened.unwrap();
        assert_eq!((&opened.hash, opened.uploaded), (&first, true));
        assert!(opened.folder.starts_with(replicas.data[1].path()));
    }
    assert_eq!(replicas.copies(1).len(), 2, "one version and its name");
    let data = replicas.data[1].path();
    assert_eq!(
        (left(data), staged(data)),
        (vec![], vec![]),
        "what was downloaded is gone"
    );

    let (second, is_new) = put(two, &[("c.png", photo(3))]).await;
    assert!(!is_new && second != first);
    assert_eq!(one.open("mine").await.unwrap().hash, second);
    assert_eq!((replicas.copies(0).len(), replicas.stored().len()), (2, 2));

    two.remove("mine").await.unwrap();
    assert!(matches!(
        two.remove("mine").await,
        Err(DatasetError::Unknown { .. })
    ));
    one.drop_outdated().await.unwrap();
    assert!(
        matches!(one.open("mine").await, Err(DatasetError::Unknown { known, .. }) if known.is_empty())
    );
    assert!(
        replicas.copies(0).is_empty()
            && replicas.copies(1).is_empty()
            && replicas.stored().is_empty()
    );
}

#[tokio::test]
async fn half_an_upload_is_never_opened() {
    let replicas = replicas(3);
    let [one, two, three] = [
        &replicas.datasets[0],
        &replicas.datasets[1],
        &replicas.datasets[2],
    ];
    let (hash, _) = put(one, &[("a.png", photo(1)), ("b.png", photo(2))]).await;
    let archive = replicas
        .stored()
        .into_iter()
        .find(|path| !path.ends_with("current"))
        .unwrap();
    let whole = fs::read(&archive).unwrap();
    // Still a zip: only its hash tells.
    fs::write(&archive, zip(&[("a.png", photo(1))])).unwrap();
    assert!(matches!(
        two.open("mine").await,
        Err(DatasetError::Lost { .. })
    ));
    fs::remove_file(&archive).unwrap();
    assert!(matches!(
        two.open("mine").await,
        Err(DatasetError::Lost { .. })
    ));
    assert!(replicas.copies(1).is_empty());
    fs::write(&archive, &whole).unwrap();
    assert_eq!(two.open("mine").await.unwrap().hash, hash);

    // A replica that ends while it unpacks leaves nothing that is taken for the set.
    let version = archive.file_name().unwrap();
    let half = replicas.data[2].path().join("datasets/.unpack-x");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("a.png"), photo(1)).unwrap();
    assert_eq!(three.open("mine").await.unwrap().images.len(), 2);
    assert!(
        replicas
            .copies(2)
            .iter()
            .any(|path| path.ends_with(version.to_str().unwrap()))
    );
}

#[tokio::test]
async fn sets_that_lie_in_a_replicas_own_folder_are_its_own_until_one_is_uploaded() {
    let replicas = replicas(2);
    let [one, two] = [&replicas.datasets[0], &replicas.datasets[1]];
    let home = replicas.data[0].path().join("datasets/mine");
    fs::create_dir_all(home.join("1")).unwrap();
    fs::write(home.join("1/a.png"), photo(1)).unwrap();
    fs::write(home.join("current"), "1").unwrap();
    assert_eq!(files(&one.open("mine").await.unwrap()), ["a.png"]);
    assert_eq!(
        (
            one.ids().await.unwrap().len(),
            two.ids().await.unwrap().len()
        ),
        (1, 0)
    );
    let (uploaded, _) = put(two, &[("b.png", photo(2))]).await;
    assert_eq!(one.open("mine").await.unwrap().hash, uploaded);
    two.remove("mine").await.unwrap();
    one.drop_outdated().await.unwrap();
    assert_eq!(files(&one.open("mine").await.unwrap()), ["a.png"]);
    one.remove("mine").await.unwrap();
    assert!(one.ids().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_store_that_is_away_is_told_and_folders_of_the_settings_do_not_need_it() {
    let (data, photos) = (tempfile::tempdir().unwrap(), folder(&[("a.png", photo(1))]));
    let in_the_way = data.path().join("store");
    fs::write(&in_the_way, "in the way").unwrap();
    let files = Files::new(data.path(), Some(in_the_way.to_str().unwrap()));
    let datasets = Datasets::new(
        datasets(data.path(), Some(photos.path())),
        Some(files.clone()),
    );
    assert_eq!(datasets.open("photos").await.unwrap().images.len(), 1);
    assert!(matches!(
        datasets.open("mine").await,
        Err(DatasetError::Files(_))
    ));
    fs::remove_file(&in_the_way).unwrap();
    assert!(matches!(
        datasets.open("mine").await,
        Err(DatasetError::Unknown { .. })
    ));
    assert!(
        files
            .list(&FilePath::from("datasets"))
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_to_several_replicas_at_once_leave_one_of_them_whole() {
    let replicas = replicas(3);
    for round in 0..6_u8 {
        let uploads = (0..6_u8).map(|at| {
            let datasets = &replicas.datasets[usize::from(at) % 3];
            async move {
                put(
                    datasets,
                    &[("a.png", photo(10 * round + at)), ("b.png", photo(at))],
                )
                .await
                .0
            }
        });
        let sent = join_all(uploads).await;
        for datasets in &replicas.datasets {
            let opened = datasets.open("mine").await.unwrap();
            assert!(sent.contains(&opened.hash));
            assert!(opened.read(0, datasets.local().limits()).is_ok());
        }
    }
    let [one, two] = [&replicas.datasets[0], &replicas.datasets[1]];
    for round in 0..10_u8 {
        let entries = [("a.png", photo(100 + round))];
        let (_, removed) = tokio::join!(put(one, &entries), two.remove("mine"));
        assert!(
            matches!(removed, Ok(()) | Err(DatasetError::Unknown { .. })),
            "{removed:?}"
        );
        for datasets in &replicas.datasets {
            let opened = datasets.open("mine").await;
            assert!(
                matches!(opened, Ok(_) | Err(DatasetError::Unknown { .. })),
                "{opened:?}"
            );
        }
    }
}

#[tokio::test]
async fn the_same_archive_again_changes_nothing() {
    let replicas = replicas(2);
    let [one, two] = [&replicas.datasets[0], &replicas.datasets[1]];
    let entries = [("a.png", photo(1)), ("b.png", photo(2))];
    put(one, &entries).await;
    let (before, opened) = (replicas.stored(), two.open("mine").await.unwrap());
    let (_, is_new) = put(one, &entries).await;
    assert!(!is_new);
    assert_eq!(replicas.stored(), before);
    assert!(std::sync::Arc::ptr_eq(
        &opened,
        &two.open("mine").await.unwrap()
    ));
    fs::remove_file(
        before
            .iter()
            .find(|path| !path.ends_with("current"))
            .unwrap(),
    )
    .unwrap();
    put(one, &entries).await;
    assert_eq!(replicas.stored().len(), 2, "one that was lost is mended");
}

#[tokio::test]
async fn a_store_that_is_full_of_sets_takes_no_more() {
    let replicas = replicas(2);
    for at in 0..10 {
        let home = replicas.store.path().join(format!("datasets/set{at}"));
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("current"), "{}").unwrap();
    }
    let refused = try_put(&replicas.datasets[1], &[("a.png", photo(1))]).await;
    assert!(
        matches!(refused, Err(DatasetError::TooMany { limit: 10 })),
        "{refused:?}"
    );
    assert!(replicas.stored().is_empty());
}
