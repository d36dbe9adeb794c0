//! Coalesces the queries of several runs: a point that occurs in several of them is evaluated once,
//! by a graph with all rule sets and outputs that they ask for. Points are equal if their inputs
//! and seeds are. Queries are not combined if they differ in model, `wrt`, head, seed rule or
//! pattern layers. A point without a seed needs no backward pass: the forward graph evaluates it.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use crate::engine::{GraphKey, Point, Row};
use onnx_autodiff::autodiff::spec::{DeriveSpec, RuleSetId};

/// The rows that one run waits for.
#[derive(Debug)]
pub(super) struct Query {
    pub graph: GraphKey,
    pub points: Vec<Point>,
}

/// Distinct points for one graph.
#[derive(Debug)]
pub(super) struct Batch {
    pub graph: GraphKey,
    pub points: Vec<Point>,
    /// For each point, where its row goes: (index of the query, index of the point in it).
    takers: Vec<Vec<(usize, usize)>>,
}

impl Batch {
    /// Whether a row of this batch goes to the query of this index.
    pub(super) fn serves(&self, query: usize) -> bool {
        self.takers.iter().flatten().any(|taker| taker.0 == query)
    }
}

/// Batches that answer all queries and contain each distinct point once.
pub(super) fn merge(queries: &[Query]) -> Vec<Batch> {
    let mut merged: Vec<Merged> = Vec::new();
    let mut alike: HashMap<u64, Vec<usize>> = HashMap::new();
    for (query, Query { graph, points }) in queries.iter().enumerate() {
        for (index, point) in points.iter().enumerate() {
            let graph = match point.seed.is_empty() {
                true => &forward(graph),
                false => graph,
            };
            let alike = alike.entry(fingerprint(point)).or_default();
            let joined = alike.iter().copied().find_map(|at| {
                let other: &mut Merged = &mut merged[at];
                other.graph = union(&other.graph, graph).filter(|_| same(&other.point, point))?;
                other.takers.push((query, index));
                Some(())
            });
            if joined.is_none() {
                alike.push(merged.len());
                merged.push(Merged {
                    graph: graph.clone(),
                    point: point.clone(),
                    takers: vec![(query, index)],
                });
            }
        }
    }
    let mut batches: Vec<Batch> = Vec::new();
    for Merged {
        graph,
        point,
        takers,
    } in merged
    {
        match batches.iter_mut().find(|batch| batch.graph == graph) {
            Some(batch) => {
                batch.points.push(point);
                batch.takers.push(takers);
            }
            None => batches.push(Batch {
                graph,
                points: vec![point],
                takers: vec![takers],
            }),
        }
    }
    batches
}

struct Merged {
    graph: GraphKey,
    point: Point,
    takers: Vec<(usize, usize)>,
}

/// The rows of each query, in the order of its points, from the rows of each batch. Missing rows
/// are left out.
pub(super) fn distribute(
    queries: &[Query],
    batches: &[Batch],
    rows: Vec<Vec<Row>>,
) -> Vec<Vec<Row>> {
    let mut found: Vec<Vec<Option<Row>>> = queries
        .iter()
        .map(|query| vec![None; query.points.len()])
        .collect();
    for (batch, rows) in batches.iter().zip(rows) {
        for (takers, row) in batch.takers.iter().zip(rows) {
            if let [(query, index)] = takers[..]
                && queries[query].graph.spec == batch.graph.spec
            {
                found[query][index] = Some(row);
                continue;
            }
            for &(query, index) in takers {
                let Query { graph, points } = &queries[query];
                let wanted = match points[index].seed.is_empty() {
                    true => &forward(graph).spec,
                    false => &graph.spec,
                };
                found[query][index] = Some(project(&row, &batch.graph.spec, wanted));
            }
        }
    }
    found
        .into_iter()
        .map(|rows| rows.into_iter().flatten().collect())
        .collect()
}

/// The forward graph with the same outputs.
fn forward(graph: &GraphKey) -> GraphKey {
    let spec = DeriveSpec {
        outputs: graph.spec.outputs.clone(),
        ..DeriveSpec::forward()
    };
    GraphKey::new(graph.model.clone(), spec)
}

/// The part of a row that the graph `wanted` would have given.
fn project(row: &Row, evaluated: &DeriveSpec, wanted: &DeriveSpec) -> Row {
    let cotangents = |set: &RuleSetId| {
        let at = evaluated.rule_sets.iter().position(|other| other == set)?;
        let count = evaluated.wrt.len();
        row.cotangents.get(at * count..(at + 1) * count)
    };
    let activation = |value: &String| {
        let at = evaluated.outputs.iter().position(|other| other == value)?;
        row.activations.get(at)
    };
    Row {
        logits: row.logits.clone(),
        probabilities: row.probabilities.clone(),
        cotangents: wanted
            .rule_sets
            .iter()
            .filter_map(cotangents)
            .flatten()
            .cloned()
            .collect(),
        activations: wanted
            .outputs
            .iter()
            .filter_map(activation)
            .cloned()
            .collect(),
    }
}

/// A graph that answers both; `None` if no single graph does.
fn union(one: &GraphKey, other: &GraphKey) -> Option<GraphKey> {
    if !Arc::ptr_eq(&one.model, &other.model) {
        return None;
    }
    let model = one.model.clone();
    let (one, other) = (&one.spec, &other.spec);
    let patterned = |spec: &DeriveSpec| spec.rule_sets.iter().any(|set| set.needs_patterns());
    let relevant = |spec: &DeriveSpec| spec.rule_sets.contains(&RuleSetId::Lrp);
    let fits = one.wrt == other.wrt
        && one.head == other.head
        && one.seed == other.seed
        && (one.pattern_layers == other.pattern_layers || !patterned(one) || !patterned(other))
        && (one.lrp == other.lrp || !relevant(one) || !relevant(other));
    let layers = if patterned(one) { one } else { other };
    let rules = if relevant(one) { one } else { other };
    let rule_sets = one.rule_sets.iter().chain(&other.rule_sets).copied();
    let more = other
        .outputs
        .iter()
        .filter(|value| !one.outputs.contains(value));
    fits.then(|| {
        let spec = DeriveSpec {
            rule_sets: BTreeSet::from_iter(rule_sets).into_iter().collect(),
            outputs: one.outputs.iter().chain(more).cloned().collect(),
            pattern_layers: layers.pattern_layers.clone(),
            lrp: rules.lrp.clone(),
            ..one.clone()
        };
        GraphKey::new(model, spec)
    })
}

pub(super) fn same(one: &Point, other: &Point) -> bool {
    one.seed == other.seed && (Arc::ptr_eq(&one.input, &other.input) || one.input == other.input)
}

/// A hash of the seed and of a sample of the input's elements.
fn fingerprint(point: &Point) -> u64 {
    const LOOKS: usize = 64;
    let mut hasher = DefaultHasher::new();
    for (class, weight) in point.seed.iter() {
        (class, weight.to_bits()).hash(&mut hasher);
    }
    let step = (point.input.len() / LOOKS).max(1);
    // Adding 0 maps -0 to 0: they are equal and have different bits.
    point
        .input
        .iter()
        .step_by(step)
        .for_each(|value| (value + 0.0).to_bits().hash(&mut hasher));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{methods::reference::tensor, model::Model, tensor::Tensor};
    use RuleSetId::{Gradient, GuidedBackprop, PatternAttribution, PatternNet};
    use onnx_autodiff::autodiff::spec::{Head, PatternLayers, SeedRule, Wrt};

    fn query(model: &Arc<Model>, spec: DeriveSpec, points: Vec<Point>) -> Query {
        Query {
            graph: GraphKey::new(model.clone(), spec),
            points,
        }
    }

    fn model() -> Arc<Model> {
        Arc::new(Model::bare("net", Arc::default()))
    }

    fn point(value: f32, class: usize) -> Point {
        Point {
            input: tensor([value, 1.0, -0.0]),
            seed: Arc::new([(class, 1.0)]),
        }
    }

    /// A row whose values identify its point and rule set.
    fn evaluate(batch: &Batch) -> Vec<Row> {
        let cotangent = |point: &Point, set: &RuleSetId| -> Tensor {
            point.input.mapv(|v| 10.0 * v + *set as u8 as f32)
        };
        let activation = |point: &Point, value: &String| -> Tensor {
            point
                .input
                .mapv(|v| 100.0 * v + f32::from(value.as_bytes()[0]))
        };
        let DeriveSpec {
            rule_sets, outputs, ..
        } = &batch.graph.spec;
        let row = |point: &Point| Row {
            logits: point.input.iter().copied().collect(),
            cotangents: rule_sets.iter().map(|set| cotangent(point, set)).collect(),
            activations: outputs
                .iter()
                .map(|value| activation(point, value))
                .collect(),
            ..Row::default()
        };
        batch.points.iter().map(row).collect()
    }

    #[test]
    fn a_point_without_a_seed_goes_through_the_forward_graph() {
        let seedless = Point {
            seed: Arc::new([]),
            ..point(1.0, 0)
        };
        let points = vec![seedless, point(2.0, 0)];
        let queries = [query(&model(), DeriveSpec::gradient(), points)];
        let batches = merge(&queries);
        let sets: Vec<_> = batches
            .iter()
            .map(|batch| (batch.graph.spec.rule_sets.clone(), batch.points.len()))
            .collect();
        assert_eq!(sets, [(vec![], 1), (vec![Gradient], 1)]);
        let dealt = distribute(&queries, &batches, batches.iter().map(evaluate).collect());
        assert_eq!(
            dealt[0]
                .iter()
                .map(|row| (row.logits[0], row.cotangents.len()))
                .collect::<Vec<_>>(),
            [(1.0, 0), (2.0, 1)]
        );
    }

    #[test]
    fn a_point_that_several_want_is_evaluated_once_and_each_gets_its_own_share() {
        let model = model();
        let with = |rule_sets: &[RuleSetId], outputs: &[&str]| DeriveSpec {
            outputs: outputs.iter().map(|value| (*value).to_owned()).collect(),
            ..DeriveSpec::of(rule_sets)
        };
        let queries = [
            query(
                &model,
                with(&[Gradient], &["a"]),
                vec![point(1.0, 0), point(2.0, 0), point(3.0, 0)],
            ),
            query(
                &model,
                with(&[PatternAttribution, Gradient], &["b", "a"]),
                vec![point(2.0, 0), point(2.0, 1)],
            ),
            query(
                &model,
                with(&[GuidedBackprop], &[]),
                vec![point(3.0, 0), point(3.0, 0)],
            ),
        ];
        let batches = merge(&queries);
        let specs: Vec<_> = batches
            .iter()
            .map(|batch| {
                assert_eq!(batch.points.len(), 1);
                (
                    batch.graph.spec.rule_sets.clone(),
                    batch.graph.spec.outputs.clone(),
                )
            })
            .collect();
        let values = |values: &[&str]| -> Vec<String> {
            values.iter().map(|value| (*value).to_owned()).collect()
        };
        let expected = [
            (vec![Gradient], values(&["a"])),
            (vec![Gradient, PatternAttribution], values(&["a", "b"])),
            (vec![Gradient, GuidedBackprop], values(&["a"])),
            (vec![PatternAttribution, Gradient], values(&["b", "a"])),
        ];
        assert_eq!(specs, expected);
        let found = distribute(&queries, &batches, batches.iter().map(evaluate).collect());
        for (query, rows) in queries.iter().zip(found) {
            let alone = Batch {
                graph: query.graph.clone(),
                points: query.points.clone(),
                takers: Vec::new(),
            };
            let expected = evaluate(&alone);
            assert_eq!(rows.len(), expected.len());
            for (row, expected) in rows.iter().zip(&expected) {
                assert_eq!(row.logits, expected.logits);
                assert_eq!(row.cotangents, expected.cotangents);
                assert_eq!(row.activations, expected.activations);
            }
        }
    }

    #[test]
    fn equal_points_of_two_models_are_evaluated_apart() {
        let (one, mut other) = (model(), model());
        let changed = Arc::make_mut(&mut other);
        changed.hash = "of other weights".to_owned();
        changed.graph = Arc::new(changed.graph.as_ref().clone());
        let queries =
            [one, other].map(|model| query(&model, DeriveSpec::gradient(), vec![point(1.0, 0)]));
        assert_eq!(merge(&queries).len(), 2);
    }

    #[test]
    fn graphs_that_differ_in_more_than_rule_sets_stay_apart() {
        let model = model();
        let base = DeriveSpec::of([PatternAttribution]);
        let others = [
            DeriveSpec {
                head: Head::Probabilities,
                ..base.clone()
            },
            DeriveSpec {
                seed: SeedRule::Value,
                ..base.clone()
            },
            DeriveSpec {
                wrt: vec![Wrt::Activation("a".into())],
                ..base.clone()
            },
            DeriveSpec {
                pattern_layers: PatternLayers::Inner,
                rule_sets: vec![PatternNet],
                ..base.clone()
            },
        ];
        for other in others {
            let queries =
                [base.clone(), other].map(|spec| query(&model, spec, vec![point(1.0, 0)]));
            assert_eq!(merge(&queries).len(), 2);
        }
        // Pattern layers do not matter to a rule set without patterns.
        let inner = DeriveSpec {
            pattern_layers: PatternLayers::Inner,
            ..base
        };
        let queries =
            [DeriveSpec::gradient(), inner].map(|spec| query(&model, spec, vec![point(1.0, 0)]));
        let batches = merge(&queries);
        assert_eq!(
            (batches.len(), &batches[0].graph.spec.pattern_layers),
            (1, &PatternLayers::Inner)
        );
    }
}
