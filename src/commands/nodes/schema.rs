//! Sections and default values of a schema, for `rsflow nodes KIND`.

use rsflow_graph::schema::{Reader, Shape, fields, is_character};
use serde_json::Value;

/// A type that needs a table of its own below the table of parameters.
pub(super) struct Section<'a> {
    /// The fields of this type, as `--set` names them.
    pub(super) fields: Vec<String>,
    /// The variant that this is about; `None`: all of them.
    pub(super) choice: Option<&'a str>,
    pub(super) schema: &'a Value,
}

/// A value as RON writes it.
pub(super) fn ron<'a>(reader: &Reader<'a>, schema: &'a Value, value: &Value) -> String {
    let schema = reader.resolve(schema).0;
    match (Shape::of(schema), value) {
        (Shape::Plain("null"), Value::Null) => "()".to_owned(),
        (_, Value::Null) => "None".to_owned(),
        (Shape::Choice(_), Value::String(name)) => name.clone(),
        (Shape::Choice(choices), Value::Object(map)) => map
            .iter()
            .map(|(name, value)| {
                let choice = choices.iter().find(|choice| choice.name == name);
                let body = choice.and_then(|choice| choice.body);
                let body = body.map_or_else(|| value.to_string(), |body| ron(reader, body, value));
                // A struct and a tuple have their own parentheses.
                if body.starts_with('(') {
                    format!("{name}{body}")
                } else {
                    format!("{name}({body})")
                }
            })
            .collect(),
        (Shape::Plain(_), Value::String(text)) if is_character(schema) => {
            text.chars().map(|c| format!("{c:?}")).collect()
        }
        (Shape::Tuple(items), Value::Array(values)) => {
            let parts = items.into_iter().zip(values);
            format!(
                "({})",
                joined(parts.map(|(item, value)| ron(reader, item, value)))
            )
        }
        (Shape::List(item), Value::Array(values)) => {
            format!(
                "[{}]",
                joined(values.iter().map(|value| ron(reader, item, value)))
            )
        }
        (Shape::Struct, Value::Object(map)) => {
            // In the order of the fields, not of the map.
            let fields = fields(schema);
            let parts = fields.iter().filter_map(|field| {
                let value = ron(reader, field.schema, map.get(field.name)?);
                Some(format!("{}: {value}", field.name))
            });
            format!("({})", joined(parts))
        }
        (Shape::Map(item), Value::Object(map)) => {
            let parts = map.iter();
            let parts = parts.map(|(key, value)| format!("{key:?}: {}", ron(reader, item, value)));
            format!("{{{}}}", joined(parts))
        }
        // Numbers, booleans and text are the same in both languages.
        _ => value.to_string(),
    }
}

/// Adds the sections that explain `schema`, the type of the field `path`.
pub(super) fn collect<'a>(
    reader: &Reader<'a>,
    schema: &'a Value,
    path: &str,
    sections: &mut Vec<Section<'a>>,
) {
    let schema = reader.resolve(schema).0;
    match Shape::of(schema) {
        Shape::Choice(choices) => {
            let explained = choices.iter().any(|choice| !choice.doc.is_empty());
            let new = !explained || is_new(schema, None, path, sections);
            for choice in choices {
                let Some(body) = choice.body.map(|body| reader.resolve(body).0) else {
                    continue;
                };
                if let Shape::Struct = Shape::of(body) {
                    collect_fields(reader, body, Some(choice.name), path, sections);
                } else if new {
                    collect(reader, body, path, sections);
                }
            }
        }
        Shape::Struct => collect_fields(reader, schema, None, path, sections),
        Shape::Tuple(items) => {
            for item in items {
                collect(reader, item, path, sections);
            }
        }
        Shape::List(item) | Shape::Map(item) => collect(reader, item, path, sections),
        Shape::Plain(_) => {}
    }
}

fn collect_fields<'a>(
    reader: &Reader<'a>,
    schema: &'a Value,
    choice: Option<&'a str>,
    path: &str,
    sections: &mut Vec<Section<'a>>,
) {
    if is_new(schema, choice, path, sections) {
        for field in fields(schema) {
            collect(
                reader,
                field.schema,
                &format!("{path}.{}", field.name),
                sections,
            );
        }
    }
}

/// Adds a section, or the field to the section that there is. True if it is new: its parts may
/// need sections, too.
fn is_new<'a>(
    schema: &'a Value,
    choice: Option<&'a str>,
    path: &str,
    sections: &mut Vec<Section<'a>>,
) -> bool {
    let known = sections
        .iter_mut()
        .find(|section| std::ptr::eq(section.schema, schema) && section.choice == choice);
    match known {
        Some(section) => {
            if !section.fields.iter().any(|field| field == path) {
                section.fields.push(path.to_owned());
            }
            false
        }
        None => {
            sections.push(Section {
                fields: vec![path.to_owned()],
                choice,
                schema,
            });
            true
        }
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}
