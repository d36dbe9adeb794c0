//! Clients that send half a request, nothing, too slowly or too much, and clients that do not read:
//! others are answered meanwhile.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use axum::http::Method;

use crate::{
    client::{Answered, exchange, multipart, read_answer, send},
    contract,
    fixture::{open, red, shared},
    load::serve,
};

const HALF_PUT: &str =
    "PUT /datasets/half HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nPK\x03\x04";
const HALF_POST: &str =
    "POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n\u{1}PNG";
const HALF_JOB: &str = "POST /jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{";
const HALF_HEAD: &str = "GET /healthz HTTP/1.1\r\nhost: x\r\nx-half: ";

fn connect(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // A server that has closed the connection meanwhile is what some tests are about.
    let _ = stream.write_all(text.as_bytes());
    stream
}

fn get(address: SocketAddr, path: &str) -> Answered {
    let answer = read_answer(&mut connect(
        address,
        &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
    ));
    contract::check(&Method::GET, path, &answer);
    answer
}

/// Whether the server ends the connection within this time, with or without an answer.
fn is_closed_within(stream: &mut TcpStream, limit: Duration) -> bool {
    stream.set_read_timeout(Some(limit)).unwrap();
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_uploads_and_bodies_hold_no_place_of_others() {
    let server = serve(shared()).await;
    let halves: Vec<TcpStream> = [HALF_PUT, HALF_POST]
        .iter()
        .flat_map(|text| (0..130).map(|_| connect(server.address, text)))
        .collect();
    for uri in ["/explain?method=gradient&target=0", "/predict"] {
        assert_eq!(exchange(server.address, uri, &red()).status, 200, "{uri}");
    }
    drop(halves);
    server.ended.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_beyond_their_places_are_429() {
    let server = serve(shared()).await;
    let mut uploads: Vec<TcpStream> = (0..17).map(|_| connect(server.address, HALF_PUT)).collect();
    let started = Instant::now();
    // Whichever came last.
    let refused = loop {
        let answered = uploads.iter_mut().find(|upload| {
            upload.set_nonblocking(true).unwrap();
            upload.peek(&mut [0]).is_ok()
        });
        match answered {
            Some(upload) => break upload,
            None => assert!(
                started.elapsed() < Duration::from_secs(10),
                "none was refused"
            ),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    refused.set_nonblocking(false).unwrap();
    let answer = read_answer(refused);
    contract::check(&Method::PUT, "/datasets/half", &answer);
    assert_eq!(answer.problem(), (429, "overloaded".into()));
    assert!(answer.header("retry-after").is_some());
    server.ended.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_is_408() {
    let service = open(&[("body_idle_timeout_ms", "300")]);
    let server = serve(&service).await;
    for (method, path, text) in [
        (Method::PUT, "/datasets/half", HALF_PUT),
        (Method::POST, "/predict", HALF_POST),
    ] {
        let started = Instant::now();
        let answer = read_answer(&mut connect(server.address, text));
        contract::check(&method, path, &answer);
        assert_eq!(answer.problem(), (408, "body_timeout".into()), "{path}");
        assert!(
            (300..5000).contains(&started.elapsed().as_millis()),
            "{path}: {:?}",
            started.elapsed()
        );
    }
    server.ended.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles_is_408() {
    let service = open(&[("body_idle_timeout_ms", "600"), ("min_body_rate", "100000")]);
    let server = serve(&service).await;
    for text in [HALF_PUT, HALF_POST] {
        let mut stream = connect(server.address, text);
        let started = Instant::now();
        let mut writer = stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            while started.elapsed() < Duration::from_secs(10) && writer.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 408");
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "{:?}",
            started.elapsed()
        );
        drop(stream);
        writing.join().unwrap();
    }
    server.ended.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_share_a_bounded_memory() {
    let service = open(&[("body_memory_mib", "1"), ("body_idle_timeout_ms", "100000")]);
    let server = serve(&service).await;
    let half = format!(
        "POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{}",
        "x".repeat(700 << 10)
    );
    // Whichever body takes the last of it.
    let mut halves = [
        connect(server.address, &half),
        connect(server.address, &half),
    ];
    halves
        .iter_mut()
        .for_each(|half| half.set_nonblocking(true).unwrap());
    let started = Instant::now();
    let refused = loop {
        match halves.iter().position(|half| half.peek(&mut [0]).is_ok()) {
            Some(place) => break place,
            None => assert!(
                started.elapsed() < Duration::from_secs(30),
                "none was refused"
            ),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    halves[refused].set_nonblocking(false).unwrap();
    let mut first = [0; 12];
    halves[refused].read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 429");
    assert_eq!(exchange(server.address, "/predict", &red()).status, 200);
    drop(halves);
    server.ended.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_refused_on_its_way_still_gets_its_answer() {
    let server = serve(shared()).await;
    for _ in 0..10 {
        let answer = exchange(server.address, "/predict", &vec![b'x'; 40 << 20]);
        assert_eq!(answer.problem(), (413, "body_too_large".into()));
    }
    server.ended.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_half_sent_requests_than_connections_leave_others_answered() {
    let service = open(&[("max_connections", "40")]);
    let server = serve(&service).await;
    for text in [HALF_HEAD, "", HALF_POST, HALF_PUT, HALF_JOB] {
        let halves: Vec<TcpStream> = (0..100).map(|_| connect(server.address, text)).collect();
        for _ in 0..5 {
            let started = Instant::now();
            assert_eq!(get(server.address, "/healthz").status, 200, "{text}");
            assert!(
                started.elapsed() < Duration::from_secs(2),
                "{text}: {:?}",
                started.elapsed()
            );
        }
        assert_eq!(
            exchange(server.address, "/predict", &red()).status,
            200,
            "{text}"
        );
        drop(halves);
    }
    server.ended.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_come_ends_the_connection() {
    let service = open(&[("header_timeout_ms", "400")]);
    let server = serve(&service).await;
    for text in ["", HALF_HEAD] {
        let started = Instant::now();
        assert!(
            is_closed_within(&mut connect(server.address, text), Duration::from_secs(5)),
            "{text}"
        );
        assert!(started.elapsed() >= Duration::from_millis(400), "{text}");
    }
    server.ended.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kept_between_requests_for_its_time() {
    let service = open(&[
        ("header_timeout_ms", "200"),
        ("keep_alive_timeout_ms", "1500"),
    ]);
    let server = serve(&service).await;
    let mut stream = connect(server.address, "");
    for _ in 0..3 {
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            .unwrap();
        let mut text = [0; 4096];
        let length = stream.read(&mut text).unwrap();
        assert!(text[..length].starts_with(b"HTTP/1.1 200"));
        std::thread::sleep(Duration::from_millis(700));
    }
    assert!(is_closed_within(&mut stream, Duration::from_secs(5)));
    server.ended.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_loses_its_connection() {
    const REQUESTS: usize = 400;
    let service = open(&[("write_timeout_ms", "500")]);
    let server = serve(&service).await;
    let one = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut stream = connect(server.address, &one.repeat(REQUESTS));
    std::thread::sleep(Duration::from_secs(4));
    let mut found = Vec::new();
    let _ = stream.read_to_end(&mut found);
    let answers = found
        .windows(12)
        .filter(|window| window == b"HTTP/1.1 200")
        .count();
    assert!(
        answers > 0 && answers < REQUESTS,
        "{answers} answers, {} bytes",
        found.len()
    );
    assert_eq!(get(server.address, "/healthz").status, 200);
    server.ended.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_long_is_431() {
    let server = serve(shared()).await;
    let text = format!(
        "GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: {}",
        "x".repeat(70_000)
    );
    let mut first = [0; 12];
    connect(server.address, &text)
        .read_exact(&mut first)
        .unwrap();
    assert_eq!(&first, b"HTTP/1.1 431");
    server.ended.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_readyz_says_no_before_connections_are_refused() {
    let service = open(&[("shutdown_grace_ms", "1500"), ("drain_timeout_ms", "20000")]);
    let server = serve(&service).await;
    assert_eq!(get(server.address, "/readyz").status, 200);
    let (mut idle, mut half) = (
        connect(server.address, ""),
        connect(server.address, HALF_HEAD),
    );
    server.stop.send(()).unwrap();
    let started = Instant::now();
    while get(server.address, "/readyz").status == 200 {
        assert!(started.elapsed() < Duration::from_secs(1), "still ready");
    }
    assert_eq!(
        get(server.address, "/readyz").problem(),
        (503, "not_ready".into())
    );
    assert_eq!(
        exchange(server.address, "/predict", &red()).problem(),
        (503, "draining".into())
    );
    server.ended.await.unwrap().unwrap();
    assert!(
        (1500..6000).contains(&started.elapsed().as_millis()),
        "{:?}",
        started.elapsed()
    );
    assert!(TcpStream::connect(server.address).is_err());
    assert!(
        is_closed_within(&mut idle, Duration::from_secs(1))
            && is_closed_within(&mut half, Duration::from_secs(1))
    );
}

#[tokio::test]
async fn a_multipart_body_has_a_bounded_number_of_parts_and_short_faults() {
    let many = vec![("image", &b"x"[..]); 100];
    let answer = send(multipart("/predict", &many)).await;
    assert_eq!(answer.status, 422);
    let name = "n".repeat(100_000);
    let strangers = vec![(name.as_str(), &b""[..]); 300];
    let answer = send(multipart("/predict", &strangers)).await;
    assert_eq!(answer.problem(), (400, "broken_multipart".into()));
    assert!(answer.text().contains("288 parts"), "{}", answer.text());
    let answer = send(multipart("/predict", &strangers[..2])).await;
    assert!(answer.body.len() < 4000, "{} bytes", answer.body.len());
    let head = format!(
        "--edge\r\ncontent-disposition: form-data; name=\"image\"\r\nx: {}\r\n\r\nx\r\n--edge--\r\n",
        "x".repeat(20 << 20)
    );
    let started = Instant::now();
    let request = crate::client::post_as("/predict", "multipart/form-data; boundary=edge", head);
    assert!(send(request).await.status.is_client_error());
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}
