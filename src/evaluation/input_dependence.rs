//! Input dependence rate: the share of images where a map attributes less to an object than to what
//! it covers, in the same image without it. For models to which the object matters less than what
//! it covers. Yang & Kim, Benchmarking Attribution Methods with Relative Feature Importance, 2019,
//! section 4.3. Where both are attributed alike, the object is not attributed less. Cost: the
//! methods' own for the image without the object.

use std::sync::Arc;

use super::{
    AttributionMap, Case, CaseRow, Category, Cost, Measurement, Metric, MetricError, MetricRun,
    Needs, NotFinite, Reading, Words,
    attribution::{self, OfRegions, REGION, Regions, read},
    parameters::Values,
};
use crate::{
    methods::{Answers, Explained, Question, Run, Step},
    tensor::Tensor,
};

pub const METRIC: Metric = Metric {
    id: "idr",
    title: "Input dependence rate",
    paper: "Yang & Kim, Benchmarking Attribution Methods with Relative Feature Importance, 2019, section 4.3",
    category: Category::Faithfulness,
    direction: attribution::direction,
    parameters: &[REGION],
    words: Words {
        about: |values| {
            format!(
                "Whether a method attributes less to {} than to the same pixels of the image without the object, on average. A model to \
                 which the object matters less than what it covers should be explained so.",
                attribution::name(values)
            )
        },
        heading: "Share of images",
        column: "share",
        legend: "share of images where the object is attributed less than what it covers",
        value: "The share of images with a lower mean attribution of the region with the object than without. Equal ones count as no lower: a map \
                that ignores the input has 0.",
        axes: None,
    },
    needs: Needs {
        region: true,
        pair: true,
        cost: Cost {
            words: "the methods' own, again",
            count: |_, _, explaining| explaining,
        },
        shares: Some("input_dependence"),
        unmeasured: &[REGION.name],
        ..Needs::NOTHING
    },
    build,
    reading: Reading {
        value: |values, measured| {
            let [with, without] = compared(measured).map(|of| read(values, of));
            f64::from(u8::from(with < without))
        },
        skips: |_, rows| {
            let is_other = rows.first()?.last() == Some(&0.0);
            is_other.then_some("that the model takes for another class without the object")
        },
        ..Reading::NUMBER
    },
};

/// The attributions with and without the object, of a measurement. At its end stands whether the
/// model predicts the same class for both.
fn compared(measured: &[f64]) -> [OfRegions; 2] {
    let mut pairs = measured.as_chunks().0.iter().copied();
    [(); 2].map(|()| pairs.next().unwrap_or_default())
}

fn build(case: &Case, _: &Values) -> Result<Vec<MetricRun>, MetricError> {
    Ok(vec![Box::new(Dependence {
        regions: Regions::of(case)?,
        twin: case.twin.clone().ok_or(MetricError::Pair)?,
        is_asked: false,
        case: case.clone(),
    })])
}

/// One run for all rows.
struct Dependence {
    case: Case,
    regions: Regions,
    twin: Arc<Tensor>,
    is_asked: bool,
}

impl Dependence {
    fn measure(&self, explained: &[Explained]) -> Result<Vec<Measurement>, NotFinite> {
        let layout = self.case.layout();
        let row = |row: &CaseRow| {
            let pair = self.case.maps.get(row.map).zip(explained.get(row.map));
            let (own, other) = pair.ok_or(NotFinite("a map is missing"))?;
            let [with, without] = [&own.scores, &other.attribution.scores]
                .map(|scores| self.regions.attributions(scores, row.score, layout));
            let is_same = other.target.class.index == self.case.class;
            let is_same = f64::from(u8::from(is_same));
            Ok([&with?[..], &without?, &[is_same]].concat())
        };
        self.case.rows.iter().map(row).collect()
    }
}

impl Run for Dependence {
    type Output = Result<Vec<Measurement>, NotFinite>;

    fn step(&mut self, answers: Answers) -> Step<Self::Output> {
        if self.is_asked {
            return Step::Done(self.measure(&answers.explained()));
        }
        self.is_asked = true;
        let question = |map: &AttributionMap| Question::Explain {
            model: self.case.model.clone(),
            input: self.twin.clone(),
            request: map.request.clone(),
        };
        Step::Ask(self.case.maps.iter().map(question).collect())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use ndarray::Array2;
    use serde_json::json;

    use super::*;
    use crate::evaluation::{
        patches::Score,
        tests::{answered, case, tensor},
    };

    /// Five pixels whose map is 0 1 2 4 4, without the object whatever is given; the object has those
    /// of these places.
    fn measured(without: [f32; 5], object: &[usize], class: usize) -> Vec<Measurement> {
        let shape = [1, 1, 5];
        let own = tensor(&shape, &[0.0, 1.0, 2.0, 4.0, 4.0]);
        let region = Array2::from_shape_fn((1, 5), |(_, place)| object.contains(&place));
        let case = Case {
            class,
            region: Some(Arc::new(region)),
            twin: Some(Arc::new(tensor(&shape, &[0.0; 5]))),
            ..case(own, &[Score::Signed, Score::Absolute])
        };
        let run = (METRIC.build)(&case, &Values::default()).unwrap().remove(0);
        answered(run, |_| tensor(&shape, &without)).unwrap()
    }

    fn value(region: &str, measured: &[f64]) -> f64 {
        let values = Values([("region".to_owned(), json!(region))].into_iter().collect());
        (METRIC.reading.value)(&values, measured)
    }

    #[test]
    pub(in crate::evaluation) fn a_hand_worked_pair_is_attributed_as_worked_by_hand() {
        let [signed, absolute] = measured([-8.0, 2.0, 4.0, 4.0, 1.0], &[1, 2], 0)
            .try_into()
            .unwrap();
        // The two largest of five are equal, so they are the 99th percentile: of the object with it
        // 1/4 and 2/4. Without it 2/4 and 4/4 of the positive parts; of magnitudes 1 2 4 4 8, whose
        // percentile is 4 + .96 · 4, 1 and 3 of 6.84.
        let near = |found: &[f64], expected: f64| (found[0] - expected).abs() < 1e-12;
        assert!(near(&signed[..], 0.375) && near(&absolute[..], 0.375));
        assert!(near(&signed[2..], 0.75) && near(&absolute[2..], 2.0 / 6.84));
        assert_eq!(
            (value("object", &signed), value("object", &absolute)),
            (1.0, 0.0)
        );
        let skips = |rows: &[Measurement]| (METRIC.reading.skips)(&Values::default(), rows);
        assert_eq!(skips(&[signed, absolute]), None);
        let other = measured([0.0; 5], &[1, 2], 1);
        assert!(skips(&other).unwrap().contains("another class"));
    }

    /// An object from the first to the last pixel has one place only.
    #[test]
    fn the_random_region_has_the_objects_form() {
        for row in measured([4.0, 0.0, 3.0, 1.0, 4.0], &[0, 4], 0) {
            assert_eq!((row[0], row[1]), (0.5, 0.5));
            assert_eq!((row[2], row[3]), (1.0, 1.0));
            assert_eq!(value("random", &row), value("object", &row));
        }
    }

    #[test]
    fn equal_attributions_are_not_less() {
        let same = measured([0.0, 1.0, 2.0, 4.0, 4.0], &[1, 2], 0);
        assert!(same.iter().all(|row| value("object", row) == 0.0));
        // A map of equal pixels attributes nothing.
        let none = measured([7.0; 5], &[1, 2], 0);
        assert!(
            none.iter()
                .all(|row| row[2] == 0.0 && value("object", row) == 0.0)
        );
    }

    #[test]
    fn a_map_that_is_not_finite_is_told_and_so_is_what_is_missing() {
        let map = tensor(&[1, 1, 2], &[1.0, 2.0]);
        let case = case(map, &[Score::Signed]);
        assert!(matches!(
            (METRIC.build)(&case, &Values::default()),
            Err(MetricError::Region)
        ));
        let case = Case {
            region: Some(Arc::new(Array2::from_elem((1, 2), true))),
            ..case
        };
        assert!(matches!(
            (METRIC.build)(&case, &Values::default()),
            Err(MetricError::Pair)
        ));
        let case = Case {
            twin: Some(case.input.clone()),
            ..case
        };
        let run = (METRIC.build)(&case, &Values::default()).unwrap().remove(0);
        let found = answered(run, |_| tensor(&[1, 1, 2], &[f32::NAN, 2.0]));
        assert!(found.unwrap_err().0.contains("not finite"));
    }
}
