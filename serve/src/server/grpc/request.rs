//! An inference request over gRPC.

use std::time::Duration;

use axum::body::Bytes;
use rsflow_base::shown::Shown as _;

use super::messages::{InferInputTensor, InputContents, ModelInferRequest, Parameter, Parameters};
use super::wire;
use crate::server::Config;
use crate::server::device::At;
use crate::server::http;
use crate::server::infer::Images;
use crate::server::problem::Problem;
use crate::server::v2::inputs::{self, Binary, Data, Described};
use crate::server::v2::outputs::Output;

/// Fields of a request besides its image files. Each takes a few hundred bytes of memory whatever its length: very
/// many would take a hundred times the message.
const MOST_FIELDS: usize = 256;

/// A request that is understood.
pub struct Parsed {
    pub id: String,
    pub outputs: Vec<Output>,
    /// Whether outputs are wanted as the input was: raw.
    pub is_raw: bool,
    pub at: Option<At>,
    pub deadline: Duration,
    pub images: Images,
}

/// Decodes a request, if it does not take far more memory than its bytes do.
pub fn decode(message: Bytes, config: &Config) -> Result<ModelInferRequest, Problem> {
    let mut left = MOST_FIELDS + config.queue;
    check_fields(&message, Part::Request, &mut left)?;
    wire::decode(message)
}

/// The messages in a request that have fields without a limit.
#[derive(Clone, Copy)]
enum Part {
    Request,
    Input,
    Contents,
}

/// Counts down the fields of a message.
fn check_fields(mut message: &[u8], part: Part, left: &mut usize) -> Result<(), Problem> {
    while !message.is_empty() {
        *left = left.checked_sub(1).ok_or_else(|| {
            Problem::bad(
                "the request has too many fields: too many images, or numbers that are not packed",
            )
        })?;
        let key = varint(&mut message)?;
        let (tag, wire_type) = (key >> 3, key & 7);
        let length = match wire_type {
            0 => {
                varint(&mut message)?;
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).unwrap_or(usize::MAX),
            5 => 4,
            // Groups are of proto2.
            _ => return Err(Problem::bad("the message: a field's wire type is unknown")),
        };
        let field = message.split_off(..length);
        let field = field.ok_or_else(ends_early)?;
        match (part, tag) {
            (_, _) if wire_type != 2 => {}
            (Part::Request, 5) => check_fields(field, Part::Input, left)?,
            (Part::Input, 5) => check_fields(field, Part::Contents, left)?,
            // Its numbers are packed, in 1 to 10 bytes each.
            (Part::Input, 3) if length > 10 * inputs::MOST_DIMENSIONS => {
                return Err(Problem::bad(inputs::too_many_dimensions()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn ends_early() -> Problem {
    Problem::bad("the message ends early")
}

/// The number that comes next: 7 bits in each byte, the lowest first.
fn varint(bytes: &mut &[u8]) -> Result<u64, Problem> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first().ok_or_else(ends_early)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Problem::bad("the message: a number has more than 10 bytes"))
}

/// What a request asks for.
pub fn parse(config: &Config, request: ModelInferRequest) -> Result<Parsed, Problem> {
    let parameters = &request.parameters;
    let at = size(parameters)?;
    let deadline = http::deadline(config, milliseconds(parameters)?)?;
    let outputs = match request.outputs.as_slice() {
        [] => Output::ALL.to_vec(),
        named => Output::parse(named.iter().map(|output| output.name.as_str()))?,
    };
    let input = inputs::only(&request.inputs)?;
    let shape: Option<Vec<u64>> = input
        .shape
        .iter()
        .map(|side| u64::try_from(*side).ok())
        .collect();
    let shape = shape.ok_or_else(|| Problem::bad("the shape must not have negative numbers"))?;
    let described = Described {
        name: &input.name,
        datatype: &input.datatype,
        shape: &shape,
    };
    let raw = request.raw_input_contents.as_slice();
    let images = inputs::images(&described, || data(input, raw), config.queue)?;
    Ok(Parsed {
        is_raw: !raw.is_empty(),
        id: request.id,
        outputs,
        at,
        deadline,
        images,
    })
}

fn size(parameters: &Parameters) -> Result<Option<At>, Problem> {
    let value = parameters.get("size").and_then(|size| size.value.as_ref());
    let pixels = match value {
        None => return Ok(None),
        Some(Parameter::Text(text)) => return http::at(Some(text)),
        Some(Parameter::Int64(pixels)) => u32::try_from(*pixels).ok(),
        Some(Parameter::Uint64(pixels)) => u32::try_from(*pixels).ok(),
        Some(Parameter::Bool(_) | Parameter::Double(_)) => None,
    };
    match pixels {
        Some(pixels) => Ok(Some(At::Size(pixels))),
        None => Err(Problem::bad(
            "the parameter size must be \"auto\", \"ensemble\" or a number of pixels",
        )),
    }
}

fn milliseconds(parameters: &Parameters) -> Result<Option<f64>, Problem> {
    let value = parameters.get("deadline_ms");
    match value.and_then(|value| value.value.as_ref()) {
        None => Ok(None),
        Some(Parameter::Double(value)) => Ok(Some(*value)),
        Some(Parameter::Int64(value)) => Ok(Some(*value as f64)),
        Some(Parameter::Uint64(value)) => Ok(Some(*value as f64)),
        Some(Parameter::Bool(_)) => Err(Problem::bad("the parameter deadline_ms must be a number")),
        Some(Parameter::Text(text)) => Err(Problem::bad(format!(
            "the parameter deadline_ms must be a number, not the text {}",
            text.shown()
        ))),
    }
}

/// A tensor's data: in the tensor, or beside it.
enum Carried {
    Typed(InputContents),
    Raw(Binary),
}

fn data(input: &InferInputTensor, raw: &[Bytes]) -> Result<Carried, Problem> {
    match (&input.contents, raw) {
        (None, [raw]) => Ok(Carried::Raw(Binary(raw.clone()))),
        (Some(contents), []) => Ok(Carried::Typed(contents.clone())),
        (_, [_, _, ..]) => {
            let text = format!("{} raw_input_contents, and one input", raw.len());
            Err(Problem::bad(text))
        }
        _ => Err(Problem::bad(
            "the data must be in either `contents` or raw_input_contents",
        )),
    }
}

impl Data for Carried {
    fn files(self, most: usize) -> Result<Vec<Bytes>, Problem> {
        match self {
            Carried::Typed(contents) if contents.bytes_contents.len() > most => {
                Err(inputs::too_many_images(most))
            }
            Carried::Typed(contents) => Ok(contents.bytes_contents),
            Carried::Raw(raw) => raw.files(most),
        }
    }

    fn pixels(self, most: usize) -> Result<Bytes, Problem> {
        match self {
            Carried::Typed(contents) => varints(&contents.uint_contents, most),
            Carried::Raw(raw) => raw.pixels(most),
        }
    }

    fn floats(self, most: usize) -> Result<Vec<f32>, Problem> {
        match self {
            // Packed floats are as they are in a binary tensor.
            Carried::Typed(contents) => Binary(contents.fp32_contents).floats(most),
            Carried::Raw(raw) => raw.floats(most),
        }
    }
}

/// Bytes that came as varints.
fn varints(mut packed: &[u8], most: usize) -> Result<Bytes, Problem> {
    let mut values = Vec::with_capacity(most.min(packed.len()));
    while !packed.is_empty() {
        if values.len() == most {
            return Err(Problem::bad(format!("more than {most} values")));
        }
        let value = varint(&mut packed)?;
        let value = u8::try_from(value)
            .map_err(|_| Problem::bad(format!("{value} is not a whole number from 0 to 255")))?;
        values.push(value);
    }
    Ok(values.into())
}
