//! The map of another class against that of the explained one: the structural similarity of their
//! pixels, each map divided by its largest magnitude. A method whose map shows what speaks for a
//! class has another map for another class. Sixt et al., 2020. The other classes are drawn for each
//! image, each at most once. Logits are explained, as in the paper: the gradient of the probability of
//! a class that the model does not see is that of the predicted one with its sign changed. Cost: the
//! methods' own for each of them, and for the explained class where its maps are of probabilities.

use std::collections::BTreeSet;

use rand::RngExt;

use super::{
    Category, Cost, Direction, Metric, Needs, Reading, Words,
    parameters::{Allowed, MetricParameter},
    variation::{Variation, resemble},
};
use crate::random::generator;

pub const METRIC: Metric = Metric {
    id: "random_logit",
    title: "Random logit",
    paper: "Sixt et al., When Explanations Lie, 2020",
    category: Category::Randomisation,
    direction: |_| Direction::Lower,
    parameters: &[MetricParameter {
        name: "classes",
        doc: "other classes, drawn at random for each image",
        allowed: |model, _| match model.classes() {
            None => Allowed::Never("the model does not say how many classes it has"),
            Some(0 | 1) => Allowed::Never("the model has no other class"),
            Some(classes) => Allowed::Whole {
                least: 1,
                most: classes - 1,
                default: 1,
            },
        },
    }],
    words: Words {
        about: |values| {
            format!(
                "The map of another class, of which {} drawn at random for each image, is compared with that of the predicted class by the \
                 structural similarity of their pixels. A method whose map stays the same does not explain the class.",
                match values.number("classes") {
                    1 => "one is".to_owned(),
                    more => format!("{more} are"),
                }
            )
        },
        heading: "Mean structural similarity",
        column: "similarity",
        legend: "mean structural similarity (1: the class does not matter)",
        value: "The mean over the classes drawn and over images.",
        axes: None,
    },
    needs: Needs {
        cost: Cost {
            words: "(classes + 1) × the methods' own",
            count: |values, _, explaining| (values.number("classes") + 1) * explaining,
        },
        ..Needs::NOTHING
    },
    build: |case, values| {
        let classes = case.model.classes().unwrap_or(0);
        let others = others(classes, case.class, values.number("classes"), case.seed);
        let variations = others.into_iter().map(|class| Variation {
            model: case.model.clone(),
            class,
        });
        Ok(vec![resemble(case, variations, |similarities| {
            vec![similarities.iter().sum::<f64>() / similarities.len() as f64]
        })])
    },
    reading: Reading::NUMBER,
};

/// So many of the classes, the explained one left out.
fn others(classes: usize, explained: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut generator = generator(seed, 0);
    let mut drawn = BTreeSet::from([explained]);
    let mut others = Vec::new();
    while others.len() < count && drawn.len() < classes {
        let class = generator.random_range(0..classes);
        if drawn.insert(class) {
            others.push(class);
        }
    }
    others
}

#[cfg(test)]
pub(super) mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use onnx_autodiff::{
        autodiff::spec::Head,
        onnx::graph::{Dim, Element, Graph, ValueInfo, ValueType},
    };

    use super::*;
    use crate::{
        evaluation::{
            parameters::{Values, settle},
            patches::Score,
            tests::{answered, case, tensor},
        },
        methods::target::Target,
        model::Model,
    };

    /// A model that says no more than how many classes it has.
    fn of_classes(count: usize) -> Arc<Model> {
        let output = ValueInfo {
            name: "y".into(),
            value_type: ValueType::new(
                Element::Float,
                vec![Dim::Symbol("N".into()), Dim::Known(count)],
            ),
        };
        let graph = Graph {
            opset_imports: BTreeMap::from([(String::new(), 17)]),
            outputs: vec![output],
            ..Graph::default()
        };
        Arc::new(Model::bare("net", Arc::new(graph)))
    }

    #[test]
    pub(in crate::evaluation) fn hand_worked_maps_are_as_similar_as_worked_by_hand() {
        // One window of 3 x 3: the other class's map is the negative of this one, times 5. Both have
        // the mean of ±1/9, the sample variance of 1/9 and its negative for a covariance; their
        // range is 2.
        let own = [0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0];
        let mut case = case(tensor(&[1, 3, 3], &own), &[Score::Signed, Score::Absolute]);
        case.model = of_classes(2);
        case.class = 1;
        let values = settle(&METRIC, Default::default(), &case.model).unwrap();
        let run = (METRIC.build)(&case, &values).unwrap().remove(0);
        let found = answered(run, |request| {
            assert_eq!(request.parameters.target, Target::Class(0));
            tensor(&[1, 3, 3], &own.map(|value| value * -5.0))
        })
        .unwrap();
        let (means, contrasts) = (0.0004, 0.0036);
        let mean = 2.0 / 81.0;
        let expected =
            (-mean + means) * (-2.0 / 9.0 + contrasts) / ((mean + means) * (2.0 / 9.0 + contrasts));
        assert!(
            (found[0][0] - expected).abs() < 1e-12,
            "{found:?} {expected}"
        );
        // Of the magnitudes nothing differs.
        assert!((found[1][0] - 1.0).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn the_value_is_the_mean_over_the_classes_and_each_is_asked_once() {
        let own = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0];
        let mut case = case(tensor(&[1, 3, 3], &own), &[Score::Signed]);
        case.model = of_classes(4);
        case.class = 2;
        let given = [("classes".to_owned(), 3.into())].into_iter().collect();
        let values = settle(&METRIC, given, &case.model).unwrap();
        assert_eq!((METRIC.needs.cost.count)(&values, 1, 7), 28);
        let run = (METRIC.build)(&case, &values).unwrap().remove(0);
        let mut asked = Vec::new();
        let found = answered(run, |request| {
            asked.push(request.parameters.target);
            // The same for two classes, and zeros for one.
            let factor = if asked.len() == 3 { 0.0 } else { 2.0 };
            tensor(&[1, 3, 3], &own.map(|value| value * factor))
        })
        .unwrap();
        asked.sort_by_key(|target| target.largest());
        assert_eq!(asked, [0, 1, 3].map(Target::Class));
        // Against zeros: no covariance, the mean of both is 0.
        let contrasts = 0.0036;
        let expected = (2.0 + contrasts / (0.25 + contrasts)) / 3.0;
        assert!(
            (found[0][0] - expected).abs() < 1e-12,
            "{found:?} {expected}"
        );
    }

    #[test]
    fn maps_of_probabilities_give_way_to_those_of_logits() {
        let own = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0];
        let mut case = case(tensor(&[1, 3, 3], &[0.0; 9]), &[Score::Signed]);
        let mut map = case.maps[0].clone();
        map.request.parameters.head = Head::Probabilities;
        case.maps = Arc::new([map]);
        case.model = of_classes(2);
        let values = settle(&METRIC, Default::default(), &case.model).unwrap();
        let run = (METRIC.build)(&case, &values).unwrap().remove(0);
        let mut asked = Vec::new();
        let found = answered(run, |request| {
            assert_eq!(request.parameters.head, Head::Logits);
            asked.push(request.parameters.target);
            tensor(&[1, 3, 3], &own)
        })
        .unwrap();
        assert_eq!(asked, [0, 1].map(Target::Class));
        assert!((found[0][0] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn classes_are_drawn_by_the_seed_and_never_the_explained_one() {
        let drawn = |seed| others(1000, 281, 5, seed);
        assert_eq!(drawn(3), drawn(3));
        assert_ne!(drawn(3), drawn(4));
        for seed in 0..200 {
            let others = others(3, 1, 2, seed);
            assert!(others == [0, 2] || others == [2, 0], "{others:?}");
        }
    }

    #[test]
    fn a_model_of_one_class_is_refused() {
        for count in [0, 1] {
            let faults = settle(&METRIC, Default::default(), &of_classes(count)).unwrap_err();
            assert!(faults.to_string().contains("no other class"), "{faults}");
        }
        assert_eq!(
            settle(&METRIC, Default::default(), &of_classes(2)),
            Ok(serde_json::from_value::<Values>(serde_json::json!({ "classes": 1 })).unwrap())
        );
    }

    #[test]
    fn a_map_that_is_not_finite_is_told() {
        let mut case = case(tensor(&[1, 1, 2], &[1.0, 2.0]), &[Score::Signed]);
        case.model = of_classes(2);
        let values = settle(&METRIC, Default::default(), &case.model).unwrap();
        let run = (METRIC.build)(&case, &values).unwrap().remove(0);
        let found = answered(run, |_| tensor(&[1, 1, 2], &[f32::NAN, 2.0]));
        assert!(found.unwrap_err().0.contains("not finite"));
    }
}
