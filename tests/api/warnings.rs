//! What an answer says beside its map: in JSON, and in the headers of a picture.

use std::fs;

use serde_json::Value;

use crate::{
    client::{get, multipart, post, send, send_to},
    fixture::{self, Service, blue, open, picture, red},
};

/// A service with one model of these files.
fn alone(files: &[(&str, &[u8])]) -> (Service, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("own")).unwrap();
    files
        .iter()
        .for_each(|(name, bytes)| fs::write(folder.path().join("own").join(name), bytes).unwrap());
    let models = folder.path().to_str().unwrap();
    (
        open(&[
            ("models", models),
            ("default_model", "own"),
            ("data", &format!("{models}/.data")),
        ]),
        folder,
    )
}

/// `tiny` without a model.toml, its labels in three scripts.
fn scripts() -> (Service, tempfile::TempDir) {
    alone(&[
        ("model.onnx", &fixture::colour_model()),
        ("labels.txt", "猫\nкошка\nแมว\n".as_bytes()),
    ])
}

fn warnings(answer: &Value) -> Vec<String> {
    serde_json::from_value(answer["warnings"].clone()).unwrap()
}

#[tokio::test]
async fn what_a_model_leaves_unsaid_is_told_with_each_answer_and_in_the_list_of_models() {
    let (service, _folder) = scripts();
    let assumed = "model.toml does not give mean, std, resize: assumed ImageNet's mean and std, and a short side of 9 with a centre crop";
    let models = send_to(&service.router, get("/models")).await.answer();
    assert_eq!(warnings(&models["models"][0]), [assumed]);
    let square = picture(8, 8, [250, 40, 20]);
    for uri in ["/predict", "/explain?method=gradient&format=json"] {
        assert_eq!(
            warnings(
                &send_to(&service.router, post(uri, square.clone()))
                    .await
                    .only()
            ),
            [assumed]
        );
    }
    let wide = send_to(
        &service.router,
        post("/predict", picture(48, 8, [250, 40, 20])),
    )
    .await
    .only();
    // Resized to 54 x 9, of which the crop takes 8 x 8 from (23, 0) on.
    let seen = "the model saw 8 x 7 pixels of the upload's 48 x 8 (15 %), from (20, 0): its crop left out the rest";
    assert_eq!(warnings(&wide), [assumed, seen]);
    assert_eq!(
        warnings(
            &send(post("/predict?model=tiny", picture(48, 8, [250, 40, 20])))
                .await
                .only()
        ),
        [""; 0]
    );
}

#[tokio::test]
async fn a_label_beyond_ascii_is_in_the_header_as_rfc_8187_says() {
    let (service, _folder) = scripts();
    for (target, header) in [
        ("猫", "UTF-8''0%20%E7%8C%AB"),
        ("2", "UTF-8''2%20%E0%B9%81%E0%B8%A1%E0%B8%A7"),
    ] {
        let uri = format!(
            "/explain?method=gradient&format=png&target={}",
            target.replace('猫', "%E7%8C%AB")
        );
        let answer = send_to(&service.router, post(&uri, red())).await;
        answer.picture();
        assert_eq!(answer.header("x-explaind-target"), Some(header));
    }
    let grid = send_to(
        &service.router,
        post(
            "/compare?method=gradient&method=grad_cam&target=top:3",
            red(),
        ),
    )
    .await;
    grid.picture();
    assert!(
        grid.header("x-explaind-warnings")
            .unwrap()
            .starts_with("model.toml does not give")
    );
}

#[tokio::test]
async fn a_delta_that_is_not_finite_is_told_and_in_no_header() {
    let toml = b"head = \"logits\"\n[input]\nmean = 0.0\nstd = 1.0\nresize = \"stretch\"\n";
    let (service, _folder) = alone(&[
        ("model.onnx", &fixture::logarithm_model()),
        ("model.toml", toml),
    ]);
    let said = "the target's value at the baseline is not finite: there is no convergence_delta";
    let drawn = send_to(
        &service.router,
        post("/explain?method=integrated_gradients", red()),
    )
    .await;
    drawn.picture();
    assert_eq!(drawn.header("x-explaind-convergence-delta"), None);
    assert_eq!(drawn.header("x-explaind-warnings"), Some(said));
    let answer = send_to(
        &service.router,
        post("/explain?method=integrated_gradients&format=json", red()),
    )
    .await
    .only();
    assert!(answer["convergence_delta"].is_null());
    assert_eq!(warnings(&answer), [said]);
}

#[tokio::test]
async fn an_empty_map_says_what_happened() {
    let equal = multipart(
        "/explain?method=integrated_gradients&format=json",
        &[("image", &red()), ("baseline", &red())],
    );
    let said = warnings(&send(equal).await.only());
    assert_eq!(
        said,
        ["the baseline equals the input: there is no path between them"]
    );
    let other = multipart(
        "/explain?method=integrated_gradients&format=json",
        &[("image", &red()), ("baseline", &blue())],
    );
    assert_eq!(warnings(&send(other).await.only()), [""; 0]);
    for (uri, said) in [
        (
            "method=grad_cam&target=green",
            "no weighted sum over the channels of layer relu is positive: this layer speaks against the target",
        ),
        (
            "method=var_grad&n_samples=1",
            "the variance of one sample is zero: raise n_samples",
        ),
        (
            "method=smooth_grad&n_samples=1",
            "n_samples is 1: nothing is averaged; raise it",
        ),
    ] {
        let answer = send(post(&format!("/explain?format=json&{uri}"), red()))
            .await
            .only();
        assert_eq!(warnings(&answer), [said], "{uri}");
        let drawn = send(post(&format!("/explain?{uri}"), red())).await;
        drawn.picture();
        assert_eq!(drawn.header("x-explaind-warnings"), Some(said), "{uri}");
    }
    let flat = picture(8, 8, [7; 3]);
    let flat = image::load_from_memory(&flat)
        .unwrap()
        .crop_imm(4, 0, 4, 8)
        .into_rgb8();
    let answer = send(post(
        "/explain?method=edges&format=json",
        fixture::encode(&flat, image::ImageFormat::Png),
    ))
    .await;
    assert_eq!(warnings(&answer.only()), ["the picture has no edges"]);
}

#[tokio::test]
async fn a_map_of_one_region_says_why_and_its_outline_that_there_is_none() {
    let answer = send(post("/explain?method=xrai&type=OUTLINES", red())).await;
    answer.picture();
    let said = "the map is one region: the segmentation finds no other in 8 x 8 pixels; send segments of your own; \
                the map has no border inside the picture: type=outlines draws nothing";
    assert_eq!(answer.header("x-explaind-warnings"), Some(said));
}

#[tokio::test]
async fn a_set_of_two_images_gives_two_baselines_however_many_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [("a.png", red()), ("b.png", blue())] {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    let service = open(&[("dataset", &format!("two={}", folder.path().display()))]);
    let uri = "/explain?method=integrated_gradients&quadrature=riemann_trapezoid&n_steps=3&baseline=dataset:two:50&format=json";
    let answer = send_to(&service.router, post(uri, picture(8, 8, [90, 200, 30])))
        .await
        .only();
    assert_eq!(
        warnings(&answer),
        ["the set two has 2 of the 50 images asked for as baselines"]
    );
    // And one for the predictions.
    assert_eq!(answer["evaluations"], 2 * 3 + 1);
    assert_eq!(answer["parameters"]["baseline"], "dataset:two:50");
}
