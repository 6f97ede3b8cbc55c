//! Cluster keys on the command line: where a member gets them, `tidings keygen`, and the control command `keys`.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tidings::registry::{Builder, ClusterKey, KeyId, KeyInfo, KeysStatus, PemFiles, Plaintext, Registry};

use super::exit::{Exit, Failure, chain};
use super::jsonl;
use super::output::Output;

/// The variable that holds a key. No option does: the arguments of a process are for everybody to see.
pub(in crate::cli) const KEY_VARIABLE: &str = "TIDINGS_KEY";

/// Bytes of a key file that are read; eight keys with comments are far below.
const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Where a member's keys come from, and what it does without.
#[derive(Debug, clap::Args)]
pub(super) struct KeyArgs {
    /// A file with the cluster key, one a line; of several the first one seals and all are believed; # begins a
    /// comment. It must not be readable by the group or the world. Also: the key itself in TIDINGS_KEY
    #[arg(long, env = "TIDINGS_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,

    /// Use a key file even though the group or the world can read it
    #[arg(long, env = "TIDINGS_ALLOW_READABLE_KEY_FILE")]
    allow_readable_key_file: bool,

    /// Run without a key on any address: whoever reaches the port is a member, can read all and change all. The same
    /// for --http without tokens or a certificate
    #[arg(long, env = "TIDINGS_INSECURE")]
    insecure: bool,

    /// Accept datagrams in clear beside sealed ones, to turn encryption on in a running cluster: first `sending` them
    /// at every member, then `sealing` at every member, then without this option
    #[arg(long, env = "TIDINGS_ACCEPT_PLAINTEXT", value_enum, value_name = "STEP")]
    #[arg(num_args = 0..=1, default_missing_value = "sending")]
    accept_plaintext: Option<Accept>,

    /// Certificates of the authorities to trust on streams, in PEM, instead of what the cluster key makes
    #[arg(long, env = "TIDINGS_TLS_CA", value_name = "FILE", requires_all = ["tls_cert", "tls_key"])]
    tls_ca: Option<PathBuf>,

    /// This member's certificate in PEM, for the name member.tidings.internal
    #[arg(long, env = "TIDINGS_TLS_CERT", value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    tls_cert: Option<PathBuf>,

    /// The private key of that certificate, in PEM
    #[arg(long, env = "TIDINGS_TLS_KEY", value_name = "FILE", requires_all = ["tls_ca", "tls_cert"])]
    tls_key: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Accept {
    /// Have the key, but send in clear still
    Sending,
    /// Send sealed
    Sealing,
}

impl KeyArgs {
    /// Whether what is not protected shall be served all the same.
    pub(super) fn is_insecure(&self) -> bool {
        self.insecure
    }

    /// Gives `builder` the keys, or says that there shall be none.
    pub(super) fn apply(&self, mut builder: Builder) -> Result<Builder, Failure> {
        for key in self.keys()? {
            builder = builder.key(key);
        }
        if let (Some(authority), Some(certificate), Some(key)) = (&self.tls_ca, &self.tls_cert, &self.tls_key) {
            let files = PemFiles { authority: authority.clone(), certificate: certificate.clone(), key: key.clone() };
            builder = builder.tls_pem(files);
        }
        let plaintext = match self.accept_plaintext {
            None => Plaintext::Refuse,
            Some(Accept::Sealing) => Plaintext::Accept,
            Some(Accept::Sending) => Plaintext::AcceptAndSend,
        };
        Ok(builder.insecure(self.insecure).accept_plaintext(plaintext))
    }

    fn keys(&self) -> Result<Vec<ClusterKey>, Failure> {
        let mut keys = match &self.key_file {
            Some(path) => read_key_file(path, self.allow_readable_key_file)?,
            None => Vec::new(),
        };
        if let Ok(text) = std::env::var(KEY_VARIABLE) {
            let key = text.trim().parse();
            keys.push(key.map_err(|e| Failure::new(Exit::Usage, format!("{KEY_VARIABLE}: {e}")))?);
        }
        if keys.is_empty() && self.accept_plaintext.is_some() {
            return Err(Failure::new(Exit::Usage, "--accept-plaintext needs a key: without one all is in clear"));
        }
        Ok(keys)
    }
}

fn read_key_file(path: &Path, allow_readable: bool) -> Result<Vec<ClusterKey>, Failure> {
    let failed = |exit, what: &dyn std::fmt::Display| Failure::new(exit, format!("key file {path:?}: {what}"));
    let io = |error: std::io::Error| failed(Exit::Failed, &error);
    let file = File::open(path).map_err(io)?;
    // Of the open file, not of the path: what is checked is what is read.
    let metadata = file.metadata().map_err(io)?;
    if let (false, Some(mode)) = (allow_readable, readable_by_others(&metadata)) {
        let what = format!("others can read it (mode {mode:03o}); chmod 600 it, or --allow-readable-key-file");
        return Err(failed(Exit::Refused, &what));
    }
    if metadata.len() > KEY_FILE_BYTES_MAX {
        let what = format!("it has {} bytes, the limit is {KEY_FILE_BYTES_MAX}", metadata.len());
        return Err(failed(Exit::Usage, &what));
    }
    let mut text = String::new();
    file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text).map_err(io)?;
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            let key = line.parse();
            keys.push(key.map_err(|e| failed(Exit::Usage, &format!("line {}: {e}", index + 1)))?);
        }
    }
    if keys.is_empty() {
        return Err(failed(Exit::Usage, &"it holds no key"));
    }
    Ok(keys)
}

/// The mode of a file that its group or the world can read.
#[cfg(unix)]
fn readable_by_others(metadata: &std::fs::Metadata) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = metadata.permissions().mode() & 0o777;
    (mode & 0o044 != 0).then_some(mode)
}

#[cfg(not(unix))]
fn readable_by_others(_: &std::fs::Metadata) -> Option<u32> {
    None
}

/// Generate a cluster key.
///
/// It is printed, or written to a new file that only its owner can read.
#[derive(Debug, clap::Args)]
pub(super) struct KeygenArgs {
    /// The file to make; one that exists is left as it is
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs `tidings keygen`.
pub(super) async fn generate(args: &KeygenArgs, output: &Output) -> Result<(), Failure> {
    let key = ClusterKey::generate().map_err(|e| Failure::caused(Exit::Failed, &e))?;
    let text = key.secret_text();
    match &args.output {
        Some(path) => write_new(path, &text).map_err(|e| Failure::new(Exit::Failed, format!("{path:?}: {e}"))),
        None => {
            // Nobody reads any more: then nobody wanted it.
            let _ = output.line(text.to_string()).await;
            Ok(())
        }
    }
}

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()
}

/// The control command `keys`.
#[derive(Debug)]
pub(super) enum KeysCommand {
    List,
    Add(ClusterKey),
    Use(KeyId),
    Remove(KeyId),
}

/// What `keys` takes.
pub(super) const TAKES: &str = "list, add KEY, use ID or remove ID";

impl KeysCommand {
    /// Reads what stands after `keys`; `None` if it is no such command. What was given is in no error.
    pub(super) fn parse(rest: &str) -> Result<Option<Self>, tidings::registry::KeyError> {
        let (word, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let argument = argument.trim();
        Ok(match (word, argument.parse::<KeyId>()) {
            ("list", _) if argument.is_empty() => Some(Self::List),
            ("add", _) => Some(Self::Add(argument.parse()?)),
            ("use", Ok(id)) => Some(Self::Use(id)),
            ("remove", Ok(id)) => Some(Self::Remove(id)),
            _ => None,
        })
    }

    /// Does it, and gives the answer: the keys of this member, and who lacks which.
    pub(super) async fn execute(self, registry: &Registry) -> Result<String, String> {
        let done = match self {
            Self::List => registry.keys().await,
            Self::Add(key) => registry.add_key(key).await,
            Self::Use(id) => registry.use_key(id).await,
            Self::Remove(id) => registry.remove_key(id).await,
        };
        done.map(|status| answer(&status)).map_err(|error| chain(&error))
    }
}

fn answer(status: &KeysStatus) -> String {
    #[derive(Serialize)]
    struct Key<'a> {
        id: KeyId,
        fingerprint: String,
        in_use: bool,
        lacking: Vec<&'a str>,
    }
    #[derive(Serialize)]
    struct Unheard<'a> {
        member: &'a str,
        addr: String,
        reason: String,
    }
    #[derive(Serialize)]
    struct Answer<'a> {
        ts: String,
        event: &'static str,
        keys: Vec<Key<'a>>,
        unheard: Vec<Unheard<'a>>,
    }
    let key = |key: &KeyInfo| Key {
        id: key.id,
        fingerprint: format!("{:016x}", key.fingerprint),
        in_use: key.is_in_use,
        lacking: status.lacking(key.id).map(|member| &*member.name).collect(),
    };
    let unheard = status.members.iter().filter_map(|member| {
        let reason = member.keys.as_ref().err()?.to_string();
        Some(Unheard { member: &member.name, addr: member.addr.to_string(), reason })
    });
    let answer = Answer {
        ts: jsonl::now(),
        event: "keys",
        keys: status.ours.iter().map(key).collect(),
        unheard: unheard.collect(),
    };
    serde_json::to_string(&answer).expect("text and numbers alone")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn key_file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        use std::os::unix::fs::PermissionsExt as _;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused_unless_allowed() {
        let text = format!("# prod\n\n{}  # of May\n", &*ClusterKey::new(KEY).secret_text());
        for mode in [0o640, 0o604, 0o644] {
            let file = key_file(&text, mode);
            let refusal = read_key_file(file.path(), false).unwrap_err();
            assert_eq!(refusal.exit, Exit::Refused);
            assert!(refusal.to_string().contains(&format!("{mode:03o}")), "{refusal}");
            assert_eq!(read_key_file(file.path(), true).unwrap(), [ClusterKey::new(KEY)]);
        }
        assert!(read_key_file(key_file(&text, 0o600).path(), false).is_ok());
    }

    #[test]
    fn a_broken_key_file_is_told_by_line_and_never_shown() {
        let secret = ClusterKey::new(KEY).secret_text();
        let text = format!("{}\n{}\n", &*secret, secret.replacen('w', "x", 1));
        let error = read_key_file(key_file(&text, 0o600).path(), false).unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("BwcH"), "{error}");
        let error = read_key_file(key_file("# none\n", 0o600).path(), false).unwrap_err().to_string();
        assert!(error.contains("no key"), "{error}");
    }

    #[test]
    fn a_generated_key_file_is_for_its_owner_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let secret = ClusterKey::new(KEY).secret_text();
        write_new(&path, &secret).unwrap();
        assert_eq!(read_key_file(&path, false).unwrap(), [ClusterKey::new(KEY)]);
        assert!(write_new(&path, &secret).is_err());
    }

    #[test]
    fn keys_takes_four_words_and_shows_no_secret() {
        assert!(matches!(KeysCommand::parse("list"), Ok(Some(KeysCommand::List))));
        assert!(matches!(KeysCommand::parse("use 7"), Ok(Some(KeysCommand::Use(7)))));
        assert!(matches!(KeysCommand::parse("remove 255"), Ok(Some(KeysCommand::Remove(255)))));
        for wrong in ["", "lists", "list all", "use", "use 256", "remove x"] {
            assert!(matches!(KeysCommand::parse(wrong), Ok(None)), "{wrong}");
        }
        assert!(!KeysCommand::parse("add tdk1_secret").unwrap_err().to_string().contains("secret"));
    }
}
