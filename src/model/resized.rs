//! A model whose graph leaves height and width open, for an input of one size: a graph of its own,
//! and so sessions of its own, in which rows of equal size share batches.

use std::sync::Arc;

use onnx_autodiff::{
    autodiff::{self, spatial, spec::DeriveSpec},
    onnx::{
        graph::{Dim, Graph},
        infer,
    },
};

use super::{
    Model,
    manifest::{Input, OpenSize, SizeSource},
};
use crate::{
    picture::preprocess::{Layout, Preprocess, Resize},
    text::cut,
};

/// The longest side.
pub const LARGEST_SIDE: usize = 16_384;
/// The most bytes of a reason that names nodes.
const LONGEST_REASON: usize = 600;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    #[error("the model's input has one size, {shape:?}: its graph leaves no other open")]
    Fixed { shape: Vec<usize> },
    #[error("the graph fixes the {side} of the input to {size}")]
    Side { side: &'static str, size: usize },
    #[error(
        "an input of {width} x {height} has {elements} numbers; {most} are allowed (max_input_elements): send a smaller image, or its size as input_size"
    )]
    TooLarge {
        width: usize,
        height: usize,
        elements: usize,
        most: usize,
    },
    #[error("the network cannot take an input of {width} x {height}: {reason}")]
    Network {
        width: usize,
        height: usize,
        reason: String,
    },
}

impl Input {
    /// Height and width of inputs of this shape, of which the model's is one.
    pub fn sides_of(&self, shape: &[usize]) -> Option<[usize; 2]> {
        let layout = self.preprocess.as_ref()?.layout;
        let split = |shape: &[usize]| match (layout, shape) {
            (Layout::Nchw, &[channels, height, width])
            | (Layout::Nhwc, &[height, width, channels]) => Some((channels, [height, width])),
            _ => None,
        };
        let (channels, sides) = split(shape)?;
        (channels == split(&self.shape)?.0).then_some(sides)
    }

    /// Height and width that a tensor of this shape chooses; none where it may not.
    pub fn sides_of_tensor(&self, shape: &[usize]) -> Option<[usize; 2]> {
        let is_free = !self.open?.is_chosen;
        self.sides_of(shape).filter(|_| is_free)
    }

    /// Height and width that an image chooses; a side that the graph fixes scales the other.
    pub fn sides_of_image(&self, (width, height): (u32, u32)) -> Option<[usize; 2]> {
        let open = self
            .open
            .filter(|open| !open.is_chosen && self.is_of_image())?;
        let own = self.sides_of(&self.shape)?;
        let scaled = |length: u32, fixed: usize, other: u32| {
            let side = f64::from(length) * fixed as f64 / f64::from(other.max(1));
            side.round().max(1.0) as usize
        };
        match open.sides {
            [true, true] => Some([height as usize, width as usize]),
            [false, _] => Some([own[0], scaled(width, own[0], height)]),
            [true, false] => Some([scaled(height, own[1], width), own[1]]),
        }
    }
}

/// The model for images of any size, each in its own.
pub fn of_image(model: &Model) -> Result<Model, SizeError> {
    let Some(open) = model.manifest.input.open else {
        let shape = model.manifest.input.shape.clone();
        return Err(SizeError::Fixed { shape });
    };
    let mut manifest = model.manifest.clone();
    manifest.input.open = Some(OpenSize {
        chosen_by: SizeSource::Image,
        is_chosen: false,
        ..open
    });
    Ok(Model {
        manifest,
        ..model.clone()
    })
}

/// The model for inputs of this height and width, which `chosen_by` chose, of at most so many
/// numbers. Takes up to seconds.
pub fn with_size(
    model: &Model,
    [height, width]: [usize; 2],
    chosen_by: SizeSource,
    most: usize,
) -> Result<Model, SizeError> {
    let input = &model.manifest.input;
    let shape = input.shape.clone();
    let (Some(open), Some(rule), Some(before)) =
        (input.open, &input.preprocess, input.sides_of(&input.shape))
    else {
        return Err(SizeError::Fixed { shape });
    };
    for (place, side) in ["height", "width"].into_iter().enumerate() {
        if !open.sides[place] && [height, width][place] != before[place] {
            let size = before[place];
            return Err(SizeError::Side { side, size });
        }
    }
    let channels = shape.iter().product::<usize>() / (before[0] * before[1]).max(1);
    let elements = height.saturating_mul(width).saturating_mul(channels);
    if elements > most || height.max(width) > LARGEST_SIDE {
        return Err(SizeError::TooLarge {
            width,
            height,
            elements,
            most,
        });
    }
    let rule = Preprocess {
        width: width as u32,
        height: height as u32,
        resize: resize_to([height, width], before, chosen_by, rule),
        ..rule.clone()
    };
    let shape = match rule.layout {
        Layout::Nchw => vec![channels, height, width],
        Layout::Nhwc => vec![height, width, channels],
    };
    let mut manifest = model.manifest.clone();
    manifest.input = Input {
        shape,
        preprocess: Some(rule),
        open: Some(OpenSize {
            chosen_by,
            is_chosen: true,
            ..open
        }),
        ..manifest.input
    };
    let refuse = |reason: String| SizeError::Network {
        width,
        height,
        reason: cut(&reason, LONGEST_REASON).into_owned(),
    };
    let graph = resize(&model.graph, &manifest.input).map_err(refuse)?;
    let (layers, attention) = match spatial(&graph) {
        Ok(seen) => (seen.layers, seen.attention),
        Err(error) => {
            // It may still be run.
            autodiff::derive(&graph, &DeriveSpec::forward(), None)
                .map_err(|error| refuse(error.to_string()))?;
            (Vec::new(), Err(error.to_string()))
        }
    };
    Ok(Model {
        manifest,
        graph: Arc::new(graph),
        layers,
        attention: attention.map(Arc::new),
        supports: Arc::default(),
        ..model.clone()
    })
}

/// Images that keep their size are not resized; for another size, the part that is cut out is that
/// of the model's own where both are squares.
fn resize_to(
    to: [usize; 2],
    before: [usize; 2],
    chosen_by: SizeSource,
    rule: &Preprocess,
) -> Resize {
    let is_square = |sides: [usize; 2]| sides[0] == sides[1];
    match rule.resize {
        _ if chosen_by == SizeSource::Image => Resize::Stretch,
        Resize::ShortSide(side) if is_square(to) && is_square(before) => {
            let side = f64::from(side) * to[0] as f64 / before[0] as f64;
            Resize::ShortSide(side.round().max(1.0) as u32)
        }
        Resize::ShortSide(_) => Resize::Stretch,
        other => other,
    }
}

/// The graph with an input of another shape.
fn resize(graph: &Graph, input: &Input) -> Result<Graph, String> {
    let mut graph = graph.clone();
    let infos = graph.inputs.iter_mut();
    for info in infos.filter(|info| info.name == input.name) {
        let dims = info.value_type.shape.iter_mut().skip(1);
        dims.zip(&input.shape)
            .for_each(|(dim, size)| *dim = Dim::Known(*size));
    }
    let types = infer(&graph).map_err(|error| error.to_string())?;
    for output in &mut graph.outputs {
        if let Some(found) = types.get(&output.name) {
            output.value_type = found.clone();
        }
    }
    Ok(graph)
}
