//! An HTTP check: 2xx is passing, 429 a warning, all else critical. Each run has a connection of its own, as a new
//! caller would.

use std::pin::pin;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, COOKIE, HOST, HeaderName, HeaderValue, LOCATION, PROXY_AUTHORIZATION};
use hyper::http::uri::{Scheme, Uri};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{Fault, NotRun, tls};
use crate::check::{Http, OUTPUT_BYTES_MAX, Outcome, without_user};

/// Redirections that are followed.
const REDIRECTS_MAX: usize = 10;

/// Headers that are for one server alone; curl keeps the same ones from others.
const FOR_ONE_SERVER: [HeaderName; 4] = [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, HOST];

pub(super) async fn probe(http: &Http) -> Result<Outcome, NotRun> {
    let (method, url) = (&http.method, http.shown_url());
    match follow(http).await {
        Ok((status, body)) => {
            let output = format!("HTTP {method} {url}: {status} Output: {}", String::from_utf8_lossy(&body));
            Ok(match status {
                StatusCode::TOO_MANY_REQUESTS => Outcome::warning(output),
                status if status.is_success() => Outcome::passing(output),
                _ => Outcome::critical(output),
            })
        }
        Err(fault) => fault.outcome(&format!("HTTP {method} {url}")),
    }
}

/// The answer where the last redirection leads.
async fn follow(http: &Http) -> Result<(StatusCode, Vec<u8>), Fault> {
    let mut uri: Uri = http.url.parse().map_err(|error| format!("the address is not right: {error}"))?;
    let mut method = Method::from_bytes(http.method.as_bytes()).map_err(|error| error.to_string())?;
    let first = uri.clone();
    for _ in 0..=REDIRECTS_MAX {
        let request = request(http, &uri, &method, &first)?;
        let (status, location, body) = exchange(http, &uri, request).await?;
        let Some(location) = location.filter(|_| http.follows_redirects && is_redirect(status)) else {
            return Ok((status, body));
        };
        uri =
            resolve(&uri, &location).ok_or_else(|| format!("{status} leads nowhere: {:?}", without_user(&location)))?;
        let asks_anew = status == StatusCode::SEE_OTHER
            || (method == Method::POST && matches!(status, StatusCode::FOUND | StatusCode::MOVED_PERMANENTLY));
        if asks_anew && method != Method::HEAD {
            method = Method::GET;
        }
    }
    Err(format!("more than {REDIRECTS_MAX} redirections").into())
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where a `Location` leads, which is a whole address or a path.
fn resolve(from: &Uri, location: &str) -> Option<Uri> {
    let to: Uri = location.parse().ok()?;
    if to.scheme().is_some() {
        return matches!(to.scheme_str(), Some("http" | "https")).then_some(to);
    }
    let path = match location.as_bytes().first()? {
        b'/' => location.to_owned(),
        _ => {
            let base = from.path().rsplit_once('/').map_or("", |(base, _)| base);
            format!("{base}/{location}")
        }
    };
    Uri::builder().scheme(from.scheme()?.clone()).authority(from.authority()?.clone()).path_and_query(path).build().ok()
}

/// The server that an address leads to: one that differs in any of these is another one.
fn server(uri: &Uri) -> (bool, String, u16) {
    let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    (is_tls, uri.host().unwrap_or_default().to_ascii_lowercase(), port)
}

/// User and password of an address, and its host with the port.
fn user_and_host(uri: &Uri) -> Option<(Option<&str>, &str)> {
    let authority = uri.authority()?.as_str();
    Some(authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host)))
}

/// The question for `uri`. What was meant for the server of the `first` address is not told another.
fn request(http: &Http, uri: &Uri, method: &Method, first: &Uri) -> Result<Request<Full<Bytes>>, String> {
    let is_for_us = server(uri) == server(first);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let (_, host) = user_and_host(uri).ok_or("the address has no host")?;
    let user = user_and_host(first).and_then(|(user, _)| user).filter(|_| is_for_us);
    let body = if *method == Method::GET && http.method != "GET" { Bytes::new() } else { http.body.clone().into() };
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method.clone();
    *request.uri_mut() = path.parse().map_err(|error| format!("the path is not right: {error}"))?;
    let headers = request.headers_mut();
    let text = |value: &str| HeaderValue::from_str(value).map_err(|error| error.to_string());
    headers.insert("host", text(host)?);
    headers.insert("user-agent", HeaderValue::from_static(concat!("tidings/", env!("CARGO_PKG_VERSION"))));
    headers.insert("accept", HeaderValue::from_static("text/plain, text/*, */*"));
    if let Some(user) = user {
        let credentials = data_encoding::BASE64.encode(user.as_bytes());
        headers.insert(AUTHORIZATION, text(&format!("Basic {credentials}"))?);
    }
    for (name, values) in &http.headers {
        let name: HeaderName = name.parse().map_err(|error| format!("header {name:?}: {error}"))?;
        if !is_for_us && FOR_ONE_SERVER.contains(&name) {
            continue;
        }
        headers.remove(&name);
        for value in values {
            headers.append(&name, text(value)?);
        }
    }
    // One question, one connection.
    headers.insert("connection", HeaderValue::from_static("close"));
    Ok(request)
}

type Answer = (StatusCode, Option<String>, Vec<u8>);

async fn exchange(http: &Http, uri: &Uri, request: Request<Full<Bytes>>) -> Result<Answer, Fault> {
    let (is_tls, host, port) = server(uri);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, port)).await.map_err(|error| Fault::of(&error))?;
    let answer = if is_tls {
        let stream = tls::connect(&http.tls, host, stream, &[b"http/1.1"]).await?;
        converse(TokioIo::new(stream), request).await
    } else {
        converse(TokioIo::new(stream), request).await
    };
    Ok(answer?)
}

async fn converse<S>(stream: TokioIo<S>, request: Request<Full<Bytes>>) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(stream).await.map_err(|error| error.to_string())?;
    let mut exchange = pin!(async {
        let response = sender.send_request(request).await.map_err(|error| with_cause(&error))?;
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok((response.status(), location, beginning(response).await?))
    });
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // What came before the connection ended is still to be read.
        _ = connection => exchange.await,
    }
}

/// The beginning of the body; the rest is not waited for.
async fn beginning(mut response: Response<Incoming>) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(frame) = response.frame().await {
        let frame = frame.map_err(|error| with_cause(&error))?;
        let data = frame.data_ref().map_or(&[][..], |data| data);
        body.extend_from_slice(&data[..data.len().min(OUTPUT_BYTES_MAX - body.len())]);
        if body.len() == OUTPUT_BYTES_MAX {
            break;
        }
    }
    Ok(body)
}

fn with_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirection_leads_to_an_address_or_a_path() {
        let from: Uri = "http://h:8080/a/b?c".parse().unwrap();
        let to = |location: &str| resolve(&from, location).map(|uri| uri.to_string());
        assert_eq!(to("https://other/x"), Some("https://other/x".into()));
        assert_eq!(to("/x?y"), Some("http://h:8080/x?y".into()));
        assert_eq!(to("x"), Some("http://h:8080/a/x".into()));
        assert_eq!(to("ftp://other/x"), None);
        assert_eq!(to(""), None);
    }

    #[test]
    fn what_was_meant_for_one_host_is_not_told_another() {
        let mut http = Http::new("http://user:secret@h/");
        http.headers.insert("Authorization".into(), vec!["Bearer x".into()]);
        http.headers.insert("X-Mine".into(), vec!["1".into(), "2".into()]);
        let first: Uri = http.url.parse().unwrap();
        let to = |http: &Http, uri: &str| request(http, &uri.parse().unwrap(), &Method::GET, &first).unwrap();
        let ours = to(&http, &http.url);
        assert_eq!(
            (&ours.headers()["host"], &ours.headers()["authorization"]),
            (&"h".parse().unwrap(), &"Bearer x".parse().unwrap())
        );
        for other in ["http://other/", "https://h/", "http://h:8080/", "http://thief:x@other/"] {
            let other = to(&http, other);
            assert!(!other.headers().contains_key("authorization"), "{other:?}");
            assert_eq!(other.headers().get_all("x-mine").iter().count(), 2);
        }
        assert!(to(&http, "http://H:80/there").headers().contains_key("authorization"), "the same, written otherwise");
        http.headers.remove("Authorization");
        let basic = to(&http, "http://h/there").headers()["authorization"].clone();
        assert_eq!(basic, "Basic dXNlcjpzZWNyZXQ=", "the user of the first address, as curl keeps it");
    }
}
