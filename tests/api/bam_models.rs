//! Jobs of kind `bam_models` over HTTP: faults, the run on data of `bam_data`, its report, and the
//! models that it leaves.

use std::fs;

use serde_json::{Value, json};

use crate::{
    bam::{asked, material, served, served_with},
    benchmark::Fixture,
    client::{Answered, get, post_json, send_to},
    train::with,
};

const MODELS: [&str; 5] = ["object", "scene", "k01", "k02", "k03"];

fn request() -> Value {
    json!({
        "kind": "bam_models", "model": "tiny", "data": "mine", "epochs": 4, "batch_size": 4, "learning_rate": 0.1, "seed": 5,
    })
}

async fn make_data(fixture: &Fixture, changes: Value) {
    fixture.work();
    let id = fixture.submit(&with(asked(), changes)).await;
    let job = fixture.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
}

async fn refused(fixture: &Fixture, changes: Value) -> Answered {
    send_to(
        &fixture.router,
        post_json("/jobs", &with(request(), changes)),
    )
    .await
}

#[tokio::test]
async fn models_are_trained_judged_and_served() {
    let folder = material();
    let fixture = served(folder.path());
    make_data(&fixture, json!({})).await;
    let id = fixture.submit(&request()).await;
    let job = fixture.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    // Four epochs, or eight on half as many pictures, and a judgement each. 18 pictures in train sets
    // and in tests, 9 in each k, 8 of the feature.
    assert_eq!(job["parameters"]["feature_epochs"], 8);
    assert_eq!(
        (&job["shards"], &job["total"]),
        (&json!(37), &json!(2 * 5 * 18 + 3 * (8 * 9 + 8)))
    );
    let spec = &job["parameters"];
    assert_eq!(
        (
            &spec["loss"],
            &spec["new_head"],
            &spec["validation"],
            &spec["name"]
        ),
        (
            &json!("cross_entropy"),
            &json!(true),
            &json!(0.0),
            &json!("mine")
        )
    );
    let models = job["result"]["models"].as_array().unwrap();
    assert_eq!(models.len(), MODELS.len());
    for (at, (model, name)) in models.iter().zip(MODELS).enumerate() {
        let (is_series, judged) = (at > 1, &model["judged"]);
        let epochs = if is_series { 8 } else { 4 };
        assert_eq!(
            (&model["name"], &model["epoch"]),
            (&json!(name), &json!(epochs))
        );
        assert_eq!(model["model"], format!("mine_{name}"));
        assert_eq!(model["epochs"].as_array().unwrap().len(), epochs);
        assert_eq!(model["left_out"]["unlabelled"], 0);
        let feature = if is_series {
            json!(["red", "sky"])
        } else {
            Value::Null
        };
        assert_eq!(model["feature"], feature, "in the first scene class");
        let images = if is_series { 4 } else { 6 };
        for role in ["with", "without", "grey"] {
            if role == "grey" && is_series {
                assert_eq!(judged["grey"], Value::Null);
                continue;
            }
            let share = &judged[role];
            assert_eq!(share["images"], images, "{model}");
            let [low, high] = [0, 1].map(|end| share["interval"][end].as_f64().unwrap());
            let value = share["share"].as_f64().unwrap();
            assert!(0.0 <= low && low <= value && value <= high && high <= 1.0);
        }
        let card = send_to(&fixture.router, get(&format!("/models/mine_{name}")))
            .await
            .answer();
        assert_eq!(
            (&card["parent"]["id"], &card["provenance"]["job"]),
            (&json!("tiny"), &json!(id))
        );
        assert_eq!(card["provenance"]["dataset"]["id"], model["dataset"]);
        let labels = if at == 0 {
            json!(["blue", "red"])
        } else {
            json!(["forest", "sea", "sky"])
        };
        assert_eq!(card["labels"], labels);
    }
    let share = |model: usize, what: &str| models[model]["judged"][what]["share"].as_f64();
    // Discs of red and of blue are told apart, and scenes alone are not told by what is not there.
    assert_eq!(share(0, "with"), Some(1.0));
    assert!(share(0, "without") < Some(1.0));
    assert_eq!(models[0]["judged"]["more_confident"]["images"], 6);
    let drop = share(2, "with").unwrap() - share(2, "without").unwrap();
    assert_eq!(models[2]["judged"]["accuracy_drop"].as_f64(), Some(drop));
    assert_eq!(models[3]["commonality"].as_f64(), Some(2.0 / 3.0));

    let json = fixture.report(&id, "json").await.answer();
    assert_eq!(
        (&json["kind"], &json["result"]),
        (&json!("bam_models"), &job["result"])
    );
    let csv = fixture.report(&id, "csv").await.text();
    let mut rows = csv::Reader::from_reader(csv.as_bytes());
    let head = rows.headers().unwrap().clone();
    let column = |name: &str| head.iter().position(|found| found == name).unwrap();
    let (name, with_it, grey) = (column("name"), column("with"), column("grey_images"));
    for (at, row) in rows.records().map(Result::unwrap).enumerate() {
        assert_eq!(&row[name], MODELS[at]);
        assert_eq!(row[with_it].parse::<f64>().ok(), share(at, "with"));
        assert_eq!(&row[grey], if at > 1 { "" } else { "6" });
    }
    let page = fixture.report(&id, "html").await.text();
    for words in [
        "<h1>BAM models: tiny on mine</h1>",
        "5 models were trained from <b>tiny</b> and are served.",
        "commonality k of the feature",
        "The feature, <b>red</b>, is in every picture",
        "k = 0.67",
        "mine_scene_train",
        "&quot;kind&quot;: &quot;bam_models&quot;",
    ] {
        assert!(page.contains(words), "{words}");
    }
    assert!(!page.contains("<script") && !page.contains("src="));

    // The settled request gives the same models, under other names.
    let again = with(
        json["request"].clone(),
        json!({ "kind": "bam_models", "name": "again" }),
    );
    let again = fixture.submit(&again).await;
    assert_eq!(fixture.ended(&again).await["state"], "succeeded");
    let onnx = |start: &str, name: &str| {
        let folder = fixture.data.path().join("files/trained");
        fs::read(folder.join(format!("{start}_{name}/model.onnx"))).unwrap()
    };
    for name in MODELS {
        assert!(onnx("mine", name) == onnx("again", name), "{name}");
    }
    // Their names are taken now.
    let told = refused(&fixture, json!({})).await;
    assert_eq!(told.refused(), vec!["name"; 5]);
    assert!(told.text().contains("there is a model mine_k02 already"));
    // A data set that has changed is not the one that was asked for.
    let changed = json!({ "dataset_hashes": { "mine_test": "ab" }, "name": "third" });
    assert_eq!(
        refused(&fixture, changed).await.refused(),
        ["dataset_hashes"]
    );
}

#[tokio::test]
async fn without_a_common_feature_there_are_two_models() {
    let folder = material();
    let fixture = served(folder.path());
    make_data(&fixture, json!({ "common_feature": null })).await;
    let told = refused(&fixture, json!({ "feature_epochs": 3 })).await;
    assert_eq!(told.refused(), ["feature_epochs"]);
    // Null is absent: of these names the default is the data's, and data has none.
    let told = refused(&fixture, json!({ "data": null, "name": null })).await;
    assert_eq!(told.refused(), ["data"]);
    let id = fixture
        .submit(&with(
            request(),
            json!({ "validation": 0.25, "patience": 1, "learning_rate": 5 }),
        ))
        .await;
    let job = fixture.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(
        job["shards_done"], 10,
        "epochs that are left out end at once"
    );
    let models = job["result"]["models"].as_array().unwrap();
    assert_eq!(models.len(), 2);
    for model in models {
        assert!(model["epochs"][0]["validation_loss"].as_f64().is_some());
    }
    let page = fixture.report(&id, "html").await.text();
    assert!(page.contains("weights of epoch") && !page.contains("A common feature"));
}

#[tokio::test]
async fn all_faults_of_a_request_are_told_at_once() {
    let folder = material();
    let fixture = served(folder.path());
    let told = refused(
        &fixture,
        json!({
            "model": "tynie", "data": "a/b", "name": ".b", "epochs": 0, "loss": "mse", "new_head": false, "limit": 3, "momentum": 0.5,
        }),
    )
    .await;
    assert_eq!(
        told.refused(),
        [
            "data", "epochs", "limit", "loss", "model", "momentum", "name", "new_head"
        ]
    );
    let missing = send_to(
        &fixture.router,
        post_json("/jobs", &json!({ "kind": "bam_models", "model": "tiny" })),
    )
    .await;
    assert_eq!(missing.refused(), ["data"]);
    // No data set is there.
    let told = refused(&fixture, json!({ "train": "head", "epoch": 3 })).await;
    assert_eq!(told.refused(), ["data", "data", "data", "epoch"]);
    let text = told.text();
    for id in ["mine_object_train", "mine_scene_train", "mine_test"] {
        let words =
            format!("there is no data set {id}: a job of kind bam_data with id mine makes it");
        assert!(text.contains(&words), "{text}");
    }

    make_data(&fixture, json!({})).await;
    let told = refused(&fixture, json!({ "train": "from:no such layer" })).await;
    assert_eq!(told.refused(), ["train"], "once, not for each model");
    let numbers = refused(&fixture, json!({ "model": "numbers" })).await;
    assert_eq!(numbers.refused(), ["model"]);
    let long = refused(&fixture, json!({ "name": "x".repeat(60) })).await;
    assert_eq!(long.refused(), vec!["name"; 2], "x_object and x_scene");
    let delete = async |id: &str| {
        let request = axum::http::Request::delete(format!("/datasets/{id}"));
        let request = request.body(axum::body::Body::empty()).unwrap();
        assert_eq!(send_to(&fixture.router, request).await.status, 204);
    };
    // A series with gaps, and one that is too short.
    delete("mine_k03").await;
    let told = refused(&fixture, json!({})).await;
    assert_eq!(told.refused(), ["data"]);
    assert!(
        told.text().contains("mine_k01 to mine_k02, and 3 classes"),
        "{}",
        told.text()
    );
    delete("mine_k01").await;
    delete("mine_feature_test").await;
    let told = refused(&fixture, json!({})).await;
    assert_eq!(told.refused(), vec!["data"; 3]);
    let words =
        "no data set mine_k01: a job of kind bam_data with id mine and a common_feature makes it";
    assert!(told.text().contains(words), "{}", told.text());
}

#[tokio::test]
async fn a_job_that_costs_too_much_or_trains_too_many_models_is_refused() {
    let folder = material();
    let few = served_with(
        folder.path(),
        &[("max_job_evaluations", "400"), ("max_trained_models", "4")],
    );
    make_data(&few, json!({})).await;
    let told = refused(&few, json!({})).await;
    assert_eq!(told.problem(), (507, "too_many_models".to_owned()));
    assert!(
        told.text().contains("this one would train 5"),
        "{}",
        told.text()
    );
    let few = served_with(folder.path(), &[("max_job_evaluations", "300")]);
    make_data(&few, json!({})).await;
    let told = refused(&few, json!({})).await;
    assert_eq!(told.problem(), (422, "job_too_costly".to_owned()));
    // 360 pictures in four epochs and eight, and 60 that are judged: two thirds of the epochs.
    let lowered = [("epochs", "1 to 2"), ("feature_epochs", "1 to 5")];
    for (param, allowed) in lowered {
        assert!(told.text().contains(allowed), "{param}: {}", told.text());
    }
}
