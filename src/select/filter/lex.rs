//! A filter's words. Knows no grammar.

use std::borrow::Cow;

use super::FilterError;

/// A word of a filter, and where it stands in bytes.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Token<'a> {
    pub(super) kind: TokenKind<'a>,
    pub(super) start: usize,
    pub(super) end: usize,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum TokenKind<'a> {
    /// Letters, digits and what stands in names and numbers.
    Word(&'a str),
    /// A quoted text, without its quotes and escapes.
    Text(Cow<'a, str>),
    /// One of `( ) [ ] .`, `==`, `!=`, or something else that means nothing.
    Mark(&'a str),
    End,
}

/// The column of a byte: characters, from 1.
pub(super) fn column(text: &str, byte: usize) -> usize {
    text[..byte].chars().count() + 1
}

/// The word at or after the byte `at`.
pub(super) fn next(text: &str, at: usize) -> Result<Token<'_>, FilterError> {
    let start = at + text[at..].len() - text[at..].trim_start().len();
    let rest = &text[start..];
    let Some(first) = rest.chars().next() else {
        return Ok(Token { kind: TokenKind::End, start, end: start });
    };
    let (kind, len) = match first {
        '"' => quoted(text, start)?,
        '`' => match rest[1..].find('`') {
            Some(len) => (TokenKind::Text(Cow::Borrowed(&rest[1..=len])), len + 2),
            None => return Err(FilterError::Text { column: column(text, start), what: "a ` that is not closed" }),
        },
        c if is_word(c) => {
            let len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            (TokenKind::Word(&rest[..len]), len)
        }
        '=' | '!' if rest[1..].starts_with('=') => (TokenKind::Mark(&rest[..2]), 2),
        c => (TokenKind::Mark(&rest[..c.len_utf8()]), c.len_utf8()),
    };
    Ok(Token { kind, start, end: start + len })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | ':' | '+' | '@' | '%')
}

/// A text in double quotes, with the escapes that Go has and people use.
fn quoted(text: &str, start: usize) -> Result<(TokenKind<'_>, usize), FilterError> {
    let inside = &text[start + 1..];
    let end = inside.find(['"', '\\']);
    if let Some(end) = end.filter(|&end| inside[end..].starts_with('"')) {
        return Ok((TokenKind::Text(Cow::Borrowed(&inside[..end])), end + 2));
    }
    let mut plain = String::new();
    let mut chars = inside.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((TokenKind::Text(Cow::Owned(plain)), at + 2)),
            '\\' => plain.push(match chars.next().map(|(_, escaped)| escaped) {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some(c @ ('"' | '\\')) => c,
                _ => {
                    let what = "an escape that means nothing; there are \\\" \\\\ \\n \\r \\t";
                    return Err(FilterError::Text { column: column(text, start + 1 + at), what });
                }
            }),
            c => plain.push(c),
        }
    }
    Err(FilterError::Text { column: column(text, start), what: "a \" that is not closed" })
}
