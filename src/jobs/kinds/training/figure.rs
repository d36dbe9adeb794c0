//! The figures of trainings: charts of lines side by side, with one legend below.

use std::error::Error;

use image::{Rgb, RgbImage};
use plotters::{
    coord::Shift,
    prelude::{
        ChartBuilder, Circle, Color, DashedLineSeries, DrawingArea, IntoDrawingArea, IntoFont,
        LineSeries, PathElement, RGBColor, SVGBackend, Text, WHITE,
    },
    style::{BLACK, ShapeStyle, TextStyle},
};

use crate::{
    evaluation::findings::fixed,
    render::{encode::encode_png, fonts::FONT, svg::paint},
    training::EpochReport,
};

/// Of a chart.
const WIDTH: u32 = 560;
const HEIGHT: u32 = 420;
/// Of a line of the legend, and of a name in it.
const LEGEND: u32 = 40;
const KEY: u32 = 160;
/// Left of the legend.
const INDENT: u32 = 60;

/// Dash and gap in pixels.
pub(in crate::jobs::kinds) const WHOLE: (i32, i32) = (0, 0);
pub(in crate::jobs::kinds) const DASHED: (i32, i32) = (7, 4);

pub(in crate::jobs::kinds) struct Line {
    /// In the legend; not there where it is empty.
    pub name: String,
    pub color: RGBColor,
    pub dash: (i32, i32),
    pub points: Vec<(f64, f64)>,
}

pub(in crate::jobs::kinds) struct Chart {
    pub title: String,
    pub x: &'static str,
    pub y: &'static str,
    pub left: f64,
    pub right: f64,
    /// Decimals of the numbers along x: with 0, whole numbers alone are told.
    pub decimals: usize,
    pub bottom: f64,
    /// By default, the highest value.
    pub top: Option<f64>,
    pub lines: Vec<Line>,
}

impl Chart {
    /// From 0 up, by epochs.
    pub(in crate::jobs::kinds) fn of_epochs(
        title: String,
        y: &'static str,
        top: Option<f64>,
        lines: Vec<Line>,
    ) -> Self {
        let ends = lines.iter().filter_map(|line| line.points.last());
        Self {
            title,
            x: "epoch",
            y,
            left: 1.0,
            right: ends.fold(2.0, |right, (x, _)| right.max(*x)),
            decimals: 0,
            bottom: 0.0,
            top,
            lines,
        }
    }
}

/// A value of each epoch that has it.
pub(in crate::jobs::kinds) fn by_epoch(
    epochs: &[EpochReport],
    of: fn(&EpochReport) -> Option<f64>,
) -> Vec<(f64, f64)> {
    let points = epochs
        .iter()
        .filter_map(|epoch| Some((epoch.epoch as f64, of(epoch)?)));
    points.filter(|(_, value)| value.is_finite()).collect()
}

/// An SVG document of charts. The legend is that of the first.
pub(in crate::jobs::kinds) fn svg(charts: &[Chart]) -> Result<String, Box<dyn Error>> {
    let (width, height) = size(charts);
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let (upper, legend) = area.split_vertically(HEIGHT);
    for (area, chart) in upper
        .split_evenly((1, charts.len().max(1)))
        .iter()
        .zip(charts)
    {
        draw(area, chart)?;
    }
    let each_row = (width - INDENT) / KEY;
    for (place, line) in keys(charts).enumerate() {
        let (row, column) = (place as u32 / each_row, place as u32 % each_row);
        let corner = (INDENT + KEY * column, LEGEND * row);
        key(&legend, (corner.0 as i32, corner.1 as i32), line)?;
    }
    area.present()?;
    drop((upper, legend, area));
    Ok(svg)
}

pub(in crate::jobs::kinds) fn png(charts: &[Chart]) -> Result<Vec<u8>, Box<dyn Error>> {
    let (width, height) = size(charts);
    let mut picture = RgbImage::from_pixel(width, height, Rgb([255; 3]));
    paint(&mut picture, &svg(charts)?)?;
    Ok(encode_png(&picture, &[])?)
}

fn size(charts: &[Chart]) -> (u32, u32) {
    let width = WIDTH * charts.len().max(1) as u32;
    let rows = (keys(charts).count() as u32).div_ceil((width - INDENT) / KEY);
    (width, HEIGHT + LEGEND * rows.max(1))
}

fn keys(charts: &[Chart]) -> impl Iterator<Item = &Line> {
    let lines = charts.first().into_iter().flat_map(|chart| &chart.lines);
    lines.filter(|line| !line.name.is_empty())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw(area: &Area<'_>, of: &Chart) -> Result<(), Box<dyn Error>> {
    let values = of.lines.iter().flat_map(|line| &line.points);
    let highest = values.fold(0.0, |highest, (_, y)| f64::max(highest, *y));
    let top = of
        .top
        .unwrap_or(if highest > 0.0 { highest * 1.04 } else { 1.0 });
    let mut chart = ChartBuilder::on(area)
        .margin(14)
        .caption(&of.title, (FONT, 17))
        .x_label_area_size(46)
        .y_label_area_size(60)
        .build_cartesian_2d(of.left..of.right, of.bottom..top)?;
    chart
        .configure_mesh()
        .light_line_style(BLACK.mix(0.0))
        .bold_line_style(BLACK.mix(0.12))
        .x_desc(of.x)
        .y_desc(of.y)
        .x_label_formatter(&|x| match of.decimals {
            0 if x.fract() != 0.0 => String::new(),
            decimals => format!("{x:.decimals$}"),
        })
        .y_label_formatter(&|y| number(*y, 2))
        .label_style((FONT, 14))
        .axis_desc_style((FONT, 15))
        .draw()?;
    for line in &of.lines {
        let points = || line.points.iter().copied();
        let style = ShapeStyle::from(&line.color).stroke_width(2);
        match line.dash {
            WHOLE => chart.draw_series(LineSeries::new(points(), style))?,
            (dash, gap) => chart.draw_series(DashedLineSeries::new(points(), dash, gap, style))?,
        };
        chart.draw_series(points().map(|point| Circle::new(point, 3, line.color.filled())))?;
    }
    Ok(())
}

/// Large numbers, of losses that diverge, are written with an exponent.
pub(in crate::jobs::kinds) fn number(value: f64, decimals: usize) -> String {
    if value < 1e4 {
        fixed(value, decimals)
    } else {
        format!("{value:.1e}")
    }
}

/// A name of the legend, right of and below this corner.
fn key(area: &Area<'_>, (x, y): (i32, i32), line: &Line) -> Result<(), Box<dyn Error>> {
    let y = y + 12;
    let style = ShapeStyle::from(&line.color).stroke_width(2);
    let pieces: Vec<(i32, i32)> = match line.dash {
        WHOLE => vec![(0, 32)],
        (dash, gap) => (0..32)
            .step_by((dash + gap).unsigned_abs() as usize)
            .map(|start| (start, (start + dash).min(32)))
            .collect(),
    };
    for (start, end) in pieces {
        area.draw(&PathElement::new([(x + start, y), (x + end, y)], style))?;
    }
    let style = TextStyle::from((FONT, 14).into_font());
    area.draw(&Text::new(line.name.clone(), (x + 42, y - 7), style))?;
    Ok(())
}
