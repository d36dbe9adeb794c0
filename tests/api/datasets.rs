//! Data sets over HTTP: listed, uploaded, replaced, taken away, and drawn from.

use std::{fs, io::Write};

use axum::{
    body::Body,
    http::{Method, Request},
};
use futures::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;
use zip::{ZipWriter, write::SimpleFileOptions};

use crate::{
    client::{Answered, get, post, send_to},
    fixture::{Service, blue, open, picture, red},
};

/// A service with one folder of its own: two red images and one blue, one of them broken in the
/// middle.
struct Fixture {
    service: Service,
    photos: TempDir,
    data: TempDir,
}

fn fixture() -> Fixture {
    let (photos, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (name, bytes) in [
        ("red/a.png", red()),
        ("red/b.png", red().slice(..40)),
        ("blue/c.png", blue()),
    ] {
        let path = photos.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let settings = format!(
        "photos={},lost={}/lost",
        photos.path().display(),
        photos.path().display()
    );
    let service = open(&[
        ("data", data.path().to_str().unwrap()),
        ("dataset", &settings),
        ("max_dataset_bytes", "100000"),
    ]);
    Fixture {
        service,
        photos,
        data,
    }
}

fn request(method: Method, uri: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(uri)
        .body(body.into())
        .unwrap()
}

impl Fixture {
    async fn get(&self, uri: &str) -> Answered {
        send_to(&self.service.router, get(uri)).await
    }

    async fn put(&self, uri: &str, body: impl Into<Body>) -> Answered {
        send_to(&self.service.router, request(Method::PUT, uri, body)).await
    }

    async fn delete(&self, uri: &str) -> Answered {
        send_to(
            &self.service.router,
            request(Method::DELETE, uri, Body::empty()),
        )
        .await
    }
}

fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        writer
            .start_file(*name, SimpleFileOptions::default())
            .unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[tokio::test]
async fn sets_are_listed_with_their_counts_and_problems() {
    let fixture = fixture();
    let list = fixture.get("/datasets").await.answer();
    let [photos] = list["datasets"].as_array().unwrap().as_slice() else {
        panic!("{list}")
    };
    assert_eq!(
        (&photos["id"], &photos["uploaded"]),
        (&json!("photos"), &json!(false))
    );
    assert_eq!(
        (&photos["images"], &photos["labelled"], &photos["problems"]),
        (&json!(3), &json!(3), &json!(1))
    );
    assert_eq!(list["broken_datasets"][0]["id"], "lost");
    let card = fixture.get("/datasets/photos?model=tiny").await.answer();
    assert_eq!(card["labels"], json!({ "red": 2, "blue": 1 }));
    assert_eq!(
        (
            &card["problem_list"][0]["file"],
            &card["problem_list"][0]["kind"]
        ),
        (&json!("red/b.png"), &json!("corrupt_image"))
    );
    fs::create_dir(fixture.photos.path().join("mauve")).unwrap();
    fs::write(fixture.photos.path().join("mauve/d.png"), red()).unwrap();
    let card = fixture.get("/datasets/photos?model=tiny").await.answer();
    let kinds: Vec<&Value> = card["problem_list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| &problem["kind"])
        .collect();
    assert_eq!(kinds, ["corrupt_image", "unknown_label"]);
    assert_eq!(
        fixture.get("/datasets/photos").await.answer()["problems"],
        1
    );
}

#[tokio::test]
async fn an_upload_is_listed_replaced_and_taken_away() {
    let fixture = fixture();
    let first = fixture
        .put(
            "/datasets/mine",
            zip(&[("set/a.png", &red()), ("set/b.png", &blue())]),
        )
        .await;
    assert_eq!(
        (first.status.as_u16(), first.header("location")),
        (201, Some("/datasets/mine")),
        "{}",
        first.text()
    );
    assert_eq!(
        (&first.json()["images"], &first.json()["uploaded"]),
        (&json!(2), &json!(true))
    );
    let second = fixture
        .put("/datasets/mine", zip(&[("c.png", &red())]))
        .await
        .answer();
    assert_ne!(second["hash"], first.json()["hash"]);
    assert_eq!(fixture.get("/datasets/mine").await.answer()["images"], 1);
    assert_eq!(fixture.delete("/datasets/mine").await.status, 204);
    assert_eq!(
        fixture.get("/datasets/mine").await.problem(),
        (404, "unknown_dataset".into())
    );
    assert_eq!(
        fixture.delete("/datasets/mine").await.problem(),
        (404, "unknown_dataset".into())
    );
}

#[tokio::test]
async fn bad_uploads_are_refused_and_leave_the_set_as_it_was() {
    let fixture = fixture();
    let good = fixture
        .put("/datasets/mine", zip(&[("a.png", &red())]))
        .await
        .json();
    for (uri, body, problem) in [
        (
            "/datasets/mine",
            zip(&[("../a.png", &red())]),
            (422, "refused_entry"),
        ),
        (
            "/datasets/mine",
            zip(&[(&format!("{}.png", "n".repeat(300)), &red())]),
            (422, "refused_entry"),
        ),
        (
            "/datasets/mine",
            zip(&[("a.png", &red()), ("a.png/b.png", &red())]),
            (422, "refused_entry"),
        ),
        (
            "/datasets/mine",
            zip(&[("a.txt", b"x")]),
            (422, "empty_dataset"),
        ),
        (
            "/datasets/mine",
            zip(&[("a.png", &red())])[..50].to_vec(),
            (422, "broken_archive"),
        ),
        (
            "/datasets/mine",
            zip(&[("a.png", &[0; 200_000])]),
            (413, "archive_too_large"),
        ),
        (
            "/datasets/mine",
            vec![b'x'; 200_000],
            (413, "body_too_large"),
        ),
        (
            "/datasets/mine",
            b"words".to_vec(),
            (415, "unsupported_archive"),
        ),
        (
            "/datasets/photos",
            zip(&[("a.png", &red())]),
            (409, "configured_dataset"),
        ),
        (
            "/datasets/.mine",
            zip(&[("a.png", &red())]),
            (422, "invalid_id"),
        ),
        (
            "/datasets/a%2Fb",
            zip(&[("a.png", &red())]),
            (422, "invalid_id"),
        ),
    ] {
        let answer = fixture.put(uri, body).await;
        assert_eq!(
            answer.problem(),
            (problem.0, problem.1.to_owned()),
            "{uri}: {}",
            answer.text()
        );
    }
    assert_eq!(
        fixture.get("/datasets/mine").await.answer()["hash"],
        good["hash"]
    );
    assert_eq!(
        fixture.delete("/datasets/photos").await.problem(),
        (409, "configured_dataset".into())
    );
    assert_eq!(
        fixture
            .put("/datasets/mine?mode=x", Vec::new())
            .await
            .refused(),
        ["mode"]
    );
    assert_eq!(
        fixture.get("/datasets/mine?models=tiny").await.refused(),
        ["models"]
    );
}

#[tokio::test]
async fn files_that_were_left_out_are_told_by_their_extensions() {
    let fixture = fixture();
    let entries: [(&str, &[u8]); 5] = [
        ("a.jfif", &red()),
        ("b.heic", b"x"),
        ("c.HEIC", b"x"),
        ("Thumbs.db", b"x"),
        ("d.docx", b"x"),
    ];
    let card = fixture.put("/datasets/mine", zip(&entries)).await.json();
    assert_eq!(
        (&card["images"], &card["ignored_files"]),
        (&json!(1), &json!(3))
    );
    assert_eq!(card["ignored"], json!({ ".heic": 2, ".docx": 1 }));
    let list = fixture.get("/datasets").await.answer();
    assert_eq!(list["datasets"][0]["ignored"], card["ignored"]);
}

#[tokio::test]
async fn the_contract_says_which_ids_there_may_be() {
    let fixture = fixture();
    let document: Value = serde_json::to_value(explaind::api::document::document()).unwrap();
    let schema = &document["paths"]["/datasets/{id}"]["put"]["parameters"][0]["schema"];
    let longest = "x".repeat(64);
    let too_long = "x".repeat(65);
    for id in [
        "a", "A-b_c.9", "_", "-", "a..b", ".a", "a b", "a:b", "é", "a+b", "a~", &longest, &too_long,
    ] {
        let encoded: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let refused = fixture
            .put(&format!("/datasets/{encoded}"), "words")
            .await
            .problem()
            .1
            == "invalid_id";
        assert_eq!(jsonschema::is_valid(schema, &json!(id)), !refused, "{id}");
    }
}

#[tokio::test]
async fn answers_are_as_long_as_a_reader_can_use() {
    let fixture = fixture();
    let table: String = (0..1500)
        .map(|at| format!("gone{at}.png,label{at}\n"))
        .collect();
    fs::write(
        fixture.photos.path().join("labels.csv"),
        format!("file,label\n{table}"),
    )
    .unwrap();
    for at in 0..1100 {
        fs::write(fixture.photos.path().join(format!("gone{at}.png")), "").unwrap();
    }
    let card = fixture.get("/datasets/photos").await.answer();
    assert_eq!(
        (&card["images"], &card["distinct_labels"]),
        (&json!(1103), &json!(1100))
    );
    assert_eq!(card["labels"].as_object().unwrap().len(), 1000);
    assert_eq!(card["problem_list"].as_array().unwrap().len(), 1000);
    // Of 400 lines without a file, 1101 corrupt images, and 3 that the table does not name.
    assert_eq!(card["problems"], 1504);
    let unknown = fixture
        .get(&format!("/datasets/{}", "x".repeat(5000)))
        .await;
    assert_eq!(unknown.problem(), (404, "unknown_dataset".into()));
    assert!(unknown.body.len() < 1000, "{}", unknown.text());
}

#[tokio::test]
async fn what_there_is_no_room_for_is_refused_with_the_numbers() {
    let data = tempfile::tempdir().unwrap();
    let limits = [
        ("data", data.path().to_str().unwrap()),
        ("max_data_bytes", "150000"),
        ("max_datasets", "2"),
    ];
    let service = open(&limits);
    let put = async |id: &str, archive: Vec<u8>| {
        send_to(
            &service.router,
            request(Method::PUT, &format!("/datasets/{id}"), archive),
        )
        .await
    };
    let large = zip(&[("a.png", &red()), ("b.png", &[7; 200_000])]);
    let refused = put("large", large).await;
    assert_eq!(
        refused.problem(),
        (507, "quota_exceeded".into()),
        "{}",
        refused.text()
    );
    assert!(
        refused.text().contains("150000 bytes"),
        "{}",
        refused.text()
    );
    let packed = put("large", vec![b'x'; 200_000]).await;
    assert_eq!(
        packed.problem(),
        (507, "quota_exceeded".into()),
        "while it is sent: {}",
        packed.text()
    );
    for id in ["one", "two"] {
        assert_eq!(put(id, zip(&[("a.png", &red())])).await.status, 201);
    }
    assert_eq!(
        put("three", zip(&[("a.png", &red())])).await.problem(),
        (507, "too_many_datasets".into())
    );
    assert_eq!(put("two", zip(&[("a.png", &blue())])).await.status, 200);
    let delete = request(Method::DELETE, "/datasets/one", Body::empty());
    assert_eq!(send_to(&service.router, delete).await.status, 204);
    assert_eq!(put("three", zip(&[("a.png", &red())])).await.status, 201);
}

#[tokio::test]
async fn a_data_folder_that_is_away_is_the_servers_fault_and_its_path_is_not_told() {
    let fixture = fixture();
    let data = fixture.data.path();
    fs::write(data.join("datasets"), "in the way").unwrap();
    let answer = fixture
        .put("/datasets/mine", zip(&[("a.png", &red())]))
        .await;
    assert_eq!(
        answer.problem(),
        (503, "storage_unavailable".into()),
        "{}",
        answer.text()
    );
    let list = fixture.get("/datasets").await;
    let lost = fixture.get("/datasets/lost").await;
    assert_eq!(
        lost.problem(),
        (503, "storage_unavailable".into()),
        "{}",
        lost.text()
    );
    let baseline = "/explain?method=integrated_gradients&baseline=dataset:lost&model=tiny";
    let drawn = send_to(&fixture.service.router, post(baseline, red())).await;
    for answer in [answer, list, lost, drawn] {
        for folder in [data, fixture.photos.path()] {
            assert!(
                !answer.text().contains(folder.to_str().unwrap()),
                "{}",
                answer.text()
            );
        }
    }
    fs::remove_file(data.join("datasets")).unwrap();
    assert_eq!(
        fixture
            .put("/datasets/mine", zip(&[("a.png", &red())]))
            .await
            .status,
        201
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_one_set_at_once_are_all_taken_and_one_of_them_stays() {
    let fixture = fixture();
    for round in 0..4 {
        let uri = format!("/datasets/race{round}");
        let archives: Vec<_> = (0..8_u8)
            .map(|at| zip(&[("a.png", &picture(9, 9, [at, 0, 0]))]))
            .collect();
        let answers = join_all(
            archives
                .into_iter()
                .map(|archive| fixture.put(&uri, archive)),
        )
        .await;
        let count = |status: u16| {
            answers
                .iter()
                .filter(|answer| answer.status == status)
                .count()
        };
        assert_eq!((count(201), count(200)), (1, 7));
        let found = fixture.get(&uri).await.answer();
        assert!(
            answers
                .iter()
                .any(|answer| answer.json()["hash"] == found["hash"])
        );
    }
}

#[tokio::test]
async fn unknown_labels_of_any_number_and_length_are_told_once_each_in_a_bounded_answer() {
    let fixture = fixture();
    let names: Vec<String> = (0..60).map(|at| format!("{at}.png")).collect();
    let mut lines = String::from("file,label\n");
    for (at, name) in names.iter().enumerate() {
        let labels: Vec<String> = (0..30)
            .map(|label| format!("redd{}", 30 * (at % 50) + label))
            .collect();
        lines += &format!("{name},{}\n", labels.join("|"));
    }
    lines += &format!(
        "gone.png,{}\n0.png,{}\n",
        "x".repeat(4_000),
        "y".repeat(4_000)
    );
    let images: Vec<bytes::Bytes> = names.iter().map(|_| red()).collect();
    let mut entries: Vec<(&str, &[u8])> = names
        .iter()
        .map(String::as_str)
        .zip(images.iter().map(|i| &i[..]))
        .collect();
    entries.push(("labels.csv", lines.as_bytes()));
    fixture.put("/datasets/many", zip(&entries)).await;
    let answer = fixture.get("/datasets/many?model=tiny").await;
    let card = answer.answer();
    assert!(answer.body.len() < 500_000, "{}", answer.body.len());
    // 1500 but the 30 of the first image, whose last line has none that can be read.
    assert_eq!(
        (
            &card["distinct_labels"],
            card["labels"].as_object().unwrap().len()
        ),
        (&json!(1500), 1000)
    );
    let problems = card["problem_list"].as_array().unwrap();
    let unknown: Vec<&str> = problems
        .iter()
        .filter(|problem| problem["kind"] == "unknown_label")
        .map(|problem| problem["message"].as_str().unwrap())
        .collect();
    assert_eq!(card["problems"], 1500 + (problems.len() - unknown.len()));
    assert_eq!(
        unknown
            .iter()
            .filter(|message| message.contains("near: red"))
            .count(),
        20
    );
    assert!(unknown.iter().any(|message| message.contains("(2 images)")));
}

#[tokio::test]
async fn the_rows_numbers_do_not_hide_the_labels_and_a_contradiction_is_a_problem() {
    let fixture = fixture();
    let labels = async |id: &str, table: &str| {
        let files = [
            ("a.png", &red()[..]),
            ("b.png", &blue()[..]),
            ("labels.csv", table.as_bytes()),
        ];
        fixture.put(&format!("/datasets/{id}"), zip(&files)).await;
        fixture
            .get(&format!("/datasets/{id}?model=tiny"))
            .await
            .answer()
    };
    let numbered = labels("numbered", "index,file,label\n0,a.png,blue\n1,b.png,red\n").await;
    assert_eq!(
        (&numbered["labels"], &numbered["problems"]),
        (&json!({ "blue": 1, "red": 1 }), &json!(0))
    );
    let wrong = labels("wrong", "index,file,label\n1,a.png,blue\n2,b.png,blue\n").await;
    assert_eq!(wrong["problem_list"][0]["kind"], "ambiguous_label");
    assert_eq!(
        wrong["problem_list"][0]["message"],
        "index 1 is `green`, label says `blue`"
    );
    assert_eq!(wrong["problems"], 1);
    let indices = labels("indices", "index,file\n0,a.png\n9,b.png\n").await;
    assert_eq!(indices["labels"], json!({ "index:0": 1, "index:9": 1 }));
    assert_eq!(
        indices["problem_list"][0]["message"],
        "index 9 is not below the number of classes, 3"
    );
}

#[tokio::test]
async fn the_name_of_an_only_folder_is_a_label_where_the_model_has_such_a_class() {
    let fixture = fixture();
    for (folder, labels, labelled) in [("red", json!({ "red": 2 }), 2), ("photos", json!({}), 0)] {
        let (a, b) = (format!("{folder}/a.png"), format!("{folder}/b.png"));
        let uri = format!("/datasets/{folder}1");
        let put = fixture
            .put(&uri, zip(&[(a.as_str(), &red()), (b.as_str(), &blue())]))
            .await
            .json();
        assert_eq!(
            (&put["labels"], &put["problem_list"][0]["kind"]),
            (&json!({ folder: 2 }), &json!("only_folder"))
        );
        let card = fixture.get(&format!("{uri}?model=tiny")).await.answer();
        assert_eq!(
            (&card["labels"], &card["labelled"]),
            (&labels, &json!(labelled))
        );
        let told = card["problem_list"].as_array().unwrap();
        assert_eq!(
            told.iter()
                .filter(|problem| problem["kind"] == "only_folder")
                .count(),
            usize::from(labelled == 0)
        );
    }
}

#[tokio::test]
async fn a_baseline_is_drawn_from_a_set() {
    let fixture = fixture();
    fixture
        .put(
            "/datasets/black",
            zip(&[("a.png", &picture(9, 9, [0, 0, 0]))]),
        )
        .await;
    let explain = async |baseline: &str| {
        let uri = format!(
            "/explain?method=integrated_gradients&format=json&encoding=list&baseline={baseline}"
        );
        send_to(&fixture.service.router, post(&uri, red())).await
    };
    let (drawn, black) = (
        explain("dataset:black").await.only(),
        explain("black").await.only(),
    );
    assert_eq!(drawn["parameters"]["baseline"], "dataset:black:5");
    // Five paths averaged in place of one.
    for (drawn, black) in crate::client::values(&drawn)
        .iter()
        .zip(crate::client::values(&black))
    {
        assert!(
            (drawn - black).abs() <= 1e-5 * black.abs().max(1e-3),
            "{drawn} {black}"
        );
    }
    let missing = explain("dataset:white").await;
    assert_eq!(missing.refused(), ["baseline"]);
    assert!(
        missing.text().contains("black, lost, photos"),
        "{}",
        missing.text()
    );
}

#[tokio::test]
async fn groups_roles_and_boxes_are_counted_and_a_bad_box_is_told_with_its_place() {
    let fixture = fixture();
    let table = "file,group,role,x0,y0,x1,y1\n\
                 a.png,1,with,0,0,1,1\n\
                 b.png,1,without,0,0,1e9,1\n\
                 c.png,2,with,,,,\n";
    let archive = zip(&[
        ("set/a.png", &red()),
        ("set/b.png", &blue()),
        ("set/c.png", &red()),
        ("set/labels.csv", table.as_bytes()),
    ]);
    let card = fixture.put("/datasets/pairs", archive).await;
    assert_eq!(card.status, 201, "{}", card.text());
    let card = card.json();
    assert_eq!(card["roles"], json!({ "with": 2, "without": 1 }));
    assert_eq!(
        (
            &card["distinct_roles"],
            &card["distinct_groups"],
            &card["boxed"]
        ),
        (&json!(2), &json!(2), &json!(1))
    );
    let told = card["problem_list"].as_array().unwrap();
    let message = told[0]["message"].as_str().unwrap();
    assert!(
        message
            .starts_with("row 2 below the first line, column x1: 1000000000 lies outside of b.png"),
        "{message}"
    );
}
