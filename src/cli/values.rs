//! The values of options: how they are read from text.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::builder::{OsStringValueParser, TypedValueParser};
use rsflow_base::home;
use rsflow_graph::Budget;
use rsflow_model::checkpoint::{ClassOrder, Weights};
use rsflow_model::nn::compute::{DeviceChoice, Precision};

pub(super) fn device(text: &str) -> Result<DeviceChoice, String> {
    let device = DeviceChoice::from_name(text);
    device.ok_or_else(|| "expected auto, cpu, cuda or cuda:N".to_owned())
}

pub(super) fn class_order(text: &str) -> Result<ClassOrder, String> {
    match text {
        "text" => Ok(ClassOrder::Text),
        "numeric" => Ok(ClassOrder::Numeric),
        _ => Err("expected text or numeric".to_owned()),
    }
}

pub(super) fn precision(text: &str) -> Result<Precision, String> {
    let precision = Precision::from_name(text);
    precision.ok_or_else(|| "expected auto, float32, tf32, bfloat16 or float16".to_owned())
}

/// A path, in which a leading `~` is the home folder.
pub(super) fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(|path| match path.is_empty() {
        true => Err(anyhow!("it must not be empty")),
        false => home::expand(Path::new(&path)),
    })
}

/// Whose batch norms a size is to run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormChoice {
    /// Those of this resolution.
    Of(u32),
    /// Those of the nearest resolution.
    Nearest,
    /// Interpolated between those of the next resolutions below and above.
    Interpolated,
}

/// A resolution, `nearest` or `lerp`.
pub(super) fn norm(text: &str) -> Result<NormChoice, String> {
    match text.trim() {
        "nearest" => Ok(NormChoice::Nearest),
        "lerp" => Ok(NormChoice::Interpolated),
        number => {
            let of = number.parse().map(NormChoice::Of);
            of.map_err(|_| "expected a resolution such as 160, nearest or lerp".to_owned())
        }
    }
}

/// A size in pixels, of several.
pub(super) fn size(text: &str) -> Result<u32, String> {
    let size = text.trim().parse().ok().filter(|size| *size > 0);
    size.ok_or_else(|| {
        "expected a size in pixels, such as 64, or several joined by commas, such as 64,48"
            .to_owned()
    })
}

/// The one size of a command that computes at one.
pub(super) fn one_size(text: &str) -> Result<u32, String> {
    size(text).map_err(|_| {
        "expected one size in pixels, such as 64; `rsflow eval --sizes 64,48` measures several"
            .to_owned()
    })
}

/// A size to export a network for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeChoice {
    /// This one, in pixels.
    Of(u32),
    /// All that have batch norms of their own.
    All,
}

/// A size, or `all`.
pub(super) fn size_choice(text: &str) -> Result<SizeChoice, String> {
    match text.trim() {
        "all" => Ok(SizeChoice::All),
        number => {
            let of = number.parse().map(SizeChoice::Of);
            of.map_err(|_| "expected a size such as 160, or all".to_owned())
        }
    }
}

/// The number of images in a batch, or `dynamic`, which is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSize(pub Option<u32>);

pub(super) fn batch_size(text: &str) -> Result<BatchSize, String> {
    if text == "dynamic" {
        return Ok(BatchSize(None));
    }
    let size = text.parse().ok().filter(|size| (1..=65536).contains(size));
    let size = size.ok_or_else(|| "expected dynamic, or a number such as 8".to_owned())?;
    Ok(BatchSize(Some(size)))
}

/// `SIZE=RESOLUTION`.
pub(super) fn size_and_norm(text: &str) -> Result<(u32, NormChoice), String> {
    let pair = text
        .split_once('=')
        .and_then(|(size, of)| Some((size.trim().parse().ok()?, norm(of).ok()?)));
    pair.ok_or_else(|| {
        "expected SIZE=RESOLUTION, SIZE=nearest or SIZE=lerp, such as 176=160".to_owned()
    })
}

impl fmt::Display for NormChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NormChoice::Of(resolution) => write!(f, "{resolution}"),
            NormChoice::Nearest => f.write_str("nearest"),
            NormChoice::Interpolated => f.write_str("lerp"),
        }
    }
}

/// A share above 0 and up to 1.
pub(super) fn fraction(text: &str) -> Result<f64, String> {
    let fraction = text.parse().ok().filter(|&f| f > 0.0 && f <= 1.0);
    fraction.ok_or_else(|| "expected a number above 0 and up to 1, such as 0.875".to_owned())
}

/// How many images may be passed over: a count or a share.
pub(super) fn budget(text: &str) -> Result<Budget, String> {
    let count = text.parse().ok().map(Budget::Count);
    let share = || {
        text.parse()
            .ok()
            .filter(|share| (0.0..=1.0).contains(share))
    };
    let budget = count.or_else(|| share().map(Budget::Share));
    budget.ok_or_else(|| {
        "expected a number of images, or a share of all from 0.0 to 1.0, such as 0.01".to_owned()
    })
}

/// A share in percent, above 0 and below 100.
pub(super) fn percent(text: &str) -> Result<f64, String> {
    let percent = text.parse().ok().filter(|&p| p > 0.0 && p < 100.0);
    percent.ok_or_else(|| "expected a number above 0 and below 100, such as 10".to_owned())
}

/// A number of seconds.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok();
    let seconds = seconds.filter(|seconds| (0.001..=1e6).contains(seconds));
    seconds.ok_or_else(|| "expected seconds, such as 10 or 2.5".to_owned())
}

/// `SAMPLE` of the first epoch, or `EPOCH:SAMPLE`, where epochs count from 1; the epoch from 0, and the sample.
pub(super) fn position(text: &str) -> Result<(u64, u64), String> {
    let (epoch, sample) = text.split_once(':').unwrap_or(("1", text));
    let epoch = epoch.trim().parse().ok();
    let epoch = epoch.and_then(|epoch: u64| epoch.checked_sub(1));
    let position = epoch.zip(sample.trim().parse().ok());
    position.ok_or_else(|| {
        "expected SAMPLE or EPOCH:SAMPLE, such as 1234 or 2:200; epochs count from 1, samples from 0".to_owned()
    })
}

pub(super) fn whole_seconds() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=86_400)
}

pub(super) fn weights(text: &str) -> Result<Weights, String> {
    match text {
        "trained" => Ok(Weights::Trained),
        "average" => Ok(Weights::Average),
        _ => Err("expected trained or average".to_owned()),
    }
}
