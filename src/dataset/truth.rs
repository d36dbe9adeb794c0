//! The labels of an image, and the classes of a model that they name. A name (of a folder, or in
//! the column `label`) is a class label; digits are an index unless a label of the model consists
//! of digits. The column `index` holds class indices.

use std::fmt;

use super::{Dataset, DatasetImage};
use crate::{
    model::labels::{Classes, LabelError},
    text::excerpt,
};

/// The most labels in one sentence.
const SHOWN: usize = 5;

/// The labels of an image; if there are several, any of them is correct.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// From the column `label`, or the name of the folder.
    pub names: Vec<String>,
    /// From the column `index`.
    pub indices: Vec<usize>,
}

/// Where the labels of a set come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Folders,
    /// Folders of one name hold all images. The name may be a class, or just that of the set.
    OnlyFolder,
    Table,
    /// A table with labels whose column `index` counts the rows from 0: it may hold classes, or row
    /// numbers without meaning.
    NumberedTable,
}

/// The classes of a truth in a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meaning {
    /// The correct classes.
    pub classes: Vec<usize>,
    pub doubts: Vec<Doubt>,
}

/// Why a label has no class.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Doubt {
    #[error(transparent)]
    Label(#[from] LabelError),
    #[error("no class is called `{}`, and index {index} is the row's number too: leave out one of the columns", excerpt(.name))]
    RowNumber { name: String, index: usize },
    #[error("{index}, label says {label}")]
    Disagree { index: String, label: String },
}

impl Doubt {
    /// The problem's `kind` in answers.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Label(LabelError::Several { .. }) | Self::Disagree { .. } => "ambiguous_label",
            Self::Label(_) | Self::RowNumber { .. } => "unknown_label",
        }
    }

    /// The reason, with suggestions: compares a name with every label of the model.
    pub fn explain(&self, classes: Classes<'_>) -> String {
        if let Self::Label(error) = self {
            classes.explain(error)
        } else {
            self.to_string()
        }
    }
}

impl Dataset {
    pub fn meaning(&self, picture: &DatasetImage, classes: Classes<'_>) -> Meaning {
        picture.truth.meaning(self.source, classes)
    }
}

impl Truth {
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.indices.is_empty()
    }

    /// The labels as answers list them: names, or indices if there are no names.
    pub fn texts(&self) -> Vec<String> {
        match self.names[..] {
            [] => self
                .indices
                .iter()
                .map(|index| format!("index:{index}"))
                .collect(),
            _ => self.names.clone(),
        }
    }

    fn meaning(&self, source: Source, classes: Classes<'_>) -> Meaning {
        let of_names = || Meaning::of_names(self.names.iter().map(|name| classes.named(name)));
        let of_indices = || Meaning::of(self.indices.iter().map(|index| classes.index(*index)));
        if self.indices.is_empty() && source == Source::OnlyFolder {
            let mut meaning = of_names();
            meaning.keep_ambiguous();
            return meaning;
        }
        if self.indices.is_empty() {
            return of_names();
        }
        // A name that several classes share stands for any of them; the index selects one.
        let named = |name: &String| match classes.named(name) {
            Ok(class) => Some(vec![class]),
            Err(LabelError::Several { classes, .. }) => Some(classes),
            Err(_) => None,
        };
        let named: Vec<Vec<usize>> = self.names.iter().filter_map(named).collect();
        let agree = self
            .indices
            .iter()
            .all(|index| named.iter().any(|classes| classes.contains(index)))
            && named
                .iter()
                .all(|classes| classes.iter().any(|class| self.indices.contains(class)));
        match (source, named.is_empty()) {
            _ if agree || self.names.is_empty() => of_indices(),
            (Source::NumberedTable, true) => Doubt::RowNumber {
                name: self.names[0].clone(),
                index: self.indices[0],
            }
            .into(),
            (Source::NumberedTable, false) => of_names(),
            // Names that are no classes are descriptions.
            (_, true) => of_indices(),
            (_, false) => {
                let is = |index: &usize| format!("index {index} is `{}`", classes.name(*index));
                let label = self.names.iter().map(|name| format!("`{}`", excerpt(name)));
                Doubt::Disagree {
                    index: join(self.indices.iter().map(is), ", "),
                    label: join(label, ", "),
                }
                .into()
            }
        }
    }
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&join(
            self.texts().iter().map(|text| excerpt(text).into_owned()),
            " or ",
        ))
    }
}

/// Joins the first [`SHOWN`] texts, and says how many more there are.
fn join(texts: impl ExactSizeIterator<Item = String>, between: &str) -> String {
    let more = texts.len().saturating_sub(SHOWN);
    let shown = texts.take(SHOWN).collect::<Vec<_>>().join(between);
    if more == 0 {
        shown
    } else {
        format!("{shown} and {more} more")
    }
}

impl Meaning {
    fn of(found: impl Iterator<Item = Result<usize, LabelError>>) -> Self {
        let mut meaning = Self::default();
        for found in found {
            match found {
                Ok(class) => meaning.classes.push(class),
                Err(error) => meaning.doubts.push(error.into()),
            }
        }
        meaning
    }

    /// Names that the model does not know say nothing beside one that it knows.
    fn of_names(found: impl Iterator<Item = Result<usize, LabelError>>) -> Self {
        let mut meaning = Self::of(found);
        if !meaning.classes.is_empty() {
            meaning.keep_ambiguous();
        }
        meaning
    }

    fn keep_ambiguous(&mut self) {
        let is_ambiguous = |doubt: &Doubt| doubt.kind() == "ambiguous_label";
        self.doubts.retain(is_ambiguous);
    }

    /// Neither classes nor doubts.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty() && self.doubts.is_empty()
    }
}

impl From<Doubt> for Meaning {
    fn from(doubt: Doubt) -> Self {
        Self {
            classes: Vec::new(),
            doubts: vec![doubt],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::labels::Labels;

    fn truth(label: &str, index: &str) -> Truth {
        let split = |text: &str| {
            text.split('|')
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        Truth {
            names: split(label),
            indices: split(index)
                .iter()
                .map(|index| index.parse().unwrap())
                .collect(),
        }
    }

    fn meaning(
        labels: &[&str],
        source: Source,
        label: &str,
        index: &str,
    ) -> Result<Vec<usize>, String> {
        let labels = Labels::from(
            labels
                .iter()
                .map(|label| (*label).to_owned())
                .collect::<Vec<_>>(),
        );
        let count = if labels.is_empty() { 6 } else { labels.len() };
        let classes = Classes {
            labels: &labels,
            count: Some(count),
        };
        let Meaning {
            classes: found,
            doubts,
        } = truth(label, index).meaning(source, classes);
        match doubts.first() {
            None => Ok(found),
            Some(doubt) => Err(format!("{} {}", doubt.kind(), doubt.explain(classes))),
        }
    }

    const WORDS: [&str; 6] = ["tench", "tabby", "espresso", "crane", "tiger cat", "crane"];
    const DIGITS: [&str; 6] = ["0", "1", "10", "11", "2", "3"];

    #[test]
    fn names_mean_labels_and_the_index_column_means_indices() {
        use Source::{Folders, Table};
        for source in [Folders, Table] {
            assert_eq!(meaning(&DIGITS, source, "10", ""), Ok(vec![2]));
            assert_eq!(meaning(&DIGITS, source, "2|10", ""), Ok(vec![4, 2]));
            assert!(
                meaning(&DIGITS, source, "5", "")
                    .unwrap_err()
                    .starts_with("unknown_label no class is called `5`")
            );
            assert_eq!(
                meaning(&WORDS, source, "5", ""),
                Ok(vec![5]),
                "no label consists of digits"
            );
            assert_eq!(meaning(&[], source, "5", ""), Ok(vec![5]));
            assert!(
                meaning(&WORDS, source, "6", "")
                    .unwrap_err()
                    .contains("index 6 is not below")
            );
            assert!(
                meaning(&WORDS, source, "crane", "")
                    .unwrap_err()
                    .starts_with("ambiguous_label")
            );
        }
        assert_eq!(meaning(&DIGITS, Table, "", "2|3"), Ok(vec![2, 3]));
        assert!(
            meaning(&DIGITS, Table, "", "11")
                .unwrap_err()
                .contains("index 11 is not below")
        );
    }

    #[test]
    fn an_index_beside_a_label_counts_where_both_name_the_same_classes() {
        for source in [Source::Table, Source::NumberedTable] {
            assert_eq!(meaning(&WORDS, source, "tabby", "1"), Ok(vec![1]));
            assert_eq!(
                meaning(&WORDS, source, "tiger cat|TABBY", "1|4"),
                Ok(vec![1, 4])
            );
            assert_eq!(
                meaning(&WORDS, source, "crane", "5"),
                Ok(vec![5]),
                "the index tells classes of one name apart"
            );
            assert_eq!(meaning(&DIGITS, source, "10", "2"), Ok(vec![2]));
        }
        assert_eq!(
            meaning(&WORDS, Source::Table, "Katze", "1"),
            Ok(vec![1]),
            "words beside the index"
        );
        assert_eq!(meaning(&[], Source::Table, "tabby", "1"), Ok(vec![1]));
        assert_eq!(
            meaning(&WORDS, Source::Table, "tabby|Katze", "1"),
            Ok(vec![1])
        );
    }

    #[test]
    fn an_index_that_says_something_else_than_the_label_is_never_taken_in_silence() {
        for (label, index) in [
            ("tabby", "0"),
            ("tabby|tiger cat", "1"),
            ("tabby", "1|4"),
            ("tabby", "9"),
        ] {
            let message = meaning(&WORDS, Source::Table, label, index).unwrap_err();
            assert!(message.starts_with("ambiguous_label index "), "{message}");
        }
        let message = meaning(&WORDS, Source::Table, "tabby", "0").unwrap_err();
        assert_eq!(
            message,
            "ambiguous_label index 0 is `tench`, label says `tabby`"
        );
        // What a table says whose index may be the number of the row.
        assert_eq!(
            meaning(&WORDS, Source::NumberedTable, "tabby", "0"),
            Ok(vec![1])
        );
        assert_eq!(
            meaning(&WORDS, Source::NumberedTable, "tabby|tiger cat", "1"),
            Ok(vec![1, 4])
        );
        assert!(
            meaning(&WORDS, Source::NumberedTable, "Katze", "1")
                .unwrap_err()
                .starts_with("unknown_label")
        );
        assert!(
            meaning(&[], Source::NumberedTable, "tabby", "1")
                .unwrap_err()
                .contains("the row's number")
        );
    }

    #[test]
    fn names_that_a_model_does_not_know_say_nothing_beside_one_that_it_knows() {
        for source in [Source::Table, Source::NumberedTable, Source::OnlyFolder] {
            assert_eq!(meaning(&WORDS, source, "forest|tabby", ""), Ok(vec![1]));
        }
        let message = |label| meaning(&WORDS, Source::Table, label, "").unwrap_err();
        assert!(message("forest|beach").starts_with("unknown_label no class is called `forest`"));
        // Which of the two is meant cannot be told.
        assert!(message("tabby|crane").starts_with("ambiguous_label"));
    }

    #[test]
    fn the_name_of_an_only_folder_counts_where_a_class_is_called_that() {
        let source = Source::OnlyFolder;
        assert_eq!(meaning(&WORDS, source, "tabby", ""), Ok(vec![1]));
        assert_eq!(meaning(&WORDS, source, "photos", ""), Ok(vec![]));
        assert!(meaning(&WORDS, source, "crane", "").is_err());
    }

    #[test]
    fn sentences_hold_few_and_short_labels() {
        let many = Truth {
            names: vec!["x".repeat(1 << 20); 1000],
            indices: vec![1; 1000],
        };
        assert!(many.to_string().ends_with("and 995 more") && many.to_string().len() < 1200);
        let labels = Labels::from(vec!["x".repeat(1000), many.names[0].clone()]);
        let classes = Classes {
            labels: &labels,
            count: Some(2),
        };
        let doubt = Truth {
            indices: vec![0; 1000],
            ..many
        }
        .meaning(Source::Table, classes)
        .doubts
        .remove(0);
        assert!(
            doubt.to_string().len() < 2500,
            "{}",
            doubt.to_string().len()
        );
    }
}
