//! What is written in a recipe out of habit: as in Python, JSON, YAML or a word processor.

use std::ops::Range;

use super::number::{float, integer, is_number, result, without_suffix};
use super::read::SETTINGS;
use crate::fields::Token;
use crate::node::Catalogue;
use crate::problem::Problem;
use crate::schema::{Reader, Shape as Type, properties};

type Tokens = [(Token, Range<usize>)];

/// Characters that are no part of RON outside of strings, and single quotes. The first one up to `stop`.
pub(super) fn foreign_character(text: &str, tokens: &Tokens, stop: usize) -> Option<Problem> {
    let mut found = tokens.iter().enumerate();
    found.find_map(|(index, (token, span))| {
        if span.start > stop {
            return None;
        }
        match token {
            Token::Quoted { closed: true } => single_quotes(text, span),
            Token::Mark(mark) => foreign_mark(text, tokens, index, *mark),
            _ => None,
        }
    })
}

/// A string in single quotes, which are for characters.
fn single_quotes(text: &str, span: &Range<usize>) -> Option<Problem> {
    let inner = text[span.clone()].strip_prefix('\'')?.strip_suffix('\'')?;
    let is_character = inner.chars().count() == 1 || inner.starts_with('\\');
    if is_character || inner.contains(['"', '\n']) {
        return None;
    }
    let problem = Problem::new("a string must be in double quotes", span.clone());
    Some(problem.help(format!("write `\"{inner}\"`")))
}

fn foreign_mark(text: &str, tokens: &Tokens, index: usize, mark: char) -> Option<Problem> {
    let span = tokens[index].1.clone();
    let word = |index: Option<usize>| {
        let (token, span) = tokens.get(index?)?;
        (*token == Token::Word).then_some(&text[span.clone()])
    };
    let before = word(index.checked_sub(1));
    let after = word(Some(index + 1));
    let next = tokens.get(index + 1).map(|(token, _)| *token);
    let (message, help) = match mark {
        // `#![enable(...)]` is an attribute.
        '#' if next == Some(Token::Mark('!')) => return None,
        '#' => (
            "a comment begins with `//`",
            "write `//` in place of `#`".to_owned(),
        ),
        '=' => {
            let field = before.unwrap_or("FIELD");
            (
                "a field and its value are joined by `:`",
                format!("write `{field}: {}`", after.unwrap_or("...")),
            )
        }
        ';' => ("unexpected `;`", "write `,`".to_owned()),
        '\u{201c}' | '\u{201d}' | '\u{201e}' | '\u{201f}' | '\u{2018}' | '\u{2019}' | '\u{ab}'
        | '\u{bb}' => (
            "a typographic quote does not begin or end a string",
            format!("write `\"` in place of `{mark}`"),
        ),
        '\u{2212}' | '\u{2012}' | '\u{2013}' | '\u{2014}' => (
            "a typographic minus or dash is not a minus sign",
            format!("write `-` in place of `{mark}`"),
        ),
        '%' => {
            let share = before.and_then(|word| word.parse::<f64>().ok());
            let share =
                share.map_or_else(|| "0.5".to_owned(), |share| format!("{}", share / 100.0));
            (
                "a share is written as a number from 0 to 1",
                format!("write `{share}`"),
            )
        }
        '~' if index.checked_sub(1).map(|at| tokens[at].0) == Some(Token::Mark(':')) => {
            match next {
                // YAML's word for nothing.
                None | Some(Token::Mark(',' | ')' | '}')) => (
                    "`~` is not a value",
                    "write `None`, or leave the field out".to_owned(),
                ),
                _ => (
                    "a path is a string",
                    "write it in quotes: `\"~/...\"`".to_owned(),
                ),
            }
        }
        '$' if next == Some(Token::Mark('{')) => {
            let name = word(Some(index + 2)).unwrap_or("name");
            (
                "a name in `let` is used without braces",
                format!("write `${name}`"),
            )
        }
        _ => return None,
    };
    Some(Problem::new(message, span).help(help))
}

/// Names and values of forms that RON does not have, up to `stop`: `weight-decay:`, `2seed:`, `lr: 0,1`,
/// `lr: 1/100`, `sizes: 64, 48`, `"epochs": 2`, `ResNet{...}`, `2 * $size`, nodes without `nodes: {...}`.
pub(super) fn foreign_form(
    text: &str,
    tokens: &Tokens,
    stop: usize,
    catalogue: Catalogue,
) -> Option<Problem> {
    let mut open: Vec<usize> = Vec::new();
    for (index, (token, span)) in tokens.iter().enumerate() {
        if span.start > stop {
            return None;
        }
        match token {
            Token::Mark('(' | '[' | '{') => open.push(index),
            Token::Mark(')' | ']' | '}') => drop(open.pop()),
            _ => {}
        }
        let around = Around {
            text,
            tokens,
            index,
            open: open.last().copied(),
            catalogue,
        };
        let found = around.name().or_else(|| around.numbers());
        if let Some(problem) = found.or_else(|| around.value()) {
            return Some(problem);
        }
    }
    None
}

/// A token with those around it.
struct Around<'a> {
    text: &'a str,
    tokens: &'a Tokens,
    index: usize,
    /// The bracket that it is in.
    open: Option<usize>,
    catalogue: Catalogue,
}

impl Around<'_> {
    fn mark(&self, ahead: usize, mark: char) -> bool {
        self.token(self.index + ahead) == Some(Token::Mark(mark))
    }

    fn token(&self, index: usize) -> Option<Token> {
        self.tokens.get(index).map(|(token, _)| *token)
    }

    fn word(&self, index: usize) -> &str {
        let span = self.tokens.get(index).map(|(_, span)| span.clone());
        span.map_or("", |span| &self.text[span])
    }

    /// In place of a field's name in parentheses.
    fn name(&self) -> Option<Problem> {
        let before = self.token(self.index.checked_sub(1)?);
        let begins = matches!(before, Some(Token::Mark('(' | ',' | '{' | '[')));
        if !begins || !self.mark(1, ':') {
            return None;
        }
        let word = self.word(self.index);
        let span = self.tokens[self.index].1.clone();
        let open = self.token(self.open?);
        match self.token(self.index)? {
            Token::Word
                if word.starts_with(|c: char| c.is_ascii_digit()) && integer(word).is_none() =>
            {
                let problem = Problem::new(format!("`{word}` cannot be a name"), span);
                Some(problem.label("it begins with a digit"))
            }
            Token::Word if word.contains(['-', '.']) && !is_number(word) => {
                let problem = Problem::new(format!("`{word}` cannot be a field's name"), span);
                let meant = word.replace(['-', '.'], "_");
                Some(problem.help(format!("write `{meant}`")))
            }
            Token::Quoted { closed: true } if open == Some(Token::Mark('(')) => {
                self.in_braces().or_else(|| Some(self.quoted_name(span)))
            }
            Token::Quoted { closed: true } if open == Some(Token::Mark('[')) => self.in_braces(),
            _ => None,
        }
    }

    /// Names of `nodes` or `let` that are not in braces.
    fn in_braces(&self) -> Option<Problem> {
        let open = self.open?;
        let field = self.word(open.checked_sub(2)?);
        let is_value = self.token(open - 1) == Some(Token::Mark(':'));
        (is_value && matches!(field, "nodes" | "let")).then(|| {
            let span = self.tokens[open].1.clone();
            let problem = Problem::new(format!("`{field}` must be in braces"), span);
            problem.help(format!("write `{field}: {{...}}`"))
        })
    }

    /// A word with something before or after it that makes it no value.
    fn value(&self) -> Option<Problem> {
        let of_names = self.computed().or_else(|| self.part_of_name());
        if let Some(problem) = of_names.or_else(|| self.calculated()) {
            return Some(problem);
        }
        let (token, span) = &self.tokens[self.index];
        let word = self.word(self.index);
        let before = self.token(self.index.checked_sub(1)?);
        if *token != Token::Word || before != Some(Token::Mark(':')) {
            return None;
        }
        if let Some(written) = whole_exponent(word) {
            let message = format!("the exponent of `{word}` must be an integer");
            return Some(Problem::new(message, span.clone()).help(format!("write `{written}`")));
        }
        if let Some(number) = without_suffix(word) {
            let problem = Problem::new(format!("`{word}` is not a number"), span.clone());
            return Some(problem.help(format!("write `{number}`")));
        }
        if is_number(word) {
            return None;
        }
        if self.mark(1, '{') {
            let message = format!("the fields of `{word}` must be in parentheses");
            let problem = Problem::new(message, span.clone());
            return Some(problem.help(format!("write `{word}(FIELD: VALUE)`")));
        }
        let (_, last) = word.rsplit_once('.')?;
        let problem = Problem::new(format!("`{word}` cannot be a name"), span.clone());
        Some(problem.maybe_help((!last.is_empty()).then(|| format!("write `{last}`"))))
    }

    /// Arithmetic with a `$name`. `-` and `+` may be parts of words: `$a-1`, `2-$a`, `$a-$b`.
    fn computed(&self) -> Option<Problem> {
        let name_at = |index: usize| {
            let (name, _) = name_and_rest(self.word(index));
            let is_name = self.token(index) == Some(Token::Word) && !name.is_empty();
            is_name.then(|| (name, self.tokens[index].1.clone()))
        };
        let (_, rest) = name_and_rest(self.word(self.index));
        let is_sign = rest.starts_with(['-', '+']);
        let is_digit = |c: char| c.is_ascii_digit() || c == '.';
        let (name, span) = match rest {
            "-" | "+" | "*" | "/" => [Some(self.index), self.index.checked_sub(1)]
                .into_iter()
                .flatten()
                .find_map(name_at)
                .or_else(|| name_at(self.index + 1))?,
            _ if rest.ends_with(['-', '+']) => name_at(self.index + 1)?,
            _ if is_sign && rest[1..].starts_with(is_digit) => name_at(self.index)?,
            _ => return None,
        };
        let message = format!("recipes do not compute: `{name}` is a whole value");
        let problem = Problem::new(message, span);
        Some(problem.help("write the result, or give it a name of its own in `let`"))
    }

    /// Arithmetic with numbers: `1/100`, `10**-4`, `1-0.1`.
    fn calculated(&self) -> Option<Problem> {
        let before = self.token(self.index.checked_sub(1)?);
        let begins = matches!(before, Some(Token::Mark(':' | ',' | '(' | '[')));
        if !begins || !is_number(self.word(self.index)) {
            return None;
        }
        let is_part = |index: &usize| match self.token(*index) {
            Some(Token::Word) => is_number(self.word(*index)),
            Some(Token::Mark(mark)) => matches!(mark, '*' | '/' | '^'),
            _ => false,
        };
        let parts: Vec<usize> = (self.index..).take_while(is_part).collect();
        // `2 * $size`, or a path without its quotes: `2024/train`.
        if self.token(self.index + parts.len()) == Some(Token::Word) {
            return None;
        }
        let has_mark = parts.iter().any(|at| self.token(*at) != Some(Token::Word));
        let span = self.tokens[self.index].1.start..self.tokens[*parts.last()?].1.end;
        let result = result(&self.text[span.clone()]);
        if !has_mark && result.is_none() {
            return None;
        }
        let result = result.map_or("the result".to_owned(), |result| format!("`{result}`"));
        let problem = Problem::new("recipes do not compute", span);
        Some(problem.help(format!("write {result}")))
    }

    /// `$sizes.0`, `$weight-decay`.
    fn part_of_name(&self) -> Option<Problem> {
        let (token, span) = &self.tokens[self.index];
        let word = self.word(self.index);
        let (name, rest) = name_and_rest(word);
        if *token != Token::Word || name.len() < 2 || rest.is_empty() {
            return None;
        }
        let (message, help) = match rest.starts_with('.') {
            true => (
                format!("`{name}` is a whole value, not a part of one"),
                "give the part a name of its own in `let`".to_owned(),
            ),
            false => (
                format!("`{word}` cannot be a name in `let`"),
                format!("write `{}`", word.replace(['-', '+', '.'], "_")),
            ),
        };
        Some(Problem::new(message, span.clone()).help(help))
    }

    fn quoted_name(&self, span: Range<usize>) -> Problem {
        let open = self.open.unwrap_or(0);
        let word = self.word(self.index);
        let name = word.trim_matches(['"', '\'']);
        let is_field = name == "nodes" || name == "let" || SETTINGS.contains(&name);
        if open == 0 && !is_field {
            return Problem::new("the nodes must be in the field `nodes`", span)
                .label("a node")
                .help("a recipe is written `(nodes: {...})`");
        }
        Problem::new("a field's name must not be in quotes", span).help(format!("write `{name}`"))
    }

    /// Numbers after a colon that commas separate, in parentheses or braces.
    fn numbers(&self) -> Option<Problem> {
        if !self.mark(0, ':') {
            return None;
        }
        let is_number_at =
            |index: usize| self.token(index) == Some(Token::Word) && is_number(self.word(index));
        let first = self.index + 1;
        let mut last = first;
        while is_number_at(last + 2)
            && self.token(last + 1) == Some(Token::Mark(','))
            && self.token(last + 3) != Some(Token::Mark(':'))
        {
            last += 2;
        }
        if last == first || !is_number_at(first) {
            return None;
        }
        let span = self.tokens[first].1.start..self.tokens[last].1.end;
        let written = &self.text[span.clone()];
        let list = match written.contains(char::is_whitespace) {
            true => format!("[{written}]"),
            false => format!("[{}]", written.replace(',', ", ")),
        };
        let digits = self.word(last).chars().all(|c| c.is_ascii_digit());
        let is_pair = last == first + 2 && digits && !written.contains(char::is_whitespace);
        let decimal = written.replace(',', ".");
        let is_fraction = self.word(first).trim_start_matches('-') == "0";
        let (message, help) = match self.expected() {
            expected if !is_pair || expected == Some(Expected::List) => {
                ("a list must be in brackets", format!("write `{list}`"))
            }
            expected if is_fraction || expected == Some(Expected::Number) => (
                "a decimal point is written `.`",
                format!("write `{decimal}`"),
            ),
            _ => (
                "a list must be in brackets, and a decimal point is written `.`",
                format!("write `{list}` or `{decimal}`"),
            ),
        };
        Some(Problem::new(message, span).help(help))
    }

    /// What the field before the colon must be, if it is one of a node.
    fn expected(&self) -> Option<Expected> {
        let kind = self.catalogue.find(self.word(self.open?.checked_sub(1)?))?;
        let schema = (kind.parameters)();
        let root = schema.as_value();
        let field = properties(root)?.get(self.word(self.index.checked_sub(1)?))?;
        match Type::of(Reader { root }.resolve(field).0) {
            Type::List(_) => Some(Expected::List),
            Type::Plain("number") => Some(Expected::Number),
            _ => None,
        }
    }
}

/// `1e-2` for `1e-2.0`; `None` for what is not such a number.
fn whole_exponent(word: &str) -> Option<&str> {
    let exponent = word.find(['e', 'E']).filter(|_| is_number(word))?;
    let point = exponent + word[exponent..].find('.')?;
    float(&word[..point]).map(|_| &word[..point])
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    List,
    Number,
}

/// `$sizes` and `.0` of `$sizes.0`; a word that is no `$name` is all rest.
fn name_and_rest(word: &str) -> (&str, &str) {
    let after = word.strip_prefix('$');
    let length = after.map_or(0, |after| {
        let end = after.find(|c: char| !c.is_alphanumeric() && c != '_');
        1 + end.unwrap_or(after.len())
    });
    word.split_at(length)
}
