//! The equation of an Einsum node: a label for each axis of the operands and of the output. An
//! ellipsis is written out with labels that the equation does not use, aligned at the last axis as
//! in broadcasting; an output that is not given has the labels that occur once, in the order of the
//! alphabet.

use super::graph::Node;

/// A label for each axis.
pub struct Equation {
    /// Of each operand.
    pub operands: Vec<Vec<char>>,
    /// Of the output.
    pub output: Vec<char>,
}

const ELLIPSIS: &str = "...";

impl Equation {
    /// The equation of `node`, whose operands have these ranks, or what is wrong with it.
    pub fn of(node: &Node, ranks: &[usize]) -> Result<Self, String> {
        let text = node.string("equation").unwrap_or_default();
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match text.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (text.as_str(), None),
        };
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != ranks.len() {
            return Err(format!(
                "{} terms for {} operands",
                terms.len(),
                ranks.len()
            ));
        }
        let covered = |(term, rank): (&&str, &usize)| match term.split_once(ELLIPSIS) {
            Some((before, after)) => rank.saturating_sub(before.len() + after.len()),
            None => 0,
        };
        let covered: Vec<usize> = terms.iter().zip(ranks).map(covered).collect();
        let most = covered.iter().copied().max().unwrap_or(0);
        let unused = ('a'..='z').chain('A'..='Z').filter(|&c| !text.contains(c));
        let hidden: Vec<char> = unused.take(most).collect();
        if hidden.len() < most {
            return Err("its operands have more axes than there are letters".into());
        }
        let written = |term: &str, covered: usize| -> Vec<char> {
            match term.split_once(ELLIPSIS) {
                Some((before, after)) => [
                    before.chars().collect(),
                    hidden[most - covered..].to_vec(),
                    after.chars().collect::<Vec<_>>(),
                ]
                .concat(),
                None => term.chars().collect(),
            }
        };
        let mut operands = Vec::with_capacity(terms.len());
        for ((term, &rank), &covered) in terms.iter().zip(ranks).zip(&covered) {
            let labels = written(term, covered);
            if labels.len() != rank || !labels.iter().all(char::is_ascii_alphabetic) {
                return Err(format!("term {term} does not fit rank {rank}"));
            }
            operands.push(labels);
        }
        let output = match right {
            Some(right) => written(right, most),
            None => implied(&operands, &hidden),
        };
        let known = |label: &char| operands.iter().any(|labels| labels.contains(label));
        match output.iter().all(known) && !has_repeats(&output) {
            true => Ok(Self { operands, output }),
            false => {
                Err("each label of the output must be one of the operands', and occur once".into())
            }
        }
    }
}

/// Of the terms of operands and the output.
pub fn write(operands: &[Vec<char>], output: &[char]) -> String {
    let terms = operands.iter().map(|labels| labels.iter().collect());
    let terms: Vec<String> = terms.collect();
    format!("{}->{}", terms.join(","), output.iter().collect::<String>())
}

/// Whether a label occurs twice.
pub fn has_repeats(labels: &[char]) -> bool {
    (1..labels.len()).any(|at| labels[..at].contains(&labels[at]))
}

/// What the ellipsis stands for, then the letters that occur once.
fn implied(operands: &[Vec<char>], hidden: &[char]) -> Vec<char> {
    let all = || operands.iter().flatten().copied();
    let mut once: Vec<char> = all()
        .filter(|label| !hidden.contains(label) && all().filter(|c| c == label).count() == 1)
        .collect();
    once.sort_unstable();
    [hidden, &once].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explicit(equation: &'static str, ranks: &[usize]) -> Result<String, String> {
        let node = Node::new("Einsum", ["a", "b"], ["y"]).with("equation", equation);
        Equation::of(&node, ranks).map(|found| write(&found.operands, &found.output))
    }

    #[test]
    fn equations_are_written_out() {
        let cases: [(&str, &[usize], &str); 6] = [
            ("ij,jk->ik", &[2, 2], "ij,jk->ik"),
            (" b i j , b j k ", &[3, 3], "bij,bjk->ik"),
            ("...ij,...jk->...ik", &[4, 3], "abij,bjk->abik"),
            ("...ij,jk", &[3, 2], "aij,jk->aik"),
            ("ij...->ji...", &[2], "ij->ji"),
            ("ba", &[2], "ba->ab"),
        ];
        for (equation, ranks, expected) in cases {
            assert_eq!(
                explicit(equation, ranks).as_deref(),
                Ok(expected),
                "{equation}"
            );
        }
    }

    #[test]
    fn what_does_not_fit_is_told() {
        for (equation, ranks) in [
            ("ij->ij", &[2, 2][..]),
            ("ij->ij", &[3]),
            ("ij->ik", &[2]),
            ("ij->ii", &[2]),
            ("i1->i", &[2]),
        ] {
            assert!(explicit(equation, ranks).is_err(), "{equation}");
        }
    }
}
