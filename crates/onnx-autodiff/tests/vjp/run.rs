//! Runs graphs on ONNX Runtime's CPU, and derives the plain gradient of the logits.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use onnx_autodiff::{
    Tensor,
    autodiff::{
        self, DeriveError,
        spec::{DeriveSpec, Patterns, RuleSetId},
    },
    onnx::{graph::Graph, write_model},
};
use ort::{
    environment::Environment,
    session::{Session, SessionInputValue},
    value::TensorRef,
};

pub fn spec(rule_sets: &[RuleSetId]) -> DeriveSpec {
    DeriveSpec::of(rule_sets)
}

pub fn derive(
    source: &Graph,
    spec: &DeriveSpec,
    patterns: Option<&Patterns>,
) -> Result<Graph, DeriveError> {
    autodiff::derive(source, spec, patterns).map(|derived| derived.graph)
}

/// A session of a graph.
pub struct Net(Session);

impl Net {
    pub fn open(graph: &Graph) -> Result<Self, String> {
        let model = write_model(graph).map_err(|error| error.to_string())?;
        let session = Session::builder(environment())
            .map_err(|error| error.to_string())?
            .with_intra_threads(1)
            .map_err(|error| error.to_string())?
            .commit_from_memory(&model);
        session.map(Self).map_err(|error| error.to_string())
    }

    pub fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<BTreeMap<String, Tensor>, String> {
        let values = inputs
            .iter()
            .map(|(name, tensor)| {
                let value = TensorRef::from_array_view(tensor.view())?;
                Ok((*name, SessionInputValue::from(value)))
            })
            .collect::<ort::Result<Vec<_>>>()
            .map_err(|error| error.to_string())?;
        let outputs = self.0.run(values).map_err(|error| error.to_string())?;
        outputs
            .iter()
            .map(|(name, value)| {
                Ok((
                    name.to_owned(),
                    value.try_extract_array::<f32>()?.to_owned(),
                ))
            })
            .collect::<ort::Result<_>>()
            .map_err(|error| error.to_string())
    }
}

/// The one environment of the process, of the library that [`library`] finds.
fn environment() -> &'static Environment {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        ort::init_from(library())
            .expect("ONNX Runtime loads")
            .with_telemetry(false)
            .build()
            .expect("ONNX Runtime starts")
    })
}

/// What `ORT_DYLIB_PATH` names, else the library in `runtime/` of the workspace.
fn library() -> PathBuf {
    if let Some(named) = env::var_os("ORT_DYLIB_PATH") {
        return named.into();
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../runtime");
    let is_library = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libonnxruntime.")
    };
    fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(is_library)
        .expect("ONNX Runtime in runtime/ (`make runtime`), or named in ORT_DYLIB_PATH")
}

pub fn tensor(shape: &[usize], values: Vec<f32>) -> Tensor {
    Tensor::from_shape_vec(shape, values).expect("as many values as the shape asks for")
}

pub fn dot(a: &Tensor, b: &Tensor) -> f64 {
    a.iter()
        .zip(b.iter())
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}
