//! The agent's doors for programs that do not embed the crate.
//!
//! [`http::Http`] serves, on one address:
//!
//! - `/v2`, the native interface in JSON, described by the OpenAPI file that it serves at `/v2/openapi.json`;
//! - `/v1`, what clients of Consul understand: catalog, health, agent and blocking queries;
//! - `/ui`, a page that shows the cluster in a browser;
//! - `/livez` and `/readyz`, and `/metrics` for Prometheus;
//! - `/v1/sd/prometheus`, where Prometheus finds what to scrape;
//! - `/eureka`, what clients of Eureka read.
//!
//! `dns::Dns` (feature `dns`) answers questions for names: addresses, and SRV records with weights.

mod accept;
pub mod ask;
pub mod auth;
pub mod body;
mod certificate;
mod consul;
mod desk;
#[cfg(feature = "dns")]
pub mod dns;
mod eureka;
mod guard;
pub mod http;
mod index;
mod metrics;
mod native;
mod page;
mod patience;
mod prometheus;
mod refusal;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;

use self::desk::Desk;
pub use self::desk::Setting;
pub use self::index::GONE_MAX;
pub use self::metrics::{SELECTIONS_SHOWN_MAX, SERVICES_SHOWN_MAX};
pub use self::native::STREAMS_MAX;
pub use self::patience::{WRITE_BYTES_MIN, WRITE_WAIT_MAX};
pub use self::refusal::BODY_BYTES_MAX;

/// Everything that can be asked.
fn router(desk: Arc<Desk>) -> Router {
    Router::new()
        .merge(native::router())
        .merge(consul::router())
        .merge(metrics::router())
        .merge(prometheus::router())
        .merge(eureka::router())
        .merge(page::router())
        .fallback(consul::fallback)
        .method_not_allowed_fallback(refusal::wrong_method)
        .layer(from_fn_with_state(Arc::clone(&desk), guard::guard))
        .with_state(desk)
}
