//! Asks an agent over HTTP: one connection a question. Knows addresses, tokens, time limits and what a refusal means;
//! nothing of what is asked.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::super::exit::{Exit, Failure, chain};

/// The most bytes of an answer: a view of 100,000 instances has some 50 MiB.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The most bytes of one line of a stream of events; a record has 64 KiB.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// How long a stream of events may be silent: an agent sends a comment every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The variable that holds a token. No option does: the arguments of a process are for everybody to see.
pub(in crate::cli) const TOKEN_VARIABLE: &str = "TIDINGS_HTTP_TOKEN";

/// What to do where an agent answers, and its member does not.
pub(super) const ASK_DOCTOR: &str = "; tidings doctor looks further";

/// The header that numbers a state, for waiting until there is a newer one.
const INDEX: &str = "x-tidings-index";

/// Which agent is asked, and how.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Agent")]
pub(crate) struct ApiArgs {
    /// The agent's HTTP address: HOST:PORT, http://HOST:PORT or https://HOST:PORT
    #[arg(long, env = "TIDINGS_HTTP_ADDR", value_name = "ADDR", default_value = "127.0.0.1:8500")]
    api: Address,

    /// A file with the token that the agent wants. Also: the token itself in TIDINGS_HTTP_TOKEN
    #[arg(long, env = "TIDINGS_HTTP_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Certificates of the authorities to trust for https, in PEM [default: those of the system]
    #[arg(long, env = "TIDINGS_HTTP_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// How long the agent may take to answer; a number with ms, s or m
    #[arg(long, env = "TIDINGS_HTTP_TIMEOUT", value_name = "TIME", default_value = "10s")]
    #[arg(value_parser = super::super::parse_span)]
    timeout: Duration,
}

/// Where an agent listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Address {
    is_tls: bool,
    host: String,
    port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http{}://{}", if self.is_tls { "s" } else { "" }, self.authority())
    }
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not HOST:PORT, http://HOST:PORT or https://HOST:PORT");
        let (is_tls, rest) = match text.split_once("://") {
            None => (false, text),
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(wrong()),
        };
        let (host, port) = rest.strip_suffix('/').unwrap_or(rest).rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            None if !host.is_empty() && !host.contains([':', '/', '@', '?', '#', ' ', '[']) => host,
            _ => return Err(wrong()),
        };
        Ok(Self { is_tls, host: host.to_owned(), port })
    }
}

impl Address {
    fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// An agent that can be asked.
#[derive(Clone, Debug)]
pub(super) struct Api {
    address: Address,
    token: Option<HeaderValue>,
    ca: Option<PathBuf>,
    timeout: Duration,
}

/// An answer of an agent.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// The number of the state, where it has one.
    pub(super) index: Option<u64>,
    /// When the agent says that it is.
    pub(super) date: Option<String>,
    pub(super) body: Bytes,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Api {
    /// # Errors
    /// The token cannot be read, or is none.
    pub(super) fn of(args: &ApiArgs) -> Result<Self, Failure> {
        let token = match (&args.token_file, std::env::var(TOKEN_VARIABLE)) {
            (Some(path), _) => Some(
                std::fs::read_to_string(path)
                    .map_err(|error| Failure::new(Exit::Failed, format!("token file {path:?}: {error}")))?,
            ),
            (None, token) => token.ok().filter(|token| !token.is_empty()),
        };
        let token = token.map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim())).map_err(|_| {
                Failure::new(Exit::Usage, "the token holds characters that no token has; is it the right file?")
            })?;
            value.set_sensitive(true);
            Ok::<_, Failure>(value)
        });
        Ok(Self { address: args.api.clone(), token: token.transpose()?, ca: args.ca.clone(), timeout: args.timeout })
    }

    /// The same, at another address.
    pub(super) fn at(&self, address: Address) -> Self {
        Self { address, ..self.clone() }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// What stands at a path.
    ///
    /// # Errors
    /// Whatever went wrong, with the exit code and what to do next.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        Ok(self.get_newer(path, None).await?.1)
    }

    /// The same once it is newer than `index`, with its own number.
    pub(super) async fn get_newer(&self, path: &str, index: Option<u64>) -> Result<(Option<u64>, Value), Failure> {
        let (path, patience) = match index {
            None => (path.to_owned(), Duration::ZERO),
            Some(index) => {
                let joint = if path.contains('?') { '&' } else { '?' };
                (format!("{path}{joint}index={index}&wait={}s", LONG_POLL.as_secs()), LONG_POLL * 2)
            }
        };
        let answer = self.ask(Method::GET, &path, None, patience).await?;
        Ok((answer.index, self.json(&answer.body)?))
    }

    /// The answer to a wish, for which the agent may take `patience` longer than for others.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<Value, Failure> {
        let answer = self.ask(method, path, body, patience).await?;
        self.json(&answer.body)
    }

    /// Any answer that is no refusal.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<Answer, Failure> {
        let answer = self.ask_anyhow(method, path, body, patience).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(self.refusal(answer.status, &answer.body)) }
    }

    /// Any answer, also a refusal.
    pub(super) async fn ask_anyhow(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<Answer, Failure> {
        let within = self.timeout + patience;
        let answered = async {
            let response = self.exchange(method, path, body).await?;
            let (head, body) = response.into_parts();
            let text = |name: &str| Some(head.headers.get(name)?.to_str().ok()?.to_owned());
            let (index, date) = (text(INDEX).and_then(|index| index.parse().ok()), text(DATE.as_str()));
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| self.broken(&*error))?.to_bytes();
            Ok(Answer { status: head.status, index, date, body })
        };
        tokio::time::timeout(within, answered).await.unwrap_or_else(|_| Err(self.late(within)))
    }

    /// A stream of server-sent events.
    ///
    /// # Errors
    /// As for every question.
    pub(super) async fn events(&self, path: &str) -> Result<Events, Failure> {
        let begun = async {
            let response = self.exchange(Method::GET, path, None).await?;
            let (head, body) = response.into_parts();
            if head.status.is_success() {
                return Ok(Events { api: self.clone(), body, waiting: Vec::new(), searched: 0 });
            }
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            Err(self.refusal(head.status, &body.map_err(|error| self.broken(&*error))?.to_bytes()))
        };
        tokio::time::timeout(self.timeout, begun).await.unwrap_or_else(|_| Err(self.late(self.timeout)))
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response<Incoming>, Failure> {
        let stream = self.connect().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        // It ends with the answer, or with what reads it.
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.address.authority());
        request = request.header(ACCEPT, "application/json, text/event-stream, text/plain");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::new(Exit::Usage, format!("{path:?} is no path: {error}")))?;
        sender.send_request(request).await.map_err(|error| self.broken(&error))
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, Failure> {
        let Address { is_tls, host, port } = &self.address;
        let connected = TcpStream::connect((host.as_str(), *port)).await;
        let stream = connected.map_err(|error| {
            let next = "start one with tidings node --http, or say where it is with --api or TIDINGS_HTTP_ADDR";
            Failure::new(Exit::Unreachable, format!("no agent answers at {}: {error}; {next}", self.address))
        })?;
        if !is_tls {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(host.clone())
            .map_err(|error| Failure::new(Exit::Usage, format!("--api {}: {error}", self.address)))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(self.tls()?));
        let stream = connector.connect(name, stream).await.map_err(|error| {
            let text = chain(&error);
            let next = "name the authority that signed its certificate with --ca, or use http://";
            Failure::new(Exit::Unreachable, format!("no TLS with the agent at {}: {text}; {next}", self.address))
        })?;
        Ok(Box::new(stream))
    }

    fn tls(&self) -> Result<rustls::ClientConfig, Failure> {
        let mut roots = rustls::RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                let failed = |error: &dyn std::fmt::Display| {
                    Failure::new(Exit::Failed, format!("--ca {}: {error}", path.display()))
                };
                for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))? {
                    let certificate = certificate.map_err(|error| failed(&error))?;
                    roots.add(certificate).map_err(|error| failed(&error))?;
                }
                if roots.is_empty() {
                    return Err(failed(&"it holds no certificate"));
                }
            }
            // Those that cannot be read are as good as not there: the handshake says so.
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::caused(Exit::Failed, &error))?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn json(&self, body: &[u8]) -> Result<Value, Failure> {
        serde_json::from_slice(body).map_err(|error| {
            let next = "is it a tidings agent, of this version?";
            Failure::new(Exit::Failed, format!("the answer of {} is not JSON: {error}; {next}", self.address))
        })
    }

    /// What an answer of 400 and above means.
    fn refusal(&self, status: StatusCode, body: &[u8]) -> Failure {
        let told: Option<Value> = serde_json::from_slice(body).ok();
        let told = told.as_ref().map(|told| &told["error"]);
        let message = told.and_then(|told| told["message"].as_str().map(str::to_owned));
        let message = message.unwrap_or_else(|| {
            let text = String::from_utf8_lossy(body);
            let line = text.trim().lines().next().unwrap_or_default();
            let words = if line.is_empty() { status.to_string() } else { line.chars().take(200).collect() };
            format!("{} answers: {words}", self.address)
        });
        let (exit, next) = match status {
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => (Exit::Usage, ""),
            StatusCode::UNAUTHORIZED => (Exit::Refused, "; give a token with --token-file or TIDINGS_HTTP_TOKEN"),
            // The host or the page that it names is not ours to change, and no scope would help.
            StatusCode::FORBIDDEN if told.is_some_and(|told| told["code"] != "forbidden") => (Exit::Refused, ""),
            StatusCode::FORBIDDEN => {
                (Exit::Refused, "; give a token that may do it with --token-file or TIDINGS_HTTP_TOKEN")
            }
            StatusCode::CONFLICT => (Exit::Refused, ""),
            StatusCode::NOT_FOUND => (Exit::NotFound, ""),
            StatusCode::REQUEST_TIMEOUT => (Exit::Timeout, ""),
            StatusCode::SERVICE_UNAVAILABLE => (Exit::Unreachable, ASK_DOCTOR),
            _ => (Exit::Failed, ""),
        };
        Failure::new(exit, format!("{message}{next}"))
    }

    fn broken(&self, error: &(dyn std::error::Error + 'static)) -> Failure {
        let next = "is it a tidings agent, and http where it should be https?";
        let text = format!("the connection to {} broke: {}; {next}", self.address, chain(error));
        Failure::new(Exit::Unreachable, text)
    }

    fn late(&self, within: Duration) -> Failure {
        let next = "--timeout waits longer";
        Failure::new(Exit::Timeout, format!("the agent at {} did not answer within {within:?}; {next}", self.address))
    }
}

/// How long a question for something newer waits at the agent; then it is asked again.
const LONG_POLL: Duration = Duration::from_secs(60);

/// Server-sent events, one after another.
#[derive(Debug)]
pub(super) struct Events {
    api: Api,
    body: Incoming,
    waiting: Vec<u8>,
    /// So many of these have no end of a line.
    searched: usize,
}

impl Events {
    /// The data of the next event.
    ///
    /// # Errors
    /// The stream ended: the agent stopped, or the connection broke, or an event is too long.
    pub(super) async fn next(&mut self) -> Result<Value, Failure> {
        loop {
            let end = self.waiting[self.searched..].iter().position(|byte| *byte == b'\n');
            if end.map_or(self.waiting.len(), |end| self.searched + end) > EVENT_BYTES_MAX {
                let text = format!("{} sent an event of more than {EVENT_BYTES_MAX} bytes", self.api.address);
                return Err(Failure::new(Exit::Failed, text));
            }
            if let Some(end) = end {
                let line: Vec<u8> = self.waiting.drain(..=self.searched + end).collect();
                self.searched = 0;
                // Every event is one line of data; names repeat what is in it, and comments keep the connection.
                match line.strip_prefix(b"data:") {
                    Some(data) => return self.api.json(data.trim_ascii()),
                    None => continue,
                }
            }
            self.searched = self.waiting.len();
            let frame = tokio::time::timeout(SILENCE_MAX, self.body.frame()).await;
            let silent = |_| {
                let text = format!("the agent at {} sent nothing for {SILENCE_MAX:?}: it is gone", self.api.address);
                Failure::new(Exit::Unreachable, text)
            };
            match frame.map_err(silent)? {
                Some(Ok(frame)) => self.waiting.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Some(Err(error)) => return Err(self.api.broken(&error)),
                None => {
                    let text = format!("the agent at {} ended the stream of events", self.api.address);
                    return Err(Failure::new(Exit::Unreachable, text));
                }
            }
        }
    }
}

/// A part of a path or a query, with everything encoded that could mean something there.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_every_usual_form() {
        for (text, shown) in [
            ("127.0.0.1:8500", "http://127.0.0.1:8500"),
            ("http://agent.internal:80/", "http://agent.internal:80"),
            ("https://[::1]:8501", "https://[::1]:8501"),
        ] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()), Ok(shown.to_owned()));
        }
        for wrong in ["", "agent", ":80", "agent:0", "agent:x", "ftp://a:1", "a:1/v2", "::1:80", "http://u@h:1"] {
            assert!(wrong.parse::<Address>().unwrap_err().contains("HOST:PORT"), "{wrong}");
        }
    }

    #[test]
    fn whatever_a_name_holds_stays_one_part_of_a_path() {
        assert_eq!(encoded("web@a:80"), "web%40a%3A80");
        assert_eq!(encoded("a/../b?c=ü"), "a%2F..%2Fb%3Fc%3D%C3%BC");
    }
}
