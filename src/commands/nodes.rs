//! `rsflow nodes`: the kinds of node, and what each can be told.
//!
//! All of it comes from the catalogue; types, defaults and descriptions are read from the JSON
//! schema that schemars derives, and put into the words of one who writes RON.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use comfy_table::{ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle, Width};
use rsflow_graph::{Catalogue, Kind, Port, did_you_mean};
use serde_json::{Map, Value};

use super::Usage;

/// Lists all kinds, or tells all about one.
pub fn run(catalogue: Catalogue, kind: Option<&str>, out: &mut dyn Write) -> Result<ExitCode> {
    let width = width();
    match kind {
        None => list(catalogue, width, out)?,
        Some(name) => {
            let kind = catalogue.find(name).ok_or_else(|| {
                let help = did_you_mean(name, catalogue.names())
                    .unwrap_or_else(|| "`rsflow nodes` lists them all".to_owned());
                Usage(format!("there is no kind of node named `{name}`: {help}"))
            })?;
            tell(kind, width, out)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The terminal's width, within what reads well; that of a page where there is no terminal.
fn width() -> u16 {
    Table::new()
        .width()
        .map_or(100, |width| width.clamp(60, 120))
}

fn list(catalogue: Catalogue, width: u16, out: &mut dyn Write) -> Result<()> {
    let carried = |ports: &[Port]| {
        let names: Vec<&str> = ports.iter().map(|port| port.carries).collect();
        if names.is_empty() {
            "-".to_owned()
        } else {
            names.join(", ")
        }
    };
    let rows = catalogue.0.iter().map(|kind| {
        vec![
            kind.name.to_owned(),
            carried(kind.inputs),
            carried(kind.outputs),
            kind.summary.to_owned(),
        ]
    });
    write_table(
        &["kind", "takes", "yields", "what it does"],
        rows,
        width,
        out,
    )?;
    writeln!(out, "\n`rsflow nodes KIND` tells what a kind can be told.")?;
    Ok(())
}

fn tell(kind: &Kind, width: u16, out: &mut dyn Write) -> Result<()> {
    let schema = (kind.parameters)();
    let root = schema.as_value();
    let reader = Reader { root };
    let (inputs, parameters): (Vec<Field>, Vec<Field>) = fields(root)
        .into_iter()
        .partition(|field| reader.is_input(field.schema));

    writeln!(out, "{}: {}\n", kind.name, kind.summary)?;
    for line in wrapped(&doc(root), usize::from(width)) {
        writeln!(out, "{line}")?;
    }
    writeln!(out)?;
    for line in broken_at_commas(kind.example, usize::from(width) - 4) {
        writeln!(out, "    {line}")?;
    }

    if !kind.inputs.is_empty() {
        writeln!(out, "\nInputs")?;
        let rows = kind.inputs.iter().map(|port| {
            let field = inputs.iter().find(|field| field.name == port.name);
            let optional = field.is_some_and(|field| !field.required);
            vec![
                port.name.to_owned(),
                port.carries.to_owned(),
                if optional { "no" } else { "yes" }.to_owned(),
                field.map_or_else(String::new, |field| doc(field.schema)),
            ]
        });
        let header = ["name", "takes", "required", "meaning"];
        write_table(&header, rows, width, out)?;
    }
    if !kind.outputs.is_empty() {
        writeln!(out, "\nOutputs")?;
        let rows = kind.outputs.iter().map(|port| {
            let reference = match kind.outputs {
                [_] => "\"NODE\"".to_owned(),
                _ => format!("\"NODE.{}\"", port.name),
            };
            vec![reference, port.carries.to_owned()]
        });
        write_table(&["read as", "yields"], rows, width, out)?;
    }
    if !parameters.is_empty() {
        writeln!(out, "\nParameters")?;
        write_fields(&reader, &parameters, width, out)?;
    }
    let mut sections = Vec::new();
    for field in &parameters {
        reader.collect(field.schema, field.name, &mut sections);
    }
    for section in &sections {
        write_section(&reader, section, width, out)?;
    }
    Ok(())
}

/// Values that need more words than fit into the table of parameters.
struct Section<'a> {
    /// The fields that take such values, as `--set` names them.
    fields: Vec<String>,
    /// Which of the choices this is about; `None`: all of them.
    choice: Option<&'a str>,
    /// What the values look like.
    schema: &'a Value,
}

fn write_section(
    reader: &Reader,
    section: &Section,
    width: u16,
    out: &mut dyn Write,
) -> Result<()> {
    let takers = section.fields.join(", ");
    match section.choice {
        None => writeln!(out, "\n{takers}")?,
        Some(choice) => writeln!(out, "\n{takers}: {choice}")?,
    }
    let doc = doc(section.schema);
    if !doc.is_empty() {
        for line in wrapped(&doc, usize::from(width) - 2) {
            writeln!(out, " {line}")?;
        }
    }
    match Shape::of(section.schema) {
        Shape::Choice(choices) => {
            let rows = choices
                .iter()
                .map(|choice| vec![reader.choice_in_words(choice), choice.doc.clone()]);
            write_table(&["value", "meaning"], rows, width, out)
        }
        _ => write_fields(reader, &fields(section.schema), width, out),
    }
}

fn write_fields(reader: &Reader, fields: &[Field], width: u16, out: &mut dyn Write) -> Result<()> {
    let rows = fields.iter().map(|field| {
        let default = match field.schema.get("default") {
            Some(default) => reader.ron(field.schema, default),
            None if field.required => "required".to_owned(),
            None => "optional".to_owned(),
        };
        vec![
            field.name.to_owned(),
            reader.in_words(field.schema),
            default,
            doc(field.schema),
        ]
    });
    write_table(&["name", "type", "default", "meaning"], rows, width, out)
}

/// A field of a struct.
struct Field<'a> {
    name: &'a str,
    required: bool,
    schema: &'a Value,
}

/// A variant of an enum.
struct Choice<'a> {
    name: &'a str,
    /// What stands in its parentheses.
    body: Option<&'a Value>,
    doc: String,
}

/// A schema, by what its values look like in RON.
enum Shape<'a> {
    Choice(Vec<Choice<'a>>),
    Struct,
    Tuple(Vec<&'a Value>),
    List(&'a Value),
    Map(&'a Value),
    /// Anything without parts: the name of its JSON type.
    Plain(&'a str),
}

impl<'a> Shape<'a> {
    /// `schema` has no `$ref` and is not nullable: [`Reader::resolve`] sees to that.
    fn of(schema: &'a Value) -> Self {
        if let Some(variants) = schema.get("oneOf").and_then(Value::as_array) {
            return Shape::Choice(variants.iter().flat_map(choices).collect());
        }
        if schema.get("enum").is_some() || schema.get("const").is_some() {
            return Shape::Choice(choices(schema));
        }
        let length = schema.get("maxItems").and_then(Value::as_u64);
        match (type_of(schema), schema.get("items")) {
            ("array", Some(item)) if length.is_some() && length == minimum_length(schema) => {
                // A Rust array; serde writes it as it writes a tuple.
                Shape::Tuple((0..length.unwrap_or(0)).map(|_| item).collect())
            }
            ("array", Some(item)) => Shape::List(item),
            ("array", None) => {
                let items = schema.get("prefixItems").and_then(Value::as_array);
                Shape::Tuple(items.into_iter().flatten().collect())
            }
            ("object", _) => match schema.get("additionalProperties") {
                Some(value @ Value::Object(_)) => Shape::Map(value),
                _ => Shape::Struct,
            },
            (plain, _) => Shape::Plain(plain),
        }
    }
}

fn minimum_length(schema: &Value) -> Option<u64> {
    schema.get("minItems").and_then(Value::as_u64)
}

/// The JSON type; of a nullable one, the other type.
fn type_of(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::String(name)) => name,
        Some(Value::Array(names)) => names
            .iter()
            .filter_map(Value::as_str)
            .find(|&name| name != "null")
            .unwrap_or("null"),
        _ => "",
    }
}

/// The variants that one entry of `oneOf` stands for: those without description share one.
fn choices(schema: &Value) -> Vec<Choice<'_>> {
    let unit = |name| Choice {
        name,
        body: None,
        doc: doc(schema),
    };
    if let Some(name) = schema.get("const").and_then(Value::as_str) {
        return vec![unit(name)];
    }
    if let Some(names) = schema.get("enum").and_then(Value::as_array) {
        let names = names.iter().filter_map(Value::as_str);
        return names.map(unit).collect();
    }
    properties(schema)
        .into_iter()
        .flatten()
        .map(|(name, body)| Choice {
            name,
            body: Some(body),
            doc: doc(schema),
        })
        .collect()
}

fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties").and_then(Value::as_object)
}

fn is_nullable(schema: &Value) -> bool {
    let names = schema.get("type").and_then(Value::as_array);
    let variants = schema.get("anyOf").and_then(Value::as_array);
    names.is_some_and(|names| names.iter().any(|name| name == "null"))
        || variants.is_some_and(|variants| variants.iter().any(|v| type_of(v) == "null"))
}

/// The fields of a struct, those that must be given first.
fn fields(schema: &Value) -> Vec<Field<'_>> {
    let required = schema.get("required").and_then(Value::as_array);
    let mut fields: Vec<Field> = properties(schema)
        .into_iter()
        .flatten()
        .map(|(name, schema)| Field {
            name,
            required: required.is_some_and(|required| required.iter().any(|r| r == name)),
            schema,
        })
        .collect();
    fields.sort_by_key(|field| !field.required);
    fields
}

/// The description of a field or a type, as paragraphs without line breaks of their own.
fn doc(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str);
    let paragraphs: Vec<String> = text
        .unwrap_or("")
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    paragraphs.join("\n")
}

/// Reads a kind's schema.
struct Reader<'a> {
    root: &'a Value,
}

impl<'a> Reader<'a> {
    /// What a `$ref` stands for and what may be null, if so.
    fn resolve(&self, mut schema: &'a Value) -> &'a Value {
        loop {
            let next = if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
                let pointer = reference.trim_start_matches('#');
                self.root.pointer(pointer)
            } else {
                let variants = schema.get("anyOf").and_then(Value::as_array);
                variants.and_then(|variants| variants.iter().find(|v| type_of(v) != "null"))
            };
            match next {
                Some(next) => schema = next,
                None => return schema,
            }
        }
    }

    fn is_input(&self, schema: &'a Value) -> bool {
        let format = self.resolve(schema).get("format");
        format.is_some_and(|format| format == "input")
    }

    /// A type, as short as can be.
    fn in_words(&self, schema: &'a Value) -> String {
        let words = self.in_words_if_some(self.resolve(schema));
        if is_nullable(schema) {
            format!("{words} or None")
        } else {
            words
        }
    }

    fn in_words_if_some(&self, schema: &'a Value) -> String {
        match Shape::of(schema) {
            Shape::Choice(choices) => {
                let words: Vec<String> = choices
                    .iter()
                    .map(|choice| self.choice_in_words(choice))
                    .collect();
                match &words[..] {
                    [only] => only.clone(),
                    _ => format!("one of: {}", words.join(", ")),
                }
            }
            Shape::Struct | Shape::Tuple(_) => self.body_in_words(schema),
            Shape::List(item) => match self.in_words(item) {
                plain if matches!(&plain[..], "integer" | "number" | "text") => {
                    format!("list of {plain}s")
                }
                words => format!("list of {words}"),
            },
            Shape::Map(value) => format!("{{text: {}}}", self.in_words(value)),
            Shape::Plain(name @ ("integer" | "number")) => bounded(name, schema),
            Shape::Plain("boolean") => "true or false".to_owned(),
            Shape::Plain("string") if is_character(schema) => "character".to_owned(),
            Shape::Plain("string") => "text".to_owned(),
            Shape::Plain("null") => "()".to_owned(),
            Shape::Plain("") => "any value".to_owned(),
            Shape::Plain(other) => other.to_owned(),
        }
    }

    fn choice_in_words(&self, choice: &Choice<'a>) -> String {
        match choice.body {
            None => choice.name.to_owned(),
            Some(body) => format!("{}{}", choice.name, self.body_in_words(self.resolve(body))),
        }
    }

    /// What stands behind a variant's name: always in parentheses.
    fn body_in_words(&self, schema: &'a Value) -> String {
        let parts: Vec<String> = match Shape::of(schema) {
            Shape::Struct => {
                let fields = fields(schema).into_iter();
                fields.map(|field| field.name.to_owned()).collect()
            }
            Shape::Tuple(items) => items.into_iter().map(|item| self.in_words(item)).collect(),
            Shape::Plain("null") => Vec::new(),
            _ => vec![self.in_words(schema)],
        };
        format!("({})", parts.join(", "))
    }

    /// A value as RON writes it.
    fn ron(&self, schema: &'a Value, value: &Value) -> String {
        let schema = self.resolve(schema);
        match (Shape::of(schema), value) {
            (Shape::Plain("null"), Value::Null) => "()".to_owned(),
            (_, Value::Null) => "None".to_owned(),
            (Shape::Choice(_), Value::String(name)) => name.clone(),
            (Shape::Choice(choices), Value::Object(map)) => map
                .iter()
                .map(|(name, value)| {
                    let choice = choices.iter().find(|choice| choice.name == name);
                    let body = choice.and_then(|choice| choice.body);
                    let body = body.map_or_else(|| value.to_string(), |body| self.ron(body, value));
                    // A struct and a tuple bring their parentheses.
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
                let parts: Vec<String> = parts.map(|(item, value)| self.ron(item, value)).collect();
                format!("({})", parts.join(", "))
            }
            (Shape::List(item), Value::Array(values)) => {
                let parts: Vec<String> = values.iter().map(|value| self.ron(item, value)).collect();
                format!("[{}]", parts.join(", "))
            }
            (Shape::Struct, Value::Object(map)) => {
                // In the order of the fields, not of the map.
                let parts: Vec<String> = fields(schema)
                    .iter()
                    .filter_map(|field| {
                        let value = self.ron(field.schema, map.get(field.name)?);
                        Some(format!("{}: {value}", field.name))
                    })
                    .collect();
                format!("({})", parts.join(", "))
            }
            (Shape::Map(item), Value::Object(map)) => {
                let parts: Vec<String> = map
                    .iter()
                    .map(|(key, value)| format!("{key:?}: {}", self.ron(item, value)))
                    .collect();
                format!("{{{}}}", parts.join(", "))
            }
            // Numbers, booleans and text are the same in both languages.
            _ => value.to_string(),
        }
    }

    /// Adds the sections that explain `schema`, the type of the field `path`.
    fn collect(&self, schema: &'a Value, path: &str, sections: &mut Vec<Section<'a>>) {
        let schema = self.resolve(schema);
        match Shape::of(schema) {
            Shape::Choice(choices) => {
                let explained = choices.iter().any(|choice| !choice.doc.is_empty());
                let new = !explained || self.is_new(schema, None, path, sections);
                for choice in choices {
                    let Some(body) = choice.body.map(|body| self.resolve(body)) else {
                        continue;
                    };
                    if let Shape::Struct = Shape::of(body) {
                        self.collect_fields(body, Some(choice.name), path, sections);
                    } else if new {
                        self.collect(body, path, sections);
                    }
                }
            }
            Shape::Struct => self.collect_fields(schema, None, path, sections),
            Shape::Tuple(items) => {
                for item in items {
                    self.collect(item, path, sections);
                }
            }
            Shape::List(item) | Shape::Map(item) => self.collect(item, path, sections),
            Shape::Plain(_) => {}
        }
    }

    fn collect_fields(
        &self,
        schema: &'a Value,
        choice: Option<&'a str>,
        path: &str,
        sections: &mut Vec<Section<'a>>,
    ) {
        if self.is_new(schema, choice, path, sections) {
            for field in fields(schema) {
                self.collect(field.schema, &format!("{path}.{}", field.name), sections);
            }
        }
    }

    /// Adds a section, unless another field has brought it; then adds the field to it. True if
    /// it is new: then what it leads to must be looked at.
    fn is_new(
        &self,
        schema: &'a Value,
        choice: Option<&'a str>,
        path: &str,
        sections: &mut Vec<Section<'a>>,
    ) -> bool {
        let told = sections
            .iter_mut()
            .find(|section| std::ptr::eq(section.schema, schema) && section.choice == choice);
        match told {
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
}

fn is_character(schema: &Value) -> bool {
    schema.get("maxLength").and_then(Value::as_u64) == Some(1)
}

/// A type of number with its bounds, but those of its machine type.
fn bounded(name: &str, schema: &Value) -> String {
    let (lowest, highest) = match schema.get("format").and_then(Value::as_str).unwrap_or("") {
        "int8" => (Some(-128.0), Some(127.0)),
        "int16" => (Some(-32_768.0), Some(32_767.0)),
        "uint8" => (Some(0.0), Some(255.0)),
        "uint16" => (Some(0.0), Some(65_535.0)),
        format if format.starts_with("uint") => (Some(0.0), None),
        _ => (None, None),
    };
    let bound = |key, known: Option<f64>| {
        let bound = schema.get(key)?;
        (bound.as_f64() != known).then_some(bound)
    };
    match (bound("minimum", lowest), bound("maximum", highest)) {
        (Some(least), Some(most)) => format!("{name} from {least} to {most}"),
        (Some(least), None) => format!("{name}, at least {least}"),
        (None, Some(most)) => format!("{name}, at most {most}"),
        (None, None) => name.to_owned(),
    }
}

/// One line, under the header.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A table as wide as its text, at most `width`; the last columns are wrapped.
fn write_table(
    header: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
    width: u16,
    out: &mut dyn Write,
) -> Result<()> {
    let mut table = Table::new();
    table
        .load_style(STYLE)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width)
        .set_header(header)
        .add_rows(rows);
    // Only the first column, the names, and the last, the sentences, may take all they need.
    let between = 1..header.len().saturating_sub(1);
    for column in between {
        if let Some(column) = table.column_mut(column) {
            column.set_constraint(ColumnConstraint::UpperBoundary(Width::Percentage(26)));
        }
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// The text in lines of at most `width` characters, if its words allow it.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

/// A node as it would stand in a recipe: on one line, or one line for each field.
fn broken_at_commas(example: &str, width: usize) -> Vec<String> {
    let inner = example
        .strip_suffix(')')
        .and_then(|example| example.split_once('('));
    let Some((name, fields)) = inner.filter(|_| example.chars().count() > width) else {
        return vec![example.to_owned()];
    };
    let mut lines = vec![format!("{name}(")];
    let (mut depth, mut quoted, mut start) = (0, false, 0);
    for (at, c) in fields.char_indices() {
        match c {
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                lines.push(format!("    {},", fields[start..at].trim()));
                start = at + 1;
            }
            _ => {}
        }
    }
    let last = fields[start..].trim();
    if !last.is_empty() {
        lines.push(format!("    {last},"));
    }
    lines.push(")".to_owned());
    lines
}
