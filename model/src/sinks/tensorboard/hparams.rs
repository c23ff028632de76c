//! A run's recipe for TensorBoard: its text, and its fields as hyper-parameters. The plugin `HParams` keeps them
//! in the metadata of summaries that have no values:
//! <https://github.com/tensorflow/tensorboard/blob/master/tensorboard/plugins/hparams/plugin_data.proto>.
//! As metrics it takes the last values of the scalars.

use std::collections::BTreeMap;

use prost::Message;
use rsflow_graph::settings;

use super::messages::{PluginData, SummaryMetadata, Tensor, TensorShape, Value, dimension};

/// `DataType.DT_FLOAT` and `DataType.DT_STRING`.
const FLOAT: i32 = 1;
const STRING: i32 = 7;
/// `Status.STATUS_SUCCESS`.
const SUCCESS: i32 = 1;

/// The recipe as text, which TensorBoard shows as Markdown: a block of code.
pub fn text(recipe: &str) -> Value {
    let lines = recipe.lines().map(|line| format!("    {line}\n"));
    Value {
        tag: "recipe".to_owned(),
        tensor: Some(Tensor {
            dtype: STRING,
            shape: Some(TensorShape { dim: vec![] }),
            string_val: vec![lines.collect::<String>().into_bytes()],
        }),
        metadata: Some(metadata("text", vec![])),
        ..Value::default()
    }
}

/// The fields of a recipe as hyper-parameters of a run that begins at this time, in seconds since 1970.
pub fn start(recipe: &str, at: f64) -> Value {
    let fields = settings(recipe).into_iter();
    let info = StartInfo {
        hparams: fields.map(|(path, value)| (path, typed(value))).collect(),
        start_time_secs: at,
    };
    let data = HParams {
        start: Some(info),
        end: None,
    };
    without_value("_hparams_/session_start_info", &data)
}

/// Of a run that has done all its epochs.
pub fn end(at: f64) -> Value {
    let data = HParams {
        start: None,
        end: Some(EndInfo {
            status: SUCCESS,
            end_time_secs: at,
        }),
    };
    without_value("_hparams_/session_end_info", &data)
}

/// Numbers and truth values keep their type, so that TensorBoard can sort and filter by them.
fn typed(value: String) -> Typed {
    let number = value.replace('_', "").parse::<f64>().ok();
    let kind = match (value.as_str(), number.filter(|number| number.is_finite())) {
        ("true", _) => Kind::Bool(true),
        ("false", _) => Kind::Bool(false),
        (_, Some(number)) => Kind::Number(number),
        _ => Kind::String(value),
    };
    Typed { kind: Some(kind) }
}

fn without_value(tag: &str, data: &HParams) -> Value {
    Value {
        tag: tag.to_owned(),
        tensor: Some(Tensor {
            dtype: FLOAT,
            shape: Some(TensorShape {
                dim: vec![dimension(0)],
            }),
            string_val: vec![],
        }),
        metadata: Some(metadata("hparams", data.encode_to_vec())),
        ..Value::default()
    }
}

fn metadata(plugin: &str, content: Vec<u8>) -> SummaryMetadata {
    SummaryMetadata {
        plugin_data: Some(PluginData {
            plugin_name: plugin.to_owned(),
            content,
        }),
    }
}

/// `HParamsPluginData`, of version 0.
#[derive(Clone, PartialEq, prost::Message)]
struct HParams {
    #[prost(message, optional, tag = "3")]
    start: Option<StartInfo>,
    #[prost(message, optional, tag = "4")]
    end: Option<EndInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StartInfo {
    #[prost(btree_map = "string, message", tag = "1")]
    hparams: BTreeMap<String, Typed>,
    #[prost(double, tag = "5")]
    start_time_secs: f64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct EndInfo {
    #[prost(int32, tag = "1")]
    status: i32,
    #[prost(double, tag = "2")]
    end_time_secs: f64,
}

/// `google.protobuf.Value`.
#[derive(Clone, PartialEq, prost::Message)]
struct Typed {
    #[prost(oneof = "Kind", tags = "2, 3, 4")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    String(String),
    #[prost(bool, tag = "4")]
    Bool(bool),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by TensorBoard's own package; see tests/fixtures/tensorboard/make.py.
    #[test]
    fn summaries_are_those_that_tensorboard_writes() {
        let recipe =
            r#"(seed: 3, nodes: {"a": A(root: "x y", shuffle: true, lr: 1_0.5, by: Sgd)})"#;
        let text = text("(\n  seed: 3,\n)");
        let written: [(Value, &[u8]); 3] = [
            (
                text,
                include_bytes!("../../../../tests/fixtures/tensorboard/text.pb"),
            ),
            (
                start(recipe, 1.5),
                include_bytes!("../../../../tests/fixtures/tensorboard/hparams_start.pb"),
            ),
            (
                end(2.5),
                include_bytes!("../../../../tests/fixtures/tensorboard/hparams_end.pb"),
            ),
        ];
        for (value, expected) in written {
            let found = value.encode_to_vec();
            assert_eq!(
                found.escape_ascii().to_string(),
                expected.escape_ascii().to_string(),
                "{}",
                value.tag
            );
        }
    }
}
