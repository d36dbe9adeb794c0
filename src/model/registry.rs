//! All models of a folder. A broken one is kept with its faults and does not keep the others from serving.

use std::{
    collections::HashMap,
    fs,
    io::Read,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use super::{
    Model,
    ends::{self, Ends},
    foreign,
    labels::{self, Labels},
    manifest_file, patterns,
};
use crate::{
    autodiff::{spatial_layers, spec::Patterns},
    files,
    onnx::read_model,
    text::cut,
};

/// The models that serve, by id, and the folders that do not.
#[derive(Debug)]
pub struct Registry {
    /// In the order of their ids. One is replaced when its patterns are.
    models: RwLock<Vec<Arc<Model>>>,
    own_patterns: HashMap<String, Patterns>,
    default: Option<String>,
    pub broken: Vec<BrokenModel>,
    /// What is wrong but keeps nobody from serving, such as patterns of another model; `id: what`.
    pub warnings: Vec<String>,
}

/// A folder that is no model, and every reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenModel {
    pub id: String,
    pub faults: Vec<String>,
}

impl BrokenModel {
    /// Bytes of a fault that are told: one may list every node of a network.
    const TOLD: usize = 4_000;
    const MOST: usize = 20;

    fn new(id: String, mut faults: Vec<String>) -> Self {
        faults.truncate(Self::MOST);
        Self { id, faults: faults.into_iter().map(|fault| cut(&fault, Self::TOLD).into_owned()).collect() }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("cannot read the models folder {}: {source}; name another with --models", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("default_model {id:?} is not there; there are: {}", known.join(", "))]
    NoDefault { id: String, known: Vec<String> },
}

impl Registry {
    /// Loads every sub-folder of `folder` that is not hidden.
    pub fn load(folder: &Path, default: Option<&str>) -> Result<Self, RegistryError> {
        let unreadable = |source| RegistryError::Folder { path: folder.to_owned(), source };
        let mut folders = fs::read_dir(folder)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>())
            .map_err(unreadable)?;
        folders.retain(|path| path.is_dir() && !id_of(path).starts_with('.'));
        folders.sort();
        let mut registry = Self {
            models: RwLock::default(),
            own_patterns: HashMap::new(),
            default: default.map(str::to_owned),
            broken: vec![],
            warnings: vec![],
        };
        let mut models = Vec::new();
        for folder in folders {
            // What no check foresees in one model's file keeps no other from serving.
            let load = AssertUnwindSafe(|| load_model(&folder, &mut registry.warnings));
            match catch_unwind(load)
                .unwrap_or_else(|_| Err(vec!["model.onnx: reading it failed; see the log".to_owned()]))
            {
                Ok(model) => models.push(Arc::new(model)),
                Err(faults) => registry.broken.push(BrokenModel::new(id_of(&folder), faults)),
            }
        }
        let own = models.iter().filter_map(|model| Some((model.id.clone(), model.patterns.clone()?)));
        registry.own_patterns = own.collect();
        registry.models = RwLock::new(models);
        let Some(id) = default.filter(|id| registry.get(id).is_none()) else { return Ok(registry) };
        if registry.broken_default().is_none() {
            let known = registry.iter().map(|model| model.id.clone()).collect();
            return Err(RegistryError::NoDefault { id: id.to_owned(), known });
        }
        registry.warn_of_default();
        Ok(registry)
    }

    fn warn_of_default(&mut self) {
        let Some(id) = self.broken_default().map(|broken| broken.id.clone()) else { return };
        let warning = format!("{id}: it is default_model, and broken: requests have to name a model");
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// What is wrong but keeps nobody from serving, of the folder and of each model; `id: what`.
    pub fn all_warnings(&self) -> Vec<String> {
        let of =
            |model: Arc<Model>| model.warnings.iter().map(|what| format!("{}: {what}", model.id)).collect::<Vec<_>>();
        self.warnings.iter().cloned().chain(self.iter().flat_map(of)).collect()
    }

    /// Keeps the models that pass `check`, with the warning that it gives; the others are broken, for the reason that it gives.
    pub fn retain(&mut self, check: impl Fn(&Model) -> Result<Option<String>, String>) {
        let models = self.models.get_mut().unwrap_or_else(PoisonError::into_inner);
        models.retain_mut(|model| match catch_unwind(AssertUnwindSafe(|| check(model))) {
            Ok(Ok(warning)) => {
                Arc::make_mut(model).warnings.extend(warning);
                true
            }
            failed => {
                let fault =
                    failed.ok().and_then(Result::err).unwrap_or_else(|| "running it failed; see the log".to_owned());
                self.broken.push(BrokenModel::new(model.id.clone(), vec![fault]));
                false
            }
        });
        self.broken.sort_by(|a, b| a.id.cmp(&b.id));
        self.warn_of_default();
    }

    pub fn get(&self, id: &str) -> Option<Arc<Model>> {
        self.iter().find(|model| model.id == id)
    }

    /// The model of requests that name none: the configured one, else the first. None where the configured one is broken.
    pub fn default(&self) -> Option<Arc<Model>> {
        match &self.default {
            Some(id) => self.get(id),
            None => self.iter().next(),
        }
    }

    /// The configured default where it cannot be served: requests that name no model get its faults, not another model.
    pub fn broken_default(&self) -> Option<&BrokenModel> {
        let id = self.default.as_ref()?;
        self.broken.iter().find(|broken| broken.id == *id)
    }

    /// In the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Model>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner).clone().into_iter()
    }

    /// The patterns of the model's folder, in use or not.
    pub fn own_patterns(&self, id: &str) -> Option<&Patterns> {
        self.own_patterns.get(id)
    }

    /// Gives a model other patterns, at once: requests from now on use them.
    pub(super) fn set_patterns(&self, id: &str, patterns: Option<Patterns>) {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = models.iter_mut().find(|model| model.id == id) {
            *place = Arc::new(Model { patterns, ..Model::clone(place) });
        }
    }
}

/// Weights of this size may be read by sessions where they lie: their copies are made once, here.
const LARGE_BYTES: usize = 4 << 20;

fn id_of(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// One model, or every fault of its folder. Patterns that do not fit are a warning: the model serves without them.
fn load_model(folder: &Path, warnings: &mut Vec<String>) -> Result<Model, Vec<String>> {
    let id = id_of(folder);
    let path = folder.join("model.onnx");
    if !path.is_file() {
        return Err(vec!["model.onnx is missing".to_owned()]);
    }
    let hash = fs::File::open(&path).and_then(|file| files::hash(&file));
    let hash = hash.map_err(|error| vec![format!("model.onnx: {error}")])?;
    let mut faults = Vec::new();
    let labels = read_labels(&folder.join("labels.txt"), &mut faults);
    let text = read_optional(&folder.join("model.toml"), &mut faults);
    let of_graph = |error: &dyn std::fmt::Display| vec![format!("model.onnx: {error}")];
    let mut graph = match read_model(&path) {
        Ok(graph) => graph,
        Err(_) if let Some(what) = foreign::what(&path) => {
            faults.push(format!("model.onnx is {what}"));
            return Err(faults);
        }
        Err(error) => {
            faults.extend(of_graph(&error));
            return Err(faults);
        }
    };
    let draft = match manifest_file::read(&text, &mut graph) {
        Ok(draft) => draft,
        Err(found) => {
            faults.extend(found.iter().map(|fault| format!("model.toml: {fault}")));
            return Err(faults);
        }
    };
    let (input, output) = draft.ends();
    let Ends { graph, is_binary, warnings: own } =
        ends::adapt(graph, input, output).map_err(|error| of_graph(&error))?;
    let mut manifest = draft.finish(&graph);
    let mut graph = graph;
    for literal in graph.initializers.values_mut().filter(|literal| literal.bytes.len() >= LARGE_BYTES) {
        *literal = literal.clone().aligned();
    }
    let layers = match manifest.input.shape[..] {
        [_, _, _] => spatial_layers(&graph).unwrap_or_default(),
        _ => Vec::new(),
    };
    match &manifest.layer {
        None => manifest.layer = layers.last().map(|layer| layer.name.clone()),
        Some(name) if layers.iter().any(|layer| layer.name == *name) => {}
        Some(name) => {
            let allowed = layers.iter().map(|layer| layer.name.as_str()).collect::<Vec<_>>().join(", ");
            faults.push(format!(
                "model.toml: layer: no layer with height and width is called {name:?} (allowed: {allowed})"
            ));
        }
    }
    let labels = match (&labels[..], is_binary) {
        ([positive], true) => Labels::from(vec![format!("not {positive}"), positive.clone()]),
        _ => labels,
    };
    let path = folder.join(patterns::FILE);
    if foreign::is_pointer(&path) {
        warnings.push(format!("{id}: {} is {}", patterns::FILE, foreign::POINTER));
    }
    let has_patterns = path.exists() && !foreign::is_pointer(&path);
    let patterns = has_patterns.then(|| patterns::read(&path, &hash)).and_then(|read| match read {
        Ok((patterns, _)) => Some(patterns),
        Err(error) => {
            warnings.push(format!("{id}: {error}"));
            None
        }
    });
    let model = Model {
        id,
        folder: folder.to_owned(),
        manifest,
        labels,
        hash,
        graph: Arc::new(graph),
        layers,
        patterns,
        warnings: own,
    };
    match model.classes() {
        Some(classes) if !model.labels.is_empty() && classes != model.labels.len() => {
            faults.push(format!("labels.txt names {} classes, and the model has {classes}", model.labels.len()));
        }
        _ => {}
    }
    if faults.is_empty() { Ok(model) } else { Err(faults) }
}

/// The labels of a file that need not be there.
fn read_labels(path: &Path, faults: &mut Vec<String>) -> Labels {
    if foreign::is_pointer(path) {
        faults.push(format!("labels.txt is {}", foreign::POINTER));
        return Labels::default();
    }
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(labels::MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    let found = match read {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Labels::default()),
        Err(error) => Err(vec![error.to_string()]),
        Ok(length) if length as u64 > labels::MAX_FILE_BYTES => {
            Err(vec![format!("is larger than {} bytes", labels::MAX_FILE_BYTES)])
        }
        Ok(_) => Labels::read(&bytes),
    };
    found.unwrap_or_else(|found| {
        faults.extend(found.iter().map(|fault| format!("labels.txt: {fault}")));
        Labels::default()
    })
}

/// The text of a file that need not be there.
fn read_optional(path: &Path, faults: &mut Vec<String>) -> String {
    match fs::read_to_string(path) {
        Ok(_) if foreign::is_pointer(path) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            faults.push(format!("{name} is {}", foreign::POINTER));
            String::new()
        }
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            faults.push(format!("{}: {error}", path.file_name().unwrap_or_default().to_string_lossy()));
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundled() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models/squeezenet1_1")
    }

    #[test]
    fn the_bundled_model_loads_with_its_labels() {
        let mut warnings = Vec::new();
        let model = load_model(&bundled(), &mut warnings).unwrap();
        assert_eq!((model.id.as_str(), model.labels.len(), model.classes()), ("squeezenet1_1", 1000, Some(1000)));
        assert_eq!(model.labels[285], "Egyptian_cat");
        assert!(warnings.is_empty(), "{warnings:?}");
        let last = model.layers.last().unwrap();
        assert_eq!((Some(&last.name), last.shape), (model.manifest.layer.as_ref(), [1000, 13, 13]));
    }

    #[test]
    fn broken_models_tell_all_their_faults_and_the_others_serve() {
        let folder = tempfile::tempdir().unwrap();
        let write = |id: &str, file: &str, text: &str| {
            fs::create_dir_all(folder.path().join(id)).unwrap();
            fs::write(folder.path().join(id).join(file), text).unwrap();
        };
        for id in ["good", "labels", "layer", "manifest"] {
            fs::create_dir(folder.path().join(id)).unwrap();
            fs::copy(bundled().join("model.onnx"), folder.path().join(id).join("model.onnx")).unwrap();
        }
        write("good", patterns::FILE, "x");
        write("empty", "README", "");
        write("labels", "labels.txt", "\u{feff}cat\r\ndog\r\n\r\n");
        write("manifest", "model.toml", "heads = 1\n[input]\nsize = 7");
        write("layer", "model.toml", "layer = 'nowhere'");
        write("nonsense", "model.onnx", "not a model");
        let registry = Registry::load(folder.path(), None).unwrap();
        assert_eq!(registry.default().unwrap().id, "good");
        assert_eq!(registry.iter().count(), 1);
        assert_eq!(registry.warnings.len(), 1);
        let broken = registry.broken.iter().map(|b| (b.id.as_str(), b.faults.len())).collect::<Vec<_>>();
        assert_eq!(broken, [("empty", 1), ("labels", 1), ("layer", 1), ("manifest", 2), ("nonsense", 1)]);
        assert_eq!(registry.broken[1].faults, ["labels.txt names 2 classes, and the model has 1000"]);
        let error = Registry::load(folder.path(), Some("lables")).unwrap_err();
        assert!(error.to_string().contains("good"), "{error}");
        let registry = Registry::load(folder.path(), Some("labels")).unwrap();
        assert!(registry.default().is_none() && registry.get("good").is_some());
        assert_eq!(registry.broken_default().unwrap().id, "labels");
    }
}
