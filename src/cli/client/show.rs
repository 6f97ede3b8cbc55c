//! Answers as text: a table for people, or JSON and YAML for programs. Pure text: asks nobody.

use std::time::Duration;

use serde_json::Value;

use super::super::exit::{Exit, Failure};
use super::super::table::{self, BOLD, Cell, DIM, GREEN, RED, YELLOW};

/// How an answer looks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, clap::ValueEnum)]
pub(crate) enum Format {
    /// A table for people
    #[default]
    Table,
    /// The same with more columns, and cut at no width
    Wide,
    /// The whole answer as the agent gave it, indented
    Json,
    /// One JSON object a line for each row
    Jsonl,
    /// The whole answer as YAML
    Yaml,
}

/// A column of a table.
pub(super) struct Column {
    pub(super) head: &'static str,
    pub(super) is_wide: bool,
    pub(super) cell: fn(&Value) -> Cell,
}

/// A column of every table.
pub(super) const fn column(head: &'static str, cell: fn(&Value) -> Cell) -> Column {
    Column { head, is_wide: false, cell }
}

/// A column of wide tables only.
pub(super) const fn wide(head: &'static str, cell: fn(&Value) -> Cell) -> Column {
    Column { head, is_wide: true, cell }
}

/// What is shown: the whole answer, and its rows.
pub(super) struct Sheet<'a> {
    pub(super) whole: &'a Value,
    pub(super) rows: Vec<&'a Value>,
    pub(super) columns: &'static [Column],
    /// Told instead of a table without rows.
    pub(super) nothing: &'static str,
    /// A line for people above the table.
    pub(super) notice: Option<String>,
}

impl Sheet<'_> {
    /// The text, for a terminal of `width` columns with or without colours.
    ///
    /// # Errors
    /// It cannot be written as YAML.
    pub(super) fn text(&self, format: Format, width: usize, is_coloured: bool) -> Result<String, Failure> {
        match format {
            Format::Table => Ok(self.table(false, width, is_coloured)),
            Format::Wide => Ok(self.table(true, usize::MAX, is_coloured)),
            Format::Json => Ok(format!("{:#}\n", self.whole)),
            Format::Jsonl => Ok(self.rows.iter().map(|row| format!("{row}\n")).collect()),
            Format::Yaml => yaml_serde::to_string(self.whole)
                .map_err(|error| Failure::new(Exit::Failed, format!("the answer cannot be YAML: {error}"))),
        }
    }

    fn table(&self, is_wide: bool, width: usize, is_coloured: bool) -> String {
        let columns: Vec<&Column> = self.columns.iter().filter(|column| is_wide || !column.is_wide).collect();
        let rows: Vec<Vec<Cell>> =
            self.rows.iter().map(|row| columns.iter().map(|column| (column.cell)(row)).collect()).collect();
        let heads: Vec<&str> = columns.iter().map(|column| column.head).collect();
        let mut lines: Vec<String> = self.notice.iter().map(|notice| format!("{YELLOW}{notice}\x1b[0m")).collect();
        if rows.is_empty() {
            lines.push(self.nothing.to_owned());
        } else {
            lines.extend(table::table(&heads, &rows, width));
        }
        let text = lines.join("\n") + "\n";
        if is_coloured { text } else { anstream::adapter::strip_str(&text).to_string() }
    }
}

/// The text at a path of fields; empty if there is none.
pub(super) fn text(value: &Value, path: &str) -> String {
    match value.pointer(path) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(all)) => all.iter().map(|one| text(one, "")).collect::<Vec<_>>().join(","),
        Some(other) => other.to_string(),
    }
}

pub(super) fn plain(value: &Value, path: &str) -> Cell {
    (text(value, path), "")
}

pub(super) fn bold(value: &Value, path: &str) -> Cell {
    (text(value, path), BOLD)
}

pub(super) fn dim(value: &Value, path: &str) -> Cell {
    (text(value, path), DIM)
}

/// A state of a member, or a status, in its colour.
pub(super) fn state(value: &Value, path: &str) -> Cell {
    let text = text(value, path);
    let style = match text.as_str() {
        "reachable" | "passing" | "ready" | "ok" | "healthy" => GREEN,
        "suspect" | "starting" | "warning" | "draining" | "joining" | "maintenance" | "warn" => YELLOW,
        "left" | "info" | "skipped" => DIM,
        "" => "",
        _ => RED,
    };
    (text, style)
}

/// Milliseconds as an age for people.
pub(super) fn age(value: &Value, path: &str) -> Cell {
    let age = value.pointer(path).and_then(Value::as_u64);
    (age.map(|millis| table::age_text(Duration::from_millis(millis))).unwrap_or_default(), "")
}

/// Microseconds as milliseconds for people.
pub(super) fn micros(value: &Value, path: &str) -> Cell {
    let micros = value.pointer(path).and_then(Value::as_u64);
    (micros.map(|micros| format!("{:.2} ms", micros as f64 / 1e3)).unwrap_or_default(), "")
}

/// `HOST:PORT`.
pub(super) fn endpoint(value: &Value, path: &str) -> Cell {
    let Some(endpoint) = value.pointer(path) else { return (String::new(), "") };
    let (host, port) = (text(endpoint, "/host"), text(endpoint, "/port"));
    (if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }, "")
}

/// The elements of an array.
pub(super) fn rows<'a>(value: &'a Value, path: &str) -> Vec<&'a Value> {
    value.pointer(path).and_then(Value::as_array).map(|rows| rows.iter().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COLUMNS: &[Column] = &[
        column("MEMBER", |row| bold(row, "/member")),
        column("STATE", |row| state(row, "/state")),
        column("HEARD", |row| age(row, "/evidence_ms")),
        wide("ID", |row| dim(row, "/member_id")),
    ];

    fn shown(format: Format, is_coloured: bool) -> String {
        let whole = json!({"members": [
            {"member": "a", "state": "reachable", "member_id": "01"},
            {"member": "b\u{1b}[2J", "state": "down", "evidence_ms": 1_500, "member_id": "02"},
        ]});
        let rows = rows(&whole, "/members");
        let sheet = Sheet { whole: &whole, rows, columns: COLUMNS, nothing: "nobody", notice: None };
        sheet.text(format, 80, is_coloured).expect("it can be written")
    }

    #[test]
    fn one_answer_is_a_table_json_lines_and_yaml() {
        let table = "MEMBER  STATE      HEARD\na       reachable  \nb\u{fffd}[2J   down       1.5 s\n";
        assert_eq!(shown(Format::Table, false), table);
        assert!(shown(Format::Table, true).contains("\x1b[31mdown\x1b[0m"));
        assert!(shown(Format::Wide, false).starts_with("MEMBER  STATE      HEARD  ID"));
        let json: Value = serde_json::from_str(&shown(Format::Json, false)).expect("it is JSON");
        assert_eq!(json["members"][1]["evidence_ms"], 1_500);
        let lines: Vec<Value> =
            shown(Format::Jsonl, false).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!((lines.len(), &lines[0]["member"]), (2, &json!("a")));
        let yaml: Value = yaml_serde::from_str(&shown(Format::Yaml, false)).expect("it is YAML");
        assert_eq!(yaml, json);
    }

    #[test]
    fn a_table_without_rows_says_what_there_is_none_of() {
        let whole = json!({});
        let sheet = Sheet { whole: &whole, rows: Vec::new(), columns: COLUMNS, nothing: "nobody", notice: None };
        assert_eq!(sheet.text(Format::Table, 80, false).expect("text"), "nobody\n");
        assert_eq!(sheet.text(Format::Jsonl, 80, false).expect("text"), "");
    }
}
