//! What a TCAV job is asked for, with every default settled, and which images and layers follow.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    app::plan::find_model,
    dataset::{Dataset, DatasetImage, draw},
    faults::{Fault, Faults},
    jobs::kinds::{
        images::{WITH, twins},
        request_reader::RequestReader,
    },
    methods::target::Target,
    model::{Model, labels::Classes},
    tcav::{
        cav::REGULARISATION,
        draws::{Draw, draws},
    },
    text::{excerpt, meant, shown},
};
use onnx_autodiff::autodiff::{self, spec::RuleSetId};

/// Activations and vectors that a shard holds at once.
pub(super) const SHARD_BYTES: u64 = 768 << 20;
/// Evaluations of a shard, about: a few seconds.
const SHARD_EVALUATIONS: usize = 1000;
/// Six that train a side of the classifier, and three that test it.
const MIN_SET: usize = 9;
const MAX_SET: usize = 1000;
const DEFAULT_SET: usize = 50;
/// The fewest draws: a t-test of fewer says little.
const MIN_RANDOM: usize = 20;
const MAX_RANDOM: usize = 1000;
const DEFAULT_REGULARISATION: f64 = 0.01;
const MAX_LAYERS: usize = 16;
const MAX_MODELS: usize = 16;
/// Of the layers for Grad-CAM, so many are taken by default.
const DEFAULT_LAYERS: usize = 5;
/// The largest integer that every JSON reader keeps exact.
const MAX_EXACT: u64 = (1 << 53) - 1;
/// Roles of images.
const CONCEPT: &str = "concept";
const RANDOM: &str = "random";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Spec {
    pub model: String,
    pub model_hash: String,
    /// Those that are tested beside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub model_hashes: BTreeMap<String, String>,
    pub dataset: String,
    pub dataset_hash: String,
    pub class: usize,
    pub concept: String,
    pub concept_hash: String,
    pub random: String,
    pub random_hash: String,
    /// In the order of the forward pass.
    pub layers: Vec<String>,
    pub n_random: usize,
    pub images_per_set: usize,
    /// So many images of the class, drawn by `seed`; all without it.
    pub limit: Option<usize>,
    pub p: f64,
    pub regularisation: f64,
    pub seed: u64,
}

/// A request that can be carried out.
pub(super) struct Settled {
    pub spec: Spec,
    /// Of the class.
    pub images: usize,
    /// Those of them that the accuracies of models are told of: none of a single model.
    pub pairs: usize,
    /// Layers of a model whose activations are held together: its place, 0 for the model that is
    /// evaluated, and their names.
    pub parts: Vec<(usize, Vec<String>)>,
    pub draws_at_once: usize,
}

/// The data sets of a request; the same one may be several.
#[derive(Clone, Default)]
pub(super) struct Sets {
    pub class: Option<Arc<Dataset>>,
    pub concept: Option<Arc<Dataset>>,
    pub random: Option<Arc<Dataset>>,
}

/// Which images are used, by their places in their sets.
pub(super) struct Selection {
    pub class: Vec<usize>,
    /// Of each of these, the one without the concept, where its group has such.
    pub twins: Vec<Option<usize>>,
    pub concept: Vec<usize>,
    pub random: Vec<usize>,
    pub draws: Vec<Draw>,
}

/// A value between input and head.
#[derive(Clone)]
struct Layer {
    name: String,
    values: usize,
}

impl Spec {
    /// Evaluations of a shard of so many draws.
    pub(super) fn evaluations(&self, images: usize, draws: usize) -> usize {
        self.images_per_set * (1 + 2 * draws) + images
    }

    pub(super) fn select(
        &self,
        model: &Model,
        class: &Dataset,
        concept: &Dataset,
        random: &Dataset,
    ) -> Selection {
        let limited = |images: Vec<usize>, limit: Option<usize>| {
            let limit = limit.unwrap_or(images.len());
            let drawn = draw(images.len(), limit, self.seed).into_iter();
            drawn.map(|place| images[place]).collect::<Vec<_>>()
        };
        let random = with_role(random, RANDOM);
        let twins = twins(class);
        let class = limited(of_class(class, model, self.class), self.limit);
        let draws = draws(random.len(), self.images_per_set, self.n_random, self.seed);
        Selection {
            twins: class.iter().map(|place| twins[*place]).collect(),
            class,
            concept: limited(with_role(concept, CONCEPT), Some(self.images_per_set)),
            random,
            draws,
        }
    }
}

/// Reads the fields that name data sets.
pub(super) async fn find_sets(asked: &mut RequestReader) -> Sets {
    let class = asked.dataset().await;
    let concept = find_side(asked, CONCEPT, class.as_ref()).await;
    let random = find_side(asked, RANDOM, class.as_ref()).await;
    Sets {
        class,
        concept,
        random,
    }
}

/// The set that the field names, else that of the class where it has images of this role.
async fn find_side(
    asked: &mut RequestReader,
    role: &'static str,
    class: Option<&Arc<Dataset>>,
) -> Option<Arc<Dataset>> {
    if let Some(id) = asked.raw(role) {
        return asked.find_dataset(role, id).await;
    }
    let class = class?;
    if class.images.iter().any(|image| is(image, role)) {
        return Some(class.clone());
    }
    let message = format!(
        "is missing: name a data set, or give images of {} the role `{role}`",
        excerpt(&class.id)
    );
    asked.refuse(role, message, &["the id of a data set"]);
    None
}

pub(super) fn settle(mut asked: RequestReader, sets: Sets) -> Result<Settled, Faults> {
    let model = asked.classifier();
    asked.expect(
        "model_hash",
        model.as_ref().map(|model| model.hash.as_str()),
    );
    for (field, set) in [
        ("dataset_hash", &sets.class),
        ("concept_hash", &sets.concept),
        ("random_hash", &sets.random),
    ] {
        asked.expect(field, set.as_ref().map(|set| set.hash.as_str()));
    }
    let class = read_class(&mut asked, model.as_deref());
    let limit = asked.take("limit", &["a whole number from 1"], |limit| *limit > 0usize);
    let n_random = take_count(&mut asked, "n_random", [MIN_RANDOM, MAX_RANDOM]);
    let n_random = n_random.unwrap_or(MIN_RANDOM);
    let images_per_set = read_set_size(&mut asked, &sets);
    let p = asked.take("p", &["a number between 0 and 1"], |p| {
        *p > 0.0 && *p < 1.0_f64
    });
    let [low, high] = REGULARISATION;
    let regularisation = asked.take("regularisation", &[&format!("{low} to {high}")], |factor| {
        (low..=high).contains(factor)
    });
    let seed = asked.take("seed", &["a whole number"], |seed| *seed <= MAX_EXACT);
    let images = match (&model, &sets.class, class) {
        (Some(model), Some(set), Some(class)) => count_images(&mut asked, model, set, class, limit),
        _ => 0,
    };
    let draws_at_once = draws_at_once(n_random, images_per_set, images);
    let bytes = bytes_of_value(images_per_set, draws_at_once);
    let layers = match &model {
        Some(model) => read_layers(&mut asked, model, bytes),
        None => {
            asked.raw("layers");
            Vec::new()
        }
    };
    let others = read_models(&mut asked, model.as_ref(), &layers, SHARD_BYTES / bytes);
    if let (Some(model), Some(set), Some(class)) = (&model, &sets.class, class) {
        refuse_unknown(&mut asked, set, model, class, &others);
    }
    asked.finish()?;
    let (Some(model), Some(class), Some(dataset), Some(concept), Some(random)) =
        (model, class, sets.class, sets.concept, sets.random)
    else {
        return Err(Faults::default());
    };
    let of_models = [&layers]
        .into_iter()
        .chain(others.iter().map(|other| &other.layers));
    let parts = of_models.enumerate().flat_map(|(place, layers)| {
        let parts = parts(layers, SHARD_BYTES / bytes).into_iter();
        parts.map(move |part| (place, part))
    });
    let parts = parts.collect();
    let spec = Spec {
        model: model.id.clone(),
        model_hash: model.hash.clone(),
        models: others.iter().map(|other| other.model.id.clone()).collect(),
        model_hashes: hashes(&others),
        dataset: dataset.id.clone(),
        dataset_hash: dataset.hash.clone(),
        class,
        concept: concept.id.clone(),
        concept_hash: concept.hash.clone(),
        random: random.id.clone(),
        random_hash: random.hash.clone(),
        layers: layers.into_iter().map(|layer| layer.name).collect(),
        n_random,
        images_per_set,
        limit,
        p: p.unwrap_or(0.01),
        regularisation: regularisation.unwrap_or(DEFAULT_REGULARISATION),
        seed: seed.unwrap_or(0),
    };
    let pairs = match others.is_empty() {
        true => 0,
        false => {
            let selection = spec.select(&model, &dataset, &concept, &random);
            selection.twins.iter().flatten().count()
        }
    };
    Ok(Settled {
        spec,
        images,
        pairs,
        parts,
        draws_at_once,
    })
}

fn take_count(
    asked: &mut RequestReader,
    name: &'static str,
    [low, high]: [usize; 2],
) -> Option<usize> {
    asked.take(name, &[&format!("{low} to {high}")], |count| {
        (low..=high).contains(count)
    })
}

fn classes_of(model: &Model) -> Classes<'_> {
    Classes {
        labels: &model.labels,
        count: model.classes(),
    }
}

fn read_class(asked: &mut RequestReader, model: Option<&Model>) -> Option<usize> {
    let allowed = ["the label or the index of a class"];
    let Some(value) = asked.raw("class") else {
        asked.refuse("class", "is missing", &allowed);
        return None;
    };
    let classes = classes_of(model?);
    match Target::parse(&value, classes) {
        Ok(Target::Class(class)) => return Some(class),
        Ok(_) => asked.refuse("class", format!("{} is no class", shown(&value)), &allowed),
        Err(error) => asked.refuse("class", error.explain(classes), &allowed),
    }
    None
}

/// Images of the concept and of a random set.
fn read_set_size(asked: &mut RequestReader, sets: &Sets) -> usize {
    let wanted = take_count(asked, "images_per_set", [MIN_SET, MAX_SET]);
    let size = wanted.unwrap_or(DEFAULT_SET);
    let sides = [
        (CONCEPT, &sets.concept, 1, ""),
        (
            RANDOM,
            &sets.random,
            2,
            ": two sets that share no image are drawn at a time",
        ),
    ];
    let mut most = size;
    for (role, set, times, why) in sides {
        let Some(set) = set else { continue };
        let images = with_role(set, role).len();
        let enough = images / times;
        if enough < MIN_SET {
            let message = format!(
                "{} has {images} images that can be used, and at least {} are needed{why}",
                excerpt(&set.id),
                MIN_SET * times
            );
            asked.refuse(role, message, &[]);
        } else if wanted.is_some() && enough < size {
            let message = format!(
                "{size} needs {} images of data set {}, which has {images} that can be used{why}",
                size * times,
                excerpt(&set.id)
            );
            asked.refuse(
                "images_per_set",
                message,
                &[&format!("{MIN_SET} to {enough}")],
            );
        }
        most = most.min(enough);
    }
    let is_same = |one: &Arc<Dataset>, other: &Arc<Dataset>| {
        one.id == other.id && with_role(one, CONCEPT) == with_role(other, RANDOM)
    };
    if let (Some(concept), Some(random)) = (&sets.concept, &sets.random)
        && is_same(concept, random)
    {
        let message = "names the images of the concept: random images show anything";
        asked.refuse(RANDOM, message, &[]);
    }
    most
}

/// How many images of the class are used; refuses a class that has none.
fn count_images(
    asked: &mut RequestReader,
    model: &Model,
    set: &Dataset,
    class: usize,
    limit: Option<usize>,
) -> usize {
    let count = of_class(set, model, class).len();
    if count == 0 {
        let message = format!(
            "no image of data set {} that can be used is labelled {}; {} of its {} images are labelled (docs/datasets.md)",
            excerpt(&set.id),
            classes_of(model).name(class),
            set.labelled(),
            set.images.len()
        );
        asked.refuse("class", message, &[]);
    }
    limit.unwrap_or(count).min(count)
}

/// Draws of a shard: as many as its evaluations allow, and so many that they cost no less than what
/// each shard computes again, the concept and the class.
fn draws_at_once(n_random: usize, images_per_set: usize, images: usize) -> usize {
    let (again, each) = (images_per_set + images, 2 * images_per_set.max(1));
    let fitting = SHARD_EVALUATIONS.saturating_sub(again) / each;
    fitting.max(again.div_ceil(each)).clamp(1, n_random)
}

/// What one value of a layer takes in a shard: the activations of three sets in f32, two vectors of
/// each draw in f64.
fn bytes_of_value(images_per_set: usize, draws: usize) -> u64 {
    (3 * 4 * images_per_set + 2 * 8 * draws) as u64
}

/// The layers that are asked for, or those of the default that fit into a shard.
fn read_layers(asked: &mut RequestReader, model: &Model, bytes: u64) -> Vec<Layer> {
    let asked_for = asked.raw("layers");
    if model.manifest.input.preprocess.is_none() {
        asked.refuse(
            "model",
            "takes ready tensors: concepts are given by images",
            &[],
        );
        return Vec::new();
    }
    let known = match layers_of(model) {
        Ok(known) => known,
        Err(fault) => {
            asked.refuse("model", fault, &[]);
            return Vec::new();
        }
    };
    let most = SHARD_BYTES / bytes;
    let Some(asked_for) = asked_for else {
        let layers = default_layers(model, &known, most);
        if layers.is_empty() {
            let message = "has no layer whose activations fit into memory: name one, with fewer images_per_set";
            asked.refuse("layers", message, &[]);
        }
        return layers;
    };
    let names = asked_for.as_array().map(Vec::as_slice).unwrap_or_default();
    if !(1..=MAX_LAYERS).contains(&names.len()) {
        let message = format!("is a list of 1 to {MAX_LAYERS} names of layers");
        asked.refuse("layers", message, &names_of(model));
        return Vec::new();
    }
    let mut places = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let field = format!("layers[{at}]");
        match find_layer(&known, name) {
            Err(message) => asked.refuse(&field, message, &names_of(model)),
            Ok(place) if places.contains(&place) => {
                asked.refuse(&field, "is in the list already: drop one", &[]);
            }
            Ok(place) => {
                let Layer { name, values } = &known[place];
                if *values as u64 > most {
                    let message = format!(
                        "{} has {values} values, and with so many images_per_set a layer may have {most}",
                        excerpt(name)
                    );
                    asked.refuse(&field, message, &[]);
                }
                places.push(place);
            }
        }
    }
    places.sort_unstable();
    places
        .into_iter()
        .map(|place| known[place].clone())
        .collect()
}

/// All values between input and head, or why there are none.
fn layers_of(model: &Model) -> Result<Vec<Layer>, String> {
    match (
        model.rule_set_fault(RuleSetId::Gradient),
        autodiff::activations(&model.graph),
    ) {
        (None, Ok(known)) => Ok(known
            .into_iter()
            .map(|(name, shape)| Layer {
                name,
                values: shape.iter().product(),
            })
            .collect()),
        (fault, _) => Err(format!(
            "cannot be differentiated: {}",
            fault.unwrap_or_default()
        )),
    }
}

/// A model that is tested beside the one that is evaluated, at the layers of the same names.
struct OtherModel {
    model: Arc<Model>,
    layers: Vec<Layer>,
}

fn hashes(others: &[OtherModel]) -> BTreeMap<String, String> {
    let models = others.iter().map(|other| &other.model);
    models
        .map(|model| (model.id.clone(), model.hash.clone()))
        .collect()
}

/// Those that the field names, each with layers of at most so many values.
fn read_models(
    asked: &mut RequestReader,
    model: Option<&Arc<Model>>,
    layers: &[Layer],
    most: u64,
) -> Vec<OtherModel> {
    let form = format!("a list of 1 to {MAX_MODELS} different ids of models");
    let ids: Vec<String> = asked
        .take("models", &[&form], |ids: &Vec<String>| {
            let different: BTreeSet<&String> = ids.iter().collect();
            (1..=MAX_MODELS).contains(&ids.len()) && different.len() == ids.len()
        })
        .unwrap_or_default();
    let form = ["an object of the models' ids and hashes"];
    let known = asked.take("model_hashes", &form, |_: &BTreeMap<String, String>| true);
    let mut others = Vec::new();
    for (at, id) in ids.iter().enumerate() {
        let param = format!("models[{at}]");
        let found = match find_model(&asked.app().models(), Some(&json!(id))) {
            Ok(found) => found,
            Err(fault) => {
                asked.faults.push(Fault { param, ..fault });
                continue;
            }
        };
        let Some(model) = model else { continue };
        match same_layers(model, &found, layers, most) {
            Ok(layers) => others.push(OtherModel {
                model: found,
                layers,
            }),
            Err(message) => asked.refuse(&param, message, &[]),
        }
    }
    let are_all = others.len() == ids.len();
    if are_all && known.is_some_and(|known| known != hashes(&others)) {
        let message = "models have changed since: leave model_hashes out to use them as they are";
        asked.refuse("model_hashes", message, &[]);
    }
    others
}

/// The layers of these names in another model, or why it cannot be tested beside `model`.
fn same_layers(
    model: &Model,
    other: &Model,
    layers: &[Layer],
    most: u64,
) -> Result<Vec<Layer>, String> {
    let id = excerpt(&other.id);
    if other.id == model.id {
        return Err(format!("{id} is the model that is evaluated: drop it"));
    }
    if other.manifest.input != model.manifest.input {
        return Err(format!(
            "{id} takes other inputs than {}, or prepares them in another way",
            excerpt(&model.id)
        ));
    }
    let known = layers_of(other).map_err(|fault| format!("{id} {fault}"))?;
    let same = |layer: &Layer| {
        let same = known.iter().find(|other| other.name == layer.name);
        let name = excerpt(&layer.name);
        match same {
            Some(same) if same.values as u64 <= most => Ok(same.clone()),
            Some(same) => Err(format!(
                "{name} of {id} has {} values, and with so many images_per_set a layer may have {most}",
                same.values
            )),
            None => Err(format!(
                "{id} has no layer {name}: name layers that all models have"
            )),
        }
    };
    layers.iter().map(same).collect()
}

/// Refuses models that do not know the class of an image.
fn refuse_unknown(
    asked: &mut RequestReader,
    set: &Dataset,
    model: &Model,
    class: usize,
    others: &[OtherModel],
) {
    let images = of_class(set, model, class);
    for OtherModel { model: other, .. } in others {
        let is_unknown = |place: &&usize| class_by(other, set, **place, model, class).is_none();
        let unknown: Vec<&usize> = images.iter().filter(is_unknown).collect();
        if let Some(first) = unknown.first() {
            let message = format!(
                "{} knows no class, or several, of {} of the {} images of the class, such as {}: their labels name a class of each model, \
                 joined by | (docs/tcav.md)",
                excerpt(&other.id),
                unknown.len(),
                images.len(),
                excerpt(&set.images[**first].file)
            );
            asked.refuse("models", message, &[]);
        }
    }
}

/// What an image of a class of `model` is to another model: the class of the same label where the
/// image has it, else the only one that the image's labels name.
pub(super) fn class_by(
    other: &Model,
    set: &Dataset,
    place: usize,
    model: &Model,
    class: usize,
) -> Option<usize> {
    let known = set.meaning(&set.images[place], classes_of(other)).classes;
    let label = model.labels.get(class);
    let is_same = |class: &&usize| label.is_some() && other.labels.get(**class) == label;
    match known.iter().find(is_same) {
        Some(same) => Some(*same),
        None => Some(*known.first()?).filter(|_| known.len() == 1),
    }
}

/// The layers that a refusal names: those for Grad-CAM.
fn names_of(model: &Model) -> Vec<&str> {
    model
        .layers
        .iter()
        .map(|layer| layer.name.as_str())
        .collect()
}

fn find_layer(known: &[Layer], name: &Value) -> Result<usize, String> {
    let Some(name) = name.as_str() else {
        return Err(format!("{} is not a text", shown(name)));
    };
    let place = known.iter().position(|layer| layer.name == name);
    place.ok_or_else(|| {
        let meant = meant(name, known.iter().map(|layer| layer.name.as_str()));
        format!(
            "the model has no layer {} between its input and its head{meant}; GET /models/{{id}} lists all under `activations`",
            excerpt(name)
        )
    })
}

/// Some of the layers for Grad-CAM, evenly spaced, the last among them, and the input of the last
/// layer with weights.
fn default_layers(model: &Model, known: &[Layer], most: u64) -> Vec<Layer> {
    let fitting = |name: &str| {
        let is_it = |layer: &Layer| layer.name == name && layer.values as u64 <= most;
        known.iter().position(is_it)
    };
    let spatial: Vec<usize> = model
        .layers
        .iter()
        .filter_map(|layer| fitting(&layer.name))
        .collect();
    let count = spatial.len().min(DEFAULT_LAYERS);
    let mut places: Vec<usize> = (1..=count)
        .map(|place| spatial[place * spatial.len() / count - 1])
        .collect();
    places.extend(head_input(model).as_deref().and_then(fitting));
    places.sort_unstable();
    places.dedup();
    places
        .into_iter()
        .map(|place| known[place].clone())
        .collect()
}

fn head_input(model: &Model) -> Option<String> {
    let last = autodiff::linear_layers(&model.graph).ok()?.pop()?.output;
    let mut nodes = model.graph.nodes.iter();
    let node = nodes.find(|node| node.outputs.contains(&last))?;
    node.inputs.first().cloned()
}

/// Layers in parts of at most so many values together, in order.
fn parts(layers: &[Layer], most: u64) -> Vec<Vec<String>> {
    let (mut parts, mut values): (Vec<Vec<String>>, u64) = (Vec::new(), u64::MAX);
    for layer in layers {
        values = values.saturating_add(layer.values as u64);
        match parts.last_mut().filter(|_| values <= most) {
            Some(part) => part.push(layer.name.clone()),
            None => {
                values = layer.values as u64;
                parts.push(vec![layer.name.clone()]);
            }
        }
    }
    parts
}

fn is(image: &DatasetImage, role: &str) -> bool {
    image.role.as_deref() == Some(role)
}

/// The images of a role, or all where none has it; those that cannot be decoded left out.
fn with_role(set: &Dataset, role: &str) -> Vec<usize> {
    let usable = |accepted: &dyn Fn(&DatasetImage) -> bool| {
        let images = set.images.iter().enumerate();
        let used = images.filter(|(_, image)| image.fault.is_none() && accepted(image));
        used.map(|(place, _)| place).collect()
    };
    match set.images.iter().any(|image| is(image, role)) {
        true => usable(&|image| is(image, role)),
        false => usable(&|_| true),
    }
}

/// The images labelled as this class that stand neither for the concept nor for chance; where some
/// have the role `with`, those alone.
fn of_class(set: &Dataset, model: &Model, class: usize) -> Vec<usize> {
    let classes = classes_of(model);
    let has_pairs = set.images.iter().any(|image| is(image, WITH));
    let images = set.images.iter().enumerate();
    let used = images.filter(|(_, image)| {
        let has_other_role = is(image, CONCEPT) || is(image, RANDOM);
        image.fault.is_none()
            && !has_other_role
            && (!has_pairs || is(image, WITH))
            && set.meaning(image, classes).classes.contains(&class)
    });
    used.map(|(place, _)| place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(values: &[usize]) -> Vec<Layer> {
        let layer = |(place, values): (usize, &usize)| Layer {
            name: format!("{place}"),
            values: *values,
        };
        values.iter().enumerate().map(layer).collect()
    }

    #[test]
    fn layers_are_held_together_while_they_fit() {
        assert_eq!(
            json!(parts(&layers(&[3, 4, 3, 10, 1, 1]), 10)),
            json!([["0", "1", "2"], ["3"], ["4", "5"]])
        );
    }

    #[test]
    fn a_shard_computes_no_more_again_than_it_draws() {
        // (1000 - 100) / 100.
        assert_eq!(draws_at_once(20, 50, 50), 9);
        // 1050 evaluations again are as many as eleven draws of 100.
        assert_eq!(draws_at_once(20, 50, 1000), 11);
        assert_eq!(draws_at_once(20, 10, 5), 20);
        assert_eq!(draws_at_once(20, 1000, 5), 1);
    }
}
