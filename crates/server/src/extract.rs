//! Extractors: what a handler takes from a request, refused as problem+json when it is wrong.
//!
//! In scope: JSON bodies, query parameters, path parameters. Out of scope: reading
//! and counting bodies ([`crate::body`]), OTLP bodies (api::otlp).

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, StatusCode, header};
use bytes::Bytes;
use evidence::Timestamp;
use evidence::canonical::{self, JsonError, JsonErrorClass};
use evidence::redact::Redactor;
use ledger::Ledger;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use tokio::sync::OwnedSemaphorePermit;

use crate::body::{self, BodyError, Held};
use crate::{ApiError, App, Caller};

/// Bodies from this length on are parsed beside the async threads, one at a time.
const LARGE_BODY_BYTES: usize = 64 * 1024;

/// A JSON body: strict I-JSON, then redaction, then `T`, which must `deny_unknown_fields`.
///
/// `T` is read from the canonical form of what was sent, so a
/// [`serde_json::value::RawValue`] inside it is canonical JSON already. Secrets are replaced before anything
/// is read, hashed or compared (SPEC 6.4).
#[derive(Debug)]
pub struct JsonBody<T> {
    /// What was sent, after redaction.
    pub value: T,
    /// SHA-256 of its canonical JSON: what "the same content again" means.
    pub content: [u8; 32],
    /// Counts the body, and what it is read as, until the handler is done with it. Nobody waits for a job with the second
    /// of them: a large job takes long to be judged, and nothing large would be parsed meanwhile.
    pub(crate) held: Holds,
}

impl<T> JsonBody<T> {
    /// Whether it takes long to work on: that belongs on a thread that may block.
    pub(crate) const fn is_large(&self) -> bool {
        self.held.1.is_some()
    }
}

/// The canonical form of a request's body that somebody before the handler has made: an extension of the request.
#[derive(Clone)]
pub(crate) struct Canonical(pub(crate) Bytes);

/// What a body is counted by, and the place that a large one has among those parsed at once.
pub(crate) type Holds = (body::Hold, Option<Large>);

/// The place that a large body has among those parsed at once, and the room for the values that it is read as.
#[derive(Debug)]
pub(crate) struct Large {
    _permit: OwnedSemaphorePermit,
    _values: body::Hold,
}

/// A JSON body of which nothing is put on record as it is: the same without redaction.
#[derive(Debug)]
pub struct ExactJsonBody<T>(pub JsonBody<T>);

impl<T: DeserializeOwned + Send + 'static> FromRequest<App> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let rules = rules_of(request.extensions());
        Self::receive(request, app, Some(rules)).await
    }
}

impl<T: DeserializeOwned + Send + 'static> FromRequest<App> for ExactJsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        JsonBody::receive(request, app, None).await.map(Self)
    }
}

/// A JSON body whose fields are all optional: none at all is an empty object, and needs no content type.
#[derive(Debug)]
pub(crate) struct Maybe<T> {
    /// What was sent, after redaction.
    pub(crate) value: T,
    /// As [`JsonBody::held`].
    pub(crate) held: Option<Holds>,
}

impl<T: DeserializeOwned + Default + Send + 'static> FromRequest<App> for Maybe<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let rules = rules_of(request.extensions());
        let (parts, body) = request.into_parts();
        let held = body::receive(&app.budget, &app.limits, sender(&parts), &parts.headers, body).await?;
        // One that is sent in chunks does not say that it is empty until it is read.
        if held.bytes.is_empty() {
            let value = T::default();
            return Ok(Self { value, held: None });
        }
        require_json(&parts.headers)?;
        let JsonBody { value, held, .. } = JsonBody::of(&parts, held, app, Some(rules)).await?;
        let held = Some(held);
        Ok(Self { value, held })
    }
}

/// Longest packed body that may say nothing, unpacked: `{}` and what white space somebody may put around it.
const NOTHING_BYTES_MAX: usize = 64;

/// No body, or one that says nothing. What somebody sends where none is taken is meant to change what is done, and would not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoBody;

impl FromRequest<App> for NoBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let held = body::receive(&app.budget, &app.limits, sender(&parts), &parts.headers, body).await?;
        let nothing = if held.bytes.is_empty() || !held.is_gzip() {
            says_nothing(&held.bytes)
        } else {
            let held = held.part(0, true, NOTHING_BYTES_MAX);
            let unpacked = move |_: &Ledger| match held.inflate() {
                Ok(held) => Ok(says_nothing(&held.bytes)),
                Err(BodyError::TooLarge(_)) => Ok(false),
                Err(error) => Err(ApiError::from(error)),
            };
            app.blocking(unpacked).await?
        };
        if nothing {
            return Ok(Self);
        }
        Err(ApiError::malformed(
            "body: this request takes none; send no body, or {}",
        ))
    }
}

/// Whether it is empty, or an empty object.
fn says_nothing(bytes: &[u8]) -> bool {
    let mut said = bytes.iter().filter(|byte| !byte.is_ascii_whitespace());
    matches!(
        (said.next(), said.next(), said.next()),
        (None, ..) | (Some(b'{'), Some(b'}'), None)
    )
}

/// What is redacted in what the caller sends.
fn rules_of(extensions: &Extensions) -> Arc<Redactor> {
    extensions.get::<Caller>().map_or_else(
        || Arc::clone(Redactor::standard()),
        |caller| caller.tenant.rules(),
    )
}

/// Whose a body is.
fn sender(parts: &Parts) -> body::Sender {
    let caller = parts.extensions.get::<Caller>();
    caller.map_or_else(|| (0, Arc::from("")), Caller::sender)
}

impl<T: DeserializeOwned + Send + 'static> JsonBody<T> {
    async fn receive(request: Request, app: &App, rules: Option<Arc<Redactor>>) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        require_json(&parts.headers)?;
        let held = body::receive(&app.budget, &app.limits, sender(&parts), &parts.headers, body).await?;
        Self::of(&parts, held, app, rules).await
    }

    /// Of a body that is there as a whole.
    async fn of(
        parts: &Parts,
        held: Held,
        app: &App,
        rules: Option<Arc<Redactor>>,
    ) -> Result<Self, ApiError> {
        if !held.is_gzip() && held.bytes.len() < LARGE_BODY_BYTES {
            // A tenant's own patterns take far longer than the built-in rules.
            if rules.as_ref().is_some_and(|rules| rules.has_own_patterns()) {
                return app.blocking(move |_| parse(held, None, rules.as_deref())).await;
            }
            return match parts.extensions.get() {
                Some(Canonical(text)) => {
                    let values = held.values()?;
                    read(text.to_vec(), held, values, None, rules.as_deref())
                }
                None => parse(held, None, rules.as_deref()),
            };
        }
        let permit = app
            .large_bodies
            .clone()
            .acquire_owned()
            .await
            .map_err(|error| ApiError::internal(&error))?;
        app.blocking(move |_| parse(held.inflate()?, Some(permit), rules.as_deref()))
            .await
    }
}

/// 415 unless the content type is `application/json`, with or without parameters.
fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    if media_type(headers).is_some_and(|media| media.eq_ignore_ascii_case("application/json")) {
        return Ok(());
    }
    let message = "the content type must be application/json";
    Err(ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "content_type",
        message,
    ))
}

/// The content type without its parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim())
}

fn parse<T: DeserializeOwned>(
    held: Held,
    permit: Option<OwnedSemaphorePermit>,
    rules: Option<&Redactor>,
) -> Result<JsonBody<T>, ApiError> {
    let values = held.values()?;
    let value = canonical::parse(&held.bytes, canonical::Limits::default())
        .map_err(|error| json_error(&held.bytes, &error))?;
    let text = canonical::to_vec(&value);
    drop(value);
    read(text, held, values, permit, rules)
}

/// Of a body's canonical form.
fn read<T: DeserializeOwned>(
    mut text: Vec<u8>,
    held: Held,
    values: body::Hold,
    permit: Option<OwnedSemaphorePermit>,
    rules: Option<&Redactor>,
) -> Result<JsonBody<T>, ApiError> {
    if let Some(rules) = rules
        && let Some(redacted) = rules
            .request(&text)
            .map_err(|error| ApiError::invalid("body", error))?
    {
        text = redacted;
    }
    let mut reader = serde_json::Deserializer::from_slice(&text);
    let value = serde_path_to_error::deserialize(evidence::ByName(&mut reader)).map_err(|error| {
        let path = error.path().to_string();
        // The line and column would be those of the canonical form, which nobody has seen.
        let cause = error.into_inner().to_string();
        let cause = cause.split(" at line ").next().unwrap_or_default().to_owned();
        ApiError::invalid(if path == "." { "body" } else { &path }, cause)
    })?;
    let content = evidence::sha256(&text);
    let mut hold = held.into_hold();
    let large = if let Some(permit) = permit {
        Some(Large {
            _permit: permit,
            _values: values,
        })
    } else {
        hold.join(values);
        None
    };
    Ok(JsonBody {
        value,
        content,
        held: (hold, large),
    })
}

fn json_error(bytes: &[u8], error: &JsonError) -> ApiError {
    let before = &bytes[..error.offset().min(bytes.len())];
    let (line, last) = before
        .split(|&byte| byte == b'\n')
        .enumerate()
        .last()
        .unwrap_or_default();
    // Both are counted from 1, columns in characters, as editors do.
    let (line, column) = (line + 1, String::from_utf8_lossy(last).chars().count() + 1);
    let place = serde_json::json!({ "line": line, "column": column, "pointer": error.path() });
    let message = format!("{} at line {line}, column {column}", error.kind());
    let refusal = match error.class() {
        JsonErrorClass::Syntax => ApiError::malformed(message),
        JsonErrorClass::IJson | JsonErrorClass::Limit => {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message)
        }
    };
    refusal.with(place)
}

/// Query parameters as `T`, which must `deny_unknown_fields`. What is wrong is 400 and named.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = parts.uri.query().unwrap_or_default();
        if !is_percent_encoded_text(query) {
            return Err(ApiError::malformed("the query is not percent-encoded UTF-8"));
        }
        match axum::extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let cause = std::error::Error::source(&rejection)
                    .map_or_else(|| rejection.to_string(), ToString::to_string);
                Err(ApiError::new(
                    StatusCode::BAD_REQUEST,
                    "bad_parameter",
                    format!("query: {}", plainly(&cause)),
                ))
            }
        }
    }
}

/// What is asked for, where the standard library says only what it could not do.
fn plainly(cause: &str) -> String {
    const SAID: [(&str, &str); 5] = [
        (
            "cannot parse integer from empty string",
            "must be a whole number, in digits",
        ),
        (
            "invalid digit found in string",
            "must be a whole number, in digits",
        ),
        ("number too large to fit in target type", "is too large a number"),
        ("number too small to fit in target type", "is too small a number"),
        (
            "provided string was not `true` or `false`",
            "must be true or false",
        ),
    ];
    SAID.iter()
        .find_map(|(said, meant)| Some(format!("{}{meant}", cause.strip_suffix(said)?)))
        .unwrap_or_else(|| cause.to_owned())
}

/// A time at which what a list shows begins, or before which it ends. Records are compared by microseconds: of a finer one
/// it is the next that has the same on its two sides.
pub(crate) fn filter_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Timestamp::parse_up(&text).map(Some).map_err(D::Error::custom)
}

/// Every `%` begins an escape, and the bytes are UTF-8: otherwise a decoder replaces and guesses.
fn is_percent_encoded_text(query: &str) -> bool {
    let mut decoded = Vec::with_capacity(query.len());
    let mut bytes = query.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || {
            bytes
                .next()
                .and_then(|byte| char::from(byte).to_digit(16)?.try_into().ok())
        };
        let (Some(high), Some(low)): (Option<u8>, Option<u8>) = (digit(), digit()) else {
            return false;
        };
        decoded.push((high << 4) | low);
    }
    std::str::from_utf8(&decoded).is_ok()
}

/// Path parameters. What is wrong is 400.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                "bad_parameter",
                format!("path: {}", rejection.body_text()),
            )),
        }
    }
}

/// `limit` of a list: the default when absent, 400 when outside 1 to `max`.
///
/// # Errors
/// 400 `bad_parameter`, naming the parameter and its bounds.
pub(crate) fn limit(given: Option<u32>, default: u32, max: u32) -> Result<u32, ApiError> {
    match given {
        None => Ok(default),
        Some(limit) if (1..=max).contains(&limit) => Ok(limit),
        Some(_) => {
            let message = format!("query: limit: must be 1 to {max}");
            Err(ApiError::new(StatusCode::BAD_REQUEST, "bad_parameter", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::body::Budget;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        count: u32,
        #[serde(default)]
        inner: Vec<Inner>,
        params: Option<Box<RawValue>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        name: String,
    }

    #[test]
    fn a_body_that_says_nothing_is_none() {
        for none in ["", " \n", "{}", "{ }\r\n"] {
            assert!(says_nothing(none.as_bytes()), "{none:?}");
        }
        for some in ["null", "[]", "{}{}", "{\"a\":1}", "{", "a"] {
            assert!(!says_nothing(some.as_bytes()), "{some:?}");
        }
    }

    fn read(text: &str) -> Result<JsonBody<Body>, ApiError> {
        let held = Held::of(Budget::new(64 * 1024).hold(), text.to_owned().into());
        parse(held, None, Some(Redactor::standard()))
    }

    #[test]
    fn a_body_is_read_from_its_canonical_form() {
        let body = read(r#"{"params": {"b": 1.0, "a": [ ]}, "count": 3, "inner": [{"name": "x"}]}"#).unwrap();
        assert_eq!((body.value.count, body.value.inner[0].name.as_str()), (3, "x"));
        assert_eq!(body.value.params.unwrap().get(), r#"{"a":[],"b":1}"#);
        let same = read(r#"{"inner":[{"name":"\u0078"}],"count":3e0,"params":{"a":[],"b":1}}"#).unwrap();
        assert_eq!(body.content, same.content);
        assert_ne!(body.content, read(r#"{"count":4}"#).unwrap().content);
    }

    #[test]
    fn secrets_are_replaced_before_anything_is_read_or_hashed() {
        let sent = r#"{"count": 1, "params": {"to": "ada@example.com", "token": "abc"}}"#;
        let body = read(sent).unwrap();
        let stored = r#"{"to":"<REDACTED_EMAIL>","token":"<REDACTED>"}"#;
        assert_eq!(body.value.params.unwrap().get(), stored);
        let same = read(&format!(r#"{{"count":1,"params":{stored}}}"#)).unwrap();
        assert_eq!(body.content, same.content);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, status, part) in [
            ("", 400, "line 1, column 1"),
            ("{\n  \"count\": }", 400, "line 2, column 12"),
            (r#"{"count": 1} x"#, 400, "line 1, column 14"),
            (r#"{"count": 1, "count": 2}"#, 422, "duplicate key"),
            (r#"{"count": 9007199254740993}"#, 422, "integer beyond"),
            (r#"{"count": "\ud800"}"#, 422, "lone surrogate"),
            (r#"{"count": 1, "colour": 2}"#, 422, "colour"),
            (r#"{"count": -1}"#, 422, "count: "),
            (r#"{"count": "1"}"#, 422, "count: "),
            (r#"{"count": 1, "inner": [{"name": 7}]}"#, 422, "inner[0].name: "),
            ("{}", 422, "count"),
            ("[]", 422, "body: "),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.status.as_u16(), status, "{text}: {}", error.message);
            assert!(error.message.contains(part), "{text}: {}", error.message);
            assert!(
                !error.message.contains(" at line 1 column"),
                "{text}: {}",
                error.message
            );
        }
    }

    #[test]
    fn a_wrong_parameter_is_told_what_is_asked_for() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Asked {
            limit: Option<u32>,
            exact: Option<bool>,
            #[serde(default, deserialize_with = "filter_time")]
            to: Option<Timestamp>,
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let read = |query: &str| {
            let request = axum::http::Request::builder()
                .uri(format!("/x?{query}"))
                .body(())
                .unwrap();
            let mut parts = request.into_parts().0;
            let read = Query::<Asked>::from_request_parts(&mut parts, &());
            runtime.block_on(read)
        };
        let number = "query: limit: must be a whole number, in digits";
        for (query, said) in [
            ("limit=abc", number),
            ("limit=", number),
            ("limit=-1", number),
            ("limit=1.5", number),
            ("limit=4294967296", "query: limit: is too large a number"),
            ("exact=yes", "query: exact: must be true or false"),
            (
                "to=now",
                "query: to: not an RFC 3339 time such as 2026-11-21T09:30:00Z",
            ),
        ] {
            assert_eq!(read(query).unwrap_err().message, said, "{query}");
        }
        let Query(asked) = read("limit=7&exact=true&to=2026-01-01T00:00:00.123456000Z").unwrap();
        assert_eq!((asked.limit, asked.exact), (Some(7), Some(true)));
        assert_eq!(asked.to.unwrap().to_string(), "2026-01-01T00:00:00.123456Z");
        let Query(asked) = read("to=2026-01-01T00:00:00.1234560001Z").unwrap();
        assert_eq!(asked.to.unwrap().to_string(), "2026-01-01T00:00:00.123457Z");
        assert!(read("").unwrap().0.to.is_none());
    }

    #[test]
    fn queries_are_percent_encoded_text() {
        for good in ["", "a=b&c=%C3%A4+x", "a=%25"] {
            assert!(is_percent_encoded_text(good), "{good}");
        }
        for bad in ["a=%", "a=%4", "a=%zz", "a=%+1", "a=%ff"] {
            assert!(!is_percent_encoded_text(bad), "{bad}");
        }
    }
}
