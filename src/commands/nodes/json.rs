//! The kinds as JSON schema (draft 2020-12), for editors and programs.
//!
//! It is of the JSON that has a recipe's form: a node is an object whose only key is its kind. What the schema's
//! own words cannot say, ports above all, is under [`EXTENSION`], which validators ignore.

use rsflow_graph::schema::{Reader, fields};
use rsflow_graph::{Catalogue, Kind, Port};
use serde_json::{Map, Value, json};

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";
const EXTENSION: &str = "x-rsflow";

/// A whole recipe.
pub(super) fn recipe(catalogue: Catalogue) -> Value {
    let kinds = || catalogue.0.iter();
    let definitions: Map<String, Value> = kinds()
        .map(|kind| {
            let mut schema = one(kind);
            move_references(&mut schema, &format!("#/$defs/{}", kind.name));
            if let Some(schema) = schema.as_object_mut() {
                schema.remove("$schema");
            }
            (kind.name.to_owned(), schema)
        })
        .collect();
    let nodes: Vec<Value> = kinds()
        .map(|kind| {
            let reference = format!("#/$defs/{}", kind.name);
            json!({
                "description": kind.summary,
                "type": "object",
                "properties": { kind.name: { "$ref": reference } },
                "required": [kind.name],
                "additionalProperties": false,
            })
        })
        .collect();
    json!({
        "$schema": DRAFT,
        "title": "rsflow recipe",
        "description": "A recipe of rsflow as JSON would have it, for programs; rsflow itself reads RON. Values of \
                        `let` may be used as $name there, which this schema does not describe.",
        "type": "object",
        "properties": {
            "seed": {
                "description": "What all randomness follows from.",
                "type": "integer", "minimum": 0, "default": 0,
            },
            "cpu_workers": {
                "description": "Threads that decode and resize; Auto: the cores that training leaves.",
                "anyOf": [{ "const": "Auto" }, { "type": "integer", "minimum": 1 }],
                "default": "Auto",
            },
            "let": { "description": "Values with names.", "type": "object" },
            "nodes": {
                "description": "The nodes by name.",
                "type": "object",
                "additionalProperties": { "oneOf": nodes },
            },
        },
        "required": ["nodes"],
        "additionalProperties": false,
        "$defs": definitions,
    })
}

/// The fields of one kind.
pub(super) fn one(kind: &Kind) -> Value {
    let mut schema = (kind.parameters)().to_value();
    let ports = {
        let reader = Reader { root: &schema };
        let fields = fields(&schema);
        let inputs: Vec<Value> = kind
            .inputs
            .iter()
            .map(|port| {
                let field = fields.iter().find(|field| field.name == port.name);
                let is_required = field.is_none_or(|field| field.required);
                json!({ "name": port.name, "carries": port.carries, "required": is_required })
            })
            .collect();
        let outputs: Vec<Value> = kind
            .outputs
            .iter()
            .map(|port| {
                json!({ "name": port.name, "carries": port.carries, "reference": reference(kind, port) })
            })
            .collect();
        let types: Map<String, Value> = fields
            .iter()
            .filter(|field| !reader.is_input(field.schema))
            .map(|field| (field.name.to_owned(), reader.in_words(field.schema).into()))
            .collect();
        json!({
            "kind": kind.name,
            "summary": kind.summary,
            "example": kind.example,
            "aliases": kind.aliases,
            "inputs": inputs,
            "outputs": outputs,
            "types": types,
        })
    };
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("$schema".to_owned(), DRAFT.into());
        schema.insert(EXTENSION.to_owned(), ports);
    }
    schema
}

/// How other nodes name an output.
fn reference(kind: &Kind, port: &Port) -> String {
    match kind.outputs {
        [_] => "NODE".to_owned(),
        _ => format!("NODE.{}", port.name),
    }
}

/// Lets references within a schema lead to where it is put.
fn move_references(schema: &mut Value, place: &str) {
    match schema {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "$ref" => {
                        if let Some(path) = text.strip_prefix('#') {
                            *text = format!("{place}{path}");
                        }
                    }
                    value => move_references(value, place),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                move_references(item, place);
            }
        }
        _ => {}
    }
}
