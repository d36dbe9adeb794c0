//! Asks of several runs, merged: a point that several of them want is evaluated once, by the graph
//! with all the rule sets they want. Points are the same when their inputs and seeds hold the same
//! numbers. A graph has one head, one rule for the seed and one choice of pattern layers: asks that
//! differ there are evaluated apart. A point without a seed needs no way back: the forward graph
//! answers it.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use crate::engine::{Point, Row};
use onnx_autodiff::autodiff::spec::{DeriveSpec, RuleSetId};

/// What one run waits for.
#[derive(Debug)]
pub struct Ask {
    pub spec: DeriveSpec,
    pub points: Vec<Point>,
}

/// Different points for one graph.
#[derive(Debug)]
pub struct Batch {
    pub spec: DeriveSpec,
    pub points: Vec<Point>,
    /// Who gets each point's row: places of an ask, and of a point in it.
    takers: Vec<Vec<(usize, usize)>>,
}

impl Batch {
    /// Whether a row of this batch goes to the ask at this place.
    pub fn serves(&self, ask: usize) -> bool {
        self.takers.iter().flatten().any(|taker| taker.0 == ask)
    }
}

struct Merged {
    spec: DeriveSpec,
    point: Point,
    takers: Vec<(usize, usize)>,
}

/// Batches that answer all asks, each different point once.
pub fn merge(asks: &[Ask]) -> Vec<Batch> {
    let mut merged: Vec<Merged> = Vec::new();
    let mut places: HashMap<u64, Vec<usize>> = HashMap::new();
    let forward = DeriveSpec::forward();
    for (ask, Ask { spec, points }) in asks.iter().enumerate() {
        for (index, point) in points.iter().enumerate() {
            let spec = if point.seed.is_empty() {
                &forward
            } else {
                spec
            };
            let alike = places.entry(fingerprint(point)).or_default();
            let joined = alike.iter().copied().find_map(|at| {
                let other: &mut Merged = &mut merged[at];
                let union = unite(&other.spec, spec).filter(|_| same(&other.point, point))?;
                other.spec = union;
                other.takers.push((ask, index));
                Some(())
            });
            if joined.is_none() {
                alike.push(merged.len());
                merged.push(Merged {
                    spec: spec.clone(),
                    point: point.clone(),
                    takers: vec![(ask, index)],
                });
            }
        }
    }
    let mut batches: Vec<Batch> = Vec::new();
    for Merged {
        spec,
        point,
        takers,
    } in merged
    {
        match batches.iter_mut().find(|batch| batch.spec == spec) {
            Some(batch) => {
                batch.points.push(point);
                batch.takers.push(takers);
            }
            None => batches.push(Batch {
                spec,
                points: vec![point],
                takers: vec![takers],
            }),
        }
    }
    batches
}

/// The rows of each ask, in the order of its points, from the rows of each batch; an ask whose rows
/// are not all there gets fewer.
pub fn deal(asks: &[Ask], batches: &[Batch], rows: Vec<Vec<Row>>) -> Vec<Vec<Row>> {
    let mut dealt: Vec<Vec<Option<Row>>> = asks
        .iter()
        .map(|ask| vec![None; ask.points.len()])
        .collect();
    for (batch, rows) in batches.iter().zip(rows) {
        for (takers, row) in batch.takers.iter().zip(rows) {
            if let [(ask, index)] = takers[..]
                && asks[ask].spec == batch.spec
            {
                dealt[ask][index] = Some(row);
                continue;
            }
            for &(ask, index) in takers {
                dealt[ask][index] =
                    Some(part(&row, &batch.spec.rule_sets, &asks[ask].spec.rule_sets));
            }
        }
    }
    dealt
        .into_iter()
        .map(|rows| rows.into_iter().flatten().collect())
        .collect()
}

/// The row as the graph with the rule sets `wanted` would have given it.
fn part(row: &Row, evaluated: &[RuleSetId], wanted: &[RuleSetId]) -> Row {
    let cotangent = |set: &RuleSetId| {
        row.cotangents
            .get(evaluated.iter().position(|other| other == set)?)
            .cloned()
    };
    Row {
        logits: row.logits.clone(),
        probabilities: row.probabilities.clone(),
        cotangents: wanted.iter().filter_map(cotangent).collect(),
        activation: row.activation.clone(),
    }
}

/// The graph that answers both specs; none when no single graph does.
fn unite(one: &DeriveSpec, other: &DeriveSpec) -> Option<DeriveSpec> {
    let patterned = |spec: &DeriveSpec| spec.rule_sets.iter().any(|set| set.needs_patterns());
    let fits = one.wrt == other.wrt
        && one.head == other.head
        && one.seed == other.seed
        && (one.pattern_layers == other.pattern_layers || !patterned(one) || !patterned(other));
    let layers = if patterned(one) { one } else { other };
    fits.then(|| DeriveSpec {
        rule_sets: one
            .rule_sets
            .iter()
            .chain(&other.rule_sets)
            .copied()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
        pattern_layers: layers.pattern_layers.clone(),
        ..one.clone()
    })
}

fn same(one: &Point, other: &Point) -> bool {
    one.seed == other.seed && (Arc::ptr_eq(&one.input, &other.input) || one.input == other.input)
}

/// Equal for equal points; looks at few of their numbers.
fn fingerprint(point: &Point) -> u64 {
    const LOOKS: usize = 64;
    let mut hasher = DefaultHasher::new();
    for (class, weight) in point.seed.iter() {
        (class, weight.to_bits()).hash(&mut hasher);
    }
    let step = (point.input.len() / LOOKS).max(1);
    // Zero has two spellings.
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
    use crate::{methods::twins::tensor, tensor::Tensor};
    use RuleSetId::{Gradient, GuidedBackprop, PatternAttribution, PatternNet};
    use onnx_autodiff::autodiff::spec::{Head, PatternLayers, SeedRule, Wrt};

    fn spec(rule_sets: &[RuleSetId]) -> DeriveSpec {
        DeriveSpec {
            rule_sets: rule_sets.to_vec(),
            wrt: Wrt::Input,
            head: Head::Logits,
            seed: SeedRule::One,
            pattern_layers: PatternLayers::All,
        }
    }

    fn point(value: f32, class: usize) -> Point {
        Point {
            input: tensor([value, 1.0, -0.0]),
            seed: Arc::new([(class, 1.0)]),
        }
    }

    /// A row that says which point and which rule set it comes from.
    fn evaluate(batch: &Batch) -> Vec<Row> {
        let cotangent = |point: &Point, set: &RuleSetId| -> Tensor {
            point.input.mapv(|v| 10.0 * v + *set as u8 as f32)
        };
        let row = |point: &Point| Row {
            logits: point.input.iter().copied().collect(),
            probabilities: Vec::new(),
            cotangents: batch
                .spec
                .rule_sets
                .iter()
                .map(|set| cotangent(point, set))
                .collect(),
            activation: None,
        };
        batch.points.iter().map(row).collect()
    }

    #[test]
    fn a_point_without_a_seed_goes_through_the_forward_graph() {
        let seedless = Point {
            seed: Arc::new([]),
            ..point(1.0, 0)
        };
        let asks = [Ask {
            spec: spec(&[Gradient]),
            points: vec![seedless, point(2.0, 0)],
        }];
        let batches = merge(&asks);
        let sets: Vec<_> = batches
            .iter()
            .map(|batch| (batch.spec.rule_sets.clone(), batch.points.len()))
            .collect();
        assert_eq!(sets, [(vec![], 1), (vec![Gradient], 1)]);
        let dealt = deal(&asks, &batches, batches.iter().map(evaluate).collect());
        assert_eq!(
            dealt[0]
                .iter()
                .map(|row| (row.logits[0], row.cotangents.len()))
                .collect::<Vec<_>>(),
            [(1.0, 0), (2.0, 1)]
        );
    }

    #[test]
    fn a_point_that_several_want_is_evaluated_once_and_each_gets_its_own_rule_sets() {
        let asks = [
            Ask {
                spec: spec(&[Gradient]),
                points: vec![point(1.0, 0), point(2.0, 0), point(3.0, 0)],
            },
            Ask {
                spec: spec(&[PatternAttribution, Gradient]),
                points: vec![point(2.0, 0), point(2.0, 1)],
            },
            Ask {
                spec: spec(&[GuidedBackprop]),
                points: vec![point(3.0, 0), point(3.0, 0)],
            },
        ];
        let batches = merge(&asks);
        assert_eq!(
            batches
                .iter()
                .map(|batch| batch.points.len())
                .sum::<usize>(),
            4
        );
        let sets: Vec<_> = batches
            .iter()
            .map(|batch| batch.spec.rule_sets.clone())
            .collect();
        let expected = [
            vec![Gradient],
            vec![Gradient, PatternAttribution],
            vec![Gradient, GuidedBackprop],
            vec![PatternAttribution, Gradient],
        ];
        assert_eq!(sets, expected);
        let dealt = deal(&asks, &batches, batches.iter().map(evaluate).collect());
        for (ask, rows) in asks.iter().zip(dealt) {
            let alone = Batch {
                spec: ask.spec.clone(),
                points: ask.points.clone(),
                takers: Vec::new(),
            };
            let expected = evaluate(&alone);
            assert_eq!(rows.len(), expected.len());
            for (row, expected) in rows.iter().zip(&expected) {
                assert_eq!(
                    (&row.logits, &row.cotangents),
                    (&expected.logits, &expected.cotangents)
                );
            }
        }
    }

    #[test]
    fn graphs_that_differ_in_more_than_rule_sets_stay_apart() {
        let base = spec(&[PatternAttribution]);
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
                wrt: Wrt::Activation("a".into()),
                ..base.clone()
            },
            DeriveSpec {
                pattern_layers: PatternLayers::Inner,
                rule_sets: vec![PatternNet],
                ..base.clone()
            },
        ];
        for other in others {
            let asks = [base.clone(), other].map(|spec| Ask {
                spec,
                points: vec![point(1.0, 0)],
            });
            assert_eq!(merge(&asks).len(), 2);
        }
        // Pattern layers say nothing of a rule set without patterns.
        let inner = DeriveSpec {
            pattern_layers: PatternLayers::Inner,
            ..base
        };
        let asks = [spec(&[Gradient]), inner].map(|spec| Ask {
            spec,
            points: vec![point(1.0, 0)],
        });
        let batches = merge(&asks);
        assert_eq!(
            (batches.len(), &batches[0].spec.pattern_layers),
            (1, &PatternLayers::Inner)
        );
    }
}
