//! Files that replicas share (reports, archives, data sets): a local folder by default, an S3-compatible store by setting.
//! Opened at first use, so that a folder or a store that is away keeps nobody from starting.

use std::{
    fs,
    io::Seek,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt};
use object_store::{
    ObjectStore, ObjectStoreExt, WriteMultipart, aws::AmazonS3Builder, local::LocalFileSystem, prefix::PrefixStore,
};
use tokio::{io::AsyncReadExt, sync::OnceCell};

/// How a large file is taken to the store: so many bytes at once, so many parts under way.
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
    /// `s3://bucket/prefix`; the credentials, the region and the endpoint are in the AWS_* environment.
    S3(String),
}

#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("cannot write to the folder {}: {source}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("the store of files: {0}")]
    Store(#[from] object_store::Error),
}

impl Files {
    /// `object_store` is `s3://bucket/prefix`, or empty for the folder `files` in `data`.
    pub fn new(data: &Path, object_store: Option<&str>) -> Self {
        let place = match object_store {
            Some(url) => Place::S3(url.to_owned()),
            None => Place::Folder(data.join("files")),
        };
        Self { place: Arc::new(place), store: Arc::default() }
    }

    pub async fn store(&self) -> Result<&Arc<dyn ObjectStore>, FilesError> {
        self.store.get_or_try_init(async || open(&self.place)).await
    }

    /// Removes everything whose path begins with the folder `prefix`.
    pub async fn remove_all(&self, prefix: &object_store::path::Path) -> Result<(), FilesError> {
        let store = self.store().await?;
        let found = store.list(Some(prefix)).map_ok(|file| file.location).boxed();
        let mut removed = store.delete_stream(found);
        while let Some(one) = removed.next().await {
            match one {
                // Another replica was quicker.
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

    /// Whole or not at all: nobody sees a part of it.
    pub async fn write(
        &self,
        path: &object_store::path::Path,
        bytes: impl Into<bytes::Bytes>,
    ) -> Result<(), FilesError> {
        self.store().await?.put(path, bytes.into().into()).await?;
        Ok(())
    }

    /// A file of any size, as `write`. It is read from its start.
    pub async fn upload(&self, path: &object_store::path::Path, mut file: fs::File) -> Result<(), FilesError> {
        let unreadable = |source| object_store::Error::Generic { store: "upload", source: Box::new(source) };
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

    /// The length of a file and its bytes as they come.
    pub async fn stream(
        &self,
        path: &object_store::path::Path,
    ) -> Result<(u64, futures::stream::BoxStream<'static, Result<bytes::Bytes, object_store::Error>>), FilesError> {
        let found = self.store().await?.get(path).await?;
        Ok((found.meta.size, found.into_stream().boxed()))
    }
}

fn open(place: &Place) -> Result<Arc<dyn ObjectStore>, FilesError> {
    match place {
        Place::Folder(path) => {
            fs::create_dir_all(path).map_err(|source| FilesError::Folder { path: path.clone(), source })?;
            Ok(Arc::new(LocalFileSystem::new_with_prefix(path)?.with_fsync(true).with_automatic_cleanup(true)))
        }
        Place::S3(url) => {
            let store = AmazonS3Builder::from_env().with_url(url).build()?;
            let prefix = url.trim_start_matches("s3://").split_once('/').map_or("", |(_, prefix)| prefix);
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
            files.write(&Path::from(name), name.as_bytes().to_vec()).await.unwrap();
        }
        files.remove_all(&Path::from("jobs/a")).await.unwrap();
        assert!(files.read(&Path::from("jobs/a/1")).await.is_err());
        assert_eq!(files.read(&Path::from("jobs/ab/1")).await.unwrap(), "jobs/ab/1");
        let (length, _) = files.stream(&Path::from("jobs/ab/1")).await.unwrap();
        assert_eq!(length, 9);
        let (mut large, bytes) = (tempfile::tempfile().unwrap(), vec![7; 3 * UPLOAD_PIECE + 5]);
        std::io::Write::write_all(&mut large, &bytes).unwrap();
        files.upload(&Path::from("jobs/ab/2"), large).await.unwrap();
        assert_eq!(files.read(&Path::from("jobs/ab/2")).await.unwrap(), bytes);
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_is_named() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join("files"), "in the way").unwrap();
        let error = Files::new(data.path(), None).store().await.unwrap_err().to_string();
        assert!(error.contains("files"), "{error}");
    }
}
