//! The data nodes: one kind, one file.

mod batch;
mod decode_jpeg;
mod image_folder;
mod image_tar;
mod imagenet_archives;
mod listed;
mod policy;
mod random_resized_crop;
mod resize;
mod resize_and_center_crop;
mod shapes_folder;

pub use batch::Batch;
pub use decode_jpeg::DecodeJpeg;
pub use image_folder::ImageFolder;
pub use image_tar::ImageTar;
pub use imagenet_archives::ImageNetArchives;
pub use policy::{Damage, Shard};
pub use random_resized_crop::RandomResizedCrop;
pub use resize::Resize;
pub use resize_and_center_crop::ResizeAndCenterCrop;
pub use shapes_folder::ShapesFolder;

use std::path::Path;

use rsflow_graph::{Port, Report};
use schemars::JsonSchema;
use serde::Deserialize;

/// The one output of a data node.
const fn output(carries: &'static str) -> Port {
    Port {
        name: "out",
        carries,
    }
}

/// The one input of a data node.
const fn input(carries: &'static str) -> Port {
    Port {
        name: "input",
        carries,
    }
}

/// Half of an image set.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
enum Split {
    /// To learn from.
    Train,
    /// To measure with.
    Val,
}

/// The largest side of a resized image. Nobody trains on more, and a slip of the finger should not
/// ask for all memory.
const MAX_SIZE: u32 = 4096;

/// Checks the parameter `root`.
fn check_root(root: &Path, report: &mut Report) {
    if root.as_os_str().is_empty() {
        report.parameter(
            "root",
            "the folder has no name",
            "such as `root: \"data/imagenette/train\"`",
        );
    }
}

/// Checks the parameter `sizes`.
fn check_sizes(sizes: &[u32], report: &mut Report) {
    if sizes.is_empty() {
        report.parameter(
            "sizes",
            "there is no size",
            "such as `sizes: [224, 192, 160, 128, 96]`",
        );
    }
    for (position, &size) in sizes.iter().enumerate() {
        if size == 0 {
            report.parameter("sizes", "a size of 0 holds no pixel", "take it out");
        } else if size > MAX_SIZE {
            report.parameter(
                "sizes",
                format!("the size {size} is too large"),
                format!("sizes go up to {MAX_SIZE} pixels"),
            );
        } else if sizes[..position].contains(&size) {
            report.parameter(
                "sizes",
                format!("the size {size} stands here twice"),
                "take one out",
            );
        }
    }
}
