//! What stands before every answer: whether the request may be made at all, and the counting.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::ask::Query;
use super::auth::Scope;
use super::desk::Desk;
use super::page;
use super::refusal::Refusal;

/// Lets a request through, or refuses it with a reason.
pub(super) async fn guard(State(desk): State<Arc<Desk>>, request: Request, next: Next) -> Response {
    let figures = &desk.figures;
    figures.requests.fetch_add(1, Ordering::Relaxed);
    let is_native = request.uri().path().starts_with("/v2");
    // A path itself could be anything: only those that we have are names to count by.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let is_head = request.method() == Method::HEAD;
    let mut response = match check(&desk, &request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    let status = response.status();
    figures.by_route.count(route.as_ref().map_or("", MatchedPath::as_str), status.as_u16());
    match status {
        StatusCode::UNAUTHORIZED => {
            figures.unauthorized.fetch_add(1, Ordering::Relaxed);
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        StatusCode::FORBIDDEN => drop(figures.forbidden.fetch_add(1, Ordering::Relaxed)),
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => {
            figures.bodies_refused.fetch_add(1, Ordering::Relaxed);
            // The rest of the body is still on its way: nobody reads it.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        StatusCode::NOT_IMPLEMENTED => drop(figures.unsupported.fetch_add(1, Ordering::Relaxed)),
        _ => {}
    }
    if status.is_client_error() {
        figures.client_errors.fetch_add(1, Ordering::Relaxed);
    } else if status.is_server_error() {
        figures.server_errors.fetch_add(1, Ordering::Relaxed);
    }
    if is_native && !is_head && (status.is_client_error() || status.is_server_error()) {
        return as_json(response);
    }
    response
}

/// A refusal in the words of `/v2`, also one that was not ours.
fn as_json(response: Response) -> Response {
    let refusal = response.extensions().get::<Refusal>().cloned();
    let refusal = refusal.unwrap_or_else(|| {
        let reason = response.status().canonical_reason().unwrap_or("refused").to_lowercase();
        Refusal::new(response.status(), reason)
    });
    let mut told = refusal.as_json();
    for kept in [header::ALLOW, header::WWW_AUTHENTICATE, header::CONNECTION] {
        if let Some(value) = response.headers().get(&kept) {
            told.headers_mut().insert(kept, value.clone());
        }
    }
    told
}

fn check(desk: &Desk, request: &Request) -> Result<(), Refusal> {
    let path = request.uri().path();
    if path == "/livez" || path == "/readyz" {
        return Ok(());
    }
    let query = Query::parse(request.uri().query())?;
    let token = token(request.headers(), &query);
    // A page knows no token.
    let tokens = desk.rules.tokens();
    if token.is_none() || tokens.is_none() {
        check_page(desk, request)?;
    }
    let Some(tokens) = tokens else { return Ok(()) };
    // The page asks for a token itself.
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    if is_read && page::is_page(path) {
        return Ok(());
    }
    let needed = needed(request.method(), path);
    match tokens.scope(token) {
        Some(scope) if scope >= needed => Ok(()),
        Some(scope) => {
            let text = format!("this needs a token with the scope {needed}; yours has {scope}");
            Err(Refusal::new(StatusCode::FORBIDDEN, text))
        }
        None if token.is_none_or(str::is_empty) => {
            Err(Refusal::new(StatusCode::UNAUTHORIZED, format!("this needs a token with the scope {needed}")))
        }
        None => Err(Refusal::new(StatusCode::UNAUTHORIZED, "this token is not known here")),
    }
}

fn needed(method: &Method, path: &str) -> Scope {
    // Who has which key is nothing that every reader needs to know.
    let is_read = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) && !path.starts_with("/v2/keys");
    if is_read { Scope::Read } else { Scope::Write }
}

/// The token of a request, from wherever clients put it.
fn token<'a>(headers: &'a HeaderMap, query: &'a Query<'_>) -> Option<&'a str> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = header("authorization").and_then(|value| {
        let (kind, token) = value.split_once(' ')?;
        kind.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let given = [bearer, header("x-consul-token"), query.value("token")];
    given.into_iter().flatten().find(|token| !token.is_empty())
}

/// Keeps pages of others, which a browser on this machine shows, from using what an agent lets anybody do: they may
/// send simple requests anywhere, and point a name of their own at this address.
fn check_page(desk: &Desk, request: &Request) -> Result<(), Refusal> {
    let headers = request.headers();
    let of = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = of(header::HOST).or(request.uri().authority().map(axum::http::uri::Authority::as_str));
    if desk.addr.ip().to_canonical().is_loopback()
        && let Some(host) = host
        && !is_local_name(host)
    {
        let text = format!("the host {host:?} is not this agent's: without a token, ask by address or localhost");
        return Err(Refusal::new(StatusCode::FORBIDDEN, text).of_kind("wrong_host"));
    }
    if let Some(origin) = of(header::ORIGIN)
        && origin.split_once("://").map(|(_, of)| of) != host
    {
        let text = format!("a web page of {origin:?} cannot use an agent without a token");
        return Err(Refusal::new(StatusCode::FORBIDDEN, text).of_kind("wrong_origin"));
    }
    Ok(())
}

fn is_local_name(host: &str) -> bool {
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) && !name.is_empty() => name,
        _ => host,
    };
    let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || inner.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_names_of_this_machine() {
        for local in ["127.0.0.1:8500", "localhost", "LocalHost:1", "a.localhost:80", "[::1]:8500", "[::1]", "10.0.0.1"]
        {
            assert!(is_local_name(local), "{local}");
        }
        for other in ["evil.example", "evil.example:8500", "127.0.0.1.evil.example", "", ":80", "localhost.evil"] {
            assert!(!is_local_name(other), "{other}");
        }
    }

    #[test]
    fn reading_needs_less_than_writing_and_keys_are_not_for_readers() {
        assert_eq!(needed(&Method::GET, "/v1/catalog/services"), Scope::Read);
        assert_eq!(needed(&Method::PUT, "/v1/agent/service/register"), Scope::Write);
        assert_eq!(needed(&Method::DELETE, "/v2/offers/x"), Scope::Write);
        assert_eq!(needed(&Method::GET, "/v2/keys"), Scope::Write);
    }

    #[test]
    fn a_token_is_found_wherever_clients_put_it() {
        let mut headers = HeaderMap::new();
        let (empty, query) = (Query::parse(None).unwrap(), Query::parse(Some("token=q")).unwrap());
        assert_eq!(token(&headers, &empty), None);
        assert_eq!(token(&headers, &query), Some("q"));
        headers.insert("x-consul-token", HeaderValue::from_static(""));
        assert_eq!(token(&headers, &query), Some("q"), "an empty one is none");
        headers.insert("x-consul-token", HeaderValue::from_static("h"));
        assert_eq!(token(&headers, &query), Some("h"));
        headers.insert("authorization", HeaderValue::from_static("bearer b"));
        assert_eq!(token(&headers, &query), Some("b"));
    }
}
