//! The models that are served, and the folders that could not be.

use std::sync::Arc;

use crate::model::Model;

/// A folder that is no model, with every fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub id: String,
    pub faults: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Models {
    /// In alphabetical order of their ids.
    pub served: Vec<Arc<Model>>,
    pub broken: Vec<Broken>,
    /// Id of the model for requests that name none; without it the first.
    pub default: Option<String>,
}

impl Models {
    pub fn get(&self, id: &str) -> Option<Arc<Model>> {
        self.served.iter().find(|model| model.id == id).cloned()
    }

    pub fn default(&self) -> Option<Arc<Model>> {
        match &self.default {
            Some(id) => self.get(id),
            None => self.served.first().cloned(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.served.iter()
    }

    pub fn ids(&self) -> Vec<String> {
        self.served.iter().map(|model| model.id.clone()).collect()
    }
}
