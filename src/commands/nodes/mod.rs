//! `rsflow nodes`: the kinds of node, their ports and parameters.
//!
//! Everything comes from the catalogue: types, defaults and descriptions from the JSON schema of
//! the parameters.

mod json;
mod schema;

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use comfy_table::{ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle, Width};
use rsflow_graph::schema::{Field, Reader, Shape, doc, fields};
use rsflow_graph::{Catalogue, Kind, Port, did_you_mean};
use textwrap::WordSplitter;

use super::usage::Usage;
use crate::files::write_json;
use schema::{Section, collect, ron};

/// Lists all kinds, or describes one.
pub fn run(catalogue: Catalogue, kind: Option<&str>, out: &mut dyn Write) -> Result<ExitCode> {
    let width = width();
    match kind {
        None => list(catalogue, width, out)?,
        Some(name) => describe(find(catalogue, name)?, width, out)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the JSON schema of recipes, or of one kind's fields.
pub fn json(catalogue: Catalogue, kind: Option<&str>, out: &mut dyn Write) -> Result<ExitCode> {
    let schema = match kind {
        None => json::recipe(catalogue),
        Some(name) => json::one(find(catalogue, name)?),
    };
    write_json(Path::new("-"), &schema, out)?;
    Ok(ExitCode::SUCCESS)
}

fn find(catalogue: Catalogue, name: &str) -> Result<&'static Kind> {
    let kind = catalogue.find(name).ok_or_else(|| {
        let help = value_of(catalogue, name)
            .or_else(|| did_you_mean(name, catalogue.names()))
            .unwrap_or_else(|| "`rsflow nodes` lists them all".to_owned());
        Usage(format!("there is no kind of node named `{name}`: {help}"))
    })?;
    Ok(kind)
}

/// The kind that has a value of this name in one of its fields.
fn value_of(catalogue: Catalogue, name: &str) -> Option<String> {
    let is_value = |kind: &&Kind| {
        let schema = (kind.parameters)().to_value();
        let definitions = schema["$defs"].as_object().into_iter();
        let shapes = definitions.flat_map(|all| all.values()).map(Shape::of);
        let mut choices = shapes.filter_map(|shape| match shape {
            Shape::Choice(choices) => Some(choices),
            _ => None,
        });
        choices.any(|choices| choices.iter().any(|choice| choice.name == name))
    };
    let kind = catalogue.0.iter().find(is_value)?;
    Some(format!(
        "it is a value in the fields of `{0}`: `rsflow nodes {0}`",
        kind.name
    ))
}

/// The terminal's width, from 60 to 120 columns; 100 where there is no terminal.
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
    writeln!(
        out,
        "\nRun `rsflow nodes KIND` for its ports and parameters."
    )?;
    Ok(())
}

fn describe(kind: &Kind, width: u16, out: &mut dyn Write) -> Result<()> {
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
    let mut sections = Vec::new();
    for field in &parameters {
        collect(&reader, field.schema, field.name, &mut sections);
    }
    if !parameters.is_empty() {
        writeln!(out, "\nParameters")?;
        write_fields(&reader, &parameters, &sections, width, out)?;
    }
    for section in &sections {
        write_section(&reader, section, width, out)?;
    }
    Ok(())
}

fn write_section(
    reader: &Reader,
    section: &Section,
    width: u16,
    out: &mut dyn Write,
) -> Result<()> {
    let names = section.fields.join(", ");
    match section.choice {
        None => writeln!(out, "\n{names}")?,
        Some(choice) => writeln!(out, "\n{names}: {choice}")?,
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
        _ => write_fields(reader, &fields(section.schema), &[], width, out),
    }
}

/// `sections` are those below, to which fields with fields of their own refer.
fn write_fields(
    reader: &Reader,
    fields: &[Field],
    sections: &[Section],
    width: u16,
    out: &mut dyn Write,
) -> Result<()> {
    let has_section = |name: &str| {
        sections.iter().any(|section| {
            let is_struct = matches!(Shape::of(section.schema), Shape::Struct);
            is_struct && section.fields.iter().any(|field| field == name)
        })
    };
    let rows = fields.iter().map(|field| {
        let default = match field.schema.get("default") {
            Some(default) => ron(reader, field.schema, default),
            None if field.required => "required".to_owned(),
            None => "optional".to_owned(),
        };
        vec![
            field.name.to_owned(),
            reader.in_words(field.schema),
            default,
            match has_section(field.name) {
                true => format!(
                    "{} Its fields: below, at `{}`.",
                    doc(field.schema),
                    field.name
                ),
                false => doc(field.schema),
            },
        ]
    });
    write_table(&["name", "type", "default", "meaning"], rows, width, out)
}

/// One horizontal line, below the header.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// Writes a table as wide as its text, at most `width`; long cells are wrapped.
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
    // The first column has the names and the last the sentences: the columns between make room.
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

/// The text in lines of at most `width` characters; words stay whole, hyphens included.
fn wrapped(text: &str, width: usize) -> Vec<Cow<'_, str>> {
    let options = textwrap::Options::new(width)
        .break_words(false)
        .word_splitter(WordSplitter::NoHyphenation);
    textwrap::wrap(text, options)
}

/// A node as in a recipe: on one line, or with a line for each field where that is too long.
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
