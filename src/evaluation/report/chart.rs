//! The figures of metrics: the mean of what a metric measures, one curve for each row with its 95 %
//! band (Figure 3 of the PGIG paper), or one bar with its interval. A method has the same colour in
//! every figure; its further rows, and what GAD makes of it, are dashed or pale. The legend lists the
//! rows, the best first.

use std::error::Error;

use plotters::{
    chart::ChartContext,
    coord::{Shift, types::RangedCoordf64},
    prelude::{
        Cartesian2d, ChartBuilder, Color, DashedLineSeries, DrawingArea, IntoDrawingArea, IntoFont,
        LineSeries, PathElement, Polygon, RGBColor, Rectangle, SVGBackend, Text, WHITE,
    },
    style::{BLACK, RGBAColor, ShapeStyle, TextStyle},
};

use crate::{
    evaluation::{
        Axes,
        findings::{MetricFinding, RowFinding, fixed},
    },
    methods::registry,
    render::fonts::FONT,
    text::counted,
};

pub(super) const WIDTH: u32 = 1120;
const HEIGHT: u32 = 560;
/// Where the legend begins.
const LEGEND: u32 = 700;
pub(super) const LEGEND_LINE: i32 = 24;
const GREY: [u8; 3] = [110; 3];
/// Dash and gap of a method's rows, in the order of the request; the first is drawn through.
const DASHES: [(i32, i32); 4] = [(0, 0), (7, 4), (2, 3), (14, 6)];
/// The part of its height that a bar fills.
const BAR: f64 = 0.7;

/// One metric's part of the drawing.
pub(super) struct Figure<'a> {
    pub title: String,
    pub metric: &'a MetricFinding,
    /// Used.
    pub images: usize,
}

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
pub(super) type Drawn = Result<(), Box<dyn Error>>;

/// Height of a metric's figure, in pixels.
pub(super) fn height_of(metric: &MetricFinding) -> u32 {
    let legend_height = 60 + LEGEND_LINE * metric.rows.len() as i32;
    HEIGHT.max(legend_height.unsigned_abs())
}

/// An SVG document of figures, one below the other.
pub(super) fn draw(figures: &[Figure<'_>]) -> Result<String, String> {
    let height = figures.iter().map(|figure| height_of(figure.metric)).sum();
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
    let drawn = paint(&area, figures);
    drop(area);
    drawn.map_err(|fault| fault.to_string())?;
    Ok(svg)
}

fn paint(area: &Area<'_>, figures: &[Figure<'_>]) -> Drawn {
    area.fill(&WHITE)?;
    let mut rest = area.clone();
    for (place, figure) in figures.iter().enumerate() {
        if place + 1 == figures.len() {
            paint_figure(&rest, figure)?;
        } else {
            let (upper, lower) = rest.split_vertically(height_of(figure.metric));
            paint_figure(&upper, figure)?;
            rest = lower;
        }
    }
    area.present()?;
    Ok(())
}

fn paint_figure(area: &Area<'_>, figure: &Figure<'_>) -> Drawn {
    let (left, right) = area.split_horizontally(LEGEND);
    let rows = figure.metric.by_value();
    let words = figure.metric.metric().map(|metric| &metric.words);
    // A curve of one value is a bar.
    let is_curve = rows.iter().any(|row| row.mean_curve.len() > 1);
    let axes = words.and_then(|words| words.axes).filter(|_| is_curve);
    let legend = words.map_or("", |words| words.legend);
    let shaded = match (axes.is_some(), figure.images > 1) {
        (_, false) => "",
        (true, true) => "shaded: 95 % interval",
        (false, true) => "lines: 95 % interval",
    };
    let head = |right: &Area<'_>| -> Drawn {
        let count = format!("{legend}, {}", counted(figure.images, "image"));
        for (text, y) in [(count, 16), (shaded.to_owned(), 36)] {
            let style = TextStyle::from((FONT, 14).into_font());
            right.draw(&Text::new(text, (8, y), style))?;
        }
        Ok(())
    };
    let caption = |row: &RowFinding| {
        let value = figure.metric.written(row.value, 3);
        format!("{value}  {}", row.title)
    };
    let style_of = |row: &RowFinding| (color_of(row), dash_of(row, figure.metric));
    match axes {
        Some(axes) => {
            let (mut chart, ends) = curve_chart(&left, &figure.title, &rows, axes)?;
            head(&right)?;
            paint_bands(&mut chart, &rows, axes, ends)?;
            for (place, row) in rows.iter().enumerate() {
                let (color, dash) = style_of(row);
                paint_curve(&mut chart, row, axes, color, dash)?;
                paint_key(&right, place, &caption(row), color, dash)?;
            }
        }
        None => {
            let mut chart = bar_chart(&left, figure)?;
            head(&right)?;
            for (place, row) in rows.iter().enumerate() {
                let (color, dash) = style_of(row);
                let pale = if dash.0 == 0 { 0.9 } else { 0.45 };
                paint_bar(&mut chart, rows.len() - place - 1, row, color.mix(pale))?;
                paint_key(&right, place, &caption(row), color, dash)?;
            }
        }
    }
    Ok(())
}

/// An empty chart with room for the curves, and its lowest and highest values.
fn curve_chart<'a, 'b>(
    area: &'a Area<'b>,
    title: &str,
    rows: &[&RowFinding],
    axes: Axes,
) -> Result<(Chart<'a, 'b>, [f64; 2]), Box<dyn Error>> {
    let steps = rows.first().map_or(1.0, |row| steps_of(&row.mean_curve));
    let width = axes.end.unwrap_or(steps);
    let means = rows.iter().flat_map(|row| &row.mean_curve).copied();
    let highest = means.clone().fold(0.0_f64, f64::max);
    let bands = rows
        .iter()
        .flat_map(|row| row.band.iter().flatten())
        .map(|[_, high]| *high)
        .fold(highest, f64::max);
    // Probabilities and correlations end at 1, and so do their bands.
    let top = if highest <= 1.0 {
        bands.min(1.0)
    } else {
        bands
    };
    let top = if top > 0.0 { top * 1.04 } else { 1.0 };
    let bottom = match axes.signed {
        true => means.fold(0.0_f64, f64::min) * 1.04,
        false => 0.0,
    };
    let mut chart = ChartBuilder::on(area)
        .margin(14)
        .caption(title, (FONT, 17))
        .x_label_area_size(46)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..width, bottom..top)?;
    chart
        .configure_mesh()
        .light_line_style(BLACK.mix(0.0))
        .bold_line_style(BLACK.mix(0.12))
        .x_desc(axes.x)
        .y_desc(axes.y)
        .x_label_formatter(&|x| match axes.end {
            Some(_) => format!("{x:.1}"),
            None if x.fract() == 0.0 => format!("{x:.0}"),
            None => String::new(),
        })
        .y_label_formatter(&|y| fixed(*y, 2))
        .label_style((FONT, 14))
        .axis_desc_style((FONT, 15))
        .draw()?;
    Ok((chart, [bottom, top]))
}

fn steps_of<T>(curve: &[T]) -> f64 {
    curve.len().saturating_sub(1).max(1) as f64
}

/// Values of a curve, each where it lies along the axis.
fn placed<T: Copy>(curve: &[T], axes: Axes) -> Vec<(f64, T)> {
    let step = axes.end.map_or(1.0, |end| end / steps_of(curve));
    let values = curve.iter().enumerate();
    values
        .map(|(place, value)| (place as f64 * step, *value))
        .collect()
}

fn paint_bands(
    chart: &mut Chart<'_, '_>,
    rows: &[&RowFinding],
    axes: Axes,
    [bottom, top]: [f64; 2],
) -> Drawn {
    for row in rows {
        let Some(band) = &row.band else { continue };
        let band = placed(band, axes);
        let edge = |side: usize| {
            let ends = band.iter();
            ends.map(move |(x, ends)| (*x, ends[side].clamp(bottom, top)))
        };
        let around: Vec<_> = edge(0).chain(edge(1).rev()).collect();
        chart.draw_series([Polygon::new(around, color_of(row).mix(0.07))])?;
    }
    Ok(())
}

fn paint_curve(
    chart: &mut Chart<'_, '_>,
    row: &RowFinding,
    axes: Axes,
    color: RGBColor,
    (dash, gap): (i32, i32),
) -> Drawn {
    let style = ShapeStyle::from(&color).stroke_width(2);
    let points = placed(&row.mean_curve, axes).into_iter();
    if dash == 0 {
        chart.draw_series(LineSeries::new(points, style))?;
    } else {
        chart.draw_series(DashedLineSeries::new(points, dash, gap, style))?;
    }
    Ok(())
}

/// An empty chart with room for a bar of each row, and its interval.
fn bar_chart<'a, 'b>(
    area: &'a Area<'b>,
    figure: &Figure<'_>,
) -> Result<Chart<'a, 'b>, Box<dyn Error>> {
    let metric = figure.metric;
    let words = metric.metric().map(|metric| &metric.words);
    let rows = &metric.rows;
    let ends = rows
        .iter()
        .flat_map(|row| [row.value, row.interval[0], row.interval[1]]);
    let ends: Vec<f64> = ends.filter(|end| end.is_finite()).collect();
    let highest = ends.iter().copied().fold(0.0_f64, f64::max);
    let lowest = ends.iter().copied().fold(0.0_f64, f64::min);
    let highest = if highest > lowest { highest } else { 1.0 };
    let mut chart = ChartBuilder::on(area)
        .margin(14)
        .caption(&figure.title, (FONT, 17))
        .x_label_area_size(46)
        .y_label_area_size(60)
        .build_cartesian_2d(lowest * 1.04..highest * 1.04, 0.0..rows.len().max(1) as f64)?;
    chart
        .configure_mesh()
        .light_line_style(BLACK.mix(0.0))
        .bold_line_style(BLACK.mix(0.12))
        .disable_y_mesh()
        .x_desc(words.map_or("", |words| words.column))
        .x_label_formatter(&|x| metric.tick(*x))
        .y_labels(0)
        .label_style((FONT, 14))
        .axis_desc_style((FONT, 15))
        .draw()?;
    Ok(chart)
}

/// `place` counts from below.
fn paint_bar(chart: &mut Chart<'_, '_>, place: usize, row: &RowFinding, color: RGBAColor) -> Drawn {
    let (middle, reach) = (place as f64 + 0.5, BAR / 2.0);
    let [low, high] = row.interval;
    if row.value != 0.0 {
        let bar = [(0.0, middle - reach), (row.value, middle + reach)];
        chart.draw_series([Rectangle::new(bar, color.filled())])?;
    }
    let whisker = [(low, middle), (high, middle)];
    chart.draw_series([PathElement::new(whisker, BLACK.stroke_width(1))])?;
    Ok(())
}

/// A row's line of the legend.
fn paint_key(
    area: &Area<'_>,
    place: usize,
    caption: &str,
    color: RGBColor,
    (dash, gap): (i32, i32),
) -> Drawn {
    let style = ShapeStyle::from(&color).stroke_width(2);
    let y = 60 + LEGEND_LINE * place as i32;
    if dash == 0 {
        area.draw(&PathElement::new([(8, y), (40, y)], style))?;
    } else {
        for start in (8..40).step_by((dash + gap).unsigned_abs() as usize) {
            let piece = [(start, y), ((start + dash).min(40), y)];
            area.draw(&PathElement::new(piece, style))?;
        }
    }
    let style = TextStyle::from((FONT, 14).into_font());
    area.draw(&Text::new(caption.to_owned(), (50, y - 7), style))?;
    Ok(())
}

pub(super) fn color_of(row: &RowFinding) -> RGBColor {
    let method = method_of(row).and_then(registry::find);
    let [r, g, b] = method.map_or(GREY, |method| method.color);
    RGBColor(r, g, b)
}

/// The method that a row is drawn as: of GAD's rows their base, which tells them apart.
fn method_of(row: &RowFinding) -> Option<&str> {
    let method = row.method.get("base").or_else(|| row.method.get("id"))?;
    method.as_str()
}

/// By its place among the rows of its method.
fn dash_of(row: &RowFinding, metric: &MetricFinding) -> (i32, i32) {
    DASHES[place_in_method(row, metric) % DASHES.len()]
}

pub(super) fn is_first_of_method(row: &RowFinding, metric: &MetricFinding) -> bool {
    place_in_method(row, metric) == 0
}

fn place_in_method(row: &RowFinding, metric: &MetricFinding) -> usize {
    let is_own = |other: &&RowFinding| method_of(other) == method_of(row);
    let own = metric.rows.iter().filter(is_own);
    own.take_while(|other| other.title != row.title).count()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_of_one_colour_are_those_of_a_method_and_of_gad_on_it() {
        let row = |title: &str, method| json!({ "title": title, "method": method, "value": 1.0, "interval": [1.0, 1.0] });
        let rows = [
            row("a", json!({"id": "gradient", "score": "signed"})),
            row("b", json!({"id": "gradient", "score": "absolute"})),
            row("c", json!({"id": "gad", "base": "gradient"})),
            row("d", json!({"id": "gad", "base": "deconvnet"})),
        ];
        let metric = json!({
            "id": "rc", "parameters": {}, "title": "", "paper": "", "better": "lower", "rows": rows, "differences": [],
        });
        let metric: MetricFinding = serde_json::from_value(metric).unwrap();
        let [a, b, c, d] = [0, 1, 2, 3].map(|at| &metric.rows[at]);
        assert!(color_of(a) == color_of(b) && color_of(a) == color_of(c));
        assert_ne!(color_of(a), color_of(d));
        let places = [a, b, c, d].map(|row| place_in_method(row, &metric));
        assert_eq!(places, [0, 1, 2, 0]);
    }
}
