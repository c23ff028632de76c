//! The body of an inference request.

use std::fmt;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rsflow_base::shown::quoted;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::OUTPUTS;
use crate::server::App;
use crate::server::device::At;
use crate::server::http::{at, deadline};
use crate::server::infer::{Images, Request, values};
use crate::server::problem::Problem;

/// Image files.
pub const FILES: &str = "images";
/// Pixels, uint8 `[n, size, size, 3]`, RGB.
pub const PIXELS: &str = "pixels";
/// Normalized pixels, float32 `[n, 3, size, size]`, in the network's order of channels.
pub const NORMALIZED: &str = "normalized";

#[derive(Deserialize)]
struct InferRequest<'a> {
    id: Option<String>,
    #[serde(default)]
    parameters: Parameters,
    #[serde(borrow)]
    inputs: Vec<Input<'a>>,
    outputs: Option<Vec<Output>>,
}

/// Of a request. Others are ignored, as the protocol wants it.
#[derive(Default, Deserialize)]
struct Parameters {
    size: Option<Size>,
    deadline_ms: Option<f64>,
    binary_data_output: Option<bool>,
}

/// A number, or a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Pixels(u32),
    Text(String),
}

#[derive(Deserialize)]
struct Input<'a> {
    name: String,
    datatype: String,
    shape: Vec<u64>,
    #[serde(default)]
    parameters: InputParameters,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct InputParameters {
    binary_data_size: Option<usize>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    #[serde(default)]
    parameters: OutputParameters,
}

#[derive(Default, Deserialize)]
struct OutputParameters {
    binary_data: Option<bool>,
}

/// A request that is understood.
pub struct Parsed {
    pub id: Option<String>,
    /// Names, and whether they are wanted as binary tensors.
    pub outputs: Vec<(String, bool)>,
    at: Option<At>,
    deadline: Duration,
    images: Images,
}

impl Parsed {
    pub fn request(self, arrived: Instant) -> Request {
        Request {
            at: self.at,
            arrived,
            deadline: self.deadline,
            images: self.images,
        }
    }
}

/// Reads the JSON of a request and the binary tensors that follow it.
pub fn parse(app: &App, json: &Bytes, binary: &Bytes) -> Result<Parsed, Problem> {
    let request: InferRequest<'_> = serde_json::from_slice(json)
        .map_err(|error| Problem::bad(format!("the request's JSON: {error}")))?;
    let at = match request.parameters.size {
        None => None,
        Some(Size::Pixels(size)) => Some(At::Size(size)),
        Some(Size::Text(text)) => at(Some(&text))?,
    };
    let [input] = request.inputs.as_slice() else {
        return Err(Problem::bad(format!(
            "a request has one input, {FILES}, {PIXELS} or {NORMALIZED}; this one has {}",
            request.inputs.len()
        )));
    };
    let images = images(input, binary, app.config.queue)
        .map_err(|problem| problem.about(&format!("the input {}", quoted(&input.name))))?;
    let is_binary = request.parameters.binary_data_output.unwrap_or(false);
    let outputs = match request.outputs {
        None => OUTPUTS.map(|name| (name.to_owned(), is_binary)).to_vec(),
        Some(outputs) if outputs.len() > OUTPUTS.len() => {
            return Err(Problem::bad(format!("there are {} outputs", OUTPUTS.len())));
        }
        Some(outputs) => {
            let wanted = outputs.into_iter().map(|output| {
                let is_binary = output.parameters.binary_data.unwrap_or(is_binary);
                (output.name, is_binary)
            });
            wanted.collect()
        }
    };
    Ok(Parsed {
        id: request.id,
        outputs,
        at,
        deadline: deadline(app, request.parameters.deadline_ms)?,
        images,
    })
}

fn images(input: &Input<'_>, binary: &Bytes, most: usize) -> Result<Images, Problem> {
    let expected = match input.name.as_str() {
        FILES => "BYTES",
        PIXELS => "UINT8",
        NORMALIZED => "FP32",
        _ => {
            let text = format!("there is no such input; there are {FILES}, {PIXELS}, {NORMALIZED}");
            return Err(Problem::bad(text));
        }
    };
    if input.datatype != expected {
        let text = format!(
            "the datatype is {expected}, not {}",
            quoted(&input.datatype)
        );
        return Err(Problem::bad(text));
    }
    let data = match (input.parameters.binary_data_size, input.data) {
        (Some(size), None) if size == binary.len() => None,
        (None, Some(data)) if binary.is_empty() => Some(data),
        (Some(size), None) => {
            let text = format!(
                "binary_data_size is {size}, and {} bytes follow",
                binary.len()
            );
            return Err(Problem::bad(text));
        }
        _ => {
            let text = "either `data` or `binary_data_size` with the header Inference-Header-Content-Length";
            return Err(Problem::bad(text));
        }
    };
    match input.name.as_str() {
        FILES => {
            let files = match data {
                None => strings(binary, most)?,
                Some(data) => flat::<String>(data)?
                    .into_iter()
                    .map(|text| STANDARD.decode(text).map(Bytes::from))
                    .collect::<Result<_, _>>()
                    .map_err(|error| Problem::bad(format!("files in JSON are base64: {error}")))?,
            };
            let mut declared = input.shape.iter();
            let declared = declared.try_fold(1_u64, |product, side| product.checked_mul(*side));
            match declared == Some(files.len() as u64) {
                true => Ok(Images::Files(files)),
                false => Err(wrong_count(&input.shape, files.len())),
            }
        }
        PIXELS => {
            let size = shape(&input.shape, |size| [size, size, 3])?;
            let pixels = match data {
                None => binary.clone(),
                Some(data) => flat::<u8>(data)?.into(),
            };
            check_count(&input.shape, size, pixels.len())?;
            Ok(Images::Pixels(size, pixels))
        }
        _ => {
            let size = shape(&input.shape, |size| [3, size, size])?;
            let pixels = match data {
                None => {
                    let (values, rest) = binary.as_chunks::<4>();
                    if !rest.is_empty() {
                        return Err(wrong_count(&input.shape, binary.len()));
                    }
                    values
                        .iter()
                        .map(|value| f32::from_le_bytes(*value))
                        .collect()
                }
                Some(data) => flat::<f32>(data)?,
            };
            check_count(&input.shape, size, pixels.len())?;
            Ok(Images::Normalized(size, pixels))
        }
    }
}

/// The size in a shape `[n, ...]`.
fn shape(shape: &[u64], of: fn(u64) -> [u64; 3]) -> Result<u32, Problem> {
    let found = match shape {
        [_, rest @ ..] => rest.get(1).filter(|size| rest == of(**size)),
        [] => None,
    };
    let size = found.and_then(|size| u32::try_from(*size).ok());
    let size = size.filter(|size| (1..=rsflow_graph::MAX_SIZE).contains(size));
    size.ok_or_else(|| {
        let expected = match of(0) {
            [0, 0, 3] => "[n, size, size, 3]",
            _ => "[n, 3, size, size]",
        };
        Problem::bad(format!("the shape is {expected}, not {shape:?}"))
    })
}

fn check_count(shape: &[u64], size: u32, found: usize) -> Result<(), Problem> {
    let images = shape.first().copied().unwrap_or(0);
    match images.checked_mul(values(size) as u64) == Some(found as u64) {
        true => Ok(()),
        false => Err(wrong_count(shape, found)),
    }
}

fn wrong_count(shape: &[u64], found: usize) -> Problem {
    Problem::bad(format!(
        "the shape {shape:?} does not fit {found} values or bytes"
    ))
}

/// Binary strings: the length of each in 4 bytes, little endian, then its bytes.
fn strings(binary: &Bytes, most: usize) -> Result<Vec<Bytes>, Problem> {
    let mut all = Vec::new();
    let mut rest = binary.clone();
    while !rest.is_empty() {
        if all.len() == most {
            return Err(Problem::bad(format!("a request has 1 to {most} images")));
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

/// The values of a tensor in JSON, flat or nested.
fn flat<T: Value>(data: &RawValue) -> Result<Vec<T>, Problem> {
    let mut values = Vec::new();
    let mut json = serde_json::Deserializer::from_str(data.get());
    Push(&mut values)
        .deserialize(&mut json)
        .map_err(|error| Problem::bad(format!("`data`: {error}")))?;
    Ok(values)
}

/// What a tensor consists of.
trait Value: Sized {
    const EXPECTED: &'static str;

    fn of_number(_number: f64) -> Option<Self> {
        None
    }

    fn of_text(_text: &str) -> Option<Self> {
        None
    }
}

impl Value for f32 {
    const EXPECTED: &'static str = "a number, or lists of them";

    fn of_number(number: f64) -> Option<Self> {
        Some(number as f32)
    }
}

impl Value for u8 {
    const EXPECTED: &'static str = "a whole number from 0 to 255, or lists of them";

    fn of_number(number: f64) -> Option<Self> {
        let is_byte = number.fract() == 0.0 && (0.0..=255.0).contains(&number);
        is_byte.then_some(number as u8)
    }
}

impl Value for String {
    const EXPECTED: &'static str = "a text, or lists of them";

    fn of_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

/// Appends a value, or those of a list, to what is there.
struct Push<'a, T>(&'a mut Vec<T>);

impl<'de, T: Value> DeserializeSeed<'de> for Push<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de, T: Value> Visitor<'de> for Push<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        let value = T::of_number(number);
        self.0
            .push(value.ok_or_else(|| E::custom(format!("{number} is not {}", T::EXPECTED)))?);
        Ok(())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.visit_f64(number as f64)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.visit_f64(number as f64)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let value = T::of_text(text);
        self.0
            .push(value.ok_or_else(|| E::custom(format!("a text is not {}", T::EXPECTED)))?);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Push(self.0))?.is_some() {}
        Ok(())
    }
}
