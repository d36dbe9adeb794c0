//! A row of the registry: what a method is called, what it takes, needs and costs, and how a run of
//! it is built.

use std::ptr;

use serde_json::Value;

use super::{
    Parameters,
    kind::{Group, Parameter},
};
use crate::methods::{MethodRun, RunInputs, halves::AVERAGED};
use onnx_autodiff::autodiff::spec::{Attention, Head, PatternLayers, RuleSetId};

#[derive(Debug)]
pub struct Method {
    pub id: &'static str,
    pub title: &'static str,
    /// For captions and legends, where room is short: as the field abbreviates it.
    pub short: &'static str,
    /// What its values say, which decides how they are ranked and drawn by default.
    pub scores: Scores,
    /// Of its curves, in every chart: told apart by people who see few colours, after Okabe and
    /// Ito, and Tol.
    pub color: [u8; 3],
    pub formula: &'static str,
    /// Paper and section.
    pub paper: &'static str,
    /// How its derivatives are taken by default; none for methods that take no derivatives.
    pub rule_set: Option<RuleSetId>,
    /// What a run is given beside the input.
    pub needs: &'static [Need],
    /// Its defaults where they are not those of most methods.
    pub preset: fn(&mut Parameters),
    /// The parameters it takes beside `method`, in the order in which they are read and stated.
    pub groups: &'static [&'static Group],
    pub cost: Cost,
    /// One run, on one input and one target.
    pub build: fn(RunInputs) -> MethodRun,
}

/// What the values of a map say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// For the class where they are positive, against it where they are negative.
    Evidence,
    /// How much the output depends on a pixel: the sign is a direction of change, neither for nor
    /// against.
    Sensitivity,
    /// The same without a sign.
    Magnitude,
    /// How much areas count; none is negative, and neighbours are alike.
    Areas,
}

/// What a run is given beside the input. Patterns are the graph's: the rule set says whether it
/// needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Those that the parameter `baseline` stands for.
    Baselines,
    /// The luma of the picture that the input shows: not of ready tensors.
    Luma,
    /// Regions of that picture, which may overlap.
    Regions,
    /// Regions of that picture that do not overlap; of ready tensors none, each pixel being one.
    Partition,
    /// Attention of the model's that relates all tokens of a grid.
    Attention,
    /// The heads that the blocks of that attention would have.
    Exits,
    /// The maps of another method, which the parameter `base` names.
    Base,
    /// The models of the set that the parameter `supports` names.
    Supports,
}

/// Evaluations of a derived graph per target (an upper bound under a `tolerance`); of methods that
/// take no derivatives, for all targets.
#[derive(Debug)]
pub struct Cost {
    pub words: &'static str,
    /// Without that of the input for f(x) alone: one evaluation serves all targets, and tells the
    /// predictions too.
    pub count: fn(&Parameters) -> usize,
    /// Whether the input is among those counted.
    pub asks_input: fn(&Parameters) -> bool,
    /// For methods that ask about inputs near the clean one: the most rows and columns in which
    /// each differs from the one before. They are given f(x).
    pub change: fn(&Parameters) -> Option<[usize; 2]>,
}

impl Cost {
    /// That of the input alone.
    pub const ONE: Self = Self {
        words: "1",
        count: |_| 1,
        asks_input: |_| true,
        change: |_| None,
    };
    /// Of methods that do not ask the model.
    pub const NONE: Self = Self {
        words: "0, plus 1 forward pass for the predictions",
        count: |_| 0,
        asks_input: |_| false,
        change: |_| None,
    };
}

impl Method {
    /// The parameters it takes beside `method`, in the order in which answers state them.
    pub fn parameters(&self) -> impl Iterator<Item = &'static Parameter> {
        self.groups.iter().flat_map(|group| group.parameters)
    }

    pub fn takes(&self, name: &str) -> bool {
        self.parameters().any(|parameter| parameter.name == name)
    }

    pub fn needs(&self, need: Need) -> bool {
        self.needs.contains(&need)
    }

    /// Whether it looks at the attention between tokens.
    pub fn looks_at_attention(&self) -> bool {
        self.needs(Need::Attention)
    }

    /// Why it cannot look at a model's attention, if it does.
    pub fn attention_fault<'a>(
        &self,
        attention: Result<&'a Attention, &'a str>,
    ) -> Option<&'a str> {
        if !self.looks_at_attention() {
            return None;
        }
        match attention {
            Err(reason) => Some(reason),
            Ok(found) if self.needs(Need::Exits) => found.exits.as_ref().err().map(String::as_str),
            Ok(_) => None,
        }
    }

    /// Whether it looks at the picture that the input shows: not for nets over ready tensors.
    pub fn needs_picture(&self) -> bool {
        self.needs(Need::Luma) || self.needs(Need::Regions)
    }

    /// Whether its map is made of regions of the picture.
    pub fn ranks_regions(&self) -> bool {
        self.needs(Need::Regions) || self.needs(Need::Partition)
    }

    /// Whether its map depends on the model and the class.
    pub fn asks_model(&self) -> bool {
        self.rule_set.is_some() || self.takes("head")
    }

    /// Whether its scores are means over samples, with a standard error.
    pub fn has_standard_error(&self) -> bool {
        self.groups.iter().any(|group| ptr::eq(*group, &AVERAGED))
    }

    /// Whether it needs patterns by default.
    pub fn needs_patterns(&self) -> bool {
        self.rule_set.is_some_and(RuleSetId::needs_patterns)
    }

    /// The default of a parameter where it does not depend on the model; `None` too for one that is
    /// off by default.
    pub fn default_of(&'static self, parameter: &Parameter) -> Option<Value> {
        let defaults = || Parameters::defaults(self, Head::Logits, PatternLayers::All);
        (!parameter.from_model)
            .then(defaults)
            .and_then(|defaults| (parameter.get)(&defaults))
    }
}
