//! The figure of a benchmark: the mean score of the class over the patches replaced, one curve for each row (Figure 3 of pgig.txt).
//! The legend lists the rows by area, the best first; rankings by magnitude are dashed.

use plotters::{
    prelude::{
        ChartBuilder, Color, DashedLineSeries, IntoDrawingArea, IntoFont, LineSeries, PathElement, RGBColor,
        SVGBackend, Text, WHITE,
    },
    style::{BLACK, ShapeStyle, TextStyle},
};

use super::findings::{Findings, RowFinding};
use crate::render::fonts::FONT;

pub const WIDTH: u32 = 1120;
pub const HEIGHT: u32 = 560;
/// Where the legend begins.
const LEGEND: u32 = 700;
const LINE: i32 = 24;

/// Told apart by people who see few colours, and on grey paper by their lightness (after Okabe and Ito, and Tol).
const COLOURS: [RGBColor; 10] = [
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(51, 34, 136),
    RGBColor(136, 34, 85),
    RGBColor(153, 153, 51),
    RGBColor(110, 110, 110),
];

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
    let steps = rows.first().map_or(1, |row| row.mean_curve.len().saturating_sub(1).max(1));
    let top = rows.iter().flat_map(|row| &row.mean_curve).fold(0.0_f64, |top, score| top.max(*score));
    let mut chart = ChartBuilder::on(&left)
        .margin(14)
        .caption(title, (FONT, 17))
        .x_label_area_size(46)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..steps as f64, 0.0..if top > 0.0 { top * 1.04 } else { 1.0 })?;
    chart
        .configure_mesh()
        .light_line_style(BLACK.mix(0.0))
        .bold_line_style(BLACK.mix(0.12))
        .x_desc("patches replaced")
        .y_desc("mean score of the class")
        .x_label_formatter(&|x| if x.fract() == 0.0 { format!("{x:.0}") } else { String::new() })
        .y_label_formatter(&|y| format!("{y:.2}"))
        .label_style((FONT, 14))
        .axis_desc_style((FONT, 15))
        .draw()?;
    right.draw(&Text::new(
        format!("area under the curve, {} image{}", findings.used, if findings.used == 1 { "" } else { "s" }),
        (8, 34),
        TextStyle::from((FONT, 14).into_font()),
    ))?;
    for (place, row) in rows.iter().enumerate() {
        let style = ShapeStyle::from(&COLOURS[place % COLOURS.len()]).stroke_width(2);
        // After ten rows the colours come again, dotted or in longer dashes.
        let absolute = row.method.get("score").and_then(|score| score.as_str()) == Some("absolute");
        let (dash, gap) = match (absolute, place / COLOURS.len()) {
            (true, 0) => (7, 4),
            (true, _) => (14, 6),
            (false, 0) => (0, 0),
            (false, _) => (2, 3),
        };
        let points = || row.mean_curve.iter().enumerate().map(|(step, score)| (step as f64, *score));
        let y = 60 + LINE * place as i32;
        let (sample, caption) = ([(8, y), (40, y)], format!("{:.3}  {}", row.area, row.title));
        if dash == 0 {
            chart.draw_series(LineSeries::new(points(), style))?;
            right.draw(&PathElement::new(sample, style))?;
        } else {
            chart.draw_series(DashedLineSeries::new(points(), dash, gap, style))?;
            let pieces = (8..40).step_by((dash + gap) as usize);
            for start in pieces {
                right.draw(&PathElement::new([(start, y), ((start + dash).min(40), y)], style))?;
            }
        }
        right.draw(&Text::new(caption, (50, y - 7), TextStyle::from((FONT, 14).into_font())))?;
    }
    area.present()?;
    Ok(())
}
