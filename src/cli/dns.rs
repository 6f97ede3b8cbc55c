//! DNS on the command line: whether a node serves it, and how.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidings::door::dns::{Dns, DnsPlan, DomainError, Empty, RATE_DEFAULT, Ttls, TtlsError, UDP_BYTES_DEFAULT};
use tidings::registry::Registry;

use super::exit::{Exit, Failure};
use super::parse_span;

/// Whether and how a node serves DNS.
#[derive(Debug, clap::Args)]
pub(super) struct DnsArgs {
    /// Serve DNS on this address, over UDP and TCP; without an address on 127.0.0.1:8600
    ///
    /// NAME.service.tidings, TAG.NAME.service.tidings, _NAME._tcp.service.tidings, NAME.service.NAMESPACE.ns.tidings,
    /// MEMBER.node.tidings, and addresses in reverse; docs/dns.md has the forwarders' configuration. Whoever can reach
    /// the address can ask; for other domains it is refused.
    #[arg(long, env = "TIDINGS_DNS", value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:8600")]
    #[arg(verbatim_doc_comment)]
    dns: Option<SocketAddr>,

    /// The domain of the names
    #[arg(long, env = "TIDINGS_DNS_DOMAIN", value_name = "DOMAIN", default_value = "tidings", value_parser = domain)]
    dns_domain: Arc<str>,

    /// A domain in which the same names are found; repeatable, or with commas
    #[arg(
        long,
        env = "TIDINGS_DNS_ALT_DOMAIN",
        value_name = "DOMAIN",
        default_value = "consul",
        value_delimiter = ','
    )]
    #[arg(value_parser = domain)]
    dns_alt_domain: Vec<Arc<str>>,

    /// How long answers about a service may be kept, such as web=5s, web-*=10s or *=1s; repeatable, or with commas
    ///
    /// The very name wins, then the longest beginning, then *. Without a rule they are not kept.
    #[arg(long, env = "TIDINGS_DNS_TTL", value_name = "SERVICE=TIME", value_delimiter = ',', value_parser = rule)]
    dns_ttl: Vec<String>,

    /// How long answers about members may be kept; a number with s or m, whole seconds
    #[arg(long, env = "TIDINGS_DNS_NODE_TTL", value_name = "TIME", default_value = "0s", value_parser = parse_span)]
    dns_node_ttl: Duration,

    /// What a service is answered with that is known, and has no healthy instance
    #[arg(long, env = "TIDINGS_DNS_EMPTY", value_enum, value_name = "ANSWER", default_value_t = Answer::Nodata)]
    dns_empty: Answer,

    /// Leave out instances with a warning, too
    #[arg(long, env = "TIDINGS_DNS_ONLY_PASSING")]
    dns_only_passing: bool,

    /// Tell metadata, versions and zones in TXT records
    #[arg(long, env = "TIDINGS_DNS_TXT")]
    dns_txt: bool,

    /// Tell of instances in nearer zones first: of this member's own, then of others by their round-trip times
    ///
    /// SRV records of farther zones have a higher priority number: a client that minds it goes there only if nobody
    /// nearer answers.
    #[arg(long, env = "TIDINGS_DNS_NEAR")]
    dns_near: bool,

    /// The largest answer over UDP, in bytes; a client that can take less says so
    #[arg(long, env = "TIDINGS_DNS_UDP_MAX_BYTES", value_name = "BYTES", default_value_t = UDP_BYTES_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u16).range(512..=4_096))]
    dns_udp_max_bytes: u16,

    /// Answers a second over UDP to each network off this machine (a /24, or a /56 of IPv6); 0 for any number
    #[arg(long, env = "TIDINGS_DNS_RATE", value_name = "NUMBER", default_value_t = RATE_DEFAULT)]
    dns_rate: u32,
}

/// What is answered when there is nothing to tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Answer {
    /// The name is there, without records
    Nodata,
    /// There is no such name, as Consul does it
    Nxdomain,
}

fn domain(text: &str) -> Result<Arc<str>, DomainError> {
    DnsPlan::domain(text)
}

fn rule(text: &str) -> Result<String, TtlsError> {
    text.parse::<Ttls>().map(|_| text.to_owned())
}

impl DnsArgs {
    /// What is to be opened; `None` if nothing.
    pub(super) fn plan(&self, datacenter: &str) -> Result<Option<DnsPlan>, Failure> {
        let Some(bind) = self.dns else { return Ok(None) };
        let wrong = |error: &dyn std::error::Error| Failure::new(Exit::Usage, error.to_string());
        let mut plan = DnsPlan::new(bind);
        plan.domain = Arc::clone(&self.dns_domain);
        plan.alternatives.clone_from(&self.dns_alt_domain);
        plan.datacenter = DnsPlan::domain(datacenter).map_err(|error| wrong(&error))?;
        for rule in &self.dns_ttl {
            plan.ttls.add(rule).map_err(|error| wrong(&error))?;
        }
        plan.node_ttl = self.dns_node_ttl;
        plan.empty = match self.dns_empty {
            Answer::Nodata => Empty::NoData,
            Answer::Nxdomain => Empty::NxDomain,
        };
        plan.only_passing = self.dns_only_passing;
        plan.has_text = self.dns_txt;
        plan.near = self.dns_near;
        plan.udp_bytes_max = self.dns_udp_max_bytes;
        plan.rate = self.dns_rate;
        Ok(Some(plan))
    }
}

/// Opens it.
pub(super) fn open(registry: &Registry, plan: DnsPlan) -> Result<Dns, Failure> {
    let dns = Dns::open(registry, plan).map_err(|error| Failure::caused(Exit::Failed, &error))?;
    tracing::info!("serving DNS at {}", dns.addr());
    Ok(dns)
}
