//! GridSample of images by nearest neighbour, bilinear or bicubic interpolation, written with
//! GatherElements: each pixel of the result is a weighted sum of the pixels around the place that the
//! grid names.

use super::body::Body;
use super::{Context, Rewritten};
use crate::onnx::graph::{Dim, Element, Node};

/// The parameter of the cubic filter.
const CUBIC: f64 = -0.75;

pub(crate) fn grid_sample(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let typed = [0, 1].map(|at| node.input(at).and_then(|name| ctx.types.get(name)).cloned());
    let [Some(x), Some(grid)] = typed else {
        return Ok(vec![node]);
    };
    let filter = match node.string("mode").unwrap_or("linear") {
        "linear" | "bilinear" => Filter::Linear,
        "nearest" => Filter::Nearest,
        "cubic" | "bicubic" => Filter::Cubic,
        other => return Err(format!("mode {other} is not derived")),
    };
    let corners = node.int_or("align_corners", 0) != 0;
    let outside = match node.string("padding_mode").unwrap_or("zeros") {
        "zeros" => Outside::Zeros,
        "border" => Outside::Border,
        "reflection" => Outside::Mirror { corners },
        other => return Err(format!("padding_mode {other} is not derived")),
    };
    let sizes = |shape: &[Dim]| -> Option<Vec<i64>> {
        let sizes = shape
            .get(1..)?
            .iter()
            .map(|dim| dim.known().map(|size| size as i64));
        sizes.collect()
    };
    let (Some([channels, height, width]), Some([rows, columns, 2])) = (
        sizes(&x.shape)
            .as_deref()
            .and_then(|sizes| <[i64; 3]>::try_from(sizes).ok()),
        sizes(&grid.shape)
            .as_deref()
            .and_then(|sizes| <[i64; 3]>::try_from(sizes).ok()),
    ) else {
        return Err("only images of known size are sampled".into());
    };
    let mut body = Body::of(ctx, &node, x.element);
    let mut place = |axis: i64, size: i64| {
        let axis = body.index(axis);
        let gather = Node::new("Gather", [node.inputs[1].as_str(), &axis], []).with("axis", 3);
        let at = body.node(gather);
        // -1 and 1 are the centres of the outermost pixels, or their outer borders.
        let span = if corners { size - 1 } else { size } as f64 / 2.0;
        let scaled = body.scaled(&at, span);
        let middle = body.number((size - 1) as f64 / 2.0);
        let at = body.op("Add", [&scaled, &middle]);
        // The pixels that a cubic filter reads are brought inside one by one.
        match filter {
            Filter::Cubic => at,
            _ => body.inside(&at, size, outside),
        }
    };
    let (across, down) = (place(0, width), place(1, height));
    let steps =
        [(&down, height), (&across, width)].map(|(at, size)| body.steps(at, size, filter, outside));
    let flat = body.reshaped(&node.inputs[0], &[0, channels, height * width]);
    let whole = body.ints(&[1, channels, 1]);
    let line = body.number(width as f64);
    let mut sum: Option<String> = None;
    for (row, high) in &steps[0] {
        for (column, wide) in &steps[1] {
            let start = body.op("Mul", [row, &line]);
            let pixel = body.op("Add", [&start, column]);
            let pixel = body.cast(&pixel, Element::Int64);
            let pixel = body.reshaped(&pixel, &[0, 1, rows * columns]);
            let pixel = body.op("Expand", [&pixel, &whole]);
            let read = Node::new("GatherElements", [&flat, &pixel], []).with("axis", 2);
            let read = body.node(read);
            let part = match (high, wide) {
                (Some(high), Some(wide)) => {
                    let weight = body.op("Mul", [high, wide]);
                    let weight = body.reshaped(&weight, &[0, 1, rows * columns]);
                    body.op("Mul", [&read, &weight])
                }
                _ => read,
            };
            sum = Some(match sum {
                Some(sum) => body.op("Add", [&sum, &part]),
                None => part,
            });
        }
    }
    let result = body.reshaped(&sum.unwrap_or_default(), &[0, channels, rows, columns]);
    body.finish(&result)
}

#[derive(Clone, Copy)]
enum Filter {
    Nearest,
    Linear,
    /// Of Keys (1981), with a = -0.75.
    Cubic,
}

/// What stands in the place of pixels outside.
#[derive(Clone, Copy)]
enum Outside {
    Zeros,
    Border,
    /// The image mirrored at the centres of its outermost pixels, or at their outer borders.
    Mirror {
        corners: bool,
    },
}

impl Body<'_, '_> {
    /// `x` between 0 and `most`.
    fn clipped(&mut self, x: &str, most: f64) -> String {
        let (least, most) = (self.number(0.0), self.number(most));
        self.op("Clip", [x, &least, &most])
    }

    /// The place on an axis of `size` that is read for `at`; zeros are read nowhere.
    fn inside(&mut self, at: &str, size: i64, outside: Outside) -> String {
        let most = (size - 1) as f64;
        match outside {
            Outside::Zeros => at.to_owned(),
            Outside::Border => self.clipped(at, most),
            Outside::Mirror { corners } => {
                let (low, span) = match corners {
                    true => (0.0, most),
                    false => (-0.5, size as f64),
                };
                if span == 0.0 {
                    return self.scaled(at, 0.0);
                }
                let (low, round) = (self.number(low), self.number(2.0 * span));
                let from = self.op("Sub", [at, &low]);
                let from = self.op("Abs", [&from]);
                let there = self.node(Node::new("Mod", [&from, &round], []).with("fmod", 1));
                let back = self.op("Sub", [&round, &there]);
                let nearer = self.op("Min", [&there, &back]);
                let at = self.op("Add", [&nearer, &low]);
                self.clipped(&at, most)
            }
        }
    }

    /// The pixels around a place along an axis of `size`, each with its weight; none for 1.
    fn steps(
        &mut self,
        at: &str,
        size: i64,
        filter: Filter,
        outside: Outside,
    ) -> Vec<(String, Option<String>)> {
        let one = self.number(1.0);
        let mut found = Vec::new();
        match filter {
            Filter::Nearest => found.push((self.op("Round", [at]), None)),
            Filter::Linear | Filter::Cubic => {
                let first = self.op("Floor", [at]);
                let second = self.op("Add", [&first, &one]);
                let part = self.op("Sub", [at, &first]);
                let rest = self.op("Sub", [&one, &part]);
                if let Filter::Cubic = filter {
                    let before = self.op("Sub", [&first, &one]);
                    let last = self.op("Add", [&second, &one]);
                    found.extend([
                        (before, Some(self.cubic_tail(&part))),
                        (last, Some(self.cubic_tail(&rest))),
                    ]);
                    found.extend([
                        (first, Some(self.cubic_peak(&part))),
                        (second, Some(self.cubic_peak(&rest))),
                    ]);
                } else {
                    found.extend([(first, Some(rest)), (second, Some(part))]);
                }
            }
        }
        for (pixel, weight) in &mut found {
            let inside = match (filter, outside) {
                (Filter::Cubic, Outside::Border | Outside::Mirror { .. }) => {
                    self.inside(pixel, size, outside)
                }
                _ => self.clipped(pixel, (size - 1) as f64),
            };
            if let Outside::Zeros = outside {
                let same = self.op("Equal", [pixel, &inside]);
                let there = self.cast(&same, self.element());
                *weight = Some(match weight {
                    Some(weight) => self.op("Mul", [weight, &there]),
                    None => there,
                });
            }
            *pixel = inside;
        }
        found
    }

    /// The cubic filter's weight of a pixel at the distance x from 0 to 1: ((a + 2) x - (a + 3)) x² + 1.
    fn cubic_peak(&mut self, x: &str) -> String {
        self.polynomial(x, [1.0, 0.0, -(CUBIC + 3.0), CUBIC + 2.0])
    }

    /// That of a pixel at the distance 1 + x: a x (x - 1)².
    fn cubic_tail(&mut self, x: &str) -> String {
        self.polynomial(x, [0.0, CUBIC, -2.0 * CUBIC, CUBIC])
    }

    /// By Horner's rule, of coefficients from the lowest power.
    fn polynomial(&mut self, x: &str, coefficients: [f64; 4]) -> String {
        let [constant, linear, square, cube] = coefficients.map(|factor| self.number(factor));
        let mut sum = cube;
        for next in [square, linear, constant] {
            let product = self.op("Mul", [&sum, x]);
            sum = self.op("Add", [&product, &next]);
        }
        sum
    }
}
