//! Prints what an evaluation by several metrics found: all values in one table, in blocks of columns
//! that fit a terminal.

use explaind::evaluation::{
    agreement::Agreement,
    findings::{Findings, MetricFinding, RowFinding},
    report::ENOUGH,
};
use explaind::text::counted;

use super::say;

/// Columns of a terminal.
const WIDTH: usize = 100;
const GAP: usize = 2;

pub(crate) fn print(findings: &Findings) -> anyhow::Result<()> {
    for line in lines(findings) {
        say(line)?;
    }
    Ok(())
}

fn lines(findings: &Findings) -> Vec<String> {
    let metrics = &findings.metrics;
    let numbered = metrics.iter().enumerate();
    let mut lines: Vec<String> = numbered
        .map(|(place, metric)| {
            let (number, title, better) = (place + 1, &metric.title, metric.better_words());
            let left_out = match metric.skipped.values().sum() {
                0 => String::new(),
                count => format!("; leaves out {}", counted(count, "image")),
            };
            format!("{number:>2}  {title}: {better}{left_out}")
        })
        .collect();
    let titles = titles(metrics);
    let columns: Vec<Vec<String>> = metrics
        .iter()
        .enumerate()
        .map(|(place, metric)| column(place, metric, &titles))
        .collect();
    let first: Vec<String> = ["method"]
        .into_iter()
        .chain(titles)
        .map(str::to_owned)
        .collect();
    let mut rest = columns.as_slice();
    while !rest.is_empty() {
        let count = fitting(width(&first), rest);
        let (block, others) = rest.split_at(count);
        lines.push(String::new());
        lines.extend(table(&first, block));
        rest = others;
    }
    lines.push(String::new());
    lines.extend(disagreement(metrics));
    if findings.used < ENOUGH {
        lines.push(format!(
            "95 % bootstrap intervals in brackets; of fewer than {ENOUGH} images they are too narrow to trust."
        ));
    } else {
        lines.push("95 % bootstrap intervals in brackets.".to_owned());
    }
    lines
}

/// Rows of any metric, each once.
fn titles(metrics: &[MetricFinding]) -> Vec<&str> {
    let mut titles: Vec<&str> = Vec::new();
    for metric in metrics {
        let rows = metric.rows.iter().map(|row| row.title.as_str());
        for title in rows.chain(metric.excluded.iter().map(String::as_str)) {
            if !titles.contains(&title) {
                titles.push(title);
            }
        }
    }
    titles
}

/// Its number, and a cell for each row.
fn column(place: usize, metric: &MetricFinding, titles: &[&str]) -> Vec<String> {
    let written = |row: &RowFinding| {
        let [value, low, high] =
            [row.value, row.interval[0], row.interval[1]].map(|number| metric.written(number, 3));
        format!("{value} [{low}, {high}]")
    };
    let cell = |title: &&str| {
        let row = metric.rows.iter().find(|row| row.title == **title);
        row.map_or_else(|| "-".to_owned(), written)
    };
    let head = format!("({})", place + 1);
    [head].into_iter().chain(titles.iter().map(cell)).collect()
}

fn width(column: &[String]) -> usize {
    let widths = column.iter().map(|cell| cell.chars().count());
    widths.max().unwrap_or(0)
}

/// How many of the columns fit beside the first; at least one.
fn fitting(first: usize, columns: &[Vec<String>]) -> usize {
    let ends = columns.iter().scan(first, |end, column| {
        *end += GAP + width(column);
        Some(*end)
    });
    ends.take_while(|end| *end <= WIDTH).count().max(1)
}

fn table(first: &[String], columns: &[Vec<String>]) -> Vec<String> {
    let line = |(place, title): (usize, &String)| {
        let mut line = format!("{title:0$}", width(first));
        for column in columns {
            let cell = column.get(place).map_or("", String::as_str);
            line += &format!("{:GAP$}{cell:1$}", "", width(column));
        }
        line.trim_end().to_owned()
    };
    first.iter().enumerate().map(line).collect()
}

/// Where two metrics order the methods least alike.
fn disagreement(metrics: &[MetricFinding]) -> Option<String> {
    let pairs = Agreement::of_all(metrics);
    Agreement::lowest(&pairs).first()?.words_of_lowest()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn findings(metrics: usize) -> Findings {
        let titles = [
            "gradient (signed)",
            "gradient (absolute)",
            "edges",
            "random",
        ];
        let metric = |place: usize| {
            let row = |(at, title): (usize, &&str)| {
                let value = 0.1 * at as f64 * if place == 1 { -1.0 } else { 1.0 };
                json!({ "title": title, "method": {}, "value": value, "interval": [value - 0.01, value + 0.01] })
            };
            let rows: Vec<Value> = titles.iter().enumerate().skip(place / 2).map(row).collect();
            json!({
                "id": "sparseness", "parameters": {}, "title": format!("Measure {place}"), "paper": "", "better": "higher",
                "rows": rows, "excluded": titles[..place / 2], "differences": [],
            })
        };
        let metrics: Vec<Value> = (0..metrics).map(metric).collect();
        let found = json!({ "version": "", "used": 12, "skipped": {}, "metrics": metrics, "skipped_images": [] });
        serde_json::from_value(found).unwrap()
    }

    #[test]
    fn columns_that_do_not_fit_go_into_further_blocks() {
        let lines = lines(&findings(6));
        assert!(
            lines.iter().all(|line| line.chars().count() <= WIDTH),
            "{lines:#?}"
        );
        let heads: Vec<_> = lines
            .iter()
            .filter(|line| line.starts_with("method"))
            .collect();
        assert_eq!(heads.len(), 2, "{lines:#?}");
        let gradient: Vec<_> = lines
            .iter()
            .filter(|line| line.starts_with("gradient (signed)"))
            .collect();
        assert!(gradient[0].contains("0.000 [-0.010, 0.010]") && gradient[0].ends_with(" -"));
        let count = |word: &str| lines.iter().filter(|line| line.contains(word)).count();
        assert_eq!(
            count("Measure 0 and Measure 1 disagree most: rank correlation -1.00"),
            1
        );
        assert_eq!(count("fewer than 30 images"), 1);
    }

    #[test]
    fn of_few_methods_no_disagreement_is_told() {
        let mut found = findings(2);
        found
            .metrics
            .iter_mut()
            .for_each(|metric| metric.rows.truncate(3));
        assert!(lines(&found).iter().all(|line| !line.contains("disagree")));
    }
}
