//! The figure of `rsflow eval --latency --plot`: accuracy against multiply-adds, as the paper draws it, and
//! against latency.

use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use rsflow_model::nn::layers::cost::operations;
use rsflow_model::nn::networks::Network;
use rsflow_model::train::metrics::Table;

use super::latency::Latency;

const SIZE: (u32, u32) = (1000, 460);
const OURS: RGBColor = RGBColor(20, 90, 170);
const PUBLISHED: RGBColor = RGBColor(200, 100, 0);
const SINGLE: RGBColor = RGBColor(110, 110, 110);

/// Points of one network: x, top-1 in percent, size in pixels.
struct Curve {
    name: &'static str,
    colour: RGBColor,
    points: Vec<(f64, f64, u32)>,
}

/// Top-1 on ImageNet at 224, 192, 160, 128 and 96 pixels: of the paper's RS-Net, and of five networks trained
/// at one resolution each (for MobileNetV2 read off a figure).
fn published(network: &Network, classes: usize) -> Option<[[f64; 5]; 2]> {
    if classes != 1000 {
        return None;
    }
    Some(match network {
        Network::ResNet(of) if (of.depth, of.width) == (18, 64) => [
            [73.1, 72.2, 71.1, 68.7, 64.1],
            [70.974, 69.754, 68.482, 66.360, 62.560],
        ],
        Network::ResNet(of) if (of.depth, of.width) == (50, 64) => [
            [79.3, 78.8, 77.9, 76.3, 72.7],
            [77.150, 76.406, 75.312, 73.526, 70.610],
        ],
        Network::MobileNetV2(of) if of.width == 1.0 => [
            [73.0, 72.2, 71.1, 68.8, 63.9],
            [72.1, 71.0, 69.5, 66.8, 62.6],
        ],
        _ => return None,
    })
}

/// The figure as SVG. Where the network is one of the paper's, its points are there, too.
///
/// # Errors
/// Nothing was measured.
pub fn svg(
    network: &Network,
    classes: usize,
    table: &Table,
    latencies: &[Latency],
) -> Result<String> {
    let rows = table
        .rows
        .iter()
        .filter_map(|row| Some((row.resolution?, row)));
    let rows: Vec<_> = rows.collect();
    let mut by_cost = vec![Curve {
        name: "this network",
        colour: OURS,
        points: rows
            .iter()
            .map(|(size, row)| (row.multiply_adds as f64 / 1e6, row.top1, *size))
            .collect(),
    }];
    let layers = network.layers(u32::try_from(classes)?)?;
    if let Some(figures) = published(network, classes) {
        let names = ["RS-Net, published", "one network a size, published"];
        for ((name, colour), top1) in names.into_iter().zip([PUBLISHED, SINGLE]).zip(figures) {
            let sizes = [224_u32, 192, 160, 128, 96].into_iter().zip(top1);
            let points = sizes.map(|(size, top1)| {
                let cost = operations(&layers, size).multiply_adds;
                (cost as f64 / 1e6, top1, size)
            });
            by_cost.push(Curve {
                name,
                colour,
                points: points.collect(),
            });
        }
    }
    let by_time = [Curve {
        name: "this network",
        colour: OURS,
        points: rows
            .iter()
            .filter_map(|(size, row)| {
                let latency = latencies.iter().find(|of| of.resolution == *size)?;
                Some((latency.milliseconds, row.top1, *size))
            })
            .collect(),
    }];
    let mut text = String::new();
    let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
    let drawn = || -> Result<(), Box<dyn std::error::Error>> {
        root.fill(&WHITE)?;
        let (left, right) = root.split_horizontally(SIZE.0 / 2);
        panel(&left, "multiply-adds of an image, millions", &by_cost)?;
        panel(
            &right,
            "milliseconds of one image on this machine",
            &by_time,
        )?;
        root.present()?;
        Ok(())
    };
    drawn().map_err(|error| anyhow!("cannot draw the figure: {error}"))?;
    drop(root);
    Ok(text)
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    x_name: &str,
    curves: &[Curve],
) -> Result<(), Box<dyn std::error::Error>> {
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let xs = around(all().map(|point| point.0));
    let ys = around(all().map(|point| point.1));
    let mut chart = ChartBuilder::on(area)
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(52)
        .build_cartesian_2d(xs, ys)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .x_desc(x_name)
        .y_desc("top-1 %")
        .label_style(("sans-serif", 13))
        .axis_desc_style(("sans-serif", 14))
        .draw()?;
    for curve in curves {
        let colour = curve.colour;
        let line = curve.points.iter().map(|&(x, y, _)| (x, y));
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
            .label(curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(curve.points.iter().map(|&(x, y, size)| {
            EmptyElement::at((x, y))
                + Circle::new((0, 0), 4, colour.filled())
                + Text::new(
                    size.to_string(),
                    (6, 8),
                    ("sans-serif", 12).into_font().color(&colour),
                )
        }))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}

/// A range with room around the values, for one value too.
fn around(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    let room = match high - low {
        span if span > 0.0 => 0.12 * span,
        _ => (0.1 * high.abs()).max(1.0),
    };
    low - room..high + room
}
