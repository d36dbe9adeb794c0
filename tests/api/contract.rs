//! Holds answers against the OpenAPI document: status, content type, headers and JSON schema.
//! Fields it does not name are faults.

use std::{collections::HashMap, sync::LazyLock, sync::Mutex};

use axum::http::{Method, header};
use explaind::api::document;
use jsonschema::Validator;
use serde_json::{Value, json};

use crate::client::{Answered, get, send};

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::to_value(document::document()).unwrap());

/// The document's components, where objects hold what they name and nothing else.
static COMPONENTS: LazyLock<Value> = LazyLock::new(|| {
    let mut components = DOCUMENT["components"].clone();
    let schemas = components["schemas"].as_object_mut().unwrap();
    let parts: Vec<String> = schemas
        .values()
        .filter_map(|schema| schema["allOf"][0]["$ref"].as_str())
        .map(name)
        .collect();
    for (name, schema) in schemas {
        if !parts.contains(name)
            && (schema.get("properties").is_some() || schema.get("allOf").is_some())
        {
            schema["unevaluatedProperties"] = json!(false);
        }
    }
    components
});

fn name(reference: &str) -> String {
    reference.rsplit('/').next().unwrap().to_owned()
}

fn validate(schema: &Value, instance: &Value, place: &str) {
    static KNOWN: LazyLock<Mutex<HashMap<String, &'static Validator>>> =
        LazyLock::new(Mutex::default);
    let validator = *KNOWN
        .lock()
        .unwrap()
        .entry(schema.to_string())
        .or_insert_with(|| {
            let whole = json!({ "allOf": [schema], "components": *COMPONENTS });
            Box::leak(Box::new(jsonschema::validator_for(&whole).unwrap()))
        });
    let faults: Vec<String> = validator
        .iter_errors(instance)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(faults.is_empty(), "{place}: {faults:#?}");
}

/// The operation at a path, by the document's templates.
fn operation(method: &Method, path: &str) -> Option<&'static Value> {
    let fits = |template: &str| {
        let parts: [Vec<&str>; 2] = [template, path].map(|text| text.split('/').collect());
        parts[0].len() == parts[1].len()
            && parts[0]
                .iter()
                .zip(&parts[1])
                .all(|(t, p)| t.starts_with('{') || t == p)
    };
    let (_, item) = DOCUMENT["paths"]
        .as_object()
        .unwrap()
        .iter()
        .find(|(template, _)| fits(template))?;
    item.get(method.as_str().to_ascii_lowercase())
}

/// Panics where an answer is not what the document says.
pub fn check(method: &Method, path: &str, answer: &Answered) {
    let place = format!(
        "{method} {path} -> {} {:.400}",
        answer.status,
        answer.text()
    );
    let content_type = answer
        .header(header::CONTENT_TYPE.as_str())
        .unwrap_or_default();
    let essence = content_type.split(';').next().unwrap();
    assert!(
        answer
            .header("x-request-id")
            .is_some_and(|id| !id.is_empty()),
        "{place}: no x-request-id"
    );
    let operation = operation(method, path);
    // Their problems are in their own form; what keeps a request from them is not.
    let is_protocol = operation.is_some_and(|operation| operation["tags"][0] == "protocols");
    let has_own_form = is_protocol && ![403, 405].contains(&answer.status.as_u16());
    if answer.status.as_u16() >= 400 && !has_own_form {
        assert_eq!(essence, "application/problem+json", "{place}");
        let problem = answer.json();
        validate(
            &json!({ "$ref": "#/components/schemas/Problem" }),
            &problem,
            &place,
        );
        assert_eq!(problem["status"], answer.status.as_u16(), "{place}");
        assert_eq!(
            problem["type"],
            format!("urn:explaind:problem:{}", problem["code"].as_str().unwrap()),
            "{place}"
        );
        assert_eq!(
            answer.status == 405,
            answer.header("allow").is_some(),
            "{place}: Allow"
        );
    }
    let Some(operation) = operation else {
        return;
    };
    let response = &operation["responses"][answer.status.as_str()];
    assert!(
        response.is_object(),
        "{place}: the document does not know this status"
    );
    if [204, 304].contains(&answer.status.as_u16()) {
        return assert!(answer.body.is_empty(), "{place}");
    }
    let schema = &response["content"][essence]["schema"];
    assert!(
        schema.is_object(),
        "{place}: the document does not know {essence} here"
    );
    if essence == "application/json" {
        validate(schema, &answer.json(), &place);
    }
    let documented = response["headers"].as_object().cloned().unwrap_or_default();
    // What browsers are told is the same everywhere and not for clients.
    let browsers = ["x-content-type-options", "x-frame-options"];
    let own = answer
        .headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-") || *name == "server-timing");
    let own = own.filter(|name| !browsers.contains(&name.as_str()));
    for name in own {
        assert!(
            documented.contains_key(name.as_str()),
            "{place}: the document does not know the header {name}"
        );
    }
}

#[tokio::test]
async fn the_served_document_is_the_generated_one() {
    let served = send(get("/openapi.json")).await;
    assert_eq!((served.status.as_u16(), &served.json()), (200, &*DOCUMENT));
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    fn walk(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(
                    fields
                        .get("$ref")
                        .and_then(Value::as_str)
                        .map(str::to_owned),
                );
                fields.values().for_each(|value| walk(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(&DOCUMENT, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        assert!(
            DOCUMENT
                .pointer(reference.trim_start_matches('#'))
                .is_some(),
            "{reference}"
        );
    }
}

/// Path, method and operation.
fn operations() -> impl Iterator<Item = (&'static str, &'static str, &'static Value)> {
    let items = DOCUMENT["paths"].as_object().unwrap().iter();
    let of = |(path, item): (&'static String, &'static Value)| {
        item.as_object()
            .unwrap()
            .iter()
            .map(|(method, operation)| (path.as_str(), method.as_str(), operation))
    };
    items.flat_map(of)
}

#[test]
fn every_operation_and_parameter_is_described_and_no_default_is_sent_unasked() {
    let mut ids = Vec::new();
    for (path, method, operation) in operations() {
        let place = format!("{method} {path}");
        ids.push(operation["operationId"].as_str().unwrap());
        assert!(
            operation["summary"]
                .as_str()
                .is_some_and(|text| text.len() > 5),
            "{place}"
        );
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(
                response["description"]
                    .as_str()
                    .is_some_and(|text| text.len() > 5),
                "{place} {status}"
            );
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let place = format!("{place} {}", parameter["name"]);
            assert!(
                parameter["description"]
                    .as_str()
                    .is_some_and(|text| text.len() > 5),
                "{place}"
            );
            assert!(parameter["schema"].get("default").is_none(), "{place}");
            assert!(!parameter.to_string().contains("0.899"), "{place}");
        }
    }
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), count), (count, count), "{ids:?}");
    let readable = |id: &&str| {
        id.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    assert!(
        ids.iter().all(readable) && ids.contains(&"list_jobs") && ids.contains(&"get_model"),
        "{ids:?}"
    );
}

#[tokio::test]
async fn the_examples_of_the_document_are_answered() {
    let mut tried = 0;
    for (path, method, operation) in operations().filter(|(path, ..)| !path.starts_with("/jobs")) {
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        let schema = schema["$ref"]
            .as_str()
            .map(|reference| DOCUMENT.pointer(&reference[1..]).unwrap());
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let in_path = parameters.filter(|parameter| parameter["in"] == "path");
        let filled = in_path.fold(path.to_owned(), |path, parameter| {
            let name = format!("{{{}}}", parameter["name"].as_str().unwrap());
            path.replace(&name, parameter["example"].as_str().unwrap_or("none"))
        });
        if let Some(example) = schema.and_then(|schema| schema["examples"].get(0)) {
            assert_eq!(
                send(crate::client::post_json(&filled, example))
                    .await
                    .status,
                200,
                "{filled} {example}"
            );
            tried += 1;
        }
        // Data sets, and models that were trained or uploaded, are of other services than the shared one.
        let is_elsewhere = path.starts_with("/datasets")
            || path.ends_with("/archive")
            || path.ends_with("/versions");
        if method == "get" && filled != path && !is_elsewhere {
            assert_eq!(send(get(&filled)).await.status, 200, "{filled}");
            tried += 1;
        }
    }
    assert_eq!(tried, 13);
}

#[test]
fn refusals_of_every_operation_are_documented() {
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.contains_key("405"), "{method} {path}");
            assert_eq!(
                responses.contains_key("403"),
                method != "get",
                "{method} {path}"
            );
        }
    }
}

#[tokio::test]
async fn every_documented_path_answers() {
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let mut request = get(&path.replace("{id}", "gradient"));
            *request.method_mut() = method.to_ascii_uppercase().parse().unwrap();
            let answer = send(request).await;
            assert_ne!(answer.status.as_u16(), 405, "{method} {path}");
            assert!(
                answer.status != 404 || answer.json()["code"] != "no_such_route",
                "{method} {path}"
            );
        }
    }
}
