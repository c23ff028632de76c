//! The figure of `rsflow eval --latency --plot`: accuracy against multiply-adds, as the paper draws it, and
//! against latency.

use anyhow::Result;
use rsflow_model::nn::layers::cost::operations;
use rsflow_model::nn::networks::Network;
use rsflow_model::train::metrics::Table;

use super::latency::Latency;
use crate::plot::{self, Axis, Chart, Line, Look, Point};

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
    let ours = |points| Line {
        name: "this network".to_owned(),
        look: Look::Number(0),
        points,
    };
    let by_cost = rows
        .iter()
        .map(|(size, row)| point(row.multiply_adds as f64 / 1e6, row.top1, *size));
    let mut by_cost = vec![ours(by_cost.collect())];
    let layers = network.layers(u32::try_from(classes)?)?;
    if let Some(figures) = published(network, classes) {
        let names = ["RS-Net, published", "one network a size, published"];
        for ((name, look), top1) in names.into_iter().zip([1, 2]).zip(figures) {
            let sizes = [224_u32, 192, 160, 128, 96].into_iter().zip(top1);
            let points = sizes.map(|(size, top1)| {
                let cost = operations(&layers, size).multiply_adds;
                point(cost as f64 / 1e6, top1, size)
            });
            by_cost.push(Line {
                name: name.to_owned(),
                look: Look::Number(look),
                points: points.collect(),
            });
        }
    }
    let by_time = rows.iter().filter_map(|(size, row)| {
        let latency = latencies.iter().find(|of| of.resolution == *size)?;
        Some(point(latency.milliseconds, row.top1, *size))
    });
    let by_time = vec![ours(by_time.collect())];
    let chart = |x: &str, lines| Chart {
        x: Axis::new(x),
        y: Axis::new("top-1 %"),
        lines,
    };
    Ok(plot::file(&[
        chart("multiply-adds of an image, millions", by_cost),
        chart("milliseconds of one image on this machine", by_time),
    ]))
}

fn point(x: f64, y: f64, size: u32) -> Point {
    Point {
        x,
        y,
        label: size.to_string(),
    }
}
