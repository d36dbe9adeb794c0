//! Images of data sets in small, kept for who looks at them again.

use std::sync::Arc;

use bytes::Bytes;
use image::imageops::thumbnail;
use moka::sync::Cache;

use super::{App, AppError, input::area};
use crate::{
    dataset::{Dataset, DatasetError},
    picture::decode::{decode, size},
    render::encode::{FileType, encode},
};

/// Bytes of thumbnails that are kept.
const KEPT: u64 = 64 << 20;

/// By the hash of the file and the longest side.
pub(super) type Thumbnails = Cache<(String, u32), Bytes>;

pub(super) fn thumbnails() -> Thumbnails {
    let bytes = |_: &(String, u32), file: &Bytes| file.len().try_into().unwrap_or(u32::MAX);
    Cache::builder().weigher(bytes).max_capacity(KEPT).build()
}

impl App {
    /// The image at `index` (below the count) as a JPEG whose longest side has at most `side` pixels.
    pub async fn thumbnail(
        &self,
        dataset: Arc<Dataset>,
        index: usize,
        side: u32,
    ) -> Result<Bytes, AppError> {
        let file = dataset.images[index].file.clone();
        let key = (dataset.images[index].hash.clone(), side);
        if let Some(kept) = self.parts.thumbnails.get(&key) {
            return Ok(kept);
        }
        let limits = *self.datasets().local().limits();
        let fault = move |source| DatasetError::Image {
            file: file.clone(),
            source,
        };
        let measure = fault.clone();
        let read = move || {
            let bytes = dataset.bytes(index, &limits)?;
            let size = size(&bytes, &limits).map_err(measure)?;
            Ok::<_, DatasetError>((bytes, size))
        };
        let (bytes, size) = self.datasets().work(read).await??;
        let room = self.pixels().room(area(size)).await;
        let draw = move || {
            let _room = room;
            let image = decode(&bytes, &limits).map_err(fault)?.image;
            let (width, height) = image.dimensions();
            let scale = f64::from(side) / f64::from(width.max(height));
            let scaled = |length: u32| ((f64::from(length) * scale).round() as u32).max(1);
            let small = match scale < 1.0 {
                true => thumbnail(&image, scaled(width), scaled(height)),
                false => image,
            };
            Ok::<_, AppError>(Bytes::from(encode(&small, FileType::Jpeg, &[])?))
        };
        let small = self.pool().run(draw).await??;
        self.parts.thumbnails.insert(key, small.clone());
        Ok(small)
    }
}
