//! Secrets taken out of what was sent before it is lowered.
//!
//! Most spans have none: that is told from the body that was made of them. Of one that may have some, what was
//! sent is redacted and lowered again, so that fingerprints, content and facts are over what is stored.
//!
//! Bodies hold bytes in base64. So where bytes are text ([`super::any::Budget::text_in_bytes`]) nothing can be told from
//! a body: of spans, resources, scopes, log records and points what was sent is redacted at once.
//!
//! Rules: SPEC 6.4; [`evidence::redact`].

use evidence::redact::{FIELD_MARKER, Redactor};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use super::span::Refusal;

/// Names the run, which is Deponent's own identifier.
const RUN_ID: &str = "deponent.run.id";

/// The bytes of a span with secrets replaced.
///
/// # Errors
/// The bytes are no span.
pub(crate) fn span(rules: &Redactor, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut span = Span::decode(bytes).map_err(|error| format!("not a span: {error}"))?;
    text(rules, &mut span.name);
    text(rules, &mut span.trace_state);
    if let Some(status) = &mut span.status {
        text(rules, &mut status.message);
    }
    attributes(rules, &mut span.attributes, false);
    for event in &mut span.events {
        text(rules, &mut event.name);
        attributes(rules, &mut event.attributes, false);
    }
    for link in &mut span.links {
        text(rules, &mut link.trace_state);
        attributes(rules, &mut link.attributes, false);
    }
    Ok(span.encode_to_vec())
}

/// The bytes of a log record with secrets in its body and attributes replaced.
///
/// # Errors
/// The bytes are no log record.
pub(crate) fn log(rules: &Redactor, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut log = LogRecord::decode(bytes).map_err(|error| format!("not a log record: {error}"))?;
    attributes(rules, &mut log.attributes, false);
    if let Some(body) = &mut log.body {
        any(rules, body, false);
    }
    Ok(log.encode_to_vec())
}

/// The bytes of attributes with secrets in them replaced. One after the other: decoded, a value takes up to 32 times
/// the memory that it takes on the wire.
///
/// # Errors
/// Some are no attribute.
pub(crate) fn each<'a>(
    rules: &Redactor,
    each: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<Vec<u8>>, Refusal> {
    each.map(|bytes| {
        let attribute = KeyValue::decode(bytes).map_err(|error| format!("not an attribute: {error}"))?;
        let mut one = [attribute];
        attributes(rules, &mut one, false);
        Ok(one[0].encode_to_vec())
    })
    .collect()
}

fn text(rules: &Redactor, text: &mut String) {
    if let Some(redacted) = rules.text(text) {
        *text = redacted;
    }
}

fn attributes(rules: &Redactor, attributes: &mut [KeyValue], secret: bool) {
    for attribute in attributes {
        let is_text = |value: &AnyValue| matches!(value.value, Some(Value::StringValue(_)));
        if attribute.key == RUN_ID && attribute.value.as_ref().is_some_and(is_text) {
            continue;
        }
        let secret = secret || rules.is_secret_name(&attribute.key);
        if let Some(value) = &mut attribute.value {
            any(rules, value, secret);
            // Bytes name no run, and what replaces them must not either.
            if attribute.key == RUN_ID
                && let Some(Value::StringValue(text)) = &mut value.value
            {
                value.value = Some(Value::BytesValue(std::mem::take(text).into_bytes()));
            }
        }
        text(rules, &mut attribute.key);
    }
}

/// As deep as the value, whose nesting was checked when it was read.
fn any(rules: &Redactor, any: &mut AnyValue, secret: bool) {
    let redacted = match &mut any.value {
        Some(Value::StringValue(text)) if secret => (!text.is_empty()).then(|| FIELD_MARKER.to_owned()),
        Some(Value::BytesValue(bytes)) if secret => (!bytes.is_empty()).then(|| FIELD_MARKER.to_owned()),
        Some(Value::StringValue(text)) => rules.text(text),
        Some(Value::BytesValue(bytes)) => std::str::from_utf8(bytes).ok().and_then(|text| rules.text(text)),
        Some(Value::ArrayValue(array)) => {
            for element in &mut array.values {
                self::any(rules, element, secret);
            }
            None
        }
        Some(Value::KvlistValue(list)) => {
            attributes(rules, &mut list.values, secret);
            None
        }
        _ => None,
    };
    if let Some(redacted) = redacted {
        any.value = Some(Value::StringValue(redacted));
    }
}
