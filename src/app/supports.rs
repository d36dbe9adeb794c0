//! Sets of supports of a model: listed, uploaded, deleted.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use serde_json::Value;

use super::{App, AppError};
use crate::{
    dataset::{Arrival, ID_FORM, is_id},
    driver::model_defaults,
    faults::{Fault, Faults},
    methods::target::{FORMS, Target},
    model::{
        Model,
        registry::graph_of_file,
        support_store::{NewMember, NewSet},
        supports::{
            MOST_SUPPORTS, Provenance, SupportSet, SupportsError, Weights, alpha_of, check_weights,
            read_weights, weights_of_graph,
        },
    },
    quota::on_disk,
    text::{excerpt, shown},
};
use onnx_autodiff::onnx::{graph::Graph, read_bytes};

/// What members' files are called.
const NAMES: &str = "alpha_NUMBER.onnx or alpha_NUMBER.safetensors";

impl App {
    pub fn model(&self, id: &str) -> Result<Arc<Model>, AppError> {
        self.models().get(id).ok_or_else(|| AppError::UnknownModel {
            id: id.to_owned(),
            known: self.model_ids(),
        })
    }

    pub fn support_set(&self, model: &Model, name: &str) -> Result<Arc<SupportSet>, AppError> {
        let found = model.supports.iter().find(|set| set.name == name);
        let unknown = || SupportsError::Unknown {
            model: model.id.clone(),
            set: name.to_owned(),
        };
        Ok(found.cloned().ok_or_else(unknown)?)
    }

    /// What a set is asked to be: a name of its own, and two classes of the model.
    pub fn plan_supports(
        &self,
        model: &Model,
        name: &str,
        classes: Option<&Value>,
    ) -> Result<[usize; 2], Faults> {
        let mut faults = Faults::default();
        if !is_id(name) {
            faults.push(Fault::new(
                "set",
                format!("{} is no name", excerpt(name)),
                [ID_FORM],
            ));
        }
        let classes = read_classes(model, classes).map_err(|fault| faults.push(fault));
        match classes {
            Ok(classes) => faults.settle(classes),
            Err(()) => Err(faults),
        }
    }

    /// Makes a set of an archive of its members, replacing one of the same name. Whether it is new
    /// comes with it.
    pub async fn put_supports(
        &self,
        model: &Arc<Model>,
        name: &str,
        classes: [usize; 2],
        archive: Arrival,
    ) -> Result<(Arc<SupportSet>, bool), AppError> {
        let (folder, _room) = self.datasets().unpack_archive(archive, is_member).await?;
        let of = model.clone();
        let read = move || read_members(folder.path(), &of);
        let members = self.datasets().work(read).await??;
        self.install_supports(
            model,
            NewSet {
                name: name.to_owned(),
                classes,
                provenance: Provenance::Upload,
                members,
            },
        )
        .await
    }

    /// Puts a set to use: here at once, on other replicas at their next look.
    pub async fn install_supports(
        &self,
        model: &Arc<Model>,
        set: NewSet,
    ) -> Result<(Arc<SupportSet>, bool), AppError> {
        let bytes = set
            .members
            .iter()
            .map(|member| on_disk(member.bytes()))
            .sum();
        let app = self.clone();
        let is_own = self.settings().object_store.is_none();
        let reserve = move || is_own.then(|| app.quota().reserve(bytes)).transpose();
        let room = self.pool().run(reserve).await??;
        let (set, replaced) = self
            .parts
            .supports
            .install(&self.parts.models, model, set)
            .await?;
        if let Some(room) = room {
            room.keep();
            let freed = replaced.as_ref().map_or(0, |set| on_disk_of(set));
            self.quota().release(freed);
        }
        Ok((set, replaced.is_none()))
    }

    pub async fn remove_supports(&self, model: &Model, name: &str) -> Result<(), AppError> {
        let removed = self
            .parts
            .supports
            .remove(&self.parts.models, model, name)
            .await?;
        if self.settings().object_store.is_none() {
            self.quota().release(on_disk_of(&removed));
        }
        Ok(())
    }

    /// Takes over what other replicas installed and removed: before a job reads its spec, which may
    /// name a set that is newer than the last look.
    pub async fn follow_supports(&self) -> Result<(), SupportsError> {
        self.parts.supports.follow(&self.parts.models).await
    }
}

fn on_disk_of(set: &SupportSet) -> u64 {
    set.members.iter().map(|member| on_disk(member.bytes)).sum()
}

/// Two different classes: a list, or a text that joins them by a comma.
pub fn read_classes(model: &Model, given: Option<&Value>) -> Result<[usize; 2], Fault> {
    let classes = model_defaults(model).classes;
    let refuse =
        |message: String| Fault::new("classes", message, ["two classes of the model, A,B"]);
    let values: Vec<Value> = match given {
        None => {
            return Err(refuse(
                "is missing: the two classes that are kept apart".to_owned(),
            ));
        }
        Some(Value::Array(values)) => values.clone(),
        Some(Value::String(text)) => text.split(',').map(Value::from).collect(),
        Some(other) => vec![other.clone()],
    };
    let [one, other] = values.as_slice() else {
        return Err(refuse(format!("names {} classes", values.len())));
    };
    let class = |value: &Value| match Target::parse(value, classes) {
        Ok(Target::Class(class)) if classes.count.is_none_or(|count| class < count) => Ok(class),
        Ok(_) => Err(refuse(format!("{} is no class of the model", shown(value)))),
        Err(error) => Err(Fault::new("classes", error.explain(classes), &FORMS[1..])),
    };
    match [class(one)?, class(other)?] {
        [one, other] if one == other => Err(refuse("names one class twice".to_owned())),
        both => Ok(both),
    }
}

/// Other files of an archive, such as a README, are left alone.
fn is_member(file: &str) -> bool {
    file.ends_with(".onnx") || file.ends_with(".safetensors")
}

/// The members in a folder and below: every fault of every file.
fn read_members(folder: &Path, model: &Model) -> Result<Vec<NewMember>, AppError> {
    let files = files_below(folder).map_err(SupportsError::Disk)?;
    let mut faults = Faults::default();
    if files.is_empty() || files.len() > MOST_SUPPORTS {
        let message = format!("has {} files of supports", files.len());
        let allowed = [format!("1 to {MOST_SUPPORTS}, called {NAMES}")];
        return Err(Faults::from(Fault::new("archive", message, allowed)).into());
    }
    let is_graph = |path: &PathBuf| path.extension().is_some_and(|found| found == "onnx");
    let own = match files.iter().any(is_graph) {
        true => graph_of_file(model).map_err(SupportsError::Disk)?,
        false => None,
    };
    let (mut members, mut alphas): (Vec<NewMember>, Vec<f64>) = (Vec::new(), Vec::new());
    for path in files {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let alpha = alpha_of(&stem);
        match alpha {
            None => faults.push(Fault::new(
                file.as_ref(),
                "has no alpha in its name",
                [NAMES],
            )),
            Some(alpha) if alphas.contains(&alpha) => {
                faults.push(Fault::says(file.as_ref(), "has the alpha of another file"));
            }
            Some(alpha) => alphas.push(alpha),
        }
        let bytes = Bytes::from(fs::read(&path).map_err(SupportsError::Disk)?);
        let checked = read_member(&file, bytes, is_graph(&path), own.as_ref(), model)
            .and_then(|weights| check_weights(&file, &weights, model).map(|()| weights));
        match (checked, alpha) {
            (Ok(weights), Some(alpha)) => members.push(NewMember::new(alpha, &weights)?),
            (Ok(_), None) => {}
            (Err(found), _) => faults.append(found, |fault| fault),
        }
    }
    Ok(faults.settle(members)?)
}

fn read_member(
    file: &str,
    bytes: Bytes,
    is_graph: bool,
    own: Option<&Graph>,
    model: &Model,
) -> Result<Weights, Faults> {
    if !is_graph {
        return read_weights(file, &bytes);
    }
    let Some(own) = own else {
        let message = "cannot be compared: the model's own file is not there, or has changed since it was loaded; send the weights as \
                       safetensors";
        return Err(Fault::says(file, message).into());
    };
    let graph = read_bytes(bytes, None)
        .map_err(|error| Faults::from(Fault::says(file, error.to_string())))?;
    weights_of_graph(file, &graph, own, model)
}

/// Sorted.
fn files_below(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (mut folders, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => folders.push(entry.path()),
                false => files.push(entry.path()),
            }
        }
    }
    files.sort();
    Ok(files)
}
