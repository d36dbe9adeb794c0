//! Requests, and answers that were checked against the document.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use explaind::tensor::{Tensor, read_npy};
use http_body_util::BodyExt;
use image::RgbImage;
use serde_json::Value;
use tower::ServiceExt;

use crate::{contract, fixture};

pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answered {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn picture(&self) -> RgbImage {
        assert_eq!(
            (self.status.as_u16(), self.header("content-type")),
            (200, Some("image/png")),
            "{}",
            self.text()
        );
        image::load_from_memory(&self.body).unwrap().into_rgb8()
    }

    pub fn array(&self) -> Tensor {
        assert_eq!(
            (self.status.as_u16(), self.header("content-type")),
            (200, Some("application/x-npy")),
            "{}",
            self.text()
        );
        read_npy(&self.body).unwrap()
    }

    /// The JSON of a 200.
    pub fn answer(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// The explanations, or the results of predictions, of a 200.
    pub fn each(&self) -> Vec<Value> {
        let answer = self.answer();
        let each = answer.get("explanations").or_else(|| answer.get("results"));
        each.unwrap_or_else(|| panic!("{answer}"))
            .as_array()
            .unwrap()
            .clone()
    }

    /// The only one of them.
    pub fn only(&self) -> Value {
        let [one] = &self.each()[..] else {
            panic!("{}", self.text())
        };
        one.clone()
    }

    /// Status and code of a problem.
    pub fn problem(&self) -> (u16, String) {
        (
            self.status.as_u16(),
            self.json()["code"].as_str().unwrap_or_default().to_owned(),
        )
    }

    /// The names of the refused parameters, sorted.
    pub fn refused(&self) -> Vec<String> {
        assert_eq!(
            self.problem(),
            (422, "invalid_parameters".to_owned()),
            "{}",
            self.text()
        );
        let errors = self.json()["errors"].clone();
        let mut names: Vec<_> = errors
            .as_array()
            .unwrap()
            .iter()
            .map(|error| error["param"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }

    /// What would be accepted for a refused parameter.
    pub fn allowed(&self, param: &str) -> Vec<String> {
        let errors = self.json()["errors"].clone();
        let error = errors
            .as_array()
            .unwrap()
            .iter()
            .find(|error| error["param"] == param)
            .cloned();
        serde_json::from_value(
            error.unwrap_or_else(|| panic!("{param} was not refused: {errors}"))["allowed"].clone(),
        )
        .unwrap()
    }
}

/// The values of an attribution in JSON, whichever the encoding.
pub fn values(answer: &Value) -> Vec<f32> {
    fn flatten(value: &Value, into: &mut Vec<f32>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| flatten(item, into)),
            number => into.push(number.as_f64().unwrap() as f32),
        }
    }
    match &answer["attribution"]["data"] {
        Value::String(text) => {
            let bytes = BASE64_STANDARD.decode(text).unwrap();
            bytes
                .chunks_exact(4)
                .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
                .collect()
        }
        list => {
            let mut found = Vec::new();
            flatten(list, &mut found);
            found
        }
    }
}

pub fn get(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::empty()).unwrap()
}

/// A POST as curl's --data-binary sends it when no content type is given.
pub fn post(uri: &str, body: impl Into<Body>) -> Request<Body> {
    post_as(uri, "application/x-www-form-urlencoded", body)
}

pub fn post_as(uri: &str, content_type: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(uri)
        .header(header::CONTENT_TYPE, content_type)
        .body(body.into())
        .unwrap()
}

pub fn post_json(uri: &str, body: &Value) -> Request<Body> {
    post_as(uri, "application/json", body.to_string())
}

pub fn with(mut request: Request<Body>, name: &'static str, value: &str) -> Request<Body> {
    request.headers_mut().insert(
        HeaderName::from_static(name),
        HeaderValue::from_str(value).unwrap(),
    );
    request
}

/// A multipart POST of named fields; `params` and those whose name is followed by = are text, the
/// others files.
pub fn multipart(uri: &str, fields: &[(&str, &[u8])]) -> Request<Body> {
    let mut body = Vec::new();
    for (name, bytes) in fields {
        let is_text = *name == "params" || name.ends_with('=');
        let file = if is_text {
            ""
        } else {
            "; filename=\"f\"\r\ncontent-type: application/octet-stream"
        };
        let name = name.trim_end_matches('=');
        body.extend(
            format!("--edge\r\ncontent-disposition: form-data; name=\"{name}\"{file}\r\n\r\n")
                .bytes(),
        );
        body.extend(*bytes);
        body.extend(b"\r\n");
    }
    body.extend(b"--edge--\r\n");
    post_as(uri, "multipart/form-data; boundary=edge", body)
}

pub async fn send(request: Request<Body>) -> Answered {
    send_to(&fixture::shared().router, request).await
}

pub async fn send_to(router: &Router, request: Request<Body>) -> Answered {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (head, body) = router.clone().oneshot(request).await.unwrap().into_parts();
    let answer = Answered {
        status: head.status,
        headers: head.headers,
        body: body.collect().await.unwrap().to_bytes(),
    };
    contract::check(&method, &path, &answer);
    answer
}

/// A POST over a socket, as bytes.
pub fn post_bytes(uri: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST {uri} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    request
}

/// Sends a POST over a socket of its own and reads the answer to its end. Blocks.
pub fn exchange(address: SocketAddr, uri: &str, body: &[u8]) -> Answered {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&post_bytes(uri, body)).unwrap();
    let answer = read_answer(&mut stream);
    contract::check(&Method::POST, uri.split('?').next().unwrap(), &answer);
    answer
}

/// The answer that a stream holds to its end. Blocks.
pub fn read_answer(stream: &mut TcpStream) -> Answered {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("an answer was lost");
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let headers: HeaderMap = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| {
            (
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_str(value).unwrap(),
            )
        })
        .collect();
    let body = Bytes::copy_from_slice(&bytes[end + 4..]);
    let length: usize = headers[header::CONTENT_LENGTH]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(body.len(), length, "an answer was cut off");
    Answered {
        status,
        headers,
        body,
    }
}
