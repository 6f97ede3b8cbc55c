//! The rules of the house that no compiler keeps. Reads the sources as text; a failure lists file and line.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Which floor each module of the library stands on; a file imports only from its own floor and those below.
///
/// `effect` is a word all floors share: it names what passes between the core and whoever drives it.
const FLOORS: &[(u8, &[&str])] = &[
    (0, &["time", "peer", "record"]),
    (
        1,
        &[
            "effect",
            "wire",
            "table",
            "rumors",
            "timers",
            "pace",
            "roster",
            "guard",
            "view",
            "counters",
            "verdict",
            "story",
            "by_id",
            "pool",
            "histogram",
        ],
    ),
    (2, &["swim", "contact", "sync", "detector"]),
    (3, &["node", "knobs", "profile", "promise", "recording"]),
    (4, &["net"]),
    (5, &["registry", "select", "check", "offers"]),
    (6, &["door"]),
    (7, &["cli", "main"]),
];

/// The highest floor that knows no clock, socket, task or lock.
const CORE_FLOOR: u8 = 3;

/// What the core must not name, and why.
const BANNED_IN_CORE: &[(&str, &str)] = &[
    ("Instant", "the core is told the time"),
    ("SystemTime", "the core is told the time"),
    ("HashMap", "its order differs from run to run"),
    ("HashSet", "its order differs from run to run"),
    ("rand::rng", "a thread's generator cannot be replayed"),
    ("thread::", "the core runs on whatever thread calls it"),
    ("tokio", "the core has no tasks"),
    ("quinn", "the core has no sockets"),
    ("UdpSocket", "the core has no sockets"),
    ("Mutex", "the core has no locks"),
    ("RwLock", "the core has no locks"),
];

/// Core files that may name something banned, and why.
const EXEMPT_IN_CORE: &[(&str, &[&str], &str)] = &[(
    "src/view.rs",
    &["HashMap", "Mutex"],
    "readers look services up by hash, and nothing that the core sends depends on that order; writers of a view that \
     other threads read take turns",
)];

/// The longest line, in characters.
const COLUMNS_MAX: usize = 120;

/// A line that breaks a rule.
struct Breach {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// A file of the repository; `name` is relative to its root, with slashes.
struct File {
    name: String,
    text: String,
}

impl File {
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Lines without comments and without what stands in string literals.
    fn code(&self) -> impl Iterator<Item = (usize, String)> {
        self.lines().map(|(number, line)| (number, code_of(line)))
    }

    /// Code up to the unit tests, which may do what they like.
    fn live_code(&self) -> impl Iterator<Item = (usize, String)> {
        self.code().take_while(|(_, code)| code.trim() != "#[cfg(test)]")
    }

    fn breach(&self, line: usize, what: impl Into<String>) -> Breach {
        Breach { file: self.name.clone(), line, what: what.into() }
    }

    /// The top-level module that the file of `src/` belongs to.
    fn module(&self) -> Option<&str> {
        let inside = self.name.strip_prefix("src/")?;
        let module = inside.split('/').next()?;
        Some(module.strip_suffix(".rs").unwrap_or(module))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file under `dir` of the repository with this ending; built and hidden things are passed over.
fn files(dir: &str, ending: &str) -> Vec<File> {
    let mut found = Vec::new();
    let mut dirs = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        // A directory that the house will have later is empty now.
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("entries can be read").path()).collect();
        paths.sort();
        for path in paths {
            let name = path.file_name().expect("entries have names").to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && (!name.starts_with('.') || name == ".ci") {
                    dirs.push(path);
                }
            } else if name.ends_with(ending) {
                let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let name =
                    path.strip_prefix(root()).expect("it lies under the root").to_string_lossy().replace('\\', "/");
                found.push(File { name, text });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Every Rust file of the repository, but for this one, which names what it forbids.
fn rust_files() -> Vec<File> {
    files("", ".rs").into_iter().filter(|file| file.name != "tests/tidy.rs").collect()
}

/// Files of the library's core floors.
fn core_files() -> Vec<File> {
    let is_core = |file: &File| file.module().and_then(floor_of).is_some_and(|floor| floor <= CORE_FLOOR);
    files("src", ".rs").into_iter().filter(is_core).collect()
}

fn floor_of(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(_, modules)| modules.contains(&module)).map(|(floor, _)| *floor)
}

/// A line without its comment and with its string literals emptied. Literals over several lines are not followed:
/// text in them is read as code, and may break a rule that it does not mean to.
fn code_of(line: &str) -> String {
    let mut code = String::new();
    let mut chars = line.chars().peekable();
    let mut in_string = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string => {
                chars.next();
            }
            '"' => {
                in_string = !in_string;
                code.push('"');
            }
            '\'' if !in_string => {
                // A character literal, not a lifetime: 'x' or an escape; a quote or a slash in it means nothing.
                let rest: String = chars.clone().take(2).collect();
                code.push('\'');
                if rest.starts_with('\\') || rest.ends_with('\'') {
                    let is_escape = rest.starts_with('\\');
                    chars.next();
                    if is_escape {
                        chars.next();
                    }
                    let _ = chars.find(|c| *c == '\'');
                    code.push('\'');
                }
            }
            '/' if !in_string && chars.peek() == Some(&'/') => break,
            _ if in_string => {}
            _ => code.push(c),
        }
    }
    code
}

/// The top-level modules that a line of code imports or names through `crate::`; of `use crate::{a, b::c}` both.
/// `text` is the whole rest of the file's code from that place on, for imports over several lines.
fn crate_modules(text: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(inside) = text.strip_prefix('{') else { return vec![word(text)] };
    let mut modules = Vec::new();
    let mut depth = 0;
    let mut is_start = true;
    for (index, c) in inside.char_indices() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => is_start = true,
            c if is_start && !c.is_whitespace() => {
                modules.push(word(&inside[index..]));
                is_start = false;
            }
            _ => {}
        }
    }
    modules
}

/// Every mention of a module through `crate::` in live code, with its line.
fn imports(file: &File) -> Vec<(usize, String)> {
    let lines: Vec<(usize, String)> = file.live_code().collect();
    let text: String = lines.iter().flat_map(|(_, code)| [code.as_str(), "\n"]).collect();
    let mut imports = Vec::new();
    for (at, found) in text.match_indices("crate::") {
        let is_word_end = text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
        if is_word_end {
            continue;
        }
        let line = lines[text[..at].matches('\n').count()].0;
        imports.extend(crate_modules(&text[at + found.len()..]).into_iter().map(|module| (line, module)));
    }
    imports
}

#[track_caller]
fn none(rule: &str, breaches: Vec<Breach>) {
    let list: String = breaches.iter().map(|breach| format!("\n  {breach}")).collect();
    assert!(breaches.is_empty(), "{rule}:{list}");
}

#[test]
fn every_module_stands_on_a_floor() {
    let files = files("src", ".rs");
    assert!(files.iter().any(|file| file.name == "src/node/mod.rs"), "the sources are not where this test looks");
    let homeless = files.iter().filter(|file| file.name != "src/lib.rs" && file.module().and_then(floor_of).is_none());
    none(
        "say which floor, in FLOORS of tests/tidy.rs",
        homeless.map(|file| file.breach(1, "a module without a floor")).collect(),
    );
}

#[test]
fn a_file_imports_only_from_its_floor_and_below() {
    let mut breaches = Vec::new();
    for file in files("src", ".rs") {
        let Some(floor) = file.module().and_then(floor_of) else { continue };
        for (line, module) in imports(&file) {
            // What is no module is a word that the crate's root passes on: it comes from floor 0.
            if let Some(other) = floor_of(&module).filter(|other| *other > floor) {
                breaches.push(file.breach(line, format!("floor {floor} imports {module} of floor {other}")));
            }
        }
    }
    none("a file imports only from its floor and below", breaches);
}

#[test]
fn the_core_knows_no_clock_socket_task_lock_or_hash_order() {
    let mut breaches = Vec::new();
    for file in core_files() {
        let exempt = EXEMPT_IN_CORE.iter().find(|(name, ..)| *name == file.name).map_or(&[][..], |(_, words, _)| words);
        for (line, code) in file.live_code() {
            for (word, why) in BANNED_IN_CORE.iter().filter(|(word, _)| !exempt.contains(word) && names(&code, word)) {
                breaches.push(file.breach(line, format!("{word}: {why}")));
            }
        }
    }
    none("the core is sans-IO and repeats itself", breaches);
}

#[test]
fn only_wire_knows_bincode() {
    let mut breaches = Vec::new();
    for file in rust_files().into_iter().filter(|file| file.module() != Some("wire")) {
        let named = file.code().filter(|(_, code)| names(code, "bincode"));
        breaches.extend(named.map(|(line, _)| file.breach(line, "bincode")).collect::<Vec<_>>());
    }
    none("bytes are read and written in src/wire.rs alone", breaches);
}

#[test]
fn no_line_is_longer_than_a_screen_is_wide() {
    let mut breaches = Vec::new();
    for file in rust_files() {
        for (line, text) in file.lines() {
            let columns = text.chars().count();
            // A literal or an address cannot always be broken.
            if columns > COLUMNS_MAX && !text.contains('"') && !text.contains("://") {
                breaches.push(file.breach(line, format!("{columns} columns, the limit is {COLUMNS_MAX}")));
            }
        }
    }
    none("no line is longer than a screen is wide", breaches);
}

#[test]
fn nothing_is_left_undone() {
    let mut breaches = Vec::new();
    for file in rust_files() {
        for (line, code) in file.code() {
            for word in ["todo!", "unimplemented!", "#[ignore"].iter().filter(|word| code.contains(**word)) {
                breaches.push(file.breach(line, *word));
            }
        }
    }
    none("nothing is left undone", breaches);
}

#[test]
fn no_test_sleeps() {
    let mut breaches = Vec::new();
    for file in rust_files() {
        let is_test_file = file.name.starts_with("tests/") || file.name.contains("/tests/");
        let first = if is_test_file {
            1
        } else {
            let mut before = String::new();
            file.code()
                .find(|(_, code)| {
                    let opens_tests = before.trim() == "#[cfg(test)]" && code.starts_with("mod ");
                    before.clone_from(code);
                    opens_tests
                })
                .map_or(usize::MAX, |(line, _)| line)
        };
        let sleeping = file.code().filter(|(line, code)| *line >= first && code.contains("sleep("));
        breaches
            .extend(sleeping.map(|(line, _)| file.breach(line, "wait for a condition instead")).collect::<Vec<_>>());
    }
    none("no test sleeps", breaches);
}

#[test]
fn nothing_points_out_of_the_repository() {
    let mut breaches = Vec::new();
    let endings = [".rs", ".md", ".toml", ".yml", ".yaml", ".txt", ".sh", "run"];
    for file in endings.iter().flat_map(|ending| files("", ending)).filter(|file| file.name != "tests/tidy.rs") {
        for (line, text) in file.lines() {
            for place in ["../shared", "/work", "/home/", "/root/", "/Users/"] {
                if points_to(text, place) {
                    breaches.push(file.breach(line, format!("{place} is not part of the repository")));
                }
            }
        }
    }
    none("nothing points out of the repository", breaches);
}

#[test]
fn every_markdown_file_has_one_title() {
    let mut breaches = Vec::new();
    for file in files("", ".md") {
        let mut in_code = false;
        let mut titles = Vec::new();
        for (line, text) in file.lines() {
            if text.trim_start().starts_with("```") {
                in_code = !in_code;
            } else if !in_code && text.starts_with("# ") {
                titles.push(line);
            }
        }
        if titles.len() != 1 {
            let line = titles.get(1).copied().unwrap_or(1);
            breaches.push(file.breach(line, format!("{} titles of the first level", titles.len())));
        }
    }
    none("every Markdown file has one title", breaches);
}

/// That `docs/metrics.md` tells of what is shown is for a test of `/metrics` to say.
#[test]
fn alerts_and_the_dashboard_ask_for_figures_that_there_are() {
    let docs = fs::read_to_string(root().join("docs/metrics.md")).expect("it is there");
    let known: Vec<&str> = docs.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let ours = ["tidings_", "service_", "health_checks_", "load_balancer_"];
    let is_figure = |word: &&str| ours.iter().any(|begin| word.starts_with(begin)) && *word != "service_name";
    let (mut breaches, mut asked) = (Vec::new(), 0);
    for file in [files("contrib", ".json"), files("contrib", ".yml")].into_iter().flatten() {
        for (number, line) in file.lines() {
            for word in line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(is_figure) {
                let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word);
                asked += 1;
                if !known.contains(&name) {
                    breaches.push(file.breach(number, format!("nobody has {name}")));
                }
            }
        }
    }
    assert!(asked > 50, "only {asked} figures are asked for: they are not where this test looks");
    none("ask for what docs/metrics.md lists", breaches);
}

#[test]
fn this_test_reads_code_as_it_means_to() {
    assert_eq!(code_of(r#"let a = "HashMap // no"; // HashMap"#), r#"let a = ""; "#);
    assert_eq!(code_of(r#"x == '"' && y == '\'' // "z"#), "x == '' && y == '' ");
    assert_eq!(code_of("fn f<'a>(x: &'a str) {"), "fn f<'a>(x: &'a str) {");
    assert!(names("let x: HashMap<", "HashMap") && !names("let x: MyHashMap<", "HashMap"));
    assert!(names("std::thread::spawn", "thread::") && !names("Instants", "Instant"));
    assert!(points_to("see /work/x", "/work") && !points_to("sim/workspace", "/work"));

    let text = "use crate::{node::Node, peer::{self, Peer}};\nuse crate::net::driver;\n/// [`crate::door`]\n\
                fn f() -> crate::cli::X {}\n#[cfg(test)]\nuse crate::main;\n";
    let file = File { name: "src/x.rs".to_owned(), text: text.to_owned() };
    let expected = [(1, "node"), (1, "peer"), (2, "net"), (4, "cli")];
    assert_eq!(imports(&file), expected.map(|(line, module)| (line, module.to_owned())));
}

/// Whether `code` holds `word` as a word of its own.
fn names(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let goes_on_before = code[..at].ends_with(is_part);
        let goes_on_after = word.ends_with(is_part) && code[at + word.len()..].starts_with(is_part);
        !goes_on_before && !goes_on_after
    })
}

/// Whether `text` holds the path `place`, and not merely a longer name that begins so.
fn points_to(text: &str, place: &str) -> bool {
    text.match_indices(place).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + place.len()..].chars().next();
        let is_root = place.starts_with("..") || !before.is_some_and(|c| c.is_alphanumeric() || "._-}".contains(c));
        is_root && (place.ends_with('/') || !after.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-'))
    })
}
