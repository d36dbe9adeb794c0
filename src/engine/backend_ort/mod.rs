//! ONNX Runtime: finds and loads the library, opens sessions of graphs, runs them. The only room
//! that imports `ort`. One environment per process, with one thread pool that all sessions share;
//! spinning is off, so that an idle server uses no CPU. `Session::run` takes `&mut`: a session
//! belongs to one thread at a time.

mod encoded;
mod operators;

use std::{
    ffi::CStr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use indexmap::IndexMap;
use ndarray::ArrayViewD;
use ort::{
    AsPointer,
    environment::{Environment, GlobalThreadPoolOptions},
    ep::{ArenaExtendStrategy, CUDA, cuda::ConvAlgorithmSearch},
    logging::LogLevel,
    memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType},
    session::{RunOptions, Session, SessionInputValue, builder::SessionBuilder},
    value::{Shape, TensorRef, TensorRefMut},
};
use parking_lot::Mutex;

pub use self::encoded::Encoded;
use super::{cpu::nchwc::NCHWC_DOMAIN, provider::Provider};
use crate::tensor::Tensor;
use onnx_autodiff::onnx::graph::{Dim, Element, Graph, Literal, Node, ValueInfo, ValueType};

/// The release that `make runtime` fetches. Any library with API 24 (1.24) or newer is accepted.
pub const LIBRARY: &str = "runtime/libonnxruntime.so.1.31.1";
/// The environment variable with the library's path, if the settings have none.
pub const LIBRARY_VARIABLE: &str = "EXPLAIND_ONNXRUNTIME";

static RUNTIME: OnceLock<Runtime> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

/// The loaded library and its environment.
pub struct Runtime {
    environment: Environment,
    pub library: PathBuf,
    /// The library's version, such as 1.31.1.
    pub version: String,
    /// Channels of an NCHWc block.
    block_size: Option<usize>,
}

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("no ONNX Runtime library at {}; run `make runtime`, or name one in {LIBRARY_VARIABLE}", list(.tried))]
    Missing { tried: Vec<PathBuf> },
    #[error("{} is not a usable ONNX Runtime: {reason}; run `make runtime` for the right one", .library.display())]
    Unusable { library: PathBuf, reason: String },
    #[error(
        "execution provider {provider} is not available: {reason}; ask for `cpu`, or use the library of onnxruntime-gpu"
    )]
    Provider { provider: Provider, reason: String },
    #[error("a worker's thread could not be started: {reason}")]
    Thread { reason: String },
    #[error("the session could not be opened: {reason}")]
    Open { reason: String },
    #[error("the run was stopped")]
    Stopped,
    #[error("the run failed: {reason}")]
    Run { reason: String },
}

fn list(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|p| p.display().to_string())
        .collect::<Vec<_>>()
        .join(" or ")
}

/// Loads ONNX Runtime once per process; later calls return what the first one loaded. The library
/// is `library`, else that of [`LIBRARY_VARIABLE`], else [`LIBRARY`]; relative paths are tried from
/// the current folder, the executable's, and the project's. `threads` is the size of the intra-op
/// pool; 0 for one per core.
pub fn load_runtime(
    library: Option<&Path>,
    threads: usize,
) -> Result<&'static Runtime, RuntimeError> {
    let _loading = LOADING.lock();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let library = find_library(library)?;
    let unusable = |reason: String| RuntimeError::Unusable {
        library: library.clone(),
        reason,
    };
    let builder = ort::init_from(&library).map_err(|e| unusable(e.to_string()))?;
    let environment = GlobalThreadPoolOptions::default()
        .with_intra_threads(threads)
        .and_then(|pool| pool.with_spin_control(false))
        .and_then(|pool| {
            builder
                .with_name("explaind")
                .with_telemetry(false)
                .with_global_thread_pool(pool)
                .build()
        })
        .map_err(|e| unusable(e.to_string()))?;
    environment.set_log_level(LogLevel::Warning);
    share_arena(&environment).map_err(|e| unusable(e.to_string()))?;
    let version = version_of(&library).map_err(|e| unusable(e.to_string()))?;
    let mut runtime = Runtime {
        environment,
        library: library.clone(),
        version,
        block_size: None,
    };
    // The runtime registers an unknown operator domain without a lock. Opening a first session here
    // registers ours before there are other threads.
    runtime
        .probe(Provider::Cpu)
        .map_err(|e| unusable(e.to_string()))?;
    runtime.block_size = runtime.find_block_size();
    Ok(RUNTIME.get_or_init(|| runtime))
}

/// The version in the name of the library file (`libonnxruntime.so.1.24.1`), else the commit of the
/// build.
pub fn runtime_version() -> String {
    let library = RUNTIME
        .get()
        .and_then(|runtime| runtime.library.canonicalize().ok());
    let version = library.as_deref().and_then(version_in_name);
    version.unwrap_or_else(|| {
        ort::info()
            .trim_start_matches("ORT Build Info: ")
            .to_owned()
    })
}

fn version_in_name(library: &Path) -> Option<String> {
    let (_, version) = library.file_name()?.to_str()?.split_once(".so.")?;
    let is_version =
        version.split('.').count() == 3 && version.chars().all(|c| c.is_ascii_digit() || c == '.');
    is_version.then(|| version.to_owned())
}

impl Runtime {
    /// Checks that a device is available, by opening a session of one node on it.
    pub fn probe(&self, provider: Provider) -> Result<(), RuntimeError> {
        OrtSession::open(self, one_node(), provider, Threads::Shared)
            .map(drop)
            .map_err(|error| match error {
                RuntimeError::Open { reason } => RuntimeError::Provider { provider, reason },
                other => other,
            })
    }

    /// The block size of NCHWc on this processor; `None` without NCHWc, or if our kernels do not
    /// support the size.
    fn find_block_size(&self) -> Option<usize> {
        let shape = [1, 64, 1, 2];
        let mut graph = one_node();
        for value in graph.inputs.iter_mut().chain(&mut graph.outputs) {
            value.value_type.shape = shape.map(Dim::Known).to_vec();
        }
        graph.opset_imports.insert(NCHWC_DOMAIN.into(), 1);
        (graph.nodes[0].op_type, graph.nodes[0].domain) =
            ("ReorderInput".into(), NCHWC_DOMAIN.into());
        let mut session = OrtSession::open(self, graph, Provider::Cpu, Threads::Shared).ok()?;
        // Every channel of the first pixel is 0, of the second 1.
        let x = Tensor::from_shape_fn(shape.to_vec(), |at| at[3] as f32);
        let y = session.run(&[("x", x.view())]).ok()?.swap_remove("y")?;
        y.iter()
            .position(|second| *second == 1.0)
            .filter(|block| [8, 16].contains(block))
    }

    /// Releases unused memory of the arena of CPU sessions. The runtime shrinks an arena only at
    /// the end of a run, so this runs a graph of one node.
    pub fn release_memory(&self) -> Result<(), RuntimeError> {
        let mut session = OrtSession::open(self, one_node(), Provider::Cpu, Threads::Shared)?;
        let mut options = RunOptions::new().map_err(run_error)?;
        options
            .set("memory.enable_memory_arena_shrinkage", "cpu:0")
            .map_err(run_error)?;
        session
            .run_until(
                &[("x", Tensor::zeros(vec![1]).view())],
                &RunStop(Arc::new(options)),
            )
            .map(drop)
    }
}

fn one_node() -> Graph {
    let value = |name: &str| ValueInfo {
        name: name.into(),
        value_type: ValueType::new(Element::Float, vec![1.into()]),
    };
    Graph {
        name: "one_node".into(),
        opset_imports: [(String::new(), 17)].into(),
        inputs: vec![value("x")],
        outputs: vec![value("y")],
        nodes: vec![Node::new("Relu", ["x"], ["y"])],
        ..Graph::default()
    }
}

/// Makes all CPU sessions allocate from one arena, which grows by exactly the requested sizes.
fn share_arena(environment: &Environment) -> ort::Result<()> {
    const GROWS_AS_REQUESTED: i32 = 1;
    let (api, environment) = (ort::api(), environment.ptr().cast_mut());
    let memory = MemoryInfo::new(
        AllocationDevice::CPU,
        0,
        AllocatorType::Arena,
        MemoryType::Default,
    )?;
    let mut settings = std::ptr::null_mut();
    // SAFETY: functions of the loaded library, called on an environment and a description that
    // outlive the calls; 0 and -1 are defaults. The settings belong to the library, and are not
    // used after their release.
    unsafe {
        ort::Error::result_from_status((api.CreateArenaCfg)(
            0,
            GROWS_AS_REQUESTED,
            -1,
            -1,
            &raw mut settings,
        ))?;
        let registered = (api.CreateAndRegisterAllocator)(environment, memory.ptr(), settings);
        (api.ReleaseArenaCfg)(settings);
        ort::Error::result_from_status(registered)
    }
}

/// The runtime of this process, if it is loaded.
pub fn loaded() -> Option<&'static Runtime> {
    RUNTIME.get()
}

fn version_of(library: &Path) -> Result<String, libloading::Error> {
    // SAFETY: the library is loaded already, so no initialiser runs; the function is that of its C
    // API, and returns a static pointer.
    unsafe {
        let library = libloading::Library::new(library)?;
        let base = library
            .get::<unsafe extern "C" fn() -> *const ort::sys::OrtApiBase>(b"OrtGetApiBase")?;
        Ok(CStr::from_ptr(((*base()).GetVersionString)())
            .to_string_lossy()
            .into_owned())
    }
}

fn find_library(named: Option<&Path>) -> Result<PathBuf, RuntimeError> {
    let variable = std::env::var_os(LIBRARY_VARIABLE)
        .filter(|v| !v.is_empty())
        .map(PathBuf::from);
    let path = named
        .map(Path::to_owned)
        .or(variable)
        .unwrap_or_else(|| PathBuf::from(LIBRARY));
    let executable = std::env::current_exe().unwrap_or_default();
    let folders = std::env::current_dir()
        .into_iter()
        .chain(executable.ancestors().skip(1).take(3).map(Path::to_owned));
    let mut tried: Vec<PathBuf> = folders.map(|folder| folder.join(&path)).collect();
    tried.dedup();
    // An absolute path: the dynamic loader searches its own folders for a bare name.
    tried
        .iter()
        .find_map(|path| path.canonicalize().ok())
        .ok_or(RuntimeError::Missing { tried })
}

/// An open session.
pub struct OrtSession {
    session: Session,
    /// Inputs that every run takes: large weights.
    lent: Vec<(String, LentValue)>,
}

/// A tensor of the runtime over borrowed bytes. Fields are dropped in order: the value before the
/// bytes.
struct LentValue {
    value: TensorRefMut<'static, f32>,
    _bytes: Bytes,
}

/// Ends a run from another thread, between two operators. One `RunStop` serves one run.
#[derive(Clone)]
pub struct RunStop(Arc<RunOptions>);

/// The intra-op threads of a CPU session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The environment's pool, which all sessions share.
    Shared,
    /// A pool of its own with this many threads, the caller's among them.
    Own(usize),
}

impl RunStop {
    pub fn new() -> Result<Self, RuntimeError> {
        Ok(Self(Arc::new(RunOptions::new().map_err(run_error)?)))
    }

    pub fn stop(&self) {
        if let Err(error) = self.0.terminate() {
            tracing::warn!(%error, "a run could not be stopped");
        }
    }
}

impl OrtSession {
    /// Opens a session of a graph, whose convolutions are the runtime's.
    pub fn open(
        runtime: &Runtime,
        graph: Graph,
        provider: Provider,
        threads: Threads,
    ) -> Result<Self, RuntimeError> {
        Self::open_encoded(
            runtime,
            &Encoded::new(runtime, graph, provider, 0.0)?,
            threads,
        )
    }

    pub fn open_encoded(
        runtime: &Runtime,
        encoded: &Encoded,
        threads: Threads,
    ) -> Result<Self, RuntimeError> {
        let session = encoded.open(configure(runtime, encoded.provider(), threads)?)?;
        let lent = encoded
            .lent()
            .iter()
            .map(|lent| Ok((lent.name.clone(), borrow(lent.literal.clone())?)));
        Ok(Self {
            session,
            lent: lent.collect::<Result<_, _>>()?,
        })
    }

    /// Opens a session of an encoded `ModelProto`, unchanged.
    pub fn open_bytes(
        runtime: &Runtime,
        model: Vec<u8>,
        provider: Provider,
        threads: Threads,
    ) -> Result<Self, RuntimeError> {
        Self::open_encoded(runtime, &Encoded::of_bytes(model, provider), threads)
    }

    /// The inputs that [`Self::run`] must be given.
    pub fn input_names(&self) -> impl Iterator<Item = &str> {
        let names = self.session.inputs().iter().map(|input| input.name());
        names.filter(|name| self.lent.iter().all(|(lent, _)| lent != name))
    }

    /// Runs the graph. Inputs by name; all outputs by name, in the graph's order.
    pub fn run(
        &mut self,
        inputs: &[(&str, ArrayViewD<'_, f32>)],
    ) -> Result<IndexMap<String, Tensor>, RuntimeError> {
        self.run_until(inputs, &RunStop::new()?)
    }

    /// As [`Self::run`]; fails with [`RuntimeError::Stopped`] if `stop` ended the run.
    pub fn run_until(
        &mut self,
        inputs: &[(&str, ArrayViewD<'_, f32>)],
        stop: &RunStop,
    ) -> Result<IndexMap<String, Tensor>, RuntimeError> {
        self.run_values(inputs, &[], stop)
    }

    /// As [`Self::run`], of a graph that takes int64 inputs as well.
    pub fn run_with_indices(
        &mut self,
        inputs: &[(&str, ArrayViewD<'_, f32>)],
        indices: &[(&str, ArrayViewD<'_, i64>)],
    ) -> Result<IndexMap<String, Tensor>, RuntimeError> {
        self.run_values(inputs, indices, &RunStop::new()?)
    }

    fn run_values(
        &mut self,
        inputs: &[(&str, ArrayViewD<'_, f32>)],
        indices: &[(&str, ArrayViewD<'_, i64>)],
        stop: &RunStop,
    ) -> Result<IndexMap<String, Tensor>, RuntimeError> {
        let dense: Vec<_> = inputs
            .iter()
            .map(|(name, view)| (*name, view.as_standard_layout()))
            .collect();
        let dense_indices: Vec<_> = indices
            .iter()
            .map(|(name, view)| (*name, view.as_standard_layout()))
            .collect();
        let floats = dense.iter().map(|(name, array)| {
            let value = TensorRef::from_array_view(array)?;
            Ok((*name, SessionInputValue::from(value)))
        });
        let whole = dense_indices.iter().map(|(name, array)| {
            let value = TensorRef::from_array_view(array)?;
            Ok((*name, SessionInputValue::from(value)))
        });
        let lent = self.lent.iter();
        let lent = lent.map(|(name, lent)| Ok((name.as_str(), (&*lent.value).into())));
        let values = floats
            .chain(whole)
            .chain(lent)
            .collect::<ort::Result<Vec<_>>>()
            .map_err(run_error)?;
        let outputs = self
            .session
            .run_with_options(values, &*stop.0)
            .map_err(run_error)?;
        outputs
            .iter()
            .map(|(name, value)| {
                Ok((
                    name.to_owned(),
                    value.try_extract_array::<f32>()?.to_owned(),
                ))
            })
            .collect::<ort::Result<_>>()
            .map_err(run_error)
    }
}

fn configure(
    runtime: &Runtime,
    provider: Provider,
    threads: Threads,
) -> Result<SessionBuilder, RuntimeError> {
    // Quantised nodes run as the file has them: fused to integer kernels, which a derived graph does
    // not allow, the forward pass would give other numbers than its derivatives are of.
    let mut builder = Session::builder(&runtime.environment)
        .map_err(open_error)?
        .with_config_entry("session.disable_quant_qdq", "1")
        .map_err(open_error)?;
    if let Threads::Own(count) = threads {
        builder = builder.with_independent_thread_pool().map_err(open_error)?;
        builder = builder.with_intra_threads(count).map_err(open_error)?;
        builder = builder.with_intra_op_spinning(false).map_err(open_error)?;
    }
    if let Provider::Cuda { device } = provider {
        let cuda = CUDA::default()
            .with_device_id(i32::from(device))
            .with_tf32(false)
            .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
            .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
            .build()
            .error_on_failure();
        builder = builder
            .with_execution_providers([cuda])
            .map_err(|e| RuntimeError::Provider {
                provider,
                reason: e.to_string(),
            })?;
    }
    if provider == Provider::Cpu {
        builder = builder.with_env_allocators().map_err(open_error)?;
        // Weights are allocated outside of the arena, which could not be shrunk otherwise.
        builder = builder
            .with_device_allocated_initializers()
            .map_err(open_error)?;
        builder = builder.with_memory_pattern(false).map_err(open_error)?;
        builder = builder
            .with_operators(operators::domain().map_err(open_error)?)
            .map_err(open_error)?;
    }
    Ok(builder)
}

fn borrow(literal: Literal) -> Result<LentValue, RuntimeError> {
    let literal = literal.aligned();
    let data = literal.bytes.as_ptr().cast_mut().cast();
    // SAFETY: there are as many bytes as the shape needs (a `Literal` guarantees it), aligned,
    // alive as long as the value, and only read by the runtime.
    let value =
        unsafe { TensorRefMut::from_raw(MemoryInfo::default(), data, Shape::from(literal.shape)) };
    Ok(LentValue {
        value: value.map_err(open_error)?,
        _bytes: literal.bytes,
    })
}

fn open_error<R>(error: ort::Error<R>) -> RuntimeError {
    RuntimeError::Open {
        reason: error.to_string(),
    }
}

/// ONNX Runtime has no error code for a terminated run, only this message.
fn run_error(error: ort::Error) -> RuntimeError {
    let reason = error.to_string();
    if reason.contains("terminate flag") {
        RuntimeError::Stopped
    } else {
        RuntimeError::Run { reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_names_the_command_to_run() {
        let error = find_library(Some(Path::new("/no/such/libonnxruntime.so"))).unwrap_err();
        assert!(
            matches!(&error, RuntimeError::Missing { tried } if tried == &[PathBuf::from("/no/such/libonnxruntime.so")])
        );
        assert!(error.to_string().contains("make runtime"), "{error}");
    }

    #[test]
    fn the_runtime_loads_once() {
        let first = load_runtime(None, 0).unwrap();
        assert!(std::ptr::eq(first, load_runtime(None, 0).unwrap()));
    }

    /// Runs `work`, the whole of the test `name`, in `times` fresh processes one after another.
    fn in_fresh_processes(name: &str, times: usize, work: impl FnOnce()) {
        const CHILD: &str = "EXPLAIND_TEST_IN_A_FRESH_PROCESS";
        if std::env::var_os(CHILD).is_some() {
            return work();
        }
        for _ in 0..times {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            let test = format!("engine::backend_ort::tests::{name}");
            let output = child
                .args(["--exact", &test])
                .env(CHILD, "1")
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stdout)
            );
        }
    }

    /// The runtime registers our operator domain without a lock, once per process: only a fresh
    /// process shows a race.
    #[test]
    fn the_first_sessions_of_a_process_open_at_once() {
        in_fresh_processes("the_first_sessions_of_a_process_open_at_once", 8, || {
            let runtime = load_runtime(None, 1).unwrap();
            let start = std::sync::Barrier::new(16);
            std::thread::scope(|scope| {
                for _ in 0..16 {
                    scope.spawn(|| {
                        start.wait();
                        runtime.probe(Provider::Cpu).unwrap();
                    });
                }
            });
        });
    }

    #[test]
    fn released_memory_is_the_system_s_again() {
        in_fresh_processes("released_memory_is_the_system_s_again", 1, || {
            let runtime = load_runtime(None, 1).unwrap();
            let mut graph = one_node();
            graph.inputs[0].value_type.shape = vec!["n".into()];
            graph.nodes = vec![
                Node::new("Relu", ["x"], ["rectified"]),
                Node::new("ReduceSum", ["rectified"], ["y"]).with("keepdims", 1),
            ];
            let mut session =
                OrtSession::open(runtime, graph, Provider::Cpu, Threads::Shared).unwrap();
            let input = Tensor::zeros(vec![16 << 20]);
            session.run(&[("x", input.view())]).unwrap();
            let kept = resident_kib();
            runtime.release_memory().unwrap();
            let left = resident_kib();
            // The activations took 64 MiB.
            assert!(left + (60 << 10) < kept, "{kept} KiB, then {left}");
        });
    }

    fn resident_kib() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn releases_tell_their_version_by_the_name_of_their_file() {
        for (name, version) in [
            ("/opt/libonnxruntime.so.1.24.1", Some("1.24.1")),
            ("/opt/libonnxruntime.so", None),
            ("/opt/libonnxruntime.so.1", None),
            ("/opt/libonnxruntime.so.old.2.3", None),
        ] {
            assert_eq!(
                version_in_name(Path::new(name)).as_deref(),
                version,
                "{name}"
            );
        }
        load_runtime(None, 0).unwrap();
        assert!(runtime_version().starts_with("1."), "{}", runtime_version());
    }

    #[test]
    fn cuda_without_a_gpu_is_an_error() {
        let error = load_runtime(None, 0)
            .unwrap()
            .probe(Provider::Cuda { device: 0 })
            .unwrap_err();
        assert!(matches!(error, RuntimeError::Provider { .. }), "{error}");
    }

    #[test]
    fn squeezenet_answers_with_one_row_of_logits_per_image() {
        let model = std::fs::read(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/models/squeezenet1_1/model.onnx"
        ))
        .unwrap();
        let runtime = load_runtime(None, 0).unwrap();
        let mut session =
            OrtSession::open_bytes(runtime, model, Provider::Cpu, Threads::Shared).unwrap();
        let name = session.input_names().next().unwrap().to_owned();
        let input = Tensor::from_elem(vec![1, 3, 224, 224], 0.25);
        let outputs = session.run(&[(&name, input.view())]).unwrap();
        assert_eq!(outputs.values().next().unwrap().len(), 1000);

        let stop = RunStop::new().unwrap();
        stop.stop();
        assert!(matches!(
            session.run_until(&[(&name, input.view())], &stop),
            Err(RuntimeError::Stopped)
        ));
    }
}
