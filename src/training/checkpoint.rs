//! Where a training stands after an epoch, as safetensors: weights, moments of the optimiser, the
//! best weights so far, what the epochs came to. Equal checkpoints have equal bytes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use safetensors::{
    Dtype, SafeTensors,
    tensor::{TensorView, serialize},
};
use serde::{Deserialize, Serialize};

use super::{EpochReport, TrainingError};
use crate::tensor::Tensor;

/// Tensors by the names of the parameters.
pub(super) type Weights = BTreeMap<String, Arc<Tensor>>;

/// The state between two epochs.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    pub(super) head: Header,
    pub(super) weights: Weights,
    /// Adam's mean of gradients; sgd's velocity.
    pub(super) first: BTreeMap<String, Tensor>,
    /// Adam's mean of squared gradients; empty for sgd.
    pub(super) second: BTreeMap<String, Tensor>,
    /// The weights with the lowest validation loss; empty without `patience`.
    pub(super) best: Weights,
    pub(super) history: Vec<EpochReport>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// Tells the training from all others: SHA-256 of recipe, model and data.
    pub key: String,
    /// Steps of the optimiser so far.
    pub step: u64,
    /// Rows of a run, on which the rounding depends.
    pub micro_batch: usize,
    /// The epoch, from 1, whose weights are the best; 0 for none.
    pub best_epoch: usize,
}

const HEADER: &str = "training";
const HISTORY: &str = "history";
/// Numbers of an epoch in the history.
const COLUMNS: usize = 7;

impl Checkpoint {
    /// Epochs done.
    pub fn epoch(&self) -> usize {
        self.history.len()
    }

    /// What each of them came to.
    pub fn history(&self) -> &[EpochReport] {
        &self.history
    }

    /// Whether the training has ended.
    pub fn is_last(&self) -> bool {
        self.history.last().is_some_and(|report| report.stops)
    }

    /// The epoch, from 1, whose weights are the result; 0 before the first.
    pub fn result_epoch(&self) -> usize {
        match self.head.best_epoch {
            0 => self.epoch(),
            best => best,
        }
    }

    /// The weights that are the result: the best where they are kept, else the last.
    pub(super) fn result(&self) -> &Weights {
        match self.best.is_empty() {
            true => &self.weights,
            false => &self.best,
        }
    }

    pub fn to_bytes(&self) -> Result<Vec<u8>, TrainingError> {
        let mut tensors = Vec::new();
        let mut add = |group: &str, name: &str, tensor: &Tensor| {
            let bytes: Vec<u8> = tensor
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            tensors.push((
                format!("{group}/{name}"),
                Dtype::F32,
                tensor.shape().to_vec(),
                bytes,
            ));
        };
        for (group, weights) in [("weight", &self.weights), ("best", &self.best)] {
            for (name, tensor) in weights {
                add(group, name, tensor);
            }
        }
        for (group, moments) in [("first", &self.first), ("second", &self.second)] {
            for (name, tensor) in moments {
                add(group, name, tensor);
            }
        }
        let rows: Vec<u8> = self
            .history
            .iter()
            .flat_map(row)
            .flat_map(f64::to_le_bytes)
            .collect();
        let shape = vec![self.history.len(), COLUMNS];
        tensors.push((HISTORY.to_owned(), Dtype::F64, shape, rows));
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| {
                Ok((
                    name.as_str(),
                    TensorView::new(*dtype, shape.clone(), bytes)?,
                ))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(unusable)?;
        // A single entry: several would be in the random order of a hash map.
        let header = serde_json::to_string(&self.head).map_err(unusable)?;
        let metadata = HashMap::from([(HEADER.to_owned(), header)]);
        serialize(views, Some(metadata)).map_err(unusable)
    }

    /// Fails if the bytes are no checkpoint. Whether it is one of a training is checked by
    /// [`super::Trainer::epoch`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TrainingError> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(unusable)?;
        let header = metadata.metadata().as_ref().and_then(|all| all.get(HEADER));
        let header = header.ok_or_else(|| unusable("it does not say what it is of"))?;
        let mut checkpoint = Self {
            head: serde_json::from_str(header).map_err(unusable)?,
            weights: BTreeMap::new(),
            first: BTreeMap::new(),
            second: BTreeMap::new(),
            best: BTreeMap::new(),
            history: Vec::new(),
        };
        for (name, view) in SafeTensors::deserialize(bytes).map_err(unusable)?.iter() {
            if name == HISTORY {
                let numbers = numbers(&view, Dtype::F64, f64::from_le_bytes)?;
                checkpoint.history = numbers.chunks_exact(COLUMNS).filter_map(report).collect();
                continue;
            }
            let values = numbers(&view, Dtype::F32, f32::from_le_bytes)?;
            let tensor = Tensor::from_shape_vec(view.shape(), values).map_err(unusable)?;
            match name.split_once('/') {
                Some(("weight", name)) => {
                    checkpoint.weights.insert(name.to_owned(), Arc::new(tensor));
                }
                Some(("best", name)) => {
                    checkpoint.best.insert(name.to_owned(), Arc::new(tensor));
                }
                Some(("first", name)) => {
                    checkpoint.first.insert(name.to_owned(), tensor);
                }
                Some(("second", name)) => {
                    checkpoint.second.insert(name.to_owned(), tensor);
                }
                _ => return Err(unusable(format!("{name} is no tensor of a checkpoint"))),
            }
        }
        Ok(checkpoint)
    }
}

/// Numbers keep all their bits; NaN stands for none.
fn row(report: &EpochReport) -> [f64; COLUMNS] {
    let number = |value: Option<f64>| value.unwrap_or(f64::NAN);
    [
        report.epoch as f64,
        report.learning_rate,
        report.loss,
        number(report.accuracy),
        number(report.validation_loss),
        number(report.validation_accuracy),
        f64::from(u8::from(report.stops)),
    ]
}

fn report(row: &[f64]) -> Option<EpochReport> {
    let &[
        epoch,
        learning_rate,
        loss,
        accuracy,
        validation_loss,
        validation_accuracy,
        stops,
    ] = row
    else {
        return None;
    };
    let number = |value: f64| (!value.is_nan()).then_some(value);
    Some(EpochReport {
        epoch: epoch as usize,
        learning_rate,
        loss,
        accuracy: number(accuracy),
        validation_loss: number(validation_loss),
        validation_accuracy: number(validation_accuracy),
        stops: stops != 0.0,
    })
}

fn numbers<const N: usize, T>(
    view: &TensorView<'_>,
    dtype: Dtype,
    read: fn([u8; N]) -> T,
) -> Result<Vec<T>, TrainingError> {
    if view.dtype() != dtype {
        return Err(unusable(format!(
            "a tensor is {:?}, not {dtype:?}",
            view.dtype()
        )));
    }
    let (numbers, _) = view.data().as_chunks::<N>();
    Ok(numbers.iter().map(|bytes| read(*bytes)).collect())
}

fn unusable(reason: impl ToString) -> TrainingError {
    TrainingError::Checkpoint {
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_reads_back_and_broken_bytes_are_refused() {
        let tensor = |value: f32| Tensor::from_elem(vec![2, 3], value);
        let named = |value| BTreeMap::from([("a/b".to_owned(), tensor(value))]);
        let shared = |value| BTreeMap::from([("a/b".to_owned(), Arc::new(tensor(value)))]);
        let checkpoint = Checkpoint {
            head: Header {
                key: "k".into(),
                step: 7,
                micro_batch: 4,
                best_epoch: 1,
            },
            weights: shared(0.1),
            first: named(1e-30),
            second: named(-0.0),
            best: shared(3.0),
            history: vec![EpochReport {
                epoch: 1,
                learning_rate: 0.1,
                loss: 1.0 / 3.0,
                accuracy: None,
                validation_loss: Some(f64::MIN_POSITIVE),
                validation_accuracy: Some(0.5),
                stops: true,
            }],
        };
        let bytes = checkpoint.to_bytes().unwrap();
        let read = Checkpoint::from_bytes(&bytes).unwrap();
        assert_eq!(read, checkpoint);
        assert_eq!(read.to_bytes().unwrap(), bytes);
        assert!(read.is_last() && read.result() == &shared(3.0));
        for broken in [&bytes[..bytes.len() - 1], b"", b"{}"] {
            assert!(Checkpoint::from_bytes(broken).is_err());
        }
    }
}
