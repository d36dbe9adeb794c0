//! A stored reference: named tensors and text metadata in one safetensors file.

use std::{collections::HashMap, fs, path::PathBuf};

use safetensors::SafeTensors;
use serde::de::DeserializeOwned;

/// PyTorch's own f32 answer and f64 answers with rounding noise in every layer say how far a
/// correct f32 program may be; this many times the larger of them covers the other order of sums of
/// ONNX Runtime's kernels.
const YARDSTICKS: f64 = 4.0;
/// What the other order of sums costs even where PyTorch happens to be closer to f64.
const SUMMATION: f64 = 2e-6;

/// A test `agrees_with_pytorch(net)` of each net that is stored in a folder beside this file, and one that these are all.
macro_rules! nets {
    ($folder:literal: $($net:ident)*) => {
        $(#[test] fn $net() { agrees_with_pytorch(stringify!($net)) })*

        #[test]
        fn every_stored_net_is_tested() {
            let files = $crate::stored::files($folder);
            let stored = files.iter().filter_map(|name| name.strip_suffix(".safetensors"));
            assert_eq!(stored.collect::<Vec<_>>(), [$(stringify!($net)),*]);
        }
    };
}
pub(crate) use nets;

/// Names of the files in a folder beside this file, sorted.
pub fn files(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(path(folder)).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Names of the files of a net, one for each exporter and opset.
pub fn exports(folder: &str, net: &str) -> Vec<String> {
    let mut names = files(folder);
    names.retain(|name| name.starts_with(&format!("{net}.")) && name.ends_with(".onnx"));
    assert!(!names.is_empty());
    names
}

pub struct Stored {
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

/// A folder or file beside this one.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/parity")
        .join(name)
}

pub fn read(name: &str) -> Stored {
    let bytes = fs::read(path(name)).unwrap();
    let metadata = SafeTensors::read_metadata(&bytes)
        .unwrap()
        .1
        .metadata()
        .clone()
        .unwrap();
    Stored { bytes, metadata }
}

impl Stored {
    pub fn floats(&self, name: &str) -> Option<Vec<f32>> {
        let (chunks, _) = SafeTensors::deserialize(&self.bytes)
            .unwrap()
            .tensor(name)
            .ok()?
            .data()
            .as_chunks::<4>();
        Some(
            chunks
                .iter()
                .map(|chunk| f32::from_le_bytes(*chunk))
                .collect(),
        )
    }

    pub fn bytes(&self, name: &str) -> &[u8] {
        SafeTensors::deserialize(&self.bytes)
            .unwrap()
            .tensor(name)
            .unwrap()
            .data()
    }

    pub fn json<T: DeserializeOwned>(&self, key: &str) -> T {
        serde_json::from_str(&self.metadata[key]).unwrap()
    }

    /// How far from the stored `map` an answer may be, as a relative distance.
    pub fn tolerance(&self, map: &str) -> f64 {
        let yardstick = |name: &str| self.json::<f64>(&format!("{map}.{name}"));
        tolerance_of(yardstick("float32"), yardstick("rounding"))
    }
}

/// The tolerance that two yardsticks give.
pub fn tolerance_of(float32: f64, rounding: f64) -> f64 {
    YARDSTICKS * float32.max(rounding).max(SUMMATION)
}
