//! Many callers at once, callers that go away, deadlines, and the end of the service. Over sockets.

use std::{
    io::Write,
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use explaind::api::{Api, server};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::{
    client::{Answered, exchange, get, post, post_bytes, send, send_to, values, with},
    fixture::{Service, open, picture, red, shared},
};

pub struct Server {
    pub address: SocketAddr,
    pub stop: oneshot::Sender<()>,
    pub ended: JoinHandle<Result<(), server::ServeError>>,
}

pub async fn serve(service: &Service) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async {
        if stopped.await.is_err() {
            std::future::pending().await
        }
    };
    Server {
        address,
        stop,
        ended: tokio::spawn(server::serve(
            Api::new(service.app.clone()).unwrap(),
            listener,
            stopped,
        )),
    }
}

/// Rows evaluated of a model, by all services of this process.
async fn rows(model: &str) -> u64 {
    let name = format!("explaind_rows_total{{model=\"{model}\"}} ");
    send(get("/metrics"))
        .await
        .text()
        .lines()
        .find_map(|line| line.strip_prefix(&name)?.parse().ok())
        .unwrap_or(0)
}

/// The rows of a model once they grow no more.
async fn settled_rows(model: &str) -> u64 {
    let started = Instant::now();
    let mut last = rows(model).await;
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_millis(1500) {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "the work goes on"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = rows(model).await;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

/// Clients at once, each with an answer.
async fn crowd(address: SocketAddr, requests: Vec<(String, Vec<u8>)>) -> Vec<Answered> {
    let ask =
        |(uri, body): (String, Vec<u8>)| std::thread::spawn(move || exchange(address, &uri, &body));
    let clients: Vec<_> = requests.into_iter().map(ask).collect();
    tokio::task::spawn_blocking(|| {
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    })
    .await
    .unwrap()
}

const LONG_PATH: usize = 1900;

fn long_path(model: &str) -> String {
    format!("/explain?model={model}&method=integrated_gradients&target=1&n_steps={LONG_PATH}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_stops_the_work() {
    let started = Instant::now();
    let answer = send(with(
        post(&long_path("deadline"), red()),
        "x-request-timeout-ms",
        "1500",
    ))
    .await;
    assert_eq!(answer.problem(), (504, "deadline_exceeded".into()));
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    assert!(settled_rows("deadline").await < LONG_PATH as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_stops_its_work() {
    let server = serve(shared()).await;
    let mut callers: Vec<TcpStream> = (0..4)
        .map(|_| TcpStream::connect(server.address).unwrap())
        .collect();
    callers.iter_mut().for_each(|caller| {
        caller
            .write_all(&post_bytes(&long_path("gone"), &red()))
            .unwrap()
    });
    let started = Instant::now();
    while rows("gone").await == 0 {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "nothing was evaluated"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    callers
        .iter()
        .for_each(|caller| caller.shutdown(Shutdown::Both).unwrap());
    drop(callers);
    assert!(settled_rows("gone").await < 4 * LONG_PATH as u64);
    server.ended.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_clients_get_a_hundred_right_answers() {
    let server = serve(shared()).await;
    let requests: Vec<(String, Vec<u8>)> = (0..100u8)
        .map(|client| {
            let uri = format!(
                "/explain?method=integrated_gradients&format=json&target={}&n_steps={}",
                client % 3,
                3 + client % 5
            );
            (
                uri,
                picture(
                    10 + u32::from(client),
                    9,
                    [client, 255 - client, 2 * client],
                )
                .to_vec(),
            )
        })
        .collect();
    let mut expected = Vec::new();
    for (uri, body) in &requests {
        expected.push(values(&send(post(uri, body.clone())).await.only()));
    }
    let answers = crowd(server.address, requests).await;
    for (answer, expected) in answers.iter().zip(&expected) {
        let found = values(&answer.only());
        let gap = found
            .iter()
            .zip(expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        // A batch of another size may sum in another order.
        assert!(gap < 1e-5, "{gap}");
    }
    server.ended.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_429_and_says_when_to_try_again() {
    let service = open(&[("queue_rows", "8")]);
    let server = serve(&service).await;
    const URI: &str = "/explain?method=gradient&model=squeezenet1_1&target=285&format=json";
    let expected = values(&send_to(&service.router, post(URI, red())).await.only());
    let answers = crowd(
        server.address,
        (0..100).map(|_| (URI.to_owned(), red().to_vec())).collect(),
    )
    .await;
    let (mut done, mut refused) = (0, 0);
    for answer in answers {
        if answer.status == 429 {
            refused += 1;
            assert_eq!(answer.problem().1, "overloaded");
            assert!(
                answer
                    .header("retry-after")
                    .unwrap()
                    .parse::<u64>()
                    .unwrap()
                    >= 1
            );
        } else {
            done += 1;
            let found = values(&answer.only());
            let size = |values: &[f32]| {
                values
                    .iter()
                    .map(|v| f64::from(*v).powi(2))
                    .sum::<f64>()
                    .sqrt()
            };
            let gap: Vec<f32> = found.iter().zip(&expected).map(|(a, b)| a - b).collect();
            assert!(size(&gap) < 1e-4 * size(&expected));
        }
    }
    assert!(done > 0 && refused > 0, "{done} done, {refused} refused");
    server.ended.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_lets_running_requests_finish_and_takes_no_more() {
    let service = open(&[("drain_timeout_ms", "60000")]);
    let server = serve(&service).await;
    let address = server.address;
    let before = rows("drain").await;
    let running = std::thread::spawn(move || {
        exchange(
            address,
            "/explain?method=integrated_gradients&model=drain&target=1&n_steps=40",
            &red(),
        )
    });
    let started = Instant::now();
    while rows("drain").await == before {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "nothing was evaluated"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.stop.send(()).unwrap();
    server.ended.await.unwrap().unwrap();
    running.join().unwrap().picture();
    assert!(TcpStream::connect(address).is_err());
    assert_eq!(
        send_to(&service.router, post("/explain", red()))
            .await
            .problem(),
        (503, "draining".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_stops_what_takes_too_long() {
    let service = open(&[("drain_timeout_ms", "300")]);
    let server = serve(&service).await;
    let address = server.address;
    let before = rows("late").await;
    let running = std::thread::spawn(move || exchange(address, &long_path("late"), &red()));
    let waiting = Instant::now();
    while rows("late").await == before {
        assert!(
            waiting.elapsed() < Duration::from_secs(20),
            "nothing was evaluated"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let started = Instant::now();
    server.stop.send(()).unwrap();
    server.ended.await.unwrap().unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(running.join().unwrap().status, 503);
}
