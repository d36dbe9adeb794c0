//! The figure of a benchmark: the mean score of the class over the patches replaced, one curve for
//! each row (Figure 3 of the PGIG paper), with its 95 % band. A method has the same colour in every
//! figure; its further rows are dashed. The legend lists the rows by area, the best first.

use plotters::{
    prelude::{
        ChartBuilder, Color, DashedLineSeries, IntoDrawingArea, IntoFont, LineSeries, PathElement,
        Polygon, RGBColor, SVGBackend, Text, WHITE,
    },
    style::{BLACK, ShapeStyle, TextStyle},
};

use super::findings::{Findings, RowFinding};
use crate::{methods::registry, render::fonts::FONT};

pub const WIDTH: u32 = 1120;
pub const HEIGHT: u32 = 560;
/// Where the legend begins.
const LEGEND: u32 = 700;
const LINE: i32 = 24;
const GREY: [u8; 3] = [110; 3];
/// Dash and gap of a method's rows, in the order of the request; the first is drawn through.
const DASHES: [(i32, i32); 4] = [(0, 0), (7, 4), (2, 3), (14, 6)];

/// An SVG document.
pub fn draw(findings: &Findings, title: &str) -> Result<String, String> {
    let rows = findings.by_area();
    let legend_height = 60 + LINE * rows.len() as i32;
    let height = HEIGHT.max(legend_height.unsigned_abs());
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
    let drawn = paint(&area, findings, &rows, title);
    drop(area);
    drawn.map_err(|fault| fault.to_string())?;
    Ok(svg)
}

type Area<'a> = plotters::drawing::DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn paint(
    area: &Area<'_>,
    findings: &Findings,
    rows: &[&RowFinding],
    title: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let (left, right) = area.split_horizontally(LEGEND);
    let steps = rows
        .first()
        .map_or(1, |row| row.mean_curve.len().saturating_sub(1).max(1));
    let means = rows.iter().flat_map(|row| &row.mean_curve).copied();
    let highest = means.fold(0.0_f64, f64::max);
    let bands = rows
        .iter()
        .flat_map(|row| row.band.iter().flatten())
        .map(|[_, high]| *high)
        .fold(highest, f64::max);
    // Probabilities end at 1, and so do their bands.
    let top = if highest <= 1.0 {
        bands.min(1.0)
    } else {
        bands
    };
    let top = if top > 0.0 { top * 1.04 } else { 1.0 };
    let mut chart = ChartBuilder::on(&left)
        .margin(14)
        .caption(title, (FONT, 17))
        .x_label_area_size(46)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..steps as f64, 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(BLACK.mix(0.0))
        .bold_line_style(BLACK.mix(0.12))
        .x_desc("number of patches replaced")
        .y_desc("mean score of the class (probability)")
        .x_label_formatter(&|x| {
            if x.fract() == 0.0 {
                format!("{x:.0}")
            } else {
                String::new()
            }
        })
        .y_label_formatter(&|y| format!("{y:.2}"))
        .label_style((FONT, 14))
        .axis_desc_style((FONT, 15))
        .draw()?;
    let plural = if findings.used == 1 { "" } else { "s" };
    for (text, y) in [
        (
            format!(
                "normalised area under the curve (1: no effect), {} image{plural}",
                findings.used
            ),
            16,
        ),
        (
            if findings.used > 1 {
                "shaded: 95 % interval of the mean"
            } else {
                ""
            }
            .to_owned(),
            36,
        ),
    ] {
        right.draw(&Text::new(
            text,
            (8, y),
            TextStyle::from((FONT, 14).into_font()),
        ))?;
    }
    for row in rows {
        let Some(band) = &row.band else { continue };
        let edge = |side: usize| {
            band.iter()
                .enumerate()
                .map(move |(k, ends)| (k as f64, ends[side].clamp(0.0, top)))
        };
        let around = edge(0)
            .chain(edge(1).collect::<Vec<_>>().into_iter().rev())
            .collect::<Vec<_>>();
        chart.draw_series([Polygon::new(around, color_of(row).mix(0.07))])?;
    }
    for (place, row) in rows.iter().enumerate() {
        let style = ShapeStyle::from(&color_of(row)).stroke_width(2);
        let (dash, gap) = dash_of(row, findings);
        let points = || {
            row.mean_curve
                .iter()
                .enumerate()
                .map(|(step, score)| (step as f64, *score))
        };
        let y = 60 + LINE * place as i32;
        let (sample, caption) = ([(8, y), (40, y)], format!("{:.3}  {}", row.area, row.title));
        if dash == 0 {
            chart.draw_series(LineSeries::new(points(), style))?;
            right.draw(&PathElement::new(sample, style))?;
        } else {
            chart.draw_series(DashedLineSeries::new(points(), dash, gap, style))?;
            let pieces = (8..40).step_by((dash + gap) as usize);
            for start in pieces {
                right.draw(&PathElement::new(
                    [(start, y), ((start + dash).min(40), y)],
                    style,
                ))?;
            }
        }
        right.draw(&Text::new(
            caption,
            (50, y - 7),
            TextStyle::from((FONT, 14).into_font()),
        ))?;
    }
    area.present()?;
    Ok(())
}

fn method_of(row: &RowFinding) -> Option<&'static registry::Method> {
    registry::find(row.method.get("id")?.as_str()?)
}

fn color_of(row: &RowFinding) -> RGBColor {
    let [r, g, b] = method_of(row).map_or(GREY, |method| method.color);
    RGBColor(r, g, b)
}

/// By its place among the rows of its method.
fn dash_of(row: &RowFinding, findings: &Findings) -> (i32, i32) {
    let own = findings
        .rows
        .iter()
        .filter(|other| other.method.get("id") == row.method.get("id"));
    DASHES[own.take_while(|other| other.title != row.title).count() % DASHES.len()]
}
