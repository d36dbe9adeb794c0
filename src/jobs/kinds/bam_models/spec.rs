//! A settled request for BAM models, the models that it is for, and what comes of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::judge::Judged;
use crate::{
    bam::{Role, Set},
    training::{EpochReport, LeftOut, Recipe},
};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    pub model: String,
    pub model_hash: String,
    /// The start of the data sets' ids, and of the new models'.
    pub data: String,
    pub name: String,
    /// By the data set's id.
    pub dataset_hashes: BTreeMap<String, String>,
    /// Of the models of the common feature, in place of the recipe's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_epochs: Option<usize>,
    #[serde(flatten)]
    pub recipe: Recipe,
}

impl Spec {
    /// Sets of the common feature: k01, k02, ...
    fn series(&self) -> usize {
        let is_there = |count: &usize| {
            let id = Set::Common(*count).dataset(&self.data);
            self.dataset_hashes.contains_key(&id)
        };
        (1..).take_while(is_there).count()
    }

    pub(super) fn members(&self) -> Vec<Member> {
        Member::all(self.series())
    }

    pub(super) fn recipe_of(&self, member: Member) -> Recipe {
        let recipe = self.recipe.clone();
        let epochs = match member {
            Member::Objects | Member::Scenes => recipe.epochs,
            Member::Common(_) => self.feature_epochs.unwrap_or(recipe.epochs),
        };
        Recipe { epochs, ..recipe }
    }
}

/// One of the models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// f_o.
    Objects,
    /// f_s.
    Scenes,
    /// f^k of the common feature in so many scene classes.
    Common(usize),
}

impl Member {
    pub(super) fn all(series: usize) -> Vec<Self> {
        let common = (1..=series).map(Self::Common);
        [Self::Objects, Self::Scenes]
            .into_iter()
            .chain(common)
            .collect()
    }

    /// Behind the start of its id.
    pub(super) fn name(self) -> String {
        match self {
            Self::Objects => "object".to_owned(),
            Self::Scenes => "scene".to_owned(),
            Self::Common(_) => self.trained_on().name(),
        }
    }

    pub(super) fn id(self, start: &str) -> String {
        format!("{start}_{}", self.name())
    }

    pub(super) fn trained_on(self) -> Set {
        match self {
            Self::Objects => Set::Objects,
            Self::Scenes => Set::Scenes,
            Self::Common(count) => Set::Common(count),
        }
    }

    pub(super) fn judged_on(self) -> Set {
        match self {
            Self::Objects | Self::Scenes => Set::Test,
            Self::Common(_) => Set::Feature,
        }
    }

    /// The pictures that it is judged by.
    pub(super) fn roles(self) -> &'static [Role] {
        match self {
            Self::Objects | Self::Scenes => &[Role::With, Role::Without, Role::Grey],
            Self::Common(_) => &[Role::With, Role::Without],
        }
    }

    /// The pictures from which the feature is gone that it was not trained to tell.
    pub(super) fn other_removed(self) -> Option<Role> {
        match self {
            Self::Objects => Some(Role::Grey),
            Self::Scenes => Some(Role::Without),
            Self::Common(_) => None,
        }
    }

    /// Of a series of so many sets.
    pub(super) fn commonality(self, series: usize) -> Option<f64> {
        match self {
            Self::Common(count) => Some(count as f64 / series as f64),
            _ => None,
        }
    }
}

/// What a shard does. Models are told by their place.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Part {
    /// After so many others.
    Epoch {
        model: usize,
        done: usize,
    },
    Judge {
        model: usize,
    },
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Done {
    Epoch {
        model: usize,
        report: Option<EpochReport>,
    },
    Judge {
        model: usize,
        #[serde(flatten)]
        end: Box<End>,
    },
}

/// What is known of a model when it is trained.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct End {
    /// The epoch, from 1, whose weights it has.
    pub epoch: usize,
    /// How many it tells apart.
    pub classes: usize,
    /// Images of its data set that were not used.
    pub left_out: LeftOut,
    /// Of an f^k: the labels of the pictures that it is judged by, the feature and the scene.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feature: Vec<String>,
    pub judged: Judged,
}

/// The result of the job; while it runs, what is done.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Trained {
    pub models: Vec<TrainedModel>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TrainedModel {
    /// `object`, `scene`, `k01`, ...
    pub name: String,
    /// The share of scene classes that have the common feature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commonality: Option<f64>,
    /// The id of the data set.
    pub dataset: String,
    /// The id that it is served as, at the job's end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    pub epochs: Vec<EpochReport>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

impl Trained {
    /// Before anything is done.
    pub(super) fn of(spec: &Spec) -> Self {
        let series = spec.series();
        let model = |member: Member| TrainedModel {
            name: member.name(),
            commonality: member.commonality(series),
            dataset: member.trained_on().dataset(&spec.data),
            model: None,
            epochs: Vec::new(),
            end: None,
        };
        Self {
            models: Member::all(series).into_iter().map(model).collect(),
            warnings: Vec::new(),
        }
    }
}
