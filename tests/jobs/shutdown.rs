//! SIGTERM ends a server within its drain time, whatever runs.

use std::{io::Cursor, time::Duration};

use image::{DynamicImage, GrayImage, ImageFormat};

use crate::{databases::sqlite, served};

/// As many pixels as the settings allow: a picture of it takes many seconds.
const SIDE: u32 = 8192;

/// The drain time of the servers here, what the end may take beyond it, and some for a machine that
/// is busy.
const LIMIT: Duration = Duration::from_millis(300 + 3000 + 1500);

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_takes_longer_than_the_drain_does_not_keep_the_server() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (material, database) = (served::material(), sqlite());
    let server = served::Served::with(
        material.path(),
        database.data.path(),
        None,
        "all",
        |command| {
            command.args(["--drain-timeout-ms", "300"]);
        },
    );
    let mut png = Cursor::new(Vec::new());
    DynamicImage::from(GrayImage::new(SIDE, SIDE))
        .write_to(&mut png, ImageFormat::Png)
        .unwrap();
    let (client, png) = (reqwest::Client::new(), bytes::Bytes::from(png.into_inner()));
    // More than there are threads in the pool.
    for _ in 0..4 {
        let request = client
            .post(format!("{}/explain?method=gradient", server.url))
            .body(png.clone())
            .send();
        tokio::spawn(request);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let ended = tokio::task::spawn_blocking(move || server.terminate(LIMIT))
        .await
        .unwrap();
    assert_eq!(ended, Some(0));
}
