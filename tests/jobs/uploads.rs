//! Data sets of servers that are processes of their own on one data folder: uploads and removals at
//! once, uploads that are killed, a disk that is full.

use std::{
    fs,
    io::{Cursor, Read, Write},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

use futures::future::join_all;
use image::{ImageFormat, RgbImage};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use zip::{ZipWriter, write::SimpleFileOptions};

use crate::{
    databases::{TestDatabase, sqlite},
    processes::limit_files,
    served::{Served, material},
};

fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        writer
            .start_file(*name, SimpleFileOptions::default())
            .unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Six images of one shade, under names of their own.
fn archive(shade: u8) -> Vec<u8> {
    let mut photo = Cursor::new(Vec::new());
    RgbImage::from_pixel(8, 8, image::Rgb([shade; 3]))
        .write_to(&mut photo, ImageFormat::Png)
        .unwrap();
    let names: Vec<String> = (0..6).map(|at| format!("a/{shade}_{at}.png")).collect();
    let entries: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), photo.get_ref().as_slice()))
        .collect();
    zip(&entries)
}

/// Three megabytes that cannot be packed.
fn large_archive() -> Vec<u8> {
    let mut noise = vec![0; 3 << 20];
    ChaCha8Rng::seed_from_u64(1).fill_bytes(&mut noise);
    zip(&[("a.png", &noise)])
}

async fn put(server: &Served, id: &str, archive: Vec<u8>) -> (u16, Value) {
    let url = format!("{}/datasets/{id}", server.url);
    let answer = reqwest::Client::new()
        .put(url)
        .body(archive)
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn delete(server: &Served, id: &str) -> u16 {
    reqwest::Client::new()
        .delete(format!("{}/datasets/{id}", server.url))
        .send()
        .await
        .unwrap()
        .status()
        .as_u16()
}

async fn get(server: &Served, id: &str) -> (u16, Value) {
    let answer = reqwest::get(format!("{}/datasets/{id}", server.url))
        .await
        .unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// All files below the folder of data sets but those of locks, with their lengths.
fn stored(data: &Path) -> Vec<(String, u64)> {
    let (mut folders, mut found) = (vec![data.join("datasets")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
        {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) if entry.file_name() != ".lock" && entry.file_name() != "alive" => {
                    found.push((entry.path().display().to_string(), metadata.len()));
                }
                _ => {}
            }
        }
    }
    found
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An upload of which half was sent.
struct Half {
    stream: TcpStream,
    rest: Vec<u8>,
}

impl Half {
    fn send(server: &Served, id: &str) -> Self {
        let mut archive = large_archive();
        let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
        let head = format!(
            "PUT /datasets/{id} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            archive.len()
        );
        let rest = archive.split_off(2 << 20);
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&archive).unwrap();
        Self { stream, rest }
    }

    fn finish(mut self) -> String {
        self.stream.write_all(&self.rest).unwrap();
        let mut answer = String::new();
        self.stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

fn pair(material: &Path, database: &TestDatabase) -> [Served; 2] {
    [
        Served::start(material, database, "all"),
        Served::start(material, database, "all"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_on_one_data_folder_keep_every_set_whole() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (material, database) = (material(), sqlite());
    let servers = pair(material.path(), &database);
    for round in 0..12_u8 {
        let id = format!("race{round}");
        let uploads =
            (0..8_u8).map(|at| put(&servers[usize::from(at) % 2], &id, archive(8 * round + at)));
        let sent = join_all(uploads).await;
        assert_eq!(
            sent.iter().filter(|(status, _)| *status == 201).count(),
            1,
            "{sent:?}"
        );
        assert_eq!(
            sent.iter().filter(|(status, _)| *status == 200).count(),
            7,
            "{sent:?}"
        );
        let [one, two] = [get(&servers[0], &id).await, get(&servers[1], &id).await];
        assert_eq!(
            (one.0, one.1["images"].as_u64(), &one.1["hash"]),
            (200, Some(6), &two.1["hash"])
        );
        assert!(sent.iter().any(|(_, card)| card["hash"] == one.1["hash"]));
    }
    for round in 0..24_u8 {
        let (sent, removed) = tokio::join!(
            put(&servers[0], "both", archive(round)),
            delete(&servers[1], "both")
        );
        assert!(
            matches!(sent.0, 200 | 201) && matches!(removed, 204 | 404),
            "{sent:?} {removed}"
        );
        let [one, two] = [
            get(&servers[0], "both").await,
            get(&servers[1], "both").await,
        ];
        assert!(
            one.0 == two.0 && (one.0 == 200 || (one.0 == 404 && removed == 204)),
            "{one:?} {two:?} {removed}"
        );
    }
    servers.into_iter().for_each(Served::kill);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_upload_leaves_nothing_and_anothers_upload_is_not_touched() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (material, database) = (material(), sqlite());
    let [living, dying] = pair(material.path(), &database);
    let halves = [Half::send(&living, "kept"), Half::send(&dying, "lost")];
    let data = database.data.path();
    let begun = || {
        stored(data)
            .iter()
            .filter(|(_, length)| *length >= 1 << 20)
            .count()
    };
    until("both uploads are on their way", || begun() == 2).await;
    dying.kill();
    assert_eq!(begun(), 2);
    let fresh = Served::start(material.path(), &database, "all");
    until("what the killed one left goes", || begun() == 1).await;
    let [kept, _] = halves;
    let answer = tokio::task::spawn_blocking(|| kept.finish()).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert_eq!(get(&fresh, "kept").await.0, 200);
    let left: Vec<_> = stored(data)
        .into_iter()
        .filter(|(path, _)| !path.contains("/datasets/kept/"))
        .collect();
    assert_eq!(left, []);
    [living, fresh].into_iter().for_each(Served::kill);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_leaves_nothing() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (material, database) = (material(), sqlite());
    let server = Served::start_within_limits(material.path(), &database, "all");
    limit_files(server.id(), Some(0));
    for archive in [archive(1), large_archive()] {
        let (status, problem) = put(&server, "mine", archive).await;
        assert_eq!(
            (status, problem["code"].as_str()),
            (507, Some("disk_full")),
            "{problem}"
        );
        assert!(
            !problem
                .to_string()
                .contains(database.data.path().to_str().unwrap()),
            "{problem}"
        );
    }
    assert_eq!(get(&server, "mine").await.0, 404);
    assert_eq!(stored(database.data.path()), []);
    limit_files(server.id(), None);
    assert_eq!(put(&server, "mine", large_archive()).await.0, 201);
    server.kill();
}
