//! GridSample of images by nearest neighbour or bilinear interpolation, written with GatherElements:
//! each pixel of the result is a weighted sum of the pixels around the place that the grid names.

use super::body::Body;
use super::{Context, Rewritten};
use crate::onnx::graph::{Dim, Element, Node};

pub(crate) fn grid_sample(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let typed = [0, 1].map(|at| node.input(at).and_then(|name| ctx.types.get(name)).cloned());
    let [Some(x), Some(grid)] = typed else {
        return Ok(vec![node]);
    };
    let nearest = match node.string("mode").unwrap_or("linear") {
        "linear" | "bilinear" => false,
        "nearest" => true,
        other => return Err(format!("mode {other} is not derived")),
    };
    let zeros = match node.string("padding_mode").unwrap_or("zeros") {
        "zeros" => true,
        "border" => false,
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
    let corners = node.int_or("align_corners", 0) != 0;
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
        match zeros {
            true => at,
            false => body.clipped(&at, (size - 1) as f64),
        }
    };
    let (across, down) = (place(0, width), place(1, height));
    let steps =
        [(&down, height), (&across, width)].map(|(at, size)| body.steps(at, size, nearest, zeros));
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
            let weight = body.op("Mul", [high, wide]);
            let weight = body.reshaped(&weight, &[0, 1, rows * columns]);
            let part = body.op("Mul", [&read, &weight]);
            sum = Some(match sum {
                Some(sum) => body.op("Add", [&sum, &part]),
                None => part,
            });
        }
    }
    let result = body.reshaped(&sum.unwrap_or_default(), &[0, channels, rows, columns]);
    body.finish(&result)
}

impl Body<'_, '_> {
    /// `x` between 0 and `most`.
    fn clipped(&mut self, x: &str, most: f64) -> String {
        let (least, most) = (self.number(0.0), self.number(most));
        self.op("Clip", [x, &least, &most])
    }

    /// The pixels around a place along an axis of `size`, each with its weight; `zeros` are the pixels
    /// outside.
    fn steps(&mut self, at: &str, size: i64, nearest: bool, zeros: bool) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let one = self.number(1.0);
        if nearest {
            let pixel = self.op("Round", [at]);
            found.push((pixel, one.clone()));
        } else {
            let first = self.op("Floor", [at]);
            let second = self.op("Add", [&first, &one]);
            let part = self.op("Sub", [at, &first]);
            let rest = self.op("Sub", [&one, &part]);
            found.extend([(first, rest), (second, part)]);
        }
        for (pixel, weight) in &mut found {
            let inside = self.clipped(pixel, (size - 1) as f64);
            if zeros {
                let same = self.op("Equal", [pixel, &inside]);
                let there = self.cast(&same, self.element());
                *weight = self.op("Mul", [weight, &there]);
            }
            *pixel = inside;
        }
        found
    }
}
