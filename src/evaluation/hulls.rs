//! What GAD leaves of its base's map, by the convex hulls of their most important pixels (M), for
//! both classes of the set of supports. RC = area(M_GAD) / area(M_base), and
//! RS(M) = |N_a(I) - N_a(I ⊙ (1 - M))| / ΣM with pixels made black, for M_GAD and the supplement
//! M_base \ M_GAD. Mazini Rodrigues et al., 2024, Eq. 1 and 2. N_a is the head that the row
//! explains: a logit in the paper.

use std::sync::Arc;

use ndarray::{Array2, Zip};

use super::{
    AttributionMap, Case, Category, Cost, Direction, Measurement, Metric, MetricError, MetricRun,
    Needs, NotFinite, Reading, Words,
    parameters::{Allowed, MetricParameter, Values},
    patches::by_pixel,
};
use crate::{
    engine::Row,
    methods::{
        Answers, ComparedMaps, Question, Request, Run, Step, gad, head_value,
        parameters::Parameters, target::Target,
    },
    picture::{
        baseline::{Baseline, Material, Term},
        preprocess::Layout,
    },
    render::{
        hull::Hull,
        options::{HullRule, Reduction},
        plane::reduce,
    },
    tensor::Tensor,
};

const HULL: MetricParameter = MetricParameter {
    name: "hull",
    doc: "the pixels that a hull is drawn around: `top_half`, the upper half of those that are not 0, or `over_tenth`, those over a tenth of \
          the largest",
    allowed: |_, _| Allowed::OneOf {
        words: HullRule::ALLOWED,
        default: Some("top_half"),
    },
};

const CLASS: MetricParameter = MetricParameter {
    name: "class",
    doc: "the class of the set whose maps are read: `first`, `second`, or the mean of `both`",
    allowed: |_, _| Allowed::OneOf {
        words: &["both", "first", "second"],
        default: Some("both"),
    },
};

pub const RC: Metric = Metric {
    id: "rc",
    title: "Complexity ratio of hulls",
    category: Category::Complexity,
    parameters: &[
        HULL,
        CLASS,
        MetricParameter {
            name: "value",
            doc: "`smaller`: the share of images with a ratio below 1; `ratio`: the mean ratio",
            allowed: |_, _| Allowed::OneOf {
                words: &["smaller", "ratio"],
                default: Some("smaller"),
            },
        },
    ],
    direction: |values| match values.word("value") {
        Some("ratio") => Direction::Lower,
        _ => Direction::Higher,
    },
    words: Words {
        about: |values| {
            let hulls = "convex hull of GAD's most important pixels";
            match values.word("value") {
                Some("ratio") => format!(
                    "The area of the {hulls} over that of its base's ({}).",
                    of(values)
                ),
                _ => format!(
                    "Whether the {hulls} is smaller than that of its base's ({}).",
                    of(values)
                ),
            }
        },
        heading: "GAD's hull beside its base's",
        column: "RC",
        legend: "share of smaller hulls, or mean ratio of areas",
        value: "With value smaller the share of images where GAD's hull has the smaller area, with value ratio the mean of the ratios.",
        axes: None,
    },
    reading: Reading {
        value: |values, measured| {
            mean_of(values, measured, |hulls| match values.word("value") {
                Some("ratio") => hulls.ratio(),
                _ => f64::from(u8::from(hulls.ratio() < 1.0)),
            })
        },
        skips: |values, rows| {
            is_any(values, rows, |hulls| !hulls.are_defined()).then_some(UNDEFINED)
        },
        ..Reading::NUMBER
    },
    ..ALL
};

pub const RS: Metric = Metric {
    id: "rs",
    title: "Sensitivity to the hull",
    category: Category::Faithfulness,
    parameters: &[
        HULL,
        CLASS,
        MetricParameter {
            name: "mask",
            doc: "what is made black: `gad`, the pixels of GAD's hull; `supplement`, those of its base's that are not in it; or by how much \
                  more the first counts, `difference`",
            allowed: |_, _| Allowed::OneOf {
                words: &["gad", "supplement", "difference"],
                default: Some("gad"),
            },
        },
    ],
    words: Words {
        about: |values| {
            format!(
                "By how much the explained output changes for each pixel that is made black, of those in the convex hull of GAD's most important \
                 pixels, or of those that are only in its base's ({}).",
                of(values)
            )
        },
        heading: "Change of the output for each pixel",
        column: "RS",
        legend: "mean change of the output for each black pixel",
        value: "The mean over images of the output's absolute change over the number of pixels.",
        axes: None,
    },
    reading: Reading {
        value: |values, measured| {
            mean_of(values, measured, |hulls| match values.word("mask") {
                Some("supplement") => hulls.supplement(),
                Some("difference") => hulls.gad() - hulls.supplement(),
                _ => hulls.gad(),
            })
        },
        skips: |values, rows| {
            if is_any(values, rows, |hulls| !hulls.are_defined()) {
                return Some(UNDEFINED);
            }
            let is_covered = |hulls: &Hulls| hulls.supplement_pixels == 0.0;
            let is_asked = values.word("mask").is_some_and(|mask| mask != "gad");
            (is_asked && is_any(values, rows, is_covered))
                .then_some("where GAD's hull covers that of its base")
        },
        ..Reading::NUMBER
    },
    ..ALL
};

/// What they share: they read the same measurements.
const ALL: Metric = Metric {
    id: "",
    title: "",
    paper: "Mazini Rodrigues et al., Transforming gradient-based techniques into interpretable methods, 2024, section 5",
    category: Category::Complexity,
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
        excludes: |parameters| gad::supports(parameters).is_none(),
        exclusion: "it compares the maps of gad with those of its base",
        cost: Cost {
            words: "at most 2 × the methods' own, and 4 forward passes for each row",
            count: |_, rows, explaining| 2 * explaining + 4 * rows,
        },
        shares: Some("hulls"),
        unmeasured: &["class", "value", "mask"],
        ..Needs::NOTHING
    },
    build,
    reading: Reading::NUMBER,
};

const UNDEFINED: &str =
    "with a map whose hull is not defined: fewer than three pixels, or all on one line";

/// Which classes, for people.
fn of(values: &Values) -> &'static str {
    match values.word("class") {
        Some("first") => "of the set's first class",
        Some("second") => "of the set's second class",
        _ => "the mean of the set's two classes",
    }
}

/// What is measured for one class.
struct Hulls {
    /// 0 where it is not defined.
    gad_area: f64,
    base_area: f64,
    gad_pixels: f64,
    supplement_pixels: f64,
    /// Absolute, of the output.
    gad_change: f64,
    supplement_change: f64,
}

impl Hulls {
    /// Numbers of a class in a measurement.
    const NUMBERS: usize = 6;

    fn are_defined(&self) -> bool {
        self.gad_area > 0.0 && self.base_area > 0.0
    }

    fn ratio(&self) -> f64 {
        self.gad_area / self.base_area
    }

    fn gad(&self) -> f64 {
        self.gad_change / self.gad_pixels
    }

    fn supplement(&self) -> f64 {
        self.supplement_change / self.supplement_pixels
    }
}

/// The classes that are read, of a measurement.
fn read<'a>(values: &Values, measured: &'a [f64]) -> impl Iterator<Item = Hulls> + 'a {
    let (skipped, taken) = match values.word("class") {
        Some("first") => (0, 1),
        Some("second") => (1, 1),
        _ => (0, 2),
    };
    let classes = measured.as_chunks::<{ Hulls::NUMBERS }>().0.iter();
    classes.skip(skipped).take(taken).map(|numbers| {
        let [
            gad_area,
            base_area,
            gad_pixels,
            supplement_pixels,
            gad_change,
            supplement_change,
        ] = *numbers;
        Hulls {
            gad_area,
            base_area,
            gad_pixels,
            supplement_pixels,
            gad_change,
            supplement_change,
        }
    })
}

fn mean_of(values: &Values, measured: &[f64], number: impl Fn(&Hulls) -> f64) -> f64 {
    let numbers: Vec<f64> = read(values, measured).map(|hulls| number(&hulls)).collect();
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

fn is_any(values: &Values, rows: &[Measurement], is_so: impl Fn(&Hulls) -> bool) -> bool {
    rows.iter()
        .any(|row| read(values, row).any(|hulls| is_so(&hulls)))
}

/// One run for each row.
fn build(case: &Case, values: &Values) -> Result<Vec<MetricRun>, MetricError> {
    let rule = values.word("hull").and_then(HullRule::parse);
    let rule = rule.unwrap_or(HullRule::TopHalf);
    let material = Material {
        preprocess: case.model.manifest.input.preprocess.as_ref(),
        ..Material::default()
    };
    let black = Baseline::from(Term::Black).resolve(&case.input, &material)?;
    let black = Arc::new(black.into_iter().next().ok_or(MetricError::Picture)?);
    let run = |(map, _): (&AttributionMap, _)| {
        let classes = gad::supports(&map.request.parameters).map(|set| set.classes);
        Box::new(Hulled {
            case: case.clone(),
            black: black.clone(),
            rule,
            classes: classes.unwrap_or_default(),
            map: map.clone(),
            state: State::Start,
        }) as MetricRun
    };
    Ok(case.row_maps().map(run).collect())
}

struct Hulled {
    case: Case,
    black: Arc<Tensor>,
    rule: HullRule,
    classes: [usize; 2],
    map: AttributionMap,
    state: State,
}

enum State {
    Start,
    /// The maps of classes that are not the case's are awaited.
    Explaining,
    /// The outputs of the clean input, and of what is left of it, are awaited.
    Occluding(Box<[Masks; 2]>),
}

/// Of one class.
struct Masks {
    gad_area: f64,
    base_area: f64,
    gad: Array2<bool>,
    supplement: Array2<bool>,
}

impl Hulled {
    /// GAD's map and its base's for a class, where the case has them.
    fn known(&self, class: usize) -> Option<[Arc<Tensor>; 2]> {
        let is_own =
            class == self.case.class && self.map.request.parameters.target == Target::Predicted;
        let compared = self.map.compared.as_ref().filter(|_| is_own)?;
        Some([self.map.scores.clone(), compared.own.clone()])
    }

    fn question(&self, class: usize) -> Question {
        Question::Explain {
            model: self.case.model.clone(),
            input: self.case.input.clone(),
            request: Request {
                parameters: Parameters {
                    target: Target::Class(class),
                    ..self.map.request.parameters.clone()
                },
                ..self.map.request.clone()
            },
        }
    }

    fn masks(&self, [gad, base]: [Arc<Tensor>; 2]) -> Option<Masks> {
        let layout = self.case.layout();
        let plane = |map: &Tensor| reduce(map, layout, Reduction::Sum).ok();
        let (gad, base) = (plane(&gad)?, plane(&base)?);
        let is_finite = |plane: &Array2<f32>| plane.iter().all(|value| value.is_finite());
        if !is_finite(&gad) || !is_finite(&base) {
            return None;
        }
        let [gad_hull, base_hull] = [&gad, &base].map(|plane| Hull::of(plane.view(), self.rule));
        let area = |hull: &Option<Hull>| hull.as_ref().map_or(0.0, Hull::area);
        let mask = |hull: &Option<Hull>| match hull {
            Some(hull) => hull.mask(gad.dim()),
            None => Array2::from_elem(gad.dim(), false),
        };
        let (gad, base) = (mask(&gad_hull), mask(&base_hull));
        let supplement = Zip::from(&base)
            .and(&gad)
            .map_collect(|base, gad| *base && !gad);
        Some(Masks {
            gad_area: area(&gad_hull),
            base_area: area(&base_hull),
            gad,
            supplement,
        })
    }

    /// The clean input, and for each class what is left of it without each mask.
    fn inputs(&self, masks: &[Masks; 2]) -> Vec<Arc<Tensor>> {
        let layout = self.case.layout();
        let left = masks
            .iter()
            .flat_map(|masks| [&masks.gad, &masks.supplement])
            .map(|mask| Arc::new(blacken(&self.case.input, &self.black, mask, layout)));
        [self.case.input.clone()].into_iter().chain(left).collect()
    }

    /// `rows` are those of the inputs.
    fn measure(&self, masks: &[Masks; 2], rows: &[Row]) -> Option<Measurement> {
        let head = self.map.request.parameters.head;
        let (clean, left) = rows.split_first()?;
        let mut measured = Vec::with_capacity(2 * Hulls::NUMBERS);
        let classes = masks.iter().zip(self.classes).zip(left.as_chunks::<2>().0);
        for ((masks, class), [gad, supplement]) in classes {
            let output = |row: &Row| head_value(row, head, &[(class, 1.0)]);
            let change = |row: &Row| (output(clean) - output(row)).abs();
            let pixels = |mask: &Array2<bool>| mask.iter().filter(|is_in| **is_in).count() as f64;
            measured.extend([
                masks.gad_area,
                masks.base_area,
                pixels(&masks.gad),
                pixels(&masks.supplement),
                change(gad),
                change(supplement),
            ]);
        }
        measured
            .iter()
            .all(|number| (*number as f32).is_finite())
            .then_some(measured)
    }
}

impl Run for Hulled {
    type Output = Result<Vec<Measurement>, NotFinite>;

    fn step(&mut self, answers: Answers) -> Step<Self::Output> {
        let maps = NotFinite("a map of gad or of its base has values that are not finite");
        match std::mem::replace(&mut self.state, State::Explaining) {
            State::Start | State::Explaining => {
                let known = self.classes.map(|class| self.known(class));
                let mut explained = answers.explained().into_iter();
                if explained.len() == 0 && known.iter().any(Option::is_none) {
                    let missing = self.classes.into_iter().zip(&known);
                    let missing = missing.filter(|(_, known)| known.is_none());
                    return Step::Ask(missing.map(|(class, _)| self.question(class)).collect());
                }
                let mut found = known.into_iter().map(|known| {
                    let asked = || {
                        let one = explained.next()?.attribution;
                        let ComparedMaps { own, .. } = one.compared.as_deref()?;
                        Some([one.scores.clone(), own.clone()])
                    };
                    self.masks(known.or_else(asked)?)
                });
                let (Some(Some(first)), Some(Some(second))) = (found.next(), found.next()) else {
                    return Step::Done(Err(maps));
                };
                let masks = [first, second];
                let question = Question::forward(&self.case.model, self.inputs(&masks));
                self.state = State::Occluding(Box::new(masks));
                Step::Ask(vec![question])
            }
            State::Occluding(masks) => {
                let measured = self.measure(&masks, &answers.rows());
                let outputs = NotFinite(
                    "the model answers a blackened input with values that are not finite",
                );
                Step::Done(measured.map(|row| vec![row]).ok_or(outputs))
            }
        }
    }
}

/// The input with the pixels of the mask from another.
fn blacken(input: &Tensor, black: &Tensor, mask: &Array2<bool>, layout: Layout) -> Tensor {
    let mut left = input.clone();
    if let (Some(mut pixels), Some(black)) = (
        by_pixel(left.view_mut(), layout),
        by_pixel(black.view(), layout),
    ) {
        let rows = pixels.outer_iter_mut().zip(black.outer_iter()).zip(mask);
        for ((mut pixel, black), _) in rows.filter(|(_, is_in)| **is_in) {
            pixel.assign(&black);
        }
    }
    left
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::{
        evaluation::{
            CaseRow,
            parameters::settle,
            patches::Score,
            tests::{case, tensor},
        },
        methods::{Answer, Attribution, Explained, ExplainedTarget, Prediction, Timing, registry},
        model::{Model, supports::SupportSet},
        picture::preprocess::{Channels, Preprocess},
    };
    use onnx_autodiff::autodiff::spec::{Head, PatternLayers};

    /// Black is -1, and a net over 4 x 4 grey pixels with weights of its own for each of two classes.
    fn grey() -> Model {
        let mut model = Model::bare("net", Default::default());
        model.manifest.input.preprocess = Some(Preprocess {
            channels: Channels::Gray,
            scale: 1.0 / 255.0,
            mean: vec![0.5],
            std: vec![0.5],
            ..Preprocess::plain(4, 4)
        });
        model
    }

    fn weight(class: usize, pixel: usize) -> f64 {
        (class as f64 + 1.0) * (pixel as f64 + 1.0) / 8.0
    }

    fn logit(input: &Tensor, class: usize) -> f64 {
        let pixels = input.iter().enumerate();
        pixels
            .map(|(at, value)| weight(class, at) * f64::from(*value))
            .sum()
    }

    fn gad_case(class: usize, compared: Option<ComparedMaps>, scores: &[f32]) -> Case {
        let mut case = case(tensor(&[1, 4, 4], scores), &[Score::Signed]);
        let sets = [Arc::new(SupportSet::example("pair", &[2.0]))];
        let mut model = grey();
        model.supports = Arc::new(sets);
        let facts = crate::driver::model_defaults(&model);
        let given = json!({"method": "gad", "base": "gradient", "head": "logits"});
        let parameters = Parameters::parse(given.as_object().unwrap(), &facts).unwrap();
        let map = AttributionMap {
            request: Request::of(parameters),
            compared: compared.map(Arc::new),
            ..case.maps[0].clone()
        };
        case.maps = Arc::new([map]);
        case.rows = Arc::new([CaseRow {
            map: 0,
            score: Score::Signed,
        }]);
        case.model = Arc::new(model);
        case.input = Arc::new(Tensor::from_elem(vec![1, 4, 4], 1.0));
        case.class = class;
        case
    }

    fn values(metric: &Metric, given: serde_json::Value) -> Values {
        let given: Map<_, _> = given.as_object().unwrap().clone();
        settle(metric, given, &grey()).unwrap()
    }

    /// Runs on the net above; `maps` are GAD's and its base's of each class. Gives what is measured,
    /// the classes that were explained, and the inputs that were evaluated.
    fn measured(
        case: &Case,
        maps: &[[&[f32]; 2]; 2],
        hull: &str,
    ) -> (Result<Vec<Measurement>, NotFinite>, Vec<usize>, usize) {
        let mut run = build(case, &values(&RC, json!({ "hull": hull })))
            .unwrap()
            .remove(0);
        let (mut explained, mut evaluated) = (Vec::new(), 0);
        let mut answers = Answers::none();
        loop {
            let questions = match run.step(answers) {
                Step::Done(found) => return (found, explained, evaluated),
                Step::Ask(questions) => questions,
            };
            let answer = |question| match question {
                Question::Rows { points, .. } => {
                    evaluated += points.len();
                    let row = |input: &Tensor| Row {
                        logits: [0, 1].map(|class| logit(input, class) as f32).into(),
                        ..Row::default()
                    };
                    Answer::Rows(points.iter().map(|point| row(&point.input)).collect())
                }
                Question::Explain { request, .. } => {
                    let class = request.parameters.target.largest().unwrap();
                    explained.push(class);
                    let [gad, base] = maps[class].map(|map| Arc::new(tensor(&[1, 4, 4], map)));
                    let compared = ComparedMaps {
                        own: base,
                        supports: Vec::new(),
                    };
                    let attribution = Attribution {
                        scores: gad,
                        compared: Some(Arc::new(compared)),
                        ..Attribution::of(Tensor::zeros(vec![1]))
                    };
                    Answer::Explained(vec![answer_of(request, attribution)])
                }
            };
            answers = Answers(questions.into_iter().map(answer).collect());
        }
    }

    fn answer_of(request: Request, attribution: Attribution) -> Explained {
        let class = Prediction {
            index: 0,
            label: None,
            score: 1.0,
        };
        Explained {
            target: ExplainedTarget {
                class,
                against: None,
            },
            predictions: Vec::new(),
            parameters: Arc::new(request.parameters),
            attribution,
            timing: Timing::default(),
            evaluations: 1,
        }
    }

    /// Its hull is the square of 3 x 3 pixels from the top left: area 4, 9 pixels.
    const BASE: [f32; 16] = [
        5.0, 0.0, 5.0, 0.0, //
        0.0, 0.0, 0.0, 0.0, //
        5.0, 0.0, 5.0, 0.0, //
        0.0, 0.0, 0.0, 0.1,
    ];
    /// The triangle of 3 pixels at the top left: area 0.5.
    const SMALL: [f32; 16] = [
        5.0, 5.0, 0.0, 0.0, //
        5.0, 0.0, 0.0, 0.0, //
        0.0, 0.0, 0.0, 0.0, //
        0.0, 0.0, 0.0, 0.0,
    ];
    /// The lower right square, which the base's does not hold.
    const OTHER: [f32; 16] = [
        0.0, 0.0, 0.0, 0.0, //
        0.0, 0.0, 0.0, 0.0, //
        0.0, 0.0, 5.0, 5.0, //
        0.0, 0.0, 5.0, 5.0,
    ];

    #[test]
    pub(in crate::evaluation) fn hand_worked_hulls_compare_as_worked_by_hand() {
        let case = gad_case(7, None, &SMALL);
        let maps = [[&SMALL[..], &BASE], [&OTHER, &BASE]];
        let (found, explained, evaluated) = measured(&case, &maps, "over_tenth");
        assert_eq!((explained, evaluated), (vec![0, 1], 5));
        let found = found.unwrap();
        // Black is -1: a pixel of 1 takes twice its weight with it. Weights of class 0 are 1/8 to
        // 16/8. The triangle has pixels 1, 2, 5; the rest of the base's square 3, 6, 7, 9, 10, 11.
        let first = [0.5, 4.0, 3.0, 6.0, 2.0 * 8.0 / 8.0, 2.0 * 46.0 / 8.0];
        // Class 1 weighs twice as much. The other square has pixels 11, 12, 15, 16; of the base's it
        // leaves 1, 2, 3, 5, 6, 7, 9, 10.
        let second = [1.0, 4.0, 4.0, 8.0, 4.0 * 54.0 / 8.0, 4.0 * 43.0 / 8.0];
        assert_eq!(found, [[first, second].concat()]);
        let read = |metric: &Metric, given| {
            let values = values(metric, given);
            assert_eq!((metric.reading.skips)(&values, &found), None);
            (metric.reading.value)(&values, &found[0])
        };
        assert_eq!(
            read(&RC, json!({"value": "ratio", "class": "first"})),
            0.125
        );
        assert_eq!(
            read(&RC, json!({"value": "ratio", "class": "second"})),
            0.25
        );
        assert_eq!(read(&RC, json!({"value": "ratio"})), 0.1875);
        assert_eq!(read(&RC, json!({})), 1.0);
        let first = [2.0 / 3.0, 11.5 / 6.0];
        assert_eq!(read(&RS, json!({"class": "first"})), first[0]);
        assert_eq!(
            read(&RS, json!({"class": "first", "mask": "supplement"})),
            first[1]
        );
        assert_eq!(
            read(&RS, json!({"class": "first", "mask": "difference"})),
            first[0] - first[1]
        );
        let second = [27.0 / 4.0, 21.5 / 8.0];
        assert_eq!(read(&RS, json!({})), (first[0] + second[0]) / 2.0);
        assert_eq!(
            read(&RS, json!({"mask": "supplement"})),
            (first[1] + second[1]) / 2.0
        );
    }

    #[test]
    fn the_pixels_of_the_base_that_are_not_chosen_change_its_hull() {
        // The upper half of five pixels is three of 5 and, equal to them, the fourth.
        let case = gad_case(7, None, &SMALL);
        let maps = [[&SMALL[..], &BASE], [&SMALL, &BASE]];
        let (found, ..) = measured(&case, &maps, "top_half");
        assert_eq!(found.unwrap()[0][..2], [0.5, 4.0]);
        // Two of three pixels have no hull.
        let mut uneven = SMALL;
        uneven[1] = 4.0;
        let maps = [[&uneven[..], &BASE], [&SMALL, &BASE]];
        let (found, ..) = measured(&case, &maps, "top_half");
        assert_eq!(found.unwrap()[0][..2], [0.0, 4.0]);
    }

    #[test]
    fn hulls_that_are_not_defined_are_counted() {
        let empty = [0.0; 16];
        let case = gad_case(7, None, &SMALL);
        let maps = [[&SMALL[..], &BASE], [&empty, &BASE]];
        let (found, ..) = measured(&case, &maps, "top_half");
        let found = found.unwrap();
        for metric in [&RC, &RS] {
            let skips =
                |class| (metric.reading.skips)(&values(metric, json!({ "class": class })), &found);
            assert_eq!(
                (skips("first"), skips("second"), skips("both")),
                (None, Some(UNDEFINED), Some(UNDEFINED))
            );
        }
        // A supplement without pixels says nothing; what is in GAD's hull does.
        let maps = [[&BASE[..], &SMALL], [&BASE, &SMALL]];
        let (found, ..) = measured(&case, &maps, "over_tenth");
        let found = found.unwrap();
        let skips = |mask| (RS.reading.skips)(&values(&RS, json!({ "mask": mask })), &found);
        assert!(
            skips("gad").is_none()
                && skips("supplement").is_some()
                && skips("difference").is_some()
        );
        let smaller =
            |value| (RC.reading.value)(&values(&RC, json!({ "value": value })), &found[0]);
        assert_eq!((smaller("smaller"), smaller("ratio")), (0.0, 8.0));
    }

    #[test]
    fn the_maps_of_the_explained_class_are_not_asked_for_again() {
        let own = Arc::new(tensor(&[1, 4, 4], &BASE));
        let compared = ComparedMaps {
            own,
            supports: Vec::new(),
        };
        let case = gad_case(1, Some(compared), &SMALL);
        let maps = [[&OTHER[..], &BASE], [&OTHER, &OTHER]];
        let (found, explained, _) = measured(&case, &maps, "over_tenth");
        assert_eq!(explained, [0]);
        let found = found.unwrap().remove(0);
        assert_eq!(
            (&found[..2], &found[6..8]),
            (&[1.0, 4.0][..], &[0.5, 4.0][..])
        );
    }

    #[test]
    fn maps_that_are_not_finite_are_told_and_other_methods_are_left_out() {
        let mut broken = SMALL;
        broken[3] = f32::NAN;
        let case = gad_case(7, None, &SMALL);
        let maps = [[&SMALL[..], &BASE], [&broken, &BASE]];
        assert!(measured(&case, &maps, "top_half").0.is_err());
        let excluded = |id| {
            let method = registry::find(id).unwrap();
            let parameters = Parameters::defaults(method, Head::Logits, PatternLayers::All);
            (RC.needs.excludes)(&parameters)
        };
        assert!(excluded("gradient") && excluded("gad"));
        assert!(!(RC.needs.excludes)(&case.maps[0].request.parameters));
    }
}
