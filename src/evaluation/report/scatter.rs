//! Two metrics against each other: a small figure for each pair, with a mark and the intervals of
//! each row. A method has the same colour as in the other figures; its further rows are rings.

use std::error::Error;

use plotters::{
    chart::ChartBuilder,
    prelude::{
        Circle, Color, EmptyElement, IntoDrawingArea, IntoFont, PathElement, RGBColor, SVGBackend,
        Text, WHITE,
    },
    style::{BLACK, ShapeStyle, TextStyle},
};

use super::{
    EvaluationReport, arrow,
    chart::{Area, Drawn, LEGEND_LINE, WIDTH, color_of, is_first_of_method},
};
use crate::{
    evaluation::{
        Direction,
        agreement::Agreement,
        findings::{MetricFinding, RowFinding},
    },
    render::fonts::FONT,
};

/// The most pairs that are drawn.
pub(super) const PANELS: usize = 4;
const COLUMNS: usize = 2;
const PANEL_HEIGHT: u32 = 340;
/// Where the legend begins.
const LEGEND: u32 = 830;
const RADIUS: i32 = 5;

/// An SVG document of these pairs.
pub(super) fn draw(pairs: &[&Agreement], report: &EvaluationReport<'_>) -> Result<String, String> {
    let lines = pairs.len().div_ceil(COLUMNS) as u32;
    let legend = LEGEND_LINE.unsigned_abs() * (report.titles.len() as u32 + 1);
    let height = (PANEL_HEIGHT * lines).max(legend);
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
    let drawn = paint(&area, pairs, report, lines as usize);
    drop(area);
    drawn.map_err(|fault| fault.to_string())?;
    Ok(svg)
}

fn paint(
    area: &Area<'_>,
    pairs: &[&Agreement],
    report: &EvaluationReport<'_>,
    lines: usize,
) -> Drawn {
    area.fill(&WHITE)?;
    let (left, right) = area.split_horizontally(LEGEND);
    let (panels, _) = left.split_vertically(PANEL_HEIGHT * lines as u32);
    let metrics = &report.findings.metrics;
    let find = |title: &String| metrics.iter().find(|metric| metric.title == *title);
    for (panel, pair) in panels.split_evenly((lines, COLUMNS)).iter().zip(pairs) {
        let [one, other] = &pair.metrics;
        if let (Some(one), Some(other), Some(found)) = (find(one), find(other), pair.correlation) {
            let caption = format!("rank correlation {found:+.2}");
            paint_panel(panel, &caption, [one, other])?;
        }
    }
    paint_legend(&right, report)?;
    area.present()?;
    Ok(())
}

fn paint_panel(area: &Area<'_>, caption: &str, [one, other]: [&MetricFinding; 2]) -> Drawn {
    let points = one.rows.iter().filter_map(|row| {
        let twin = other.rows.iter().find(|twin| twin.title == row.title)?;
        Some((row, twin, is_first_of_method(row, one)))
    });
    let points: Vec<_> = points.collect();
    let ends = [one, other].map(axis);
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .caption(caption, (FONT, 14))
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(ends[0][0]..ends[0][1], ends[1][0]..ends[1][1])?;
    let named = |metric: &MetricFinding| format!("{} {}", metric.title, arrow(metric));
    chart
        .configure_mesh()
        .light_line_style(BLACK.mix(0.0))
        .bold_line_style(BLACK.mix(0.1))
        .x_labels(5)
        .y_labels(5)
        .x_label_formatter(&|x| one.tick(*x))
        .y_label_formatter(&|y| other.tick(*y))
        .x_desc(named(one))
        .y_desc(named(other))
        .label_style((FONT, 12))
        .axis_desc_style((FONT, 13))
        .draw()?;
    for (row, twin, _) in &points {
        let whisker = color_of(row).mix(0.35).stroke_width(1);
        let across = row.interval.map(|end| (end, twin.value));
        let up = twin.interval.map(|end| (row.value, end));
        for line in [across, up] {
            chart.draw_series([PathElement::new(line, whisker)])?;
        }
    }
    for (row, twin, is_first) in points {
        let style = mark(color_of(row), is_first);
        chart.draw_series([
            EmptyElement::at((row.value, twin.value)) + Circle::new((0, 0), RADIUS, style)
        ])?;
    }
    Ok(())
}

fn mark(color: RGBColor, is_first: bool) -> ShapeStyle {
    match is_first {
        true => color.filled(),
        false => color.stroke_width(2),
    }
}

/// Both ends of an axis with room for all intervals, the worse end first.
fn axis(metric: &MetricFinding) -> [f64; 2] {
    let ends = |row: &RowFinding| [row.value, row.interval[0], row.interval[1]];
    let ends = metric
        .rows
        .iter()
        .flat_map(ends)
        .filter(|end| end.is_finite());
    let low = ends.clone().fold(f64::INFINITY, f64::min);
    let high = ends.fold(f64::NEG_INFINITY, f64::max);
    let room = 0.06 * (high - low);
    let [low, high] = [low - room, high + room];
    match metric.better == Direction::Higher.name() {
        true => [low, high],
        false => [high, low],
    }
}

/// The rows of all metrics, in the order of the request.
fn paint_legend(area: &Area<'_>, report: &EvaluationReport<'_>) -> Result<(), Box<dyn Error>> {
    let look = |title: &str| {
        let found = |metric: &MetricFinding| {
            let row = metric.rows.iter().find(|row| row.title == title)?;
            Some((color_of(row), is_first_of_method(row, metric)))
        };
        report.findings.metrics.iter().find_map(found)
    };
    let rows = report.titles.iter();
    let rows = rows.filter_map(|title| Some((title, look(title)?)));
    for (place, (title, (color, is_first))) in rows.enumerate() {
        let y = LEGEND_LINE * (place as i32 + 1);
        area.draw(&Circle::new((14, y), RADIUS, mark(color, is_first)))?;
        let style = TextStyle::from((FONT, 14).into_font());
        area.draw(&Text::new(title.clone(), (30, y - 7), style))?;
    }
    Ok(())
}
