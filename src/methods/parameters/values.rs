//! The values of the groups of parameters that methods define, each group a type.

use std::{any::Any, fmt, sync::Arc};

/// The values of one group.
pub trait Values: Any + fmt::Debug + Send + Sync {}

impl<T: Any + fmt::Debug + Send + Sync> Values for T {}

/// One set of values for each type. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct GroupValues(Vec<Arc<dyn Values>>);

impl GroupValues {
    /// Those of a group that was not set are its defaults.
    pub(super) fn get<G: Values + Clone + Default>(&self) -> G {
        let found = self
            .0
            .iter()
            .find_map(|values| as_any(values).downcast_ref());
        found.cloned().unwrap_or_default()
    }

    pub(super) fn set<G: Values>(&mut self, values: G) {
        self.0.retain(|other| !as_any(other).is::<G>());
        self.0.push(Arc::new(values));
    }
}

fn as_any(values: &Arc<dyn Values>) -> &dyn Any {
    values.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_its_own_values_and_defaults() {
        let mut values = GroupValues::default();
        values.set(7_u8);
        values.set(String::from("seven"));
        values.set(8_u8);
        assert_eq!(
            (
                values.get::<u8>(),
                values.get::<String>(),
                values.get::<i64>()
            ),
            (8, "seven".to_owned(), 0)
        );
    }
}
