//! What a new recipe says of sizes, network and training, and why: functions of what was found.

use crate::table::thousands;

/// What the choices follow from.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Training images.
    pub images: u32,
    /// The median of the images' shorter sides, in pixels.
    pub shorter_side: u32,
    /// Whether there is a GPU to train on.
    pub gpu: bool,
}

/// What the user chose.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub sizes: Vec<u32>,
    /// As a recipe has it.
    pub network: Option<String>,
    pub epochs: Option<u64>,
}

/// The values of a recipe.
#[derive(Clone, Debug, PartialEq)]
pub struct Choices {
    /// The largest first.
    pub sizes: Vec<u32>,
    pub why_sizes: String,
    /// As a recipe has it.
    pub network: String,
    pub why_network: String,
    pub batch: u32,
    /// Whether the last images of an epoch, which do not fill a batch, are left out.
    pub drop_last: bool,
    pub lr: f64,
    pub weight_decay: &'static str,
    pub epochs: u64,
    pub warm_up_epochs: u64,
    /// The smallest share of an image that a crop has.
    pub crop: &'static str,
    pub why_training: String,
}

/// Fewer training images are few: they are learned by heart sooner, and crops have to be larger.
const FEW: u32 = 20_000;
/// As many training images pay for a large network and a long training.
const MANY: u32 = 100_000;

impl Choices {
    pub fn new(facts: Facts, wanted: Wanted) -> Self {
        let (sizes, why_sizes) = match wanted.sizes.as_slice() {
            [] => sizes(facts),
            given => {
                // Each size teaches those after it.
                let mut sizes = given.to_vec();
                sizes.sort_unstable_by(|a, b| b.cmp(a));
                let why = match sizes.first() {
                    Some(&largest) if largest > facts.shorter_side => format!(
                        "as given; most images are smaller than {largest} pixels and are enlarged"
                    ),
                    _ => "as given".to_owned(),
                };
                (sizes, why)
            }
        };
        let (network, why_network) = match wanted.network {
            Some(network) => (network, "as given".to_owned()),
            None => network(facts),
        };
        let batch = batch(facts);
        let epochs = wanted.epochs.unwrap_or(epochs(facts));
        let is_mobile = network.starts_with("MobileNetV2");
        Choices {
            sizes,
            why_sizes,
            batch,
            drop_last: drops_last(facts.images, batch),
            lr: rate(batch) * if is_mobile { 0.5 } else { 1.0 },
            weight_decay: match facts.images {
                _ if is_mobile => "4e-5",
                MANY.. => "1e-4",
                _ => "5e-4",
            },
            epochs,
            // So short that `--set trainer.epochs=2` passes.
            warm_up_epochs: match epochs {
                100.. => 5,
                2.. => 1,
                _ => 0,
            },
            crop: if facts.images < FEW { "0.25" } else { "0.08" },
            why_training: format!(
                "for {} training images and {}",
                thousands(u64::from(facts.images)),
                device(facts)
            ),
            network,
            why_network,
        }
    }
}

fn device(facts: Facts) -> &'static str {
    if facts.gpu { "a GPU" } else { "the CPU" }
}

/// From the images' shorter side down to about 3/7 of it, as 224, 192, 160, 128, 96.
fn sizes(facts: Facts) -> (Vec<u32>, String) {
    const STEP: u32 = 32;
    /// Of the recipes for ImageNet, and for networks of their depth on a CPU.
    const LARGEST: [u32; 2] = [224, 128];
    /// The smallest size of residual networks is 32, and a switch needs more than one.
    const SMALLEST: u32 = 64;
    let side = facts.shorter_side;
    let rounded = side.saturating_add(STEP / 2) / STEP * STEP;
    let limit = LARGEST[usize::from(!facts.gpu)];
    let largest = rounded.clamp(SMALLEST, limit);
    let why = match rounded {
        _ if rounded > limit && facts.gpu => {
            format!("up to {limit}, as is usual; the images would allow more")
        }
        _ if rounded > limit => {
            format!(
                "at most {limit} on the CPU, where time goes with the square; the images would allow more"
            )
        }
        _ if rounded < SMALLEST => {
            "the images are smaller, but networks of this kind need 32 at least: they are enlarged"
                .to_owned()
        }
        _ => "from the images' shorter side down to half of it".to_owned(),
    };
    let step = (f64::from(largest) / 7.0 / 8.0).round().max(1.0) as u32 * 8;
    let smallest = (3 * largest / 7).saturating_sub(step / 2).max(32);
    let sizes = (0..5).map(|at| largest.saturating_sub(at * step));
    (sizes.filter(|&size| size >= smallest).collect(), why)
}

fn network(facts: Facts) -> (String, String) {
    let (network, why) = match (facts.gpu, facts.images) {
        (true, MANY..) => ("ResNet(depth: 50)", "many images and a GPU"),
        (true, _) => ("ResNet(depth: 18)", "few images for a deeper network"),
        (false, _) => (
            "ResNet(depth: 18, width: 16)",
            "a quarter of ResNet18's channels, a sixteenth of its work, since there is no GPU",
        ),
    };
    (network.to_owned(), why.to_owned())
}

/// At least 20 steps in an epoch, and at least 16 images for batch norms.
fn batch(facts: Facts) -> u32 {
    let largest = if facts.gpu && facts.images >= MANY {
        256
    } else {
        64
    };
    let wanted = (facts.images / 20).clamp(16, largest);
    let power = 1 << wanted.ilog2();
    facts.images.clamp(1, power)
}

/// A last batch that is small is left out, for its batch norms: always where it is a small part of the epoch.
fn drops_last(images: u32, batch: u32) -> bool {
    let rest = images % batch.max(1);
    images > batch && (images >= 2 * batch || rest < batch / 2)
}

/// The learning rate for a batch: of docs/accuracy.md those for 32 and 64, of the recipes for ImageNet that for 256.
fn rate(batch: u32) -> f64 {
    match batch {
        256.. => 0.1,
        128.. => 0.06,
        64.. => 0.03,
        32.. => 0.02,
        _ => 0.01,
    }
}

fn epochs(facts: Facts) -> u64 {
    match facts.images {
        MANY.. if facts.gpu => 120,
        5_000.. => 30,
        1_000.. => 40,
        _ => 60,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(images: u32, shorter_side: u32, gpu: bool) -> Facts {
        Facts {
            images,
            shorter_side,
            gpu,
        }
    }

    #[test]
    fn small_last_batches_are_left_out() {
        for (images, expected) in [
            (1, false),
            (16, false),
            (17, true),
            (23, true),
            (24, false),
            (32, true),
            (95, true),
        ] {
            assert_eq!(drops_last(images, 16), expected, "{images}");
        }
    }

    #[test]
    fn sizes_suit_the_images_and_the_device() {
        for (side, gpu, expected) in [
            (1, true, &[64, 56, 48, 40, 32][..]),
            (32, true, &[64, 56, 48, 40, 32]),
            (79, true, &[64, 56, 48, 40, 32]),
            (90, true, &[96, 80, 64, 48]),
            (128, true, &[128, 112, 96, 80, 64]),
            (160, true, &[160, 136, 112, 88, 64]),
            (190, true, &[192, 168, 144, 120, 96]),
            (224, true, &[224, 192, 160, 128, 96]),
            (4000, true, &[224, 192, 160, 128, 96]),
            (u32::MAX, true, &[224, 192, 160, 128, 96]),
            (160, false, &[128, 112, 96, 80, 64]),
            (90, false, &[96, 80, 64, 48]),
        ] {
            let sizes = sizes(facts(1000, side, gpu)).0;
            assert_eq!(sizes, expected, "{side} {gpu}");
        }
    }

    #[test]
    fn training_suits_the_number_of_images_and_the_device() {
        // Images, GPU: network, batch, rate, epochs, warm-up.
        for (images, gpu, expected) in [
            (3, false, ("ResNet(depth: 18, width: 16)", 3, 0.01, 60, 1)),
            (
                300,
                false,
                ("ResNet(depth: 18, width: 16)", 16, 0.01, 60, 1),
            ),
            (
                2_500,
                false,
                ("ResNet(depth: 18, width: 16)", 64, 0.03, 40, 1),
            ),
            (9_469, true, ("ResNet(depth: 18)", 64, 0.03, 30, 1)),
            (
                1_281_167,
                false,
                ("ResNet(depth: 18, width: 16)", 64, 0.03, 30, 1),
            ),
            (1_281_167, true, ("ResNet(depth: 50)", 256, 0.1, 120, 5)),
            (u32::MAX, true, ("ResNet(depth: 50)", 256, 0.1, 120, 5)),
        ] {
            let it = Choices::new(facts(images, 160, gpu), Wanted::default());
            let network = it.network.as_str();
            let found = (network, it.batch, it.lr, it.epochs, it.warm_up_epochs);
            assert_eq!(found, expected, "{images} {gpu}");
        }
    }

    #[test]
    fn what_is_given_is_taken() {
        let wanted = Wanted {
            sizes: vec![32, 48],
            network: Some("MobileNetV2(width: 0.5)".to_owned()),
            epochs: Some(1),
        };
        let choices = Choices::new(facts(5_000, 500, false), wanted);
        assert_eq!(
            (choices.sizes.as_slice(), choices.why_sizes.as_str()),
            (&[48, 32][..], "as given")
        );
        let wanted = Wanted {
            sizes: vec![32, 48],
            ..Wanted::default()
        };
        let enlarged = Choices::new(facts(5_000, 47, false), wanted).why_sizes;
        assert!(enlarged.contains("smaller than 48 pixels"), "{enlarged}");
        assert_eq!(choices.network, "MobileNetV2(width: 0.5)");
        assert_eq!((choices.epochs, choices.warm_up_epochs), (1, 0));
        assert_eq!((choices.lr, choices.weight_decay), (0.015, "4e-5"));
    }
}
