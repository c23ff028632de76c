//! The messages of the Open Inference Protocol over gRPC, for the server and for clients in Rust:
//! <https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/open_inference_grpc.proto>,
//! with Triton's 64-bit parameters and its way to load a model
//! (<https://github.com/triton-inference-server/common/blob/main/protobuf/grpc_service.proto>); and of gRPC's health
//! service (<https://github.com/grpc/grpc-proto/blob/master/grpc/health/v1/health.proto>).
//!
//! Declared by hand, so that building needs no protoc. Fields that the server has no use for are left out: they are
//! skipped in what comes.

use std::collections::BTreeMap;

use prost::bytes::Bytes;
use prost::{Message, Oneof};

/// `ServerLiveRequest`, `ServerReadyRequest` and `ServerMetadataRequest`; also the answer `RepositoryModelLoadResponse`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Empty {}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ServerLiveResponse {
    #[prost(bool, tag = "1")]
    pub live: bool,
}

/// Also `ModelReadyResponse`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ReadyResponse {
    #[prost(bool, tag = "1")]
    pub ready: bool,
}

/// `ModelReadyRequest` and `ModelMetadataRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ModelRequest {
    #[prost(string, tag = "1")]
    pub name: String,
    /// Empty for any.
    #[prost(string, tag = "2")]
    pub version: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ServerMetadataResponse {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
    #[prost(string, repeated, tag = "3")]
    pub extensions: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ModelMetadataResponse {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, repeated, tag = "2")]
    pub versions: Vec<String>,
    #[prost(string, tag = "3")]
    pub platform: String,
    #[prost(message, repeated, tag = "4")]
    pub inputs: Vec<TensorMetadata>,
    #[prost(message, repeated, tag = "5")]
    pub outputs: Vec<TensorMetadata>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct TensorMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub datatype: String,
    /// -1 where any number is right.
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
}

/// Of a request, a tensor or an answer.
pub type Parameters = BTreeMap<String, InferParameter>;

#[derive(Clone, PartialEq, Message)]
pub struct InferParameter {
    #[prost(oneof = "Parameter", tags = "1, 2, 3, 4, 5")]
    pub value: Option<Parameter>,
}

/// The value of an [`InferParameter`].
#[derive(Clone, PartialEq, Oneof)]
pub enum Parameter {
    #[prost(bool, tag = "1")]
    Bool(bool),
    #[prost(int64, tag = "2")]
    Int64(i64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(uint64, tag = "5")]
    Uint64(u64),
}

impl From<Parameter> for InferParameter {
    fn from(value: Parameter) -> Self {
        InferParameter { value: Some(value) }
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct ModelInferRequest {
    #[prost(string, tag = "1")]
    pub model_name: String,
    /// Empty for any.
    #[prost(string, tag = "2")]
    pub model_version: String,
    #[prost(string, tag = "3")]
    pub id: String,
    /// `size` (pixels, `auto` or `ensemble`) and `deadline_ms`. Others are ignored.
    #[prost(btree_map = "string, message", tag = "4")]
    pub parameters: Parameters,
    #[prost(message, repeated, tag = "5")]
    pub inputs: Vec<InferInputTensor>,
    /// Empty for all.
    #[prost(message, repeated, tag = "6")]
    pub outputs: Vec<InferRequestedOutputTensor>,
    /// The data of each input, little endian, in place of its `contents`. Of BYTES: each element after its length in
    /// 4 bytes.
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pub raw_input_contents: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub struct InferInputTensor {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub datatype: String,
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
    #[prost(message, optional, tag = "5")]
    pub contents: Option<InputContents>,
}

/// `InferTensorContents` of an input.
///
/// Repeated numbers are declared as the bytes that hold them all, as proto3 packs them: numbers one by one would take
/// several times the memory of the message before anything is known about them. Packed in several parts, or not
/// packed at all, as no protobuf library writes them, they are refused.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct InputContents {
    /// Of UINT8, as varints.
    #[prost(bytes = "bytes", tag = "4")]
    pub uint_contents: Bytes,
    /// Of FP32, little endian.
    #[prost(bytes = "bytes", tag = "6")]
    pub fp32_contents: Bytes,
    /// Of BYTES: one image file each.
    #[prost(bytes = "bytes", repeated, tag = "8")]
    pub bytes_contents: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct InferRequestedOutputTensor {
    #[prost(string, tag = "1")]
    pub name: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ModelInferResponse {
    #[prost(string, tag = "1")]
    pub model_name: String,
    #[prost(string, tag = "2")]
    pub model_version: String,
    /// The request's.
    #[prost(string, tag = "3")]
    pub id: String,
    /// `queue_ms` and `compute_ms`.
    #[prost(btree_map = "string, message", tag = "4")]
    pub parameters: Parameters,
    #[prost(message, repeated, tag = "5")]
    pub outputs: Vec<InferOutputTensor>,
    /// The data of each output, little endian, in place of its `contents`, if the request's was such.
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub raw_output_contents: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub struct InferOutputTensor {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub datatype: String,
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
    #[prost(message, optional, tag = "5")]
    pub contents: Option<OutputContents>,
}

/// `InferTensorContents` of an output.
#[derive(Clone, PartialEq, Message)]
pub struct OutputContents {
    /// Of INT32.
    #[prost(int32, repeated, tag = "2")]
    pub int_contents: Vec<i32>,
    /// Of FP32.
    #[prost(float, repeated, tag = "6")]
    pub fp32_contents: Vec<f32>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct RepositoryModelLoadRequest {
    #[prost(string, tag = "2")]
    pub model_name: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct HealthCheckRequest {
    /// Empty for the server.
    #[prost(string, tag = "1")]
    pub service: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct HealthCheckResponse {
    /// [`SERVING`] or [`NOT_SERVING`].
    #[prost(int32, tag = "1")]
    pub status: i32,
}

/// A [`HealthCheckResponse::status`].
pub const SERVING: i32 = 1;
/// A [`HealthCheckResponse::status`].
pub const NOT_SERVING: i32 = 2;
