//! The report of a benchmark: json, csv, svg, png, and one self-contained page with the figure, the
//! tables and the request.

use std::fmt::Write as _;

use image::{Rgb, RgbImage};
use serde_json::{Value, json};

use super::{
    chart::{self, HEIGHT, WIDTH},
    findings::{Findings, Reason, Run, Sample},
    spec::Spec,
};
use crate::{
    evaluation::aggregate::RESAMPLES,
    jobs::{Format, WorkError},
    render::{encode::encode_png, svg::paint},
};

/// The report in one of the kind's formats. `request` is the settled one: it is part of the report
/// as it is.
pub fn write(
    request: &Value,
    spec: &Spec,
    findings: &Findings,
    format: Format,
) -> Result<Vec<u8>, WorkError> {
    match format {
        Format::Csv => csv(findings),
        Format::Svg => Ok(svg(spec, findings)?.into_bytes()),
        Format::Png => png(&svg(spec, findings)?),
        Format::Html => Ok(html(request, spec, findings)?.into_bytes()),
        _ => {
            let mut findings = findings.clone();
            // Those are for people to look at, and the date would tell a repetition from the first
            // run.
            findings.samples.clear();
            findings.run.iter_mut().for_each(|run| run.ended = None);
            let report = json!({ "kind": "degradation", "request": request, "result": findings });
            serde_json::to_vec_pretty(&report).map_err(WorkError::permanent)
        }
    }
}

fn svg(spec: &Spec, findings: &Findings) -> Result<String, WorkError> {
    let title = format!("Image degradation of {} on {}", spec.model, spec.dataset);
    chart::draw(findings, &title).map_err(WorkError::permanent)
}

/// The SVG's own size is read off its first tag, where the chart wrote it.
fn png(svg: &str) -> Result<Vec<u8>, WorkError> {
    let height = svg
        .split_once("height=\"")
        .and_then(|(_, rest)| rest.split_once('"')?.0.parse().ok());
    let mut picture = RgbImage::from_pixel(WIDTH, height.unwrap_or(HEIGHT), Rgb([255; 3]));
    paint(&mut picture, svg).map_err(WorkError::permanent)?;
    encode_png(&picture, &[]).map_err(WorkError::permanent)
}

/// A line for each row: what it is, its area, and its mean curve.
fn csv(findings: &Findings) -> Result<Vec<u8>, WorkError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let steps = findings.rows.first().map_or(0, |row| row.mean_curve.len());
    let head = ["row", "method", "area", "area_low", "area_high", "images"].map(str::to_owned);
    writer
        .write_record(
            head.into_iter()
                .chain((0..steps).map(|k| format!("step_{k}"))),
        )
        .map_err(WorkError::permanent)?;
    for row in &findings.rows {
        let method = Value::Object(row.method.clone()).to_string();
        let numbers = [row.area, row.interval[0], row.interval[1]].map(|number| number.to_string());
        let start = [row.title.clone(), method]
            .into_iter()
            .chain(numbers)
            .chain([findings.used.to_string()]);
        writer
            .write_record(start.chain(row.mean_curve.iter().map(f64::to_string)))
            .map_err(WorkError::permanent)?;
    }
    writer
        .into_inner()
        .map_err(|error| WorkError::permanent(error.error()))
}

/// Images from which on intervals are trusted enough to set differences in bold.
const ENOUGH: usize = 30;

const STYLE: &str = "body{font:15px/1.45 'DejaVu Sans',Verdana,sans-serif;max-width:1160px;margin:2em auto;padding:0 1em;color:#222}\
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}svg{max-width:100%;height:auto}table{border-collapse:collapse;margin:1em 0}\
td,th{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:left}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
td.s{font-weight:bold}.wide{overflow-x:auto}img{max-width:100%;height:auto}figure{margin:1em 0}pre{background:#f5f5f5;padding:1em;overflow-x:auto}small{color:#666}";

fn html(request: &Value, spec: &Spec, findings: &Findings) -> Result<String, WorkError> {
    let title = format!(
        "Image degradation: {} on {}",
        escape(&spec.model),
        escape(&spec.dataset)
    );
    let partial = match findings.run {
        Some(_) => "",
        None => "<b>Partial results: the job has not run to its end.</b> ",
    };
    let drawn = spec.limit.map_or_else(String::new, |limit| {
        format!(
            "; at most {limit} were drawn at random from the data set, with seed {}",
            spec.seed
        )
    });
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{title}</title><style>{STYLE}</style></head><body>\n\
         <h1>{title}</h1>\n<p>{partial}{} images were used, {} were left out{drawn}. The patches that a method ranks {} are replaced one after another \
         ({} of {} × {} patches); the curve is the mean score (the probability) of the class that the model predicts for the whole image. A {} area is better.</p>\n",
        findings.used,
        findings.skipped.values().sum::<usize>(),
        if spec.metric.order == crate::evaluation::degradation::Order::Descending {
            "highest"
        } else {
            "lowest"
        },
        spec.metric.steps,
        spec.metric.grid,
        spec.metric.grid,
        findings.better,
    );
    if findings.rows.is_empty() {
        page.push_str("<p><b>No image could be used: there is nothing to compare.</b></p>\n");
    } else {
        page.push_str("<div class=\"wide\">");
        page.push_str(&svg(spec, findings)?);
        page.push_str("</div>\n");
        add_areas(&mut page, spec, findings);
        add_differences(&mut page, findings);
        add_samples(&mut page, findings);
    }
    add_skipped(&mut page, findings);
    let mut again = request.clone();
    again["kind"] = json!("degradation");
    let again = serde_json::to_string_pretty(&again).map_err(WorkError::permanent)?;
    add(
        &mut page,
        format_args!(
            "<h2>To run it again</h2>\n<p>POST this to /jobs of a server that has the same model and data set. It holds every parameter, settled, and the hashes of the model, its patterns and \
             the data set: on others it is refused.</p>\n<pre>{}</pre>\n<p><small>{}.</small></p>\n",
            escape(&again),
            escape(&findings.paper),
        ),
    );
    add_run(&mut page, findings);
    page.push_str("</body></html>\n");
    Ok(page)
}

fn add_areas(page: &mut String, spec: &Spec, findings: &Findings) {
    add(
        page,
        format_args!(
            "<h2>Area under the curve</h2>\n<p>Normalised: the area under the mean curve, with the steps scaled to a width of 1, divided by the \
             mean score of the clean images. A ranking that changes nothing has 1, one that removes the class at once has 0. \
             95 % intervals: percentiles of {RESAMPLES} bootstrap resamples of the images (ChaCha8, seed {}), the same for all rows.</p>\n\
             <div class=\"wide\"><table><tr><th>method</th><th class=\"n\">area</th><th class=\"n\">from</th><th class=\"n\">to</th>\
             <th>parameters</th></tr>\n",
            spec.seed
        ),
    );
    for row in findings.by_area() {
        let parameters =
            row.method
                .iter()
                .filter(|(name, _)| *name != "id")
                .map(|(name, value)| match value.as_str() {
                    Some(text) => format!("{name} {text}"),
                    None => format!("{name} {value}"),
                });
        let parameters = escape(&parameters.collect::<Vec<_>>().join(", "));
        let [low, high] = row.interval;
        add(
            page,
            format_args!(
                "<tr><td>{}</td><td class=\"n\">{:.4}</td><td class=\"n\">{low:.4}</td><td class=\"n\">{high:.4}</td><td><small>{parameters}</small></td></tr>\n",
                escape(&row.title),
                row.area
            ),
        );
    }
    page.push_str("</table></div>\n");
}

/// Row less column, both by area.
fn add_differences(page: &mut String, findings: &Findings) {
    let rows = findings.by_area();
    let is_bold = findings.used >= ENOUGH;
    let bold = match is_bold {
        true => "Bold: the 95 % interval excludes 0.".to_owned(),
        false => format!(
            "Nothing is set in bold below {ENOUGH} images: bootstrap intervals of so few are too narrow to trust."
        ),
    };
    let pairs = findings.differences.len();
    add(
        page,
        format_args!(
            "<h2>Paired differences</h2>\n<p>Area of the row minus that of the column, on the same images. {bold} Hover for the interval. \
             {pairs} pairs are compared without correction for multiple comparisons: of pairs without any difference, about one in twenty \
             has an interval that excludes 0.</p>\n<div class=\"wide\"><table><tr><th></th>"
        ),
    );
    (1..=rows.len()).for_each(|number| add(page, format_args!("<th class=\"n\">{number}</th>")));
    page.push_str("</tr>\n");
    for (number, row) in rows.iter().enumerate() {
        add(
            page,
            format_args!("<tr><th>{} {}</th>", number + 1, escape(&row.title)),
        );
        for other in &rows {
            match findings.difference(&row.title, &other.title) {
                Some((difference, [low, high])) => {
                    let class = if is_bold && (low > 0.0 || high < 0.0) {
                        "n s"
                    } else {
                        "n"
                    };
                    add(
                        page,
                        format_args!(
                            "<td class=\"{class}\" title=\"{low:.4} to {high:.4}\">{difference:+.3}</td>"
                        ),
                    );
                }
                None => page.push_str("<td></td>"),
            }
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table></div>\n");
}

/// Maps of the first images, to see what was ranked.
fn add_samples(page: &mut String, findings: &Findings) {
    if findings.samples.is_empty() {
        return;
    }
    page.push_str(
        "<h2>Sample maps</h2>\n<p>Of the first images that were used: the part that the network saw, the class that it predicts with its \
         score, and the maps that were ranked.</p>\n",
    );
    for Sample { file, maps } in &findings.samples {
        let file = escape(file);
        add(
            page,
            format_args!(
                "<figure><img alt=\"Maps of {file}\" src=\"data:image/jpeg;base64,{}\"><figcaption><small>{file}</small></figcaption></figure>\n",
                escape(maps)
            ),
        );
    }
}

/// What it ran on, and when: on a line of its own, which alone differs in a repetition.
fn add_run(page: &mut String, findings: &Findings) {
    let version = escape(&findings.version);
    let Some(Run {
        onnxruntime,
        providers,
        threads,
        ended,
    }) = &findings.run
    else {
        return add(
            page,
            format_args!(
                "<p><small>explaind {version}. These are partial results: the job has not run to its end.</small></p>\n"
            ),
        );
    };
    let (onnxruntime, providers) = (escape(onnxruntime), escape(providers));
    add(
        page,
        format_args!(
            "<p><small>explaind {version}, ONNX Runtime {onnxruntime}, execution provider {providers}, {threads} threads.</small></p>\n"
        ),
    );
    if let Some(ended) = ended {
        add(
            page,
            format_args!(
                "<p><small>Ended at <time>{}</time>.</small></p>\n",
                escape(ended)
            ),
        );
    }
}

fn add_skipped(page: &mut String, findings: &Findings) {
    page.push_str("<h2>Left out</h2>\n");
    if findings.skipped_images.is_empty() {
        return page.push_str("<p>No image was left out.</p>\n");
    }
    let counts = findings
        .skipped
        .iter()
        .map(|(reason, count)| format!("{count} {}", name_of(*reason)));
    add(
        page,
        format_args!("<p>{}.</p>\n", counts.collect::<Vec<_>>().join(", ")),
    );
    page.push_str(
        "<details><summary>which</summary><table><tr><th>file</th><th>reason</th><th></th></tr>\n",
    );
    for image in &findings.skipped_images {
        let (file, reason, detail) = (
            escape(&image.file),
            name_of(image.reason),
            escape(&image.detail),
        );
        add(
            page,
            format_args!("<tr><td>{file}</td><td>{reason}</td><td>{detail}</td></tr>\n"),
        );
    }
    page.push_str("</table>");
    let unnamed = findings
        .skipped
        .values()
        .sum::<usize>()
        .saturating_sub(findings.skipped_images.len());
    if unnamed > 0 {
        add(page, format_args!("<p>And {unnamed} more.</p>"));
    }
    page.push_str("</details>\n");
}

fn name_of(reason: Reason) -> &'static str {
    match reason {
        Reason::CorruptImage => "corrupt",
        Reason::Misclassified => "misclassified",
        Reason::UnknownLabel => "of an unknown label",
        Reason::AmbiguousLabel => "of an ambiguous label",
        Reason::NotFinite => "with values that are not finite",
    }
}

/// Writing to a text cannot fail.
fn add(page: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = page.write_fmt(text);
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::kinds::degradation::findings::{ImageResult, MAX_SKIPPED, Outcome};

    fn spec() -> Value {
        json!({
            "model": "<tiny>", "model_hash": "aa", "patterns": null, "dataset": "photos", "dataset_hash": "bb",
            "methods": [{ "id": "gradient", "score": "signed" }, { "id": "gradient", "score": "absolute" }, { "id": "random", "seed": 0, "score": "signed" }],
            "grid": 2, "steps": 2, "order": "descending", "replacement": "mean", "limit": null, "labels": "use", "seed": 0
        })
    }

    fn findings() -> Findings {
        let image = |index, outcome| ImageResult {
            index,
            file: format!("{index}.png"),
            outcome,
        };
        let measured = |shift: f32| Outcome::Measured {
            class: 1,
            label: None,
            curves: vec![
                vec![0.9, 0.5 + shift, 0.1],
                vec![0.9, 0.4 + shift, 0.0],
                vec![0.9, 0.9, 0.8 + shift],
            ],
            maps: (shift == 0.0).then(|| "/9j/".to_owned()),
        };
        let corrupt = Outcome::Skipped {
            reason: Reason::CorruptImage,
            detail: "cut <off>".into(),
        };
        let images = vec![
            image(2, measured(0.0)),
            image(1, corrupt),
            image(0, measured(0.05)),
        ];
        Findings::of(&serde_json::from_value(spec()).unwrap(), images).unwrap()
    }

    fn text(format: Format) -> String {
        let settled = serde_json::from_value(spec()).unwrap();
        String::from_utf8(write(&spec(), &settled, &findings(), format).unwrap()).unwrap()
    }

    #[test]
    fn the_table_holds_areas_and_curves() {
        let table = text(Format::Csv);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines[0],
            "row,method,area,area_low,area_high,images,step_0,step_1,step_2"
        );
        assert!(
            lines.len() == 4
                && lines[1].starts_with("gradient (signed),")
                && lines[3].starts_with("random,"),
            "{table}"
        );
        let area = |line: usize| findings().rows[line - 1].area;
        // (0.9 + 2 · 0.525 + 0.1) / 4 / 0.9
        assert!((area(1) - 2.05 / 3.6).abs() < 1e-6 && area(2) < area(1) && area(1) < area(3));
    }

    #[test]
    fn the_page_is_one_file_with_everything_to_run_it_again() {
        let page = text(Format::Html);
        assert!(
            !page.contains("href=")
                && !page.contains("src=\"http")
                && !page.contains("<script")
                && !page.contains("<link")
        );
        assert!(
            page.matches("src=").count() == 1
                && page.contains(r#"src="data:image/jpeg;base64,/9j/""#)
        );
        assert!(
            page.contains("2000 bootstrap resamples")
                && page.contains("seed 0")
                && page.contains("viewport")
        );
        assert!(
            page.contains("<svg")
                && page.contains("&lt;tiny&gt;")
                && page.contains("cut &lt;off&gt;")
                && !page.contains("<tiny>")
        );
        for part in [
            "model_hash",
            "dataset_hash",
            "&quot;kind&quot;: &quot;degradation&quot;",
            "1 corrupt",
            "gradient (absolute)",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert!(
            page.find("gradient (absolute)") < page.find("random"),
            "the best first"
        );
    }

    #[test]
    fn differences_are_in_bold_from_thirty_images_on() {
        let page = |count: usize| {
            let image = |index| {
                let curves = vec![
                    vec![0.9, 0.5, 0.1],
                    vec![0.9, 0.4, 0.0],
                    vec![0.9, 0.9, 0.8],
                ];
                let outcome = Outcome::Measured {
                    class: 1,
                    label: None,
                    curves,
                    maps: None,
                };
                ImageResult {
                    index,
                    file: format!("{index}.png"),
                    outcome,
                }
            };
            let settled: Spec = serde_json::from_value(spec()).unwrap();
            let found = Findings::of(&settled, (0..count).map(image).collect()).unwrap();
            String::from_utf8(write(&spec(), &settled, &found, Format::Html).unwrap()).unwrap()
        };
        let (few, enough) = (page(29), page(30));
        assert!(few.contains("below 30 images") && !few.contains(r#"class="n s""#));
        assert!(
            enough.contains("Bold: the 95 % interval excludes 0")
                && enough.contains(r#"class="n s""#)
        );
        assert!(few.contains("3 pairs are compared without correction"));
    }

    #[test]
    fn the_page_alone_tells_when_it_ended() {
        let run = Run {
            onnxruntime: "1.31.1".into(),
            providers: "cpu".into(),
            threads: 2,
            ended: Some("2026-11-28T23:59:00Z".into()),
        };
        let found = Findings {
            run: Some(run),
            ..findings()
        };
        let settled: Spec = serde_json::from_value(spec()).unwrap();
        let written = |format| {
            String::from_utf8_lossy(&write(&spec(), &settled, &found, format).unwrap()).into_owned()
        };
        for format in [Format::Json, Format::Csv, Format::Svg] {
            assert!(!written(format).contains("2026-11-28"), "{format:?}");
        }
        let page = written(Format::Html);
        assert!(page.contains("ONNX Runtime 1.31.1, execution provider cpu, 2 threads"));
        assert!(page.contains("<time>2026-11-28T23:59:00Z</time>"));
        assert!(
            written(Format::Json).contains("1.31.1") && !written(Format::Json).contains("/9j/")
        );
    }

    #[test]
    fn of_very_many_images_left_out_the_first_are_named_and_all_are_counted() {
        let settled: Spec = serde_json::from_value(spec()).unwrap();
        let corrupt = |index| {
            let outcome = Outcome::Skipped {
                reason: Reason::CorruptImage,
                detail: "cut off".into(),
            };
            ImageResult {
                index,
                file: format!("{index}.png"),
                outcome,
            }
        };
        let found = Findings::of(&settled, (0..MAX_SKIPPED + 5).map(corrupt).collect()).unwrap();
        assert_eq!(
            (
                found.skipped_images.len(),
                found.skipped[&Reason::CorruptImage]
            ),
            (MAX_SKIPPED, MAX_SKIPPED + 5)
        );
        let page =
            String::from_utf8(write(&spec(), &settled, &found, Format::Html).unwrap()).unwrap();
        assert!(
            page.contains("999.png") && !page.contains("1000.png") && page.contains("And 5 more")
        );
        assert!(page.contains("1005 were left out") && page.contains("1005 corrupt"));
    }

    #[test]
    fn the_picture_is_the_drawing() {
        let settled = serde_json::from_value(spec()).unwrap();
        let png = write(&spec(), &settled, &findings(), Format::Png).unwrap();
        let picture = image::load_from_memory(&png).unwrap().into_rgb8();
        assert_eq!(picture.dimensions(), (WIDTH, HEIGHT));
        let [gradient, random] =
            ["gradient", "random"].map(|id| crate::methods::registry::find(id).unwrap().color);
        for color in [gradient, random] {
            let coloured = picture.pixels().filter(|pixel| pixel.0 == color).count();
            assert!(
                coloured > 300,
                "the curves of {color:?} have {coloured} pixels"
            );
        }
        assert!(text(Format::Svg).starts_with("<svg"));
    }

    #[test]
    fn a_report_of_no_image_says_so() {
        let settled: Spec = serde_json::from_value(spec()).unwrap();
        let none = Findings::of(&settled, Vec::new()).unwrap();
        let page =
            String::from_utf8(write(&spec(), &settled, &none, Format::Html).unwrap()).unwrap();
        assert!(page.contains("nothing to compare"));
        for format in [Format::Csv, Format::Svg, Format::Png, Format::Json] {
            assert!(!write(&spec(), &settled, &none, format).unwrap().is_empty());
        }
    }
}
