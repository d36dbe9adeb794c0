//! What the pictures of a composition are, and the names of their files.

use super::{Composition, Plan};

/// What a picture is of its composition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// X_{o,s}: the object in the scene.
    With,
    /// X_{∅,s}: the scene alone.
    Without,
    /// X_{o,g}: the object on grey.
    Grey,
    /// Where the object is.
    Mask,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::With, Self::Without, Self::Grey, Self::Mask];

    /// In the column `role`, and the folder of the files.
    pub fn name(self) -> &'static str {
        match self {
            Self::With => "with",
            Self::Without => "without",
            Self::Grey => "grey",
            Self::Mask => "masks",
        }
    }

    /// Below the folder of a data set.
    pub fn file(self, plan: &Plan, one: &Composition) -> String {
        format!("{}/{}.png", self.name(), plan.group(one))
    }
}
