//! Reads a filter: one look ahead, and as deep as the limit allows.

use std::sync::Arc;

use super::lex::{Token, TokenKind, column, next};
use super::limits::{DEPTH_MAX, FILTER_BYTES_MAX, REGEXES_MAX, TERMS_MAX};
use super::term::{Operator, Term, Value, regex, write_field};
use super::{Expr, FilterError, Kind, Schema};

pub(super) fn parse(text: &str, schema: &dyn Schema) -> Result<Expr, FilterError> {
    if text.len() > FILTER_BYTES_MAX {
        return Err(FilterError::TooLong { bytes: text.len(), limit: FILTER_BYTES_MAX });
    }
    let mut parser = Parser { text, schema, token: next(text, 0)?, depth: 0, terms: 0, regexes: 0 };
    let expr = parser.or()?;
    match parser.token.kind {
        TokenKind::End => Ok(expr),
        _ => Err(parser.unexpected("\"and\", \"or\" or the end")),
    }
}

struct Parser<'a> {
    text: &'a str,
    schema: &'a dyn Schema,
    token: Token<'a>,
    depth: usize,
    terms: usize,
    regexes: usize,
}

/// A value as it stands there.
struct Raw {
    text: Arc<str>,
    start: usize,
}

impl<'a> Parser<'a> {
    fn or(&mut self) -> Result<Expr, FilterError> {
        let mut any = vec![self.and()?];
        while self.takes_word("or")? {
            any.push(self.and()?);
        }
        Ok(if any.len() == 1 { any.remove(0) } else { Expr::Or(any) })
    }

    fn and(&mut self) -> Result<Expr, FilterError> {
        let mut all = vec![self.not()?];
        while self.takes_word("and")? {
            all.push(self.not()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expr::And(all) })
    }

    fn not(&mut self) -> Result<Expr, FilterError> {
        let start = self.token.start;
        if self.takes_word("not")? {
            self.deeper(start)?;
            let expr = self.not()?;
            self.depth -= 1;
            return Ok(Expr::Not(Box::new(expr)));
        }
        if self.takes_mark("(")? {
            self.deeper(start)?;
            let expr = self.or()?;
            self.depth -= 1;
            return if self.takes_mark(")")? { Ok(expr) } else { Err(self.unexpected("\"and\", \"or\" or \")\"")) };
        }
        self.term().map(|term| Expr::Term(Box::new(term)))
    }

    fn deeper(&mut self, start: usize) -> Result<(), FilterError> {
        self.depth += 1;
        self.limit(start, self.depth, "parentheses and \"not\" too deep in each other", DEPTH_MAX)
    }

    fn limit(&self, at: usize, count: usize, what: &'static str, limit: usize) -> Result<(), FilterError> {
        if count <= limit {
            return Ok(());
        }
        Err(FilterError::TooMany { column: column(self.text, at), what, limit })
    }

    fn term(&mut self) -> Result<Term, FilterError> {
        self.terms += 1;
        self.limit(self.token.start, self.terms, "too many comparisons", TERMS_MAX)?;
        // Whether a word is a field or a value is told by the operator after it.
        let before = self.token.clone();
        match &self.token.kind {
            TokenKind::Word(_) => self.field().map(drop)?,
            TokenKind::Text(_) => self.advance()?,
            _ => return Err(self.unexpected("a field or a value")),
        }
        let is_negated = self.takes_word("not")?;
        if self.takes_word("in")? {
            let after = std::mem::replace(&mut self.token, before);
            let value = self.value()?;
            self.token = after;
            let start = self.token.start;
            let field = self.field()?;
            let operator = if is_negated { Operator::NotContains } else { Operator::Contains };
            return self.checked(field, start, operator, Some(value));
        }
        let start = before.start;
        let after = std::mem::replace(&mut self.token, before);
        let field = self.field()?;
        self.token = after;
        let operator = self.operator(is_negated)?;
        let value = match operator {
            Operator::IsEmpty | Operator::IsNotEmpty => None,
            _ => Some(self.value()?),
        };
        self.checked(field, start, operator, value)
    }

    fn operator(&mut self, is_negated: bool) -> Result<Operator, FilterError> {
        if self.takes_word("contains")? {
            return Ok(if is_negated { Operator::NotContains } else { Operator::Contains });
        }
        if self.takes_word("matches")? {
            return Ok(if is_negated { Operator::NotMatches } else { Operator::Matches });
        }
        if is_negated {
            return Err(self.unexpected("\"in\", \"contains\" or \"matches\""));
        }
        if self.takes_mark("==")? {
            return Ok(Operator::Equal);
        }
        if self.takes_mark("!=")? {
            return Ok(Operator::NotEqual);
        }
        if !self.takes_word("is")? {
            return Err(self.unexpected("an operator"));
        }
        let operator = if self.takes_word("not")? { Operator::IsNotEmpty } else { Operator::IsEmpty };
        if self.takes_word("empty")? { Ok(operator) } else { Err(self.unexpected("\"empty\"")) }
    }

    fn field(&mut self) -> Result<Vec<Arc<str>>, FilterError> {
        let TokenKind::Word(first) = self.token.kind else { return Err(self.unexpected("a field")) };
        let mut field = vec![Arc::from(first)];
        self.advance()?;
        loop {
            if self.takes_mark(".")? {
                let TokenKind::Word(part) = self.token.kind else { return Err(self.unexpected("a part of a field")) };
                field.push(Arc::from(part));
                self.advance()?;
            } else if self.takes_mark("[")? {
                let TokenKind::Text(part) = &self.token.kind else { return Err(self.unexpected("a quoted key")) };
                field.push(Arc::from(&**part));
                self.advance()?;
                if !self.takes_mark("]")? {
                    return Err(self.unexpected("\"]\""));
                }
            } else {
                return Ok(field);
            }
        }
    }

    /// A text, or bare words with dots between them: `1.2.0`.
    fn value(&mut self) -> Result<Raw, FilterError> {
        let start = self.token.start;
        let mut end = self.token.end;
        match &self.token.kind {
            TokenKind::Text(text) => {
                let text = Arc::from(&**text);
                self.advance()?;
                return Ok(Raw { text, start });
            }
            TokenKind::Word(_) => {}
            _ => return Err(self.unexpected("a value")),
        }
        self.advance()?;
        while self.token.start == end && self.takes_mark(".")? {
            let TokenKind::Word(_) = self.token.kind else { return Err(self.unexpected("a value")) };
            end = self.token.end;
            self.advance()?;
        }
        Ok(Raw { text: Arc::from(&self.text[start..end]), start })
    }

    fn checked(
        &mut self,
        field: Vec<Arc<str>>,
        start: usize,
        operator: Operator,
        raw: Option<Raw>,
    ) -> Result<Term, FilterError> {
        let written = || {
            let mut written = String::new();
            write_field(&mut written, &field).expect("a string takes everything");
            cut(&written)
        };
        let Some(kind) = self.schema.kind(&field) else {
            let known = self.schema.known().to_owned();
            return Err(FilterError::UnknownField { column: column(self.text, start), field: written(), known });
        };
        if !operator.takes(kind) {
            let (column, operator) = (column(self.text, start), operator.as_str());
            return Err(FilterError::Operator { column, field: written(), kind, operator });
        }
        let value = match raw {
            None => Value::None,
            Some(raw) if matches!(operator, Operator::Matches | Operator::NotMatches) => self.regex(&raw)?,
            Some(raw) => {
                let wrong = || FilterError::Value { column: column(self.text, raw.start), value: cut(&raw.text), kind };
                match kind {
                    Kind::Number => Value::Number(raw.text.parse().map_err(|_| wrong())?),
                    Kind::Bool => Value::Bool(raw.text.parse().map_err(|_| wrong())?),
                    Kind::Text | Kind::List | Kind::Map => Value::Text(raw.text),
                }
            }
        };
        Ok(Term { field: field.into(), operator, value })
    }

    fn regex(&mut self, raw: &Raw) -> Result<Value, FilterError> {
        self.regexes += 1;
        self.limit(raw.start, self.regexes, "too many regular expressions", REGEXES_MAX)?;
        let regex = regex(&raw.text)
            .map_err(|reason| FilterError::Regex { column: column(self.text, raw.start), reason: cut(&reason) })?;
        Ok(Value::Regex(Box::new(regex)))
    }

    fn advance(&mut self) -> Result<(), FilterError> {
        self.token = next(self.text, self.token.end)?;
        Ok(())
    }

    fn takes_word(&mut self, word: &str) -> Result<bool, FilterError> {
        let is_it = self.token.kind == TokenKind::Word(word);
        if is_it {
            self.advance()?;
        }
        Ok(is_it)
    }

    fn takes_mark(&mut self, mark: &str) -> Result<bool, FilterError> {
        let is_it = self.token.kind == TokenKind::Mark(mark);
        if is_it {
            self.advance()?;
        }
        Ok(is_it)
    }

    fn unexpected(&self, expected: &'static str) -> FilterError {
        let found = cut(&self.text[self.token.start..self.token.end]);
        FilterError::Unexpected { column: column(self.text, self.token.start), expected, found }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}
