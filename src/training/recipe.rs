//! What decides a training beside model, data and targets: read from a request or from flags, every
//! fault at once, every default settled. A settled recipe reads back as itself.

use std::{f64::consts::PI, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::faults::Reader;
use onnx_autodiff::autodiff;

/// The most epochs.
pub const MAX_EPOCHS: usize = 1000;
/// The most rows of a step.
const MAX_BATCH: usize = 1024;

/// Its fields as requests and settled specs carry them, each with what it is and its default.
pub const FIELDS: &[(&str, &str)] = &[
    (
        "loss",
        "cross_entropy: softmax cross-entropy on the logits (default); mse: mean squared error on the logits",
    ),
    (
        "optimizer",
        "adam (default) or sgd, as torch.optim has them",
    ),
    ("beta1", "of adam, at least 0 and below 1 (0.9)"),
    ("beta2", "of adam, at least 0 and below 1 (0.999)"),
    ("epsilon", "of adam, above 0, at most 1 (1e-8)"),
    ("momentum", "of sgd, at least 0 and below 1 (0.9)"),
    ("learning_rate", "above 0, at most 10 (adam 1e-4, sgd 1e-3)"),
    (
        "schedule",
        "constant (default), or cosine: from the learning rate towards 0, epoch by epoch",
    ),
    (
        "weight_decay",
        "times each weight, added to its gradient: 0 to 1 (0)",
    ),
    ("batch_size", "images in a step: 1 to 1024 (32)"),
    ("epochs", "passes over the images: 1 to 1000 (10)"),
    (
        "seed",
        "of the split, the order of images, augmentation and the new head (0)",
    ),
    (
        "train",
        "which weights and biases: all (default), head, or from:LAYER for a layer and all that follow it",
    ),
    (
        "batch_norm",
        "frozen (default), or affine: scales and biases of BatchNormalization are trained, its statistics stay",
    ),
    (
        "crop",
        "whether each image is cut to a random square of 50 to 100 % of its short side (false)",
    ),
    (
        "flip",
        "whether every second image, at random, is mirrored (false)",
    ),
    (
        "validation",
        "share of the images that are not trained on but judged after each epoch: 0 to 0.5 (0.2)",
    ),
    (
        "patience",
        "epochs without a lower validation loss after which training stops; the best epoch's weights are the result: 1 to 1000 (none)",
    ),
    (
        "new_head",
        "whether the last layer is replaced by a new one, whose classes are the data set's labels (false)",
    ),
];

/// All that decides a training, every default settled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    pub loss: Loss,
    #[serde(flatten)]
    pub optimizer: Optimizer,
    pub learning_rate: f64,
    pub schedule: Schedule,
    /// Times each weight, added to its gradient.
    pub weight_decay: f64,
    /// Images in a step.
    pub batch_size: usize,
    pub epochs: usize,
    pub seed: u64,
    pub train: Trainable,
    pub batch_norm: BatchNorm,
    pub crop: bool,
    pub flip: bool,
    /// Share of the images that are kept back.
    pub validation: f64,
    /// Epochs without a lower validation loss.
    pub patience: Option<usize>,
    /// Replaces the last layer: its classes are the data set's labels.
    pub new_head: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    CrossEntropy,
    Mse,
}

impl From<Loss> for autodiff::Loss {
    fn from(loss: Loss) -> Self {
        match loss {
            Loss::CrossEntropy => Self::CrossEntropy,
            Loss::Mse => Self::MeanSquaredError,
        }
    }
}

/// As torch.optim's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "optimizer", rename_all = "snake_case")]
pub enum Optimizer {
    Adam {
        beta1: f64,
        beta2: f64,
        epsilon: f64,
    },
    Sgd {
        momentum: f64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    Constant,
    /// Epoch e of E, from 0: (1 + cos πe/E) / 2 of the learning rate.
    Cosine,
}

/// Which weights and biases are trained. As text: `all`, `head`, `from:<layer>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Trainable {
    All,
    /// Those of the last Linear layer.
    Head,
    /// Those of this Linear layer and of what follows it.
    From(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchNorm {
    Frozen,
    /// Scale and bias are trained; mean and variance stay.
    Affine,
}

impl Default for Recipe {
    fn default() -> Self {
        Self::read(&mut Reader::default())
    }
}

pub fn is_epoch_count(epochs: &usize) -> bool {
    (1..=MAX_EPOCHS).contains(epochs)
}

impl Recipe {
    /// Takes its fields; faults stay with the reader, whose caller must not use the recipe then.
    pub fn read(fields: &mut Reader) -> Self {
        let unit = |number: &f64| (0.0..1.0).contains(number);
        let below_one = ["at least 0 and below 1"];
        let is_sgd = fields
            .take("optimizer", &["adam", "sgd"], |name: &String| {
                ["adam", "sgd"].contains(&name.as_str())
            })
            .is_some_and(|name| name == "sgd");
        for (name, is_others) in [
            ("beta1", is_sgd),
            ("beta2", is_sgd),
            ("epsilon", is_sgd),
            ("momentum", !is_sgd),
        ] {
            if is_others && fields.raw(name).is_some() {
                let (owner, used) = match is_sgd {
                    true => ("adam", "sgd"),
                    false => ("sgd", "adam"),
                };
                let message = format!("is a parameter of {owner}, and the optimizer is {used}");
                fields.refuse(name, message, &["leave it out"]);
            }
        }
        let optimizer = match is_sgd {
            true => Optimizer::Sgd {
                momentum: fields.take("momentum", &below_one, unit).unwrap_or(0.9),
            },
            false => Optimizer::Adam {
                beta1: fields.take("beta1", &below_one, unit).unwrap_or(0.9),
                beta2: fields.take("beta2", &below_one, unit).unwrap_or(0.999),
                epsilon: fields
                    .take("epsilon", &["above 0, at most 1"], |e: &f64| {
                        *e > 0.0 && *e <= 1.0
                    })
                    .unwrap_or(1e-8),
            },
        };
        let learning_rate = fields.take("learning_rate", &["above 0, at most 10"], |rate: &f64| {
            *rate > 0.0 && *rate <= 10.0
        });
        let validation = fields
            .take("validation", &["0 to 0.5"], |share: &f64| {
                (0.0..=0.5).contains(share)
            })
            .unwrap_or(0.2);
        let patience = fields.take("patience", &["1 to 1000"], is_epoch_count);
        if patience.is_some() && validation == 0.0 {
            let message = "needs images to judge by, and validation is 0";
            fields.refuse("patience", message, &["validation above 0", "leave it out"]);
        }
        Self {
            loss: fields
                .take("loss", &["cross_entropy", "mse"], |_| true)
                .unwrap_or(Loss::CrossEntropy),
            optimizer,
            learning_rate: learning_rate.unwrap_or(if is_sgd { 1e-3 } else { 1e-4 }),
            schedule: fields
                .take("schedule", &["constant", "cosine"], |_| true)
                .unwrap_or(Schedule::Constant),
            weight_decay: fields
                .take("weight_decay", &["0 to 1"], |decay: &f64| {
                    (0.0..=1.0).contains(decay)
                })
                .unwrap_or(0.0),
            batch_size: fields
                .take("batch_size", &["1 to 1024"], |rows| {
                    (1..=MAX_BATCH).contains(rows)
                })
                .unwrap_or(32),
            epochs: fields
                .take("epochs", &["1 to 1000"], is_epoch_count)
                .unwrap_or(10),
            seed: fields
                .take("seed", &["a whole number from 0"], |_| true)
                .unwrap_or(0),
            train: fields
                .take("train", &["all", "head", "from:LAYER"], |_| true)
                .unwrap_or(Trainable::All),
            batch_norm: fields
                .take("batch_norm", &["frozen", "affine"], |_| true)
                .unwrap_or(BatchNorm::Frozen),
            crop: fields
                .take("crop", &["true", "false"], |_| true)
                .unwrap_or(false),
            flip: fields
                .take("flip", &["true", "false"], |_| true)
                .unwrap_or(false),
            validation,
            patience,
            new_head: fields
                .take("new_head", &["true", "false"], |_| true)
                .unwrap_or(false),
        }
    }

    /// The learning rate of an epoch, counted from 0.
    pub fn rate(&self, epoch: usize) -> f64 {
        match self.schedule {
            Schedule::Constant => self.learning_rate,
            Schedule::Cosine => {
                let part = epoch as f64 / self.epochs as f64;
                self.learning_rate * (1.0 + (PI * part).cos()) / 2.0
            }
        }
    }
}

const FROM: &str = "from:";

impl fmt::Display for Trainable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Head => f.write_str("head"),
            Self::From(layer) => write!(f, "{FROM}{layer}"),
        }
    }
}

impl FromStr for Trainable {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.strip_prefix(FROM)) {
            ("all", _) => Ok(Self::All),
            ("head", _) => Ok(Self::Head),
            (_, Some(layer)) if !layer.is_empty() => Ok(Self::From(layer.to_owned())),
            _ => Err("neither all, head nor from:LAYER"),
        }
    }
}

impl TryFrom<String> for Trainable {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Trainable> for String {
    fn from(trainable: Trainable) -> Self {
        trainable.to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::*;

    fn read(given: Value) -> Result<Recipe, Vec<String>> {
        let mut fields = Reader::new(given.as_object().cloned().unwrap_or_default());
        let recipe = Recipe::read(&mut fields);
        let faults = fields.finish("is no field of a recipe");
        let told = faults.lines().collect();
        faults.settle(recipe).map_err(|_| told)
    }

    #[test]
    fn a_settled_recipe_reads_back_as_itself() {
        let given = [
            json!({}),
            json!({"optimizer": "sgd", "momentum": 0.5, "train": "from:conv 9", "patience": 3, "schedule": "cosine"}),
            json!({"loss": "mse", "epsilon": 1e-6, "train": "head", "batch_norm": "affine", "new_head": true}),
        ];
        for given in given {
            let recipe = read(given).unwrap();
            let settled = serde_json::to_value(&recipe).unwrap();
            assert_eq!(read(settled.clone()), Ok(recipe.clone()));
            assert_eq!(serde_json::from_value::<Recipe>(settled).unwrap(), recipe);
        }
    }

    #[test]
    fn every_field_is_listed_and_every_fault_is_told_at_once() {
        let wrong: Map<String, Value> = FIELDS
            .iter()
            .map(|(name, _)| ((*name).to_owned(), json!([])))
            .collect();
        let faults = read(Value::Object(wrong)).unwrap_err();
        for (name, _) in FIELDS {
            let told = faults
                .iter()
                .any(|fault| fault.starts_with(&format!("{name}: ")));
            assert!(told, "{name}: {faults:?}");
        }
        let ranges = json!({"learning_rate": 0, "epochs": 0, "batch_size": 1025, "validation": 0.6, "weight_decay": -1,
            "beta1": 1, "train": "from:", "seed": -1, "rate": 1});
        assert_eq!(read(ranges).unwrap_err().len(), 9);
    }

    #[test]
    fn the_cosine_falls_from_the_rate_to_nearly_nothing() {
        let recipe = read(json!({"schedule": "cosine", "epochs": 4, "learning_rate": 1})).unwrap();
        let rates: Vec<f64> = (0..4).map(|epoch| recipe.rate(epoch)).collect();
        // torch.optim.lr_scheduler.CosineAnnealingLR(T_max=4).
        let expected = [1.0, 0.853_553_390_593_273_8, 0.5, 0.146_446_609_406_726_24];
        for (rate, expected) in rates.iter().zip(expected) {
            assert!((rate - expected).abs() < 1e-12, "{rates:?}");
        }
    }
}
