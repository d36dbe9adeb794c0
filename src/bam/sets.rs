//! The data sets that are made of the compositions. The two `_train` sets hold X_{o,s}, once with
//! the objects as labels and once with the scenes. The set `test` has both labels, object|scene, and
//! also the same scenes without the object, X_{∅,s}, and the objects on grey, X_{o,g}. The set kNN
//! is X^k_{o,s}: the common feature in the first NN scene classes, and the others' scenes without.
//! `feature_test` has the feature in the first scene class, which has it in all of them.

use super::{BamError, Composition, Part, Plan, Role};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    Objects,
    Scenes,
    Test,
    /// The common feature in the first scene class, and the scenes without it.
    Feature,
    /// The common feature in so many scene classes.
    Common(usize),
}

impl Set {
    /// All sets of a plan.
    pub fn all(plan: &Plan) -> Vec<Self> {
        let mut sets = vec![Self::Objects, Self::Scenes, Self::Test];
        if plan.feature().is_some() {
            sets.push(Self::Feature);
            sets.extend((1..=plan.options.scene_classes.len()).map(Self::Common));
        }
        sets
    }

    /// Of a folder, and behind the id of data sets.
    pub fn name(self) -> String {
        match self {
            Self::Objects => "object_train".to_owned(),
            Self::Scenes => "scene_train".to_owned(),
            Self::Test => "test".to_owned(),
            Self::Feature => "feature_test".to_owned(),
            Self::Common(count) => format!("k{count:02}"),
        }
    }

    /// The id of the data set among those whose ids begin with `start`.
    pub fn dataset(self, start: &str) -> String {
        format!("{start}_{}", self.name())
    }

    /// The commonality k of the common feature.
    pub fn commonality(self, plan: &Plan) -> Option<f64> {
        match self {
            Self::Common(count) => Some(count as f64 / plan.options.scene_classes.len() as f64),
            _ => None,
        }
    }

    /// The pictures of a composition that the set holds.
    pub fn roles(self, plan: &Plan, one: &Composition) -> &'static [Role] {
        let is_feature = plan.feature() == Some(one.object_class);
        match (self, one.part) {
            (Self::Objects | Self::Scenes, Part::Train) => &[Role::With],
            (Self::Test, Part::Test) => &[Role::With, Role::Without, Role::Grey],
            (Self::Feature, Part::Feature) => &[Role::With, Role::Without],
            (Self::Common(count), Part::Train) if is_feature => match one.scene_class < count {
                true => &[Role::With],
                false => &[Role::Without],
            },
            _ => &[],
        }
    }

    fn label(self, plan: &Plan, one: &Composition) -> String {
        let (object, scene) = (plan.object_class(one), plan.scene_class(one));
        match self {
            Self::Objects => object.to_owned(),
            Self::Scenes | Self::Common(_) => scene.to_owned(),
            Self::Test | Self::Feature => format!("{object}|{scene}"),
        }
    }
}

/// The set's labels.csv, and the files that it names, each once.
pub fn table(set: Set, plan: &Plan) -> Result<(Vec<u8>, Vec<String>), BamError> {
    let mut rows = Vec::new();
    for one in &plan.compositions {
        let (group, mask) = (plan.group(one), Role::Mask.file(plan, one));
        for role in set.roles(plan, one) {
            rows.push([
                role.file(plan, one),
                set.label(plan, one),
                group.clone(),
                role.name().to_owned(),
                mask.clone(),
            ]);
        }
    }
    rows.sort();
    let fault = |error: String| BamError::Encode { reason: error };
    let mut writer = csv::Writer::from_writer(Vec::new());
    let header = ["file", "label", "group", "role", "mask"];
    let header = header.map(str::to_owned);
    for row in std::iter::once(&header).chain(&rows) {
        writer
            .write_record(row)
            .map_err(|error| fault(error.to_string()))?;
    }
    let text = writer
        .into_inner()
        .map_err(|error| fault(error.to_string()))?;
    let mut files: Vec<String> = rows
        .into_iter()
        .flat_map(|[file, _, _, _, mask]| [file, mask])
        .collect();
    files.sort();
    files.dedup();
    Ok((text, files))
}

/// The files of a composition that some set needs.
pub(super) fn needed(plan: &Plan, one: &Composition) -> Vec<Role> {
    let sets = Set::all(plan);
    let is_needed = |role: &Role| {
        let has = |set: &Set| set.roles(plan, one).contains(role);
        *role == Role::Mask || sets.iter().any(has)
    };
    Role::ALL.into_iter().filter(is_needed).collect()
}
