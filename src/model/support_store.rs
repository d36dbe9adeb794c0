//! Sets of supports, shared by all replicas. The store of files keeps the weights as
//! `supports/<model>/<its hash>/<set>/<id>/<n>.safetensors`, by rising alpha; `set.json` beside the
//! versions describes the one in use. Supports are opened at first use, and stay in memory as long
//! as a request or an open session holds them.

use std::{
    collections::HashMap,
    fs::File,
    io::Write,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use object_store::path::Path as FilePath;
use sha2::{Digest, Sha256};

use super::{
    Model,
    registry::{Models, Registry},
    supports::{
        MOST_SETS, Member, Provenance, Support, SupportSet, SupportsError, Weights, read_weights,
        to_file,
    },
    variant,
};
use crate::{
    files::{Files, hex},
    pool::Pool,
};

const FOLDER: &str = "supports";
const DESCRIPTION: &str = "set.json";
/// Hex digits of the SHA-256 that make a set's id.
const ID_LENGTH: usize = 16;

#[derive(Debug)]
pub struct SupportStore {
    files: Files,
    pool: Pool,
    /// Held while the sets of models in this process are replaced, so that the last version stays.
    changing: tokio::sync::Mutex<()>,
    /// By the hash of the variant.
    opened: Mutex<HashMap<String, Weak<Model>>>,
}

/// A set that is to be installed.
pub struct NewSet {
    pub name: String,
    pub classes: [usize; 2],
    pub provenance: Provenance,
    pub members: Vec<NewMember>,
}

/// The weights of a support, checked, in a file of this machine.
pub struct NewMember {
    member: Member,
    file: File,
}

impl NewMember {
    /// Writes the weights to a temporary file. Belongs on the pool.
    pub fn new(alpha: f64, weights: &Weights) -> Result<Self, SupportsError> {
        let bytes = to_file(weights)?;
        let member = Member {
            alpha,
            hash: hex(&Sha256::digest(&bytes)),
            bytes: bytes.len() as u64,
        };
        let mut file = tempfile::tempfile().map_err(SupportsError::Disk)?;
        file.write_all(&bytes).map_err(SupportsError::Disk)?;
        Ok(Self { member, file })
    }

    pub fn bytes(&self) -> u64 {
        self.member.bytes
    }
}

impl SupportStore {
    pub fn new(files: Files, pool: Pool) -> Self {
        Self {
            files,
            pool,
            changing: tokio::sync::Mutex::default(),
            opened: Mutex::default(),
        }
    }

    /// Stores a set of the model and puts it to use: here at once, on other replicas at their next
    /// look. Returns it, and the one it replaced.
    pub async fn install(
        &self,
        models: &Models,
        model: &Model,
        new: NewSet,
    ) -> Result<(Arc<SupportSet>, Option<Arc<SupportSet>>), SupportsError> {
        let _changing = self.changing.lock().await;
        let NewSet {
            name,
            classes,
            provenance,
            mut members,
        } = new;
        members.sort_by(|one, other| one.member.alpha.total_cmp(&other.member.alpha));
        let (members, files): (Vec<Member>, Vec<File>) = members
            .into_iter()
            .map(|NewMember { member, file }| (member, file))
            .unzip();
        let mut set = SupportSet {
            name,
            id: String::new(),
            classes,
            members,
            provenance,
        };
        set.id = hex(&Sha256::digest(serde_json::json!(set).to_string()));
        set.id.truncate(ID_LENGTH);
        let before = self.sets_of(model).await?;
        let replaced = before.iter().find(|other| other.name == set.name).cloned();
        if replaced.is_none() && before.len() >= MOST_SETS {
            let model = model.id.clone();
            return Err(SupportsError::TooMany { model });
        }
        for (number, file) in files.into_iter().enumerate() {
            self.files
                .upload(&weights_of(model, &set, number), file)
                .await?;
        }
        let description = serde_json::json!(set).to_string();
        self.files
            .write(&folder(model, &set.name).join(DESCRIPTION), description)
            .await?;
        if let Some(replaced) = replaced.as_ref().filter(|other| other.id != set.id) {
            self.files.remove_all(&version(model, replaced)).await?;
        }
        let set = Arc::new(set);
        self.refresh(models).await?;
        Ok((set, replaced))
    }

    /// Removes a set, which is returned.
    pub async fn remove(
        &self,
        models: &Models,
        model: &Model,
        name: &str,
    ) -> Result<Arc<SupportSet>, SupportsError> {
        let _changing = self.changing.lock().await;
        let mut sets = self.sets_of(model).await?.into_iter();
        let set = sets
            .find(|set| set.name == name)
            .ok_or_else(|| SupportsError::Unknown {
                model: model.id.clone(),
                set: name.to_owned(),
            })?;
        let folder = folder(model, name);
        // First what names the rest.
        self.files
            .remove(vec![folder.clone().join(DESCRIPTION)])
            .await?;
        self.files.remove_all(&folder).await?;
        self.refresh(models).await?;
        Ok(set)
    }

    /// Removes all sets of a model that is gone.
    pub async fn forget(&self, model: &Model) -> Result<(), SupportsError> {
        let _changing = self.changing.lock().await;
        Ok(self.files.remove_all(&home(model)).await?)
    }

    /// Picks up what other replicas installed and removed.
    pub async fn follow(&self, models: &Models) -> Result<(), SupportsError> {
        let _changing = self.changing.lock().await;
        self.refresh(models).await
    }

    async fn refresh(&self, models: &Models) -> Result<(), SupportsError> {
        let changes = self.changes(&models.get()).await?;
        if !changes.is_empty() {
            models.change(|registry| apply(changes, registry));
        }
        Ok(())
    }

    /// Gives the models of a registry that is not in use yet the sets that are theirs.
    pub async fn bring_up_to_date(&self, models: &mut Registry) -> Result<(), SupportsError> {
        let changes = self.changes(models).await?;
        apply(changes, models);
        Ok(())
    }

    /// The models that are to have other sets.
    async fn changes(&self, models: &Registry) -> Result<Vec<Change>, SupportsError> {
        let stored = self.files.list(&FilePath::from(FOLDER)).await?;
        let mut changes = Vec::new();
        for model in models.iter() {
            let sets = self.described(&model, &stored).await?;
            if *sets != *model.supports {
                changes.push((model, sets));
            }
        }
        Ok(changes)
    }

    /// The sets of a model at present, by name.
    async fn sets_of(&self, model: &Model) -> Result<Vec<Arc<SupportSet>>, SupportsError> {
        let stored = self.files.list(&home(model)).await?;
        self.described(model, &stored).await
    }

    /// One that cannot be read is left out.
    async fn described(
        &self,
        model: &Model,
        stored: &[FilePath],
    ) -> Result<Vec<Arc<SupportSet>>, SupportsError> {
        let home = home(model);
        let mut sets = Vec::new();
        for path in stored {
            let mut below = path.prefix_match(&home).into_iter().flatten();
            let is_description = below
                .nth(1)
                .is_some_and(|part| part.as_ref() == DESCRIPTION)
                && below.next().is_none();
            if !is_description {
                continue;
            }
            let Some(text) = self.files.read_if_there(path).await? else {
                continue;
            };
            match serde_json::from_slice(&text) {
                Ok(set) => sets.push(Arc::new(set)),
                Err(error) => {
                    tracing::warn!(model = model.id, %path, %error, "a set of supports cannot be read");
                }
            }
        }
        sets.sort_by(|one: &Arc<SupportSet>, other| one.name.cmp(&other.name));
        Ok(sets)
    }

    /// The supports of a set of the model, by rising alpha.
    pub async fn open(
        &self,
        model: &Arc<Model>,
        set: &SupportSet,
    ) -> Result<Arc<[Support]>, SupportsError> {
        let mut supports = Vec::with_capacity(set.members.len());
        for (number, member) in set.members.iter().enumerate() {
            supports.push(Support {
                alpha: member.alpha,
                model: self.open_one(model, set, number, member).await?,
            });
        }
        Ok(supports.into())
    }

    async fn open_one(
        &self,
        model: &Arc<Model>,
        set: &SupportSet,
        number: usize,
        member: &Member,
    ) -> Result<Arc<Model>, SupportsError> {
        let key = format!("{}, {}", model.hash, member.hash);
        let known = || {
            let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
            opened.get(&key).and_then(Weak::upgrade)
        };
        if let Some(known) = known() {
            return Ok(known);
        }
        let lost = || SupportsError::Lost {
            set: set.name.clone(),
        };
        let bytes = match self.files.read(&weights_of(model, set, number)).await {
            Err(error) if error.is_missing() => return Err(lost()),
            read => read?,
        };
        let (model, expected) = (model.clone(), member.hash.clone());
        let make = move || {
            if hex(&Sha256::digest(&bytes)) != expected {
                return Ok(None);
            }
            let weights = read_weights(DESCRIPTION, &bytes).map_err(SupportsError::Weights)?;
            let variant = variant::with_weights(&model, weights, &expected)?;
            Ok::<_, SupportsError>(Some(Arc::new(variant)))
        };
        let made = self.pool.run(make).await??.ok_or_else(lost)?;
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.retain(|_, model| model.strong_count() > 0);
        // Another caller may have opened it meanwhile: all have the same one, and share its batches.
        let known = opened.get(&key).and_then(Weak::upgrade);
        Ok(known.unwrap_or_else(|| {
            opened.insert(key, Arc::downgrade(&made));
            made
        }))
    }
}

/// A model, and the sets that it is to have.
type Change = (Arc<Model>, Vec<Arc<SupportSet>>);

fn apply(changes: Vec<Change>, registry: &mut Registry) {
    for (model, sets) in changes {
        registry.set_supports(&model, sets.into());
    }
}

fn home(model: &Model) -> FilePath {
    FilePath::from_iter([FOLDER, &model.id, &model.hash])
}

fn folder(model: &Model, set: &str) -> FilePath {
    home(model).join(set)
}

fn version(model: &Model, set: &SupportSet) -> FilePath {
    folder(model, &set.name).join(set.id.as_str())
}

fn weights_of(model: &Model, set: &SupportSet, number: usize) -> FilePath {
    version(model, set).join(format!("{number}.safetensors"))
}
