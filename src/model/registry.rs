//! All models of a folder. A broken model is listed with its faults; the others are served.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, Read},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Component, Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use indexmap::IndexMap;
use sha2::{Digest, Sha256};

use super::{
    Model, RuleSets,
    ends::{self, Ends, EndsError},
    fixed, foreign,
    labels::{self, Labels},
    manifest::{FixedInput, Manifest},
    manifest_file::{self, Draft},
    outputs::{self, OtherOutput, shares_labels},
    patterns,
    provenance::{self, Provenance},
    supports::SupportSet,
};
use crate::{files, text::cut};
use onnx_autodiff::{
    autodiff::{
        spatial,
        spec::{Attention, Layer, Patterns},
    },
    onnx::{Fault as GraphFault, OnnxError, ReadModel, graph::Graph, read_model_files},
};

/// The largest model.toml, in bytes.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// How a running server picks up changes of the models folder.
pub const RELOAD: &str = "send the server SIGHUP, or restart it";

/// The models that are served, by id, and the folders that cannot be.
#[derive(Clone, Debug)]
pub struct Registry {
    /// Sorted by id. A model is replaced when its patterns change.
    models: Vec<Arc<Model>>,
    own_patterns: HashMap<String, Patterns>,
    /// Ids of the models in the store of files, and how they came there.
    stored: HashMap<String, Origin>,
    default: Option<String>,
    /// The models folder; none for a single model.
    place: Option<PathBuf>,
    /// Number of folders with a model.onnx, broken or not.
    folders: usize,
    pub broken: Vec<BrokenModel>,
    /// Problems that do not prevent serving, such as patterns of another model; `id: problem`.
    pub warnings: Vec<String>,
}

/// How a model came into the store of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A job trained it.
    Trained,
    Uploaded,
}

/// The registry in use. A reload replaces it at once; requests in progress keep the one that they
/// have.
#[derive(Debug)]
pub struct Models(RwLock<Arc<Registry>>);

impl Models {
    pub fn new(registry: Registry) -> Self {
        Self(RwLock::new(Arc::new(registry)))
    }

    pub fn get(&self) -> Arc<Registry> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set(&self, registry: Registry) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(registry);
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Registry)) {
        let mut registry = self.0.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut registry));
    }
}

/// A model that cannot be loaded, and all reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenModel {
    pub id: String,
    pub faults: Vec<String>,
    /// Of the store of files; none for a folder of the server's.
    pub origin: Option<Origin>,
}

impl BrokenModel {
    /// The most bytes of one fault: it may list every node of a network.
    const TOLD: usize = 4_000;
    const MOST: usize = 20;

    pub(super) fn new(id: String, mut faults: Vec<String>) -> Self {
        faults.truncate(Self::MOST);
        Self {
            id,
            faults: faults
                .into_iter()
                .map(|fault| cut(&fault, Self::TOLD).into_owned())
                .collect(),
            origin: None,
        }
    }

    pub(super) fn of(self, origin: Origin) -> Self {
        Self {
            origin: Some(origin),
            ..self
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("cannot read the models folder {}: {source}; name another with --models", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("default_model {id:?} is not there; there are: {}", known.join(", "))]
    NoDefault { id: String, known: Vec<String> },
}

/// The sub-folders of a models folder that are not hidden, sorted by name.
pub fn folders_in(models: &Path) -> Result<Vec<PathBuf>, RegistryError> {
    let mut folders = fs::read_dir(models)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.path()))
                .collect::<io::Result<Vec<_>>>()
        })
        .map_err(|source| RegistryError::Folder {
            path: models.to_owned(),
            source,
        })?;
    folders.retain(|path| path.is_dir() && !id_of(path).starts_with('.'));
    folders.sort();
    Ok(folders)
}

/// Runs a model: warnings where the result is odd, an error where it fails.
pub type Check<'a> = &'a dyn Fn(&Model) -> Result<Vec<String>, String>;

impl Registry {
    /// Loads every sub-folder of `folder` that is not hidden, without running the models.
    pub fn load(folder: &Path, default: Option<&str>) -> Result<Self, RegistryError> {
        Self::load_after(None, folder, default, &|_| Ok(vec![]))
    }

    /// As [`Self::load`], for models that pass `check`, replacing the registry `before`: a model
    /// whose files did not change is kept, and so is one whose files have become unusable; its
    /// faults are listed.
    pub fn load_after(
        before: Option<&Self>,
        folder: &Path,
        default: Option<&str>,
        check: Check<'_>,
    ) -> Result<Self, RegistryError> {
        let mut registry = Self {
            place: Some(folder.to_owned()),
            ..Self::empty(default)
        };
        for folder in folders_in(folder)? {
            registry.add(&folder, before, check);
        }
        let Some(id) = default.filter(|id| registry.get(id).is_none()) else {
            return Ok(registry);
        };
        if registry.broken_default().is_none() {
            let known = registry.iter().map(|model| model.id.clone()).collect();
            return Err(RegistryError::NoDefault {
                id: id.to_owned(),
                known,
            });
        }
        registry.warnings.push(format!(
            "{id}: it is default_model, and broken: requests have to name a model"
        ));
        Ok(registry)
    }

    /// A registry of one model: a folder, or an .onnx file, for which files beside it are ignored.
    pub fn of_one(path: &Path, check: Check<'_>) -> Self {
        let mut registry = Self::empty(None);
        registry.add(path, None, check);
        registry
    }

    fn empty(default: Option<&str>) -> Self {
        Self {
            models: Vec::new(),
            own_patterns: HashMap::new(),
            stored: HashMap::new(),
            default: default.map(str::to_owned),
            place: None,
            folders: 0,
            broken: vec![],
            warnings: vec![],
        }
    }

    fn add(&mut self, path: &Path, before: Option<&Self>, check: Check<'_>) {
        let files = ModelFiles::of(path);
        self.folders += usize::from(files.onnx.exists());
        let known = before
            .filter(|before| !before.stored.contains_key(&files.id))
            .and_then(|before| Some((before, before.get(&files.id)?)));
        let load = || {
            let model = load_model(&files, &mut self.warnings)?;
            if let Some((before, known)) =
                known.as_ref().filter(|(_, known)| is_same(known, &model))
            {
                return Ok((before.with_patterns(known, &model), model.patterns));
            }
            let mut model = detached(model);
            let doubts = check(&model).map_err(|fault| vec![fault])?;
            model.warnings.extend(doubts);
            check_outputs(&mut model, check);
            let own = model.patterns.clone();
            Ok((Arc::new(model), own))
        };
        // A panic in one model's files does not prevent others from being served.
        let loaded = catch_unwind(AssertUnwindSafe(load));
        let loaded = loaded.unwrap_or_else(|_| {
            Err(vec![
                "model.onnx: reading or running it failed; see the log".to_owned(),
            ])
        });
        let (model, own) = match (loaded, known) {
            (Ok(found), _) => found,
            (Err(faults), None) => return self.broken.push(BrokenModel::new(files.id, faults)),
            (Err(mut faults), Some((before, known))) => {
                faults.insert(
                    0,
                    "as its files are now it cannot be served; requests get it as it was before"
                        .to_owned(),
                );
                self.broken.push(BrokenModel::new(files.id, faults));
                let own = before.own_patterns(&known.id).cloned();
                (known, own)
            }
        };
        self.own_patterns
            .extend(own.map(|own| (model.id.clone(), own)));
        self.models.push(model);
    }

    /// A model of this registry with the patterns that its folder holds at present, if they
    /// changed.
    fn with_patterns(&self, known: &Arc<Model>, now: &Model) -> Arc<Model> {
        let id = |patterns: Option<&Patterns>| patterns.map(|patterns| patterns.id.clone());
        if id(now.patterns.as_ref()) == id(self.own_patterns(&known.id)) {
            return known.clone();
        }
        Arc::new(Model {
            patterns: now.patterns.clone(),
            ..Model::clone(known)
        })
    }

    /// All warnings and assumptions, of the folder and of each model; `id: warning`.
    pub fn all_warnings(&self) -> Vec<String> {
        let of = |model: Arc<Model>| {
            let own = model.manifest.assumed.iter().chain(&model.warnings);
            own.map(|what| format!("{}: {what}", model.id))
                .collect::<Vec<_>>()
        };
        self.warnings
            .iter()
            .cloned()
            .chain(self.iter().flat_map(of))
            .collect()
    }

    pub fn get(&self, id: &str) -> Option<Arc<Model>> {
        self.iter().find(|model| model.id == id)
    }

    /// The model of requests that name none: the configured one, else the only one of the folder
    /// (broken ones counted). None where the configured one is broken, or there are several.
    pub fn default(&self) -> Option<Arc<Model>> {
        match &self.default {
            Some(id) => self.get(id),
            None => self
                .iter()
                .find(|model| !self.stored.contains_key(&model.id))
                .filter(|_| self.folders == 1),
        }
    }

    /// Whether a folder of this name was added since the registry was loaded.
    pub fn was_added(&self, id: &str) -> bool {
        let is_name = Path::new(id)
            .components()
            .eq([Component::Normal(id.as_ref())]);
        let known = self.get(id).is_some() || self.broken.iter().any(|broken| broken.id == id);
        let path = self
            .place
            .as_ref()
            .filter(|_| is_name && !known)
            .map(|place| place.join(id).join(ModelFiles::ONNX));
        path.is_some_and(|path| path.is_file())
    }

    /// Whether there are several models and no default: requests must name one.
    pub fn is_without_default(&self) -> bool {
        self.default.is_none() && self.folders > 1
    }

    /// The configured default if it is broken: requests that name no model get its faults, not
    /// another model.
    pub fn broken_default(&self) -> Option<&BrokenModel> {
        let id = self.default.as_ref().filter(|id| self.get(id).is_none())?;
        self.broken.iter().find(|broken| broken.id == *id)
    }

    /// Sorted by id.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Model>> {
        self.models.iter().cloned()
    }

    /// How the model of this id came into the store of files; none for a folder of the server's.
    pub fn origin(&self, id: &str) -> Option<Origin> {
        self.stored.get(id).copied()
    }

    /// Whether the models folder has a model of this id, broken or not.
    pub fn is_own(&self, id: &str) -> bool {
        let mut broken = self.broken.iter();
        self.get(id).is_some() && self.origin(id).is_none()
            || broken.any(|broken| broken.id == id && broken.origin.is_none())
    }

    /// Replaces the models that came into the store of files in this way, and those of them that
    /// cannot be served. A model that is there already keeps its patterns. One whose id is taken is
    /// told as broken.
    pub(super) fn set_stored<'a>(
        &mut self,
        origin: Origin,
        found: impl Iterator<Item = &'a Result<Arc<Model>, BrokenModel>>,
    ) {
        let (before, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.models)
            .into_iter()
            .partition(|model| self.stored.get(&model.id) == Some(&origin));
        self.models = others;
        self.broken.retain(|broken| broken.origin != Some(origin));
        self.stored.retain(|_, other| *other != origin);
        for found in found {
            match found {
                Err(broken) => self.broken.push(broken.clone()),
                Ok(model) if self.is_own(&model.id) || self.stored.contains_key(&model.id) => {
                    let fault = match origin {
                        Origin::Trained => {
                            "another model has this id; DELETE removes this one, which a job trained"
                        }
                        Origin::Uploaded => {
                            "another model has this id; DELETE removes this one, which was uploaded"
                        }
                    };
                    let broken = BrokenModel::new(model.id.clone(), vec![fault.to_owned()]);
                    self.broken.push(broken.of(origin));
                }
                Ok(model) => {
                    let is_same = |one: &&Arc<Model>| Arc::ptr_eq(&one.graph, &model.graph);
                    let model = before.iter().find(is_same).unwrap_or(model);
                    self.stored.insert(model.id.clone(), origin);
                    self.models.push(model.clone());
                }
            }
        }
        self.models.sort_by(|one, other| one.id.cmp(&other.id));
    }

    /// The patterns in the model's folder, in use or not.
    pub fn own_patterns(&self, id: &str) -> Option<&Patterns> {
        self.own_patterns.get(id)
    }

    /// Replaces a model's patterns, for all requests from that moment on.
    pub(super) fn set_patterns(&mut self, of: &Model, patterns: Option<Patterns>) {
        self.change(of, |model| model.patterns = patterns);
    }

    /// As [`Self::set_patterns`], of its sets of supports.
    pub(super) fn set_supports(&mut self, of: &Model, supports: Arc<[Arc<SupportSet>]>) {
        self.change(of, |model| model.supports = supports);
    }

    fn change(&mut self, of: &Model, change: impl FnOnce(&mut Model)) {
        let mut models = self.models.iter_mut();
        if let Some(place) = models.find(|model| model.id == of.id && model.hash == of.hash) {
            change(Arc::make_mut(place));
        }
    }
}

fn id_of(folder: &Path) -> String {
    folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The files of one model.
pub(super) struct ModelFiles {
    id: String,
    onnx: PathBuf,
    /// With model.toml, labels.txt and patterns; none for a single .onnx file.
    folder: Option<PathBuf>,
}

impl ModelFiles {
    pub(super) const ONNX: &str = "model.onnx";

    fn of(path: &Path) -> Self {
        match path.file_name() {
            Some(name) if path.is_file() && name != Self::ONNX => {
                let id = path
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                Self {
                    id,
                    onnx: path.to_owned(),
                    folder: None,
                }
            }
            _ => {
                let folder = if path.is_file() {
                    path.parent().unwrap_or(path)
                } else {
                    path
                };
                // `.` and `..` are resolved to a real name.
                let id = match folder.file_name() {
                    Some(_) => id_of(folder),
                    None => folder
                        .join(".")
                        .canonicalize()
                        .map(|folder| id_of(&folder))
                        .unwrap_or_default(),
                };
                Self {
                    id,
                    onnx: folder.join(Self::ONNX),
                    folder: Some(folder.to_owned()),
                }
            }
        }
    }

    fn beside(&self, name: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(name))
    }
}

/// SHA-256 of model.onnx; with external data, of the SHA-256 of all its files.
fn hash_of(onnx: &Path, external: &[PathBuf]) -> io::Result<String> {
    let of_file = |path: &Path| files::hash(&fs::File::open(path)?);
    if external.is_empty() {
        return of_file(onnx);
    }
    let mut all = Sha256::new();
    for path in std::iter::once(onnx).chain(external.iter().map(PathBuf::as_path)) {
        all.update(of_file(path)?);
    }
    Ok(files::hex(&all.finalize()))
}

/// The graph in a model's file, before its ends are adapted; none where the file is not the one that
/// was loaded.
pub fn graph_of_file(model: &Model) -> io::Result<Option<Graph>> {
    let Some(folder) = &model.folder else {
        return Ok(None);
    };
    let onnx = folder.join(ModelFiles::ONNX);
    let shape = Some(&model.manifest.input.shape[..]);
    let ReadModel {
        graph, external, ..
    } = read_model_files(&onnx, shape).map_err(io::Error::other)?;
    let is_same = hash_of(&onnx, &external)? == model.hash;
    Ok(is_same.then_some(graph))
}

/// Whether both were loaded from the same files, patterns aside.
fn is_same(one: &Model, other: &Model) -> bool {
    let of = |model: &Model| {
        let mut manifest = model.manifest.clone();
        // What could be run is known of one of them alone.
        manifest.reading.outputs.clear();
        (
            model.hash.clone(),
            manifest,
            model.labels.clone(),
            model.folder.clone(),
            model.provenance.clone(),
        )
    };
    of(one) == of(other)
}

/// Copies weights out of the file's bytes once, so that they are aligned: sessions use large
/// weights in place. All outputs share them.
fn detached(mut model: Model) -> Model {
    Arc::make_mut(&mut model.graph).detach();
    let mut outputs = model.outputs.to_vec();
    for other in outputs
        .iter_mut()
        .filter_map(|other| other.model.as_mut().ok())
    {
        let own = Arc::make_mut(&mut Arc::make_mut(other).graph);
        let theirs = &model.graph.initializers;
        let (shared, rest) = std::mem::take(&mut own.initializers)
            .into_iter()
            .partition::<IndexMap<_, _>, _>(|(name, literal)| theirs.get(name) == Some(literal));
        own.initializers = rest;
        own.detach();
        let shared = shared.into_keys();
        let shared = shared.filter_map(|name| Some((name.clone(), theirs.get(&name)?.clone())));
        own.initializers.extend(shared);
    }
    model.outputs = outputs.into();
    model
}

/// Runs what explains the other outputs; one that cannot be run is not offered.
fn check_outputs(model: &mut Model, check: Check<'_>) {
    let mut outputs = model.outputs.to_vec();
    for other in &mut outputs {
        let Ok(own) = &mut other.model else { continue };
        match check(own) {
            Ok(doubts) => Arc::make_mut(own).warnings.extend(doubts),
            Err(reason) => other.model = Err(reason),
        }
    }
    model.set_outputs(outputs);
}

/// Loads a model, or returns every fault of its files. Unsuitable patterns are a warning: the model
/// is served without them.
fn load_model(files: &ModelFiles, warnings: &mut Vec<String>) -> Result<Model, Vec<String>> {
    let ModelFiles { id, onnx, folder } = files;
    let name = onnx
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    if !onnx.is_file() {
        return Err(vec![format!("{name} is missing")]);
    }
    let mut faults = Vec::new();
    let labels = files
        .beside("labels.txt")
        .map(|path| read_labels(&path, &mut faults))
        .unwrap_or_default();
    let text = files
        .beside("model.toml")
        .map(|path| read_optional(&path, &mut faults))
        .unwrap_or_default();
    let of_graph = |error: &dyn std::fmt::Display| vec![format!("{name}: {error}")];
    let shape = manifest_file::input_shape(&text);
    let ReadModel {
        mut graph,
        external,
        warnings: cut,
        labels: stored,
    } = match read_model_files(onnx, shape.as_deref()) {
        Ok(read) => read,
        Err(_) if let Some(what) = foreign::what(onnx) => {
            faults.push(format!("{name} is {what}"));
            return Err(faults);
        }
        Err(error) => {
            faults.extend(of_graph(&error));
            if is_without_shape(&error) {
                faults.push("or model.toml says it: [input] with shape = [3, 224, 224]".to_owned());
            }
            return Err(faults);
        }
    };
    let hash = hash_of(onnx, &external).map_err(|error| of_graph(&error))?;
    let draft = match manifest_file::read(&text, &mut graph) {
        Ok(draft) => draft,
        Err(found) => {
            faults.extend(found.lines().map(|fault| format!("model.toml: {fault}")));
            return Err(faults);
        }
    };
    let said = draft.ends();
    let fixed = match fixed::fix(&mut graph, said.input, &draft.fixed, folder.as_deref()) {
        Ok(fixed) => fixed,
        Err(found) => {
            faults.extend(found.iter().map(|fault| format!("model.toml: {fault}")));
            return Err(faults);
        }
    };
    let reading = Reading { fixed, told: cut };
    let source = graph.clone();
    let ended = End::of(graph, draft.clone(), &reading).map_err(|error| of_graph(&error))?;
    let others = other_outputs(&source, &draft, &reading, &ended);
    let End {
        manifest,
        graph,
        layers,
        attention,
        is_binary,
        notes,
    } = ended;
    if let Some(name) = draft.layer()
        && !layers.iter().any(|layer| layer.name == *name)
    {
        let allowed = layers
            .iter()
            .map(|layer| layer.name.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        faults.push(format!(
            "model.toml: layer: no layer with height and width or a grid of tokens is called {name:?} (allowed: {allowed})"
        ));
    }
    let labels = match (&labels[..], is_binary) {
        ([positive], true) => Labels::from(vec![format!("not {positive}"), positive.clone()]),
        ([], _) => Labels::from(stored),
        _ => labels,
    };
    let patterns = files
        .beside(patterns::FILE)
        .filter(|path| path.exists())
        .and_then(|path| {
            if foreign::is_pointer(&path) {
                warnings.push(format!("{id}: {} is {}", patterns::FILE, foreign::POINTER));
                return None;
            }
            patterns::read(&path, &hash)
                .map(|(patterns, _)| patterns)
                .map_err(|error| warnings.push(format!("{id}: {error}")))
                .ok()
        });
    let mut model = Model {
        id: id.clone(),
        folder: folder.clone(),
        labels,
        hash,
        warnings: manifest.reading.told.clone(),
        manifest,
        graph: Arc::new(graph),
        rule_sets: RuleSets::default(),
        layers,
        attention,
        patterns,
        supports: Arc::default(),
        outputs: Arc::default(),
        provenance: files
            .beside(provenance::FILE)
            .and_then(|path| read_provenance(&path, id, warnings)),
        notes,
    };
    match model.classes() {
        Some(classes) if !model.labels.is_empty() && classes != model.labels.len() => {
            faults.push(format!(
                "labels.txt names {} classes, and the model has {classes}",
                model.labels.len()
            ));
        }
        _ => {}
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let outputs = others.into_iter().map(|(name, end)| OtherOutput {
        name,
        model: end.map(|end| Arc::new(end.model_beside(&model))),
    });
    let outputs: Vec<OtherOutput> = outputs.collect();
    model.set_outputs(outputs);
    Ok(model)
}

/// How a file's input and output are read, whichever output is explained.
struct Reading {
    fixed: BTreeMap<String, FixedInput>,
    /// Outputs that were left out.
    told: Vec<String>,
}

/// A graph that ends in the output that is explained, and what is known of it.
struct End {
    manifest: Manifest,
    graph: Graph,
    layers: Vec<Layer>,
    attention: Result<Arc<Attention>, String>,
    is_binary: bool,
    notes: Vec<String>,
}

impl End {
    fn of(graph: Graph, draft: Draft, reading: &Reading) -> Result<Self, EndsError> {
        let Ends {
            graph,
            input,
            output,
            is_binary,
            warnings,
            notes,
        } = ends::adapt(graph, draft.ends())?;
        let mut manifest = draft.finish(&graph);
        manifest.input.name = input;
        manifest.output = Some(output);
        manifest.reading.fixed.clone_from(&reading.fixed);
        manifest.reading.told = reading.told.iter().cloned().chain(warnings).collect();
        let seen = match manifest.input.shape[..] {
            [_, _, _] => spatial(&graph).map_err(|error| error.to_string()),
            _ => Err("its input has no height and width".to_owned()),
        };
        let (layers, default, attention) = match seen {
            Ok(seen) => (seen.layers, seen.default, seen.attention.map(Arc::new)),
            Err(reason) => (Vec::new(), None, Err(reason)),
        };
        manifest.layer = manifest.layer.or(default);
        Ok(Self {
            manifest,
            graph,
            layers,
            attention,
            is_binary,
            notes,
        })
    }

    /// The model that explains this end of the network, beside the one that model.toml names.
    fn model_beside(self, model: &Model) -> Model {
        let mut other = Model {
            warnings: self.manifest.reading.told.clone(),
            manifest: self.manifest,
            graph: Arc::new(self.graph),
            layers: self.layers,
            attention: self.attention,
            notes: self.notes,
            patterns: None,
            ..model.clone()
        };
        if !shares_labels(model, &other) {
            other.labels = Labels::default();
        }
        other
    }
}

/// The other outputs that requests may ask for, or why they cannot be explained.
fn other_outputs(
    source: &Graph,
    draft: &Draft,
    reading: &Reading,
    chosen: &End,
) -> Vec<(String, Result<End, String>)> {
    let chosen = chosen.manifest.output.as_deref().unwrap_or_default();
    let found = outputs::others(source, chosen, |name| draft.names_output(name)).into_iter();
    let end = |(name, fault): (String, Option<String>)| {
        let end = match fault {
            Some(reason) => Err(reason),
            None => End::of(source.clone(), draft.of_output(&name), reading)
                .map_err(|error| cut(&error.to_string(), BrokenModel::TOLD).into_owned()),
        };
        (name, end)
    };
    found.map(end).collect()
}

impl Model {
    /// Each output's model names all that can be asked for, where there are several.
    fn set_outputs(&mut self, mut outputs: Vec<OtherOutput>) {
        let usable = outputs.iter().filter(|other| other.model.is_ok());
        let usable = usable.map(|other| other.name.clone());
        let names: Vec<String> = self.manifest.output.iter().cloned().chain(usable).collect();
        let names = match names.len() {
            1 => Vec::new(),
            _ => names,
        };
        for other in outputs
            .iter_mut()
            .filter_map(|other| other.model.as_mut().ok())
        {
            Arc::make_mut(other)
                .manifest
                .reading
                .outputs
                .clone_from(&names);
        }
        self.manifest.reading.outputs = names;
        self.outputs = outputs.into();
    }
}

fn is_without_shape(error: &OnnxError) -> bool {
    let OnnxError::Model(faults) = error else {
        return false;
    };
    faults
        .iter()
        .any(|fault| matches!(fault, GraphFault::NoShape { .. }))
}

/// The labels of a file that may be missing.
fn read_labels(path: &Path, faults: &mut Vec<String>) -> Labels {
    if foreign::is_pointer(path) {
        faults.push(format!("labels.txt is {}", foreign::POINTER));
        return Labels::default();
    }
    let found = match read_bounded(path, labels::MAX_FILE_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Labels::default()),
        Err(error) => Err(vec![error.to_string()]),
        Ok(bytes) => Labels::read(&bytes),
    };
    found.unwrap_or_else(|found| {
        faults.extend(found.iter().map(|fault| format!("labels.txt: {fault}")));
        Labels::default()
    })
}

/// What a model was trained from. A file that cannot be read is a warning: the model is served
/// without it.
fn read_provenance(path: &Path, id: &str, warnings: &mut Vec<String>) -> Option<Arc<Provenance>> {
    let found = match read_bounded(path, provenance::MAX_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => Err(error.to_string()),
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
    };
    found
        .map_err(|reason| warnings.push(format!("{id}: {}: {reason}", provenance::FILE)))
        .ok()
        .map(Arc::new)
}

/// A regular file of at most `limit` bytes.
fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    foreign::open_regular(path)?
        .take(limit + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// The text of a file that need not be there.
fn read_optional(path: &Path, faults: &mut Vec<String>) -> String {
    let text = |bytes| {
        String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    };
    match read_bounded(path, MAX_MANIFEST_BYTES).and_then(text) {
        Ok(_) if foreign::is_pointer(path) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            faults.push(format!("{name} is {}", foreign::POINTER));
            String::new()
        }
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            faults.push(format!(
                "{}: {error}",
                path.file_name().unwrap_or_default().to_string_lossy()
            ));
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
        let model = load_model(&ModelFiles::of(&bundled()), &mut warnings).unwrap();
        assert_eq!(
            (model.id.as_str(), model.labels.len(), model.classes()),
            ("squeezenet1_1", 1000, Some(1000))
        );
        assert_eq!(model.labels[285], "Egyptian_cat");
        assert!(warnings.is_empty(), "{warnings:?}");
        let last = model.layers.last().unwrap();
        assert_eq!(
            (Some(&last.name), &last.shape[..]),
            (model.manifest.layer.as_ref(), &[1000, 13, 13][..])
        );
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
            fs::copy(
                bundled().join("model.onnx"),
                folder.path().join(id).join("model.onnx"),
            )
            .unwrap();
        }
        write("good", patterns::FILE, "x");
        write("empty", "README", "");
        write("labels", "labels.txt", "\u{feff}cat\r\ndog\r\n\r\n");
        write("manifest", "model.toml", "heads = 1\n[input]\nsize = 7");
        write("layer", "model.toml", "layer = 'nowhere'");
        write("nonsense", "model.onnx", "not a model");
        let registry = Registry::load(folder.path(), None).unwrap();
        assert!(
            registry.default().is_none() && registry.is_without_default(),
            "others might be mended"
        );
        assert_eq!(
            registry
                .iter()
                .map(|model| model.id.clone())
                .collect::<Vec<_>>(),
            ["good"]
        );
        assert_eq!(registry.warnings.len(), 1);
        let broken = registry
            .broken
            .iter()
            .map(|b| (b.id.as_str(), b.faults.len()))
            .collect::<Vec<_>>();
        assert_eq!(
            broken,
            [
                ("empty", 1),
                ("labels", 1),
                ("layer", 1),
                ("manifest", 2),
                ("nonsense", 1)
            ]
        );
        assert_eq!(
            registry.broken[1].faults,
            ["labels.txt names 2 classes, and the model has 1000"]
        );
        let error = Registry::load(folder.path(), Some("lables")).unwrap_err();
        assert!(error.to_string().contains("good"), "{error}");
        let registry = Registry::load(folder.path(), Some("labels")).unwrap();
        assert!(registry.default().is_none() && registry.get("good").is_some());
        assert_eq!(registry.broken_default().unwrap().id, "labels");
    }

    #[test]
    fn pipes_and_endless_files_beside_a_model_are_refused() {
        let folder = folder_of(&["pipe", "endless", "large", "patterns"]);
        let at = |file: &str| folder.path().join(file);
        for file in ["pipe/labels.txt", "patterns/patterns.safetensors"] {
            let made = std::process::Command::new("mkfifo")
                .arg(at(file))
                .status()
                .unwrap();
            assert!(made.success());
        }
        std::os::unix::fs::symlink("/dev/zero", at("endless/model.toml")).unwrap();
        fs::write(
            at("large/model.toml"),
            "# ".repeat(MAX_MANIFEST_BYTES as usize),
        )
        .unwrap();
        let registry = Registry::load(folder.path(), None).unwrap();
        let broken: Vec<_> = registry
            .broken
            .iter()
            .map(|broken| (broken.id.as_str(), broken.faults.join("; ")))
            .collect();
        let expected = [
            ("endless", "model.toml: it is no regular file".to_owned()),
            (
                "large",
                "model.toml: is larger than 1048576 bytes".to_owned(),
            ),
            ("pipe", "labels.txt: it is no regular file".to_owned()),
        ];
        assert_eq!(broken, expected);
        assert!(
            registry.get("patterns").is_some() && registry.warnings[0].contains("no regular file")
        );
    }

    /// A model.onnx of the bundled network in each folder.
    fn folder_of(ids: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for id in ids {
            fs::create_dir(folder.path().join(id)).unwrap();
            fs::copy(
                bundled().join("model.onnx"),
                folder.path().join(id).join("model.onnx"),
            )
            .unwrap();
        }
        folder
    }

    #[test]
    fn a_default_is_configured_or_the_only_one() {
        let folder = folder_of(&["one"]);
        let load = |default| Registry::load(folder.path(), default).unwrap();
        assert_eq!(load(None).default().unwrap().id, "one");
        fs::create_dir(folder.path().join("lost+found")).unwrap();
        assert_eq!(
            load(None).default().unwrap().id,
            "one",
            "a folder without model.onnx is no second model"
        );
        fs::create_dir(folder.path().join("another")).unwrap();
        fs::copy(
            bundled().join("model.onnx"),
            folder.path().join("another/model.onnx"),
        )
        .unwrap();
        assert!(load(None).default().is_none() && load(None).is_without_default());
        assert_eq!(load(Some("one")).default().unwrap().id, "one");
        assert!(!load(Some("one")).is_without_default());
    }

    #[test]
    fn read_again_models_that_are_the_same_stay_and_others_are_what_their_files_are_now() {
        let folder = folder_of(&["changed", "gone", "same"]);
        let at = |file: &str| folder.path().join(file);
        let before = Registry::load(folder.path(), None).unwrap();
        fs::write(at("changed/model.toml"), "head = 'logits'").unwrap();
        fs::remove_dir_all(at("gone")).unwrap();
        fs::create_dir(at("new")).unwrap();
        fs::copy(bundled().join("model.onnx"), at("new/model.onnx")).unwrap();
        assert!(
            before.was_added("new")
                && !before.was_added("same")
                && !before.was_added("../models/new")
        );
        // What lies in memory does not change with its file.
        fs::write(at("same/model.onnx"), b"").unwrap();
        let weights =
            |registry: &Registry| registry.get("same").unwrap().graph.initializers[0].to_f32s();
        let read = weights(&before);
        fs::copy(bundled().join("model.onnx"), at("same/model.onnx")).unwrap();

        let tried = std::cell::RefCell::new(Vec::new());
        let check = |model: &Model| {
            tried.borrow_mut().push(model.id.clone());
            Ok(vec![])
        };
        let after = Registry::load_after(Some(&before), folder.path(), None, &check).unwrap();
        assert_eq!(
            after
                .iter()
                .map(|model| model.id.clone())
                .collect::<Vec<_>>(),
            ["changed", "new", "same"]
        );
        assert_eq!(*tried.borrow(), ["changed", "new"]);
        assert!(
            Arc::ptr_eq(&before.get("same").unwrap(), &after.get("same").unwrap())
                && weights(&after) == read
        );
        assert_eq!(
            after.get("changed").unwrap().manifest.head,
            onnx_autodiff::autodiff::spec::Head::Logits
        );

        fs::write(at("same/labels.txt"), "one label").unwrap();
        fs::create_dir(at("worse")).unwrap();
        fs::write(at("worse/model.onnx"), b"no model").unwrap();
        let broken =
            Registry::load_after(Some(&after), folder.path(), None, &|_| Ok(vec![])).unwrap();
        assert!(
            Arc::ptr_eq(&after.get("same").unwrap(), &broken.get("same").unwrap()),
            "as it was before"
        );
        assert_eq!(
            broken
                .broken
                .iter()
                .map(|one| one.id.as_str())
                .collect::<Vec<_>>(),
            ["same", "worse"]
        );
        assert!(
            broken.broken[0].faults[0].contains("as it was before"),
            "{:?}",
            broken.broken[0]
        );
        let refused = Registry::load_after(None, folder.path(), None, &|_| {
            Err("it does not run".to_owned())
        })
        .unwrap();
        assert!(refused.iter().next().is_none() && refused.broken[1].faults == ["it does not run"]);
    }

    #[test]
    fn external_data_is_part_of_what_a_model_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        let graph = onnx_autodiff::onnx::read_model(&bundled().join("model.onnx")).unwrap();
        let mut weights = Vec::new();
        let model =
            onnx_autodiff::onnx::write_model_external(&graph, 1 << 20, &mut |_, literal| {
                let offset = weights.len() as u64;
                weights.extend_from_slice(&literal.bytes);
                Some(onnx_autodiff::onnx::ExternalRef {
                    location: "weights.bin".into(),
                    offset,
                })
            });
        fs::write(&path, model.unwrap()).unwrap();
        fs::write(folder.path().join("weights.bin"), &weights).unwrap();
        let hash = || {
            load_model(&ModelFiles::of(folder.path()), &mut Vec::new())
                .unwrap()
                .hash
        };
        let first = hash();
        assert_eq!(first, hash());
        weights[0] ^= 1;
        fs::write(folder.path().join("weights.bin"), &weights).unwrap();
        assert_ne!(first, hash());
    }
}
