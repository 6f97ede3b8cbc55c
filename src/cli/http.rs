//! The HTTP interface on the command line: whether a node has one, and who may use it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidings::door::Setting;
use tidings::door::auth::Tokens;
use tidings::door::http::{Http, HttpError, HttpPlan, HttpsFiles};
use tidings::offers::Offers;

use super::exit::{Exit, Failure};

/// Whether and how a node serves HTTP.
#[derive(Debug, clap::Args)]
pub(super) struct HttpArgs {
    /// Serve HTTP on this address, such as 127.0.0.1:8500: /v2, what clients of Consul understand at /v1, /metrics
    ///
    /// Whoever can reach it can read and change all, unless there are tokens. Other addresses than loopback need
    /// --http-tokens, --http-cert and --http-key, or --insecure.
    #[arg(long, env = "TIDINGS_HTTP", value_name = "ADDR", verbatim_doc_comment)]
    http: Option<SocketAddr>,

    /// A file with the tokens that HTTP asks for: TOKEN read or TOKEN write, one a line; # begins a comment
    ///
    /// `anonymous read` lets everybody read. It must not be readable by the group or the world. SIGHUP reads it again.
    /// The token that a command sends to an agent is another: --token-file, TIDINGS_HTTP_TOKEN.
    #[arg(long, env = "TIDINGS_HTTP_TOKENS", value_name = "FILE", requires = "http", verbatim_doc_comment)]
    http_tokens: Option<PathBuf>,

    /// Serve HTTPS with this certificate, in PEM, followed by those between it and its authority
    ///
    /// SIGHUP reads it and its key again; if they cannot be used, or do not belong together, the one from before goes
    /// on, and they are tried again for a minute.
    #[arg(long, env = "TIDINGS_HTTP_CERT", value_name = "FILE", requires = "http_key", verbatim_doc_comment)]
    http_cert: Option<PathBuf>,

    /// The private key of that certificate, in PEM; SIGHUP reads it again
    #[arg(long, env = "TIDINGS_HTTP_KEY", value_name = "FILE", requires = "http_cert")]
    http_key: Option<PathBuf>,

    /// What /v1 calls the datacenter, and what names in DNS may have before the domain
    #[arg(long, env = "TIDINGS_DATACENTER", value_name = "NAME", default_value = "dc1")]
    datacenter: String,
}

impl HttpArgs {
    /// What names of the datacenter have.
    pub(super) fn datacenter(&self) -> &str {
        &self.datacenter
    }

    /// What is to be opened; `None` if nothing.
    pub(super) fn plan(
        &self,
        cluster: &str,
        is_insecure: bool,
        drain_timeout: Duration,
        settings: Vec<Setting>,
    ) -> Result<Option<HttpPlan>, Failure> {
        let Some(bind) = self.http else { return Ok(None) };
        let mut plan = HttpPlan::new(bind, cluster);
        plan.datacenter = Arc::from(self.datacenter.as_str());
        plan.is_insecure = is_insecure;
        plan.drain_timeout = drain_timeout;
        plan.settings = settings;
        plan.tokens = self.tokens()?;
        if let (Some(certificate), Some(key)) = (&self.http_cert, &self.http_key) {
            plan.https = Some(HttpsFiles { certificate: certificate.clone(), key: key.clone() });
        }
        plan.check().map_err(|error| refused(&error))?;
        Ok(Some(plan))
    }

    /// Reads the file of tokens, if there shall be any.
    pub(super) fn tokens(&self) -> Result<Option<Tokens>, Failure> {
        let Some(path) = &self.http_tokens else { return Ok(None) };
        Tokens::read(path).map(Some).map_err(|error| refused(&error.into()))
    }
}

/// Opens it.
pub(super) fn open(offers: Offers, plan: HttpPlan) -> Result<Http, Failure> {
    raise_descriptors();
    let http = Http::open(offers, plan).map_err(|error| refused(&error))?;
    tracing::info!("serving HTTP at {}", http.url());
    Ok(http)
}

fn refused(error: &HttpError) -> Failure {
    let exit = match error {
        HttpError::NotLoopback { .. } => Exit::Refused,
        HttpError::Tokens(tidings::door::auth::TokensError::Readable { .. }) => Exit::Refused,
        _ => Exit::Failed,
    };
    Failure::caused(exit, error)
}

/// Every client that waits is a descriptor, and many systems begin with a thousand.
#[cfg(unix)]
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if let Err(error) = raised {
        tracing::warn!("the limit of open descriptors stays {:?}: {error}", limit.current);
    }
}

#[cfg(not(unix))]
fn raise_descriptors() {}
