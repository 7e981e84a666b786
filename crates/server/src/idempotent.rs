//! `Idempotency-Key`: a POST that is sent again is answered again, and not done again.
//!
//! Stands behind authorization and before the handler. A request without the
//! header is not touched. With it, the body is read and hashed, the key is checked,
//! and the handler runs to its end even when the client goes away meanwhile. Answers
//! of success are kept, encrypted, for a day; whatever is refused changed nothing,
//! so it is decided again. Where it is not known whether something changed, the
//! repetition is told that, and does nothing.
//!
//! A key is the tenant's and the principal's: nobody is answered with what another
//! was told. Secrets that are shown once are not in what is kept.
//!
//! Source: SPEC 8.2.

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use evidence::canonical;
use evidence::{Timestamp, sha256};
use http_body_util::BodyExt;
use ledger::once::{
    Check, Checked, KeyRefusal, Lease, OnOutage, OnceError, OnceKey, OnceSpace, OnceStatus, TTL_SECS_DEFAULT,
};

use crate::access::operation::Operation;
use crate::body::{self, Held};
use crate::entry::{caught, panic_text};
use crate::error::ProblemCode;
use crate::extract::Canonical;
use crate::tasks::{apart, aside, to_its_end};
use crate::{ApiError, App, Caller};

/// The request header.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Says that an answer was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Longest key (SPEC 8.2).
const KEY_BYTES_MAX: usize = 255;

/// The same for the document: what [`parse_key`] takes, a token or a quoted string.
pub(crate) const KEY_PATTERN: &str =
    r#"^([!#$%&'*+.^_`|~:/0-9A-Za-z-]{1,255}|"([ !#-\[\]-~]|\\["\\]){1,255}")$"#;

/// Longest answer that is kept: those of single records are below 2 KiB, of a whole trace of 1,000 steps below 256 KiB.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Bodies from this length on are hashed beside the async threads, one at a time.
const LARGE_BODY_BYTES: usize = 64 * 1024;

/// Kept with a key whose request may or may not be done.
const UNKNOWN_LABEL: &str = "outcome unknown";

/// Members of answers that are shown once, by operation (SPEC 11.5).
const SHOWN_ONCE: [(&str, &str); 2] = [("key_create", "key"), ("key_rotate", "key")];

impl From<OnceError> for ApiError {
    fn from(error: OnceError) -> Self {
        match error {
            OnceError::Unavailable(cause) => {
                tracing::warn!(cause, "the idempotency store cannot answer");
                Self::unavailable(
                    "idempotency_unavailable",
                    "the idempotency store cannot answer now",
                )
            }
            OnceError::Lost => Self::unavailable("idempotency_data_lost", error.to_string()),
        }
    }
}

impl From<KeyRefusal> for ApiError {
    fn from(refusal: KeyRefusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            KeyRefusal::Unknown => Self::not_found(),
            KeyRefusal::LeaseLost => Self::conflict("lease_lost", message),
            KeyRefusal::Full => full(message),
            KeyRefusal::Busy => Self::unavailable("busy", message),
            KeyRefusal::Backend(error) => error.into(),
        }
    }
}

/// 429: a tenant has as many keys as it may have; they end by themselves.
pub(crate) fn full(message: String) -> ApiError {
    let mut error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "idempotency_full", message);
    error.retry_after_secs = Some(60);
    error
}

/// Does a request once.
pub(crate) async fn once(
    app: &App,
    caller: &Caller,
    operation: Operation,
    request: Request,
    next: Next,
) -> Response {
    done(app, caller, operation, request, next)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

async fn done(
    app: &App,
    caller: &Caller,
    operation: Operation,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let given = key_of(request.headers())?;
    let (mut parts, body) = request.into_parts();
    let held = body::receive(&app.budget, &app.limits, caller.sender(), &parts.headers, body).await?;
    // What cannot be kept afterwards is not done: also not when the operator lets outages pass.
    app.once.vault().ready()?;
    let (bytes, target) = (
        held.bytes.clone(),
        parts.uri.path_and_query().map(ToString::to_string),
    );
    let (hash, canonical, hold) = hash_of(app, held, target.unwrap_or_default()).await?;
    if let Some(canonical) = canonical {
        // So that the handler need not make it anew.
        parts.extensions.insert(canonical);
    }
    let principal = &caller.principal;
    let key = OnceKey {
        space: OnceSpace::Answer,
        tenant: Arc::clone(&caller.tenant.tenant_id),
        key: format!("{}:{principal}:{given}", principal.len()).into(),
    };
    let check = Check {
        // Of a body with one of few contents its hash tells which; the answer beside it is encrypted.
        hash: Some(app.once.vault().keyed(&hash)?),
        label: None,
        ttl_secs: TTL_SECS_DEFAULT,
    };
    let asked = Asked {
        caller: caller.clone(),
        operation: operation.name,
        given,
        key,
        hash,
        hold,
    };
    let (app, request) = (app.clone(), Request::from_parts(parts, Body::from(bytes)));
    // The key is claimed in there too: whoever claims it gives it back, though nobody waits for the answer any more.
    to_its_end(async move { answered(&app, asked, check, request, next).await }).await
}

/// A request and its key.
struct Asked {
    caller: Caller,
    operation: &'static str,
    given: String,
    key: OnceKey,
    /// Of target and body.
    hash: [u8; 32],
    /// The body's part of what may be in memory.
    hold: body::Hold,
}

/// Claims the key, and does the request or says why not.
async fn answered(
    app: &App,
    asked: Asked,
    check: Check,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let Asked {
        caller,
        operation,
        given,
        key,
        hash,
        hold,
    } = asked;
    // The lease begins now and not with the first byte of a body that came slowly.
    let at = (app.clock)();
    let lease = match app.once.check(&key, check, at).await {
        Ok(Checked::New { lease, .. }) => lease,
        Ok(Checked::Conflict(_)) => {
            return Err(ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "the key was used for another request",
            ));
        }
        Ok(Checked::Duplicate(entry)) if entry.status == OnceStatus::Pending => {
            let message = "a request with this key is being answered";
            let mut error = ApiError::conflict("idempotency_in_progress", message);
            error.retry_after_secs = Some(1);
            return Err(error);
        }
        Ok(Checked::Duplicate(entry)) if entry.label.as_deref() == Some(UNKNOWN_LABEL) => {
            return Err(ApiError::conflict(
                "earlier_outcome_unknown",
                "the request was tried before; whether it was done is not known",
            ));
        }
        Ok(Checked::Duplicate(entry)) => {
            let mut kept = app.once.kept(&key, &entry, at).await?;
            let answer = match &mut kept {
                Some(kept) => app.once.vault().open(&key, std::mem::take(&mut kept.payload))?,
                None => None,
            };
            return answer.and_then(|kept| answer_of(&kept)).ok_or_else(|| {
                ApiError::conflict(
                    "answer_not_kept",
                    "the request was answered before; its answer is not kept",
                )
            });
        }
        Err(KeyRefusal::Backend(error)) => {
            passed(app, &caller, error, operation, &given, &hash, at).await?;
            drop(hold);
            return Ok(next.run(request).await);
        }
        Err(refusal) => return Err(refusal.into()),
    };
    let done = async {
        // The handler counts the body itself: who counts it twice has no room for a large one's values.
        drop(hold);
        // A handler that panics has an answer too. One that blocks must not keep a lease from being renewed.
        let answered = if app.once.is_shared() {
            apart(next.run(request)).await
        } else {
            caught(next.run(request)).await
        };
        let response =
            answered.unwrap_or_else(|panic| ApiError::internal(&panic_text(&*panic)).into_response());
        settled(app, &key, lease, operation, response).await
    };
    Ok(app.once.holding(&key, lease, app.clock, done).await)
}

/// Lets something pass though the store cannot answer, if the operator has said so; puts it on record, or refuses.
pub(crate) async fn passed(
    app: &App,
    caller: &Caller,
    error: OnceError,
    operation: &'static str,
    key: &str,
    hash: &[u8; 32],
    at: Timestamp,
) -> Result<(), ApiError> {
    // Lost data is no outage: it would pass for ever.
    if matches!(error, OnceError::Lost) || app.once.options().on_outage == OnOutage::Refuse {
        return Err(error.into());
    }
    tracing::warn!(%error, operation, "passed without idempotency");
    let event = crate::system::Event::bypassed(operation, key, hash);
    let (recorder, tenant) = (app.clone(), Arc::clone(&caller.tenant));
    app.blocking(move |_| {
        recorder.try_record(&tenant, &event, at).map_err(|cause| {
            tracing::error!(cause, "a pass without idempotency could not be put on record");
            ApiError::from(error)
        })
    })
    .await
}

/// What an answer says of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It is done.
    Done,
    /// It was refused: nothing changed.
    Refused,
    /// It may be done or not, or in part.
    Unknown,
}

/// Of an answer's status and, if it is a problem, its code.
fn outcome_of(status: StatusCode, code: Option<&'static str>) -> Outcome {
    match (status, code) {
        (status, _) if status.is_success() => Outcome::Done,
        (StatusCode::INTERNAL_SERVER_ERROR, _) | (_, Some("outcome_unknown")) => Outcome::Unknown,
        _ => Outcome::Refused,
    }
}

/// Keeps what was answered, or that there is nothing to keep.
async fn settled(
    app: &App,
    key: &OnceKey,
    lease: Lease,
    operation: &'static str,
    response: Response,
) -> Response {
    let code = response.extensions().get::<ProblemCode>().map(|code| code.0);
    let (response, end) = match outcome_of(response.status(), code) {
        Outcome::Refused => {
            let why = format!("answered {}", response.status());
            (response, End::Refused(why))
        }
        // Were the key given back, a repetition would do it a second time.
        Outcome::Unknown => (response, End::Done(Some(UNKNOWN_LABEL), None)),
        Outcome::Done => {
            let (response, kept) = kept(operation, response).await;
            let sealed = kept.and_then(|kept| match app.once.vault().seal(key, kept) {
                Ok(sealed) => Some(sealed),
                Err(error) => {
                    tracing::warn!(%error, "an answer could not be encrypted, and is not kept");
                    None
                }
            });
            (response, End::Done(None, sealed))
        }
    };
    ended(app, key, lease, end).await;
    // It is done, whatever becomes of the key: the client is told so.
    response
}

/// What becomes of a key.
enum End {
    /// Completed: the word, and the answer that is kept.
    Done(Option<&'static str>, Option<Vec<u8>>),
    /// Given back, and why.
    Refused(String),
}

/// Ends the key. When the store cannot answer, it is tried again beside the answer for as long as the lease may hold:
/// after that the repetition of what is done would be done.
async fn ended(app: &App, key: &OnceKey, lease: Lease, end: End) {
    let mut tries = app.once.tries();
    if !tried(app, key, lease, &end).await {
        let (app, key) = (app.clone(), key.clone());
        aside(async move {
            while tries.next().await {
                if tried(&app, &key, lease, &end).await {
                    return;
                }
            }
            tracing::error!("a key could not be ended");
        });
    }
}

/// One try; `false`: another may succeed.
async fn tried(app: &App, key: &OnceKey, lease: Lease, end: &End) -> bool {
    let at = (app.clock)();
    let done = match end {
        End::Done(label, payload) => {
            let label = label.map(str::to_owned);
            app.once
                .complete(key, lease, label, None, payload.clone(), at)
                .await
        }
        End::Refused(why) => app.once.fail(key, lease, why, at).await,
    };
    match done {
        Ok(_) => true,
        Err(KeyRefusal::Backend(error @ OnceError::Unavailable(_))) => {
            tracing::warn!(%error, "a key could not be ended yet");
            false
        }
        Err(refusal) => {
            tracing::warn!(%refusal, "an answer could not be kept, or a key given back");
            true
        }
    }
}

/// The answer as it goes out, and as it is kept; `None`: it is too long, or cannot be kept.
async fn kept(operation: &str, response: Response) -> (Response, Option<Vec<u8>>) {
    let (parts, body) = response.into_parts();
    let length = body
        .size_hint()
        .upper()
        .and_then(|length| usize::try_from(length).ok());
    if length.is_none_or(|length| length > ANSWER_BYTES_MAX) {
        return (Response::from_parts(parts, body), None);
    }
    let bytes = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return (ApiError::internal(&error).into_response(), None),
    };
    let kept = kept_as(operation, parts.status, &parts.headers, &bytes);
    (Response::from_parts(parts, Body::from(bytes)), kept)
}

/// An answer as it is kept.
fn kept_as(operation: &str, status: StatusCode, headers: &HeaderMap, bytes: &Bytes) -> Option<Vec<u8>> {
    let shown_once = SHOWN_ONCE.iter().find(|(name, _)| *name == operation);
    let shown = match shown_once {
        None => bytes.clone(),
        Some((_, member)) => without(bytes, member).ok()?,
    };
    // The media type and, on a line of its own, which no header's value can have, where what was made is.
    let said = |name: HeaderName| headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
    let (media, location) = (said(header::CONTENT_TYPE), said(header::LOCATION));
    let line = if location.is_empty() { &b""[..] } else { b"\n" };
    let said = [media, line, location].concat();
    let mut kept = Vec::with_capacity(4 + said.len() + shown.len());
    kept.extend_from_slice(&status.as_u16().to_be_bytes());
    kept.extend_from_slice(&u16::try_from(said.len()).unwrap_or(0).to_be_bytes());
    kept.extend_from_slice(&said);
    kept.extend_from_slice(&shown);
    Some(kept)
}

/// An answer that was kept.
fn answer_of(kept: &[u8]) -> Option<Response> {
    let (status, rest) = kept.split_first_chunk::<2>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (said, body) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let mut said = said.split(|byte| *byte == b'\n');
    let (media, location) = (said.next().unwrap_or_default(), said.next());
    let status = StatusCode::from_u16(u16::from_be_bytes(*status)).ok()?;
    let mut response = (status, Bytes::copy_from_slice(body)).into_response();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    if !media.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_bytes(media).ok()?);
    }
    if let Some(location) = location {
        headers.insert(header::LOCATION, HeaderValue::from_bytes(location).ok()?);
    }
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    Some(response)
}

/// A JSON object without a member.
fn without(bytes: &[u8], member: &str) -> Result<Bytes, ApiError> {
    let mut value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| ApiError::internal(&error))?;
    if let Some(object) = value.as_object_mut() {
        object.remove(member);
    }
    Ok(value.to_string().into())
}

/// The key: a quoted structured-field string or a bare token, 1 to 255 bytes.
fn key_of(headers: &HeaderMap) -> Result<String, ApiError> {
    let bad = |message: &str| ApiError::new(StatusCode::BAD_REQUEST, "bad_idempotency_key", message);
    let mut all = headers.get_all(IDEMPOTENCY_KEY).iter();
    let (Some(value), None) = (all.next(), all.next()) else {
        return Err(bad("Idempotency-Key stands more than once"));
    };
    let key = parse_key(value.as_bytes())
        .ok_or_else(|| bad("Idempotency-Key is neither a quoted string nor a token of visible ASCII"))?;
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(bad("Idempotency-Key must have 1 to 255 bytes"));
    }
    Ok(key)
}

/// RFC 8941, section 3.3.3, or `1*( tchar / ":" / "/" )`: identifiers that begin with a digit are meant too.
fn parse_key(value: &[u8]) -> Option<String> {
    let value = value.trim_ascii();
    let Some(quoted) = value.strip_prefix(b"\"") else {
        let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(byte);
        return value
            .iter()
            .all(token)
            .then(|| String::from_utf8_lossy(value).into_owned());
    };
    let mut key = String::new();
    let mut bytes = quoted.strip_suffix(b"\"")?.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => match bytes.next() {
                Some(&escaped @ (b'"' | b'\\')) => key.push(char::from(escaped)),
                _ => return None,
            },
            b'"' => return None,
            0x20..=0x7e => key.push(char::from(byte)),
            _ => return None,
        }
    }
    Some(key)
}

/// What "the same request" means: target and body, JSON by its value. Of a short body, its canonical form too.
async fn hash_of(
    app: &App,
    held: Held,
    target: String,
) -> Result<([u8; 32], Option<Canonical>, body::Hold), ApiError> {
    let hash = move |held: Held| -> Result<_, ApiError> {
        let _values = held.values()?;
        let mut text = target.into_bytes();
        text.push(0);
        let body_at = text.len();
        let canonical = canonical::canonicalize(&held.bytes, canonical::Limits::default());
        // The handler says what is wrong with it.
        text.extend_from_slice(canonical.as_deref().unwrap_or(&held.bytes));
        let hash = sha256(&text);
        let canonical = canonical.map(|_| Canonical(Bytes::from(text).slice(body_at..)));
        Ok((hash, canonical.ok(), held.into_hold()))
    };
    // No body is none, whatever it is said to be packed as.
    if held.bytes.is_empty() || (!held.is_gzip() && held.bytes.len() < LARGE_BODY_BYTES) {
        return hash(held);
    }
    let permit = app
        .large_bodies
        .clone()
        .acquire_owned()
        .await
        .map_err(|error| ApiError::internal(&error))?;
    app.blocking(move |_| {
        // Not kept beside a long body: memory is counted for one.
        let (hash, _, hold) = hash(held.inflate()?)?;
        drop(permit);
        Ok((hash, None, hold))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_quoted_strings_or_tokens() {
        let key = |text: &str| parse_key(text.as_bytes());
        for (text, is) in [
            ("abc", "abc"),
            ("\"abc\"", "abc"),
            (
                " 8e03978e-40d5-43dd-bc93-6894a57f9324 ",
                "8e03978e-40d5-43dd-bc93-6894a57f9324",
            ),
            (r#""a \"b\" \\ c""#, r#"a "b" \ c"#),
            ("urn:uuid:1/2", "urn:uuid:1/2"),
            ("\"\"", ""),
        ] {
            assert_eq!(key(text).as_deref(), Some(is), "{text}");
        }
        for bad in [
            "a b",
            "\"a",
            "a\"",
            "\"a\"b\"",
            r#""\x""#,
            "\"\\\"",
            "ä",
            "\"ä\"",
            "a,b",
            "\"a\";p=1",
            "\"\t\"",
        ] {
            assert_eq!(key(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_what_changed_nothing_is_decided_again() {
        for (status, code, outcome) in [
            (201, None, Outcome::Done),
            (204, None, Outcome::Done),
            (404, Some("not_found"), Outcome::Refused),
            (429, Some("rate_limited"), Outcome::Refused),
            (503, Some("busy"), Outcome::Refused),
            (503, Some("outcome_unknown"), Outcome::Unknown),
            (500, Some("internal"), Outcome::Unknown),
            (500, None, Outcome::Unknown),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(outcome_of(status, code), outcome, "{status} {code:?}");
        }
    }

    #[test]
    fn an_answer_is_given_again_as_it_was() {
        let answer = answer_of(b"\x00\xc9\x00\x10application/json{}").unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/json");
        assert_eq!(answer.headers()[REPLAYED], "true");
        assert_eq!(answer.headers().get(header::LOCATION), None);
        let answer = answer_of(b"\x00\xca\x00\x13application/json\n/v{}").unwrap();
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/json");
        assert_eq!(answer.headers()[header::LOCATION], "/v");
        for damaged in [
            &b""[..],
            b"\x00",
            b"\x00\xc9\x00",
            b"\x00\xc9\x00\x05abc",
            b"\x00\x01\x00\x00",
        ] {
            assert!(answer_of(damaged).is_none(), "{damaged:?}");
        }
    }
}
