//! The data sets that BAM models are trained on and judged by, before the job is queued.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    judge::{count, pictures},
    spec::Member,
};
use crate::{
    bam::{Role, Set},
    dataset::{Dataset, DatasetError},
    faults::Fault,
    jobs::{
        JobError, WorkError,
        kinds::{
            request_reader::RequestReader,
            training::{checks::faults_of, course::opened},
        },
    },
    model::{Model, labels::Labels},
    training::Recipe,
};

/// The most sets of the common feature: their names have two digits.
const MOST: usize = 99;

/// How many images a model has.
pub(super) struct Images {
    /// In each epoch.
    pub trained_on: u64,
    pub judged_on: u64,
}

/// Those that are there. What is missing is told.
pub(super) struct Sets {
    /// The start of their ids.
    data: String,
    found: BTreeMap<String, Arc<Dataset>>,
    /// Sets of the common feature: k01, k02, ...
    series: usize,
}

impl Sets {
    pub(super) async fn find(asked: &mut RequestReader, data: &str) -> Result<Self, JobError> {
        let app = asked.app().clone();
        let there = app.datasets().ids().await.map_err(WorkError::transient)?;
        let is_there = |set: Set| there.contains(&set.dataset(data));
        let last = (1..=MOST).rev().find(|count| is_there(Set::Common(*count)));
        let series = last.unwrap_or(usize::from(is_there(Set::Feature)));
        let mut wanted = vec![Set::Objects, Set::Scenes, Set::Test];
        if series > 0 {
            wanted.push(Set::Feature);
            wanted.extend((1..=series).map(Set::Common));
        }
        let mut found = BTreeMap::new();
        for set in wanted {
            let id = set.dataset(data);
            let message = match app.datasets().open(&id).await {
                Ok(dataset) => {
                    found.insert(id, dataset);
                    continue;
                }
                Err(DatasetError::Unknown { .. }) => missing(set, &id, data),
                Err(error) => error.to_string(),
            };
            asked.faults.push(Fault::says("data", message));
        }
        Ok(Self {
            data: data.to_owned(),
            found,
            series,
        })
    }

    pub(super) fn members(&self) -> Vec<Member> {
        Member::all(self.series)
    }

    pub(super) fn has_feature(&self) -> bool {
        self.series > 0
    }

    pub(super) fn hashes(&self) -> BTreeMap<String, String> {
        let sets = self.found.iter();
        sets.map(|(id, dataset)| (id.clone(), dataset.hash.clone()))
            .collect()
    }

    fn get(&self, set: Set) -> Option<&Arc<Dataset>> {
        self.found.get(&set.dataset(&self.data))
    }

    /// How many images each model has; tells what stands in the way of its training, and of judging
    /// it.
    pub(super) async fn check(
        &self,
        asked: &mut RequestReader,
        recipe: &Recipe,
        model: &Arc<Model>,
    ) -> Result<Vec<Images>, JobError> {
        let app = asked.app().clone();
        let mut images = Vec::new();
        for member in self.members() {
            let Some(dataset) = self.get(member.trained_on()) else {
                continue;
            };
            let made = opened(&app, recipe.clone(), model.clone(), dataset.clone()).await;
            let trainer = match made {
                Ok((trainer, _)) => trainer,
                Err(error) => {
                    let faults = faults_of(error)?;
                    let is_data = |fault: &Fault| fault.param == "dataset";
                    let is_of_data = faults.shown().iter().all(is_data);
                    asked.faults.append(faults, |fault| match is_data(&fault) {
                        true => Fault {
                            param: "data".to_owned(),
                            message: format!("{}: {}", dataset.id, fault.message),
                            ..fault
                        },
                        false => fault,
                    });
                    if is_of_data {
                        continue;
                    }
                    // The same for every model.
                    break;
                }
            };
            let labels = trainer.labels().clone();
            if member == Member::Scenes && self.series > 0 && self.series != labels.len() {
                let message = format!(
                    "there are sets {} to {}, and {} classes of scenes: a set for each has to be there, as bam_data makes them",
                    Set::Common(1).dataset(&self.data),
                    Set::Common(self.series).dataset(&self.data),
                    labels.len()
                );
                asked.faults.push(Fault::says("data", message));
            }
            let (training, validation) = trainer.images();
            images.push(Images {
                trained_on: (training + validation) as u64,
                judged_on: self.check_test(asked, member, labels).await?,
            });
        }
        Ok(images)
    }

    /// How many pictures a model is judged by.
    async fn check_test(
        &self,
        asked: &mut RequestReader,
        member: Member,
        labels: Labels,
    ) -> Result<u64, JobError> {
        let Some(dataset) = self.get(member.judged_on()).cloned() else {
            return Ok(0);
        };
        let id = dataset.id.clone();
        let find = move || {
            let pictures = pictures(&dataset, &labels, member.roles());
            let is_missing = |role: &Role| count(&pictures, *role) == 0;
            let missing: Vec<Role> = member.roles().iter().copied().filter(is_missing).collect();
            (pictures.len() as u64, missing)
        };
        let (images, missing) = asked.app().pool().run(find).await?;
        for role in missing {
            let message = format!(
                "{id} has no image of role `{}` that can be decoded and is labelled with a class of {}",
                role.name(),
                member.trained_on().dataset(&self.data)
            );
            asked.faults.push(Fault::says("data", message));
        }
        Ok(images)
    }
}

fn missing(set: Set, id: &str, data: &str) -> String {
    let with = match set {
        Set::Feature | Set::Common(_) => " and a common_feature",
        _ => "",
    };
    format!("there is no data set {id}: a job of kind bam_data with id {data}{with} makes it")
}
