use std::collections::BTreeMap;

use proptest::prelude::*;

use super::limits::{DEPTH_MAX, FILTER_BYTES_MAX, REGEXES_MAX, TERMS_MAX};
use super::term::{Operator, Value};
use super::*;
use crate::select::fixture::{Fleet, instance};

fn offered() -> Offered {
    let mut fleet = Fleet::default();
    let web = instance("web-1").with_tag("a").with_tag("v1.2").with_meta("rack", "2304").with_meta("odd key", "x");
    fleet.up(1, web.with_version("2.1.0").with_port("admin", 99).with_group("vip").with_weight(10));
    fleet.service().all()[0].clone()
}

fn holds(filter: &str) -> bool {
    filter.parse::<Filter>().unwrap_or_else(|error| panic!("{filter}: {error}")).holds(&offered())
}

fn error(filter: &str) -> String {
    filter.parse::<Filter>().expect_err(filter).to_string()
}

#[test]
fn what_consul_would_take_holds_where_it_would() {
    // Each line is a filter as its users write it, and whether it holds.
    let cases = [
        (r#"service == "web""#, true),
        ("service == web", true),
        ("Service == `web`", true),
        ("service != web", false),
        (r#""a" in tags"#, true),
        ("a in Tags", true),
        ("v1.2 in tags", true),
        ("b not in tags", true),
        ("tags contains v1.2", true),
        ("tags not contains a", false),
        ("tags is empty", false),
        ("tags is not empty", true),
        (r#"Meta["odd key"] == x"#, true),
        (r#"Meta.rack == "2304""#, true),
        ("meta.rack == 2304", true),
        ("rack in meta", true),
        ("meta contains shelf", false),
        ("port == 80 and weight != 1", true),
        ("ports.admin == 99", true),
        (r#"version matches "^2\\.""#, true),
        ("version not matches `^2\\.`", false),
        ("host == 127.0.0.1", true),
        ("address contains \":80\"", true),
        ("07 in member_id", false),
        ("member_state == reachable and status == passing", true),
        // `and` binds tighter than `or`, `not` tighter than both.
        ("port == 80 or port == 1 and port == 2", true),
        ("(port == 80 or port == 1) and port == 2", false),
        ("not port == 1 and port == 80", true),
        ("not (port == 1 or port == 80)", false),
        ("not not port == 80", true),
    ];
    for (filter, expected) in cases {
        assert_eq!(holds(filter), expected, "{filter}");
    }
}

#[test]
fn what_is_absent_equals_contains_and_matches_nothing_and_is_empty() {
    for (filter, expected) in [
        ("meta.none == x", false),
        ("meta.none != x", true),
        ("x in meta.none", false),
        ("x not in meta.none", true),
        ("meta.none matches `.*`", false),
        ("meta.none not matches `.*`", true),
        ("meta.none is empty", true),
        ("meta.none is not empty", false),
        ("namespace is empty", true),
        ("ports.none == 1", false),
    ] {
        assert_eq!(holds(filter), expected, "{filter}");
    }
}

#[test]
fn an_error_says_where_and_what_would_do() {
    for (filter, expected) in [
        ("", "column 1: expected a field or a value, found the end"),
        ("port =", "column 6: expected an operator, found \"=\""),
        ("port", "column 5: expected an operator, found the end"),
        ("port ==", "column 8: expected a value, found the end"),
        ("port == 80 port", "column 12: expected \"and\", \"or\" or the end, found \"port\""),
        ("(port == 80", "column 12: expected \"and\", \"or\" or \")\", found the end"),
        ("tags is full", "column 9: expected \"empty\", found \"full\""),
        ("tags not == a", "column 10: expected \"in\", \"contains\" or \"matches\", found \"==\""),
        ("meta[rack] == 1", "column 6: expected a quoted key, found \"rack\""),
        ("meta. == 1", "column 7: expected a part of a field, found \"==\""),
        ("é == 1", "column 1: no field \"é\""),
        ("port == 80 and prot == 1", "column 16: no field \"prot\"; there are service"),
        ("port == eighty", "column 9: \"eighty\" is not a number"),
        ("tags == a", "column 1: tags is a list, which \"==\" does not take"),
        ("port matches 1", "column 1: port is a number, which \"matches\" does not take"),
        ("service == \"web", "column 12: a \" that is not closed"),
        ("service == `web", "column 12: a ` that is not closed"),
        (r#"service == "\x""#, "column 13: an escape that means nothing"),
        ("service matches `(`", "column 17: found open group without closing"),
        ("service matches `\\w{400}{400}`", "column 17: compiled regex exceeded size limit"),
    ] {
        let error = error(filter);
        assert!(error.starts_with(expected), "{filter}: {error}");
    }
}

#[test]
fn every_limit_is_met_at_its_number_and_not_before() {
    let deep = |depth| format!("{}port == 80{}", "(".repeat(depth), ")".repeat(depth));
    assert!(holds(&deep(DEPTH_MAX)));
    assert!(error(&deep(DEPTH_MAX + 1)).contains(&format!("the limit is {DEPTH_MAX}")));
    let not = |depth| format!("{}port == 80", "not ".repeat(depth));
    assert!(holds(&not(DEPTH_MAX)));
    assert!(error(&not(DEPTH_MAX + 1)).contains("too deep"));
    let long = |terms| vec!["port == 80"; terms].join(" and ");
    assert!(holds(&long(TERMS_MAX)));
    assert!(error(&long(TERMS_MAX + 1)).contains("too many comparisons"));
    let regexes = |count| vec!["id matches web"; count].join(" and ");
    assert!(holds(&regexes(REGEXES_MAX)));
    assert!(error(&regexes(REGEXES_MAX + 1)).contains("too many regular expressions"));
    let padded = |bytes: usize| format!("port == 80{}", " ".repeat(bytes - 10));
    assert!(holds(&padded(FILTER_BYTES_MAX)));
    assert!(error(&padded(FILTER_BYTES_MAX + 1)).contains("4097 bytes, the limit is 4096"));
}

/// Documents of three texts, a list and a number, under fields of one letter.
#[derive(Clone, Debug)]
struct Document {
    texts: BTreeMap<String, String>,
    list: Vec<String>,
    number: i64,
}

impl Fields for Document {
    fn field(&self, path: &[Arc<str>]) -> Field<'_> {
        match path.iter().map(|part| &**part).collect::<Vec<_>>()[..] {
            ["t", key] => self.texts.get(key).map_or(Field::Absent, |text| Field::Text(Cow::Borrowed(text))),
            ["l"] => Field::Texts(self.list.iter().map(|text| Cow::Borrowed(&**text)).collect()),
            ["n"] => Field::Number(self.number),
            _ => Field::Absent,
        }
    }
}

struct Documents;

impl Schema for Documents {
    fn kind(&self, path: &[Arc<str>]) -> Option<Kind> {
        match path.iter().map(|part| &**part).collect::<Vec<_>>()[..] {
            ["t", _] => Some(Kind::Text),
            ["l"] => Some(Kind::List),
            ["n"] => Some(Kind::Number),
            _ => None,
        }
    }

    fn known(&self) -> &str {
        "t.KEY, l, n"
    }
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]{0,2}", "[\"\\\\ \n\té.()`]{0,3}", prop::sample::select(vec!["and".to_owned(), "in".to_owned()])]
}

fn any_document() -> impl Strategy<Value = Document> {
    let texts = prop::collection::btree_map(any_text(), any_text(), 0..4);
    (texts, prop::collection::vec(any_text(), 0..4), 0..3_i64).prop_map(|(texts, list, number)| Document {
        texts,
        list,
        number,
    })
}

fn any_expr() -> impl Strategy<Value = Expr> {
    let term =
        |field: Vec<Arc<str>>, operator, value| Expr::Term(Box::new(Term { field: field.into(), operator, value }));
    let contains = prop::sample::select(vec![Operator::Contains, Operator::NotContains]);
    let equal = prop::sample::select(vec![Operator::Equal, Operator::NotEqual]);
    let empty = prop::sample::select(vec![Operator::IsEmpty, Operator::IsNotEmpty]);
    let regex = prop::sample::select(vec!["^a", "b.?", "\\s"]);
    let matches = prop::sample::select(vec![Operator::Matches, Operator::NotMatches]);
    let key = || any_text().prop_map(|key| vec![Arc::from("t"), Arc::from(key)]);
    let text = || any_text().prop_map(|text| Value::Text(text.into()));
    let terms = prop_oneof![
        (key(), equal.clone(), text()).prop_map(move |(f, o, v)| term(f, o, v)),
        (key(), contains.clone(), text()).prop_map(move |(f, o, v)| term(f, o, v)),
        (contains, text()).prop_map(move |(o, v)| term(vec!["l".into()], o, v)),
        (equal, 0..3_i64).prop_map(move |(o, n)| term(vec!["n".into()], o, Value::Number(n))),
        (prop_oneof![key(), Just(vec!["l".into()])], empty).prop_map(move |(f, o)| term(f, o, Value::None)),
        (key(), matches, regex).prop_map(move |(f, o, r)| {
            term(f, o, Value::Regex(Box::new(super::term::regex(r).expect("a regular expression"))))
        }),
    ];
    terms.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::And),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::Or),
            inner.prop_map(|expr| Expr::Not(Box::new(expr))),
        ]
    })
}

fn regexes(expr: &Expr) -> usize {
    match expr {
        Expr::And(all) | Expr::Or(all) => all.iter().map(regexes).sum(),
        Expr::Not(expr) => regexes(expr),
        Expr::Term(term) => usize::from(matches!(term.value, Value::Regex(_))),
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,80}") {
        let _ = text.parse::<Filter>();
    }

    #[test]
    fn no_words_in_any_order_make_it_panic(
        words in prop::collection::vec(prop::sample::select(vec![
            "and", "or", "not", "in", "is", "empty", "contains", "matches", "==", "!=", "(", ")", "[", "]", ".", "\"x\"",
            "`y`", "tags", "meta", "port", "80", "é", "\"", "`", "=", "\u{3000}",
        ]), 0..24),
        spaces in prop::collection::vec(any::<bool>(), 24),
    ) {
        let spaced: String = words.iter().zip(spaces).flat_map(|(word, is_spaced)| [*word, if is_spaced { " " } else { "" }]).collect();
        if let Ok(filter) = spaced.parse::<Filter>() {
            prop_assert_eq!(filter.to_string().parse::<Filter>(), Ok(filter), "{}", spaced);
        }
    }

    #[test]
    fn a_filter_that_is_written_and_read_again_says_the_same(expr in any_expr(), document in any_document()) {
        prop_assume!(regexes(&expr) <= REGEXES_MAX);
        let filter = Filter { expr: Arc::new(expr) };
        let written = filter.to_string();
        let read = Filter::parse(&written, &Documents);
        prop_assert_eq!(read.as_ref(), Ok(&filter), "{}", written);
        let negated = Filter::parse(&format!("not ({written})"), &Documents).expect("one deeper is not too deep");
        prop_assert_eq!(filter.holds(&document), !negated.holds(&document));
    }
}
