//! Cascading randomisation of the model's parameters: its layers are drawn anew from the head down
//! to the input, and after each the map of the same class is compared with that of the model itself,
//! by the Spearman rank correlation of their pixels. Logits are explained, as in the paper: random
//! weights make probabilities of 0 and 1, without gradients. Adebayo et al., Sanity Checks for
//! Saliency Maps, 2018, section 3. Cost: the methods' own for each model of the cascade, and for
//! the model itself. A map of equal pixels is correlated with none: 0.

use super::{
    Axes, Category, Cost, Direction, Metric, Needs, Reading, Words,
    parameters::{Allowed, MetricParameter},
    similarity::{correlation, ranks_of},
    variation::{Variation, compare},
};
use crate::{methods::parameters::Parameters, model::variant::Randomisation};

/// Models of the cascade where none are asked for.
const STAGES: usize = 8;

pub const METRIC: Metric = Metric {
    id: "model_randomisation",
    title: "Model randomisation",
    paper: "Adebayo et al., Sanity Checks for Saliency Maps, 2018, section 3",
    category: Category::Randomisation,
    direction: Direction::Lower,
    parameters: &[MetricParameter {
        name: "stages",
        doc: "models of the cascade, whose layers are drawn anew in equal parts from the head down; the last has none of its own",
        allowed: |model, _| match Randomisation::of(model).map_or(0, |found| found.layers().len()) {
            0 => Allowed::Never("the model has no layer whose weights can be drawn anew"),
            most => Allowed::Whole {
                least: 1,
                most,
                default: STAGES.min(most),
            },
        },
    }],
    words: Words {
        about: |values| {
            format!(
                "The layers of the model are drawn anew from the head down to the input, in {} parts; the curve is the mean Spearman rank \
                 correlation between the pixels of the map of each of these models and of the model itself, for the class that the model \
                 predicts. A method whose map stays the same does not explain the model.",
                values.number("stages")
            )
        },
        heading: "Mean rank correlation",
        column: "correlation",
        legend: "mean rank correlation (1: the model does not matter)",
        value: "The mean over the models of the cascade and over images; the model itself, which has 1, is left out.",
        axes: Some(Axes {
            x: "parts of the layers drawn anew, from the head down",
            y: "mean rank correlation with the model's own map",
            signed: true,
        }),
    },
    needs: Needs {
        excludes: Parameters::needs_patterns,
        exclusion: "patterns belong to the weights that they were fitted with, and a randomised model has others",
        models: |values, model, seed| {
            let random = Randomisation::of(model)?;
            let (layers, stages) = (random.layers().len(), values.number("stages"));
            let firsts = (1..=stages).map(|stage| layers - drawn(stage, stages, layers));
            Ok(random.cascade(firsts, seed))
        },
        cost: Cost {
            words: "(stages + 1) × the methods' own",
            count: |values, _, explaining| (values.number("stages") + 1) * explaining,
        },
        ..Needs::NOTHING
    },
    build: |case, _| {
        let variations = case.variants.iter().map(|model| Variation {
            model: model.clone(),
            class: case.class,
        });
        Ok(vec![compare(
            case,
            variations,
            |pixels| ranks_of(&pixels),
            correlation,
            |similarities| [vec![1.0], similarities].concat(),
        )])
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
        onnx::graph::{Dim, Element, Graph, Literal, Node, ValueInfo, ValueType},
    };

    use super::*;
    use crate::{
        driver::{Driver, Resources},
        engine::{Caller, Engine, EngineSettings, Priority, Provider},
        evaluation::{
            parameters::{Values, settle},
            patches::Score,
            similarity::tests::naive,
            tests::{answered, case, tensor},
        },
        methods::target::Target,
        model::{Model, variant},
        pool::Pool,
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
        case.variants = maps.iter().map(|_| case.model.clone()).collect();
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
        case.variants = Arc::new([case.model.clone()]);
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
        case.variants = Arc::new([case.model.clone()]);
        let run = (METRIC.build)(&case, &Values::default()).unwrap().remove(0);
        let found = answered(run, |_| tensor(&[1, 1, 2], &[f32::NAN, 2.0]));
        assert!(found.unwrap_err().0.contains("not finite"));
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

    /// y = W x.
    fn linear(weights: &[f32]) -> Model {
        let value = |name: &str, sides: &[usize]| ValueInfo {
            name: name.into(),
            value_type: ValueType::new(
                Element::Float,
                [Dim::Symbol("N".into())]
                    .into_iter()
                    .chain(sides.iter().map(|&side| Dim::Known(side)))
                    .collect(),
            ),
        };
        let graph = Graph {
            opset_imports: BTreeMap::from([(String::new(), 17)]),
            inputs: vec![value("x", &[1, 2, 3])],
            outputs: vec![value("y", &[2])],
            initializers: [("w".to_owned(), Literal::from_f32s(&[2, 6], weights))]
                .into_iter()
                .collect(),
            nodes: vec![
                Node::new("Flatten", ["x"], ["flat"]),
                Node::new("Gemm", ["flat", "w"], ["y"]).with("transB", 1_i64),
            ],
            ..Graph::default()
        };
        Model::bare("linear", Arc::new(graph))
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
        case.variants = variants.into_iter().map(Arc::new).collect();
        case.model = model.clone();
        let settings = EngineSettings {
            library: None,
            providers: vec![Provider::Cpu],
            threads: 1,
            queue_rows: 100,
            batch_rows: 8,
            batch_bytes: 1 << 20,
            session_bytes: 1 << 30,
        };
        let (engine, pool) = (Engine::start(&settings).unwrap(), Pool::new(1));
        let caller = Caller::new(Priority::Job, None);
        let resources = Resources {
            engine: &engine,
            pool: &pool,
            caller: &caller,
            pictures: None,
        };
        let driver = Driver::new(resources, &model, case.input.clone());
        let runs = (METRIC.build)(&case, &values).unwrap();
        let found = driver
            .drive(runs)
            .await
            .unwrap()
            .outputs
            .remove(0)
            .0
            .unwrap();

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
