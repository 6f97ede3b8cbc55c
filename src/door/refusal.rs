//! What a request is told that gets no answer, and how its body is read. `/v1` says it as text, `/v2` as JSON.

use std::time::Duration;

use axum::body::{Body as Sent, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Serialize;
use serde_json::Value;

use super::ask::BadQuery;
use super::body::{self, BadBody};
use crate::effect::InputError;
use crate::offers::OfferError;
use crate::record::check_name;
use crate::select::filter::FilterError;
use crate::view::StopReason;

/// Bytes of a request's body.
pub const BODY_BYTES_MAX: usize = 512 * 1024;

/// How long a body may take.
const BODY_WAIT_MAX: Duration = Duration::from_secs(10);

/// What says which shape the answers of `/v2` have.
pub(super) const SCHEMA_VERSION: u32 = 1;

/// Why a request gets no answer.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) text: String,
    /// The kind of the error, for programs, where the status does not say it.
    kind: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), kind: None }
    }

    /// The same, of this kind.
    pub(super) fn of_kind(self, kind: &'static str) -> Self {
        Self { kind: Some(kind), ..self }
    }

    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    /// The answer as `/v2` gives it.
    pub(super) fn as_json(&self) -> Response {
        #[derive(Serialize)]
        struct Inner<'a> {
            code: &'static str,
            message: &'a str,
        }
        #[derive(Serialize)]
        struct Outer<'a> {
            schema_version: u32,
            error: Inner<'a>,
        }
        let error = Inner { code: self.kind.unwrap_or(code(self.status)), message: &self.text };
        json(self.status, &Outer { schema_version: SCHEMA_VERSION, error })
    }
}

/// Refuses a name that no service can have: nobody ever offers it, and there is nothing to wait for.
pub(super) fn check_service(name: &str) -> Result<(), Refusal> {
    check_name("service", name).map_err(|error| Refusal::bad(error.to_string()))
}

/// The kind of an error, for programs.
fn code(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "unauthorized",
        StatusCode::FORBIDDEN => "forbidden",
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        StatusCode::CONFLICT => "conflict",
        StatusCode::REQUEST_TIMEOUT => "timeout",
        StatusCode::PAYLOAD_TOO_LARGE => "too_large",
        StatusCode::SERVICE_UNAVAILABLE => "unavailable",
        status if status.is_server_error() => "internal",
        _ => "bad_request",
    }
}

/// A value as JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let text = serde_json::to_vec(value).expect("keys are text, and nothing in an answer can fail to serialize");
    with_type(status, "application/json", text)
}

pub(super) fn with_type(status: StatusCode, kind: &'static str, text: impl Into<Sent>) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = with_type(self.status, "text/plain; charset=utf-8", self.text.clone());
        response.extensions_mut().insert(self);
        response
    }
}

impl From<BadQuery> for Refusal {
    fn from(error: BadQuery) -> Self {
        Self::bad(error.to_string())
    }
}

impl From<BadBody> for Refusal {
    fn from(error: BadBody) -> Self {
        Self::bad(error.to_string())
    }
}

impl From<FilterError> for Refusal {
    fn from(error: FilterError) -> Self {
        Self::bad(format!("filter: {error}"))
    }
}

impl From<StopReason> for Refusal {
    fn from(reason: StopReason) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("the member has stopped: {reason}"))
    }
}

impl From<OfferError> for Refusal {
    fn from(error: OfferError) -> Self {
        let status = match &error {
            OfferError::Invalid(_) | OfferError::Check(_) | OfferError::IdChanged { .. } => StatusCode::BAD_REQUEST,
            OfferError::NotTold { .. } | OfferError::NotForYou { .. } | OfferError::Reserved { .. } => {
                StatusCode::BAD_REQUEST
            }
            OfferError::Refused(InputError::RecordTooLarge { .. }) => StatusCode::BAD_REQUEST,
            OfferError::UnknownInstance { .. } | OfferError::UnknownCheck { .. } => StatusCode::NOT_FOUND,
            OfferError::IdInUse { .. } | OfferError::CheckIdInUse { .. } => StatusCode::CONFLICT,
            OfferError::Refused(InputError::Draining | InputError::HasLeft) => StatusCode::CONFLICT,
            OfferError::TooMany { .. } | OfferError::Refused(_) => StatusCode::SERVICE_UNAVAILABLE,
            OfferError::MemberStopped(_) | OfferError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

/// Nothing is done there with that method.
pub(super) async fn wrong_method() -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method")
}

/// What a request's body says, whatever its type is said to be; an empty one is an empty object.
pub(super) struct Said(pub(super) Value);

impl<S: Sync> FromRequest<S> for Said {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let body = Limited::new(request.into_body(), BODY_BYTES_MAX);
        let bytes: Bytes = match tokio::time::timeout(BODY_WAIT_MAX, body.collect()).await {
            Ok(Ok(collected)) => collected.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let text = format!("the body has more than {BODY_BYTES_MAX} bytes");
                return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text));
            }
            Ok(Err(error)) => return Err(Refusal::bad(format!("the body broke off: {error}"))),
            Err(_) => {
                let text = format!("the body took more than {} s", BODY_WAIT_MAX.as_secs());
                return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, text));
            }
        };
        Ok(Self(body::parse(&bytes)?))
    }
}
