//! Secrets taken out of a span before it is lowered.
//!
//! Most spans have none: that is told from the body that was made of them. Of one that may have some, what was
//! sent is redacted and lowered again, so that fingerprints, content and facts are over what is stored.
//!
//! Rules: SPEC 6.4; [`evidence::redact`].

use evidence::redact::{FIELD_MARKER, Redactor};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
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

fn text(rules: &Redactor, text: &mut String) {
    if let Some(redacted) = rules.text(text) {
        *text = redacted;
    }
}

fn attributes(rules: &Redactor, attributes: &mut [KeyValue], secret: bool) {
    for attribute in attributes {
        if attribute.key == RUN_ID {
            continue;
        }
        let secret = secret || rules.is_secret_name(&attribute.key);
        if let Some(value) = &mut attribute.value {
            any(rules, value, secret);
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
