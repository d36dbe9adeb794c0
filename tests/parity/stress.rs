//! The stress test of the PGIG paper, section 3, through the engine: y = 1 - ReLU(1 - z) of an
//! input whose second dimension is noise alone. tests/data/stress/X.csv holds the inputs that its
//! authors published; the patterns are Eq. 2 on them, ŷ = wᵀx before the rectifier.

use std::{fs, path::Path, sync::Arc};

use explaind::{engine::Engine, model::Model};
use serde_json::{Value, json};

use crate::small::{Dense, ask, dense_net, engine};

fn net() -> Arc<Model> {
    dense_net(vec![
        Dense {
            weights: vec![vec![-1.0, 1.0]],
            bias: vec![1.0],
            pattern: Some(vec![-1.016_209, -0.016_209_05]),
        },
        Dense {
            weights: vec![vec![-1.0]],
            bias: vec![1.0],
            pattern: Some(vec![-1.0]),
        },
    ])
}

/// 400 inputs, z from -2 to 1.99 by 0.01.
fn inputs() -> Vec<[f32; 2]> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stress/X.csv");
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| {
            let (signal, distractor) = line.split_once(',').unwrap();
            [signal.parse().unwrap(), distractor.parse().unwrap()]
        })
        .collect()
}

async fn maps(engine: &Engine, given: Value) -> Vec<[f64; 2]> {
    let model = net();
    let mut maps = Vec::new();
    for input in inputs() {
        let explained = ask(engine, &model, &input, &given, None).await.unwrap();
        let scores = &explained[0].attribution.scores;
        maps.push([f64::from(scores[0]), f64::from(scores[1])]);
    }
    maps
}

fn path(method: &str) -> Value {
    json!({"method": method, "target": 0, "n_steps": 100, "quadrature": "riemann_right", "baseline": "zero"})
}

fn mean_distractor(maps: &[[f64; 2]]) -> f64 {
    maps.iter().map(|map| map[1].abs()).sum::<f64>() / maps.len() as f64
}

#[tokio::test]
async fn pattern_attribution_is_zero_on_the_plateau() {
    let maps = maps(
        &engine(),
        json!({"method": "pattern_attribution", "target": 0}),
    )
    .await;
    assert_eq!(maps.len(), 400);
    // z = 1 itself is at the kink, where rounding decides.
    assert!(maps[301..].iter().all(|map| map == &[0.0, 0.0]));
    assert!(
        maps.iter().all(|map| map[1].abs() < 0.05) && (maps[0][0] + 2.032_418).abs() < 1e-5,
        "{:?}",
        maps[0]
    );
}

#[tokio::test]
async fn integrated_gradients_credits_the_distractor_and_pgig_does_not() {
    let engine = engine();
    let ig = maps(&engine, path("integrated_gradients")).await;
    let pgig = maps(&engine, path("pgig")).await;
    assert!(
        (mean_distractor(&ig) - 0.21056).abs() < 1e-5,
        "{}",
        mean_distractor(&ig)
    );
    assert!(
        (mean_distractor(&pgig) - 0.00341).abs() < 1e-5,
        "{}",
        mean_distractor(&pgig)
    );
    // Neither starves where the function is flat but not zero.
    assert!(ig[301..].iter().chain(&pgig[301..]).all(|map| map[0] > 0.4));
}

#[tokio::test]
async fn pgig_gives_the_printed_values() {
    let maps = maps(&engine(), path("pgig")).await;
    for (map, printed) in [
        (maps[0], [-1.880_988_47, -0.002_415_38]),
        (maps[399], [1.199_810_03, -0.003_009_57]),
    ] {
        assert!(
            map.iter()
                .zip(printed)
                .all(|(score, printed)| (score - printed).abs() < 1e-5),
            "{map:?}"
        );
    }
}
