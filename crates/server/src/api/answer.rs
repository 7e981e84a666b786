//! Answers: bytes that are canonical JSON, receipts, and the refusals every endpoint shares.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use evidence::canonical::{self, Finite, Value};
use ledger::{Outcomes, Placed, Receipt, Rejection};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use store::Gone;
use utoipa::{IntoResponses, ToSchema};

use crate::ApiError;
use crate::error::Problem;

/// A receipt as it stands in an answer: keys in canonical order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceiptOut(pub(crate) Receipt);

impl Serialize for ReceiptOut {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Wire {
            leaf_hash: String,
            leaf_index: u64,
            record_id: evidence::RecordId,
            tree_size: u64,
        }
        let Receipt {
            record_id,
            leaf_index,
            leaf_hash,
            tree_size,
        } = self.0;
        Wire {
            leaf_hash: leaf_hash.to_hex(),
            leaf_index,
            record_id,
            tree_size,
        }
        .serialize(serializer)
    }
}

/// What a write may be refused with; which codes come with it says `codes.rs`.
#[derive(IntoResponses)]
#[allow(dead_code)] // for the document
pub(crate) enum WriteProblems {
    /// The body is no JSON.
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(Problem),
    /// No such resource.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(Problem),
    /// It contradicts what is on record.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(Problem),
    /// Larger than a record or request may be.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(Problem),
    /// The content type is another than `application/json`.
    #[response(status = 415, content_type = "application/problem+json")]
    ContentType(Problem),
    /// A field breaks a rule, or is unknown.
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(Problem),
    /// Busy or stopped: send again after `Retry-After`.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
}

/// What a read may be refused with; which codes come with it says `codes.rs`.
#[derive(IntoResponses)]
#[allow(dead_code)] // for the document
pub(crate) enum ReadProblems {
    /// A parameter is malformed or unknown, or a cursor not one of this query.
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(Problem),
    /// No such resource, or one of another tenant.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(Problem),
    /// The store cannot answer now: send again after `Retry-After`.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
}

/// The canonical JSON of an answer, whose type has its fields in canonical order and no floating point
/// number but [`Number`].
pub(crate) fn canonical(body: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    let text = serde_json::to_vec(body).map_err(|error| ApiError::internal(&error))?;
    debug_assert!(
        canonical::is_canonical(&text),
        "no canonical JSON: {}",
        String::from_utf8_lossy(&text)
    );
    Ok(text)
}

/// A JSON response of those bytes.
pub(crate) fn json(status: StatusCode, text: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// 200 with that body.
pub(crate) fn ok(body: &impl Serialize) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, canonical(body)?))
}

/// 201 for what was written now, 200 for what was there before.
pub(crate) fn created(placed: &Placed, body: &impl Serialize) -> Result<Response, ApiError> {
    let status = if placed.fresh {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(json(status, canonical(body)?))
}

/// The receipts of a submission; the first rejection that says why, when there is one.
pub(crate) fn placed(outcomes: Outcomes) -> Result<Vec<Placed>, ApiError> {
    let mut all = Vec::with_capacity(outcomes.len());
    let mut group = None;
    for outcome in outcomes {
        match outcome {
            Ok(placed) => all.push(placed),
            Err(Rejection::Group) => group = Some(Rejection::Group),
            Err(rejection) => return Err(rejection.into()),
        }
    }
    group.map_or(Ok(all), |rejection| Err(rejection.into()))
}

/// A floating point number in canonical form.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Number(pub(crate) f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number = Finite::new(self.0).unwrap_or_default();
        raw(canonical::to_vec(&Value::from(number)))
            .map_err(|error| serde::ser::Error::custom(error.message))?
            .serialize(serializer)
    }
}

/// Records that an answer is about and that say nothing any more, by how their bodies went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct GoneCounts {
    /// In an archive.
    archived: u64,
    /// Erased.
    erased: u64,
    /// Altered, or not there and no record says why: verification finds it.
    missing: u64,
}

impl GoneCounts {
    pub(crate) fn count(&mut self, gone: Gone) {
        *match gone {
            Gone::Archived => &mut self.archived,
            Gone::Erased => &mut self.erased,
            Gone::Missing => &mut self.missing,
        } += 1;
    }
}

/// Bytes that are JSON already.
pub(crate) fn raw(text: Vec<u8>) -> Result<Box<RawValue>, ApiError> {
    let text = String::from_utf8(text).map_err(|error| ApiError::internal(&error))?;
    RawValue::from_string(text).map_err(|error| ApiError::internal(&error))
}

/// Whole milliseconds, rounded; what does not fit is the nearest bound.
#[allow(clippy::cast_possible_truncation)] // `as` saturates, which is what is wanted
pub(crate) fn whole_ms(duration_ms: f64) -> i64 {
    duration_ms.round() as i64
}

/// Microseconds as milliseconds.
#[allow(clippy::cast_precision_loss)] // a number for people
pub(crate) fn millis(micros: i64) -> Number {
    Number(micros as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_in_canonical_form() {
        let text = |number: f64| String::from_utf8(canonical(&Number(number)).unwrap()).unwrap();
        assert_eq!(
            [text(1.0), text(0.1), text(-0.0), text(1e-7)],
            ["1", "0.1", "0", "1e-7"]
        );
        assert_eq!((whole_ms(0.5), whole_ms(1.4), whole_ms(1e300)), (1, 1, i64::MAX));
    }
}
