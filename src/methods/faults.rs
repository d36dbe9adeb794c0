//! What is wrong with the parameters of a request: every fault at once, in bounded space, whatever
//! was sent.

use serde::Serialize;

use crate::text::{cut, excerpt};

/// One parameter that was refused, and what would have been accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fault {
    pub param: String,
    pub message: String,
    pub allowed: Vec<String>,
}

impl Fault {
    pub fn new<T: ToString>(
        param: impl Into<String>,
        message: impl Into<String>,
        allowed: impl IntoIterator<Item = T>,
    ) -> Self {
        let allowed = allowed.into_iter().map(|form| form.to_string()).collect();
        Self {
            param: param.into(),
            message: message.into(),
            allowed,
        }
    }

    /// With a message and nothing in particular that would have been accepted.
    pub fn says(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            param: param.into(),
            message: message.into(),
            allowed: Vec::new(),
        }
    }
}

/// The first [`Faults::SHOWN`] faults, and how many more there are. Parameter names and messages
/// are cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct Faults {
    shown: Vec<Fault>,
    more: usize,
}

impl Faults {
    /// The most faults that are told.
    pub const SHOWN: usize = 20;
    /// The most bytes of a message. The texts of a client in it are shorter:
    /// [`crate::text::EXCERPT_BYTES`].
    const MESSAGE_BYTES: usize = 1000;

    pub fn push(&mut self, fault: Fault) {
        self.push_with(|| fault);
    }

    /// As `push`, of a fault that is only made where it is told.
    pub fn push_with(&mut self, make: impl FnOnce() -> Fault) {
        if self.shown.len() == Self::SHOWN {
            self.more += 1;
            return;
        }
        let Fault {
            param,
            message,
            allowed,
        } = make();
        let (param, message) = (
            excerpt(&param).into_owned(),
            cut(&message, Self::MESSAGE_BYTES).into_owned(),
        );
        self.shown.push(Fault {
            param,
            message,
            allowed,
        });
    }

    /// `names` are parameters that nobody takes.
    pub fn refuse_unknown<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a String>,
        message: &str,
        allowed: impl Fn() -> Vec<String>,
    ) {
        for name in names {
            self.push_with(|| Fault {
                param: name.clone(),
                message: message.to_owned(),
                allowed: allowed(),
            });
        }
    }

    /// The faults of another reader, each changed by `change` where it is told.
    pub fn append(&mut self, others: Faults, change: impl Fn(Fault) -> Fault) {
        self.more += others.more;
        for fault in others.shown {
            self.push_with(|| change(fault));
        }
    }

    /// `value`, where there is no fault.
    pub fn settle<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }

    pub fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    /// Those that are told.
    pub fn shown(&self) -> &[Fault] {
        &self.shown
    }

    /// How many there are beside those.
    pub fn more(&self) -> usize {
        self.more
    }

    /// Drops a fault that repeats the one before it.
    pub fn dedup(&mut self) {
        self.shown.dedup();
    }

    fn sentence(&self) -> String {
        let told = self
            .shown
            .iter()
            .map(|fault| format!("{}: {}", fault.param, fault.message));
        let more = (self.more > 0).then(|| format!("and {} more", self.more));
        told.chain(more).collect::<Vec<_>>().join("; ")
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self::from_iter([fault])
    }
}

impl Extend<Fault> for Faults {
    fn extend<I: IntoIterator<Item = Fault>>(&mut self, faults: I) {
        faults.into_iter().for_each(|fault| self.push(fault));
    }
}

impl FromIterator<Fault> for Faults {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> Self {
        let mut all = Self::default();
        all.extend(faults);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_faults_take_the_space_of_twenty() {
        let mut faults = Faults::default();
        let names: Vec<String> = (0..1_000_000).map(|at| format!("{at}")).collect();
        let made = std::cell::Cell::new(0);
        faults.refuse_unknown(&names, "is not a parameter", || {
            made.set(made.get() + 1);
            vec!["n_steps".into()]
        });
        assert_eq!(
            (faults.shown().len(), faults.more(), made.get()),
            (20, 999_980, 20)
        );
        assert!(
            faults
                .to_string()
                .ends_with("19: is not a parameter; and 999980 more"),
            "{faults}"
        );
        let mut all = Faults::from(Fault::says("model", "is missing"));
        all.append(faults, |fault| Fault {
            param: format!("methods[0].{}", fault.param),
            ..fault
        });
        assert_eq!((all.shown().len(), all.more()), (20, 999_981));
        assert_eq!(all.shown()[1].param, "methods[0].0");
    }

    #[test]
    fn names_and_messages_are_cut() {
        let long = "x".repeat(1 << 20);
        let faults = Faults::from(Fault::says(&long, format!("`{long}` is not a value")));
        assert!(faults.to_string().len() < 1300);
        assert_eq!(faults.settle(()).unwrap_err().shown().len(), 1);
        assert_eq!(Faults::default().settle(7), Ok(7));
    }
}
