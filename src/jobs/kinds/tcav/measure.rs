//! The vectors of some draws at some layers, and the directional derivatives of the class's logit
//! along them.

use std::{ops::Range, sync::Arc};

use super::{
    LayerResult, ShardResult,
    spec::{Selection, Spec, class_by},
};
use crate::{
    dataset::{Dataset, DatasetError},
    engine::{Point, Row},
    jobs::{
        Context, WorkError,
        kinds::{
            images::{file_of, read, stored},
            request_reader::{planned_dataset, planned_model},
        },
    },
    methods::target::ranked,
    model::Model,
    picture::preprocess::Preprocess,
    tcav::{
        cav::{CavError, Fit, fit_and_test},
        draws::{Draw, enough},
        findings::{Accuracy, DrawResult, VectorResult},
    },
    tensor::Tensor,
    text::excerpt,
};
use onnx_autodiff::autodiff::spec::{DeriveSpec, RuleSetId, Wrt};

/// Images that are evaluated at once.
const CHUNK: usize = 16;

/// Flat, of each image of a set.
type Activations = Vec<Vec<f32>>;

/// What all draws of a shard share.
pub(super) struct ShardContext<'a> {
    context: &'a Context,
    spec: Spec,
    /// The label of the class that is evaluated.
    label: Option<String>,
    /// The one that the shard is about, and its place: 0 is the one that is evaluated.
    model: Arc<Model>,
    place: usize,
    rule: Preprocess,
    class: Arc<Dataset>,
    concept: Arc<Dataset>,
    random: Arc<Dataset>,
    selection: Selection,
    /// What each image of the class is to the model.
    classes: Vec<usize>,
    layers: Arc<[String]>,
}

impl<'a> ShardContext<'a> {
    /// For the model at `place`: 0 is the one that is evaluated.
    pub(super) async fn open(
        context: &'a Context,
        place: usize,
        layers: Vec<String>,
    ) -> Result<Self, WorkError> {
        let spec: Spec = stored(&context.spec)?;
        let app = &context.app;
        let evaluated = planned_model(app, &spec.model, &spec.model_hash, None).await?;
        let other = place.checked_sub(1).and_then(|at| spec.models.get(at));
        let other = other.map(|id| (id, spec.model_hashes.get(id).map_or("", String::as_str)));
        let model = match other {
            Some((id, hash)) => planned_model(app, id, hash, None).await?,
            None => evaluated.clone(),
        };
        let class = planned_dataset(app, &spec.dataset, &spec.dataset_hash).await?;
        let concept = planned_dataset(app, &spec.concept, &spec.concept_hash).await?;
        let random = planned_dataset(app, &spec.random, &spec.random_hash).await?;
        let rule = model.manifest.input.preprocess.clone();
        let rule = rule.ok_or_else(|| WorkError::permanent("the model takes ready tensors"))?;
        let label = evaluated.labels.get(spec.class).cloned();
        let is_other = other.is_some();
        let select = {
            let (spec, model) = (spec.clone(), model.clone());
            let (class, concept, random) = (class.clone(), concept.clone(), random.clone());
            move || {
                let selection = spec.select(&evaluated, &class, &concept, &random);
                let class_of = |image: &usize| match is_other {
                    true => class_by(&model, &class, *image, &evaluated, spec.class),
                    false => Some(spec.class),
                };
                let classes: Option<Vec<usize>> = selection.class.iter().map(class_of).collect();
                (selection, classes)
            }
        };
        let (selection, classes) = app.pool().run(select).await?;
        let unknown = "a model does not know the classes of all images any more";
        Ok(Self {
            context,
            spec,
            label,
            model,
            place,
            rule,
            class,
            concept,
            random,
            selection,
            classes: classes.ok_or_else(|| WorkError::permanent(unknown))?,
            layers: layers.into(),
        })
    }

    /// Of these draws, and the model's accuracy if asked for.
    pub(super) async fn measure(
        &self,
        draws: Range<usize>,
        judges: bool,
    ) -> Result<ShardResult, WorkError> {
        let Selection {
            class,
            concept,
            random,
            ..
        } = &self.selection;
        let mut done = 0;
        let concept = Arc::new(self.activations(&self.concept, concept, &mut done).await?);
        let mut fits = Vec::with_capacity(draws.len());
        for Draw {
            counterpart,
            stand_in,
        } in self.selection.draws.get(draws.clone()).unwrap_or_default()
        {
            let places = |set: &[usize]| set.iter().map(|at| random[*at]).collect::<Vec<_>>();
            let [counterpart, stand_in] = [counterpart, stand_in].map(|set| places(set));
            let counterpart = self
                .activations(&self.random, &counterpart, &mut done)
                .await?;
            let stand_in = self.activations(&self.random, &stand_in, &mut done).await?;
            fits.push(self.fit(&concept, stand_in, counterpart).await?);
        }
        drop(concept);
        let positive = self.positive(fits, class, &mut done).await?;
        let accuracy = match judges {
            true => Some(self.judge(&mut done).await?),
            false => None,
        };
        let layers = self.layers.iter().enumerate().map(|(place, layer)| {
            let draws = draws.clone().zip(&positive).map(|(draw, layers)| {
                let [concept, random] = layers[place];
                DrawResult {
                    draw,
                    concept,
                    random,
                }
            });
            LayerResult {
                layer: layer.clone(),
                draws: draws.collect(),
            }
        });
        Ok(ShardResult {
            model: self.place,
            accuracy,
            label: self.label.clone(),
            images: class.len(),
            random_images: random.len(),
            disjoint: random.len() >= enough(self.spec.images_per_set, self.spec.n_random),
            layers: layers.collect(),
        })
    }

    /// Of each layer.
    async fn activations(
        &self,
        set: &Arc<Dataset>,
        images: &[usize],
        done: &mut u64,
    ) -> Result<Vec<Activations>, WorkError> {
        let spec = DeriveSpec {
            outputs: self.layers.to_vec(),
            ..DeriveSpec::forward()
        };
        let mut activations = vec![Vec::with_capacity(images.len()); self.layers.len()];
        for images in images.chunks(CHUNK) {
            for row in self.ask(set, images, &spec, &|_| Vec::new(), done).await? {
                let layers = activations.iter_mut().zip(row.activations);
                layers.for_each(|(layer, values)| layer.push(flat(values)));
            }
        }
        Ok(activations)
    }

    /// Of each layer, the vectors of the concept and of its stand-in.
    async fn fit(
        &self,
        concept: &Arc<Vec<Activations>>,
        stand_in: Vec<Activations>,
        counterpart: Vec<Activations>,
    ) -> Result<Vec<[Option<Fit>; 2]>, WorkError> {
        let (concept, layers) = (concept.clone(), self.layers.clone());
        let regularisation = self.spec.regularisation;
        let fit = move || {
            let sets = concept.iter().zip(&stand_in).zip(&counterpart);
            let fit = |(((concept, stand_in), counterpart), layer): (((_, _), &Activations), _)| {
                let against = |set: &Activations| fit_and_test(set, counterpart, regularisation);
                let fault = |error: CavError| {
                    WorkError::permanent(format!("layer {}: {error}", excerpt(layer)))
                };
                Ok([
                    against(concept).map_err(fault)?,
                    against(stand_in).map_err(fault)?,
                ])
            };
            sets.zip(layers.iter().map(String::as_str))
                .map(fit)
                .collect()
        };
        self.context.app.pool().run(fit).await?
    }

    /// Of each draw and layer, what its two vectors gave.
    async fn positive(
        &self,
        fits: Vec<Vec<[Option<Fit>; 2]>>,
        images: &[usize],
        done: &mut u64,
    ) -> Result<Vec<Vec<[Option<VectorResult>; 2]>>, WorkError> {
        let layers = self.layers.iter().cloned();
        let spec = DeriveSpec {
            wrt: layers.map(Wrt::Activation).collect(),
            ..DeriveSpec::of([RuleSetId::Gradient])
        };
        let fits = Arc::new(fits);
        let start = |fit: &Option<Fit>| {
            fit.as_ref().map(|fit| VectorResult {
                positive: 0,
                accuracy: fit.accuracy,
            })
        };
        let start = |layers: &Vec<[Option<Fit>; 2]>| {
            let layers = layers.iter();
            layers.map(|both| both.each_ref().map(start)).collect()
        };
        let mut results: Vec<Vec<[Option<VectorResult>; 2]>> = fits.iter().map(start).collect();
        for (images, classes) in images.chunks(CHUNK).zip(self.classes.chunks(CHUNK)) {
            let seed = |at: usize| vec![(classes[at], 1.0)];
            let rows = self.ask(&self.class, images, &spec, &seed, done).await?;
            let fits = fits.clone();
            let count = move || {
                for gradients in rows.into_iter().map(|row| row.cotangents) {
                    let gradients: Vec<Vec<f32>> = gradients.into_iter().map(flat).collect();
                    for (results, fits) in results.iter_mut().zip(fits.iter()) {
                        let layers = results.iter_mut().zip(fits).zip(&gradients);
                        layers.for_each(|((results, fits), gradient)| {
                            count(results, fits, gradient);
                        });
                    }
                }
                results
            };
            results = self.context.app.pool().run(count).await?;
        }
        Ok(results)
    }

    /// Of the images of the class that have a twin without the concept, and of the twins.
    async fn judge(&self, done: &mut u64) -> Result<Accuracy, WorkError> {
        let Selection { class, twins, .. } = &self.selection;
        let images = class.iter().zip(twins).zip(&self.classes);
        let pairs = images.filter_map(|((image, twin), class)| Some(([*image, (*twin)?], *class)));
        let (pairs, classes): (Vec<[usize; 2]>, Vec<usize>) = pairs.unzip();
        let mut right = [0.0; 2];
        for (side, right) in right.iter_mut().enumerate() {
            for (pairs, classes) in pairs.chunks(CHUNK).zip(classes.chunks(CHUNK)) {
                let images: Vec<usize> = pairs.iter().map(|pair| pair[side]).collect();
                let spec = DeriveSpec::forward();
                let rows = self
                    .ask(&self.class, &images, &spec, &|_| Vec::new(), done)
                    .await?;
                let is_right =
                    |(row, class): &(&Row, &usize)| ranked(&row.logits).first() == Some(class);
                *right += rows.iter().zip(classes).filter(is_right).count() as f64;
            }
        }
        let [with, without] = right.map(|right| right / pairs.len() as f64);
        Ok(Accuracy {
            images: pairs.len(),
            with,
            without,
        })
    }

    /// Rows of images of a set, with a seed for each place. Fails where a value of one is not finite.
    async fn ask(
        &self,
        set: &Arc<Dataset>,
        images: &[usize],
        spec: &DeriveSpec,
        seed: &(dyn Fn(usize) -> Vec<(usize, f32)> + Sync),
        done: &mut u64,
    ) -> Result<Vec<Row>, WorkError> {
        let Context { app, caller, .. } = self.context;
        let inputs = {
            let (set, images, rule) = (set.clone(), images.to_vec(), self.rule.clone());
            let limits = *app.datasets().local().limits();
            let read = move |image| read(&set, image, &rule, &limits).map(|(_, input, _)| input);
            move || images.into_iter().map(read).collect::<Result<Vec<_>, _>>()
        };
        let inputs = app.pool().run(inputs).await?.map_err(|error| match error {
            DatasetError::Image { .. } => WorkError::permanent(error),
            // Opened again it is another set, which is told then, or the same in another place.
            _ => WorkError::transient(error),
        })?;
        let points = inputs.into_iter().enumerate().map(|(at, input)| Point {
            input,
            seed: seed(at).into(),
        });
        let evaluated = app
            .engine()
            .evaluate(&self.model, spec, points.collect(), caller)
            .await?;
        let rows = evaluated.rows;
        let broken = app.pool().run(move || {
            let is_finite = |values: &Tensor| values.iter().all(|value| value.is_finite());
            let is_broken = |row: &Row| {
                let mut values = row.activations.iter().chain(&row.cotangents);
                !row.is_finite() || !values.all(is_finite)
            };
            (rows.iter().position(is_broken), rows)
        });
        let (broken, rows) = broken.await?;
        if let Some(image) = broken.and_then(|place| images.get(place)) {
            let file = file_of(set, *image)?;
            return Err(WorkError::permanent(format!(
                "the model's numbers for {} of data set {} are not finite",
                excerpt(&file),
                set.id
            )));
        }
        *done += images.len() as u64;
        self.context.report_progress(*done);
        Ok(rows)
    }
}

fn flat(values: Tensor) -> Vec<f32> {
    values.iter().copied().collect()
}

/// Adds an image, by the gradient of its class's logit at a layer.
fn count(results: &mut [Option<VectorResult>; 2], fits: &[Option<Fit>; 2], gradient: &[f32]) {
    for (result, fit) in results.iter_mut().zip(fits) {
        if let (Some(result), Some(fit)) = (result, fit) {
            result.positive += usize::from(fit.cav.along(gradient) > 0.0);
        }
    }
}
