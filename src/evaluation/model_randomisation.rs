//! Randomisation of the model's parameters: its layers are drawn anew, and the map of the same class
//! is compared with that of the model itself. By `mode: cascading` from the head down to the input,
//! by `independent` one layer alone, the last of what the cascade has drawn. By the Spearman rank
//! correlation of their pixels, or (`similarity: ssim`) by their structural similarity, as
//! `random_logit`. Logits are explained, as in the paper: random weights make probabilities of 0 and
//! 1, without gradients. Adebayo et al., Sanity Checks for Saliency Maps, 2018, section 3. Cost: the
//! methods' own for each model drawn, and for the model itself. A map of equal pixels is correlated
//! with none: 0.

use super::{
    Axes, Category, Cost, Direction, Metric, Needs, Reading, Words,
    parameters::{Allowed, MetricParameter},
    variation::{Variation, correlate, resemble},
};
use crate::{methods::parameters::Need, model::variant::Randomisation};

/// Models where no number is asked for.
const STAGES: usize = 8;

pub const METRIC: Metric = Metric {
    id: "model_randomisation",
    title: "Model randomisation",
    paper: "Adebayo et al., Sanity Checks for Saliency Maps, 2018, section 3",
    category: Category::Randomisation,
    direction: |_| Direction::Lower,
    parameters: &[
        MetricParameter {
            name: "stages",
            doc: "models with layers drawn anew, in equal parts from the head down to the input",
            allowed: |model, _| match Randomisation::of(model)
                .map_or(0, |found| found.layers().len())
            {
                0 => Allowed::Never("the model has no layer whose weights can be drawn anew"),
                most => Allowed::Whole {
                    least: 1,
                    most,
                    default: STAGES.min(most),
                },
            },
        },
        MetricParameter {
            name: "mode",
            doc: "`cascading` (each model has all layers from the head down to its own drawn anew, the last has none of its own) or \
                  `independent` (its own alone)",
            allowed: |_, _| Allowed::OneOf {
                words: &["cascading", "independent"],
                default: Some("cascading"),
            },
        },
        MetricParameter {
            name: "similarity",
            doc: "`spearman` (rank correlation of the pixels) or `ssim` (structural similarity)",
            allowed: |_, _| Allowed::OneOf {
                words: &["spearman", "ssim"],
                default: Some("spearman"),
            },
        },
    ],
    words: Words {
        about: |values| {
            format!(
                "The layers of the model are drawn anew from the head down to the input, {}; the curve is the mean {} of the map of each of \
                 these models and of the model itself, for the class that the model predicts. A method whose map stays the same does not \
                 explain the model.",
                match (values.word("mode"), values.number("stages")) {
                    (Some("independent"), stages) => format!("{stages} of them, one at a time"),
                    (_, stages) => format!("in {stages} parts"),
                },
                match values.word("similarity") {
                    Some("ssim") => "structural similarity",
                    _ => "Spearman rank correlation between the pixels",
                },
            )
        },
        heading: "Mean similarity",
        column: "similarity",
        legend: "mean similarity (1: the model does not matter)",
        value: "The mean over the models drawn and over images; the model itself, which has 1, is left out.",
        axes: Some(Axes {
            x: "layers drawn anew, from the head (0) to the input (1)",
            y: "mean similarity to the model's own map",
            end: Some(1.0),
            signed: true,
        }),
    },
    needs: Needs {
        excludes: |parameters| parameters.needs_patterns() || parameters.needs(Need::Supports),
        exclusion: "patterns and supports belong to the weights that they were made for, and a randomised model has others",
        models: |values, model, seed| {
            let random = Randomisation::of(model)?;
            let (layers, stages) = (random.layers().len(), values.number("stages"));
            let firsts = (1..=stages).map(|stage| layers - drawn(stage, stages, layers));
            Ok(match values.word("mode") {
                Some("independent") => firsts
                    .filter_map(|layer| random.only(layer, seed))
                    .collect(),
                _ => random.cascade(firsts, seed),
            })
        },
        cost: Cost {
            words: "(stages + 1) × the methods' own",
            count: |values, _, explaining| (values.number("stages") + 1) * explaining,
        },
        ..Needs::NOTHING
    },
    build: |case, values| {
        let variations = case.variants.iter().map(|variant| Variation {
            model: variant.model.clone(),
            class: case.class,
        });
        let measure = |similarities| [vec![1.0], similarities].concat();
        Ok(vec![match values.word("similarity") {
            Some("ssim") => resemble(case, variations, measure),
            _ => correlate(case, variations, measure),
        }])
    },
    reading: Reading {
        value: |_, curve| mean_after_first(curve),
        ..Reading::NUMBER
    },
};

/// Layers that a stage has drawn anew, counted from the head.
fn drawn(stage: usize, stages: usize, layers: usize) -> usize {
    (stage * layers).div_ceil(stages.max(1)).min(layers)
}

fn mean_after_first(curve: &[f64]) -> f64 {
    let rest = curve.get(1..).unwrap_or_default();
    rest.iter().sum::<f64>() / rest.len() as f64
}

#[cfg(test)]
pub(super) mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use onnx_autodiff::{
        autodiff::spec::Head,
        onnx::graph::{Literal, Node},
    };
    use serde_json::json;

    use super::*;
    use crate::{
        evaluation::{
            parameters::{Values, settle},
            patches::Score,
            similarity::tests::naive,
            tests::{answered, case, driven, linear, tensor},
        },
        methods::target::Target,
        model::{Model, variant},
        tensor::Tensor,
    };

    #[test]
    pub(in crate::evaluation) fn hand_worked_maps_correlate_as_worked_by_hand() {
        // Five pixels of one channel. The maps of the models: the same but for a growing function;
        // its opposite, of the same magnitudes; two neighbours changed, Σ d² = 2; equal pixels.
        let own = [1.0, -2.0, 3.0, -4.0, 5.0];
        let maps = [
            own.map(|value: f32| value.powi(3)),
            own.map(|value| -value),
            [1.0, -2.0, 5.0, -4.0, 3.0],
            [7.0; 5],
        ];
        let shape = [1, 1, 5];
        let mut case = case(tensor(&shape, &own), &[Score::Signed, Score::Absolute]);
        case.variants = maps.iter().map(|_| case.model.clone().into()).collect();
        let run = (METRIC.build)(&case, &Values::default()).unwrap().remove(0);
        let mut maps = maps.iter();
        let found = answered(run, |request| {
            assert_eq!(request.parameters.target, Target::Class(0));
            tensor(&shape, maps.next().unwrap())
        });
        // 1 - 6 Σ d² / (n (n² - 1)); of the magnitudes 3 and 5 are two ranks apart, Σ d² = 8.
        let expected = [[1.0, 1.0, -1.0, 0.9, 0.0], [1.0, 1.0, 1.0, 0.6, 0.0]];
        for (found, expected) in found.unwrap().iter().zip(expected) {
            assert_eq!(found.len(), 5);
            let gaps = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
            // Rounding of sums of five terms.
            assert!(gaps.fold(0.0, f64::max) < 1e-12, "{found:?}");
        }
        assert_eq!(mean_after_first(&[1.0, 0.5, 0.0]), 0.25);
    }

    #[test]
    fn maps_of_probabilities_give_way_to_those_of_logits() {
        let mut case = case(tensor(&[1, 1, 3], &[0.0; 3]), &[Score::Signed]);
        let mut map = case.maps[0].clone();
        map.request.parameters.head = Head::Probabilities;
        case.maps = Arc::new([map]);
        case.variants = Arc::new([case.model.clone().into()]);
        let run = (METRIC.build)(&case, &Values::default()).unwrap().remove(0);
        let mut maps = [[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]].iter();
        let found = answered(run, |request| {
            assert_eq!(request.parameters.head, Head::Logits);
            tensor(&[1, 1, 3], maps.next().unwrap())
        });
        assert_eq!(found.unwrap(), [[1.0, -1.0]]);
    }

    #[test]
    fn a_map_that_is_not_finite_is_told() {
        let mut case = case(tensor(&[1, 1, 2], &[1.0, 2.0]), &[Score::Signed]);
        case.variants = Arc::new([case.model.clone().into()]);
        let run = (METRIC.build)(&case, &Values::default()).unwrap().remove(0);
        let found = answered(run, |_| tensor(&[1, 1, 2], &[f32::NAN, 2.0]));
        assert!(found.unwrap_err().0.contains("not finite"));
    }

    #[test]
    fn the_structural_similarity_is_that_of_the_maps_divided_by_their_largest_magnitudes() {
        let own = [0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0];
        let mut case = case(tensor(&[1, 3, 3], &own), &[Score::Signed]);
        case.variants = Arc::new([case.model.clone().into(), case.model.clone().into()]);
        let values = Values(
            [("similarity".to_owned(), json!("ssim"))]
                .into_iter()
                .collect(),
        );
        let run = (METRIC.build)(&case, &values).unwrap().remove(0);
        let mut factors = [3.0, 0.0].iter();
        let found = answered(run, |_| {
            let factor = factors.next().unwrap();
            tensor(&[1, 3, 3], &own.map(|value| value * factor))
        });
        // One window. Against zeros, in a range of 1: the mean is 1/9, the sample variance too.
        let (means, contrasts) = (0.0001, 0.0009);
        let zeros = means * contrasts / ((1.0 / 81.0 + means) * (1.0 / 9.0 + contrasts));
        let found = &found.unwrap()[0];
        let gaps = found
            .iter()
            .zip([1.0, 1.0, zeros])
            .map(|(a, b)| (a - b).abs());
        assert!(gaps.fold(0.0, f64::max) < 1e-12, "{found:?} {zeros}");
    }

    /// The first layer of each part is that which both modes draw.
    #[test]
    fn independent_models_have_one_layer_of_the_cascade_each() {
        let model = two_layers();
        let models = |mode: &str| {
            let given = [("mode".to_owned(), json!(mode))].into_iter().collect();
            let values = settle(&METRIC, given, &model).unwrap();
            assert_eq!(values.number("stages"), 2);
            let models = (METRIC.needs.models)(&values, &model, 3).unwrap();
            let weights = |name: &str| -> Vec<_> {
                let models = models.iter();
                models
                    .map(|one| one.graph.initializers[name].clone())
                    .collect()
            };
            (weights("first"), weights("second"))
        };
        let own = |name: &str| model.graph.initializers[name].clone();
        let (cascade, alone) = (models("cascading"), models("independent"));
        assert_eq!(cascade.0[0], own("first"));
        assert_ne!(cascade.0[1], own("first"));
        assert_eq!(cascade.1[0], cascade.1[1]);
        assert_ne!(cascade.1[0], own("second"));
        assert_eq!(alone.0, cascade.0);
        assert_eq!(alone.1, [cascade.1[0].clone(), own("second")]);
    }

    #[test]
    fn stages_draw_layers_in_equal_parts_and_the_last_all_of_them() {
        let of = |stages, layers| -> Vec<usize> {
            (1..=stages)
                .map(|stage| drawn(stage, stages, layers))
                .collect()
        };
        assert_eq!(of(8, 26), [4, 7, 10, 13, 17, 20, 23, 26]);
        assert_eq!(of(3, 3), [1, 2, 3]);
        assert_eq!(of(1, 9), [9]);
    }

    /// As [`linear`], with two matrices.
    fn two_layers() -> Model {
        let whole = linear(&[1.0; 12]);
        let mut graph = whole.graph.as_ref().clone();
        graph.nodes[1].inputs[1] = "first".into();
        graph.nodes[1].outputs[0] = "between".into();
        graph
            .nodes
            .push(Node::new("MatMul", ["between", "second"], ["y"]));
        let mut add = |name: &str, shape: &[usize]| {
            let literal = Literal::from_f32s(shape, &vec![1.0; shape.iter().product()]);
            graph.initializers.insert(name.into(), literal);
        };
        add("first", &[2, 6]);
        add("second", &[2, 2]);
        Model::bare("layers", Arc::new(graph))
    }

    /// The gradient of y_1 is the second row of W, and that of a randomised model the row that was
    /// drawn for it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_maps_of_a_linear_model_are_its_weights() {
        let weights = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 3.0, -1.0, 2.0, -5.0, 0.5, 1.0];
        let model = Arc::new(linear(&weights));
        let values = settle(&METRIC, Default::default(), &model).unwrap();
        assert_eq!(values.number("stages"), 1);
        let mut variants = (METRIC.needs.models)(&values, &model, 3).unwrap();
        let opposite = Literal::from_f32s(&[2, 6], &weights.map(|weight| -weight));
        let opposite = BTreeMap::from([("w".to_owned(), opposite)]);
        variants.push(variant::with_weights(&model, opposite, "opposite").unwrap());
        let random: Vec<f64> = variants[0].graph.initializers["w"]
            .bytes
            .chunks_exact(4)
            .map(|four| f64::from(f32::from_le_bytes(four.try_into().unwrap())))
            .collect();

        let map = tensor(&[1, 2, 3], &weights[6..]);
        let mut case = case(map, &[Score::Signed, Score::Absolute]);
        case.class = 1;
        case.input = Arc::new(Tensor::from_shape_fn(vec![1, 2, 3], |i| i[2] as f32));
        case.variants = variants
            .into_iter()
            .map(|model| Arc::new(model).into())
            .collect();
        case.model = model.clone();
        let runs = (METRIC.build)(&case, &values).unwrap();
        let (found, _) = driven(&case, runs).await;
        let own: Vec<f64> = weights[6..]
            .iter()
            .map(|&weight| f64::from(weight))
            .collect();
        let sizes = |values: &[f64]| -> Vec<f64> { values.iter().map(|v| v.abs()).collect() };
        let expected = [
            [1.0, naive(&own, &random[6..]), -1.0],
            [1.0, naive(&sizes(&own), &sizes(&random[6..])), 1.0],
        ];
        for (found, expected) in found.iter().zip(expected) {
            let gaps = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
            assert!(gaps.fold(0.0, f64::max) < 1e-12, "{found:?} {expected:?}");
        }
    }
}
