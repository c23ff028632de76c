//! What a file says about its network, as names and texts.

use anyhow::Result;
use rsflow_graph::{Preprocess, Resize};

use super::{Input, Single};
use crate::checkpoint::{NormsFrom, Row, Weights};
use crate::nn::transfer::Channels;

impl Single<'_> {
    /// Names and values; nothing in them depends on the time or the machine.
    pub(in crate::exchange) fn properties(&self) -> Result<Vec<(&'static str, String)>> {
        let metadata = self.checkpoint.metadata();
        let options = self.options;
        let channels = match metadata.channels {
            Channels::Rgb => "RGB",
            Channels::Bgr => "BGR",
        };
        let norms = match options.norms {
            NormsFrom::Resolution(norm) => norm.to_string(),
            NormsFrom::Between { below, above, .. } => {
                format!("interpolated between {below} and {above}")
            }
        };
        let version = env!("CARGO_PKG_VERSION");
        let mut properties = vec![
            ("network", metadata.network.to_string()),
            ("classes", serde_json::to_string(&metadata.classes)?),
            ("resolution", options.size.to_string()),
            ("batch_norms", norms),
            ("input", self.input()),
            ("preprocess", resize(&options.preprocess, options.size)),
            ("fraction", options.preprocess.fraction.to_string()),
            ("normalize", serde_json::to_string(&metadata.normalize)?),
            ("channels", channels.to_owned()),
            ("checkpoint", self.checkpoint.identity()),
            ("weights", self.checkpoint.weights().to_string()),
            ("program", format!("rsflow {version}")),
        ];
        if let Some(top1) = self.top1() {
            properties.push(("top1", top1.to_string()));
        }
        Ok(properties)
    }

    /// What the network expects, in a sentence.
    fn input(&self) -> String {
        let metadata = self.checkpoint.metadata();
        let size = self.options.size;
        let order = match metadata.channels {
            Channels::Rgb => "red, green, blue",
            Channels::Bgr => "blue, green, red",
        };
        match (self.options.input, metadata.normalize) {
            (Input::Bytes, _) => format!(
                "uint8 [batch, {size}, {size}, 3], red, green, blue; the network normalizes them itself"
            ),
            (Input::Float, None) => format!(
                "float32 [batch, 3, {size}, {size}], {order}; values are bytes / 255, not normalized further"
            ),
            // Mean and standard deviation are always in the order red, green, blue.
            (Input::Float, Some(by)) => format!(
                "float32 [batch, 3, {size}, {size}], {order}; values are (bytes / 255 - mean) / std, by the red, \
                 green and blue of {by}"
            ),
        }
    }

    /// The top-1 accuracy of the checkpoint's validation at this size with these batch norms, in percent.
    fn top1(&self) -> Option<f64> {
        let validated = self.checkpoint.metadata().validation.as_ref()?;
        let rows = match self.checkpoint.weights() {
            Weights::Trained => &validated.rows,
            Weights::Average => &validated.average,
        };
        let (norm, between) = match self.options.norms {
            NormsFrom::Resolution(norm) => (Some(norm), None),
            NormsFrom::Between { below, above, .. } => (None, Some((below, above))),
        };
        let mut rows = rows.iter();
        let is_it = |row: &&Row| {
            let with = (row.batch_norm, row.between);
            row.resolution == Some(self.options.size) && with == (norm, between)
        };
        Some(rows.find(is_it)?.top1)
    }
}

/// How an image becomes a square of pixels, in a sentence.
fn resize(by: &Preprocess, size: u32) -> String {
    let Preprocess {
        fraction,
        interpolation,
        ..
    } = by;
    let turned = match by.exif_orientation {
        true => "turn by the EXIF orientation; ",
        false => "",
    };
    match by.resize {
        Resize::ShortSide => {
            let side = (f64::from(size) / fraction) as u32;
            format!(
                "{turned}resize the short side to {side} ({interpolation:?}), take the central square of {size}"
            )
        }
        Resize::Cascade { side } => format!(
            "{turned}resize the short side to {side} / {fraction} ({interpolation:?}), take the central square of \
             {side}, of it nearest-neighbour samples of {size}"
        ),
    }
}
