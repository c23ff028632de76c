//! The figure of `rsflow eval --latency --plot`: accuracy against multiply-adds, as the paper draws it, and
//! against latency.

use anyhow::Result;
use plotters::style::RGBColor;
use rsflow_model::nn::layers::cost::operations;
use rsflow_model::nn::networks::Network;
use rsflow_model::train::metrics::Table;

use super::latency::Latency;
use crate::plot::{self, Curve, Panel};

const OURS: RGBColor = RGBColor(20, 90, 170);
const PUBLISHED: RGBColor = RGBColor(200, 100, 0);
const SINGLE: RGBColor = RGBColor(110, 110, 110);

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
            .map(|(size, row)| (row.multiply_adds as f64 / 1e6, row.top1, size.to_string()))
            .collect(),
    }];
    let layers = network.layers(u32::try_from(classes)?)?;
    if let Some(figures) = published(network, classes) {
        let names = ["RS-Net, published", "one network a size, published"];
        for ((name, colour), top1) in names.into_iter().zip([PUBLISHED, SINGLE]).zip(figures) {
            let sizes = [224_u32, 192, 160, 128, 96].into_iter().zip(top1);
            let points = sizes.map(|(size, top1)| {
                let cost = operations(&layers, size).multiply_adds;
                (cost as f64 / 1e6, top1, size.to_string())
            });
            by_cost.push(Curve {
                name,
                colour,
                points: points.collect(),
            });
        }
    }
    let by_time = vec![Curve {
        name: "this network",
        colour: OURS,
        points: rows
            .iter()
            .filter_map(|(size, row)| {
                let latency = latencies.iter().find(|of| of.resolution == *size)?;
                Some((latency.milliseconds, row.top1, size.to_string()))
            })
            .collect(),
    }];
    plot::svg(&[
        Panel {
            x: "multiply-adds of an image, millions",
            y: "top-1 %",
            curves: by_cost,
        },
        Panel {
            x: "milliseconds of one image on this machine",
            y: "top-1 %",
            curves: by_time,
        },
    ])
}
