//! Model contrast score: how much more the maps of models to which an object matters more attribute
//! to it than those of the model that is evaluated, to which it matters less. `mcs` is the mean
//! difference, a point of its curve for each model; `mcs_correlation` is how well it follows the
//! accuracy that the models lose without the object. They read the same measurements. Yang & Kim,
//! Benchmarking Attribution Methods with Relative Feature Importance, 2019, sections 4.2 and 5.1.
//! Each model explains the class that it predicts, and counts on the images that it predicts rightly.
//! Cost: for each model the methods' own, and a forward pass of the image without the object.

use std::mem;

use super::{
    Aggregation, AttributionMap, Axes, Case, CaseRow, Category, Cost, Measurement, Metric,
    MetricError, MetricRun, Needs, NotFinite, Reading, Variant, Words,
    aggregate::{
        Extent, Moments, RESAMPLES, Resampled, RowCurve, Summary, Tally, Uneven, resample,
    },
    attribution::{self, OfRegions, REGION, Regions, read},
    parameters::{Allowed, MODELS, MetricParameter, Values},
    similarity::correlation,
};
use crate::{
    engine::Row,
    methods::{Answer, Answers, Explained, Question, Run, Step, parameters::Need, target::ranked},
};

/// The most models.
const MOST: usize = 16;

pub const MCS: Metric = Metric {
    id: "mcs",
    title: "Model contrast score",
    parameters: &[models(1), REGION],
    words: Words {
        about: |values| {
            format!(
                "How much more the maps of {} attribute to {} than those of the model that is evaluated, to which the object should matter \
                 less: the difference of mean attributions, each for the class that the model itself predicts.",
                of_models(values),
                attribution::name(values)
            )
        },
        heading: "Mean contrast",
        column: "contrast",
        legend: "mean contrast (0: the model does not matter)",
        value: "The mean over the models of the mean difference over the images that a model predicts rightly.",
        axes: Some(Axes {
            x: "place of the model in the list, from 0",
            y: "mean difference to the evaluated model's attribution",
            end: None,
            signed: true,
        }),
    },
    reading: Reading {
        value: |values, measured| mean(contrasts(values, measured).flatten()),
        skips: |values, rows| {
            let is_any = contrasts(values, rows.first()?).flatten().next().is_some();
            (!is_any).then_some("that none of the models predicts rightly")
        },
        aggregation: Aggregation::Own(|values| {
            Box::new(Contrasts::new(values, |found| {
                mean(found.iter().map(|one| one.contrast))
            }))
        }),
    },
    ..BOTH
};

pub const CORRELATION: Metric = Metric {
    id: "mcs_correlation",
    title: "Model contrast score and importance",
    parameters: &[models(3), REGION],
    words: Words {
        about: |values| {
            format!(
                "Whether the difference between what the maps of {} attribute to {} and what those of the evaluated model do follows the \
                 accuracy that these models lose when the object is taken away.",
                of_models(values),
                attribution::name(values)
            )
        },
        heading: "Correlation",
        column: "correlation",
        legend: "Pearson correlation of model contrast score and accuracy lost",
        value: "Pearson's correlation over the models; it has no value for a single image.",
        axes: None,
    },
    needs: Needs {
        pair: true,
        ..BOTH.needs
    },
    reading: Reading {
        value: |_, _| f64::NAN,
        skips: |_, _| None,
        aggregation: Aggregation::Own(|values| {
            Box::new(Contrasts::new(values, |found| {
                let contrasts: Vec<f64> = found.iter().map(|one| one.contrast).collect();
                let losses: Vec<f64> = found.iter().map(|one| one.loss).collect();
                correlation(&contrasts, &losses)
            }))
        }),
    },
    ..BOTH
};

/// The models that are listed, or, where a request names them only later, what they are.
fn of_models(values: &Values) -> String {
    match values.models() {
        models if models.is_empty() => "other models".to_owned(),
        models => models.join(", "),
    }
}

const fn models(least: usize) -> MetricParameter {
    MetricParameter {
        name: MODELS,
        doc: "a list of the ids of models to which the object matters more, in the order of the curve",
        allowed: match least {
            1 => |_, _| Allowed::Models {
                least: 1,
                most: MOST,
            },
            _ => |_, _| Allowed::Models {
                least: 3,
                most: MOST,
            },
        },
    }
}

/// What both rows share.
const BOTH: Metric = Metric {
    id: "",
    title: "",
    paper: "Yang & Kim, Benchmarking Attribution Methods with Relative Feature Importance, 2019, sections 4.2 and 5.1",
    category: Category::Randomisation,
    direction: attribution::direction,
    parameters: &[],
    words: Words {
        about: |_| String::new(),
        heading: "",
        column: "",
        legend: "",
        value: "",
        axes: None,
    },
    needs: Needs {
        region: true,
        excludes: |parameters| parameters.needs_patterns() || parameters.needs(Need::Supports),
        exclusion: "patterns and supports belong to the weights that they were made for, and the models have others",
        cost: Cost {
            words: "for each model the methods' own, and a forward pass",
            count: |values, _, explaining| values.models().len() * (explaining + 1),
        },
        shares: Some("model_contrast"),
        unmeasured: &[REGION.name],
        ..Needs::NOTHING
    },
    build,
    reading: Reading::NUMBER,
};

/// The region, for people.
fn mean(numbers: impl Iterator<Item = f64>) -> f64 {
    let numbers: Vec<f64> = numbers.collect();
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

/// What is measured of one model, for a row.
#[derive(Clone, Copy, Default)]
struct OfModel {
    /// 0 where it is not right.
    attributions: OfRegions,
    /// Whether it predicts the image rightly, and the image without the object.
    is_right: bool,
    is_right_without: bool,
}

impl OfModel {
    fn numbers(self) -> [f64; 4] {
        let [object, random] = self.attributions;
        let [with, without] =
            [self.is_right, self.is_right_without].map(|is_right| f64::from(u8::from(is_right)));
        [object, random, with, without]
    }
}

impl From<[f64; 4]> for OfModel {
    fn from([object, random, with, without]: [f64; 4]) -> Self {
        Self {
            attributions: [object, random],
            is_right: with > 0.0,
            is_right_without: without > 0.0,
        }
    }
}

/// The attributions of the case's own map, and what is measured of each model.
fn parts(measured: &[f64]) -> (OfRegions, impl Iterator<Item = OfModel>) {
    let (own, models) = measured.split_first_chunk().unwrap_or((&[0.0; 2], &[]));
    (
        *own,
        models.as_chunks().0.iter().copied().map(OfModel::from),
    )
}

/// Of each model that is right, what its map attributes to the region beyond the case's own.
fn contrasts(values: &Values, measured: &[f64]) -> impl Iterator<Item = Option<f64>> {
    let (own, models) = parts(measured);
    let own = read(values, own);
    models.map(move |model| {
        let contrast = read(values, model.attributions) - own;
        model.is_right.then_some(contrast)
    })
}

fn build(case: &Case, _: &Values) -> Result<Vec<MetricRun>, MetricError> {
    let regions = Regions::of(case)?;
    let own = |(map, score): (&AttributionMap, _)| {
        let own = regions.attributions(&map.scores, score, case.layout());
        own.map(Vec::from)
    };
    Ok(vec![Box::new(Contrast {
        measured: case.row_maps().map(own).collect(),
        case: case.clone(),
        regions,
        asked: None,
        left: case.variants.iter().rev().cloned().collect(),
    })])
}

/// One run for all rows, one model after another.
struct Contrast {
    case: Case,
    regions: Regions,
    /// Of each row, so far.
    measured: Result<Vec<Measurement>, NotFinite>,
    /// The model whose answers are awaited.
    asked: Option<Variant>,
    /// Those that come after it, the last first.
    left: Vec<Variant>,
}

impl Contrast {
    /// Takes what a model says of the image, and of the image without the object.
    fn take(
        &self,
        model: &Variant,
        explained: &[Explained],
        without: &[Row],
    ) -> Result<Vec<OfModel>, NotFinite> {
        let is_right = |class: Option<usize>| class.is_some_and(|class| model.is_right(class));
        let class = explained.first().map(|one| one.target.class.index);
        let of_model = OfModel {
            is_right: is_right(class),
            is_right_without: is_right(
                without
                    .first()
                    .and_then(|row| ranked(&row.logits).first().copied()),
            ),
            ..OfModel::default()
        };
        let row = |row: &CaseRow| {
            let map = explained.get(row.map).filter(|_| of_model.is_right);
            let attributions = map.map(|one| {
                let (scores, layout) = (&one.attribution.scores, self.case.layout());
                self.regions.attributions(scores, row.score, layout)
            });
            Ok(OfModel {
                attributions: attributions.transpose()?.unwrap_or_default(),
                ..of_model
            })
        };
        self.case.rows.iter().map(row).collect()
    }
}

impl Run for Contrast {
    type Output = Result<Vec<Measurement>, NotFinite>;

    fn step(&mut self, answers: Answers) -> Step<Self::Output> {
        if let Some(model) = self.asked.take() {
            let (mut explained, mut without) = (Vec::new(), Vec::new());
            for answer in answers.0 {
                match answer {
                    Answer::Explained(found) => explained.extend(found),
                    Answer::Rows(rows) => without.extend(rows),
                }
            }
            let found = self.take(&model, &explained, &without);
            let measured = mem::replace(&mut self.measured, Ok(Vec::new()));
            self.measured = measured.and_then(|mut rows| {
                let found = rows.iter_mut().zip(found?);
                found.for_each(|(row, of_model)| row.extend(of_model.numbers()));
                Ok(rows)
            });
        }
        let next = self.left.pop().filter(|_| self.measured.is_ok());
        let Some(Variant { model, .. }) = &next else {
            return Step::Done(mem::replace(&mut self.measured, Ok(Vec::new())));
        };
        let explain = |map: &AttributionMap| Question::Explain {
            model: model.clone(),
            input: self.case.input.clone(),
            request: map.request.clone(),
        };
        let twin = self.case.twin.iter();
        let without = twin.map(|twin| Question::forward(model, [twin.clone()]));
        let questions = self.case.maps.iter().map(explain).chain(without).collect();
        self.asked = next;
        Step::Ask(questions)
    }
}

/// One model, over images.
struct Found {
    /// Mean over the images that it predicts rightly, at least one.
    contrast: f64,
    /// Its accuracy on the images, less that on the images without the object.
    loss: f64,
}

/// What images say of the models. The contrasts of a row are means over the images that a model
/// predicts rightly; `value` is given those of models that do so at all.
struct Contrasts {
    values: Values,
    value: fn(&[Found]) -> f64,
    extent: Extent,
    models: usize,
    /// By row, then by image and model; 0 where the model is not right.
    contrasts: Vec<Vec<f64>>,
    /// By image and model: whether it is right, with and without the object.
    rights: Vec<[f64; 2]>,
}

impl Contrasts {
    fn new(values: &Values, value: fn(&[Found]) -> f64) -> Self {
        Self {
            models: values.models().len(),
            values: values.clone(),
            value,
            extent: Extent::default(),
            contrasts: Vec::new(),
            rights: Vec::new(),
        }
    }

    /// Of each row, on these images.
    fn values_of(&self, images: &[usize]) -> Vec<f64> {
        let models = self.models;
        let mut rights = vec![[0.0; 2]; models];
        for image in images {
            let of_image = &self.rights[image * models..][..models];
            for (sums, right) in rights.iter_mut().zip(of_image) {
                sums[0] += right[0];
                sums[1] += right[1];
            }
        }
        let row = |contrasts: &Vec<f64>| {
            let mut sums = vec![0.0; models];
            for image in images {
                let of_image = &contrasts[image * models..][..models];
                sums.iter_mut()
                    .zip(of_image)
                    .for_each(|(sum, one)| *sum += one);
            }
            let found = sums.into_iter().zip(&rights);
            let found = found.filter(|(_, [right, _])| *right > 0.0);
            let found = found.map(|(sum, [right, without])| Found {
                contrast: sum / right,
                loss: (right - without) / images.len() as f64,
            });
            (self.value)(&Vec::from_iter(found))
        };
        self.contrasts.iter().map(row).collect()
    }

    /// The mean contrast of each model, 0 where it is never right.
    fn curve(&self, contrasts: &[f64]) -> RowCurve {
        RowCurve::mean((0..self.models).map(|model| {
            let mut moments = Moments::default();
            let images = contrasts.iter().zip(&self.rights);
            let of_model = images.skip(model).step_by(self.models);
            let counted = of_model.filter(|(_, [right, _])| *right > 0.0);
            counted.for_each(|(contrast, _)| moments.add(*contrast));
            moments
        }))
    }
}

impl Tally for Contrasts {
    fn add(&mut self, image: &[Measurement]) -> Result<(), Uneven> {
        let [rows, _] = self.extent.of(image)?;
        self.contrasts.resize_with(rows, Vec::new);
        for (contrasts, measured) in self.contrasts.iter_mut().zip(image) {
            let found = self::contrasts(&self.values, measured);
            contrasts.extend(found.map(Option::unwrap_or_default));
        }
        let first = image.first().map_or(&[][..], Vec::as_slice);
        let rights = parts(first).1.map(|model| {
            [model.is_right, model.is_right_without].map(|is_right| f64::from(u8::from(is_right)))
        });
        self.rights.extend(rights);
        Ok(())
    }

    fn summary(self: Box<Self>, seed: u64) -> Summary {
        let images = self.rights.len() / self.models.max(1);
        let mut resamples = vec![Vec::with_capacity(RESAMPLES); self.contrasts.len()];
        for number in 0..RESAMPLES as u64 {
            let values = self.values_of(&resample(images, seed, number));
            for (row, value) in resamples.iter_mut().zip(values) {
                row.push(value);
            }
        }
        let resampled = Resampled {
            values: self.values_of(&Vec::from_iter(0..images)),
            resamples,
        };
        resampled.summary(self.contrasts.iter().map(|row| self.curve(row)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use ndarray::Array2;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        evaluation::{
            parameters::settle,
            patches::Score,
            tests::{case, explained, tensor},
        },
        model::Model,
    };

    fn values(region: &str) -> Values {
        let fields = [
            ("models", json!(["a", "b", "c"])),
            ("region", json!(region)),
        ];
        let fields = fields.map(|(name, value)| (name.to_owned(), value));
        Values(fields.into_iter().collect())
    }

    /// Maps of five pixels by three models, of which the first and the last are right; the object
    /// has the second and the third pixel. Each model predicts class 0 with the object, and a class
    /// of its own without.
    fn measured(
        maps: [[f32; 5]; 3],
        without: Option<[usize; 3]>,
    ) -> Result<Vec<Measurement>, NotFinite> {
        let shape = [1, 1, 5];
        let own = tensor(&shape, &[0.0, 1.0, 2.0, 4.0, 4.0]);
        let region = Array2::from_shape_fn((1, 5), |(_, place)| place == 1 || place == 2);
        let rights = [None, Some(vec![1, 2]), Some(vec![0])];
        let variants = rights.map(|right| Variant {
            right,
            ..Variant::from(Arc::new(Model::bare("other", Arc::default())))
        });
        let case = Case {
            variants: variants.into(),
            region: Some(Arc::new(region)),
            twin: without.map(|_| Arc::new(tensor(&shape, &[0.0; 5]))),
            ..case(own, &[Score::Signed])
        };
        let mut run = (MCS.build)(&case, &Values::default()).unwrap().remove(0);
        let (mut answers, mut asked) = (Answers::none(), 0);
        loop {
            let questions = match run.step(answers) {
                Step::Done(measured) => return measured,
                Step::Ask(questions) => questions,
            };
            let answer = |question| match question {
                Question::Explain { model, request, .. } => {
                    assert!(Arc::ptr_eq(&model, &case.variants[asked].model));
                    let map = tensor(&shape, &maps[asked]);
                    Answer::Explained(vec![explained(map, request)])
                }
                Question::Rows { points, .. } => {
                    let class = without.unwrap()[asked];
                    let logits: Vec<f32> =
                        (0..3).map(|k| f32::from(u8::from(k == class))).collect();
                    let row = Row {
                        logits,
                        ..Row::default()
                    };
                    Answer::Rows(vec![row; points.len()])
                }
            };
            answers = Answers(questions.into_iter().map(answer).collect());
            asked += 1;
        }
    }

    const MAPS: [[f32; 5]; 3] = [
        [0.0, 2.0, 4.0, 4.0, 1.0],
        [0.0, 4.0, 4.0, 1.0, 1.0],
        [0.0, 4.0, 4.0, 1.0, 1.0],
    ];

    #[test]
    pub(in crate::evaluation) fn hand_worked_models_contrast_as_worked_by_hand() {
        let found = measured(MAPS, Some([0, 1, 2])).unwrap();
        let [own, a, b, c] = [0, 2, 6, 10].map(|from| found[0][from]);
        // 1/4 and 2/4 by the case's own map; 2/4 and 4/4, and 4/4 twice by those of the others.
        assert_eq!([own, a, b, c], [0.375, 0.75, 0.0, 1.0]);
        let rights = [4, 8, 12].map(|from| [found[0][from], found[0][from + 1]]);
        assert_eq!(rights, [[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]);
        // .375 and .625; the model that is wrong does not count.
        assert_eq!((MCS.reading.value)(&values("object"), &found[0]), 0.5);
        assert_eq!((MCS.reading.skips)(&values("object"), &found), None);
        // Without the image without the object, only the contrast is measured.
        let alone = measured(MAPS, None).unwrap();
        assert_eq!((MCS.reading.value)(&values("object"), &alone[0]), 0.5);
    }

    #[test]
    fn a_map_that_is_not_finite_is_told_and_that_of_a_model_that_is_wrong_is_not_read() {
        let mut maps = MAPS;
        maps[1][0] = f32::NAN;
        assert!(measured(maps, None).is_ok());
        maps[2][0] = f32::NAN;
        assert!(measured(maps, None).unwrap_err().0.contains("not finite"));
    }

    /// Of the object and of the random region, and whether the model is right with and without.
    fn image(own: [f64; 2], models: [[f64; 4]; 3]) -> Vec<Measurement> {
        vec![[&own[..], models.as_flattened()].concat()]
    }

    fn summary(metric: &'static Metric, region: &str, images: &[Vec<Measurement>]) -> Summary {
        let mut tally = metric.reading.tally(&values(region));
        images.iter().for_each(|image| tally.add(image).unwrap());
        tally.summary(7)
    }

    fn two_images() -> [Vec<Measurement>; 2] {
        [
            image(
                [0.25, 0.5],
                [[0.75, 0.5, 1.0, 0.0], [0.5, 0.5, 1.0, 1.0], [0.0; 4]],
            ),
            image(
                [0.5, 0.5],
                [[0.0; 4], [1.0, 0.0, 1.0, 1.0], [0.25, 1.0, 1.0, 1.0]],
            ),
        ]
    }

    #[test]
    pub(in crate::evaluation) fn a_model_counts_on_the_images_that_it_predicts_rightly() {
        let found = summary(&MCS, "object", &two_images());
        // .75 - .25 of one image; .25 and .5 of two; .25 - .5 of one.
        let curve = [0.5, 0.375, -0.25];
        assert_eq!(found.rows[0].mean_curve, curve);
        assert!((found.rows[0].value - curve.iter().sum::<f64>() / 3.0).abs() < 1e-12);
        let random = summary(&MCS, "random", &two_images());
        assert_eq!(random.rows[0].mean_curve, [0.0, -0.25, 0.5]);
        // The first loses one of two images, the others none: by the definition of Pearson's
        // correlation of .5, .375, -.25 with .5, 0, 0.
        let found = summary(&CORRELATION, "object", &two_images());
        let mean = 0.625 / 3.0;
        let (x, y) = (curve.map(|c| c - mean), [1.0 / 3.0, -1.0 / 6.0, -1.0 / 6.0]);
        let sum = |a: [f64; 3], b: [f64; 3]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let expected = sum(x, y) / (sum(x, x) * sum(y, y)).sqrt();
        assert!((found.rows[0].value - expected).abs() < 1e-12);
        // Models that are never right are left out of the value, and lie at 0.
        let never = image([0.25, 0.5], [[0.0; 4], [0.5, 0.5, 1.0, 1.0], [0.0; 4]]);
        let found = summary(&MCS, "object", std::slice::from_ref(&never));
        assert_eq!(found.rows[0].mean_curve, [0.0, 0.25, 0.0]);
        assert_eq!(found.rows[0].value, 0.25);
        let nobody = image([0.25, 0.5], [[0.0; 4]; 3]);
        assert!((MCS.reading.skips)(&values("object"), &nobody).is_some());
        assert_eq!(summary(&MCS, "object", &[]), Summary::default());
    }

    /// Where all models are right on all images, a point of the curve is the mean of differences,
    /// and its interval that of a mean.
    #[test]
    fn intervals_are_those_of_resampled_images() {
        let number = |image: usize, model: usize| ((image * 7 + model * 3) % 11) as f64 / 11.0;
        let images: Vec<_> = (0..40)
            .map(|at| {
                let model = |k| [number(at, k), 0.0, 1.0, 0.0];
                image([number(at, 9), 0.0], [0, 1, 2].map(model))
            })
            .collect();
        let found = summary(&MCS, "object", &images);
        let of_image = |at: usize| {
            let models = (0..3).map(|k| number(at, k)).sum::<f64>() / 3.0;
            models - number(at, 9)
        };
        let mean = |members: &[usize]| {
            members.iter().map(|at| of_image(*at)).sum::<f64>() / members.len() as f64
        };
        let resampled = (0..RESAMPLES as u64).map(|number| mean(&resample(40, 7, number)));
        let expected = crate::evaluation::aggregate::interval(resampled.collect());
        let row = &found.rows[0];
        let gaps = row
            .interval
            .iter()
            .zip(expected)
            .map(|(a, b)| (a - b).abs());
        assert!(gaps.fold(0.0, f64::max) < 1e-12);
        assert!((row.value - mean(&Vec::from_iter(0..40))).abs() < 1e-12);
        // All lose the same: what does not vary is correlated with nothing.
        assert_eq!(summary(&CORRELATION, "object", &images).rows[0].value, 0.0);
    }

    #[test]
    fn models_are_a_list_of_different_ids() {
        let model = Model::bare("net", Arc::default());
        let settled = |metric, models: Value| {
            let given = [("models".to_owned(), models)].into_iter().collect();
            settle(metric, given, &model)
        };
        let values = settled(&MCS, json!(["b", "a"])).unwrap();
        assert_eq!(values.models(), ["b", "a"]);
        assert_eq!((MCS.needs.cost.count)(&values, 3, 20), 42);
        for wrong in [
            json!([]),
            json!("a"),
            json!(["a", "a"]),
            json!([1]),
            Value::Null,
        ] {
            let faults = settled(&MCS, wrong).unwrap_err();
            assert_eq!(
                faults.shown()[0].allowed,
                ["a list of 1 to 16 different ids of models"]
            );
        }
        assert!(settled(&CORRELATION, json!(["a", "b"])).is_err());
        assert!(settled(&CORRELATION, json!(["a", "b", "c"])).is_ok());
    }
}
