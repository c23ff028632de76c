//! A part of a data set: what is trained on, or what is held out for validation.

use anyhow::{Result, ensure};
use rsflow_base::nfc::nfc;
use rsflow_graph::{ListedPart, Report, first_few};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Bytes, Listing};

/// The images of a data set that a source reads. A data set without validation images of its own has two
/// sources that differ in their part alone: one reads `Training(...)`, the other `Validation(...)` with the same
/// values. Which part an image is in follows from its class, its name and the seed, so new images move no
/// others, and a folder and an archive are split alike. Of each class at least one image is held out; in one of a few
/// images, where that one was not drawn, it may change with new images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum Part {
    /// All images.
    #[default]
    All,
    /// The images that are not held out.
    Training {
        /// How many of 100 images are held out, of each class. About so many: each image is drawn on its own.
        /// At least one image of a class is held out, and at least one is not.
        #[serde(default = "default_percent")]
        validation_percent: f64,
        /// Another seed holds out other images.
        #[serde(default)]
        seed: u64,
    },
    /// The images that are held out.
    Validation {
        /// How many of 100 images are held out, of each class. About so many: each image is drawn on its own.
        /// At least one image of a class is held out, and at least one is not.
        #[serde(default = "default_percent")]
        validation_percent: f64,
        /// Another seed holds out other images.
        #[serde(default)]
        seed: u64,
    },
}

fn default_percent() -> f64 {
    Part::DEFAULT_PERCENT
}

impl Part {
    pub const DEFAULT_PERCENT: f64 = 10.0;

    /// What the graph knows of it.
    pub(crate) fn listed(self) -> Option<ListedPart> {
        let (validation_percent, seed, is_held_out) = match self {
            Part::All => return None,
            Part::Training {
                validation_percent,
                seed,
            } => (validation_percent, seed, false),
            Part::Validation {
                validation_percent,
                seed,
            } => (validation_percent, seed, true),
        };
        let seed = match seed {
            0 => String::new(),
            seed => format!(", seed: {seed}"),
        };
        Some(ListedPart {
            by: format!("validation_percent: {validation_percent}{seed}"),
            is_held_out,
        })
    }

    /// Checks the parameter `part`.
    pub(crate) fn check(self, report: &mut Report) {
        let (Part::Training {
            validation_percent, ..
        }
        | Part::Validation {
            validation_percent, ..
        }) = self
        else {
            return;
        };
        if !(validation_percent > 0.0 && validation_percent < 100.0) {
            report.parameter(
                "part.validation_percent",
                format!(
                    "`validation_percent` must be above 0 and below 100, not {validation_percent}"
                ),
                "such as `validation_percent: 10`",
            );
        } else if validation_percent < 1.0 {
            report.warning(
                "part.validation_percent",
                format!(
                    "`validation_percent` counts images of 100: {validation_percent} holds out one of {:.0}",
                    100.0 / validation_percent
                ),
                "such as `validation_percent: 10` for a tenth of them",
            );
        }
    }
}

impl Listing {
    /// The images of one part, in the same order.
    ///
    /// # Errors
    /// A class with a single image, which cannot be in both parts.
    pub fn part(self, part: Part) -> Result<Listing> {
        match part {
            Part::All => Ok(self),
            Part::Training {
                validation_percent,
                seed,
            } => {
                let held_out = self.held_out(validation_percent, seed)?;
                Ok(self.selected(|image| !held_out[image]))
            }
            Part::Validation {
                validation_percent,
                seed,
            } => {
                let held_out = self.held_out(validation_percent, seed)?;
                Ok(self.selected(|image| held_out[image]))
            }
        }
    }

    /// Whether each image is held out.
    fn held_out(&self, percent: f64, seed: u64) -> Result<Vec<bool>> {
        let draws: Vec<f64> = self.names.iter().map(|name| draw(name, seed)).collect();
        let mut held_out: Vec<bool> = draws.iter().map(|&draw| draw < percent / 100.0).collect();
        let mut single = Vec::new();
        for (first, last) in self.draws_ends(&draws) {
            if first == last {
                let class = self.labels.get(first).map(|&label| label as usize);
                single.extend(class.and_then(|class| self.classes.get(class)));
            }
            held_out[first] = true;
            held_out[last] = false;
        }
        ensure!(
            single.is_empty(),
            "a class with a single image cannot be split into training and validation, and {} has {} of them: \
             {}; add images to it, or remove it",
            self.origin,
            single.len(),
            first_few(&single)
        );
        Ok(held_out)
    }

    /// Of each class the images with the lowest and the highest draw.
    fn draws_ends(&self, draws: &[f64]) -> Vec<(usize, usize)> {
        let mut ends: Vec<Option<(usize, usize)>> = vec![None; self.classes.len()];
        // Of equal draws the name decides, not the position.
        let rank = |image: usize| (draws[image], self.names.get(image));
        for (image, &label) in self.labels.iter().enumerate() {
            let Some(ends) = ends.get_mut(label as usize) else {
                continue;
            };
            let (first, last) = ends.unwrap_or((image, image));
            *ends = Some((
                if rank(image) < rank(first) {
                    image
                } else {
                    first
                },
                if rank(image) > rank(last) {
                    image
                } else {
                    last
                },
            ));
        }
        ends.into_iter().flatten().collect()
    }

    fn selected(self, is_selected: impl Fn(usize) -> bool) -> Listing {
        let whole = self.len();
        let of = |image: &usize| is_selected(*image);
        let images: Vec<usize> = (0..self.labels.len()).filter(of).collect();
        let bytes = match self.bytes {
            Bytes::Files(root) => Bytes::Files(root),
            Bytes::Parts {
                archive,
                folder,
                parts,
            } => Bytes::Parts {
                archive,
                folder,
                parts: images.iter().map(|&image| parts[image]).collect(),
            },
        };
        let names = images.iter().filter_map(|&image| self.names.get(image));
        Listing {
            labels: images.iter().map(|&image| self.labels[image]).collect(),
            names: names.collect(),
            bytes,
            whole: Some(whole),
            ..self
        }
    }
}

/// A number from 0 to 1 that follows from the path `CLASS/IMAGE` and the seed. It must not change between
/// versions: images would move from one part to the other.
fn draw(name: &[u8], seed: u64) -> f64 {
    // macOS writes accents in another form, on its own disks and in the archives made there.
    let name = String::from_utf8_lossy(name);
    let hash = xxh3_64_with_seed(nfc(&name).as_bytes(), seed);
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;
    use crate::listing::PassedOver;

    fn listing(classes: &[(&str, usize)]) -> Listing {
        let images = (0_u32..).zip(classes).flat_map(|(label, &(class, count))| {
            (0..count).map(move |image| (label, format!("{class}/{image}.jpg")))
        });
        let (labels, names): (Vec<u32>, Vec<String>) = images.unzip();
        Listing {
            origin: "DATA".to_owned(),
            classes: classes
                .iter()
                .map(|(class, _)| (*class).to_owned())
                .collect(),
            labels,
            names: names.iter().collect(),
            bytes: Bytes::Files(PathBuf::new()),
            passed_over: PassedOver::default(),
            whole: None,
        }
    }

    fn names(classes: &[(&str, usize)], part: Part) -> BTreeSet<String> {
        let listing = listing(classes).part(part).unwrap();
        (0..listing.len())
            .map(|image| listing.name_text(image))
            .collect()
    }

    fn parts(validation_percent: f64, seed: u64) -> [Part; 2] {
        [
            Part::Training {
                validation_percent,
                seed,
            },
            Part::Validation {
                validation_percent,
                seed,
            },
        ]
    }

    #[test]
    fn both_parts_are_disjoint_and_together_all() {
        for (classes, percent, held_out) in [
            (&[("a", 1000), ("b", 1000)][..], 10.0, 160..=240),
            (&[("a", 1000), ("b", 1000)], 50.0, 920..=1080),
            (&[("a", 1000), ("b", 1000)], 0.001, 2..=2),
            (&[("a", 1000), ("b", 1000)], 99.999, 1998..=1998),
            (&[("a", 2), ("b", 2), ("c", 3)], 10.0, 3..=4),
        ] {
            for seed in 0..3 {
                let [training, validation] = parts(percent, seed).map(|part| names(classes, part));
                assert!(training.is_disjoint(&validation), "{percent}");
                let all = names(classes, Part::All);
                assert_eq!(&training | &validation, all, "{percent}");
                assert!(
                    held_out.contains(&validation.len()),
                    "{percent}: {}",
                    validation.len()
                );
                for (class, _) in classes {
                    let of_class = |name: &String| name.starts_with(&format!("{class}/"));
                    assert!(training.iter().any(of_class), "{class} {percent}");
                    assert!(validation.iter().any(of_class), "{class} {percent}");
                }
            }
        }
    }

    /// Names of this version: another hash would move images that runs were trained on into validation.
    #[test]
    fn the_images_that_are_held_out_stay_the_same() {
        let [_, validation] = parts(10.0, 0).map(|part| names(&[("a", 30), ("b", 30)], part));
        let expected = [
            "a/13.jpg", "a/16.jpg", "a/18.jpg", "b/13.jpg", "b/20.jpg", "b/22.jpg", "b/23.jpg",
            "b/3.jpg",
        ];
        assert_eq!(
            validation.iter().map(String::as_str).collect::<Vec<_>>(),
            expected
        );
        let [_, other] = parts(10.0, 1).map(|part| names(&[("a", 30), ("b", 30)], part));
        assert_ne!(validation, other);
    }

    #[test]
    fn new_images_and_classes_move_no_others() {
        let before = [("a", 200), ("b", 200)];
        let after = [("a", 400), ("aa", 10), ("b", 201)];
        let [training, validation] = parts(10.0, 0).map(|part| names(&before, part));
        let [more_training, more_validation] = parts(10.0, 0).map(|part| names(&after, part));
        assert!(training.is_subset(&more_training));
        assert!(validation.is_subset(&more_validation));
    }

    /// An archive lists images in another order than this one.
    #[test]
    fn the_order_of_the_listing_does_not_count() {
        for part in parts(10.0, 0) {
            let mut listing = listing(&[("a", 50), ("b", 3)]);
            let mut reversed: Vec<_> = listing.names.iter().map(<[u8]>::to_vec).collect();
            reversed.reverse();
            listing.names = reversed.iter().collect();
            listing.labels.reverse();
            let listing = listing.part(part).unwrap();
            let found: BTreeSet<_> = (0..listing.len())
                .map(|image| listing.name_text(image))
                .collect();
            assert_eq!(found, names(&[("a", 50), ("b", 3)], part));
        }
    }

    #[test]
    fn accents_in_either_form_are_drawn_alike() {
        assert_eq!(
            draw("\u{e9}/1.jpg".as_bytes(), 3),
            draw("e\u{301}/1.jpg".as_bytes(), 3)
        );
        assert_ne!(draw(b"e/1.jpg", 3), draw(b"e/1.jpg", 4));
    }

    #[test]
    fn a_class_of_one_image_cannot_be_split() {
        for part in parts(10.0, 0) {
            let error = listing(&[("a", 5), ("b", 1)]).part(part).err().unwrap();
            let error = error.to_string();
            assert!(
                error.contains("DATA has 1 of them: `b`; add images"),
                "{error}"
            );
        }
        assert_eq!(listing(&[("b", 1)]).part(Part::All).unwrap().len(), 1);
    }
}
