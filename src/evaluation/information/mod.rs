//! Performance information curves: from a blurred start, the pixels that a map ranks highest are
//! shown, and what the model makes of the picture is drawn over the information that it holds. The
//! SIG paper, section 5; step by step as its public code (the package `saliency`, its module of PIC
//! metrics). Each picture is interpolated anew between all pixels that it shows. `sic` follows the
//! score of the class, `aic` whether the model predicts it; they read the same measurements. Cost:
//! at most 14 evaluations of the forward graph for each row, the blurred start and 13 pictures; the
//! clean input's score is known.

mod bokeh;
mod curve;
mod summary;

use std::{mem, sync::Arc};

use super::{
    Aggregation, AttributionMap, Axes, Case, Category, Cost, Direction, Measurement, Metric,
    MetricError, MetricRun, Needs, NotFinite, Reading, Words,
    aggregate::{Extent, Summary, Tally, Uneven},
    parameters::{Allowed, MetricParameter, Values},
    patches::Score,
    progressive::score,
};
use crate::{
    methods::{Answers, Question, Run, Step, target::ranked},
    model::Model,
    tensor::Tensor,
};
use bokeh::{Bokeh, Scene, refusal};
use curve::{Curve, Form};

/// Parts of the pixels that are shown, the highest of a map.
const THRESHOLDS: [f64; 13] = [
    0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.10, 0.13, 0.21, 0.34, 0.5, 0.75,
];
/// With the blurred start and the whole.
const PICTURES: usize = THRESHOLDS.len() + 2;
/// Evaluations of SqueezeNet's gradient that take as long as interpolating and coding a picture.
const CODING: usize = 7;
const NOT_FINITE: &str = "a blurred picture has a score or a size that is not finite";

pub const SIC: Metric = Metric {
    id: "sic",
    title: "Softmax information curve",
    parameters: &[
        CURVE,
        COMPAT,
        MetricParameter {
            name: "min_score",
            doc: "the least score of the whole picture; images below it are left out",
            allowed: |_, _| Allowed::Real {
                least: 0.0,
                most: 1.0,
                default: 0.8,
            },
        },
    ],
    words: Words {
        about: |_| {
            "From a blurred picture on, the pixels that a method ranks highest are shown; the curve is the share of the score (the \
             probability) that the model gives the class by then, over the share of the whole picture's information that is shown, \
             measured as bytes of lossless WebP."
                .to_owned()
        },
        heading: "Area under the median curve",
        column: "area",
        legend: "area under the median curve",
        value: "The area under the median curve, by trapezoids. A map of equal pixels has 0.5.",
        axes: Some(Axes {
            x: "share of the information",
            y: "median share of the score",
            end: Some(1.0),
            signed: false,
        }),
    },
    needs: Needs {
        unmeasured: &["curve", "compat", "min_score"],
        ..BOTH.needs
    },
    reading: Reading {
        value: |values, measurement| area(values, measurement, Performance::Softmax),
        skips: |values, rows| {
            let measured = Measured::of(rows.first()?);
            let [blurred, whole] = ends(measured.scores)?;
            if whole < values.real("min_score") {
                return Some("of a score below `min_score`");
            }
            measured
                .fault()
                .or((blurred >= whole).then_some("that score no less when blurred"))
        },
        aggregation: Aggregation::Own(|values| Box::new(Curves::new(values, Performance::Softmax))),
    },
    ..BOTH
};

pub const AIC: Metric = Metric {
    id: "aic",
    title: "Accuracy information curve",
    parameters: &[CURVE, COMPAT],
    words: Words {
        about: |_| {
            "From a blurred picture on, the pixels that a method ranks highest are shown; the curve is the part of the images that the \
             model predicts as it does the whole picture, over the share of the whole picture's information that is shown, measured as \
             bytes of lossless WebP."
                .to_owned()
        },
        heading: "Area under the mean curve",
        column: "area",
        legend: "area under the mean curve",
        value: "The area under the mean curve, by trapezoids. A map of equal pixels has 0.5.",
        axes: Some(Axes {
            x: "share of the information",
            y: "accuracy",
            end: Some(1.0),
            signed: false,
        }),
    },
    needs: Needs {
        unmeasured: &["curve", "compat"],
        ..BOTH.needs
    },
    reading: Reading {
        value: |values, measurement| area(values, measurement, Performance::Accuracy),
        skips: |_, rows| {
            let measured = Measured::of(rows.first()?);
            let [blurred, _] = ends(measured.rights)?;
            measured
                .fault()
                .or((blurred > 0.0).then_some("that are predicted alike when blurred"))
        },
        aggregation: Aggregation::Own(|values| {
            Box::new(Curves::new(values, Performance::Accuracy))
        }),
    },
    ..BOTH
};

const CURVE: MetricParameter = MetricParameter {
    name: "curve",
    doc: "`monotone` (the best so far) or `plain`",
    allowed: |model, _| match refusal(model.manifest.input.preprocess.as_ref()) {
        Some(reason) => Allowed::Never(reason),
        None => Allowed::OneOf {
            words: &["monotone", "plain"],
            default: Some("monotone"),
        },
    },
};

const COMPAT: MetricParameter = MetricParameter {
    name: "compat",
    doc: "`sig-2019`: shares are the plain ratios of the paper",
    allowed: |_, _| Allowed::OneOf {
        words: &["sig-2019"],
        default: None,
    },
};

/// What both rows share.
const BOTH: Metric = Metric {
    id: "",
    title: "",
    paper: "Kapishnikov et al., Segment Integrated Gradients, 2019, section 5",
    category: Category::Faithfulness,
    direction: |_| Direction::Higher,
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
        cost: Cost {
            words: "rows × 14",
            count: |_, rows, _| rows * (PICTURES - 1),
        },
        work: |rows| rows * (PICTURES - 1) * CODING,
        shares: Some("information"),
        ..Needs::NOTHING
    },
    build,
    reading: Reading::NUMBER,
};

fn build(case: &Case, _: &Values) -> Result<Vec<MetricRun>, MetricError> {
    let rule = case.model.manifest.input.preprocess.as_ref();
    let rule = rule.filter(|rule| refusal(Some(rule)).is_none());
    let scene = rule.and_then(|rule| Scene::of(&case.input, rule));
    let scene = scene.ok_or(MetricError::Picture)?;
    let known = scene.draw(case.seed);
    Ok(runs(case, scene, known))
}

/// A run for each row.
fn runs(case: &Case, scene: Scene, known: Vec<bool>) -> Vec<MetricRun> {
    let start = scene.showing(&known);
    let whole = scene.whole().information;
    let (scene, known): (_, Arc<[bool]>) = (Arc::new(scene), known.into());
    let run = |(map, score): (&AttributionMap, Score)| {
        let pixels = score.pixels(&map.scores, case.layout());
        Box::new(Showing {
            model: case.model.clone(),
            class: case.class,
            clean: case.clean,
            scene: scene.clone(),
            known: known.clone(),
            start: start.input.clone(),
            whole,
            quantiles: quantiles(&pixels),
            pixels,
            seen: Seen {
                information: vec![start.information],
                ..Seen::default()
            },
        }) as MetricRun
    };
    case.row_maps().map(run).collect()
}

/// Values at least as large as which are the parts of `THRESHOLDS`, interpolated as numpy does.
fn quantiles(pixels: &[f64]) -> Vec<f64> {
    let mut sorted = pixels.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let quantile = |part: &f64| {
        let place = (1.0 - part) * (sorted.len() - 1) as f64;
        let (low, rest) = (place.floor() as usize, place.fract());
        let next = sorted[(low + 1).min(sorted.len() - 1)];
        sorted[low] + rest * (next - sorted[low])
    };
    THRESHOLDS.iter().map(quantile).collect()
}

/// A row at work: one picture at a time.
struct Showing {
    model: Arc<Model>,
    class: usize,
    clean: f64,
    scene: Arc<Scene>,
    /// Pixels of the blurred start.
    known: Arc<[bool]>,
    start: Arc<Tensor>,
    /// Information of the whole picture.
    whole: f64,
    pixels: Vec<f64>,
    quantiles: Vec<f64>,
    seen: Seen,
}

/// Of the pictures so far.
#[derive(Default)]
struct Seen {
    /// Known of one picture more, from the start and whenever one is asked for.
    information: Vec<f64>,
    scores: Vec<f64>,
    rights: Vec<f64>,
}

impl Showing {
    /// The input of the next picture: of the blurred start, then of each threshold.
    fn next(&mut self) -> Option<Arc<Tensor>> {
        let Some(threshold) = self.seen.scores.len().checked_sub(1) else {
            return Some(self.start.clone());
        };
        let quantile = self.quantiles.get(threshold)?;
        let pixels = self.pixels.iter().zip(self.known.iter());
        let shown = pixels.map(|(pixel, is_known)| *is_known || pixel >= quantile);
        let Bokeh { input, information } = self.scene.showing(&Vec::from_iter(shown));
        self.seen.information.push(information);
        Some(input)
    }

    /// Whether the blurred start says that the image is of no use to either metric.
    fn is_useless(&self) -> bool {
        let Seen {
            information,
            scores,
            rights,
        } = &self.seen;
        let holds_all = |information: &f64| *information >= self.whole;
        let says_all = |(score, right): (&f64, &f64)| *score >= self.clean && *right > 0.0;
        information.first().is_some_and(holds_all)
            || scores.first().zip(rights.first()).is_some_and(says_all)
    }

    /// Pictures that were not asked for have 0.
    fn measured(&mut self) -> Result<Vec<Measurement>, NotFinite> {
        let Seen {
            information,
            scores,
            rights,
        } = mem::take(&mut self.seen);
        let row = |mut values: Vec<f64>, whole: f64| {
            values.resize(PICTURES - 1, 0.0);
            values.push(whole);
            values
        };
        let measurement = [
            row(information, self.whole),
            row(scores, self.clean),
            row(rights, 1.0),
        ]
        .concat();
        match measurement.iter().all(|value| value.is_finite()) {
            true => Ok(vec![measurement]),
            false => Err(NotFinite(NOT_FINITE)),
        }
    }
}

impl Run for Showing {
    type Output = Result<Vec<Measurement>, NotFinite>;

    fn step(&mut self, answers: Answers) -> Step<Self::Output> {
        for row in answers.rows() {
            self.seen.scores.push(score(&row, self.class));
            let is_right = ranked(&row.logits).first() == Some(&self.class);
            self.seen.rights.push(f64::from(u8::from(is_right)));
        }
        if self.is_useless() {
            return Step::Done(self.measured());
        }
        match self.next() {
            Some(input) => Step::Ask(vec![Question::forward(&self.model, [input])]),
            None => Step::Done(self.measured()),
        }
    }
}

/// What was measured of a row: of each picture, from the blurred start to the whole.
struct Measured<'a> {
    information: &'a [f64],
    scores: &'a [f64],
    /// 1 where the model predicts the class.
    rights: &'a [f64],
}

#[derive(Clone, Copy)]
enum Performance {
    Softmax,
    Accuracy,
}

impl<'a> Measured<'a> {
    fn of(measurement: &'a [f64]) -> Self {
        let (information, rest) = measurement.split_at(measurement.len() / 3);
        let (scores, rights) = rest.split_at(rest.len() / 2);
        Self {
            information,
            scores,
            rights,
        }
    }

    fn curve(&self, performance: Performance, form: Form) -> Curve {
        let performance = match performance {
            Performance::Softmax => self.scores,
            Performance::Accuracy => self.rights,
        };
        Curve::of(self.information, performance, form)
    }

    /// Why its images are left out, where the blurred start holds as much as the whole.
    fn fault(&self) -> Option<&'static str> {
        let [blurred, whole] = ends(self.information)?;
        (blurred >= whole).then_some("that hold no less information when blurred")
    }
}

/// Of the blurred start, and of the whole.
fn ends(values: &[f64]) -> Option<[f64; 2]> {
    Some([*values.first()?, *values.last()?])
}

/// The curves of images: a median is of all of them.
struct Curves {
    performance: Performance,
    form: Option<Form>,
    extent: Extent,
    /// By row, then by image.
    rows: Vec<Vec<Curve>>,
}

impl Curves {
    fn new(values: &Values, performance: Performance) -> Self {
        Self {
            performance,
            form: values.read().ok(),
            extent: Extent::default(),
            rows: Vec::new(),
        }
    }
}

impl Tally for Curves {
    fn add(&mut self, image: &[Measurement]) -> Result<(), Uneven> {
        let ([rows, _], form) = (self.extent.of(image)?, self.form.ok_or(Uneven)?);
        self.rows.resize_with(rows, Vec::new);
        for (curves, measured) in self.rows.iter_mut().zip(image) {
            curves.push(Measured::of(measured).curve(self.performance, form));
        }
        Ok(())
    }

    fn summary(self: Box<Self>, seed: u64) -> Summary {
        match self.performance {
            Performance::Softmax => summary::medians(&self.rows, seed),
            Performance::Accuracy => summary::means(&self.rows, seed),
        }
    }
}

/// The area under the curve of one row on one image.
fn area(values: &Values, measurement: &[f64], performance: Performance) -> f64 {
    let area = |form| Measured::of(measurement).curve(performance, form).area();
    values.read().map_or(f64::NAN, area)
}

#[cfg(test)]
pub(super) mod tests {
    use std::{fs, path::PathBuf};

    use image::RgbImage;
    use serde_json::{Value, json};

    use super::{
        curve::tests::{FIVE, SCORES},
        *,
    };
    use crate::{
        engine::{Point, Row},
        evaluation::{
            CaseRow,
            tests::{case, tensor},
        },
        methods::reference::points_of,
        picture::preprocess::{Preprocess, preprocess},
    };

    fn values(given: Value) -> Values {
        Values(serde_json::from_value(given).unwrap())
    }

    fn monotone() -> Values {
        values(json!({ "curve": "monotone", "min_score": 0.8 }))
    }

    /// The case of a picture whose rows have these scores, for class 1.
    fn case_of(picture: &RgbImage, maps: &[Vec<f32>], clean: f64) -> Case {
        let shape = [1, picture.height() as usize, picture.width() as usize];
        let rows: Vec<Case> = maps
            .iter()
            .map(|map| case(tensor(&shape, map), &[Score::Signed]))
            .collect();
        let mut case = rows[0].clone();
        case.maps = rows.iter().map(|case| case.maps[0].clone()).collect();
        case.rows = (0..maps.len())
            .map(|map| CaseRow {
                map,
                ..rows[0].rows[0]
            })
            .collect();
        let rule = Preprocess::plain(picture.width(), picture.height());
        case.input = Arc::new(preprocess(picture, &rule).unwrap().0);
        let mut model = case.model.as_ref().clone();
        model.manifest.input.preprocess = Some(rule);
        case.model = Arc::new(model);
        (case.class, case.clean) = (1, clean);
        case
    }

    fn scene_of(case: &Case) -> Scene {
        let rule = case.model.manifest.input.preprocess.as_ref();
        Scene::of(&case.input, rule.unwrap()).unwrap()
    }

    /// What a run measures of a net with this score of class 1, which it predicts from .5 on, and
    /// the inputs that it asks for.
    fn followed(
        mut run: MetricRun,
        net: &dyn Fn(&Tensor) -> f64,
    ) -> (Result<Measurement, NotFinite>, Vec<Arc<Tensor>>) {
        let (mut answers, mut asked) = (Answers::none(), Vec::new());
        loop {
            let points = match run.step(answers) {
                Step::Done(found) => return (found.map(|mut rows| rows.remove(0)), asked),
                asking => points_of(asking),
            };
            let row = |point: &Point| {
                let score = net(&point.input) as f32;
                Row {
                    logits: vec![1.0 - score, score + 1e-6],
                    probabilities: vec![1.0 - score, score],
                    ..Default::default()
                }
            };
            answers = points.iter().map(row).collect::<Vec<_>>().into();
            asked.extend(points.into_iter().map(|point| point.input));
        }
    }

    fn measurement(scores: [f64; 5], rights: [f64; 5]) -> Measurement {
        [FIVE, scores, rights].concat()
    }

    #[test]
    pub(in crate::evaluation) fn five_pictures_have_the_area_under_scores_worked_by_hand() {
        let five = measurement(SCORES, [0.0; 5]);
        let area = |given: Value| (SIC.reading.value)(&values(given), &five);
        for (given, expected) in [
            (json!({ "curve": "monotone" }), 0.3625),
            (json!({ "curve": "plain" }), 0.325),
            (
                json!({ "curve": "monotone", "compat": "sig-2019" }),
                5.3 / 18.0,
            ),
            (
                json!({ "curve": "plain", "compat": "sig-2019" }),
                5.0 / 18.0,
            ),
        ] {
            assert!((area(given.clone()) - expected).abs() < 1e-12, "{given}");
        }
    }

    #[test]
    pub(in crate::evaluation) fn five_pictures_have_the_area_under_rights_worked_by_hand() {
        // Right from half of the information on, but for .8: .3 · .5, .3 · 1 and .2 · 1, or .3 · .5,
        // .3 · .5 and .2 · .5.
        let five = measurement([0.0; 5], [0.0, 0.0, 1.0, 0.0, 1.0]);
        for (curve, expected) in [("monotone", 0.65), ("plain", 0.4)] {
            let found = (AIC.reading.value)(&values(json!({ "curve": curve })), &five);
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }

    #[test]
    fn images_that_say_nothing_are_told_with_the_reason() {
        let skips = |metric: &Metric, information: [f64; 2], scores: [f64; 2], rights: [f64; 2]| {
            let row = [information, scores, rights].map(|[start, whole]| [start, 0.0, whole]);
            (metric.reading.skips)(&monotone(), &[row.concat()]).unwrap_or_default()
        };
        let (fine, bright, right) = ([36.0, 70.0], [0.1, 0.9], [0.0, 1.0]);
        for metric in [&SIC, &AIC] {
            assert_eq!(skips(metric, fine, bright, right), "");
            assert!(skips(metric, [70.0, 70.0], bright, right).contains("information"));
        }
        assert!(skips(&SIC, fine, [0.1, 0.79], right).contains("min_score"));
        assert!(skips(&SIC, fine, [0.9, 0.9], right).contains("no less"));
        assert_eq!(skips(&SIC, fine, bright, [1.0, 1.0]), "");
        assert!(skips(&AIC, fine, bright, [1.0, 1.0]).contains("alike"));
        assert_eq!(skips(&AIC, fine, [0.9, 0.2], right), "");
    }

    /// numpy 1.26: numpy.quantile([3, 1, 4, 1, 5, 9, 2, 6], 1 - t).
    #[test]
    fn quantiles_are_those_of_numpy() {
        let found = quantiles(&[3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]);
        for (place, expected) in [(0, 8.895), (7, 6.9), (9, 5.53), (11, 3.5), (12, 1.75)] {
            assert!((found[place] - expected).abs() < 1e-12, "{found:?}");
        }
    }

    fn photo(width: u32, height: u32) -> RgbImage {
        let level = |x: u32, y: u32| (128.0 + 90.0 * (f64::from(x * y) / 9.0).sin()) as u8;
        RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([level(x, y), level(x + 3, y), (7 * x + 5 * y) as u8])
        })
    }

    /// Pixels that are shown, one by one; what lies between them is `bokeh`'s to test.
    #[test]
    fn runs_agree_with_a_naive_twin() {
        let picture = photo(24, 20);
        let maps: Vec<Vec<f32>> = [13, 29]
            .map(|step| {
                (0..480)
                    .map(|place| (place * place * step % 101) as f32)
                    .collect::<Vec<f32>>()
            })
            .into();
        let net = |input: &Tensor| f64::from(input.sum() / input.len() as f32 / 255.0);
        let mut case = case_of(&picture, &maps, 0.0);
        case.clean = net(&case.input);
        let runs = (SIC.build)(&case, &monotone()).unwrap();
        let scene = scene_of(&case);
        let known = scene.draw(case.seed);
        let mut total = 0;
        for (run, map) in runs.into_iter().zip(&maps) {
            let (found, asked) = followed(run, &net);
            let found = found.unwrap();
            assert_eq!((found.len(), asked.len()), (45, 14));
            total += asked.len();
            let mut sorted = map.clone();
            sorted.sort_by(f32::total_cmp);
            for (number, input) in asked.iter().enumerate() {
                let shown: Vec<bool> = (0..480)
                    .map(|place| {
                        let Some(threshold) = number.checked_sub(1) else {
                            return known[place];
                        };
                        // 479 steps between the smallest and the largest.
                        let at = 479.0 * (1.0 - THRESHOLDS[threshold]);
                        let below = f64::from(sorted[at as usize]);
                        let above = f64::from(sorted[at as usize + 1]);
                        let quantile = below + at.fract() * (above - below);
                        known[place] || f64::from(map[place]) >= quantile
                    })
                    .collect();
                let expected = scene.showing(&shown);
                assert_eq!(expected.input, *input, "{number}");
                let numbers = [number, 15 + number, 30 + number].map(|place| found[place]);
                let score = net(input) as f32;
                let is_right = f64::from(u8::from(score >= 0.5));
                assert_eq!(numbers, [expected.information, f64::from(score), is_right]);
            }
            assert_eq!(
                [found[14], found[29], found[44]],
                [scene.whole().information, case.clean, 1.0]
            );
        }
        assert_eq!(total, (SIC.needs.cost.count)(&monotone(), 2, 0));
    }

    #[test]
    fn an_image_that_is_known_when_blurred_is_given_up_early() {
        let picture = photo(24, 20);
        let case = case_of(&picture, &[vec![0.0; 480]], 0.7);
        let run = || (AIC.build)(&case, &monotone()).unwrap().remove(0);
        let (found, asked) = followed(run(), &|_| 0.8);
        let found = found.unwrap();
        assert_eq!((found.len(), asked.len()), (45, 1));
        for metric in [&SIC, &AIC] {
            let values = values(json!({ "curve": "monotone", "min_score": 0.0 }));
            assert!((metric.reading.skips)(&values, std::slice::from_ref(&found)).is_some());
        }
        let (found, _) = followed(run(), &|_| f64::NAN);
        assert!(found.unwrap_err().0.contains("not finite"));
        // Of one colour the blurred picture is the whole.
        let plain = RgbImage::from_pixel(24, 20, image::Rgb([9; 3]));
        let case = case_of(&plain, &[vec![0.0; 480]], 0.7);
        let run = (AIC.build)(&case, &monotone()).unwrap().remove(0);
        let (found, asked) = followed(run, &|_| 0.1);
        assert!(asked.is_empty());
        assert!((AIC.reading.skips)(&monotone(), &[found.unwrap()]).is_some());
    }

    #[test]
    fn a_map_of_equal_pixels_has_one_half() {
        let picture = photo(24, 20);
        let case = case_of(&picture, &[vec![0.25; 480]], f64::from(0.9_f32));
        let net = |input: &Tensor| if *input == *case.input { 0.9 } else { 0.2 };
        let run = (SIC.build)(&case, &monotone()).unwrap().remove(0);
        let found = followed(run, &net).0.unwrap();
        for metric in [&SIC, &AIC] {
            for compat in [Value::Null, json!("sig-2019")] {
                let values = values(json!({ "curve": "plain", "compat": compat }));
                let area = (metric.reading.value)(&values, &found);
                assert!((area - 0.5).abs() < 1e-9, "{area}");
            }
        }
    }

    /// tests/data/information/generate.py: bytes to 1 %, scores and areas to 1e-2. Between its
    /// triangles and ours there is a choice where pixels lie on a circle.
    #[test]
    fn curves_are_those_of_the_public_code() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/information");
        let picture = image::open(folder.join("photo.png")).unwrap().into_rgb8();
        let stored = fs::read_to_string(folder.join("curves.json")).unwrap();
        let stored: Value = serde_json::from_str(&stored).unwrap();
        let map: Vec<f32> = (0..224 * 224)
            .map(|place| {
                let (y, x) = (f64::from(place / 224), f64::from(place % 224));
                (-((y - 100.0) / 40.0).powi(2) - ((x - 110.0) / 50.0).powi(2)).exp() as f32
            })
            .collect();
        let negative = map.iter().map(|value| -value).collect();
        let case = case_of(&picture, &[map, negative], 1.0);
        let scene = scene_of(&case);
        let mut known = vec![false; 224 * 224];
        known
            .iter_mut()
            .step_by(100)
            .for_each(|known| *known = true);
        for corner in [0, 223, 223 * 224, 224 * 224 - 1] {
            known[corner] = true;
        }
        let start = scene.showing(&known);
        let error = |input: &Tensor| -> f64 {
            let pairs = input.iter().zip(case.input.iter());
            pairs.map(|(a, b)| f64::from((a - b).abs())).sum()
        };
        let furthest = error(&start.input);
        let net = |input: &Tensor| 1.0 - 0.9 * error(input) / furthest;
        for (name, run) in ["map", "negative"]
            .into_iter()
            .zip(runs(&case, scene, known))
        {
            let found = followed(run, &net).0.unwrap();
            let stored = &stored[name];
            let numbers =
                |name: &str| -> Vec<f64> { serde_json::from_value(stored[name].clone()).unwrap() };
            for (found, expected) in found[..15].iter().zip(numbers("bytes")) {
                assert!(
                    (found - expected).abs() < 0.01 * expected,
                    "{found} {expected}"
                );
            }
            for (found, expected) in found[15..30].iter().zip(numbers("scores")) {
                assert!((found - expected).abs() < 0.01, "{found} {expected}");
            }
            for curve in ["monotone", "plain"] {
                let area = (SIC.reading.value)(&values(json!({ "curve": curve })), &found);
                let expected = stored[curve].as_f64().unwrap();
                assert!(
                    (area - expected).abs() < 0.01,
                    "{name} {curve} {area} {expected}"
                );
            }
        }
    }
}
