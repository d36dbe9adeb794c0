//! What exporters write and graphs of one's own rarely have (`exporters.py`): the server's scores and
//! gradients are those of PyTorch in float64.

use std::{collections::BTreeMap, fs, path::Path};

use explaind::tensor::Tensor;
use safetensors::SafeTensors;
use serde_json::json;

use crate::{
    client::{get, post_json, send_to, values},
    fixture::open,
};

fn distance(found: &[f32], expected: &Tensor) -> f32 {
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
    let mut apart = found.iter().zip(expected).map(|(a, b)| a - b);
    assert_eq!(found.len(), expected.len());
    norm(&mut apart) / norm(&mut expected.iter().copied())
}

#[tokio::test]
async fn what_exporters_write_is_explained_rightly() {
    let stored = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/exporters");
    let bytes = fs::read(stored.join("expected.safetensors")).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let explained: BTreeMap<_, _> = metadata.metadata().clone().unwrap().into_iter().collect();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |id: &str, what: &str| {
        let view = tensors.tensor(&format!("{id}.{what}")).unwrap();
        let (numbers, _) = view.data().as_chunks::<4>();
        let numbers = numbers.iter().map(|four| f32::from_le_bytes(*four));
        Tensor::from_shape_vec(view.shape(), numbers.collect()).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    for id in explained.keys() {
        let own = folder.path().join(id);
        fs::create_dir(&own).unwrap();
        fs::copy(stored.join(format!("{id}.onnx")), own.join("model.onnx")).unwrap();
        let manifest = stored.join(format!("{id}.toml"));
        if manifest.exists() {
            fs::copy(manifest, own.join("model.toml")).unwrap();
        }
    }
    let service = open(&[
        ("models", folder.path().to_str().unwrap()),
        ("default_model", ""),
    ]);
    let list = send_to(&service.router, get("/models")).await.answer();
    assert_eq!(list["broken_models"], json!([]));
    assert!(explained.len() > 20);
    let mut faults = Vec::new();
    for (id, head) in &explained {
        let x = tensor(id, "x");
        let input =
            json!({ "tensor": { "shape": x.shape(), "data": x.iter().collect::<Vec<_>>() } });
        let ask = async |path: &str| {
            let request = post_json(&format!("/{path}model={id}"), &input);
            send_to(&service.router, request).await
        };
        let scores = tensor(id, "scores");
        let mut found = vec![0.0; scores.len()];
        let answer = ask("predict?").await.only();
        for one in answer["predictions"].as_array().unwrap() {
            found[one["index"].as_u64().unwrap() as usize] = one["score"].as_f64().unwrap() as f32;
        }
        let apart = distance(&found, &scores);
        if apart.is_nan() || apart > 1e-5 {
            faults.push(format!("{id}: scores {found:?}, not {scores}"));
        }
        let answer = ask(&format!(
            "explain?method=gradient&format=json&target=1&head={head}&"
        ))
        .await;
        if answer.status != 200 {
            faults.push(format!("{id}: {}", answer.text()));
            continue;
        }
        let apart = distance(&values(&answer.only()), &tensor(id, "gradient"));
        if apart.is_nan() || apart > 1e-5 {
            faults.push(format!("{id}: the gradient is {apart:.0e} away"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
