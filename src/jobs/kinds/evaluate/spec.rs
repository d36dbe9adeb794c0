//! What an evaluation is asked for, with every default settled: posted again it measures the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    app::plan::find_model,
    dataset::{Dataset, DatasetImage},
    driver::model_defaults,
    evaluation::{
        Metric, Needs,
        findings::{MetricEntry, titles},
        parameters::{self, MODELS},
        patches::Score,
        registry,
    },
    faults::{Fault, Faults},
    jobs::kinds::{
        images::{WITH, WITHOUT, twins, used},
        request_reader::RequestReader,
    },
    methods::{
        applies::obstacle,
        parameters::Parameters,
        registry::{METHODS, Scores, applicable, undefined},
    },
    model::Model,
    text::shown,
};

const MAX_ROWS: usize = 64;
const MAX_METRICS: usize = 32;
/// Stands for every method that the model supports.
const ALL: &str = "all";
/// The largest integer that every JSON reader keeps exact.
const MAX_EXACT: u64 = (1 << 53) - 1;

/// `M` says what is measured, among the fields of the request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec<M = Metrics> {
    pub model: String,
    pub model_hash: String,
    /// Identifies the fit, where a method uses patterns.
    pub patterns: Option<String>,
    pub dataset: String,
    pub dataset_hash: String,
    /// One for each row of the report: `id`, every parameter, `score`.
    pub methods: Vec<Map<String, Value>>,
    #[serde(flatten)]
    pub measured: M,
    /// Of the images that are used; of any without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// So many images, drawn by `seed`; all without it.
    pub limit: Option<usize>,
    pub labels: Labels,
    /// Of the draw, the intervals, randomised models, and what methods draw: theirs is added to it,
    /// and for all but baselines the image's number.
    #[serde(alias = "seed_value")]
    pub seed: u64,
}

/// The metrics, each with its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Metrics {
    pub metrics: Vec<MetricEntry>,
    /// Of the models that they ask beside the one that is evaluated, by id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub model_hashes: BTreeMap<String, String>,
    /// Evaluations that `limit` was lowered for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<u64>,
}

impl Metrics {
    pub(crate) fn of(metrics: Vec<MetricEntry>) -> Self {
        Self {
            metrics,
            model_hashes: BTreeMap::new(),
            budget: None,
        }
    }
}

/// What labels are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Labels {
    /// Labelled images that the model takes for something else are left out.
    Use,
    Ignore,
}

/// One row of the report.
#[derive(Clone, Debug)]
pub(crate) struct MethodRow {
    pub parameters: Parameters,
    pub score: Score,
}

/// A request that can be carried out.
pub(crate) struct ResolvedRequest {
    pub spec: Spec,
    pub rows: Vec<MethodRow>,
    pub dataset: Arc<Dataset>,
}

/// `dataset` is the one that was asked for; `read` takes what is measured from the request, for a
/// model that takes pictures.
pub(crate) fn settle(
    mut asked: RequestReader,
    dataset: Option<Arc<Dataset>>,
    read: fn(&mut RequestReader, Option<&Model>) -> Vec<MetricEntry>,
) -> Result<ResolvedRequest, Faults> {
    let model = asked.classifier();
    asked.expect(
        "model_hash",
        model.as_ref().map(|model| model.hash.as_str()),
    );
    asked.expect(
        "dataset_hash",
        dataset.as_ref().map(|dataset| dataset.hash.as_str()),
    );
    asked.expect(
        "patterns",
        model
            .as_ref()
            .and_then(|model| Some(model.patterns.as_ref()?.id.as_str())),
    );
    let before = asked.faults.len();
    let rows = read_methods(&mut asked, model.as_deref());
    let are_all = asked.faults.len() == before;
    let is_pictured = |model: &&Arc<Model>| model.manifest.input.preprocess.is_some();
    let pictured = model.as_ref().filter(is_pictured);
    if model.is_some() && pictured.is_none() {
        let message = "takes ready tensors: metrics are measured on pictures";
        asked.refuse("model", message, &[]);
    }
    let before = asked.faults.len();
    let metrics = read(&mut asked, pictured.map(Arc::as_ref));
    let are_all_metrics = asked.faults.len() == before;
    // Of some of them nothing can be said of all.
    if are_all {
        refuse_methods(&mut asked, &metrics, &rows);
    }
    if are_all && are_all_metrics {
        refuse_models(&mut asked, &metrics, &rows);
    }
    let model_hashes = read_hashes(&mut asked, &metrics);
    let role = asked.take("role", &["a text"], |role: &String| !role.is_empty());
    let has_role = dataset.as_ref().is_some_and(|dataset| {
        let mut roles = dataset.images.iter().map(|image| image.role.as_deref());
        roles.any(|role| role == Some(WITH))
    });
    let looks_at_objects = needs_pairs(&metrics) || has_role && compares_models(&metrics);
    let role = role.or_else(|| looks_at_objects.then(|| WITH.to_owned()));
    let limit = asked.take("limit", &["a whole number from 1"], |limit| *limit > 0usize);
    let labels = asked
        .take("labels", &["use", "ignore"], |_| true)
        .unwrap_or(Labels::Use);
    let seed = asked
        .take("seed", &["a whole number"], |seed| *seed <= MAX_EXACT)
        .unwrap_or(0);
    if dataset
        .as_ref()
        .is_some_and(|dataset| dataset.images.is_empty())
    {
        asked.refuse("dataset", "holds no image", &[]);
    } else if let Some(dataset) = &dataset {
        refuse_dataset(&mut asked, &metrics, role.as_deref(), dataset);
    }
    asked.finish()?;
    let (Some(model), Some(dataset)) = (model, dataset) else {
        return Err(Faults::default());
    };
    let patterned = rows.iter().any(|row| row.parameters.needs_patterns());
    let spec = Spec {
        model: model.id.clone(),
        model_hash: model.hash.clone(),
        patterns: model
            .patterns
            .as_ref()
            .filter(|_| patterned)
            .map(|patterns| patterns.id.clone()),
        dataset: dataset.id.clone(),
        dataset_hash: dataset.hash.clone(),
        methods: rows.iter().map(entry).collect(),
        measured: Metrics {
            model_hashes,
            ..Metrics::of(metrics)
        },
        role,
        limit,
        labels,
        seed,
    };
    Ok(ResolvedRequest {
        spec,
        rows,
        dataset,
    })
}

impl<M> Spec<M> {
    /// The same of something else that is measured.
    pub(crate) fn measuring<N>(self, measured: N) -> (Spec<N>, M) {
        let Self {
            model,
            model_hash,
            patterns,
            dataset,
            dataset_hash,
            methods,
            measured: before,
            role,
            limit,
            labels,
            seed,
        } = self;
        let spec = Spec {
            model,
            model_hash,
            patterns,
            dataset,
            dataset_hash,
            methods,
            measured,
            role,
            limit,
            labels,
            seed,
        };
        (spec, before)
    }

    /// The rows again, of a spec that was settled.
    pub(crate) fn rows(&self, model: &Model) -> Result<Vec<MethodRow>, Faults> {
        let mut rows = Vec::new();
        for entry in &self.methods {
            rows.extend(read_method(&Value::Object(entry.clone()), model)?);
        }
        Ok(rows)
    }

    /// What each row is called: the method, and what tells it from other rows of the same method.
    pub(crate) fn titles(&self) -> Vec<String> {
        titles(&self.methods)
    }
}

/// A row as a request would name it.
fn entry(row: &MethodRow) -> Map<String, Value> {
    let mut entry = Map::from_iter([("id".to_owned(), json!(row.parameters.method.id))]);
    entry.extend(
        row.parameters
            .to_json()
            .into_iter()
            .filter(|(name, _)| name != "method" && name != "target"),
    );
    entry.insert("score".to_owned(), json!(row.score));
    entry
}

fn read_methods(asked: &mut RequestReader, model: Option<&Model>) -> Vec<MethodRow> {
    let entries = match asked.raw("methods") {
        Some(Value::Array(entries)) if !entries.is_empty() => entries,
        Some(Value::String(word)) if word == ALL => {
            return model.map(all_methods).unwrap_or_default();
        }
        _ => {
            let ids = METHODS.iter().map(|method| method.id);
            asked.refuse(
                "methods",
                "is a list of at least one method: its id, or an object with id, score and parameters; or `all`",
                &[ALL].into_iter().chain(ids).collect::<Vec<_>>(),
            );
            return Vec::new();
        }
    };
    let too_many = |asked: &mut RequestReader, what: &str, count| {
        asked.refuse(
            "methods",
            format!("{what} {count}; at most {MAX_ROWS} are compared"),
            &[],
        );
    };
    if entries.len() > MAX_ROWS {
        too_many(asked, "are", entries.len());
        return Vec::new();
    }
    let Some(model) = model else {
        return Vec::new();
    };
    let mut rows: Vec<MethodRow> = Vec::new();
    for (at, value) in entries.iter().enumerate() {
        match read_method(value, model) {
            Ok(found) => {
                let is_known =
                    |row: &MethodRow| rows.iter().any(|known| entry(known) == entry(row));
                if found.iter().any(is_known) {
                    let message =
                        "is in the list already, with the same parameters and score: drop one";
                    asked.refuse(&format!("methods[{at}]"), message, &[]);
                } else {
                    rows.extend(found);
                }
            }
            Err(faults) => asked.faults.append(faults, |fault| Fault {
                param: format!(
                    "methods[{at}].{}",
                    if fault.param == "method" {
                        "id"
                    } else {
                        &fault.param
                    }
                ),
                ..fault
            }),
        }
    }
    if rows.len() > MAX_ROWS {
        too_many(asked, "with and without sign are", rows.len());
    }
    rows
}

/// Every method that the model supports, by its defaults.
fn all_methods(model: &Model) -> Vec<MethodRow> {
    let supported = applicable(&model_defaults(model));
    let rows = supported.filter_map(|method| read_method(&json!(method.id), model).ok());
    rows.flatten().take(MAX_ROWS).collect()
}

/// The rows of one entry: two where the method has no sign of its own and the entry names no score.
fn read_method(value: &Value, model: &Model) -> Result<Vec<MethodRow>, Faults> {
    let mut given = match value {
        Value::String(id) => Map::from_iter([("method".to_owned(), json!(id))]),
        Value::Object(fields) => fields.clone(),
        _ => return Err(Fault::says("id", "is neither an id nor an object").into()),
    };
    given.retain(|_, value| !value.is_null());
    let mut faults = Faults::default();
    // The parameters that answers state name it `method`, as requests do.
    let id = given
        .remove("id")
        .or_else(|| given.get("method").cloned())
        .unwrap_or(Value::Null);
    if given
        .insert("method".to_owned(), id.clone())
        .is_some_and(|method| method != id)
    {
        faults.push(Fault::says(
            "id",
            "and method name different methods: give one of them",
        ));
    }
    if given
        .remove("target")
        .is_some_and(|target| target != "predicted")
    {
        let message = "is always the predicted class: its score is what is followed";
        faults.push(Fault::new("target", message, ["predicted"]));
    }
    let score = given.remove("score");
    let named: Option<Score> = score
        .as_ref()
        .and_then(|score| serde_json::from_value(score.clone()).ok());
    if let (Some(score), None) = (&score, named) {
        faults.push(Fault::new(
            "score",
            format!("{} is not one of the choices", shown(score)),
            ["signed", "absolute"],
        ));
    }
    let facts = model_defaults(model);
    let parameters = match Parameters::parse(&given, &facts) {
        Ok(parameters) if let Some(fault) = undefined(&parameters, &facts) => {
            faults.push(fault);
            parameters
        }
        Ok(parameters) if parameters.needs_patterns() && model.patterns.is_none() => {
            faults.push(Fault::says(
                "id",
                "needs patterns, and the model has none: a fit_patterns job fits them",
            ));
            parameters
        }
        Ok(parameters) => parameters,
        Err(found) => {
            faults.append(found, |fault| fault);
            return Err(faults);
        }
    };
    if !faults.is_empty() {
        return Err(faults);
    }
    let scores = match named {
        Some(score) => vec![score],
        // Their sign says neither for nor against: magnitude may rank them better.
        None if parameters.method.scores == Scores::Sensitivity => {
            vec![Score::Signed, Score::Absolute]
        }
        None => vec![Score::Signed],
    };
    Ok(scores
        .into_iter()
        .map(|score| MethodRow {
            parameters: parameters.clone(),
            score,
        })
        .collect())
}

/// `metrics` of a request: a list of ids, or of objects with an id and parameters.
pub(crate) fn read_metrics(asked: &mut RequestReader, model: Option<&Model>) -> Vec<MetricEntry> {
    let ids: Vec<&str> = registry::METRICS.iter().map(|metric| metric.id).collect();
    let entries = match asked.raw("metrics") {
        Some(Value::Array(entries)) if (1..=MAX_METRICS).contains(&entries.len()) => entries,
        _ => {
            let message = format!(
                "is a list of 1 to {MAX_METRICS} metrics: the id of each, or an object with id and parameters"
            );
            asked.refuse("metrics", message, &ids);
            return Vec::new();
        }
    };
    let Some(model) = model else {
        return Vec::new();
    };
    let mut metrics = Vec::new();
    for (at, value) in entries.into_iter().enumerate() {
        let mut given = match value {
            Value::Object(fields) => fields,
            id => Map::from_iter([("id".to_owned(), id)]),
        };
        let id = given.remove("id");
        let Some(metric) = id.as_ref().and_then(Value::as_str).and_then(registry::find) else {
            let param = format!("metrics[{at}].id");
            asked.faults.push(match id {
                Some(id) => Fault {
                    param,
                    ..registry::unknown(&id)
                },
                None => Fault::new(&param, "is missing", ids.iter().copied()),
            });
            continue;
        };
        match parameters::settle(metric, given, model) {
            Ok(parameters) => {
                let id = metric.id.to_owned();
                let entry = MetricEntry { id, parameters };
                find_others(asked, at, &entry, model);
                if metrics.contains(&entry) {
                    let message = "is in the list already, with the same parameters: drop one";
                    asked.refuse(&format!("metrics[{at}]"), message, &[]);
                } else {
                    metrics.push(entry);
                }
            }
            Err(faults) => asked.faults.append(faults, |fault| Fault {
                param: format!("metrics[{at}].{}", fault.param),
                ..fault
            }),
        }
    }
    metrics
}

/// Tells the models that a metric names which are not there, or take other inputs.
fn find_others(asked: &mut RequestReader, at: usize, entry: &MetricEntry, model: &Model) {
    let param = format!("metrics[{at}].{MODELS}");
    for id in entry.parameters.models() {
        match find_model(&asked.app().models(), Some(&json!(id))) {
            Ok(other) if other.manifest.input == model.manifest.input => {}
            Ok(_) => {
                let message = format!(
                    "{} takes other inputs than {}, or prepares them in another way",
                    shown(id),
                    model.id
                );
                asked.refuse(&param, message, &[]);
            }
            Err(fault) => {
                let param = param.clone();
                asked.faults.push(Fault { param, ..fault });
            }
        }
    }
}

/// Tells the methods that explain the evaluated model as another that a metric names cannot be.
fn refuse_models(asked: &mut RequestReader, metrics: &[MetricEntry], rows: &[MethodRow]) {
    let mut told = BTreeSet::new();
    for entry in metrics {
        let Some(metric) = entry.metric() else {
            continue;
        };
        let is_measured = |row: &&MethodRow| !(metric.needs.excludes)(&row.parameters);
        for id in entry.parameters.models() {
            let Some(other) = asked.app().models().get(id) else {
                continue;
            };
            for row in rows.iter().filter(is_measured) {
                let method = row.parameters.method;
                let fault = obstacle(method, &model_defaults(&other)).or_else(|| {
                    let read = read_method(&Value::Object(self::entry(row)), &other);
                    read.err().map(|faults| faults.to_string())
                });
                if let Some(fault) = fault
                    && told.insert((id, method.id))
                {
                    let message = format!(
                        "{} asks {} for the same maps, and {} cannot explain it: {fault}",
                        entry.id,
                        shown(id),
                        method.id
                    );
                    asked.refuse("methods", message, &[]);
                }
            }
        }
    }
}

/// The hashes of the models that metrics name. Those that a settled request carries have to be the
/// same.
fn read_hashes(asked: &mut RequestReader, metrics: &[MetricEntry]) -> BTreeMap<String, String> {
    let models = asked.app().models();
    let ids = metrics.iter().flat_map(|entry| entry.parameters.models());
    let hash = |id: &str| Some((id.to_owned(), models.get(id)?.hash.clone()));
    let hashes: BTreeMap<String, String> = ids.filter_map(hash).collect();
    if hashes.is_empty() {
        return hashes;
    }
    let form = ["an object of the models' ids and hashes"];
    let known = asked.take("model_hashes", &form, |_: &BTreeMap<String, String>| true);
    for (id, known) in known.unwrap_or_default() {
        if hashes.get(&id) != Some(&known) {
            let found = hashes.get(&id).map_or("of no metric", String::as_str);
            let message = format!(
                "{} is {found} now: leave model_hashes out to use models as they are",
                shown(&id)
            );
            asked.refuse("model_hashes", message, &[]);
        }
    }
    hashes
}

/// Tells the metrics to which the maps of all methods mean nothing.
fn refuse_methods(asked: &mut RequestReader, metrics: &[MetricEntry], rows: &[MethodRow]) {
    let metrics = metrics.iter().filter_map(MetricEntry::metric);
    let metrics: BTreeMap<&str, &Metric> = metrics.map(|metric| (metric.id, metric)).collect();
    let is_excluded = |metric: &Metric| {
        let excluded = |row: &MethodRow| (metric.needs.excludes)(&row.parameters);
        !rows.is_empty() && rows.iter().all(excluded)
    };
    for (id, metric) in metrics
        .into_iter()
        .filter(|(_, metric)| is_excluded(metric))
    {
        let ids: BTreeSet<&str> = rows.iter().map(|row| row.parameters.method.id).collect();
        let ids = Vec::from_iter(ids).join(", ");
        let reason = metric.needs.exclusion;
        asked.refuse(
            "methods",
            format!("{id} says nothing about {ids}: {reason}"),
            &[],
        );
    }
}

/// Tells what the data set does not have: images of the role, and what metrics need of them.
fn refuse_dataset(
    asked: &mut RequestReader,
    metrics: &[MetricEntry],
    role: Option<&str>,
    dataset: &Dataset,
) {
    let needing = |needs: fn(&Needs) -> bool| {
        let metrics = metrics.iter().filter_map(MetricEntry::metric);
        let needing = metrics.filter(|metric| needs(&metric.needs));
        let ids: BTreeSet<&str> = needing.map(|metric| metric.id).collect();
        Vec::from_iter(ids).join(", ")
    };
    let regions = needing(|needs| needs.region);
    let has_region = |image: &DatasetImage| image.mask.is_some() || !image.boxes.is_empty();
    if !regions.is_empty() && !dataset.images.iter().any(has_region) {
        let message = format!(
            "has no masks and no boxes, which {regions} needs: add a folder masks/, or columns x0, y0, x1, y1 to its labels.csv \
             (docs/datasets.md)"
        );
        asked.refuse("dataset", message, &[]);
    }
    let used = used(dataset, role, None, 0);
    let twins = twins(dataset);
    let has_twin = |place: &usize| twins[*place].is_some_and(|twin| twin != *place);
    let pairs = needing(|needs| needs.pair);
    if !pairs.is_empty() && !used.iter().any(has_twin) {
        let message = format!(
            "has no pairs, which {pairs} needs: give the image with an object and the one without it the same `group` in its labels.csv, \
             and the roles `{WITH}` and `{WITHOUT}` (docs/datasets.md)"
        );
        asked.refuse("dataset", message, &[]);
    } else if let (true, Some(role)) = (used.is_empty(), role) {
        let roles = dataset
            .images
            .iter()
            .filter_map(|image| image.role.as_deref());
        let roles: BTreeSet<&str> = roles.collect();
        let message = format!("no image of {} has the role {}", dataset.id, shown(role));
        asked.refuse("role", message, &Vec::from_iter(roles));
    }
}

/// Whether objects are looked at that matter more to some models than to others.
fn compares_models(metrics: &[MetricEntry]) -> bool {
    let mut metrics = metrics.iter().filter_map(MetricEntry::metric);
    metrics.any(|metric| {
        metric
            .parameters
            .iter()
            .any(|one| one.name == parameters::MODELS)
    })
}

fn needs_pairs(metrics: &[MetricEntry]) -> bool {
    let mut metrics = metrics.iter().filter_map(MetricEntry::metric);
    metrics.any(|metric| metric.needs.pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_called_by_what_tells_them_apart() {
        let entry = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        let spec = Spec {
            model: String::new(),
            model_hash: String::new(),
            patterns: None,
            dataset: String::new(),
            dataset_hash: String::new(),
            methods: vec![
                entry(
                    r#"{"id": "pgig", "n_steps": 25, "pattern_layers": "inner", "score": "signed"}"#,
                ),
                entry(
                    r#"{"id": "pgig", "n_steps": 25, "pattern_layers": "all", "score": "signed"}"#,
                ),
                entry(r#"{"id": "gradient", "score": "signed"}"#),
                entry(r#"{"id": "gradient", "score": "absolute"}"#),
                entry(r#"{"id": "random", "score": "signed"}"#),
            ],
            measured: Metrics::of(Vec::new()),
            role: None,
            limit: None,
            labels: Labels::Use,
            seed: 0,
        };
        assert_eq!(
            spec.titles(),
            [
                "pgig (pattern_layers inner)",
                "pgig (pattern_layers all)",
                "gradient (signed)",
                "gradient (absolute)",
                "random"
            ]
        );
        let again: Spec = serde_json::from_value(serde_json::to_value(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
    }
}
