//! Settings and where each value comes from: a flag wins over its environment variable, that over the configuration
//! file, that over the default.
//!
//! The arguments of `tidings node` are the one table of settings. A flag `--data-dir` is `TIDINGS_DATA_DIR` in the
//! environment and `data_dir` in the file; a new setting is one field there, and nothing here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use tidings::door::Setting;
use tidings::knobs::{KNOBS, Knob, Value};
use tidings::node::Tuning;
use tidings::profile::Profile;
use tidings::promise::Promise;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::exit::{Exit, Failure};
use super::{keys, limits, spec};

/// The most bytes of a configuration file that are read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The variable that names the file, if `--config` does not.
const FILE_ENV: &str = "TIDINGS_CONFIG";

/// Names that are this far from a known one are taken for a slip of the keys.
const SLIP_MAX: usize = 3;

const EXAMPLES: &str = "\
The file is searched at --config, $TIDINGS_CONFIG, ./tidings.toml, $XDG_CONFIG_HOME/tidings/tidings.toml
(~/.config/tidings/tidings.toml) and /etc/tidings/tidings.toml; the first that is there is the one.

Example:
  cluster = \"demo\"
  name = \"a\"
  bind = \"127.0.0.1:7900\"
  join = [\"127.0.0.1:7901\", \"dns:seeds.example:7900\"]

  [[service]]
  name = \"web\"
  addr = \"127.0.0.1:8080\"
  tag = [\"v1\"]
  meta = { owner = \"me\" }

  [[service.check]]
  target = \"http://127.0.0.1:8080/health\"
  interval = \"5s\"";

/// Look at settings: is the file right, and which value comes from where.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Read the file, and name everything that is wrong with it
    Check {
        #[command(flatten)]
        file: FileArg,
    },
    /// Print every setting with its value
    Show {
        #[command(flatten)]
        file: FileArg,
        /// Also print where each value comes from
        #[arg(long)]
        origin: bool,
        /// Print every limit instead: its name, its value, and what it limits. None of them can be set
        #[arg(long, conflicts_with_all = ["origin", "options"])]
        limits: bool,
        /// Options of `tidings node` to take into account, after `--`
        #[arg(last = true, value_name = "OPTION")]
        options: Vec<OsString>,
    },
}

/// Which file.
#[derive(Debug, clap::Args)]
pub(super) struct FileArg {
    /// The configuration file; `tidings config --help` says where it is searched otherwise
    #[arg(long, env = FILE_ENV, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("{}: {error}", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{}: longer than {FILE_BYTES_MAX} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error("{place}: {message}")]
    Syntax { place: String, message: String },
    #[error("{place}: unknown key {key:?}{hint}")]
    UnknownKey { place: String, key: String, hint: String },
    #[error("{place}: {key} is {expected}, not {found}")]
    Type { place: String, key: String, expected: &'static str, found: &'static str },
    #[error("{place}: {key}: {message}")]
    Value { place: String, key: String, message: String },
}

/// The values of a configuration file, by the id of their argument, each with its line.
#[derive(Clone, Debug, Default)]
pub(super) struct File {
    path: PathBuf,
    values: BTreeMap<String, (Vec<String>, usize)>,
}

/// Reads the arguments, with the configuration file's values as the defaults of those that have none.
///
/// # Errors
/// What is wrong with the file. What is wrong with the arguments ends the process, as clap does it.
pub(super) fn parse(command: Command, arguments: &[OsString]) -> Result<(ArgMatches, File), Failure> {
    let (command, file) = filled(command, arguments)?;
    Ok((command.try_get_matches_from(arguments).unwrap_or_else(|error| error.exit()), file))
}

/// Every setting of a node as it is in effect, without secrets.
pub(super) fn effective(command: &Command, matches: &ArgMatches, file: &File) -> Vec<Setting> {
    let Some((_, node)) = matches.subcommand().filter(|(name, _)| RUNNING.contains(name)) else { return Vec::new() };
    let shown = |setting: &Arg| {
        let id = setting.get_id().as_str();
        let of = if node.try_contains_id(id).is_ok() { node } else { matches };
        let raw = of.get_raw(id).into_iter().flatten();
        let values: Vec<_> = raw.map(|value| without_secrets(&key(setting), &value.to_string_lossy())).collect();
        let value = (!values.is_empty()).then(|| values.join(if key(setting) == "service" { "\n" } else { "," }));
        let mut shown = Setting::new(key(setting), value);
        shown.origin = Some(origin(setting, of, file));
        shown
    };
    settings(command).iter().map(shown).collect()
}

/// A value as others may see it: checks may have passwords in their headers, and commands in their arguments.
fn without_secrets(key: &str, value: &str) -> String {
    match value.split_once("check=") {
        Some((before, _)) if key == "service" => format!("{before}check=..."),
        _ if key == "check" => "...".to_owned(),
        _ if value.starts_with("exec:") => "exec:...".to_owned(),
        _ => value.to_owned(),
    }
}

/// The commands that run a member, and so have its settings.
const RUNNING: [&str; 2] = ["node", "run"];

/// The values of settings as text, by their names.
pub(super) type Values = BTreeMap<String, Vec<String>>;

/// Arguments and file, read once more.
pub(super) struct Again {
    pub(super) matches: ArgMatches,
    pub(super) values: Values,
    /// As others may see them.
    pub(super) shown: Vec<Setting>,
}

/// Reads arguments and file once more, for a node that runs.
///
/// # Errors
/// What is wrong with the file or the arguments.
pub(super) fn read_again(arguments: &[OsString]) -> Result<Again, Failure> {
    let command = <super::Cli as clap::CommandFactory>::command();
    let settings = settings(&command);
    let (filled, file) = filled(command.clone(), arguments)?;
    let matches = filled.try_get_matches_from(arguments);
    let matches = matches.map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let of = matches.subcommand().map_or(&matches, |(_, of)| of);
    let value = |setting: &Arg| {
        let raw = of.try_get_raw(setting.get_id().as_str()).ok().flatten();
        (key(setting), raw.into_iter().flatten().map(|value| value.to_string_lossy().into_owned()).collect())
    };
    let values = settings.iter().map(value).collect();
    let shown = effective(&command, &matches, &file);
    Ok(Again { matches, values, shown })
}

/// The command with the configuration file's values as defaults, where it has such settings.
fn filled(mut command: Command, arguments: &[OsString]) -> Result<(Command, File), Failure> {
    let mut used = File::default();
    let runs = arguments.get(1).and_then(|first| first.to_str()).filter(|first| RUNNING.contains(first));
    let asks_for_help = arguments
        .iter()
        .take_while(|argument| *argument != "--")
        .any(|argument| argument == "--help" || argument == "-h");
    if let Some(name) = runs.map(str::to_owned).filter(|_| !asks_for_help) {
        let settings = settings(&command);
        if let Some(path) = find(asked_for(arguments))? {
            let file = read(&path, &settings).map_err(|errors| failure(&errors))?;
            used = file.clone();
            for (id, (values, _)) in file.values {
                let is_global = command.get_arguments().any(|argument| *argument.get_id() == id);
                let put = move |argument: Arg| with_default(argument, values);
                command = if is_global {
                    command.mut_arg(id, put)
                } else {
                    command.mut_subcommand(&name, |runs| runs.mut_arg(id, put))
                };
            }
        }
    }
    Ok((command, used))
}

/// Runs `tidings config ...`; gives what to print.
///
/// # Errors
/// What is wrong with the file or the options.
pub(super) fn run(args: &Args, command: &Command) -> Result<String, Failure> {
    let settings = settings(command);
    match &args.command {
        What::Check { file } => {
            let Some(path) = find(file.config.clone())? else {
                return Ok("there is no configuration file, and none is needed\n".to_owned());
            };
            let file = read(&path, &settings).map_err(|errors| failure(&errors))?;
            tuned(&matched(&settings, &file, &[])?)?;
            Ok(format!("{}: {} settings, nothing wrong\n", path.display(), file.values.len()))
        }
        What::Show { limits: true, .. } => Ok(limits::show()),
        What::Show { file, origin, options, limits: false } => {
            let file = match find(file.config.clone())? {
                Some(path) => read(&path, &settings).map_err(|errors| failure(&errors))?,
                None => File::default(),
            };
            show(&settings, &file, options, *origin)
        }
    }
}

/// Every setting: the arguments of `tidings node`, and those of all commands.
fn settings(command: &Command) -> Vec<Arg> {
    let node = command.find_subcommand("node").expect("there is such a command");
    let all = node.get_arguments().chain(command.get_arguments());
    // Where the file is cannot stand in the file.
    let is_setting = |argument: &&Arg| {
        let is_asking = matches!(
            argument.get_action(),
            ArgAction::Help | ArgAction::HelpLong | ArgAction::HelpShort | ArgAction::Version
        );
        argument.get_long().is_some_and(|long| long != "config") && !is_asking
    };
    all.filter(is_setting).cloned().collect()
}

/// The name of a setting in the file.
fn key(setting: &Arg) -> String {
    setting.get_long().expect("only arguments with a long name are settings").replace('-', "_")
}

fn is_list(setting: &Arg) -> bool {
    matches!(setting.get_action(), ArgAction::Append)
}

fn is_switch(setting: &Arg) -> bool {
    matches!(setting.get_action(), ArgAction::SetTrue)
}

fn with_default(setting: Arg, values: Vec<String>) -> Arg {
    setting.required(false).default_values(values)
}

/// The file that the arguments name. Read by hand, because clap reads arguments once, and needs the file for it.
fn asked_for(arguments: &[OsString]) -> Option<PathBuf> {
    let mut left = arguments.iter().take_while(|argument| *argument != "--");
    while let Some(argument) = left.next() {
        let text = argument.to_string_lossy();
        if text == "--config" {
            return left.next().map(PathBuf::from);
        }
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(PathBuf::from(path));
        }
    }
    None
}

/// The file to read: the one that is asked for, which must be there, or the first of the usual places.
fn find(asked: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = asked.or_else(|| set(FILE_ENV).map(PathBuf::from)) {
        return Ok(Some(path));
    }
    let home = set("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = home.or_else(|| set("HOME").map(|home| Path::new(&home).join(".config")));
    let places = [
        Some(PathBuf::from("tidings.toml")),
        home.map(|home| home.join("tidings/tidings.toml")),
        Some(PathBuf::from("/etc/tidings/tidings.toml")),
    ];
    Ok(places.into_iter().flatten().find(|place| place.is_file()))
}

fn read(path: &Path, settings: &[Arg]) -> Result<File, Vec<FileError>> {
    let failed = |error| vec![FileError::Read { path: path.to_owned(), error }];
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(vec![FileError::TooLarge { path: path.to_owned() }]);
    }
    parse_file(path, &text, settings)
}

fn parse_file(path: &Path, text: &str, settings: &[Arg]) -> Result<File, Vec<FileError>> {
    let reader = Reader { path, text, settings };
    let table = DeTable::parse(text).map_err(|error| {
        let place = reader.place(error.span().map_or(0, |span| span.start));
        vec![FileError::Syntax { place, message: error.message().to_owned() }]
    })?;
    let mut file = File { path: path.to_owned(), values: BTreeMap::new() };
    let mut errors = Vec::new();
    for (name, value) in table.get_ref() {
        match reader
            .setting(name)
            .and_then(|setting| Ok((setting.get_id().to_string(), reader.values(setting, value)?)))
        {
            Ok((id, values)) => {
                file.values.insert(id, (values, reader.line(name.span().start)));
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(file) } else { Err(errors) }
}

/// For fuzzing: whether this is a file with nothing wrong.
#[cfg(fuzzing)]
pub(super) fn reads(text: &str, command: impl FnOnce() -> Command) -> bool {
    static SETTINGS: std::sync::OnceLock<Vec<Arg>> = std::sync::OnceLock::new();
    parse_file(Path::new("tidings.toml"), text, SETTINGS.get_or_init(|| settings(&command()))).is_ok()
}

/// A configuration file being read.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    settings: &'a [Arg],
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at.min(self.text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    fn place(&self, at: usize) -> String {
        format!("{}:{}", self.path.display(), self.line(at))
    }

    fn setting(&self, name: &Spanned<std::borrow::Cow<'_, str>>) -> Result<&Arg, FileError> {
        let asked = name.get_ref();
        self.settings.iter().find(|setting| key(setting) == **asked).ok_or_else(|| {
            let known = self.settings.iter().map(key);
            FileError::UnknownKey {
                place: self.place(name.span().start),
                key: asked.to_string(),
                hint: hint(asked, known),
            }
        })
    }

    /// The values as a flag would have them, each checked.
    fn values(&self, setting: &Arg, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, FileError> {
        if key(setting) == "service" {
            return self.services(value);
        }
        if let (DeValue::Table(table), "tuning") = (value.get_ref(), key(setting).as_str()) {
            return self.tuning(setting, table);
        }
        let values = match value.get_ref() {
            DeValue::Array(array) if is_list(setting) => {
                array.iter().map(|one| self.text_of(setting, one)).collect::<Result<Vec<_>, _>>()?
            }
            _ => vec![self.text_of(setting, value)?],
        };
        for one in &values {
            self.check(setting, one, value.span().start)?;
        }
        Ok(values)
    }

    fn text_of(&self, setting: &Arg, value: &Spanned<DeValue<'_>>) -> Result<String, FileError> {
        match value.get_ref() {
            DeValue::Boolean(is) if is_switch(setting) => Ok(is.to_string()),
            DeValue::String(text) if !is_switch(setting) => Ok(text.to_string()),
            DeValue::Integer(number) if !is_switch(setting) => Ok(number.to_string()),
            other => {
                let expected = match () {
                    () if is_switch(setting) => "true or false",
                    () if is_list(setting) => "a list of strings",
                    () => "a string",
                };
                let place = self.place(value.span().start);
                Err(FileError::Type { place, key: key(setting), expected, found: other.type_str() })
            }
        }
    }

    /// Lets the argument itself judge a value.
    fn check(&self, setting: &Arg, value: &str, at: usize) -> Result<(), FileError> {
        if is_switch(setting) {
            return Ok(());
        }
        let long = setting.get_long().expect("only arguments with a long name are settings").to_owned();
        // Alone: what it requires beside it may come from elsewhere.
        let alone = Arg::new("value").long(long.clone()).value_parser(setting.get_value_parser().clone());
        let parsed =
            Command::new("file").no_binary_name(true).arg(alone).try_get_matches_from([format!("--{long}={value}")]);
        parsed.map(drop).map_err(|error| {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            let message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
            FileError::Value { place: self.place(at), key: key(setting), message }
        })
    }

    /// Each table `[[service]]`, or string, as a spec.
    fn services(&self, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, FileError> {
        let wrong = |at: usize, found| FileError::Type {
            place: self.place(at),
            key: "service".to_owned(),
            expected: "tables [[service]]",
            found,
        };
        let DeValue::Array(array) = value.get_ref() else {
            return Err(wrong(value.span().start, value.get_ref().type_str()));
        };
        let mut specs = Vec::new();
        for one in array {
            let at = one.span().start;
            let spec = match one.get_ref() {
                DeValue::String(spec) => spec.to_string(),
                DeValue::Table(table) => self.spec(table)?,
                other => return Err(wrong(at, other.type_str())),
            };
            spec::parse_offer(&spec).map_err(|error| FileError::Value {
                place: self.place(at),
                key: "service".to_owned(),
                message: error.to_string(),
            })?;
            specs.push(spec);
        }
        Ok(specs)
    }

    /// The table `[tuning]`, each line as the flag would have it.
    fn tuning(&self, setting: &Arg, table: &DeTable<'_>) -> Result<Vec<String>, FileError> {
        let mut values = Vec::new();
        for (name, value) in table {
            let text = match value.get_ref() {
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(number) => number.to_string(),
                DeValue::Float(number) => number.to_string(),
                other => {
                    let (place, key) = (self.place(value.span().start), format!("tuning.{}", name.get_ref()));
                    let expected = "a string or a number";
                    return Err(FileError::Type { place, key, expected, found: other.type_str() });
                }
            };
            let value = format!("{}={text}", name.get_ref());
            self.check(setting, &value, name.span().start)?;
            values.push(value);
        }
        Ok(values)
    }

    fn spec(&self, table: &DeTable<'_>) -> Result<String, FileError> {
        let mut spec = String::new();
        for (name, value) in table {
            match value.get_ref() {
                DeValue::Array(array) if name.get_ref() == "check" => {
                    for one in array {
                        let check = match one.get_ref() {
                            DeValue::Table(table) => self.check_words(table)?,
                            _ => self.scalar("service.check", one)?,
                        };
                        self.append(&mut spec, "check", &check);
                    }
                }
                DeValue::Array(array) => {
                    for one in array {
                        self.pair(&mut spec, name.get_ref(), one)?;
                    }
                }
                DeValue::Table(inner) => {
                    for (sub, one) in inner {
                        self.pair(&mut spec, &format!("{}.{}", name.get_ref(), sub.get_ref()), one)?;
                    }
                }
                _ => self.pair(&mut spec, name.get_ref(), value)?,
            }
        }
        Ok(spec)
    }

    /// The table `[[service.check]]` as the words of a check: `target` first, the others by their keys.
    fn check_words(&self, table: &DeTable<'_>) -> Result<String, FileError> {
        let mut target = None;
        let mut words = Vec::new();
        for (name, value) in table {
            let key = format!("service.check.{}", name.get_ref());
            match (name.get_ref().as_ref(), value.get_ref()) {
                ("target", _) => target = Some(self.scalar(&key, value)?),
                (name, DeValue::Array(array)) => {
                    for one in array {
                        words.push(format!("{name}={}", self.scalar(&key, one)?));
                    }
                }
                (name, _) => words.push(format!("{name}={}", self.scalar(&key, value)?)),
            }
        }
        Ok(shell_words::join(target.into_iter().chain(words)))
    }

    fn pair(&self, spec: &mut String, name: &str, value: &Spanned<DeValue<'_>>) -> Result<(), FileError> {
        let text = self.scalar(&format!("service.{name}"), value)?;
        self.append(spec, name, &text);
        Ok(())
    }

    fn append(&self, spec: &mut String, name: &str, text: &str) {
        let comma = if spec.is_empty() { "" } else { "," };
        let escaped = format!("{name}={text}").replace('\\', "\\\\").replace(',', "\\,");
        write!(spec, "{comma}{escaped}").expect("writing to a string does not fail");
    }

    fn scalar(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<String, FileError> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text.to_string()),
            DeValue::Integer(number) => Ok(number.to_string()),
            DeValue::Boolean(is) => Ok(is.to_string()),
            other => {
                let place = self.place(value.span().start);
                Err(FileError::Type { place, key: key.to_owned(), expected: "a string", found: other.type_str() })
            }
        }
    }
}

fn hint(asked: &str, known: impl Iterator<Item = String>) -> String {
    let nearest = known.map(|known| (strsim::damerau_levenshtein(&known, asked), known)).min();
    match nearest {
        Some((distance, known)) if distance <= SLIP_MAX.min(asked.chars().count() / 2) => {
            format!("; did you mean {known:?}?")
        }
        _ => "; tidings config show lists all".to_owned(),
    }
}

fn failure(errors: &[FileError]) -> Failure {
    let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    Failure::new(Exit::Usage, lines.join("\nerror: "))
}

/// The settings as they are with the file's values as defaults.
fn matched(settings: &[Arg], file: &File, options: &[OsString]) -> Result<ArgMatches, Failure> {
    let filled = settings.iter().map(|setting| match file.values.get(setting.get_id().as_str()) {
        Some((values, _)) => with_default(setting.clone(), values.clone()),
        None => setting.clone().required(false),
    });
    let command = Command::new("options").no_binary_name(true).args(filled);
    command.try_get_matches_from(options).map_err(|error| Failure::new(Exit::Usage, error.to_string()))
}

/// What of the settings makes the protocol's.
struct Tuned {
    profile: Profile,
    detect_within: Option<Duration>,
    explicit: Vec<(&'static Knob, Value)>,
    tuning: Tuning,
}

fn tuned(matches: &ArgMatches) -> Result<Tuned, Failure> {
    let profile = matches.get_one::<Profile>("profile").copied().unwrap_or_default();
    let detect_within = matches.get_one("detect_within").copied();
    let explicit: Vec<_> = matches.get_many("tuning").into_iter().flatten().copied().collect();
    let tuning = profile.settle(detect_within, &explicit).map_err(|error| Failure::caused(Exit::Usage, &error))?;
    Ok(Tuned { profile, detect_within, explicit, tuning })
}

/// The protocol's settings as they come out, and where each comes from: comments, since what gives them stands above.
fn show_tuned(settings: &[Arg], matches: &ArgMatches, file: &File) -> Result<Vec<(String, String)>, Failure> {
    let Tuned { profile, detect_within, explicit, tuning } = tuned(matches)?;
    let from = |id: &str| {
        let setting = settings.iter().find(|setting| setting.get_id() == id);
        setting.map(|setting| origin(setting, matches, file)).unwrap_or_default()
    };
    let line = |knob: &Knob| {
        let derived = ["observe_every", "answer_within", "tries"].contains(&knob.name);
        let origin = match () {
            () if explicit.iter().any(|(other, _)| other.name == knob.name) => format!("tuning: {}", from("tuning")),
            () if detect_within.is_some() && derived => format!("detect_within: {}", from("detect_within")),
            () => format!("profile {profile}: {}", from("profile")),
        };
        (format!("# {} = {}", knob.name, knob.value(&tuning)), origin)
    };
    let promise = Promise::of(&tuning, &profile.conditions());
    let mut lines: Vec<_> = KNOBS.iter().map(line).collect();
    lines.push((format!("# {promise}"), "what these promise".to_owned()));
    Ok(lines)
}

/// Every setting as a line of the file that would give it, and where it comes from.
fn show(settings: &[Arg], file: &File, options: &[OsString], has_origin: bool) -> Result<String, Failure> {
    let matches = matched(settings, file, options)?;
    let mut lines: Vec<_> =
        settings.iter().map(|setting| (line(setting, &matches), origin(setting, &matches, file))).collect();
    lines.extend(show_tuned(settings, &matches, file)?);
    // The promise is a sentence: nothing need stand in a column behind it.
    let width = lines.iter().map(|(line, _)| line.chars().count()).filter(|width| *width <= 100).max().unwrap_or(0);
    let mut text = String::new();
    for (line, origin) in lines {
        if has_origin {
            writeln!(text, "{line:width$}  # {origin}").expect("writing to a string does not fail");
        } else {
            text += &line;
            text.push('\n');
        }
    }
    let is_set = std::env::var_os(keys::KEY_VARIABLE).is_some_and(|value| !value.is_empty());
    let state = if is_set { "set" } else { "not set" };
    writeln!(text, "# {} is {state} in the environment", keys::KEY_VARIABLE)
        .expect("writing to a string does not fail");
    Ok(text)
}

fn line(setting: &Arg, matches: &ArgMatches) -> String {
    let key = key(setting);
    let raw = matches.get_raw(setting.get_id().as_str());
    let values: Vec<_> = raw.into_iter().flatten().map(|value| value.to_string_lossy().into_owned()).collect();
    let quoted = |value: &String| serde_json::to_string(value).expect("text is always written");
    match values.as_slice() {
        [] if !is_switch(setting) => format!("# {key} is not set"),
        [] => format!("{key} = false"),
        [value] if is_switch(setting) => format!("{key} = {value}"),
        values if is_list(setting) => format!("{key} = [{}]", values.iter().map(quoted).collect::<Vec<_>>().join(", ")),
        [value, ..] => format!("{key} = {}", quoted(value)),
    }
}

fn origin(setting: &Arg, matches: &ArgMatches, file: &File) -> String {
    let id = setting.get_id().as_str();
    match (matches.value_source(id), file.values.get(id)) {
        (Some(ValueSource::CommandLine), _) => format!("flag --{}", setting.get_long().unwrap_or(id)),
        (Some(ValueSource::EnvVariable), _) => {
            format!("environment {}", setting.get_env().unwrap_or_default().to_string_lossy())
        }
        (_, Some((_, line))) => format!("{}:{line}", file.path.display()),
        _ => "default".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use proptest::prelude::*;

    use super::*;
    use crate::cli::Cli;

    fn command() -> Command {
        Cli::command()
    }

    fn parsed(text: &str) -> Result<File, String> {
        parse_file(Path::new("t.toml"), text, &settings(&command()))
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn what_is_shown_of_the_settings_holds_no_secret_of_a_check_or_a_command() {
        let service = r#"name=web,addr=h:80,check=http://h "header=Authorization: s3cret""#;
        assert_eq!(without_secrets("service", service), "name=web,addr=h:80,check=...");
        assert_eq!(without_secrets("check", "http://user:s3cret@h"), "...");
        assert_eq!(without_secrets("join", "exec:find --password s3cret"), "exec:...");
        assert_eq!(without_secrets("join", "seed:7900"), "seed:7900");
    }

    #[test]
    fn every_setting_is_a_flag_a_variable_and_a_key_of_one_name() {
        let settings = settings(&command());
        assert!(settings.len() > 10);
        for setting in &settings {
            let variable = format!("TIDINGS_{}", key(setting).to_uppercase());
            assert_eq!(setting.get_env().map(|env| env.to_string_lossy().into_owned()), Some(variable));
            assert!(setting.get_help().is_some(), "{} has no help", key(setting));
            let error = parsed(&format!("{} = 1979-05-27", key(setting))).unwrap_err();
            assert!(error.contains("not datetime") || error.contains("tables"), "the key is known: {error}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_what_was_meant() {
        let error = parsed("cluster = \"c\"\n\njion = [\"127.0.0.1:1\"]\nbnd = \"x\"\n").unwrap_err();
        assert!(error.contains("t.toml:3: unknown key \"jion\"; did you mean \"join\"?"), "{error}");
        assert!(error.contains("t.toml:4: unknown key \"bnd\"; did you mean \"bind\"?"), "{error}");
        assert!(parsed("quite_another = 1").unwrap_err().contains("tidings config show"));
    }

    #[test]
    fn a_wrong_type_or_value_is_named_with_its_line() {
        assert_eq!(parsed("\nname = true").unwrap_err(), "t.toml:2: name is a string, not boolean");
        assert_eq!(parsed("insecure = \"yes\"").unwrap_err(), "t.toml:1: insecure is true or false, not string");
        assert_eq!(parsed("join = [1.5]").unwrap_err(), "t.toml:1: join is a list of strings, not float");
        let error = parsed("bind = \"here\"").unwrap_err();
        assert!(error.starts_with("t.toml:1: bind: invalid value 'here'"), "{error}");
        let error = parsed("name = \"a\"\nname = \"b\"").unwrap_err();
        assert!(error.starts_with("t.toml:2: "), "{error}");
    }

    #[test]
    fn a_service_table_is_the_spec_of_the_flag() {
        let file = parsed(
            "[[service]]\nname = \"web\"\naddr = \"127.0.0.1:80\"\ntag = [\"a\", \"b\"]\nweight = 3\n\
             meta = { text = \"x,y\\\\z\" }\n",
        );
        let file = file.expect("it is right");
        let (specs, line) = &file.values["service"];
        assert_eq!(*line, 1);
        let instance = spec::parse_offer(&specs[0]).expect("it was checked").instance;
        assert_eq!((instance.weight, instance.tags.len()), (3, 2));
        assert_eq!(instance.meta.values().next().map(ToString::to_string), Some("x,y\\z".to_owned()));
        let error = parsed("[[service]]\nname = \"web\"\n\n[[service]]\nnaem = \"x\"\n").unwrap_err();
        assert!(error.contains("t.toml:1") && error.contains("addr"), "{error}");
    }

    #[test]
    fn a_check_table_is_the_check_of_the_spec() {
        let file = parsed(
            "[[service]]\nname = \"web\"\naddr = \"127.0.0.1:80\"\ncheck = [\"tcp:h:1\"]\n\n[[service]]\nname = \"db\"\n\
             addr = \"127.0.0.1:81\"\n\n[[service.check]]\ntarget = \"http://h/x,y\"\ninterval = \"2s\"\n\
             header = [\"A: b c\", \"B: d\"]\nredirects = false\n\n[[service.check]]\ntarget = \"exec:test -e 'a b'\"\n",
        );
        let file = file.expect("it is right");
        let (specs, _) = &file.values["service"];
        let checks = |n: usize| spec::parse_offer(&specs[n]).expect("it was checked").checks;
        assert_eq!(checks(0).len(), 1);
        let [http, command] = &checks(1)[..] else { panic!("two checks") };
        assert_eq!((http.interval, http.kind.as_str()), (Duration::from_secs(2), "http"));
        let tidings::check::Kind::Http(asked) = &http.kind else { panic!("an HTTP check") };
        assert_eq!((asked.url.as_str(), asked.headers["A"][0].as_str()), ("http://h/x,y", "b c"));
        assert!(format!("{:?}", command.kind).contains("\"a b\""));
        let error = parsed("[[service]]\nname = \"w\"\naddr = \"h:1\"\n[[service.check]]\ntarget = \"tcp:h\"\n");
        assert!(error.unwrap_err().contains("tcp \"h\" is not HOST:PORT"));
    }

    #[test]
    fn a_tuning_table_is_the_settings_of_the_flag() {
        let file = parsed("[tuning]\nprobe_period = \"500ms\"\ntries = 5\nindirect_probes = 2\n").expect("right");
        let (values, _) = &file.values["tuning"];
        assert_eq!(values, &["indirect_probes=2", "probe_period=500ms", "tries=5"]);
        let error = parsed("[tuning]\n\nprobe_peroid = \"1s\"\n").unwrap_err();
        assert!(error.starts_with("t.toml:3: tuning: ") && error.contains("probe_period"), "{error}");
        let error = parsed("[tuning]\ntries = \"0\"\n").unwrap_err();
        assert!(error.contains("tries is from 1 to 8, not 0"), "{error}");
        assert!(parsed("tuning = [\"tries=5\"]").is_ok());
    }

    #[test]
    fn what_is_shown_says_where_it_comes_from_and_is_a_file_again() {
        let settings = settings(&command());
        let file = parsed("name = \"a\"\njoin = [\"127.0.0.1:1\"]\n").expect("it is right");
        let options = ["--cluster".into(), "c\"d".into()];
        let text = show(&settings, &file, &options, true).expect("the options are right");
        let of = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key}: {text}"));
        assert!(of("name = \"a\"").ends_with("# t.toml:1"), "{text}");
        assert!(of("join = [\"127.0.0.1:1\"]").ends_with("# t.toml:2"));
        assert!(of("cluster = \"c\\\"d\"").ends_with("# flag --cluster"));
        assert!(of("bind = \"127.0.0.1:7900\"").ends_with("# default"));
        let again = parsed(&text).expect("what is shown can be read");
        assert_eq!(again.values["name"].0, ["a"]);
    }

    #[test]
    fn the_protocols_settings_are_shown_with_what_made_them() {
        let settings = settings(&command());
        let file = parsed("profile = \"wan\"\n\n[tuning]\nwitnesses = 5\n").expect("it is right");
        let show = |options: &[&str]| {
            let options: Vec<OsString> = options.iter().map(Into::into).collect();
            show(&settings, &file, &options, true)
        };
        let text = show(&["--detect-within", "4s"]).expect("the options are right");
        let of = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key}: {text}"));
        assert!(of("# witnesses = 5").ends_with("# tuning: t.toml:3"), "{text}");
        assert!(of("# observe_every = ").ends_with("# detect_within: flag --detect-within"), "{text}");
        assert!(of("# probe_period = 10s").ends_with("# profile wan: t.toml:1"), "{text}");
        assert!(of("# a crash is known to everybody after").contains("4.00 s (worst)"), "{text}");
        assert!(parsed(&text).is_ok(), "what is shown can be read");
        let error = show(&["--detect-within", "100ms"]).expect_err("too soon").to_string();
        assert!(error.contains("detect_within is from"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_can_do_more_than_be_wrong(text in ".{0,200}") {
            let _ = parsed(&text);
        }

        #[test]
        fn no_value_can_do_more_than_be_wrong(at in 0usize..40, value in "(true|-?[0-9]{1,30}|\"[ -!#-~]{0,40}\"|\\[\"[a-z:,]{0,20}\"\\])") {
            let settings = settings(&command());
            let _ = parsed(&format!("{} = {value}", key(&settings[at % settings.len()])));
        }
    }
}
