//! The body of an inference request over HTTP: JSON, and binary tensors that follow it.

use std::fmt;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::inputs::{self, Binary, Data, Described};
use super::outputs::Output;
use crate::server::Config;
use crate::server::device::At;
use crate::server::http::{at, deadline};
use crate::server::infer::{Images, Request};
use crate::server::problem::{Problem, brief};

#[derive(Deserialize)]
struct InferRequest<'a> {
    id: Option<String>,
    #[serde(default)]
    parameters: Parameters,
    #[serde(borrow)]
    inputs: Vec<Input<'a>>,
    outputs: Option<Vec<Wanted>>,
}

/// Of a request. Others are ignored, as the protocol wants it.
#[derive(Default, Deserialize)]
struct Parameters {
    size: Option<Size>,
    deadline_ms: Option<f64>,
    binary_data_output: Option<bool>,
}

/// A number, or a text. Read as it comes: serde's `untagged` would keep any value whatever, in many times its bytes.
enum Size {
    Pixels(u32),
    Text(String),
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size: \"auto\", \"ensemble\" or a number of pixels")
            }

            fn visit_u64<E: Error>(self, pixels: u64) -> Result<Size, E> {
                let size = u32::try_from(pixels);
                let size = size.map_err(|_| E::custom(format!("no image has the size {pixels}")));
                size.map(Size::Pixels)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
                Ok(Size::Text(text.to_owned()))
            }
        }
        from.deserialize_any(Read)
    }
}

/// A shape of few dimensions.
#[derive(Default)]
struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of whole numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(side) = list.next_element()? {
                    if shape.len() == inputs::MOST_DIMENSIONS {
                        return Err(A::Error::custom(inputs::too_many_dimensions()));
                    }
                    shape.push(side);
                }
                Ok(Shape(shape))
            }
        }
        from.deserialize_seq(Read)
    }
}

#[derive(Deserialize)]
struct Input<'a> {
    name: String,
    datatype: String,
    shape: Shape,
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
struct Wanted {
    name: String,
    #[serde(default)]
    parameters: WantedParameters,
}

#[derive(Default, Deserialize)]
struct WantedParameters {
    binary_data: Option<bool>,
}

/// A request that is understood.
pub struct Parsed {
    pub id: Option<String>,
    /// With whether they are wanted as binary tensors.
    pub outputs: Vec<(Output, bool)>,
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
pub fn parse(config: &Config, json: &Bytes, binary: &Bytes) -> Result<Parsed, Problem> {
    let request: InferRequest<'_> = serde_json::from_slice(json)
        .map_err(|error| Problem::bad(format!("the request's JSON: {}", brief(&error))))?;
    let at = match request.parameters.size {
        None => None,
        Some(Size::Pixels(size)) => Some(At::Size(size)),
        Some(Size::Text(text)) => at(Some(&text))?,
    };
    let deadline = deadline(config, request.parameters.deadline_ms)?;
    let is_binary = request.parameters.binary_data_output.unwrap_or(false);
    let outputs = match request.outputs {
        None => Output::ALL.map(|output| (output, is_binary)).to_vec(),
        Some(wanted) => {
            let named = Output::parse(wanted.iter().map(|wanted| wanted.name.as_str()))?;
            let binary = wanted.iter().map(|wanted| wanted.parameters.binary_data);
            named
                .into_iter()
                .zip(binary.map(|binary| binary.unwrap_or(is_binary)))
                .collect()
        }
    };
    let input = inputs::only(&request.inputs)?;
    let described = Described {
        name: &input.name,
        datatype: &input.datatype,
        shape: &input.shape.0,
    };
    let images = inputs::images(&described, || data(input, binary), config.queue)?;
    Ok(Parsed {
        id: request.id,
        outputs,
        at,
        deadline,
        images,
    })
}

/// A tensor's data: in the JSON, or after it.
enum Carried<'a> {
    Json(&'a RawValue),
    Binary(Binary),
}

fn data<'a>(input: &Input<'a>, binary: &Bytes) -> Result<Carried<'a>, Problem> {
    match (input.parameters.binary_data_size, input.data) {
        (Some(size), None) if size == binary.len() => Ok(Carried::Binary(Binary(binary.clone()))),
        (None, Some(data)) if binary.is_empty() => Ok(Carried::Json(data)),
        (Some(size), None) => {
            let text = format!(
                "binary_data_size is {size}, and {} bytes follow",
                binary.len()
            );
            Err(Problem::bad(text))
        }
        _ => {
            let text = "either `data` or `binary_data_size` with the header Inference-Header-Content-Length";
            Err(Problem::bad(text))
        }
    }
}

impl Data for Carried<'_> {
    fn files(self, most: usize) -> Result<Vec<Bytes>, Problem> {
        match self {
            Carried::Json(data) => flat(data, most),
            Carried::Binary(binary) => binary.files(most),
        }
    }

    fn pixels(self, most: usize) -> Result<Bytes, Problem> {
        match self {
            Carried::Json(data) => flat(data, most).map(Bytes::from),
            Carried::Binary(binary) => binary.pixels(most),
        }
    }

    fn floats(self, most: usize) -> Result<Vec<f32>, Problem> {
        match self {
            Carried::Json(data) => flat(data, most),
            Carried::Binary(binary) => binary.floats(most),
        }
    }
}

/// The values of a tensor in JSON, flat or nested.
fn flat<T: Value>(data: &RawValue, most: usize) -> Result<Vec<T>, Problem> {
    let mut values = Vec::new();
    let mut json = serde_json::Deserializer::from_str(data.get());
    Push(&mut values, most)
        .deserialize(&mut json)
        .map_err(|error| Problem::bad(format!("`data`: {}", brief(&error))))?;
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

/// A file.
impl Value for Bytes {
    const EXPECTED: &'static str = "a file in base64, or lists of them";

    fn of_text(text: &str) -> Option<Self> {
        STANDARD.decode(text).ok().map(Bytes::from)
    }
}

/// Appends a value, or those of a list, to what is there, and takes no more than so many.
struct Push<'a, T>(&'a mut Vec<T>, usize);

impl<T: Value> Push<'_, T> {
    /// One more. Nothing is converted that is too much.
    fn push<E: Error>(
        self,
        convert: impl FnOnce() -> Option<T>,
        found: impl fmt::Display,
    ) -> Result<(), E> {
        if self.0.len() == self.1 {
            return Err(E::custom(format!("more than {} values", self.1)));
        }
        let value = convert();
        self.0
            .push(value.ok_or_else(|| E::custom(format!("{found} is not {}", T::EXPECTED)))?);
        Ok(())
    }
}

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
        self.push(|| T::of_number(number), number)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.visit_f64(number as f64)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.visit_f64(number as f64)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.push(|| T::of_text(text), "a text")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Push(self.0, self.1))?.is_some() {}
        Ok(())
    }
}
