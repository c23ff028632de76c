//! Every kind of node that there is, and every recipe that ships.

use std::collections::BTreeSet;
use std::path::Path;

use rsflow::catalogue::CATALOGUE;
use rsflow_graph::{Batch, Kind, Payload as _, Plan, Recipe, Role, Text, differences};
use rsflow_model::train::lookup::trainer_of;
use rsflow_model::train::metrics::Metric;
use serde_json::Value;

use crate::workplace::{done, rsflow};

/// The nodes that scripts touch, in every recipe.
const KNOWN_NODES: [&str; 5] = [
    "train_files",
    "train_batches",
    "val_files",
    "val_batches",
    "trainer",
];

fn schema(kind: &Kind) -> Value {
    (kind.parameters)().to_value()
}

/// Goes through a schema and all that is in it: its fields, the variants of choices, and their
/// fields in turn. `look` is given the path of each, and its schema.
fn walk<'a>(path: &str, schema: &'a Value, look: &mut impl FnMut(&str, &'a Value)) {
    look(path, schema);
    for (name, definition) in schema["$defs"].as_object().into_iter().flatten() {
        walk(name, definition, look);
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), field, look);
    }
    for variant in schema["oneOf"].as_array().into_iter().flatten() {
        look(&format!("a variant of {path}"), variant);
        // What the variant holds has the variant's doc comment.
        for held in variant["properties"].as_object().into_iter().flatten() {
            let (name, inner) = held;
            for (field, inner) in inner["properties"].as_object().into_iter().flatten() {
                walk(&format!("{path}.{name}.{field}"), inner, look);
            }
        }
    }
}

#[test]
fn names_are_unique_and_in_camel_case() {
    let mut seen = BTreeSet::new();
    for name in CATALOGUE.names() {
        assert!(seen.insert(name), "{name} is in the catalogue twice");
        assert!(name.starts_with(|c: char| c.is_ascii_uppercase()), "{name}");
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "{name}");
    }
}

#[test]
fn examples_are_sound() {
    for kind in CATALOGUE.0 {
        assert!(
            kind.example.starts_with(&format!("{}(", kind.name)),
            "{}",
            kind.example
        );
        let text = format!("(nodes: {{ \"node\": {} }})", kind.example);
        let recipe = Recipe::parse(Text::new(kind.name, text), CATALOGUE, &[]);
        let recipe = recipe.unwrap_or_else(|problems| panic!("{problems}"));
        // Alone it has nobody to read from and no reader; nothing else may be wrong.
        let Err(problems) = Plan::new(recipe) else {
            continue;
        };
        for problem in problems.list() {
            let of_the_graph = ["unknown node", "unread output"].contains(&problem.label.as_str());
            assert!(of_the_graph, "{problems}");
        }
    }
}

#[test]
fn summaries_are_one_line() {
    for kind in CATALOGUE.0 {
        let summary = kind.summary;
        assert!(
            !summary.is_empty() && !summary.contains('\n') && !summary.ends_with('.'),
            "{}: {summary}",
            kind.name
        );
    }
}

/// Every reference of a schema leads to something in it.
fn check_references(root: &Value, schema: &Value) -> usize {
    let mut count = 0;
    if let Some(Value::String(reference)) = schema.get("$ref") {
        let path = reference.strip_prefix('#').unwrap();
        assert!(root.pointer(path).is_some(), "{reference}");
        count += 1;
    }
    let parts: Vec<&Value> = match schema {
        Value::Object(fields) => fields.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => Vec::new(),
    };
    count
        + parts
            .into_iter()
            .map(|part| check_references(root, part))
            .sum::<usize>()
}

/// A parameter whose value has fields says where these are listed, each with its meaning.
#[test]
fn nodes_lead_to_the_fields_of_values() {
    let folder = tempfile::tempdir().unwrap();
    let text = done(folder.path(), &["nodes", "RsNet"]);
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    for expected in [
        "The optimizer. Its fields:",
        "at `optimizer`.",
        "optimizer: Sgd Stochastic gradient descent.",
        "momentum number 0.9 At least 0 and below 1.",
    ] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    assert!(!text.contains("at `batch_norms`."), "{text}");
}

#[test]
fn nodes_as_json_have_every_kind_with_its_ports() {
    let folder = tempfile::tempdir().unwrap();
    let read = |arguments: &[&str]| -> Value {
        serde_json::from_str(&done(folder.path(), arguments)).unwrap()
    };
    let whole = read(&["nodes", "--json"]);
    assert_eq!(
        whole["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    assert!(check_references(&whole, &whole) > CATALOGUE.0.len());
    for kind in CATALOGUE.0 {
        let schema = &whole["$defs"][kind.name];
        let own = &schema["x-rsflow"];
        for (ports, key) in [(kind.inputs, "inputs"), (kind.outputs, "outputs")] {
            let names = own[key]
                .as_array()
                .unwrap()
                .iter()
                .map(|port| port["carries"].clone());
            let expected = ports.iter().map(|port| Value::from(port.carries));
            assert!(names.eq(expected), "{}: {own}", kind.name);
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            assert!(field.is_object(), "{}.{name}", kind.name);
        }
    }
    let one = read(&["nodes", "--json", "RsNet"]);
    assert!(check_references(&one, &one) > 0);
    assert!(one["properties"]["epochs"].is_object());
    assert_eq!(one["x-rsflow"]["outputs"][0]["reference"], "NODE.metrics");
    let unknown = rsflow(folder.path(), &["nodes", "--json", "Resise"]);
    assert_eq!(unknown.status.code(), Some(2));
}

#[test]
fn everything_is_documented() {
    for kind in CATALOGUE.0 {
        walk(kind.name, &schema(kind), &mut |path, schema| {
            let text = schema["description"].as_str().unwrap_or_default();
            assert!(
                !text.trim().is_empty(),
                "{path} of {} has no doc comment",
                kind.name
            );
        });
    }
}

#[test]
fn unknown_fields_are_errors_everywhere() {
    for kind in CATALOGUE.0 {
        walk(kind.name, &schema(kind), &mut |path, schema| {
            let is_closed = schema["additionalProperties"] == false;
            let has_fields = schema["properties"].is_object();
            assert!(
                is_closed || !has_fields,
                "{path} of {} lacks `deny_unknown_fields`",
                kind.name
            );
        });
    }
}

#[test]
fn inputs_are_the_fields_of_type_input() {
    for kind in CATALOGUE.0 {
        let schema = schema(kind);
        let is_input = |field: &Value| {
            let any = field["anyOf"].as_array().into_iter().flatten();
            any.chain([field]).any(|field| field["format"] == "input")
        };
        let properties = schema["properties"].as_object().into_iter().flatten();
        let written: BTreeSet<&str> = properties
            .filter(|(_, field)| is_input(field))
            .map(|(name, _)| name.as_str())
            .collect();
        let declared: BTreeSet<&str> = kind.inputs.iter().map(|port| port.name).collect();
        assert_eq!(written, declared, "{}", kind.name);
    }
}

#[test]
fn every_stream_has_a_writer_and_a_reader() {
    let carried = |ports: fn(&Kind) -> &'static [rsflow_graph::Port]| -> BTreeSet<&str> {
        CATALOGUE
            .0
            .iter()
            .flat_map(ports)
            .map(|port| port.carries)
            .collect()
    };
    assert_eq!(carried(|kind| kind.inputs), carried(|kind| kind.outputs));
}

#[test]
fn roles_agree_with_ports() {
    for kind in CATALOGUE.0 {
        let name = kind.name;
        assert_eq!(kind.role == Role::Sink, kind.outputs.is_empty(), "{name}");
        let computes = matches!(kind.role, Role::Trainer { .. } | Role::Evaluator);
        let measures = kind.output_of(Metric::NAME).is_some();
        assert_eq!(computes, measures, "{name}");
        if let Role::Trainer { port } = kind.role {
            let input = kind.inputs.iter().find(|input| input.name == port);
            assert_eq!(
                input.map(|input| input.carries),
                Some(Batch::NAME),
                "{name}"
            );
        }
    }
}

#[test]
fn recipes_that_ship_are_sound() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "ron") {
            continue;
        }
        let text = Text::new(
            path.display().to_string(),
            std::fs::read_to_string(&path).unwrap(),
        );
        let plan = Recipe::parse(text, CATALOGUE, &[]).and_then(Plan::new);
        let plan = plan.unwrap_or_else(|problems| panic!("{problems}"));
        let names: Vec<&str> = plan
            .nodes()
            .iter()
            .map(|planned| planned.id.name.as_str())
            .collect();
        for known in KNOWN_NODES {
            assert!(
                names.contains(&known),
                "{} has no `{known}`",
                path.display()
            );
        }
        for planned in plan.nodes() {
            let trains = matches!(planned.kind.role, Role::Trainer { .. });
            assert_eq!(trainer_of(planned).is_some(), trains, "{}", planned.id.name);
            let source = planned
                .training_input()
                .map(|edge| &plan.nodes()[edge.node]);
            assert_eq!(source.is_some(), trains);
            assert!(source.is_none_or(|source| source.batch_size().is_some()));
            let makes_batches = planned.kind.output_of(Batch::NAME).is_some();
            assert_eq!(planned.batch_size().is_some(), makes_batches);
        }
        seen += 1;
    }
    assert_ne!(seen, 0);
}

/// A recipe of an older program is accepted, means the same, and is no reason to refuse a resume.
#[test]
fn former_names_of_kinds_mean_the_same() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/quickstart.ron");
    let text = std::fs::read_to_string(path).unwrap();
    let old = text.replace("DecodeImage(", "DecodeJpeg(");
    assert_ne!(text, old);
    let recipe = Recipe::parse(Text::new("old.ron", old.clone()), CATALOGUE, &[]).unwrap();
    let plan = Plan::new(recipe).unwrap();
    let kinds = plan.nodes().iter().map(|planned| planned.id.kind);
    assert_eq!(kinds.filter(|kind| *kind == "DecodeImage").count(), 2);
    assert_eq!(differences(&text, &old, CATALOGUE), [""; 0]);
    let smaller = old.replace("DecodeJpeg(", "DecodeJpeg(max_pixels: 9, ");
    assert_eq!(
        differences(&text, &smaller, CATALOGUE),
        [
            "train_images.max_pixels: (default), was 9",
            "val_images.max_pixels: (default), was 9"
        ]
    );
}
