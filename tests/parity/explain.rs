//! What a request costs and how it is refused, through the engine.

use explaind::{
    driver::{Driver, DriverError, Resources},
    methods::Explained,
    pool::Pool,
};
use serde_json::{Value, json};

use crate::small::{Dense, ask, caller, dense_net, engine, tensor};

const X: [f32; 2] = [2.0, -1.0];

/// Logits 2, 1 and -3 at X.
fn linear() -> Vec<Dense> {
    vec![Dense {
        weights: vec![vec![1.0, 0.0], vec![0.0, -1.0], vec![-1.0, 1.0]],
        bias: vec![0.0; 3],
        pattern: Some(vec![0.5, 0.25, 2.0, -1.0, 0.1, 0.2]),
    }]
}

async fn explained(given: Value) -> Vec<Explained> {
    ask(&engine(), &dense_net(linear()), &X, &given, None)
        .await
        .unwrap()
}

fn scores(explained: &Explained) -> Vec<f32> {
    explained.attribution.scores.iter().copied().collect()
}

#[tokio::test]
async fn the_clean_input_is_evaluated_once_and_the_price_is_exact() {
    let (engine, net) = (engine(), dense_net(linear()));
    for (given, evaluations) in [
        (json!({"method": "gradient", "target": 1}), 1),
        (json!({"method": "gradient"}), 2),
        (json!({"method": "integrated_gradients", "target": 1}), 26),
        (
            json!({"method": "integrated_gradients", "target": 1, "quality": "fast"}),
            10,
        ),
        (
            json!({"method": "integrated_gradients", "quality": "fast"}),
            10,
        ),
        (json!({"method": "pgig", "target": 1}), 25),
        (
            json!({"method": "pgig", "target": 1, "quadrature": "riemann_midpoint"}),
            26,
        ),
        (json!({"method": "random", "target": 1}), 1),
    ] {
        let answer = &ask(&engine, &net, &X, &given, Some(evaluations))
            .await
            .unwrap()[0];
        let refused = ask(&engine, &net, &X, &given, Some(evaluations - 1))
            .await
            .unwrap_err();
        assert!(
            matches!(refused, DriverError::TooCostly { cost, .. } if cost == evaluations),
            "{given}: {refused}"
        );
        assert_eq!(answer.evaluations, evaluations, "{given}");
        let best: Vec<usize> = answer
            .predictions
            .iter()
            .map(|prediction| prediction.index)
            .collect();
        assert_eq!(best, [0, 1, 2], "{given}");
    }
}

#[tokio::test]
async fn targets_are_resolved_on_the_clean_input() {
    let top = explained(json!({"method": "gradient", "target": "top:2"})).await;
    assert_eq!(
        top.iter().map(scores).collect::<Vec<_>>(),
        [vec![1.0, 0.0], vec![0.0, -1.0]]
    );
    assert_eq!(top[1].parameters.to_json()["target"], json!(1));
    let contrast = &explained(json!({"method": "gradient", "target": "0-2"})).await[0];
    assert_eq!(scores(contrast), [2.0, -1.0]);
    assert_eq!(
        contrast.target.against.as_ref().map(|other| other.index),
        Some(2)
    );
    assert_eq!(contrast.attribution.input_value, Some(5.0));
}

#[tokio::test]
async fn on_one_linear_layer_pgig_is_the_pattern_times_integrated_gradients() {
    let maps: Vec<_> = [
        explained(json!({"method": "pgig", "target": 2})).await,
        explained(json!({"method": "integrated_gradients", "target": 2})).await,
    ]
    .iter()
    .map(|answers| scores(&answers[0]))
    .collect();
    for ((pgig, ig), pattern) in maps[0].iter().zip(&maps[1]).zip([0.1, 0.2]) {
        assert!((pgig - pattern * ig).abs() < 1e-6, "{maps:?}");
    }
}

#[tokio::test]
async fn a_map_of_zeros_comes_with_a_warning() {
    let flat = dense_net(vec![
        Dense {
            weights: vec![vec![1.0, 0.0]],
            bias: vec![-9.0],
            pattern: None,
        },
        Dense {
            weights: vec![vec![1.0], vec![2.0]],
            bias: vec![1.0, 0.0],
            pattern: None,
        },
    ]);
    let answer = ask(&engine(), &flat, &X, &json!({"method": "gradient"}), None)
        .await
        .unwrap();
    assert_eq!(answer[0].attribution.warnings.len(), 1);
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_before_any_work() {
    let engine = engine();
    let bare = dense_net(
        linear()
            .into_iter()
            .map(|layer| Dense {
                pattern: None,
                ..layer
            })
            .collect(),
    );
    let refused = ask(&engine, &bare, &X, &json!({"method": "pgig"}), None)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("explaind fit-patterns"),
        "{refused}"
    );
    let refused = ask(
        &engine,
        &bare,
        &X,
        &json!({"method": "integrated_gradients"}),
        Some(20),
    )
    .await
    .unwrap_err();
    assert!(
        matches!(
            refused,
            DriverError::TooCostly {
                cost: 27,
                limit: 20
            }
        ),
        "{refused}"
    );
    let refused = ask(&engine, &bare, &[1.0], &json!({"method": "gradient"}), None)
        .await
        .unwrap_err();
    assert!(matches!(refused, DriverError::Shape { .. }), "{refused}");
    for (given, param) in [
        (
            json!({"method": "integrated_gradients", "baseline": "black"}),
            "baseline",
        ),
        (
            json!({"method": "integrated_gradients", "baseline": "uploaded"}),
            "baseline",
        ),
        (json!({"method": "gradient", "target": 3}), "target"),
    ] {
        let refused = ask(&engine, &bare, &X, &given, None).await.unwrap_err();
        let DriverError::Parameters(faults) = refused else {
            panic!("{refused}")
        };
        assert_eq!(faults.shown()[0].param, param);
    }
    let single = dense_net(vec![Dense {
        weights: vec![vec![1.0, 1.0]],
        bias: vec![0.0],
        pattern: None,
    }]);
    let refused = ask(
        &engine,
        &single,
        &X,
        &json!({"method": "gradient", "head": "probabilities"}),
        None,
    )
    .await;
    assert!(refused.unwrap_err().to_string().starts_with("head:"));
}

#[tokio::test]
async fn predictions_are_the_best_classes() {
    let model = dense_net(linear());
    let (engine, pool, caller) = (engine(), Pool::new(1), caller());
    let resources = Resources {
        engine: &engine,
        pool: &pool,
        caller: &caller,
        pictures: None,
        supports: None,
        attn_lrp: false,
    };
    let (predictions, _) = Driver::new(resources, &model, tensor(&X))
        .predict(2)
        .await
        .unwrap();
    assert_eq!(
        predictions
            .iter()
            .map(|prediction| prediction.index)
            .collect::<Vec<_>>(),
        [0, 1]
    );
    let expected = 2f32.exp() / (2f32.exp() + 1f32.exp() + (-3f32).exp());
    assert!((predictions[0].score - expected).abs() < 1e-6);
}
