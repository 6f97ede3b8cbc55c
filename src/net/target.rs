//! Where a member may find others: what a join target means, and its addresses now. Every resolving starts anew.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::driver::NODE_LOG;
use crate::record::Endpoint;

/// The most bytes that are read of a file of targets, or of what a command prints.
pub const TARGETS_BYTES_MAX: usize = 64 * 1024;

/// How long a command that prints targets may run.
pub const EXEC_MAX: Duration = Duration::from_secs(5);

/// Addresses taken of one target; further ones are left out.
pub const TARGET_ADDRS_MAX: usize = 256;

/// A member, or where members can be learned of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// `HOST:PORT` or `dns:NAME:PORT`: an address, or a name with any number of addresses.
    Host(String),
    /// `srv:NAME`: a DNS SRV record, which has hosts and ports.
    Service(String),
    /// `file:PATH`: one `HOST:PORT` a line; `#` begins a comment.
    File(PathBuf),
    /// `exec:CMD`: a command that prints what stands in such a file.
    Command(Vec<String>),
}

/// Why a text is no join target.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is not HOST:PORT, dns:NAME:PORT, srv:NAME, file:PATH or exec:CMD{why}")]
pub struct TargetError {
    text: String,
    why: &'static str,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let wrong = |why| TargetError { text: text.chars().take(128).collect(), why };
        let host = |host: &str, why| match host.parse::<Endpoint>() {
            Ok(endpoint) if endpoint.port != 0 => Ok(Self::Host(host.to_owned())),
            _ => Err(wrong(why)),
        };
        match text.split_once(':') {
            Some(("dns", name)) => host(name, ": dns: wants NAME:PORT"),
            Some(("srv", "")) => Err(wrong(": srv: wants a name")),
            Some(("srv", _)) if cfg!(not(feature = "dns-join")) => Err(wrong(": built without the feature dns-join")),
            Some(("srv", name)) => Ok(Self::Service(name.to_owned())),
            Some(("file", "")) => Err(wrong(": file: wants a path")),
            Some(("file", path)) => Ok(Self::File(PathBuf::from(path))),
            Some(("exec", command)) => match shell_words::split(command) {
                Ok(words) if !words.is_empty() => Ok(Self::Command(words)),
                Ok(_) => Err(wrong(": exec: wants a command")),
                Err(_) => Err(wrong(": a quote is not closed")),
            },
            _ => host(text, ""),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => f.write_str(host),
            Self::Service(name) => write!(f, "srv:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Command(words) => write!(f, "exec:{}", shell_words::join(words)),
        }
    }
}

impl Target {
    /// The one address that it will always be; `None` if that must be found out.
    pub fn fixed(&self) -> Option<SocketAddr> {
        match self {
            Self::Host(host) => host.parse().ok(),
            Self::Service(_) | Self::File(_) | Self::Command(_) => None,
        }
    }

    /// Its addresses now, or why there are none.
    pub(crate) async fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        let mut addrs = match self {
            Self::Host(host) => look_up(host).await?,
            Self::Service(name) => service(name).await?,
            Self::File(path) => {
                let file = tokio::fs::File::open(path).await.map_err(|error| error.to_string())?;
                listed(&read_some(file).await?).await?
            }
            Self::Command(words) => listed(&run(words).await?).await?,
        };
        addrs.truncate(TARGET_ADDRS_MAX);
        Ok(addrs)
    }
}

async fn look_up(host: &str) -> Result<Vec<SocketAddr>, String> {
    lookup_host(host).await.map(Iterator::collect).map_err(|error| error.to_string())
}

#[cfg(feature = "dns-join")]
async fn service(name: &str) -> Result<Vec<SocketAddr>, String> {
    let mut found = Vec::new();
    for (host, port) in super::dns::services(name).await? {
        match host.parse::<std::net::IpAddr>() {
            Ok(ip) => found.push(SocketAddr::new(ip, port)),
            Err(_) => found.extend(look_up(&format!("{host}:{port}")).await?),
        }
    }
    Ok(found)
}

#[cfg(not(feature = "dns-join"))]
async fn service(_: &str) -> Result<Vec<SocketAddr>, String> {
    Err("built without the feature dns-join".to_owned())
}

/// The addresses of a list: a line that is wrong costs a warning, and never the others.
async fn listed(text: &str) -> Result<Vec<SocketAddr>, String> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() || found.len() >= TARGET_ADDRS_MAX {
            continue;
        }
        // Only hosts: a list that leads to lists could lead to itself.
        let addrs = match line.parse() {
            Ok(Target::Host(host)) => look_up(&host).await,
            Ok(_) => Err("a list holds only HOST:PORT".to_owned()),
            Err(error) => Err(TargetError::to_string(&error)),
        };
        match addrs {
            Ok(addrs) => found.extend(addrs),
            Err(cause) => tracing::warn!(target: NODE_LOG, "cannot resolve {line:?}: {cause}"),
        }
    }
    Ok(found)
}

/// Runs a command without a shell, and gives what it prints.
async fn run(words: &[String]) -> Result<String, String> {
    let (program, arguments) = words.split_first().ok_or("no command")?;
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        // Both at once: a command that fills one pipe must not wait for the other.
        let (out, complaint) = tokio::join!(read_pipe(stdout), read_pipe(stderr));
        let status = child.wait().await.map_err(|error| error.to_string())?;
        // Whose output is cut off dies of the closed pipe: that it said too much is the cause.
        if status.success() || out.is_err() {
            return out;
        }
        let complaint = complaint.unwrap_or_default();
        Err(format!("{status}: {}", complaint.trim().chars().take(512).collect::<String>()))
    };
    timeout(EXEC_MAX, work).await.unwrap_or_else(|_| Err(format!("did not end within {} s", EXEC_MAX.as_secs())))
}

async fn read_pipe(pipe: Option<impl AsyncRead + Unpin>) -> Result<String, String> {
    match pipe {
        Some(pipe) => read_some(pipe).await,
        None => Ok(String::new()),
    }
}

async fn read_some(from: impl AsyncRead + Unpin) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = from.take(TARGETS_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).await;
    read.map_err(|error| error.to_string())?;
    if bytes.len() > TARGETS_BYTES_MAX {
        return Err(format!("more than {TARGETS_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn every_kind_of_target_is_read_and_shown_as_it_was_written() {
        for text in ["127.0.0.1:1", "[::1]:2", "seed.example:3", "srv:_t._udp.example", "file:/a/b", "exec:list 'a b'"]
        {
            assert_eq!(target(text).to_string(), text);
        }
        assert_eq!(target("dns:seed.example:3"), Target::Host("seed.example:3".into()));
        assert_eq!(target("exec:list 'a b'"), Target::Command(vec!["list".into(), "a b".into()]));
        for wrong in ["", "nowhere", "127.0.0.1:0", "dns:name", "srv:", "file:", "exec:", "exec:'", "dns:a:b"] {
            let error = wrong.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains(&format!("{wrong:?}")), "{error}");
        }
    }

    #[tokio::test]
    async fn a_list_may_have_comments_and_a_wrong_line_costs_only_itself() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("seeds");
        std::fs::write(&path, "# all\n127.0.0.1:1 # one\n\nnowhere\nfile:/other\n[::1]:2\n").expect("it is written");
        let found = target(&format!("file:{}", path.display())).resolve().await.expect("it can be read");
        assert_eq!(found, ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
        std::fs::write(&path, vec![b'#'; TARGETS_BYTES_MAX + 1]).expect("it is written");
        let error = Target::File(path.clone()).resolve().await.unwrap_err();
        assert!(error.contains("65536"), "{error}");
        assert!(Target::File(dir.path().join("none")).resolve().await.is_err());
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_command_is_bounded_and_what_it_complains_of_is_told() {
        assert_eq!(target("exec:echo 127.0.0.1:5").resolve().await, Ok(vec!["127.0.0.1:5".parse().unwrap()]));
        let error = target("exec:sh -c 'echo broken >&2; exit 3'").resolve().await.unwrap_err();
        assert!(error.contains("broken") && error.contains('3'), "{error}");
        let error = target("exec:head -c 70000 /dev/zero").resolve().await.unwrap_err();
        assert!(error.contains("65536"), "{error}");
        assert!(target("exec:/no/such/command").resolve().await.is_err());
    }

    #[cfg(unix)]
    #[tokio::test(start_paused = true)]
    async fn a_command_that_does_not_end_is_given_up() {
        let error = target("exec:sleep 1000").resolve().await.unwrap_err();
        assert!(error.contains("5 s"), "{error}");
    }
}
