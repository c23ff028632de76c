//! What a network took images for: accuracy by class, confusions, the worst mistakes.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use rsflow_base::shown::Shown as _;
use rsflow_model::train::evaluate::predictions::{Predicted, Predictions};

use super::latency::find;
use super::run::Found;

/// The name of such a file in a run directory.
pub const FILE: &str = "predictions.csv";
/// The folder in it where `rsflow compare` keeps such files.
const FOLDER: &str = "predictions";
/// Upper bound of the file, in bytes.
const MAX_FILE: u64 = 2 << 30;
/// The most mistakes that are kept.
pub const MOST_MISTAKES: usize = 24;

/// Predictions, counted.
#[derive(Debug)]
pub struct Answers {
    /// Where they were read.
    pub file: PathBuf,
    pub images: u64,
    /// The largest size first, the ensemble last.
    pub columns: Vec<Option<u32>>,
    /// Of each column, in percent.
    pub top1: Vec<f64>,
    /// In the order of the data; those that were only predicted follow.
    pub classes: Vec<Class>,
    /// At the largest size: how many images of a class were taken for another, the most first. Indices into
    /// `classes`.
    pub confused: Vec<Confused>,
    /// At the largest size, the most certain first.
    pub mistakes: Vec<Mistake>,
    /// Why their pictures are not shown.
    pub without_pictures: Option<String>,
}

#[derive(Debug)]
pub struct Class {
    pub name: String,
    pub images: u64,
    /// Of each column how many were right.
    pub right: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confused {
    pub class: usize,
    pub taken_for: usize,
    pub images: u64,
}

#[derive(Debug)]
pub struct Mistake {
    pub image: String,
    pub class: String,
    pub taken_for: String,
    /// From 0 to 1.
    pub probability: f64,
    /// The other columns that were right.
    pub right_at: Vec<Option<u32>>,
    /// As a JPEG file.
    pub picture: Option<Vec<u8>>,
}

impl Answers {
    /// Of the file that was named, else of one in the run directory.
    ///
    /// # Errors
    /// The file that was named cannot be read.
    pub fn find(run_dir: &Path, named: Option<&Path>) -> Result<Found<Self>> {
        let usual = Some(run_dir.join(FILE)).filter(|path| path.exists());
        let usual = usual.or_else(|| newest_of_compare(run_dir));
        let usual = usual.unwrap_or_else(|| run_dir.join(FILE));
        find(usual, named, |path| {
            let length = std::fs::metadata(path).map_or(0, |file| file.len());
            ensure!(
                length <= MAX_FILE,
                "{} has {length} bytes, the limit is {MAX_FILE}",
                path.shown()
            );
            let mut counting = Counting::default();
            let columns =
                Predictions::read_each(path, |columns, image| counting.add(columns, image))?;
            Ok(counting.end(&columns, path))
        })
    }

    /// Those with the lowest accuracy at the largest size first; without classes that have no image.
    pub fn worst_first(&self) -> Vec<&Class> {
        let mut classes: Vec<&Class> = self.classes.iter().filter(|it| it.images > 0).collect();
        classes.sort_by(|one, other| one.share(0).total_cmp(&other.share(0)));
        classes
    }
}

impl Class {
    /// Of its images, the share that is right in a column.
    pub fn share(&self, column: usize) -> f64 {
        let right = self.right.get(column).copied().unwrap_or(0);
        right as f64 / self.images.max(1) as f64
    }
}

/// The last one that `rsflow compare` has written.
fn newest_of_compare(run_dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(run_dir.join(FOLDER)).ok()?.flatten();
    let files = entries.filter_map(|entry| {
        let path = entry.path();
        let is_csv = path.extension().is_some_and(|extension| extension == "csv");
        let modified = entry.metadata().and_then(|file| file.modified()).ok()?;
        is_csv.then_some((modified, path))
    });
    files.max().map(|(_, path)| path)
}

/// Columns by their places in the file: that of the largest size first, the ensemble last.
fn order(columns: &[Option<u32>]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..columns.len()).collect();
    order.sort_by_key(|&at| columns[at].map_or(u32::MAX, |size| u32::MAX - 1 - size));
    order
}

/// Predictions while they are read: what the page shows of them, not the images themselves.
#[derive(Default)]
struct Counting {
    images: u64,
    /// Of the columns, once the first image is there.
    order: Vec<usize>,
    /// Places in `classes` by name.
    known: HashMap<String, usize>,
    classes: Vec<Named>,
    /// How many images of a class were taken for another, at the largest size.
    pairs: HashMap<(usize, usize), u64>,
    /// The most certain first; of equally certain ones the first of the data.
    mistakes: Vec<Mistake>,
}

/// A class with the image that named it first: one of its own, if there is one, else one that was taken for it.
struct Named {
    class: Class,
    first: u64,
}

impl Counting {
    fn add(&mut self, columns: &[Option<u32>], image: Predicted) {
        if self.images == 0 {
            self.order = order(columns);
        }
        let own = self.place_of(&image.class);
        let Named { class, first } = &mut self.classes[own];
        if class.images == 0 {
            *first = self.images;
        }
        class.images += 1;
        for (right, &column) in class.right.iter_mut().zip(&self.order) {
            *right += u64::from(is_right(&image, column));
        }
        let largest = self.order.first().and_then(|&column| image.at.get(column));
        if let Some((taken_for, probability)) = largest.cloned() {
            let other = self.place_of(&taken_for);
            if other != own {
                *self.pairs.entry((own, other)).or_default() += 1;
                self.add_mistake(columns, image, taken_for, probability);
            }
        }
        self.images += 1;
    }

    fn place_of(&mut self, name: &str) -> usize {
        if let Some(&place) = self.known.get(name) {
            return place;
        }
        let place = self.classes.len();
        self.known.insert(name.to_owned(), place);
        let class = Class {
            name: name.to_owned(),
            images: 0,
            right: vec![0; self.order.len()],
        };
        let first = self.images;
        self.classes.push(Named { class, first });
        place
    }

    fn add_mistake(
        &mut self,
        columns: &[Option<u32>],
        image: Predicted,
        taken_for: String,
        probability: f64,
    ) {
        let mistakes = &mut self.mistakes;
        let place = mistakes.partition_point(|other| other.probability >= probability);
        if place >= MOST_MISTAKES {
            return;
        }
        let others = self.order.iter().skip(1);
        let right_at = others.filter(|&&column| is_right(&image, column));
        let mistake = Mistake {
            right_at: right_at.map(|&column| columns[column]).collect(),
            image: image.image,
            class: image.class,
            taken_for,
            probability,
            picture: None,
        };
        mistakes.insert(place, mistake);
        mistakes.truncate(MOST_MISTAKES);
    }

    /// Classes of images come first, in the order of the data.
    fn end(self, columns: &[Option<u32>], file: &Path) -> Answers {
        let mut named: Vec<(usize, Named)> = self.classes.into_iter().enumerate().collect();
        named.sort_by_key(|(_, it)| (it.class.images == 0, it.first));
        let mut places = vec![0; named.len()];
        for (place, (before, _)) in named.iter().enumerate() {
            places[*before] = place;
        }
        let classes: Vec<Class> = named.into_iter().map(|(_, it)| it.class).collect();
        let pairs = self.pairs.into_iter();
        let mut confused: Vec<Confused> = pairs
            .map(|((class, taken_for), images)| Confused {
                class: places[class],
                taken_for: places[taken_for],
                images,
            })
            .collect();
        confused.sort_by_key(|it| (Reverse(it.images), it.class, it.taken_for));
        let right = |at: usize| classes.iter().map(|it| it.right[at]).sum::<u64>();
        let top1 = |at| 100.0 * right(at) as f64 / self.images.max(1) as f64;
        Answers {
            file: file.to_owned(),
            images: self.images,
            columns: self.order.iter().map(|&at| columns[at]).collect(),
            top1: (0..self.order.len()).map(top1).collect(),
            classes,
            confused,
            mistakes: self.mistakes,
            without_pictures: None,
        }
    }
}

/// Whether a column has the image's class.
fn is_right(image: &Predicted, column: usize) -> bool {
    let predicted = image.at.get(column);
    predicted.is_some_and(|(name, _)| *name == image.class)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(columns: &[Option<u32>], images: &[(&str, &[(&str, f64)])]) -> Answers {
        let mut counting = Counting::default();
        for (number, (class, at)) in images.iter().enumerate() {
            let at = at.iter().map(|(name, p)| ((*name).to_owned(), *p));
            counting.add(
                columns,
                Predicted {
                    image: number.to_string(),
                    class: (*class).to_owned(),
                    at: at.collect(),
                },
            );
        }
        counting.end(columns, Path::new("p.csv"))
    }

    #[test]
    fn classes_keep_the_order_of_the_data() {
        // The largest size is the second column.
        let columns = [Some(32), Some(64), None];
        let answers = counted(
            &columns,
            &[
                ("b", &[("b", 0.9), ("ghost", 0.5), ("b", 0.9)]),
                ("b", &[("c", 0.9), ("c", 0.8), ("a", 0.9)]),
                ("a", &[("a", 0.9), ("b", 0.5), ("b", 0.9)]),
                ("c", &[("other", 0.9), ("c", 0.9), ("c", 0.9)]),
                ("b", &[("b", 0.9), ("c", 0.1), ("b", 0.9)]),
            ],
        );
        assert_eq!(answers.columns, [Some(64), Some(32), None]);
        assert_eq!(answers.images, 5);
        // Only the largest size's column names classes.
        let classes: Vec<_> = answers
            .classes
            .iter()
            .map(|it| (it.name.as_str(), it.images, it.right.as_slice()))
            .collect();
        let expected: [(&str, u64, &[u64]); 4] = [
            ("b", 3, &[0, 2, 2]),
            ("a", 1, &[0, 1, 0]),
            ("c", 1, &[1, 0, 1]),
            ("ghost", 0, &[0, 0, 0]),
        ];
        assert_eq!(classes, expected);
        assert_eq!(answers.top1, [20.0, 60.0, 60.0]);
        let confused = answers.confused.iter();
        let confused: Vec<_> = confused
            .map(|it| (it.class, it.taken_for, it.images))
            .collect();
        assert_eq!(confused, [(0, 2, 2), (0, 3, 1), (1, 0, 1)]);
        let mistakes = answers.mistakes.iter();
        let mistakes: Vec<_> = mistakes
            .map(|it| (it.image.as_str(), it.right_at.as_slice()))
            .collect();
        let (both, small): (&[_], &[_]) = (&[Some(32), None], &[Some(32)]);
        assert_eq!(
            mistakes,
            [("1", &[][..]), ("0", both), ("2", small), ("4", both)]
        );
    }

    #[test]
    fn the_most_certain_mistakes_are_kept() {
        let certain = |number: u32| f64::from(number * 7 % 50) / 100.0;
        let images: Vec<(&str, [(&str, f64); 1])> =
            (0..100).map(|it| ("a", [("b", certain(it))])).collect();
        let images: Vec<(&str, &[(&str, f64)])> =
            images.iter().map(|(class, at)| (*class, &at[..])).collect();
        let answers = counted(&[Some(64)], &images);
        let mut expected: Vec<u32> = (0..100).collect();
        expected.sort_by(|one, other| certain(*other).total_cmp(&certain(*one)));
        let kept = answers.mistakes.iter().map(|it| it.image.clone());
        let expected = expected.iter().take(MOST_MISTAKES).map(u32::to_string);
        assert!(kept.eq(expected));
        assert_eq!(answers.confused[0].images, 100);
    }
}
