//! What a benchmark is asked for, with every default settled: posted again it measures the same.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    dataset::Dataset,
    driver::model_defaults,
    evaluation::{
        degradation::{self, Compat, Order, Replacement},
        patches::{Grid, Score},
    },
    jobs::kinds::asked::Asked,
    methods::{
        Fault, Faults,
        parameters::Parameters,
        registry::{METHODS, Scores},
    },
    model::Model,
};

const MAX_ROWS: usize = 64;
/// The largest integer that every JSON reader keeps exact.
const MAX_EXACT: u64 = (1 << 53) - 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    pub model: String,
    pub model_hash: String,
    /// Identifies the fit, where a method uses patterns.
    pub patterns: Option<String>,
    pub dataset: String,
    pub dataset_hash: String,
    /// One for each row of the report: `id`, every parameter, `score`.
    pub methods: Vec<Map<String, Value>>,
    #[serde(flatten)]
    pub metric: degradation::Parameters,
    /// So many images, drawn by `seed`; all without it.
    pub limit: Option<usize>,
    pub labels: Labels,
    /// Of the draw, the intervals, and what methods draw: theirs is added to it, and for all but
    /// baselines the image's number.
    #[serde(alias = "seed_value")]
    pub seed: u64,
}

/// What labels are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Labels {
    /// Labelled images that the model takes for something else are left out.
    Use,
    Ignore,
}

/// One row of the report.
#[derive(Clone, Debug)]
pub struct Row {
    pub parameters: Parameters,
    pub score: Score,
}

/// A request that can be carried out.
pub struct Settled {
    pub spec: Spec,
    pub rows: Vec<Row>,
    pub dataset: Arc<Dataset>,
}

/// `dataset` is the one that was asked for.
pub fn settle(mut asked: Asked, dataset: Option<Arc<Dataset>>) -> Result<Settled, Faults> {
    let model = asked.model();
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
    let rows = read_methods(&mut asked, model.as_deref());
    let metric = read_metric(&mut asked, model.as_deref());
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
        metric,
        limit,
        labels,
        seed,
    };
    Ok(Settled {
        spec,
        rows,
        dataset,
    })
}

impl Spec {
    /// The rows again, of a spec that was settled.
    pub fn rows(&self, model: &Model) -> Result<Vec<Row>, Faults> {
        let mut rows = Vec::new();
        for entry in &self.methods {
            rows.extend(read_method(&Value::Object(entry.clone()), model)?);
        }
        Ok(rows)
    }

    /// What each row is called: the method, and what tells it from other rows of the same method.
    pub fn titles(&self) -> Vec<String> {
        let title = |entry: &Map<String, Value>| {
            let alike: Vec<_> = self
                .methods
                .iter()
                .filter(|other| other["id"] == entry["id"])
                .collect();
            let telling = entry
                .iter()
                .filter(|(name, value)| alike.iter().any(|other| other.get(*name) != Some(value)));
            let words: Vec<String> = telling
                .map(|(name, value)| match (name.as_str(), value.as_str()) {
                    ("score", Some(score)) => score.to_owned(),
                    (_, Some(text)) => format!("{name} {text}"),
                    _ => format!("{name} {value}"),
                })
                .collect();
            let id = entry["id"].as_str().unwrap_or_default();
            if words.is_empty() {
                id.to_owned()
            } else {
                format!("{id} ({})", words.join(", "))
            }
        };
        self.methods.iter().map(title).collect()
    }
}

/// A row as a request would name it.
fn entry(row: &Row) -> Map<String, Value> {
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

fn read_methods(asked: &mut Asked, model: Option<&Model>) -> Vec<Row> {
    let ids: Vec<&str> = METHODS.iter().map(|method| method.id).collect();
    let Some(Value::Array(entries)) = asked
        .raw("methods")
        .filter(|list| list.as_array().is_some_and(|list| !list.is_empty()))
    else {
        asked.refuse(
            "methods",
            "is a list of at least one method: its id, or an object with id, score and parameters",
            &ids,
        );
        return Vec::new();
    };
    let too_many = |asked: &mut Asked, what: &str, count| {
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
    let mut rows = Vec::new();
    for (at, value) in entries.iter().enumerate() {
        match read_method(value, model) {
            Ok(found) => rows.extend(found),
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

/// The rows of one entry: two where the method has no sign of its own and the entry names no score.
fn read_method(value: &Value, model: &Model) -> Result<Vec<Row>, Faults> {
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
    if score.is_some() && named.is_none() {
        faults.push(Fault::new(
            "score",
            "is not one of the choices",
            ["signed", "absolute"],
        ));
    }
    let parameters = match Parameters::parse(&given, &model_defaults(model)) {
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
        .map(|score| Row {
            parameters: parameters.clone(),
            score,
        })
        .collect())
}

fn read_metric(asked: &mut Asked, model: Option<&Model>) -> degradation::Parameters {
    let defaults = degradation::Parameters::default();
    let rule = model.map(|model| {
        (
            &model.manifest.input,
            model.manifest.input.preprocess.as_ref(),
        )
    });
    let side = match rule {
        Some((_, Some(rule))) => rule.width.min(rule.height) as usize,
        Some((_, None)) => {
            asked.refuse(
                "model",
                "takes ready tensors: a degradation needs pictures",
                &[],
            );
            usize::MAX
        }
        None => usize::MAX,
    };
    let range = format!("1 to {side}");
    let grid = asked
        .take("grid", &[&range], |grid| (1..=side).contains(grid))
        .unwrap_or(defaults.grid.min(side));
    if let Some((input, Some(rule))) = rule
        && Grid::new(&input.shape, rule.layout, grid).is_none()
    {
        asked.refuse("grid", "does not fit the model's input", &[&range]);
    }
    let order = asked
        .take::<Order>("order", &["descending", "ascending"], |_| true)
        .unwrap_or(defaults.order);
    let replacement = asked.take::<Replacement>("replacement", &["mean", "zero", "blur"], |_| true);
    let replacement = replacement.unwrap_or(defaults.replacement);
    let compat = asked.take::<Compat>("compat", &["pgig-2020"], |_| true);
    if compat.is_some() && replacement != Replacement::Mean {
        asked.refuse(
            "replacement",
            "is the mean in the published code",
            &["mean"],
        );
    }
    let metric = degradation::Parameters {
        grid,
        order,
        replacement,
        compat,
        ..defaults
    };
    let most = metric.max_steps().max(1);
    let steps = asked.take("steps", &[&format!("1 to {most}")], |steps| {
        (1..=most).contains(steps)
    });
    degradation::Parameters {
        steps: steps.unwrap_or(metric.steps.min(most)),
        ..metric
    }
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
            metric: degradation::Parameters::default(),
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
