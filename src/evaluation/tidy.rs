//! The values of single images as tables: a line for each image, metric and row. The value is in
//! the unit of the report's; rows and images that a metric leaves out have no line.

use std::io::Write;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Measurement,
    findings::{ImageResult, MetricEntry, Outcome, metric_titles, titles},
};

/// One line.
#[derive(Debug, Serialize)]
struct TidyRow<'a> {
    /// Of the image.
    file: &'a str,
    /// That is explained, and its name.
    class: usize,
    label: Option<&'a str>,
    /// An id.
    metric: &'a str,
    /// The metric, and what tells it from others of the same id.
    measure: &'a str,
    /// An id.
    method: &'a str,
    /// The method, and what tells it from others of the same id.
    row: &'a str,
    value: f64,
}

/// Writes the same lines as CSV and as JSON Lines.
pub struct TidyWriter<'a, C: Write, J> {
    metrics: Vec<(&'a MetricEntry, String)>,
    rows: Vec<(&'a str, String)>,
    csv: csv::Writer<C>,
    json: J,
}

#[derive(Debug, thiserror::Error)]
pub enum TidyError {
    #[error(transparent)]
    Csv(#[from] csv::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    File(#[from] std::io::Error),
}

impl<'a, C: Write, J: Write> TidyWriter<'a, C, J> {
    /// `methods` are one for each row.
    pub fn new(
        metrics: &'a [MetricEntry],
        methods: &'a [Map<String, Value>],
        csv: C,
        json: J,
    ) -> Self {
        let id = |method: &'a Map<String, Value>| {
            let id = method.get("id").and_then(Value::as_str);
            id.unwrap_or_default()
        };
        Self {
            metrics: metrics.iter().zip(metric_titles(metrics)).collect(),
            rows: methods.iter().map(id).zip(titles(methods)).collect(),
            csv: csv::WriterBuilder::new()
                .has_headers(false)
                .from_writer(csv),
            json,
        }
    }

    /// The head of the table; before all images.
    pub fn write_head(&mut self) -> Result<(), TidyError> {
        let head = [
            "file", "class", "label", "metric", "measure", "method", "row", "value",
        ];
        Ok(self.csv.write_record(head)?)
    }

    pub fn write(&mut self, image: &ImageResult) -> Result<(), TidyError> {
        let Outcome::Measured {
            class,
            label,
            measurements,
            ..
        } = &image.outcome
        else {
            return Ok(());
        };
        for ((entry, measure), measured) in self.metrics.iter().zip(measurements) {
            let Some(metric) = entry.metric() else {
                continue;
            };
            let wide = |row: &Vec<f32>| row.iter().copied().map(f64::from).collect();
            let (kept, measured): (Vec<_>, Vec<Measurement>) = self
                .rows
                .iter()
                .zip(measured)
                .filter(|(_, row)| !row.is_empty())
                .map(|(row, measured)| (row, wide(measured)))
                .unzip();
            if (metric.reading.skips)(&entry.parameters, &measured).is_some() {
                continue;
            }
            let found = metric.reading.of_image(&entry.parameters, &measured);
            for ((method, row), value) in kept.into_iter().zip(found) {
                if !value.is_finite() {
                    continue;
                }
                let line = TidyRow {
                    file: &image.file,
                    class: *class,
                    label: label.as_deref(),
                    metric: &entry.id,
                    measure,
                    method,
                    row,
                    value,
                };
                self.csv.serialize(&line)?;
                serde_json::to_writer(&mut self.json, &line)?;
                self.json.write_all(b"\n")?;
            }
        }
        Ok(())
    }

    /// Both, with all that was written.
    pub fn finish(self) -> Result<(C, J), TidyError> {
        let csv = self.csv.into_inner();
        Ok((csv.map_err(|error| error.into_error())?, self.json))
    }
}

/// About how large both tables are together.
#[derive(Clone, Copy, Debug)]
pub struct TableSize {
    lines: usize,
    /// Beside the file's name.
    line: usize,
}

/// Of a line, beside the file's name and the titles.
const LINE_BYTES: usize = 240;

impl TableSize {
    pub fn of(metrics: &[MetricEntry], methods: &[Map<String, Value>]) -> Self {
        let longest = |titles: Vec<String>| titles.iter().map(String::len).max().unwrap_or(0);
        let names = longest(metric_titles(metrics)) + longest(titles(methods));
        Self {
            lines: metrics.len() * methods.len(),
            line: LINE_BYTES + 4 * names,
        }
    }

    /// The lines of one image.
    pub fn of_image(self, file: &str) -> u64 {
        (self.lines * (self.line + 2 * file.len())) as u64
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entries(values: Value) -> Vec<Map<String, Value>> {
        serde_json::from_value(values).unwrap()
    }

    fn metrics() -> Vec<MetricEntry> {
        let metrics =
            json!([{ "id": "degradation", "order": "descending" }, { "id": "sparseness" }]);
        serde_json::from_value(metrics).unwrap()
    }

    fn image(index: usize, measurements: Vec<Vec<Vec<f32>>>) -> ImageResult {
        ImageResult {
            index,
            file: format!("cats/{index}, a.png"),
            outcome: Outcome::Measured {
                class: 3,
                label: (index == 0).then(|| "tabby, \"tiger\"".to_owned()),
                measurements,
                maps: None,
            },
        }
    }

    fn written(images: &[ImageResult]) -> [String; 2] {
        let metrics = metrics();
        let methods = entries(json!([
            { "id": "gradient", "score": "signed" }, { "id": "gradient", "score": "absolute" }, { "id": "random", "score": "signed" },
        ]));
        let mut writer = TidyWriter::new(&metrics, &methods, Vec::new(), Vec::new());
        writer.write_head().unwrap();
        let size = TableSize::of(&metrics, &methods);
        let most: u64 = images.iter().map(|image| size.of_image(&image.file)).sum();
        for image in images {
            writer.write(image).unwrap();
        }
        let (csv, json) = writer.finish().unwrap();
        assert!(((csv.len() + json.len()) as u64) < most);
        [csv, json].map(|bytes| String::from_utf8(bytes).unwrap())
    }

    /// Areas (1 + 0.5) / 2 and 0.5 / 2 over the clean score 1; a row that means nothing to the second
    /// metric.
    #[test]
    fn each_image_metric_and_row_has_a_line() {
        let first = vec![
            vec![vec![1.0, 0.5], vec![1.0, 0.0], vec![1.0, 1.0]],
            vec![vec![0.25], vec![], vec![0.75]],
        ];
        let skipped = ImageResult {
            index: 1,
            file: "gone.png".to_owned(),
            outcome: Outcome::Skipped {
                reason: crate::evaluation::findings::Reason::CorruptImage,
                detail: String::new(),
            },
        };
        let [csv, json] = written(&[image(0, first), skipped]);
        let start = "\"cats/0, a.png\",3,\"tabby, \"\"tiger\"\"\"";
        let expected = [
            "file,class,label,metric,measure,method,row,value".to_owned(),
            format!("{start},degradation,Image degradation,gradient,gradient (signed),0.75"),
            format!("{start},degradation,Image degradation,gradient,gradient (absolute),0.5"),
            format!("{start},degradation,Image degradation,random,random,1.0"),
            format!("{start},sparseness,Sparseness,gradient,gradient (signed),0.25"),
            format!("{start},sparseness,Sparseness,random,random,0.75"),
        ];
        assert_eq!(csv.lines().collect::<Vec<_>>(), expected);
        let lines: Vec<Value> = json
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 5);
        let line = json!({
            "file": "cats/0, a.png", "class": 3, "label": "tabby, \"tiger\"", "metric": "sparseness", "measure": "Sparseness",
            "method": "random", "row": "random", "value": 0.75,
        });
        assert_eq!(lines[4], line);
    }

    #[test]
    fn what_is_not_finite_has_no_line() {
        let measured = vec![
            vec![vec![0.0, 0.0]; 3],
            vec![vec![f32::NAN], vec![0.5], vec![f32::INFINITY]],
        ];
        let [csv, json] = written(&[image(2, measured)]);
        assert_eq!(csv.lines().count(), 2);
        assert!(
            csv.ends_with(
                "\"cats/2, a.png\",3,,sparseness,Sparseness,gradient,gradient (absolute),0.5\n"
            ),
            "{csv}"
        );
        assert_eq!(json.lines().count(), 1);
    }
}
