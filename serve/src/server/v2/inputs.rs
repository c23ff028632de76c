//! The input of a request, whatever protocol brings it.

use axum::body::Bytes;
use rsflow_base::shown::quoted;

use crate::server::infer::{Images, values};
use crate::server::problem::Problem;

/// Image files.
pub const FILES: &str = "images";
/// Pixels, uint8 `[n, size, size, 3]`, RGB.
pub const PIXELS: &str = "pixels";
/// Normalized pixels, float32 `[n, 3, size, size]`, in the network's order of channels.
pub const NORMALIZED: &str = "normalized";

/// As the model's metadata lists them: name, datatype, shape. A request has one of them.
pub const INPUTS: [(&str, &str, &[i64]); 3] = [
    (FILES, "BYTES", &[-1]),
    (PIXELS, "UINT8", &[-1, -1, -1, 3]),
    (NORMALIZED, "FP32", &[-1, 3, -1, -1]),
];

/// A shape with more dimensions is refused before it takes memory.
pub const MOST_DIMENSIONS: usize = 16;

pub fn too_many_dimensions() -> String {
    format!("a shape has at most {MOST_DIMENSIONS} dimensions")
}

/// What an input says of its data.
pub struct Described<'a> {
    pub name: &'a str,
    pub datatype: &'a str,
    pub shape: &'a [u64],
}

/// The data of a tensor, as a protocol carries it. What has more than `most` values is refused as soon as that is
/// seen, or returned with any wrong number of them: the caller counts.
pub trait Data {
    fn files(self, most: usize) -> Result<Vec<Bytes>, Problem>;

    /// uint8.
    fn pixels(self, most: usize) -> Result<Bytes, Problem>;

    /// float32.
    fn floats(self, most: usize) -> Result<Vec<f32>, Problem>;
}

/// The only input of a request.
pub fn only<T>(inputs: &[T]) -> Result<&T, Problem> {
    match inputs {
        [input] => Ok(input),
        _ => Err(Problem::bad(format!(
            "a request has one input, {FILES}, {PIXELS} or {NORMALIZED}; this one has {}",
            inputs.len()
        ))),
    }
}

/// The images of an input, from 1 to `most`. The data is not looked at before the rest is known to be right.
pub fn images<D: Data>(
    input: &Described<'_>,
    data: impl FnOnce() -> Result<D, Problem>,
    most: usize,
) -> Result<Images, Problem> {
    let about = |problem: Problem| problem.about(&format!("the input {}", quoted(input.name)));
    unnamed(input, data, most).map_err(about)
}

fn unnamed<D: Data>(
    input: &Described<'_>,
    data: impl FnOnce() -> Result<D, Problem>,
    most: usize,
) -> Result<Images, Problem> {
    let known = INPUTS.iter().find(|(name, ..)| *name == input.name);
    let Some((name, datatype, _)) = known else {
        let text = format!("there is no such input; there are {FILES}, {PIXELS}, {NORMALIZED}");
        return Err(Problem::bad(text));
    };
    if input.datatype != *datatype {
        let text = format!("the datatype is {datatype}, not {}", quoted(input.datatype));
        return Err(Problem::bad(text));
    }
    if input.shape.len() > MOST_DIMENSIONS {
        return Err(Problem::bad(too_many_dimensions()));
    }
    match *name {
        FILES => {
            let files = data()?.files(most)?;
            let mut declared = input.shape.iter();
            let declared = declared.try_fold(1_u64, |product, side| product.checked_mul(*side));
            match declared == Some(files.len() as u64) {
                true => Ok(Images::Files(files)),
                false => Err(wrong_count(input.shape, files.len())),
            }
        }
        PIXELS => {
            let (size, count) = shape(input.shape, |size| [size, size, 3], most)?;
            let pixels = data()?.pixels(count)?;
            match pixels.len() == count {
                true => Ok(Images::Pixels(size, pixels)),
                false => Err(wrong_count(input.shape, pixels.len())),
            }
        }
        _ => {
            let (size, count) = shape(input.shape, |size| [3, size, size], most)?;
            let pixels = data()?.floats(count)?;
            match pixels.len() == count {
                true => Ok(Images::Normalized(size, pixels)),
                false => Err(wrong_count(input.shape, pixels.len())),
            }
        }
    }
}

/// The size in a shape `[n, ...]`, and the number of its values.
fn shape(shape: &[u64], of: fn(u64) -> [u64; 3], most: usize) -> Result<(u32, usize), Problem> {
    let found = match shape {
        [count, rest @ ..] => rest
            .get(1)
            .filter(|size| rest == of(**size))
            .map(|size| (*count, *size)),
        [] => None,
    };
    let found = found.and_then(|(count, size)| Some((count, u32::try_from(size).ok()?)));
    let found = found.filter(|(_, size)| (1..=rsflow_graph::MAX_SIZE).contains(size));
    let (count, size) = found.ok_or_else(|| {
        let expected = match of(0) {
            [0, 0, 3] => "[n, size, size, 3]",
            _ => "[n, 3, size, size]",
        };
        Problem::bad(format!("the shape is {expected}, not {shape:?}"))
    })?;
    match usize::try_from(count) {
        Ok(images) if images <= most => Ok((size, images * values(size))),
        _ => Err(too_many_images(most)),
    }
}

fn wrong_count(shape: &[u64], found: usize) -> Problem {
    Problem::bad(format!(
        "the shape {shape:?} does not fit {found} values or bytes"
    ))
}

pub fn too_many_images(most: usize) -> Problem {
    Problem::bad(format!("a request has 1 to {most} images"))
}

/// Binary tensors, little endian: a protocol's extension for large ones.
pub struct Binary(pub Bytes);

impl Data for Binary {
    /// The length of each in 4 bytes, then its bytes.
    fn files(self, most: usize) -> Result<Vec<Bytes>, Problem> {
        let mut all = Vec::new();
        let mut rest = self.0;
        while !rest.is_empty() {
            if all.len() == most {
                return Err(too_many_images(most));
            }
            let length = rest
                .first_chunk::<4>()
                .map(|length| u32::from_le_bytes(*length) as usize);
            let end = length.and_then(|length| length.checked_add(4));
            match end.filter(|end| *end <= rest.len()) {
                Some(end) => {
                    let mut string = rest.split_to(end);
                    all.push(string.split_off(4));
                }
                None => return Err(Problem::bad("a string is longer than the tensor")),
            }
        }
        Ok(all)
    }

    fn pixels(self, _most: usize) -> Result<Bytes, Problem> {
        Ok(self.0)
    }

    fn floats(self, _most: usize) -> Result<Vec<f32>, Problem> {
        let (values, rest) = self.0.as_chunks::<4>();
        if !rest.is_empty() {
            let text = format!("{} bytes are no whole number of float32", self.0.len());
            return Err(Problem::bad(text));
        }
        Ok(values
            .iter()
            .map(|value| f32::from_le_bytes(*value))
            .collect())
    }
}
