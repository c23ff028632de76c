//! The outputs of a request, whatever protocol brings them.

use std::time::Duration;

use rsflow_base::shown::quoted;
use serde::Serialize;

use crate::server::device::{Answer, At, Device};
use crate::server::problem::Problem;

/// An output that a request may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Logits,
    Probabilities,
    /// The size at which each image was computed, in pixels; 0 for the ensemble.
    Resolution,
}

impl Output {
    pub const ALL: [Output; 3] = [Output::Logits, Output::Probabilities, Output::Resolution];

    pub fn name(self) -> &'static str {
        match self {
            Output::Logits => "logits",
            Output::Probabilities => "probabilities",
            Output::Resolution => "resolution",
        }
    }

    pub fn datatype(self) -> &'static str {
        match self {
            Output::Logits | Output::Probabilities => "FP32",
            Output::Resolution => "INT32",
        }
    }

    /// Of `images` images, -1 for any number.
    pub fn shape(self, images: i64, classes: usize) -> Vec<i64> {
        match self {
            Output::Logits | Output::Probabilities => vec![images, classes as i64],
            Output::Resolution => vec![images],
        }
    }

    /// Those that were named.
    pub fn parse<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> Result<Vec<Self>, Problem> {
        if names.len() > Self::ALL.len() {
            return Err(Problem::bad(format!(
                "there are {} outputs",
                Self::ALL.len()
            )));
        }
        let parse = |name: &str| {
            let known = Self::ALL.into_iter().find(|output| output.name() == name);
            known.ok_or_else(|| {
                Problem::bad(format!(
                    "there is no output {}; there are {}",
                    quoted(name),
                    Self::ALL.map(Self::name).join(", ")
                ))
            })
        };
        names.map(parse).collect()
    }

    pub fn data(self, device: &Device, answers: &[Answer]) -> Data {
        match self {
            Output::Logits => {
                let logits = answers
                    .iter()
                    .flat_map(|answer| answer.logits.iter().copied());
                Data::Floats(logits.collect())
            }
            Output::Probabilities => {
                let classes = device.network.classes().len();
                let mut all = vec![0.0; answers.len() * classes];
                for (answer, of_image) in answers.iter().zip(all.chunks_exact_mut(classes)) {
                    for prediction in device.network.top(&answer.logits, classes) {
                        of_image[prediction.index] = prediction.probability as f32;
                    }
                }
                Data::Floats(all)
            }
            Output::Resolution => {
                let sizes = answers.iter().map(|answer| match answer.at {
                    At::Size(size) => size as i32,
                    At::Ensemble => 0,
                });
                Data::Integers(sizes.collect())
            }
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
pub enum Data {
    Floats(Vec<f32>),
    Integers(Vec<i32>),
}

impl Data {
    /// As the protocol has them: little endian.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Data::Floats(values) => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            Data::Integers(values) => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        }
    }
}

/// The parameters of an answer: the longest times of its images, in milliseconds.
pub fn times(answers: &[Answer]) -> [(&'static str, f64); 2] {
    let milliseconds = |time: fn(&Answer) -> Duration| {
        let longest = answers.iter().map(time).max().unwrap_or_default();
        longest.as_secs_f64() * 1e3
    };
    [
        ("queue_ms", milliseconds(|answer| answer.queued)),
        ("compute_ms", milliseconds(|answer| answer.computed)),
    ]
}
