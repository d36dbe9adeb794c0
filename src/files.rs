//! Files that replicas share (reports, archives, data sets, patterns, trained models): a local
//! folder by default; another folder or an S3-compatible store where the settings name one. It is
//! opened at first use, so that a store that is down does not keep the server from starting.

use std::{
    fs,
    io::{self, Read, Seek},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::{
    ObjectStore, ObjectStoreExt, PutMode, WriteMultipart, aws::AmazonS3Builder,
    local::LocalFileSystem, prefix::PrefixStore,
};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::OnceCell,
};

/// Multipart uploads: bytes per part, and parts in flight.
const UPLOAD_PIECE: usize = 1 << 20;
const UPLOADS_AT_ONCE: usize = 2;

/// Clones share the store.
#[derive(Clone, Debug)]
pub struct Files {
    place: Arc<Place>,
    store: Arc<OnceCell<Arc<dyn ObjectStore>>>,
}

#[derive(Debug)]
enum Place {
    Folder(PathBuf),
    /// `s3://bucket/prefix`; credentials, region and endpoint come from the AWS_* environment
    /// variables.
    S3(String),
}

/// Errors. Paths and addresses of the server appear in the log only.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("the folder of the store of files cannot be made: {}", source.kind())]
    Folder { path: PathBuf, source: io::Error },
    #[error("the store of files: {}", reason(.0))]
    Store(object_store::Error),
}

impl Files {
    /// `object_store` is `s3://bucket/prefix` or a folder; by default the folder `files` in `data`.
    pub fn new(data: &Path, object_store: Option<&str>) -> Self {
        let place = match object_store {
            Some(url) if url.starts_with("s3://") => Place::S3(url.to_owned()),
            Some(folder) => Place::Folder(folder.into()),
            None => Place::Folder(data.join("files")),
        };
        Self {
            place: Arc::new(place),
            store: Arc::default(),
        }
    }

    pub async fn store(&self) -> Result<&Arc<dyn ObjectStore>, FilesError> {
        self.store.get_or_try_init(async || open(&self.place)).await
    }

    /// The path of a file on this machine; none where the store is not a local folder.
    pub fn local(&self, path: &object_store::path::Path) -> Option<PathBuf> {
        match self.place.as_ref() {
            Place::Folder(folder) => LocalFileSystem::new_with_prefix(folder)
                .ok()?
                .path_to_filesystem(path)
                .ok(),
            Place::S3(_) => None,
        }
    }

    /// All files in the folder `prefix` and below. A store whose folder does not exist yet is
    /// empty.
    pub async fn list(
        &self,
        prefix: &object_store::path::Path,
    ) -> Result<Vec<object_store::path::Path>, FilesError> {
        self.list_older(prefix, Duration::ZERO).await
    }

    /// As `list`, for files last written longer ago than `age`.
    pub async fn list_older(
        &self,
        prefix: &object_store::path::Path,
        age: Duration,
    ) -> Result<Vec<object_store::path::Path>, FilesError> {
        let found = self.entries(prefix).await?;
        let is_older = |file: &object_store::ObjectMeta| {
            age.is_zero()
                || SystemTime::now()
                    .duration_since(file.last_modified.into())
                    .is_ok_and(|found| found > age)
        };
        Ok(found
            .into_iter()
            .filter(is_older)
            .map(|file| file.location)
            .collect())
    }

    /// As `list`, each file with a tag that changes when it is written again.
    pub async fn list_tagged(
        &self,
        prefix: &object_store::path::Path,
    ) -> Result<Vec<(object_store::path::Path, String)>, FilesError> {
        let tagged = |file: object_store::ObjectMeta| {
            let tag = match file.e_tag {
                Some(tag) => tag,
                None => format!("{} {}", file.last_modified, file.size),
            };
            (file.location, tag)
        };
        Ok(self
            .entries(prefix)
            .await?
            .into_iter()
            .map(tagged)
            .collect())
    }

    async fn entries(
        &self,
        prefix: &object_store::path::Path,
    ) -> Result<Vec<object_store::ObjectMeta>, FilesError> {
        if matches!(self.place.as_ref(), Place::Folder(folder) if !folder.exists()) {
            return Ok(Vec::new());
        }
        Ok(self.store().await?.list(Some(prefix)).try_collect().await?)
    }

    /// The names of the folders in the folder `prefix`.
    pub async fn folders(
        &self,
        prefix: &object_store::path::Path,
    ) -> Result<Vec<String>, FilesError> {
        if matches!(self.place.as_ref(), Place::Folder(folder) if !folder.exists()) {
            return Ok(Vec::new());
        }
        let found = self
            .store()
            .await?
            .list_with_delimiter(Some(prefix))
            .await?;
        Ok(found
            .common_prefixes
            .iter()
            .filter_map(|path| path.filename().map(str::to_owned))
            .collect())
    }

    /// Removes everything in the folder `prefix` and below; in a local folder, also what
    /// interrupted writes left.
    pub async fn remove_all(&self, prefix: &object_store::path::Path) -> Result<(), FilesError> {
        let Some(path) = self.local(prefix) else {
            return self.remove(self.list(prefix).await?).await;
        };
        match tokio::fs::remove_dir_all(&path).await {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(object_store::Error::Generic {
                    store: "remove",
                    source: Box::new(source),
                }
                .into())
            }
            _ => Ok(()),
        }
    }

    /// Removes the files that exist.
    pub async fn remove(&self, files: Vec<object_store::path::Path>) -> Result<(), FilesError> {
        let files = stream::iter(files.into_iter().map(Ok)).boxed();
        let mut removed = self.store().await?.delete_stream(files);
        while let Some(one) = removed.next().await {
            match one {
                // Another replica has removed it.
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The whole file.
    pub async fn read(&self, path: &object_store::path::Path) -> Result<bytes::Bytes, FilesError> {
        Ok(self.store().await?.get(path).await?.bytes().await?)
    }

    /// As `read`; none where there is no such file.
    pub async fn read_if_there(
        &self,
        path: &object_store::path::Path,
    ) -> Result<Option<bytes::Bytes>, FilesError> {
        match self.read(path).await {
            Err(error) if error.is_missing() => Ok(None),
            read => read.map(Some),
        }
    }

    /// Writes a file atomically: readers never see a part of it.
    pub async fn write(
        &self,
        path: &object_store::path::Path,
        bytes: impl Into<bytes::Bytes>,
    ) -> Result<(), FilesError> {
        self.store().await?.put(path, bytes.into().into()).await?;
        Ok(())
    }

    /// As `write`, for a file that is not there yet; false, and nothing is written, where it is.
    pub async fn create(
        &self,
        path: &object_store::path::Path,
        bytes: impl Into<bytes::Bytes>,
    ) -> Result<bool, FilesError> {
        let store = self.store().await?;
        let bytes: bytes::Bytes = bytes.into();
        match store
            .put_opts(path, bytes.into(), PutMode::Create.into())
            .await
        {
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(true),
        }
    }

    /// As `write`, for a file of any size, read from its start.
    pub async fn upload(
        &self,
        path: &object_store::path::Path,
        mut file: fs::File,
    ) -> Result<(), FilesError> {
        let unreadable = |source| object_store::Error::Generic {
            store: "upload",
            source: Box::new(source),
        };
        file.rewind().map_err(unreadable)?;
        let mut file = tokio::fs::File::from_std(file);
        let mut parts = WriteMultipart::new(self.store().await?.put_multipart(path).await?);
        let mut piece = vec![0; UPLOAD_PIECE];
        loop {
            match file.read(&mut piece).await.map_err(unreadable)? {
                0 => break,
                length => parts.write(&piece[..length]),
            }
            parts.wait_for_capacity(UPLOADS_AT_ONCE).await?;
        }
        parts.finish().await?;
        Ok(())
    }

    /// Downloads a file to the end of `into`.
    pub async fn download(
        &self,
        path: &object_store::path::Path,
        into: &fs::File,
    ) -> Result<(), FilesError> {
        let unwritable = |source| object_store::Error::Generic {
            store: "download",
            source: Box::new(source),
        };
        let (_, mut pieces) = self.stream(path).await?;
        let mut into = tokio::fs::File::from_std(into.try_clone().map_err(unwritable)?);
        while let Some(piece) = pieces.try_next().await? {
            into.write_all(&piece).await.map_err(unwritable)?;
        }
        Ok(into.flush().await.map_err(unwritable)?)
    }

    /// The length of a file, and its bytes as a stream.
    pub async fn stream(
        &self,
        path: &object_store::path::Path,
    ) -> Result<
        (
            u64,
            futures::stream::BoxStream<'static, Result<bytes::Bytes, object_store::Error>>,
        ),
        FilesError,
    > {
        let found = self.store().await?.get(path).await?;
        Ok((found.meta.size, found.into_stream().boxed()))
    }
}

impl FilesError {
    /// Whether the error means that there is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Store(object_store::Error::NotFound { .. }))
    }

    /// Whether the error means that the disk or the store is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Folder { source, .. } => is_full(source),
            Self::Store(error) => io_of(error).is_some_and(is_full),
        }
    }
}

impl From<object_store::Error> for FilesError {
    fn from(error: object_store::Error) -> Self {
        if !matches!(error, object_store::Error::NotFound { .. }) {
            tracing::debug!("the store of files: {error}");
        }
        Self::Store(error)
    }
}

/// The I/O error in the chain of causes, if there is one.
fn io_of(error: &object_store::Error) -> Option<&io::Error> {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |error| error.source())
        .find_map(|error| error.downcast_ref())
}

/// What happened, without the path.
fn reason(error: &object_store::Error) -> String {
    match error {
        object_store::Error::NotFound { .. } => "there is no such file".to_owned(),
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => "it refuses the server".to_owned(),
        other => {
            io_of(other).map_or_else(|| "it failed".to_owned(), |error| error.kind().to_string())
        }
    }
}

/// Whether the disk is full, or a quota or the largest file size is reached.
pub fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// SHA-256 of a file from its start, in hex. It is read in pieces: a memory map would keep every
/// hashed page in the process's resident memory.
pub fn hash(mut file: &fs::File) -> io::Result<String> {
    file.rewind()?;
    let (mut hasher, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hex(&hasher.finalize())),
            length => hasher.update(&piece[..length]),
        }
    }
}

/// Whether a file keeps this name in the store, where some characters are written in other ways.
pub fn keeps(name: &str) -> bool {
    object_store::path::Path::from(name).as_ref() == name
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn open(place: &Place) -> Result<Arc<dyn ObjectStore>, FilesError> {
    match place {
        Place::Folder(path) => {
            fs::create_dir_all(path).map_err(|source| {
                tracing::warn!("{}: {source}", path.display());
                FilesError::Folder {
                    path: path.clone(),
                    source,
                }
            })?;
            Ok(Arc::new(
                LocalFileSystem::new_with_prefix(path)?
                    .with_fsync(true)
                    .with_automatic_cleanup(true),
            ))
        }
        Place::S3(url) => {
            let store = AmazonS3Builder::from_env().with_url(url).build()?;
            let prefix = url
                .trim_start_matches("s3://")
                .split_once('/')
                .map_or("", |(_, prefix)| prefix);
            Ok(Arc::new(PrefixStore::new(store, prefix.trim_matches('/'))))
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::path::Path;

    use super::*;

    #[tokio::test]
    async fn a_folder_appears_at_the_first_file_and_prefixes_are_removed_whole() {
        let data = tempfile::tempdir().unwrap();
        let files = Files::new(data.path(), None);
        assert!(!data.path().join("files").exists());
        for name in ["jobs/a/1", "jobs/a/2", "jobs/ab/1"] {
            files
                .write(&Path::from(name), name.as_bytes().to_vec())
                .await
                .unwrap();
        }
        files.remove_all(&Path::from("jobs/a")).await.unwrap();
        assert!(files.read(&Path::from("jobs/a/1")).await.is_err());
        assert_eq!(
            files.read(&Path::from("jobs/ab/1")).await.unwrap(),
            "jobs/ab/1"
        );
        let (length, _) = files.stream(&Path::from("jobs/ab/1")).await.unwrap();
        assert_eq!(length, 9);
        let (mut large, bytes) = (tempfile::tempfile().unwrap(), vec![7; 3 * UPLOAD_PIECE + 5]);
        std::io::Write::write_all(&mut large, &bytes).unwrap();
        files.upload(&Path::from("jobs/ab/2"), large).await.unwrap();
        assert_eq!(files.read(&Path::from("jobs/ab/2")).await.unwrap(), bytes);
        let copy = tempfile::tempfile().unwrap();
        files
            .download(&Path::from("jobs/ab/2"), &copy)
            .await
            .unwrap();
        assert_eq!(hash(&copy).unwrap(), hex(&Sha256::digest(&bytes)));
        assert_eq!(
            fs::read(files.local(&Path::from("jobs/ab/2")).unwrap()).unwrap(),
            bytes
        );
        assert_eq!(
            files.read_if_there(&Path::from("jobs/ab/3")).await.unwrap(),
            None
        );
        let three = Path::from("jobs/ab/3");
        assert!(files.create(&three, "first").await.unwrap());
        assert!(!files.create(&three, "second").await.unwrap());
        assert_eq!(files.read(&three).await.unwrap(), "first");
        let tags = async || files.list_tagged(&Path::from("jobs/ab")).await.unwrap();
        let before = tags().await;
        assert_eq!(before, tags().await);
        files.write(&three, "third, longer").await.unwrap();
        let after = tags().await;
        let changed = before.iter().filter(|one| !after.contains(one));
        assert_eq!(changed.map(|(path, _)| path).collect::<Vec<_>>(), [&three]);
    }

    #[tokio::test]
    async fn replicas_with_a_folder_in_common_see_each_others_files() {
        let (one, two, common) = (
            tempfile::tempdir(),
            tempfile::tempdir(),
            tempfile::tempdir().unwrap(),
        );
        let common = common.path().join("common").display().to_string();
        let [one, two] = [one, two].map(|data| Files::new(data.unwrap().path(), Some(&common)));
        one.write(&Path::from("a/b"), "words").await.unwrap();
        assert_eq!(
            two.list(&Path::from("a")).await.unwrap(),
            [Path::from("a/b")]
        );
        two.remove(vec![Path::from("a/b"), Path::from("a/c")])
            .await
            .unwrap();
        assert!(one.read(&Path::from("a/b")).await.unwrap_err().is_missing());
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_is_named() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join("files"), "in the way").unwrap();
        let error = Files::new(data.path(), None)
            .store()
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("files"), "{error}");
    }
}
