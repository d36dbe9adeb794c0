//! The same request gives the same numbers, whatever else the server does meanwhile.

use explaind::methods::registry::METHODS;
use futures::future::join_all;
use serde_json::Value;

use crate::{
    client::{post, post_json, send, values},
    fixture::{picture, red, small_model},
};

/// Every method on the small net that has patterns; few samples are as random as many.
fn uri(method: &str, seed: u64) -> String {
    let takes = |name: &str| {
        METHODS
            .iter()
            .any(|known| known.id == method && known.takes(name))
    };
    let few = if takes("n_samples") {
        "&n_samples=4"
    } else {
        ""
    };
    let seed = if takes("seed") {
        format!("&seed={seed}")
    } else {
        String::new()
    };
    let model = small_model(method);
    format!("/explain?model={model}&method={method}&target=0&format=json{few}{seed}")
}

fn distance(one: &Value, other: &Value) -> f32 {
    let (one, other) = (values(one), values(other));
    assert_eq!(one.len(), other.len());
    let scale = other
        .iter()
        .fold(f32::MIN_POSITIVE, |max, value| max.max(value.abs()));
    one.iter()
        .zip(&other)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
        / scale
}

#[tokio::test]
async fn numbers_do_not_depend_on_what_else_runs() {
    let mut alone = Vec::new();
    for method in METHODS {
        alone.push(send(post(&uri(method.id, 5), red())).await.only());
    }
    // All at once, each beside strangers on other pictures: batches are shared.
    let crowd = METHODS.iter().flat_map(|method| {
        let stranger = |value: u8| {
            post(
                &uri(method.id, u64::from(value)),
                picture(12, 8, [value, 90, 3 * value]),
            )
        };
        [stranger(1), post(&uri(method.id, 5), red()), stranger(2)]
    });
    let crowded = join_all(crowd.map(send)).await;
    for ((method, alone), crowded) in METHODS
        .iter()
        .zip(&alone)
        .zip(crowded.iter().skip(1).step_by(3))
    {
        let gap = distance(&crowded.only(), alone);
        assert!(gap <= 1e-6, "{}: {gap:e}", method.id);
    }
}

#[tokio::test]
async fn the_seed_decides_what_is_drawn_at_random() {
    for method in METHODS
        .iter()
        // The picture has one region: nothing is drawn of it.
        .filter(|method| {
            method.takes("n_samples") && !method.ranks_regions() || method.id == "random"
        })
    {
        let one = send(post(&uri(method.id, 5), red())).await.only();
        let same = send(post(&uri(method.id, 5), red())).await.only();
        let other = send(post(&uri(method.id, 6), red())).await.only();
        assert_eq!(values(&one), values(&same), "{}", method.id);
        assert_ne!(values(&one), values(&other), "{}", method.id);
    }
}

#[tokio::test]
async fn the_parameters_of_an_answer_posted_back_give_the_same_map() {
    for method in METHODS {
        let first = send(post(&uri(method.id, 5), red())).await.only();
        let mut body = first["parameters"].clone();
        body["image"] = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, red()).into();
        body["format"] = "json".into();
        let again = send(post_json("/explain", &body)).await.only();
        assert_eq!(
            (values(&again), &again["parameters"]),
            (values(&first), &first["parameters"]),
            "{}",
            method.id
        );
    }
}
