//! Whether two metrics order methods alike: Spearman's rank correlation of their values, turned so
//! that higher is better, over the rows that both have.

use serde::Serialize;

use super::{
    Direction,
    findings::MetricFinding,
    similarity::{correlation, ranks_of},
};

/// Rows below which no correlation is told.
pub const FEWEST: usize = 4;

/// Of two metrics.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// Their titles.
    pub metrics: [String; 2],
    /// Rows that both have.
    pub rows: usize,
    /// None of fewer than [`FEWEST`] rows, where one metric has the same value for all, and where
    /// none of its values is better.
    pub correlation: Option<f64>,
}

impl Agreement {
    pub fn of(one: &MetricFinding, other: &MetricFinding) -> Self {
        let oriented =
            |metric: &MetricFinding, value: f64| match metric.better == Direction::Higher.name() {
                true => value,
                false => -value,
            };
        let (first, second): (Vec<f64>, Vec<f64>) = pairs(one, other)
            .map(|(a, b)| (oriented(one, a), oriented(other, b)))
            .unzip();
        let is_constant = |values: &[f64]| values.windows(2).all(|pair| pair[0] == pair[1]);
        let are_ranked = one.is_ranked() && other.is_ranked();
        let is_told =
            are_ranked && first.len() >= FEWEST && !is_constant(&first) && !is_constant(&second);
        Self {
            metrics: [one, other].map(|metric| metric.title.clone()),
            rows: first.len(),
            correlation: is_told.then(|| correlation(&ranks_of(&first), &ranks_of(&second))),
        }
    }

    /// Of each pair of metrics once.
    pub fn of_all(metrics: &[MetricFinding]) -> Vec<Self> {
        let with_later = |(place, one): (usize, &MetricFinding)| {
            let later = metrics.iter().skip(place + 1);
            later.map(|other| Self::of(one, other)).collect::<Vec<_>>()
        };
        metrics.iter().enumerate().flat_map(with_later).collect()
    }

    /// Pairs with a correlation, the lowest first.
    pub fn lowest(pairs: &[Self]) -> Vec<&Self> {
        let mut told: Vec<(&Self, f64)> = pairs
            .iter()
            .filter_map(|pair| Some((pair, pair.correlation?)))
            .collect();
        told.sort_by(|(_, one), (_, other)| one.total_cmp(other));
        told.into_iter().map(|(pair, _)| pair).collect()
    }

    /// What the lowest correlation of several pairs says.
    pub fn words_of_lowest(&self) -> Option<String> {
        let ([one, other], rows) = (&self.metrics, self.rows);
        let correlation = self.correlation?;
        Some(match correlation < 0.0 {
            true => format!(
                "{one} and {other} disagree most: rank correlation {correlation:+.2} over {rows} rows."
            ),
            false => format!(
                "The lowest rank correlation is {correlation:+.2}, between {one} and {other}, over {rows} rows."
            ),
        })
    }

    /// Magnitudes that two unrelated orders of the rows exceed by chance in at most about one of
    /// twenty cases: Spearman's correlation of such orders has the variance 1 / (n - 1).
    pub fn chance(rows: usize) -> f64 {
        1.96 / (rows.max(2) as f64 - 1.0).sqrt()
    }
}

/// The values of rows that both metrics have.
fn pairs<'a>(
    one: &'a MetricFinding,
    other: &'a MetricFinding,
) -> impl Iterator<Item = (f64, f64)> + 'a {
    let found = |row: &'a super::findings::RowFinding| {
        let twin = other.rows.iter().find(|twin| twin.title == row.title)?;
        Some((row.value, twin.value))
    };
    let is_finite = |(a, b): &(f64, f64)| a.is_finite() && b.is_finite();
    one.rows.iter().filter_map(found).filter(is_finite)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metric(better: &str, values: &[(&str, f64)]) -> MetricFinding {
        let row = |(title, value): &(&str, f64)| json!({ "title": title, "method": {}, "value": value, "interval": [value, value] });
        let rows: Vec<_> = values.iter().map(row).collect();
        let finding = json!({
            "id": "sparseness", "parameters": {}, "title": better, "paper": "", "better": better,
            "rows": rows, "differences": [],
        });
        serde_json::from_value(finding).unwrap()
    }

    /// Ranks 1 2 3 4 and 2 1 3 4: 1 - 6 · 2 / (4 · 15).
    #[test]
    fn hand_worked_orders_correlate_as_worked_by_hand() {
        let lower = metric("lower", &[("a", 9.0), ("b", 7.0), ("c", 5.0), ("d", 1.0)]);
        let higher = metric("higher", &[("b", 1.0), ("a", 2.0), ("c", 3.0), ("d", 8.0)]);
        let found = Agreement::of(&lower, &higher);
        assert_eq!((found.rows, &found.metrics[0][..]), (4, "lower"));
        assert!(
            (found.correlation.unwrap() - 0.8).abs() < 1e-12,
            "{found:?}"
        );
        let same = Agreement::of(&lower, &lower).correlation.unwrap();
        assert!((same - 1.0).abs() < 1e-12);
    }

    #[test]
    fn only_rows_of_both_count_and_few_or_equal_ones_tell_nothing() {
        let all = [("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", 4.0), ("e", 5.0)];
        let (whole, part) = (metric("higher", &all), metric("lower", &all[1..]));
        let found = Agreement::of(&whole, &part);
        assert_eq!(found.rows, 4);
        assert!(
            (found.correlation.unwrap() + 1.0).abs() < 1e-12,
            "{found:?}"
        );
        let few = Agreement::of(&whole, &metric("lower", &all[2..]));
        assert_eq!((few.rows, few.correlation), (3, None));
        let equal = metric("higher", &all.map(|(title, _)| (title, 1.0)));
        assert_eq!(Agreement::of(&whole, &equal).correlation, None);
        assert_eq!(Agreement::of_all(&[whole, part, equal]).len(), 3);
    }
}
