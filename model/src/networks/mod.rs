//! The network families: one file each, listed in [`Network`].
//!
//! A family is a serde struct with its parameters and an implementation of [`Family`] that
//! describes its layers. To add one: write its file, add its variant to [`Network`] and to
//! `Network::family`.

mod resnet;

use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::resnet::ResNet;
use crate::layers::{self, Layer};
use crate::parameters::{Counts, Declaration};

/// The network to train, as a recipe names it: `ResNet(depth: 50)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum Network {
    /// Residual networks of He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    ResNet(ResNet),
}

/// What a network family has to say about itself.
pub trait Family {
    /// Every problem of its parameters, one sentence each; empty if there is none.
    fn check(&self) -> Vec<String>;

    /// Its layers, from images `[batch, 3, height, width]` to logits `[batch, classes]`. Called
    /// only with parameters that [`Family::check`] finds no fault with.
    fn layers(&self, classes: i64) -> Vec<Layer>;
}

impl Network {
    fn family(&self) -> &dyn Family {
        match self {
            Network::ResNet(family) => family,
        }
    }

    /// Every problem of its parameters, one sentence each; empty if there is none.
    pub fn check(&self) -> Vec<String> {
        self.family().check()
    }

    /// Its layers, from images `[batch, 3, height, width]` to logits `[batch, classes]`.
    ///
    /// # Errors
    /// The problems that [`Network::check`] finds, or no classes.
    pub fn layers(&self, classes: u32) -> Result<Vec<Layer>> {
        let problems = self.check();
        ensure!(problems.is_empty(), "{}", problems.join("; "));
        ensure!(classes > 0, "a network needs at least one class");
        Ok(self.family().layers(i64::from(classes)))
    }

    /// The tensors that it needs for these resolutions, alpha not among them.
    ///
    /// # Errors
    /// As [`Network::layers`].
    pub fn declare(&self, classes: u32, resolutions: &[u32]) -> Result<Vec<Declaration>> {
        Ok(layers::declare(&self.layers(classes)?, resolutions))
    }

    /// Its trainable elements, without those of alpha (one per resolution). Allocates no tensor.
    ///
    /// # Errors
    /// As [`Network::layers`].
    pub fn parameter_counts(&self, classes: u32, resolutions: &[u32]) -> Result<Counts> {
        Ok(Counts::of(&self.declare(classes, resolutions)?))
    }

    /// The multiply-adds of one image of `resolution` x `resolution` pixels, in convolutions and
    /// classifier.
    ///
    /// # Errors
    /// As [`Network::layers`].
    pub fn multiply_adds(&self, classes: u32, resolution: u32) -> Result<u64> {
        Ok(layers::multiply_adds(&self.layers(classes)?, resolution))
    }

    /// The smallest side of an image, in pixels: the product of all strides.
    ///
    /// # Errors
    /// As [`Network::layers`].
    pub fn min_resolution(&self) -> Result<u32> {
        Ok(layers::total_stride(&self.layers(1)?))
    }
}
