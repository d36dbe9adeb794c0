//! Which weights and biases a recipe trains. Constants before the first Linear layer belong to the
//! input's normalisation and are never trained.

use super::{BatchNorm, Recipe, Trainable, TrainingError};
use crate::text::{excerpt, meant};
use onnx_autodiff::autodiff::parameters::{Place, Places};

const BATCH_NORM: &str = "BatchNormalization";

/// The names of the parameters, in the order of the forward pass; at least one.
pub(super) fn chosen(places: &Places, recipe: &Recipe) -> Result<Vec<String>, TrainingError> {
    let nothing = |reason: &str| TrainingError::NothingToTrain {
        reason: reason.to_owned(),
    };
    let first = match &recipe.train {
        Trainable::All => 1,
        Trainable::Head => places.layers.len().max(1),
        Trainable::From(name) => {
            let at = places.layers.iter().position(|names| names.contains(name));
            at.ok_or_else(|| {
                let known = places.layers.iter().flatten().map(String::as_str);
                TrainingError::UnknownLayer {
                    layer: excerpt(name).into_owned(),
                    meant: meant(name, known),
                }
            })? + 1
        }
    };
    let is_norm = |place: &&Place| place.op_type == BATCH_NORM;
    let inside: Vec<&Place> = places
        .parameters
        .iter()
        .filter(|place| place.depth >= first)
        .collect();
    let with_norms = recipe.batch_norm == BatchNorm::Affine;
    if with_norms && !inside.iter().any(is_norm) {
        return Err(nothing(
            "batch_norm is affine, and no BatchNormalization with a scale and a bias is among the layers that are trained: exporters fold it into the layer before it; leave batch_norm out",
        ));
    }
    let names: Vec<String> = inside
        .into_iter()
        .filter(|place| with_norms || !is_norm(place))
        .map(|place| place.name.clone())
        .collect();
    match names.is_empty() {
        true => Err(nothing(
            "the model has no weights or biases in the layers that are trained",
        )),
        false => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        let place = |name: &str, op_type: &str, depth| Place {
            name: name.into(),
            op_type: op_type.into(),
            depth,
        };
        let layer = |names: &[&str]| names.iter().map(|&name| name.into()).collect();
        Places {
            layers: vec![layer(&["conv1", "norm1"]), layer(&["fc"])],
            parameters: vec![
                place("mean", "Add", 0),
                place("w1", "Conv", 1),
                place("s1", BATCH_NORM, 1),
                place("w2", "Gemm", 2),
            ],
        }
    }

    fn names(train: Trainable, batch_norm: BatchNorm) -> Result<Vec<String>, String> {
        let recipe = Recipe {
            train,
            batch_norm,
            ..Recipe::default()
        };
        chosen(&places(), &recipe).map_err(|error| error.to_string())
    }

    #[test]
    fn layers_are_chosen_from_a_name_on_and_norms_when_asked_for() {
        use BatchNorm::{Affine, Frozen};
        let from = |name: &str| Trainable::From(name.into());
        assert_eq!(names(Trainable::All, Frozen).unwrap(), ["w1", "w2"]);
        assert_eq!(names(Trainable::All, Affine).unwrap(), ["w1", "s1", "w2"]);
        assert_eq!(names(Trainable::Head, Frozen).unwrap(), ["w2"]);
        assert_eq!(names(from("norm1"), Frozen).unwrap(), ["w1", "w2"]);
        assert_eq!(names(from("fc"), Frozen).unwrap(), ["w2"]);
        assert_eq!(
            names(from("conv_1"), Frozen).unwrap_err(),
            "no Linear layer is called conv_1; did you mean conv1?"
        );
        let none = names(Trainable::Head, Affine).unwrap_err();
        assert!(none.contains("leave batch_norm out"), "{none}");
    }
}
