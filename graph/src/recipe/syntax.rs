//! Explains texts that are not valid RON: what is missing, and where.

use std::ops::Range;

use ron::error::{Error as RonError, SpannedError};

use super::habits::{foreign_character, foreign_form};
use super::number::is_number;
use crate::fields::{self, Token};
use crate::node::Catalogue;
use crate::problem::Problem;
use crate::text::offset_of;

/// Explains a syntax error. Common mistakes are recognized from the text and the error's variant and
/// position, not from its message. `what` names the text: `the recipe`.
pub(super) fn syntax(
    text: &str,
    error: &SpannedError,
    what: &str,
    catalogue: Catalogue,
) -> Problem {
    let stop = offset_of(text, error.span.end.line, error.span.end.col);
    let tokens = fields::tokens(text);
    if tokens.is_empty() {
        let (span, help) = match what {
            "the recipe" => (0..0, "a recipe is written `(nodes: {...})`"),
            _ => (0..text.len(), "a node is written `KIND(FIELD: VALUE)`"),
        };
        return Problem::new(format!("{what} is empty"), span).help(help);
    }
    if error.code == RonError::UnclosedBlockComment {
        let last = tokens.last().map_or(0, |(_, span)| span.end);
        let start = text[last..].find("/*").map_or(last, |start| last + start);
        return Problem::new("this comment is not closed", start..start + 2)
            .label("no `*/` belongs to it");
    }
    let foreign = foreign_character(text, &tokens, stop);
    let unpaired = unpaired(text, error);
    let foreign_first = |foreign: &Problem| {
        let quote = unclosed_quote(text, &tokens, stop);
        quote.is_none_or(|quote| foreign.span.start <= quote.start)
    };
    if let Some(problem) = foreign.filter(foreign_first).or(unpaired) {
        return problem;
    }
    if let Some(problem) = foreign_form(text, &tokens, stop, catalogue) {
        return problem;
    }
    let at = tokens.partition_point(|(_, span)| span.end <= stop);
    let before = at.checked_sub(1).map(|before| &tokens[before]);
    let here = tokens.get(at);
    match (&error.code, before, here) {
        (RonError::ExpectedComma, Some((Token::Word, name)), Some((token, _)))
            if *token != Token::Mark(')') && !is_number(&text[name.clone()]) =>
        {
            Problem::new("`:` or `,` is missing", name.clone()).label("expected after this")
        }
        (RonError::ExpectedComma, Some((_, before)), _) => {
            Problem::new("a comma is missing", before.clone()).label("expected `,` after this")
        }
        (RonError::ExpectedMapColon, Some((_, before)), _) => {
            Problem::new("a colon is missing", before.clone()).label("expected `:` after this")
        }
        (RonError::ExpectedIdentifier, _, Some((_, here))) => {
            let found = &text[here.clone()];
            Problem::new(format!("unexpected `{found}`"), here.clone())
                .label("expected the name of a field")
        }
        (RonError::UnexpectedChar(_), _, Some((_, here))) => {
            let found = &text[here.clone()];
            Problem::new(format!("unexpected `{found}`"), here.clone()).label("expected a value")
        }
        (RonError::ExceededRecursionLimit, _, Some((_, here))) => {
            Problem::new("values are nested too deeply", here.clone())
                .label("values within this one cannot be read")
        }
        (RonError::InvalidEscape(_), ..) => {
            unexplained(text, stop, error).help("in a string write `/`, or `\\\\` for `\\`")
        }
        (RonError::TrailingCharacters, _, Some((_, here))) => {
            Problem::new(format!("{what} ends before this"), here.clone())
                .label("nothing may follow the last `)`")
        }
        _ => unexplained(text, stop, error),
    }
}

/// A quote or bracket that is missing, or one too many.
///
/// After a missing quote, what is inside and outside of strings is swapped, and the reader stops
/// somewhere later. The first string that does not end on its line is reported, here that of `root`:
///
/// ```text
/// root: "data,        // a string up to the next quote: `data,\n input: `
/// input: "files",     // then a word, and a string that is not closed
/// ```
pub(super) fn unpaired(text: &str, error: &SpannedError) -> Option<Problem> {
    let stop = offset_of(text, error.span.end.line, error.span.end.col);
    let tokens = fields::tokens(text);
    if let Some(span) = unclosed_quote(text, &tokens, stop) {
        let problem = Problem::new("a quote is missing", span);
        return Some(problem.label("the text that begins here does not end on this line"));
    }
    unbalanced(text, &tokens, stop)
}

/// The first line of the first string up to `stop` that does not end on its line.
fn unclosed_quote(
    text: &str,
    tokens: &[(Token, Range<usize>)],
    stop: usize,
) -> Option<Range<usize>> {
    let mut before = tokens.iter().take_while(|(_, span)| span.start <= stop);
    before.find_map(|(token, span)| {
        let Token::Quoted { closed } = token else {
            return None;
        };
        let quoted = &text[span.clone()];
        let line = quoted.lines().next().map_or(0, str::len);
        (!closed || quoted.contains('\n')).then_some(span.start..span.start + line)
    })
}

/// Brackets within each other that people write.
const NESTED: usize = 100;

/// The first bracket without a partner, if the reader stopped after it.
///
/// By brackets alone, the only `)` here closes `Batch(`, and `Recipe(` is not closed. By indentation
/// it belongs to `Recipe(`, and `Batch(` is reported:
///
/// ```text
/// Recipe(
///     a: Batch(
///         size: 1,
///     b: 2,
/// )
/// ```
///
/// So a closing bracket that is the first on its line should be as far indented as the line of its
/// partner. The first time it is not, while another open bracket fits, the innermost open bracket is
/// the suspect. Indentation only chooses what to report: a valid recipe never gets here, however it is
/// indented.
fn unbalanced(text: &str, tokens: &[(Token, Range<usize>)], stop: usize) -> Option<Problem> {
    let marks = tokens.iter().filter_map(|(token, span)| match token {
        Token::Mark(mark) => Some((*mark, span.start)),
        _ => None,
    });
    let count = |wanted: char| marks.clone().filter(|(mark, _)| *mark == wanted).count();
    let partner = |open: char| match open {
        '(' => ')',
        '[' => ']',
        _ => '}',
    };
    let line_ends: Vec<usize> = text.match_indices('\n').map(|(end, _)| end).collect();
    // The indentation of the line of `at`, and whether `at` is its first token.
    let indent = |at: usize| {
        let before = line_ends.partition_point(|&end| end < at).checked_sub(1);
        let line = &text[before.map_or(0, |before| line_ends[before] + 1)..];
        let width = line.len() - line.trim_start_matches([' ', '\t']).len();
        (width, line.len() - width == text.len() - at)
    };
    let unclosed = |(open, at): (char, usize)| {
        Problem::new(format!("this `{open}` is not closed"), at..at + 1)
            .label(format!("no `{}` belongs to it", partner(open)))
    };
    let mut open: Vec<(char, usize)> = Vec::new();
    // The innermost open bracket where indentation first does not fit, and the closing one there.
    let mut suspect = None;
    let problem = 'search: {
        for (mark, at) in marks.clone() {
            if matches!(mark, '(' | '[' | '{') {
                open.push((mark, at));
            }
            if !matches!(mark, ')' | ']' | '}') {
                continue;
            }
            let last = open.pop();
            let (width, is_first) = indent(at);
            let fits =
                |(open, at): &(char, usize)| partner(*open) == mark && indent(*at).0 == width;
            if let Some(last) = last.filter(|last| is_first && !fits(last))
                && open.iter().rev().take(NESTED).any(fits)
            {
                suspect = suspect.or(Some((last, at)));
            }
            match last {
                Some((open, _)) if partner(open) == mark => {}
                Some(last) if count(last.0) > count(partner(last.0)) => {
                    break 'search Some((last, Some(at)));
                }
                _ => {
                    let problem = Problem::new(format!("unmatched `{mark}`"), at..at + 1);
                    return (at <= stop).then_some(problem);
                }
            }
        }
        open.pop().map(|last| (last, None))
    };
    let found = problem.map(|problem| suspect.map_or(problem, |(last, at)| (last, Some(at))));
    let (last, before) = found.filter(|((_, at), _)| *at <= stop)?;
    let problem = unclosed(last);
    Some(match before {
        Some(at) => {
            let words = format!("`{}` must come before this", partner(last.0));
            problem.also(at..at + 1, words)
        }
        None => problem,
    })
}

/// The message of the RON reader, at the token where it stopped.
pub(super) fn unexplained(text: &str, stop: usize, error: &SpannedError) -> Problem {
    let tokens = fields::tokens(text);
    let at = tokens.partition_point(|(_, span)| span.end <= stop);
    let token = tokens.get(at).or(tokens.last());
    let span = token.map_or(0..0, |(_, span)| span.clone());
    let words = error.code.to_string();
    let mut characters = words.chars();
    let first = characters.next().into_iter().flat_map(char::to_lowercase);
    Problem::new(first.chain(characters).collect::<String>(), span)
}
