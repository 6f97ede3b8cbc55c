//! `tidings keys`: the cluster keys, here and at every member.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::super::exit::{Exit, Failure};
use super::super::keys::KEY_VARIABLE;
use super::super::output::Output;
use super::Common;
use super::show::{Column, Sheet, bold, column, dim, plain, rows, text};

/// How long all members may take to hear of a key.
const PATIENCE: Duration = Duration::from_secs(30);

/// The most bytes of a key, with line breaks.
const KEY_BYTES_MAX: u64 = 4_096;

/// Show and change the cluster keys, here and at every member. Secrets are never shown.
///
/// To rotate in a running cluster: add the new key, use it once every member has it, remove the old one.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    common: Common,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Who has which key, and seals with it
    List,
    /// Believe one more key, from a file, standard input or TIDINGS_KEY: never an argument, which everybody can see
    Add {
        /// The file with the key, as tidings keygen prints it; - is standard input
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
    },
    /// Seal with a key from now on
    Use {
        /// The key's id
        key: u8,
    },
    /// Believe a key no longer
    Remove {
        /// The key's id
        key: u8,
    },
}

const KEYS: &[Column] = &[
    column("MEMBER", |row| bold(row, "/member")),
    column("KEY", |row| plain(row, "/id")),
    column("SEALS", |row| (if row["in_use"] == true { "yes".to_owned() } else { String::new() }, "")),
    column("FINGERPRINT", |row| dim(row, "/fingerprint")),
    column("ERROR", |row| (text(row, "/error"), super::super::table::RED)),
];

fn read(file: Option<PathBuf>) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::new(Exit::Failed, format!("the key: {error}"));
    let mut key = String::new();
    match file {
        Some(path) if path.as_os_str() == "-" => {
            std::io::stdin().take(KEY_BYTES_MAX).read_to_string(&mut key).map_err(failed)?;
        }
        Some(path) => {
            let file = std::fs::File::open(path).map_err(failed)?;
            file.take(KEY_BYTES_MAX).read_to_string(&mut key).map_err(failed)?;
        }
        None => key = std::env::var(KEY_VARIABLE).unwrap_or_default(),
    }
    let lines: Vec<&str> = key
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .collect();
    match lines[..] {
        [key] => Ok(key.to_owned()),
        [] => Err(Failure::new(Exit::Usage, format!("no key: name a file with --key-file, or set {KEY_VARIABLE}"))),
        _ => Err(Failure::new(Exit::Usage, "more than one key; add them one by one")),
    }
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Failure> {
    let (api, screen) = args.common.open(output)?;
    let whole = match args.command {
        None | Some(Command::List) => api.get("/v2/keys").await,
        Some(Command::Add { key_file }) => {
            let wish = json!({ "key": read(key_file)? });
            api.send(Method::POST, "/v2/keys", Some(&wish), PATIENCE).await
        }
        Some(Command::Use { key }) => api.send(Method::POST, &format!("/v2/keys/{key}/use"), None, PATIENCE).await,
        Some(Command::Remove { key }) => api.send(Method::DELETE, &format!("/v2/keys/{key}"), None, PATIENCE).await,
    }?;
    let held = by_member(&whole);
    let nothing = "there is no key: whoever reaches the port is a member";
    let notice = lacking(&held);
    screen.show(&Sheet { whole: &whole, rows: held.iter().collect(), columns: KEYS, nothing, notice }).await.map(drop)
}

/// A row for each member and key.
pub(super) fn by_member(whole: &Value) -> Vec<Value> {
    let mut held = Vec::new();
    let mut add = |member: &str, keys: Vec<&Value>| {
        for key in keys {
            let mut row = key.clone();
            row["member"] = Value::from(member);
            held.push(row);
        }
    };
    add("(this agent)", rows(whole, "/keys"));
    for member in rows(whole, "/members") {
        add(&text(member, "/member"), rows(member, "/keys"));
    }
    let silent = rows(whole, "/members").into_iter().filter(|member| member.get("error").is_some());
    held.extend(silent.map(|member| json!({ "member": member["member"], "error": member["error"] })));
    held
}

/// Who has not what others have.
pub(super) fn lacking(held: &[Value]) -> Option<String> {
    let mut fingerprints: Vec<String> =
        held.iter().map(|row| text(row, "/fingerprint")).filter(|text| !text.is_empty()).collect();
    fingerprints.sort();
    fingerprints.dedup();
    let mut members: Vec<String> = held.iter().map(|row| text(row, "/member")).collect();
    members.sort();
    members.dedup();
    let has = |member: &str, key: &str| {
        held.iter().any(|row| text(row, "/member") == member && text(row, "/fingerprint") == key)
    };
    let lacking: Vec<&String> =
        members.iter().filter(|member| fingerprints.iter().any(|key| !has(member, key))).collect();
    let names = lacking.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    (!lacking.is_empty()).then(|| format!("not every member has every key: {names}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_lacks_a_key_or_does_not_tell_is_named() {
        let key = |id: u8| json!({ "id": id, "fingerprint": format!("{id:016x}"), "in_use": id == 1 });
        let whole = json!({
            "keys": [key(1), key(2)],
            "members": [
                { "member": "b", "keys": [key(1), key(2)] },
                { "member": "c", "keys": [key(1)] },
                { "member": "d", "error": "no answer" },
            ],
        });
        let held = by_member(&whole);
        assert_eq!(held.len(), 6);
        assert_eq!(lacking(&held), Some("not every member has every key: c, d".to_owned()));
        let equal = json!({ "keys": [key(1)], "members": [{ "member": "b", "keys": [key(1)] }] });
        assert_eq!(lacking(&by_member(&equal)), None);
    }

    #[test]
    fn a_key_comes_from_a_file_with_comments() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "# new\n  tdk1_x # here\n").expect("it is written");
        assert_eq!(read(Some(file.path().to_owned())).expect("one key"), "tdk1_x");
        std::fs::write(file.path(), "tdk1_x\ntdk1_y\n").expect("it is written");
        assert_eq!(read(Some(file.path().to_owned())).unwrap_err().exit, Exit::Usage);
    }
}
