//! Who may ask what: bearer tokens with a scope, from a file. Knows nothing of connections.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ring::hmac;
use ring::rand::SystemRandom;

/// Bytes of a token file.
pub const TOKEN_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Tokens of an agent: each request is compared with all of them.
pub const TOKENS_MAX: usize = 256;

/// The shortest token that is accepted, in bytes: shorter ones can be guessed.
pub const TOKEN_BYTES_MIN: usize = 16;

/// The longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 256;

/// What stands in a token file for requests without a token.
const ANONYMOUS: &str = "anonymous";

/// What a token allows. Ordered: who may write may read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scope {
    /// Reading the view and the figures.
    Read,
    /// Also whatever changes something, and the list of the cluster keys.
    Write,
}

impl Scope {
    /// The scope as a word, as it stands in a token file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The tokens that are accepted. Only digests are held, with a key of this process.
#[derive(Clone)]
pub struct Tokens {
    key: hmac::Key,
    known: Vec<(hmac::Tag, Scope)>,
    anonymous: Option<Scope>,
}

impl PartialEq for Tokens {
    /// Whether they were read from the same lines.
    fn eq(&self, other: &Self) -> bool {
        let is_same = |a: &(hmac::Tag, Scope), b: &(hmac::Tag, Scope)| a.0.as_ref() == b.0.as_ref() && a.1 == b.1;
        self.anonymous == other.anonymous
            && self.known.len() == other.known.len()
            && self.known.iter().zip(&other.known).all(|(a, b)| is_same(a, b))
    }
}

/// The same for all tokens of a process, so that it can be told whether a file holds others than before.
static KEY: OnceLock<hmac::Key> = OnceLock::new();

fn key() -> Result<hmac::Key, TokensError> {
    if let Some(key) = KEY.get() {
        return Ok(key.clone());
    }
    let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).map_err(|_| TokensError::Random)?;
    Ok(KEY.get_or_init(|| key).clone())
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

/// Why there are no tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokensError {
    /// The file cannot be read.
    #[error("token file {path:?}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The group or the world can read the file.
    #[error("token file {path:?}: others can read it (mode {mode:03o}); chmod 600 it")]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file is too long.
    #[error("token file {path:?}: longer than {TOKEN_FILE_BYTES_MAX} bytes")]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// A line of the text means nothing.
    #[error("line {line} of the tokens: {what}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// There is no token in it.
    #[error("there is no token in it; a line is TOKEN read or TOKEN write")]
    None,
    /// The operating system has no random bytes.
    #[error("no random bytes")]
    Random,
}

impl Tokens {
    /// Reads a file that only its owner can read; see [`parse`](Self::parse) for what stands in it.
    ///
    /// # Errors
    /// See [`TokensError`].
    pub fn read(path: &Path) -> Result<Self, TokensError> {
        let failed = |error| TokensError::Read { path: path.to_owned(), error };
        let file = File::open(path).map_err(failed)?;
        // Of the open file, not of the path: what is checked is what is read.
        let metadata = file.metadata().map_err(failed)?;
        if let Some(mode) = readable_by_others(&metadata) {
            return Err(TokensError::Readable { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        file.take(TOKEN_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > TOKEN_FILE_BYTES_MAX {
            return Err(TokensError::TooLong { path: path.to_owned() });
        }
        Self::parse(&text)
    }

    /// Reads tokens, one a line: `TOKEN SCOPE`, with the scope `read` or `write`, and anything behind it. `#` begins a
    /// comment. `anonymous SCOPE` says what may be done without a token; nothing unless it is there.
    ///
    /// # Errors
    /// See [`TokensError`].
    pub fn parse(text: &str) -> Result<Self, TokensError> {
        let mut tokens = Self { key: key()?, known: Vec::new(), anonymous: None };
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let wrong = |what: &str| TokensError::Line { line: index + 1, what: what.to_owned() };
            let mut words = line.split_whitespace();
            let Some(token) = words.next() else { continue };
            let scope = match words.next() {
                Some("read") => Scope::Read,
                Some("write") => Scope::Write,
                _ => return Err(wrong("behind the token must stand read or write")),
            };
            if token == ANONYMOUS {
                tokens.anonymous = Some(scope);
                continue;
            }
            if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len()) {
                let what = format!("a token of {} bytes; {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} can be", token.len());
                return Err(TokensError::Line { line: index + 1, what });
            }
            if tokens.known.len() == TOKENS_MAX {
                return Err(TokensError::Line { line: index + 1, what: format!("more than {TOKENS_MAX} tokens") });
            }
            tokens.known.push((hmac::sign(&tokens.key, token.as_bytes()), scope));
        }
        if tokens.known.is_empty() { Err(TokensError::None) } else { Ok(tokens) }
    }

    /// What somebody with this token may do; `None` if nothing. An empty token is none: some clients always send one.
    ///
    /// Takes equally long for every wrong token: all that is compared are digests, with a key of this start.
    pub fn scope(&self, token: Option<&str>) -> Option<Scope> {
        let Some(token) = token.filter(|token| !token.is_empty()) else { return self.anonymous };
        let mut found = None;
        for (known, scope) in &self.known {
            if hmac::verify(&self.key, token.as_bytes(), known.as_ref()).is_ok() {
                found = found.max(Some(*scope));
            }
        }
        found
    }
}

/// The mode of a file that its group or the world can read or write.
#[cfg(unix)]
fn readable_by_others(metadata: &std::fs::Metadata) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = metadata.permissions().mode() & 0o777;
    (mode & 0o066 != 0).then_some(mode)
}

#[cfg(not(unix))]
fn readable_by_others(_: &std::fs::Metadata) -> Option<u32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const READER: &str = "0123456789abcdef";
    const WRITER: &str = "fedcba9876543210";

    #[test]
    fn a_token_allows_what_its_line_says_and_no_more() {
        let text = format!("# tokens\n{READER} read prometheus\n\n{WRITER}\twrite # ci\n");
        let tokens = Tokens::parse(&text).unwrap();
        assert_eq!(tokens.scope(Some(READER)), Some(Scope::Read));
        assert_eq!(tokens.scope(Some(WRITER)), Some(Scope::Write));
        for wrong in [None, Some(""), Some("0123456789abcde"), Some("0123456789abcdef0"), Some("anonymous")] {
            assert_eq!(tokens.scope(wrong), None, "{wrong:?}");
        }
        assert!(!format!("{tokens:?}").contains(READER));
    }

    #[test]
    fn tokens_are_the_same_only_where_every_line_is() {
        let parse = |text: &str| Tokens::parse(text).unwrap();
        let text = format!("{READER} read\n{WRITER} write");
        assert_eq!(parse(&text), parse(&format!("# again\n{text} ci\n")));
        for other in [format!("{READER} read"), text.replace("read", "write"), format!("{text}\nanonymous read")] {
            assert_ne!(parse(&text), parse(&other), "{other}");
        }
    }

    #[test]
    fn without_a_token_only_what_is_said_of_anonymous_is_allowed() {
        let tokens = Tokens::parse(&format!("anonymous read\n{WRITER} write")).unwrap();
        assert_eq!((tokens.scope(None), tokens.scope(Some(""))), (Some(Scope::Read), Some(Scope::Read)));
        assert_eq!(tokens.scope(Some("another token of nobody")), None, "a wrong token is not none");
    }

    #[test]
    fn a_wrong_line_is_named_and_never_shown() {
        for (text, line) in [("secret-secret-secret", 1), ("\nshort write", 2), ("secret-secret-secret all", 1)] {
            let error = Tokens::parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("line {line}")) && !error.contains("secret-"), "{error}");
        }
        assert!(matches!(Tokens::parse("# none\n"), Err(TokensError::None)));
        let many: String = (0..=TOKENS_MAX).map(|n| format!("token-number-{n:08} read\n")).collect();
        assert!(Tokens::parse(&many).unwrap_err().to_string().contains("256"));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("tokens");
        std::fs::write(&path, format!("{READER} read")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Tokens::read(&path), Err(TokensError::Readable { mode: 0o640, .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Tokens::read(&path).is_ok());
    }
}
