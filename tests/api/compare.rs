//! POST /compare: what methods share is evaluated once, and each gets the map that it would get
//! alone.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    client::{multipart, post, post_json, send, values},
    fixture::{picture, red},
};

fn explanations(answer: &Value) -> &[Value] {
    answer["explanations"].as_array().unwrap()
}

/// Posts a comparison of the red picture as JSON.
async fn compare(mut body: Value) -> crate::client::Answered {
    body["image"] = json!(BASE64_STANDARD.encode(red()));
    send(post_json("/compare", &body)).await
}

#[tokio::test]
async fn points_that_methods_share_are_evaluated_once_and_the_maps_are_those_of_each_alone() {
    let methods = [
        "gradient",
        "input_x_gradient",
        "guided_backprop",
        "deconvnet",
        "integrated_gradients",
        "pgig",
    ];
    let answer = compare(json!({"methods": methods, "target": 0, "format": "json"}))
        .await
        .answer();
    // 25 points of one path, x among them, and f(x') for completeness.
    assert_eq!(answer["evaluations"], 26);
    let own: u64 = explanations(&answer)
        .iter()
        .map(|one| one["evaluations"].as_u64().unwrap())
        .sum();
    assert_eq!(own, 4 + 26 + 25);
    for (method, together) in methods.iter().zip(explanations(&answer)) {
        assert_eq!(together["method"], *method);
        let alone = send(post(
            &format!("/explain?method={method}&target=0&format=json"),
            red(),
        ))
        .await
        .only();
        assert_eq!(together["parameters"], alone["parameters"]);
        assert_eq!(together["evaluations"], alone["evaluations"], "{method}");
        for (a, b) in values(together).iter().zip(values(&alone)) {
            assert!(
                (a - b).abs() <= 1e-6 * b.abs().max(1.0),
                "{method}: {a} {b}"
            );
        }
    }
}

#[tokio::test]
async fn a_method_may_come_several_times_with_parameters_of_its_own() {
    let methods = json!(["pgig", {"id": "pgig", "pattern_layers": "all"}, {"method": "integrated_gradients", "n_steps": 3}]);
    let answer =
        compare(json!({"methods": methods, "n_steps": 5, "target": "top:2", "format": "json"}))
            .await
            .answer();
    let found: Vec<_> = explanations(&answer)
        .iter()
        .map(|one| {
            (
                &one["parameters"]["n_steps"],
                &one["parameters"]["pattern_layers"],
                &one["target"]["index"],
            )
        })
        .collect();
    assert_eq!(found.len(), 6);
    assert_eq!(
        (found[0].0, found[2].1, found[4].0),
        (&json!(5), &json!("all"), &json!(3))
    );
    assert_eq!((found[0].2, found[1].2), (found[2].2, found[3].2));
    assert_ne!(found[0].2, found[1].2);
    // What an answer states can be posted back as it is.
    let stated: Vec<Value> = explanations(&answer)
        .iter()
        .map(|one| one["parameters"].clone())
        .collect();
    let again = compare(json!({"methods": stated, "format": "json"}))
        .await
        .answer();
    for (a, b) in explanations(&answer).iter().zip(explanations(&again)) {
        assert_eq!((values(a), &a["target"]), (values(b), &b["target"]));
    }
}

#[tokio::test]
async fn a_parameter_for_all_reaches_those_that_take_it() {
    let methods = json!(["gradient", "integrated_gradients", {"id": "integrated_gradients", "rule_set": "pattern_net"}, "pgig"]);
    let body = json!({"methods": methods, "pattern_layers": "all", "n_steps": 2, "format": "json"});
    let answer = compare(body).await.answer();
    let found: Vec<_> = explanations(&answer)
        .iter()
        .map(|one| one["parameters"].get("pattern_layers").cloned())
        .collect();
    assert_eq!(found, [None, None, Some(json!("all")), Some(json!("all"))]);
    let unused = compare(
        json!({"methods": ["integrated_gradients"], "pattern_layers": "all", "format": "json"}),
    )
    .await;
    assert_eq!(unused.refused(), ["pattern_layers"]);
}

#[tokio::test]
async fn a_grid_shows_the_upload_and_a_titled_map_for_each_method() {
    let upload = picture(40, 30, [201, 31, 11]);
    const METHODS: &str = "/compare?method=gradient&method=pgig&method=random&legend=false";
    let one = send(post(METHODS, upload.clone())).await.picture();
    let red = |picture: &image::RgbImage| {
        picture
            .pixels()
            .filter(|pixel| pixel.0 == [201, 31, 11])
            .count()
    };
    // Half of it has that colour.
    assert!(
        red(&one).abs_diff(256 * 192 / 2) < 2000,
        "the upload stands there as it is: {}",
        red(&one)
    );
    assert!(
        one.width() > 2 * 256 && one.width() < 3 * 256 && one.height() > 2 * 192,
        "{:?}: two rows of two",
        one.dimensions()
    );
    let two = "/compare?method=gradient&method=random&legend=false";
    let two = send(post(two, upload.clone())).await.picture();
    assert!(
        two.width() > 3 * 256 && two.height() < 2 * 192,
        "{:?}: three side by side",
        two.dimensions()
    );
    let small = send(post(&format!("{METHODS}&size=100"), upload.clone()))
        .await
        .picture();
    assert!(small.width() < one.width() && small.height() < one.height());
    // No file holds a grid as large as that.
    let huge = send(post(&format!("{METHODS}&size=4096"), upload.clone())).await;
    assert_eq!(
        (huge.refused(), huge.allowed("size").len()),
        (vec!["size".to_owned()], 1)
    );
    let targets = send(post(
        "/compare?method=gradient&method=random&target=top:2",
        upload.clone(),
    ))
    .await
    .picture();
    assert!(
        targets.width() > 3 * 256 && targets.height() > 2 * 192,
        "{:?}: a row for each target",
        targets.dimensions()
    );
    let legend = send(post(
        "/compare?method=gradient&method=pgig&method=random&scale=shared",
        upload,
    ))
    .await;
    assert!(legend.picture().height() > one.height());
    // Large uploads are shown small.
    let large = send(post(
        "/compare?method=gradient",
        picture(900, 300, [1, 2, 3]),
    ))
    .await
    .picture();
    assert!(large.width() < 600, "{:?}", large.dimensions());
}

#[tokio::test]
async fn json_can_carry_the_grid() {
    let answer = compare(json!({"method": "gradient", "include": "heatmap", "format": "json"}))
        .await
        .answer();
    let grid = BASE64_STANDARD
        .decode(answer["heatmap"].as_str().unwrap())
        .unwrap();
    assert!(image::load_from_memory(&grid).unwrap().width() > 16);
    assert!(explanations(&answer)[0].get("heatmap").is_none());
}

#[tokio::test]
async fn tensors_are_compared_in_json() {
    let body = json!({"tensor": {"shape": [2], "data": [1.0, 2.0]}, "model": "numbers", "methods": ["gradient", "input_x_gradient"]});
    let answer = send(post_json("/compare", &body)).await.answer();
    assert_eq!(
        (explanations(&answer).len(), &answer["evaluations"]),
        (2, &json!(2))
    );
}

#[tokio::test]
async fn faults_name_the_method_they_are_about() {
    let methods = json!(["gradient", {"id": "pgig", "n_steps": 0}, {"id": "nothing"}, 7]);
    let refused =
        compare(json!({"methods": methods, "quadrature": "simpson", "nsteps": 3, "format": "npy"}))
            .await;
    assert_eq!(
        refused.refused(),
        [
            "format",
            "methods",
            "methods[1].n_steps",
            "methods[2].method",
            "nsteps",
            "quadrature"
        ]
    );
    assert!(refused.allowed("nsteps").contains(&"n_steps".to_owned()));
    assert_eq!(
        compare(json!({"format": "json"})).await.refused(),
        ["methods"]
    );
    let two = send(multipart(
        "/compare?method=gradient",
        &[("image", &red()), ("image", &red())],
    ))
    .await;
    assert_eq!(two.refused(), ["image"]);
    let tensor = json!({"tensor": {"shape": [2], "data": [1.0, 2.0]}, "model": "numbers", "methods": ["gradient"], "format": "png"});
    assert_eq!(
        send(post_json("/compare", &tensor)).await.refused(),
        ["format"]
    );
}

#[tokio::test]
async fn an_entry_names_one_method_and_the_model_of_all() {
    for (entry, part) in [
        (
            json!({"id": "edges", "method": "random"}),
            "has another id than method",
        ),
        (
            json!({"id": "edges", "model": "other"}),
            "names the model \"other\"",
        ),
    ] {
        let refused = compare(json!({"methods": [entry], "format": "json"})).await;
        assert_eq!(refused.problem(), (422, "invalid_parameters".to_owned()));
        assert!(
            refused.json()["detail"].as_str().unwrap().contains(part),
            "{}",
            refused.json()
        );
    }
    let entry = json!({"id": "edges", "method": "edges", "model": "tiny"});
    compare(json!({"methods": [entry], "format": "json"}))
        .await
        .answer();
}
