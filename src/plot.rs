//! Figures as SVG: panels beside each other, with labelled points on lines.

use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// Width and height of a panel, in pixels.
const PANEL: (u32, u32) = (500, 460);

/// One line.
pub struct Curve {
    pub name: &'static str,
    pub colour: RGBColor,
    /// x, y, and what is written beside it.
    pub points: Vec<(f64, f64, String)>,
}

/// One pair of axes.
pub struct Panel {
    pub x: &'static str,
    pub y: &'static str,
    pub curves: Vec<Curve>,
}

/// The figure.
///
/// # Errors
/// It cannot be drawn.
pub fn svg(panels: &[Panel]) -> Result<String> {
    let mut text = String::new();
    let size = (PANEL.0 * panels.len() as u32, PANEL.1);
    let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
    let drawn = || -> Result<(), Box<dyn std::error::Error>> {
        root.fill(&WHITE)?;
        for (area, of) in root.split_evenly((1, panels.len())).iter().zip(panels) {
            panel(area, of)?;
        }
        root.present()?;
        Ok(())
    };
    drawn().map_err(|error| anyhow!("cannot draw the figure: {error}"))?;
    drop(root);
    Ok(text)
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    of: &Panel,
) -> Result<(), Box<dyn std::error::Error>> {
    let all = || of.curves.iter().flat_map(|curve| &curve.points);
    let xs = around(all().map(|point| point.0));
    let ys = around(all().map(|point| point.1));
    let mut chart = ChartBuilder::on(area)
        .margin(14)
        .margin_right(28)
        .x_label_area_size(44)
        .y_label_area_size(52)
        .build_cartesian_2d(xs, ys)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .x_desc(of.x)
        .y_desc(of.y)
        .label_style(("sans-serif", 13))
        .axis_desc_style(("sans-serif", 14))
        .draw()?;
    for curve in &of.curves {
        let colour = curve.colour;
        let line = curve.points.iter().map(|(x, y, _)| (*x, *y));
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
            .label(curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(curve.points.iter().map(|(x, y, label)| {
            EmptyElement::at((*x, *y))
                + Circle::new((0, 0), 4, colour.filled())
                + Text::new(
                    label.clone(),
                    (6, 8),
                    ("sans-serif", 12).into_font().color(&colour),
                )
        }))?;
    }
    // The axis names a single one.
    if of.curves.len() == 1 {
        return Ok(());
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}

/// A range with room around the values, for one value or none too.
fn around(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    if low > high {
        return 0.0..1.0;
    }
    let room = match high - low {
        span if span > 0.0 => 0.12 * span,
        _ => (0.1 * high.abs()).max(1.0),
    };
    low - room..high + room
}
