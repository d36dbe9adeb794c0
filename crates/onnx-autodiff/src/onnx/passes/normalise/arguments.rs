//! Attributes of older opsets that opset 18 takes as inputs, and renamed ops.

use std::collections::HashSet;

use super::{Rewriter, Rewritten, without};
use crate::onnx::graph::{Attribute, Element, Literal, Node};

impl Rewriter {
    /// Puts `literal` at input `index`, filling absent inputs before it.
    fn set_input(&mut self, node: &mut Node, index: usize, role: &str, literal: Literal) {
        let name = self.constant(node, role, literal);
        if node.inputs.len() <= index {
            node.inputs.resize(index + 1, String::new());
        }
        node.inputs[index] = name;
    }

    /// Moves integers from attribute `name` to input `index`.
    fn ints_to_input(&mut self, node: &mut Node, name: &str, index: usize) {
        if let Some(Attribute::Ints(values)) = node.attributes.remove(name) {
            self.set_input(node, index, name, Literal::vector_i64(&values));
        }
    }

    /// A scalar of the element type of the node's first input.
    fn scalar_like(&self, node: &Node, value: f32) -> Literal {
        let element = node
            .input(0)
            .and_then(|input| self.types.get(input))
            .map_or(Element::Float, |t| t.element);
        Literal::from_f64s(element, &[], &[value.into()])
    }

    pub fn axes_to_input(&mut self, mut node: Node) -> Rewritten {
        self.ints_to_input(&mut node, "axes", 1);
        Ok(vec![node])
    }

    pub fn clip(&mut self, mut node: Node) -> Rewritten {
        for (index, name) in [(1, "min"), (2, "max")] {
            if let Some(Attribute::Float(bound)) = node.attributes.remove(name) {
                let literal = self.scalar_like(&node, bound);
                self.set_input(&mut node, index, name, literal);
            }
        }
        Ok(vec![node])
    }

    pub fn pad(&mut self, mut node: Node) -> Rewritten {
        self.ints_to_input(&mut node, "pads", 1);
        if let Some(Attribute::Float(value)) = node.attributes.remove("value") {
            let literal = self.scalar_like(&node, value);
            self.set_input(&mut node, 2, "value", literal);
        }
        Ok(vec![node])
    }

    pub fn slice(&mut self, mut node: Node) -> Rewritten {
        for (index, name) in [(1, "starts"), (2, "ends"), (3, "axes")] {
            self.ints_to_input(&mut node, name, index);
        }
        Ok(vec![node])
    }

    pub fn top_k(&mut self, mut node: Node) -> Rewritten {
        let Some(Attribute::Int(k)) = node.attributes.remove("k") else {
            return Err("k is missing".into());
        };
        self.set_input(&mut node, 1, "k", Literal::vector_i64(&[k]));
        Ok(vec![node])
    }

    pub fn split(&mut self, mut node: Node) -> Rewritten {
        self.ints_to_input(&mut node, "split", 1);
        if node.input(1).is_none() {
            let count = node.outputs.len() as i64;
            node = node.with("num_outputs", count);
        }
        Ok(vec![node])
    }

    pub fn dropout(&mut self, mut node: Node, used: &HashSet<String>) -> Rewritten {
        let training = node
            .input(2)
            .map(|mode| self.constants.get(mode).and_then(Literal::as_i64));
        if training.is_some_and(|mode| mode != Some(0)) {
            return Err(
                "training mode is not supported: export the model in evaluation mode".into(),
            );
        }
        if node.outputs.iter().skip(1).any(|mask| used.contains(mask)) {
            return Err("its mask is used, which only training needs".into());
        }
        node.inputs.truncate(1);
        node.outputs.truncate(1);
        node.attributes.clear();
        Ok(vec![Node {
            op_type: "Identity".into(),
            ..node
        }])
    }

    /// Upsample takes the pixel at floor(i / scale): Resize with asymmetric coordinates.
    pub fn upsample(&mut self, mut node: Node) -> Rewritten {
        if let Some(Attribute::Floats(scales)) = node.attributes.remove("scales") {
            self.set_input(
                &mut node,
                1,
                "scales",
                Literal::from_f32s(&[scales.len()], &scales),
            );
        }
        self.scaled(node, "floor")
    }

    fn scaled(&mut self, mut node: Node, nearest_mode: &'static str) -> Rewritten {
        let Some(scales) = node.inputs.get(1).cloned() else {
            return Err("scales are missing".into());
        };
        node.inputs = vec![node.inputs[0].clone(), String::new(), scales];
        node.op_type = "Resize".into();
        if node.string("mode").is_none_or(|mode| mode == "nearest") {
            node = node.with("nearest_mode", nearest_mode);
        }
        Ok(vec![
            node.with("coordinate_transformation_mode", "asymmetric"),
        ])
    }

    pub fn resize(&mut self, mut node: Node) -> Rewritten {
        if self.opset < 11 {
            // Resize of opset 10 rounds down when it enlarges and up when it shrinks.
            let scales = node
                .input(1)
                .and_then(|name| self.constants.get(name))
                .and_then(Literal::to_f32s);
            let Some(scales) = scales else {
                return Err("scales must be constant".into());
            };
            return match (
                scales.iter().any(|&s| s < 1.0),
                scales.iter().any(|&s| s > 1.0),
            ) {
                (true, true) => {
                    Err("it enlarges and shrinks at once, which opset 10 leaves unclear".into())
                }
                (shrinks, _) => self.scaled(node, if shrinks { "ceil" } else { "floor" }),
            };
        }
        let mode = node
            .string("coordinate_transformation_mode")
            .unwrap_or("half_pixel")
            .to_string();
        if ["tf_half_pixel_for_nn", "half_pixel_symmetric"].contains(&mode.as_str()) {
            return Err(format!(
                "coordinate_transformation_mode {mode} is not supported"
            ));
        }
        for input in &mut node.inputs {
            if self.constants.get(input).is_some_and(Literal::is_empty) {
                input.clear();
            }
        }
        Ok(vec![if mode == "tf_crop_and_resize" {
            node
        } else {
            without(node, "extrapolation_value")
        }])
    }
}
