//! A statistic of derivatives at several points, a few rows at a time: the derived graph is the body
//! of a Loop that carries the sums, or stands in the graph itself where one turn does it. Sums are
//! float32; a variance by Welford's update, turn by turn.

use std::collections::HashMap;

use super::{MAP, Open, Saliency, Sample, Samples, Statistic, seed, with_rows};
use crate::{
    autodiff::{
        DeriveError, Unsupported,
        emit::{Emitter, attributes},
        spec::DeriveSpec,
    },
    onnx::{
        OnnxError,
        graph::{Dim, Element, Graph, Literal, Node, ValueInfo, ValueType},
        passes::{self, Lowered},
        write::subgraph,
    },
};

/// The graph, its map `[1, …]`, and the nodes of the body that need opset 18.
pub(super) fn statistic(
    derived: &dyn Fn(&DeriveSpec) -> Result<Graph, DeriveError>,
    samples: &Samples,
    saliency: &Saliency,
) -> Result<(Emitter, String, Vec<String>), DeriveError> {
    let Open { mut emit, input } = Open::of(with_rows(derived(&DeriveSpec::forward())?, 1))?;
    let seed = seed::seed(&mut emit, &saliency.target)?;
    emit.set_scope("samples".into());
    let x = emit.cast(&input, Element::Float)?;
    let sigma = match &samples.noise {
        Some(noise) => Some(deviation(&mut emit, &x, noise.level)?),
        None => None,
    };
    let newer = match passes::lower(emit.graph.clone())? {
        Lowered::Older(_) => Vec::new(),
        Lowered::Needed { nodes, .. } => nodes,
    };
    let mut body = Body::of(derived(&saliency.spec)?, samples)?;
    let (x, seed) = (body.takes(&emit, &x)?, body.takes(&emit, &seed)?);
    let sigma = sigma.map(|sigma| body.takes(&emit, &sigma)).transpose()?;
    let way = body.make_points(&x, sigma.as_deref())?;
    let shape = [
        Dim::Known(body.rows),
        body.open.emit.shape(&seed)?[1].clone(),
    ];
    let seed = body.open.emit.expand(&seed, &shape)?;
    body.open.give("seed", &seed);
    let sums: Vec<String> = match samples.statistic {
        Statistic::Variance => vec![zeros(&mut emit, &input)?, zeros(&mut emit, &input)?],
        _ => vec![zeros(&mut emit, &input)?],
    };
    let carried = sums
        .iter()
        .map(|sum| body.takes(&emit, sum))
        .collect::<Result<Vec<_>, _>>()?;
    let next = body.add(way.as_deref(), &carried)?;
    let turns = samples.points.len().div_ceil(body.rows);
    let (fragment, newer) = body.close(&next, newer)?;
    let ends = match fragment.turn {
        Some(_) => fragment.repeat(&mut emit, turns, &sums, &carried, &next)?,
        None => fragment.inline(&mut emit, &next)?,
    };
    emit.set_scope(MAP.into());
    let map = match (samples.statistic, ends.last()) {
        (Statistic::Variance, Some(spread)) => {
            emit.scale(spread, (1.0 / samples.points.len() as f64) as f32)?
        }
        _ => ends[0].clone(),
    };
    Ok((emit, map, newer))
}

/// level (max x - min x), with as many axes as x.
fn deviation(emit: &mut Emitter, x: &str, level: f64) -> Result<String, DeriveError> {
    let axes: Vec<usize> = (0..emit.shape(x)?.len()).collect();
    let high = emit.reduce("ReduceMax", x, &axes)?;
    let low = emit.reduce("ReduceMin", x, &axes)?;
    let range = emit.binary("Sub", &high, &low)?;
    emit.scale(&range, level as f32)
}

fn zeros(emit: &mut Emitter, like: &str) -> Result<String, DeriveError> {
    let like = emit.cast(like, Element::Float)?;
    emit.zeros_like(&like)
}

/// The derived graph with what makes its points and adds up its derivatives.
struct Body<'a> {
    open: Open,
    samples: &'a Samples,
    /// Points of a turn.
    rows: usize,
    /// The number of the turn, where there are several.
    turn: Option<String>,
    /// Values of the graph around it, by the names that they have here.
    outer: HashMap<String, String>,
}

impl<'a> Body<'a> {
    fn of(derived: Graph, samples: &'a Samples) -> Result<Self, DeriveError> {
        let rows = match derived.inputs[0].value_type.shape[0] {
            Dim::Symbol(_) => samples.rows.min(samples.points.len()),
            Dim::Known(1) => 1,
            Dim::Known(rows) => {
                return Err(DeriveError::FixedBatch {
                    input: derived.inputs[0].name.clone(),
                    rows,
                    node: None,
                });
            }
        };
        let nested = derived
            .nodes
            .iter()
            .filter(|node| !node.captured().is_empty());
        let reason = "control flow cannot stand in a Loop here: export the model without it";
        let nested: Vec<_> = nested
            .map(|node| Unsupported::new(node, &derived, reason.to_owned()))
            .collect();
        if !nested.is_empty() {
            return Err(DeriveError::Unsupported { nodes: nested });
        }
        let mut open = Open::of(with_rows(derived, rows))?;
        open.emit.set_scope("samples".into());
        let turn = (rows < samples.points.len()).then(|| {
            let name = open.emit.fresh("turn");
            let value_type = ValueType::new(Element::Int64, Vec::new());
            open.emit.add_input(ValueInfo { name, value_type })
        });
        Ok(Self {
            open,
            samples,
            rows,
            turn,
            outer: HashMap::new(),
        })
    }

    /// The name here of a value of the graph around it.
    fn takes(&mut self, around: &Emitter, value: &str) -> Result<String, DeriveError> {
        let value_type = around.value_type(value)?;
        let name = self.open.emit.fresh("around");
        self.outer.insert(name.clone(), value.to_owned());
        Ok(self.open.emit.add_input(ValueInfo { name, value_type }))
    }

    /// The points of each turn; the last one fills the last turn up.
    fn turns(&self) -> impl Iterator<Item = Vec<Option<&'a Sample>>> + use<'a> {
        let rows = self.rows;
        self.samples.points.chunks(rows).map(move |turn| {
            let points = turn.iter().map(Some).chain(std::iter::repeat(None));
            points.take(rows).collect()
        })
    }

    /// A number for each point of this turn, `[rows, 1, …]` with `rank` axes. Points that fill up
    /// have 0.
    fn numbers(
        &mut self,
        rank: usize,
        number: impl Fn(&Sample, usize) -> f64,
    ) -> Result<String, DeriveError> {
        let mut values = Vec::new();
        for turn in self.turns() {
            let count = turn.iter().flatten().count();
            values.extend(
                turn.iter()
                    .map(|point| point.map_or(0.0, |point| number(point, count)) as f32),
            );
        }
        let mut shape = vec![1; rank + 1];
        (shape[0], shape[1]) = (values.len() / self.rows, self.rows);
        self.of_turn(Literal::from_f32s(&shape, &values))
    }

    /// A number for each turn, with `rank` axes.
    fn number_of_turn(
        &mut self,
        rank: usize,
        number: impl Fn(f64, f64) -> f64,
    ) -> Result<String, DeriveError> {
        let (mut before, mut values) = (0.0, Vec::new());
        for turn in self.turns() {
            let count = turn.iter().flatten().count() as f64;
            values.push(number(before, count) as f32);
            before += count;
        }
        let mut shape = vec![1; rank + 1];
        shape[0] = values.len();
        self.of_turn(Literal::from_f32s(&shape, &values))
    }

    /// The row of a table for this turn.
    fn of_turn(&mut self, table: Literal) -> Result<String, DeriveError> {
        let emit = &mut self.open.emit;
        let Some(turn) = &self.turn else {
            let row = Literal {
                shape: table.shape[1..].to_vec(),
                ..table
            };
            return Ok(emit.constant(row));
        };
        let shape = table.shape[1..].iter().map(|&size| size.into()).collect();
        let row = ValueType::new(table.element, shape);
        let table = emit.constant(table);
        Ok(emit.node(
            "Gather",
            &[&table, turn],
            attributes([("axis", 0.into())]),
            row,
        ))
    }

    /// The rows of `stack` that the points of this turn name; itself where it has one row alone.
    fn picked(
        &mut self,
        stack: &Literal,
        place: impl Fn(&Sample) -> usize,
    ) -> Result<String, DeriveError> {
        let emit = &mut self.open.emit;
        let (rows, value_type) = (self.rows, stack.value_type());
        let all = emit.constant(stack.clone());
        if stack.shape[0] == 1 {
            return Ok(all);
        }
        let places = self.samples.points.iter().map(|point| place(point) as i64);
        let mut places: Vec<i64> = places.collect();
        places.resize(
            places.len().next_multiple_of(rows),
            places.last().copied().unwrap_or(0),
        );
        let places = self.of_turn(Literal::from_i64s(&[places.len() / rows, rows], &places))?;
        let mut picked = value_type;
        picked.shape[0] = rows.into();
        let emit = &mut self.open.emit;
        Ok(emit.node(
            "Gather",
            &[&all, &places],
            attributes([("axis", 0.into())]),
            picked,
        ))
    }

    /// Makes the points and gives them to the derived graph; returns e - b, where it counts.
    fn make_points(&mut self, x: &str, sigma: Option<&str>) -> Result<Option<String>, DeriveError> {
        let samples = self.samples;
        let rank = self.open.emit.shape(x)?.len();
        let mut end = x.to_owned();
        if let (Some(noise), Some(sigma)) = (&samples.noise, sigma) {
            let drawn = self.picked(&noise.deviates, |point| point.noise)?;
            let emit = &mut self.open.emit;
            let moved = emit.mul(sigma, &drawn)?;
            end = emit.add(x, &moved)?;
        }
        let (mut at, mut way) = (end.clone(), None);
        if let Some(baselines) = &samples.baselines {
            let start = self.picked(baselines, |point| point.baseline)?;
            let alpha = self.numbers(rank, |point, _| point.alpha)?;
            let rest = self.numbers(rank, |point, _| 1.0 - point.alpha)?;
            let emit = &mut self.open.emit;
            let (towards, from) = (emit.mul(&alpha, &end)?, emit.mul(&rest, &start)?);
            at = emit.add(&towards, &from)?;
            if samples.statistic == Statistic::SumOfWays {
                way = Some(emit.binary("Sub", &end, &start)?);
            }
        }
        let input = self.open.input.clone();
        let taken = self.open.emit.value_type(&input)?;
        let emit = &mut self.open.emit;
        at = emit.expand(&at, &taken.shape)?;
        at = emit.cast(&at, taken.element)?;
        self.open.give(&input, &at);
        Ok(way)
    }

    /// The sums after this turn.
    fn add(&mut self, way: Option<&str>, sums: &[String]) -> Result<Vec<String>, DeriveError> {
        let samples = self.samples;
        let cotangent = self.open.output(2)?;
        let g = self.open.emit.cast(&cotangent, Element::Float)?;
        let rank = self.open.emit.shape(&g)?.len();
        if samples.statistic == Statistic::Variance {
            return self.spread(&g, rank, sums);
        }
        let emit = &mut self.open.emit;
        let term = match (samples.statistic, way) {
            (Statistic::SumOfSquares, _) => emit.mul(&g, &g)?,
            (_, Some(way)) => emit.mul(way, &g)?,
            _ => g,
        };
        let weight = self.numbers(rank, |point, _| point.weight)?;
        let emit = &mut self.open.emit;
        let weighted = emit.mul(&weight, &term)?;
        let sum = emit.reduce_sum(&weighted, &[0])?;
        Ok(vec![emit.add(&sums[0], &sum)?])
    }

    /// The mean, and the sum of squared distances to it, of the points so far.
    fn spread(
        &mut self,
        g: &str,
        rank: usize,
        sums: &[String],
    ) -> Result<Vec<String>, DeriveError> {
        let share = self.numbers(rank, |_, count| 1.0 / count as f64)?;
        let counts = self.numbers(rank, |_, _| 1.0)?;
        let step = self.number_of_turn(rank, |before, count| count / (before + count))?;
        let weight =
            self.number_of_turn(rank, |before, count| before * count / (before + count))?;
        let emit = &mut self.open.emit;
        let shared = emit.mul(&share, g)?;
        let mean = emit.reduce_sum(&shared, &[0])?;
        let distance = emit.binary("Sub", g, &mean)?;
        let square = emit.mul(&distance, &distance)?;
        let counted = emit.mul(&counts, &square)?;
        let own = emit.reduce_sum(&counted, &[0])?;
        let gap = emit.binary("Sub", &mean, &sums[0])?;
        let moved = emit.mul(&step, &gap)?;
        let square = emit.mul(&gap, &gap)?;
        let apart = emit.mul(&weight, &square)?;
        let both = emit.add(&own, &apart)?;
        Ok(vec![
            emit.add(&sums[0], &moved)?,
            emit.add(&sums[1], &both)?,
        ])
    }

    /// What of it computes `next`, and the nodes that need opset 18: those of the graph around it
    /// are `newer`.
    fn close(
        self,
        next: &[String],
        newer: Vec<String>,
    ) -> Result<(Fragment, Vec<String>), DeriveError> {
        let Self {
            open, turn, outer, ..
        } = self;
        let emit = open.emit;
        let output = |name: &String| {
            let value_type = emit.value_type(name)?;
            Ok::<_, DeriveError>(ValueInfo {
                name: name.clone(),
                value_type,
            })
        };
        let outputs = next.iter().map(output).collect::<Result<_, _>>()?;
        let mut graph = emit.graph;
        graph.outputs = outputs;
        passes::sort(&mut graph).map_err(|fault| OnnxError::Model(vec![fault]))?;
        let graph = passes::run(&[passes::prune, passes::dedup], graph)?;
        let (graph, newer) = match newer.is_empty() {
            true => match passes::lower(graph)? {
                Lowered::Older(graph) => (graph, newer),
                Lowered::Needed { graph, nodes } => (graph, nodes),
            },
            false => (graph, newer),
        };
        let fragment = Fragment { graph, turn, outer };
        Ok((fragment, newer))
    }
}

/// Nodes that stand in another graph.
struct Fragment {
    graph: Graph,
    turn: Option<String>,
    outer: HashMap<String, String>,
}

impl Fragment {
    /// Gives its values names that the graph around it has not, and its constants to that graph,
    /// which may have them already.
    fn move_into(self, emit: &mut Emitter) -> Moved {
        let taken = emit.graph.value_names();
        let mut prefix = "sample/".to_owned();
        while taken.iter().any(|name| name.starts_with(&prefix)) {
            prefix.insert(0, '_');
        }
        let mut moved = Moved {
            nodes: self.graph.nodes,
            names: self.outer,
            prefix,
        };
        for (name, literal) in self.graph.initializers {
            let is_there = emit.graph.initializers.get(&name) == Some(&literal);
            if is_there {
                moved.names.insert(name.clone(), name);
            } else {
                let own = moved.name(&name);
                emit.graph.initializers.insert(own, literal);
            }
        }
        for mut node in std::mem::take(&mut moved.nodes) {
            node.name = format!("{}{}", moved.prefix, node.label());
            let values = node.inputs.iter_mut().chain(&mut node.outputs);
            values
                .filter(|value| !value.is_empty())
                .for_each(|value| *value = moved.name(value));
            moved.nodes.push(node);
        }
        moved
    }

    /// In the graph itself. Returns its outputs.
    fn inline(self, emit: &mut Emitter, next: &[String]) -> Result<Vec<String>, DeriveError> {
        let outputs = self.graph.outputs.clone();
        let mut moved = self.move_into(emit);
        emit.graph.nodes.append(&mut moved.nodes);
        let ends = next.iter().zip(outputs).map(|(value, output)| {
            let own = moved.name(value);
            emit.declare(&own, output.value_type);
            own
        });
        Ok(ends.collect())
    }

    /// As the body of a Loop with `sums` before its first turn. Returns the sums after its last.
    fn repeat(
        mut self,
        emit: &mut Emitter,
        turns: usize,
        sums: &[String],
        carried: &[String],
        next: &[String],
    ) -> Result<Vec<String>, DeriveError> {
        let outputs = self.graph.outputs.iter();
        let types: Vec<ValueType> = outputs.map(|output| output.value_type.clone()).collect();
        let turn = self.turn.clone().unwrap_or_default();
        // What is carried is an input of the body.
        self.outer.retain(|name, _| !carried.contains(name));
        let mut moved = self.move_into(emit);
        let value = |name: String, value_type: ValueType| ValueInfo { name, value_type };
        let truth = || ValueType::new(Element::Bool, Vec::new());
        let (goes_on, stays) = (moved.name("goes_on"), moved.name("goes_on/same"));
        moved
            .nodes
            .push(Node::new("Identity", [goes_on.clone()], [stays.clone()]));
        let mut inputs = vec![
            value(
                moved.name(&turn),
                ValueType::new(Element::Int64, Vec::new()),
            ),
            value(goes_on, truth()),
        ];
        let mut outputs = vec![value(stays, truth())];
        for ((carried, next), value_type) in carried.iter().zip(next).zip(&types) {
            inputs.push(value(moved.name(carried), value_type.clone()));
            outputs.push(value(moved.name(next), value_type.clone()));
        }
        let body = Graph {
            name: "sample".into(),
            inputs,
            outputs,
            nodes: moved.nodes,
            ..Graph::default()
        };
        let count = emit.constant(Literal::scalar_i64(turns as i64));
        let first = emit.constant(Literal::from_bools(&[], &[true]));
        let given: Vec<&str> = [count.as_str(), first.as_str()]
            .into_iter()
            .chain(sums.iter().map(String::as_str))
            .collect();
        let body = attributes([("body", subgraph("body", &body))]);
        Ok(emit.node_with_outputs("Loop", &given, body, types))
    }
}

/// Nodes with names of their own.
struct Moved {
    nodes: Vec<Node>,
    /// Old names and new ones.
    names: HashMap<String, String>,
    prefix: String,
}

impl Moved {
    fn name(&mut self, old: &str) -> String {
        let own = self.names.entry(old.to_owned());
        own.or_insert_with(|| format!("{}{old}", self.prefix))
            .clone()
    }
}
