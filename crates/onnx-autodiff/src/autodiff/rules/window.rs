//! The sliding window of Conv, ConvTranspose and the pools: kernel, strides, dilations and resolved
//! pads, per spatial axis.

use std::collections::BTreeMap;

use crate::autodiff::{DeriveError, context::VjpContext, emit::ints};
use crate::onnx::graph::{Attribute, Node};

#[derive(Clone)]
pub(crate) struct Window {
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub begin: Vec<usize>,
    pub end: Vec<usize>,
}

impl Window {
    /// The window of the context's node over an input of spatial `sizes`.
    pub(crate) fn of(
        ctx: &VjpContext,
        kernel: Vec<usize>,
        sizes: &[usize],
    ) -> Result<Self, DeriveError> {
        Self::of_node(ctx.node, kernel, sizes).map_err(|reason| ctx.refusal(reason))
    }

    /// Fails if the node's attributes are invalid.
    pub(crate) fn of_node(
        node: &Node,
        kernel: Vec<usize>,
        sizes: &[usize],
    ) -> Result<Self, String> {
        let rank = kernel.len();
        let list = |name: &str, default: usize, count: usize| match node.ints(name) {
            None => Ok(vec![default; count]),
            Some(values) => {
                let values: Option<Vec<usize>> = values
                    .iter()
                    .map(|&value| usize::try_from(value).ok())
                    .collect();
                let values = values.filter(|values| values.len() == count);
                values.ok_or_else(|| {
                    format!("`{name}` must be {count} numbers that are not negative")
                })
            }
        };
        let (strides, dilations) = (list("strides", 1, rank)?, list("dilations", 1, rank)?);
        if strides.contains(&0)
            || dilations.contains(&0)
            || kernel.contains(&0)
            || sizes.len() < rank
        {
            return Err(format!(
                "kernel {kernel:?}, strides {strides:?} and dilations {dilations:?} do not fit its input"
            ));
        }
        let mut window = Self {
            kernel,
            strides,
            dilations,
            begin: vec![0; rank],
            end: vec![0; rank],
        };
        match node.string("auto_pad").unwrap_or("NOTSET") {
            "VALID" => {}
            same @ ("SAME_UPPER" | "SAME_LOWER") => {
                for (axis, &size) in sizes.iter().enumerate().take(rank) {
                    let positions = size.div_ceil(window.strides[axis]);
                    let reach = (positions - 1) * window.strides[axis] + window.extent(axis);
                    let total = reach.saturating_sub(size);
                    let half = if same == "SAME_UPPER" {
                        total / 2
                    } else {
                        total.div_ceil(2)
                    };
                    (window.begin[axis], window.end[axis]) = (half, total - half);
                }
            }
            _ => {
                let pads = list("pads", 0, 2 * rank)?;
                window.begin = pads[..rank].to_vec();
                window.end = pads[rank..].to_vec();
            }
        }
        Ok(window)
    }

    pub(crate) fn rank(&self) -> usize {
        self.kernel.len()
    }

    /// Input positions from the first tap to the last, on one axis.
    pub(crate) fn extent(&self, axis: usize) -> usize {
        self.dilations[axis] * (self.kernel[axis] - 1) + 1
    }

    pub(crate) fn is_dense(&self) -> bool {
        self.strides.iter().all(|&stride| stride == 1)
    }

    /// Whether windows tile all of `sizes`, without gap, overlap or padding.
    pub(crate) fn tiles(&self, sizes: &[usize]) -> bool {
        let plain =
            |axis: usize| self.dilations[axis] == 1 && self.begin[axis] + self.end[axis] == 0;
        (0..self.rank()).all(|axis| {
            plain(axis)
                && self.kernel[axis] == self.strides[axis]
                && sizes[axis].is_multiple_of(self.kernel[axis])
        })
    }

    /// The attributes of a node, with explicit pads.
    pub(crate) fn attributes(&self) -> BTreeMap<String, Attribute> {
        let pads = self.begin.iter().chain(&self.end).copied();
        [
            ("kernel_shape", ints(self.kernel.iter().copied())),
            ("strides", ints(self.strides.iter().copied())),
            ("dilations", ints(self.dilations.iter().copied())),
            ("pads", ints(pads)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}
