//! Every kind of node that recipes may use. A new kind is a file in `pipeline/src/nodes`,
//! `model/src/train` or `model/src/sinks`, and a line here.

use rsflow_graph::{Catalogue, Kind};
use rsflow_model::sinks::{Checkpoints, MetricsCsv, MetricsLog, TensorBoard};
use rsflow_model::train::evaluate::Evaluate;
use rsflow_model::train::trainer::Trainer;
use rsflow_pipeline::nodes::{
    Batch, CascadedCenterCrop, CascadedRandomCrop, ColorJitter, DecodeImage, ImageFolder,
    ImageNetArchives, ImageTar, Lighting, Preprocessed, RandAugment, RandomErasing, RandomFlip,
    RandomResizedCrop, Resize, ResizeAndCenterCrop, ShapesFolder, TrivialAugment,
};

/// In the order in which data flows through them.
pub const CATALOGUE: Catalogue = Catalogue(&[
    Kind::of::<ImageFolder>(),
    Kind::of::<ImageTar>(),
    Kind::of::<ImageNetArchives>(),
    Kind::of::<ShapesFolder>(),
    Kind::of::<DecodeImage>(),
    Kind::of::<RandomResizedCrop>(),
    Kind::of::<RandomFlip>(),
    Kind::of::<RandAugment>(),
    Kind::of::<TrivialAugment>(),
    Kind::of::<ColorJitter>(),
    Kind::of::<RandomErasing>(),
    Kind::of::<Resize>(),
    Kind::of::<ResizeAndCenterCrop>(),
    Kind::of::<CascadedRandomCrop>(),
    Kind::of::<CascadedCenterCrop>(),
    Kind::of::<Lighting>(),
    Kind::of::<Batch>(),
    Kind::of::<Trainer>(),
    Kind::of::<Evaluate>(),
    Kind::of::<Checkpoints>(),
    Kind::of::<MetricsLog>(),
    Kind::of::<TensorBoard>(),
    Kind::of::<MetricsCsv>(),
]);

/// Those that `rsflow eval` writes its recipe with: one of them is of no use to others.
pub const EVALUATION: Catalogue = Catalogue(&[
    Kind::of::<ImageFolder>(),
    Kind::of::<ImageTar>(),
    Kind::of::<ImageNetArchives>(),
    Kind::of::<ShapesFolder>(),
    Kind::of::<Preprocessed>(),
    Kind::of::<DecodeImage>(),
    Kind::of::<RandomResizedCrop>(),
    Kind::of::<Resize>(),
    Kind::of::<CascadedRandomCrop>(),
    Kind::of::<Lighting>(),
    Kind::of::<Batch>(),
    Kind::of::<Evaluate>(),
]);
