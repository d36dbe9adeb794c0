//! What to derive: rule sets, with respect to what, from which head.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::Tensor;

/// Names one derived graph of a model. Equal specs give identical bytes. Without rule sets it is
/// the forward graph alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeriveSpec {
    /// How derivatives are taken; one backward walk for each.
    pub rule_sets: Vec<RuleSetId>,
    /// Values between input and head that the graph hands out beside the head's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// Each rule set gives one cotangent for each of them, in this order; at least one.
    pub wrt: Vec<Wrt>,
    /// What is differentiated.
    pub head: Head,
    /// What the backward walk starts with.
    pub seed: SeedRule,
    /// Which Linear layers the pattern rule sets rewrite; the others keep their plain gradient.
    pub pattern_layers: PatternLayers,
    /// The rules of [`RuleSetId::Lrp`].
    #[serde(default)]
    pub lrp: Lrp,
}

impl DeriveSpec {
    /// The forward graph alone.
    pub fn forward() -> Self {
        Self::of([])
    }

    /// The gradient of the logits with respect to the input.
    pub fn gradient() -> Self {
        Self::of([RuleSetId::Gradient])
    }

    /// These rule sets, from the logits to the input.
    pub fn of(rule_sets: impl Into<Vec<RuleSetId>>) -> Self {
        Self {
            rule_sets: rule_sets.into(),
            outputs: Vec::new(),
            wrt: vec![Wrt::Input],
            head: Head::Logits,
            seed: SeedRule::One,
            pattern_layers: PatternLayers::All,
            lrp: Lrp::default(),
        }
    }

    /// The names of the outputs with cotangents, in the order of the graph: rule set by rule set,
    /// and for each one by one of `wrt`. That of the rule set, and `/` and the value where `wrt`
    /// names several.
    pub fn cotangent_names(&self) -> Vec<String> {
        let values: Vec<_> = self.wrt.iter().map(|wrt| wrt.name("input")).collect();
        let of_set = |set: &RuleSetId| each_named(set.id(), &values);
        self.rule_sets.iter().flat_map(of_set).collect()
    }

    /// The names of the outputs with activations: `activation`, and `/` and the value where there
    /// are several.
    pub fn activation_names(&self) -> Vec<String> {
        let values: Vec<_> = self.outputs.iter().map(String::as_str).collect();
        each_named("activation", &values)
    }
}

fn each_named(name: &str, values: &[&str]) -> Vec<String> {
    match values {
        [_] => vec![name.to_owned()],
        _ => values
            .iter()
            .map(|value| format!("{name}/{value}"))
            .collect(),
    }
}

/// For people, in the log: `gradient of probabilities at conv10, pattern layers inner`.
impl fmt::Display for DeriveSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rule_sets.is_empty() {
            f.write_str("forward")?;
            return match self.outputs.len() {
                0 => Ok(()),
                count => write!(f, " with {count} activations"),
            };
        }
        let rules: Vec<_> = self.rule_sets.iter().map(|rules| rules.id()).collect();
        let head = match self.head {
            Head::Logits => "logits",
            Head::Probabilities => "probabilities",
        };
        write!(f, "{} of {head}", rules.join("+"))?;
        let at: Vec<_> = self.wrt.iter().map(|wrt| wrt.name("input")).collect();
        if at != ["input"] {
            write!(f, " at {}", at.join(" and "))?;
        }
        if self.rule_sets.contains(&RuleSetId::Lrp) {
            write!(f, ", composite {}", self.lrp.composite.id())?;
        }
        if !self.rule_sets.iter().any(|rules| rules.needs_patterns()) {
            return Ok(());
        }
        match &self.pattern_layers {
            PatternLayers::All => f.write_str(", pattern layers all"),
            PatternLayers::Inner => f.write_str(", pattern layers inner"),
            PatternLayers::ExceptFirst => f.write_str(", pattern layers except_first"),
            PatternLayers::ExceptLast => f.write_str(", pattern layers except_last"),
            PatternLayers::Named(layers) => write!(f, ", {} named pattern layers", layers.len()),
        }
    }
}

/// How derivatives are taken: each rule set says where it differs from the gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleSetId {
    /// The derivative.
    Gradient,
    /// Rectifiers pass positive cotangents where they were on (Springenberg et al. 2014).
    GuidedBackprop,
    /// Rectifiers pass positive cotangents (Zeiler & Fergus 2013).
    Deconvnet,
    /// Weights times their patterns (Kindermans et al. 2017).
    PatternAttribution,
    /// Patterns in place of weights (Kindermans et al. 2017).
    PatternNet,
    /// Relevance: what a value of the output is made of, shared out among the inputs of each layer
    /// by the rules of [`DeriveSpec::lrp`] (Bach et al. 2015).
    Lrp,
}

impl RuleSetId {
    /// Every rule set.
    pub const ALL: [RuleSetId; 6] = [
        Self::Gradient,
        Self::GuidedBackprop,
        Self::Deconvnet,
        Self::PatternAttribution,
        Self::PatternNet,
        Self::Lrp,
    ];

    /// The rule set's name everywhere: JSON, command line, output of the derived graph.
    pub fn id(self) -> &'static str {
        match self {
            Self::Gradient => "gradient",
            Self::GuidedBackprop => "guided_backprop",
            Self::Deconvnet => "deconvnet",
            Self::PatternAttribution => "pattern_attribution",
            Self::PatternNet => "pattern_net",
            Self::Lrp => "lrp",
        }
    }

    /// Whether it takes patterns.
    pub fn needs_patterns(self) -> bool {
        matches!(self, Self::PatternAttribution | Self::PatternNet)
    }

    /// Whether it looks at the weights of Linear layers, so that each BatchNormalization behind one
    /// is folded into it.
    pub fn reads_weights(self) -> bool {
        self.needs_patterns() || self == Self::Lrp
    }
}

/// The rules by which relevance is shared out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lrp {
    /// Which rule at which layer.
    pub composite: Composite,
    /// What the rule epsilon adds to the value that it divides by, away from zero; not negative.
    pub epsilon: Real,
    /// How much the rule gamma favours weights of one sign; not negative.
    pub gamma: Real,
    /// The least and the greatest value that the input may have, for each channel or one for all:
    /// of the rule z-box. None is a fault where the composite needs them.
    pub bounds: Vec<[Real; 2]>,
}

impl Default for Lrp {
    fn default() -> Self {
        Self {
            composite: Composite::EpsilonPlusFlat,
            epsilon: Real(1e-6),
            gamma: Real(0.25),
            bounds: Vec::new(),
        }
    }
}

/// A number that is compared by its bits.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Real(pub f32);

impl PartialEq for Real {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Real {}

impl Hash for Real {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

/// Which rule of layer-wise relevance propagation at which layer; the composites of Montavon et al.
/// 2019 and Kohlbrenner et al. 2020, by the names of zennit, and AttnLRP. Dense layers have the rule epsilon
/// in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Composite {
    /// The rule epsilon at every layer.
    Epsilon,
    /// z-plus at convolutions.
    EpsilonPlus,
    /// z-plus at convolutions, flat at the first layer.
    EpsilonPlusFlat,
    /// Gamma at convolutions, z-box at the first one.
    EpsilonGammaBox,
    /// Alpha-beta with alpha 2 and beta 1 at convolutions.
    EpsilonAlpha2Beta1,
    /// Alpha-beta with alpha 2 and beta 1 at convolutions, flat at the first layer.
    EpsilonAlpha2Beta1Flat,
    /// z-plus at convolutions, w-square at the first layer: of two rules that zennit has, under a name
    /// of this crate's own.
    EpsilonPlusWSquare,
    /// AttnLRP: epsilon 0 at Linear layers, and rules for attention and its normalisations (Achtibat
    /// et al. 2024).
    AttnLrp,
}

impl Composite {
    /// Every composite.
    pub const ALL: [Composite; 8] = [
        Self::Epsilon,
        Self::EpsilonPlus,
        Self::EpsilonPlusFlat,
        Self::EpsilonGammaBox,
        Self::EpsilonAlpha2Beta1,
        Self::EpsilonAlpha2Beta1Flat,
        Self::EpsilonPlusWSquare,
        Self::AttnLrp,
    ];

    /// Its name everywhere.
    pub const fn id(self) -> &'static str {
        match self {
            Self::Epsilon => "epsilon",
            Self::EpsilonPlus => "epsilon_plus",
            Self::EpsilonPlusFlat => "epsilon_plus_flat",
            Self::EpsilonGammaBox => "epsilon_gamma_box",
            Self::EpsilonAlpha2Beta1 => "epsilon_alpha2_beta1",
            Self::EpsilonAlpha2Beta1Flat => "epsilon_alpha2_beta1_flat",
            Self::EpsilonPlusWSquare => "epsilon_plus_w_square",
            Self::AttnLrp => "attn_lrp",
        }
    }

    /// Whether it has the rule epsilon with an epsilon that is chosen.
    pub fn takes_epsilon(self) -> bool {
        self != Self::AttnLrp
    }

    /// Whether it has the rule gamma at some layer.
    pub fn takes_gamma(self) -> bool {
        self == Self::EpsilonGammaBox
    }

    /// Whether it has the rule z-box at some layer.
    pub fn takes_bounds(self) -> bool {
        self == Self::EpsilonGammaBox
    }
}

/// What the derivative is taken with respect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrt {
    /// The model's input.
    Input,
    /// A named value between input and head.
    Activation(String),
    /// A named value, of the head that a block inside of the network would have.
    Exit(Exit),
}

/// The head behind a block: what the network makes of its last block's tokens, made of the mean of
/// this block's in the place of each of those.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Exit {
    /// What the derivative is taken with respect to.
    pub value: String,
    /// The tokens behind the block.
    pub tokens: String,
    /// Those behind the last block.
    pub last: String,
    /// The axis of the tokens in both.
    pub axis: usize,
}

impl Wrt {
    /// The value's name in a graph whose input is called `input`.
    pub fn name<'a>(&'a self, input: &'a str) -> &'a str {
        match self {
            Self::Input => input,
            Self::Activation(name) => name,
            Self::Exit(exit) => &exit.value,
        }
    }
}

/// A value that Grad-CAM can look at: a feature map or a grid of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The value's.
    pub name: String,
    /// The value's, without the batch: `[channels, height, width]`, `[height, width, channels]`,
    /// `[tokens, channels]` or `[channels, tokens]`.
    pub shape: Vec<usize>,
    /// Where its pixels are.
    pub grid: Grid,
}

/// Where the pixels of a layer lie: in all axes but that of its channels, row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// The axis of the channels, counted without the batch.
    pub channels: usize,
    /// Tokens before those of the grid: class and register tokens.
    pub first: usize,
    /// Rows of the grid.
    pub height: usize,
    /// Columns of the grid.
    pub width: usize,
}

/// Self-attention that relates all tokens of a grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attention {
    /// In the order of the forward pass.
    pub layers: Vec<AttentionLayer>,
    /// The tokens, those before and after the grid's among them.
    pub tokens: usize,
    /// Where the pixels are among the tokens.
    pub grid: Grid,
    /// The tokens that the head reads behind the last attention.
    pub read: Vec<usize>,
    /// Behind each layer, the head that its block would have; or why there is none.
    pub exits: Result<Vec<Exit>, String>,
}

/// One Softmax of an attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionLayer {
    /// The Softmax's name, or that of its output.
    pub node: String,
    /// Its output, `[batch, heads, tokens, tokens]`, or without heads: each row sums to one.
    pub weights: String,
    /// Heads of the attention.
    pub heads: usize,
}

/// Which value of the network the seed is a cotangent of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// The values before Softmax or Sigmoid.
    Logits,
    /// The values after it.
    Probabilities,
}

/// What the backward walk starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeedRule {
    /// The seed as given.
    One,
    /// The seed times the head's own value ("the backpropagation is started with ŷ", the PGIG paper
    /// section 2).
    Value,
}

/// The Linear layers whose weights a pattern rule set replaces, counted in the order of the forward
/// pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatternLayers {
    /// Every Linear layer: Eq. 4 of the PGIG paper as printed.
    All,
    /// Neither the first nor the last.
    Inner,
    /// All but the first.
    ExceptFirst,
    /// All but the last.
    ExceptLast,
    /// By node name or output value.
    Named(Vec<String>),
}

/// Patterns of a model (Eq. 2 of the PGIG paper).
#[derive(Clone, Debug)]
pub struct Patterns {
    /// Identifies the fit: a hash of the patterns file.
    pub id: String,
    /// Where they are read.
    pub source: Arc<dyn PatternSource>,
}

/// Where patterns are read from, one layer at a time: a large model's patterns never rest in memory
/// beside its weights, because `w ⊙ p` is computed in the tensor that `read` hands over.
pub trait PatternSource: std::fmt::Debug + Send + Sync {
    /// The shape of the pattern of the Linear node with this output value (that of the node's
    /// weight); `None` when it has no pattern.
    fn shape(&self, layer: &str) -> Option<&[usize]>;
    /// The pattern itself. Fails when `layer` has none or its file cannot be read.
    fn read(&self, layer: &str) -> std::io::Result<Tensor>;
}

impl PatternSource for BTreeMap<String, Tensor> {
    fn shape(&self, layer: &str) -> Option<&[usize]> {
        self.get(layer).map(Tensor::shape)
    }

    fn read(&self, layer: &str) -> std::io::Result<Tensor> {
        self.get(layer)
            .cloned()
            .ok_or_else(|| std::io::Error::other(format!("no pattern for `{layer}`")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_told_in_words() {
        let gradient = DeriveSpec::gradient();
        assert_eq!(DeriveSpec::forward().to_string(), "forward");
        assert_eq!(gradient.to_string(), "gradient of logits");
        let staged = DeriveSpec {
            outputs: vec!["conv1".into(), "conv2".into()],
            ..DeriveSpec::forward()
        };
        assert_eq!(staged.to_string(), "forward with 2 activations");
        let at_layer = DeriveSpec {
            wrt: vec![Wrt::Activation("conv10".into())],
            head: Head::Probabilities,
            pattern_layers: PatternLayers::Inner,
            ..DeriveSpec::of([RuleSetId::Gradient, RuleSetId::PatternAttribution])
        };
        assert_eq!(
            at_layer.to_string(),
            "gradient+pattern_attribution of probabilities at conv10, pattern layers inner"
        );
    }
}
