//! `/ui`: the cluster at a glance, for a browser. Files that are part of the program; all that they show they read from
//! `/v2`, as any other client. Knows nothing of the view.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use xxhash_rust::xxh3::xxh3_64;

use super::consul;
use super::desk::Desk;
use super::refusal::with_type;

/// What the page may do: run its own script, use its own style and picture, and ask this agent. No text can become
/// markup (`require-trusted-types-for`): names come from whoever is a member.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// A file of the page.
struct File {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

const FILES: [File; 4] = [
    File { path: "/ui/", kind: "text/html; charset=utf-8", text: include_str!("index.html") },
    File { path: "/ui/style.css", kind: "text/css; charset=utf-8", text: include_str!("style.css") },
    File { path: "/ui/page.js", kind: "text/javascript; charset=utf-8", text: include_str!("page.js") },
    File { path: "/ui/icon.svg", kind: "image/svg+xml", text: include_str!("icon.svg") },
];

/// A mark for each file's content, by which a browser knows that it has it.
static MARKS: LazyLock<[HeaderValue; FILES.len()]> = LazyLock::new(|| {
    std::array::from_fn(|file| {
        let mark = format!("\"{:016x}\"", xxh3_64(FILES[file].text.as_bytes()));
        HeaderValue::from_str(&mark).expect("hexadecimal digits in quotes")
    })
});

/// The page's files, and the ways to it.
pub(super) fn router() -> Router<Arc<Desk>> {
    let mut router = Router::new().route("/", get(begin)).route("/ui", get(enter));
    for (index, file) in FILES.iter().enumerate() {
        router = router.route(file.path, get(move |headers: HeaderMap| async move { serve(index, &headers) }));
    }
    router
}

/// Whether a path belongs to the page, which holds nothing that a token guards.
pub(super) fn is_page(path: &str) -> bool {
    path == "/" || path == "/ui" || FILES.iter().any(|file| file.path == path)
}

/// Browsers get to the page; everybody else finds nothing here, as before there was one.
async fn begin(request: Request) -> Response {
    let accepts = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if accepts.is_some_and(|kinds| kinds.contains("text/html")) {
        return to("ui/");
    }
    consul::fallback(request).await.into_response()
}

async fn enter() -> Response {
    to("ui/")
}

/// A relative address: the agent may stand behind a proxy, below a path that it does not know.
fn to(place: &'static str) -> Response {
    let mut response = with_type(StatusCode::TEMPORARY_REDIRECT, "text/plain; charset=utf-8", "see ui/\n");
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static(place));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

fn serve(index: usize, asked: &HeaderMap) -> Response {
    let (file, mark) = (&FILES[index], &MARKS[index]);
    let mut response = if has(asked, mark) {
        let mut nothing = Response::new(axum::body::Body::empty());
        *nothing.status_mut() = StatusCode::NOT_MODIFIED;
        nothing
    } else {
        with_type(StatusCode::OK, file.kind, file.text)
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, mark.clone());
    for (name, value) in [
        // Asked for again each time: a page of an older agent may not understand this one.
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether who asks has the file with this mark; proxies that compress make marks weak.
fn has(asked: &HeaderMap, mark: &HeaderValue) -> bool {
    let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    known.flat_map(|marks| marks.split(',')).any(|known| {
        let known = known.trim();
        known == "*" || known.strip_prefix("W/").unwrap_or(known).as_bytes() == mark.as_bytes()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_sent_again_only_to_whoever_has_another_one() {
        let asked = |marks: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_str(marks).expect("text"));
            headers
        };
        for index in 0..FILES.len() {
            let mark = MARKS[index].to_str().expect("text");
            assert_eq!(serve(index, &HeaderMap::new()).status(), 200);
            assert_eq!(serve(index, &asked("\"0000000000000000\"")).status(), 200);
            for known in [mark.to_owned(), format!("W/{mark}"), format!("\"x\", {mark}"), "*".to_owned()] {
                let answer = serve(index, &asked(&known));
                assert_eq!((answer.status().as_u16(), &answer.headers()[header::ETAG]), (304, &MARKS[index]));
            }
        }
    }

    #[test]
    fn the_page_names_nothing_outside_and_makes_no_markup_of_text() {
        let [html, css, js, icon] = FILES.map(|file| file.text);
        for (name, text) in [("index.html", html), ("style.css", css), ("page.js", js), ("icon.svg", icon)] {
            let outside = text.replace("http://www.w3.org/2000/svg", "");
            for wrong in ["http://", "https://", "//cdn", "@import", "javascript:"] {
                assert!(!outside.contains(wrong), "{name} names {wrong}");
            }
        }
        for wrong in [" style=", "<style", " onclick=", " onload=", "<script>"] {
            assert!(!html.contains(wrong), "the policy forbids {wrong}");
        }
        let makers =
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "localStorage"];
        for wrong in makers {
            assert!(!js.contains(wrong), "{wrong}");
        }
        assert_eq!(html.matches("<script").count(), 1);
    }
}
