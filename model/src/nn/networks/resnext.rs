//! ResNeXt: Xie et al., "Aggregated Residual Transformations for Deep Neural Networks", CVPR 2017,
//! as torchvision builds it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Family;
use super::resnet::{Block, residual_network};
use crate::nn::field_error::FieldError;
use crate::nn::layers::Layer;

/// A residual network whose 3x3 convolutions are split into groups.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResNeXt {
    /// Layers that have weights: 50 (32 groups of 4 channels in the first stage, "32x4d") or
    /// 101 (32 groups of 8, "32x8d").
    pub depth: u32,
}

const GROUPS: i64 = 32;
/// The channels of the stem.
const WIDTH: i64 = 64;
/// Depth, blocks per stage, and the channels of a group in the first stage.
const DEPTHS: [(u32, [u32; 4], i64); 2] = [(50, [3, 4, 6, 3], 4), (101, [3, 4, 23, 3], 8)];

impl Family for ResNeXt {
    fn check(&self) -> Vec<FieldError> {
        if DEPTHS.iter().any(|(depth, ..)| *depth == self.depth) {
            return Vec::new();
        }
        let depth = self.depth;
        vec![(
            "depth",
            format!("`depth` must be 50 (32x4d) or 101 (32x8d), not {depth}"),
        )]
    }

    fn layers(&self, classes: i64) -> Vec<Layer> {
        let known = DEPTHS.iter().find(|(depth, ..)| *depth == self.depth);
        let Some(&(_, blocks, group_width)) = known else {
            return Vec::new();
        };
        let block = Block::Bottleneck {
            groups: GROUPS,
            inner: GROUPS * group_width,
        };
        residual_network(WIDTH, blocks, block, classes)
    }
}
