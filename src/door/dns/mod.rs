//! DNS: what the view knows, for programs that can only resolve names.
//!
//! [`Dns`] answers for its own domains and for nothing else, over UDP and TCP. A [`Handler`] makes the answers: bytes
//! in, bytes out, from the view in memory; it knows no socket, and so tests and the fuzzer drive it directly. Names,
//! record types and configuration of forwarders are described in `docs/dns.md`.

mod answer;
mod figures;
mod heard;
mod limit;
mod name;
mod near;
mod plan;
mod server;
#[cfg(test)]
mod tests;
mod wire;
mod zone;

pub use self::answer::{ANSWERS_MAX, Handler, Source};
pub use self::figures::{DnsCounts, DnsStats};
pub use self::heard::HEARD_MAX;
pub use self::limit::{PREFIXES_MAX, RATE_DEFAULT};
pub use self::plan::{
    DnsPlan, DomainError, Empty, TTL_MAX, Ttls, TtlsError, UDP_BYTES_DEFAULT, UDP_BYTES_MAX, UDP_BYTES_MIN,
};
pub use self::server::{
    DNS_CLOSE_MAX, Dns, DnsError, TCP_CONNECTIONS_MAX, TCP_CONNECTIONS_PER_PREFIX_MAX, TCP_IDLE_MAX, TCP_WRITE_MAX,
};
pub use self::wire::QUESTION_BYTES_MAX;

/// The target of every line that this door logs.
const DNS_LOG: &str = "tidings::dns";
