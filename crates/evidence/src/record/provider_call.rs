//! `evidence.provider`: a provider was asked and answered (class G).
//!
//! Posted by itself, once a step; what a span says of it stands in the section `provider` of its step.
//!
//! Source: SPEC 6.1; docs/formats.md, "evidence.provider".

use serde::Deserialize;

use super::rule::{self, RuleBroken};
use super::{put, text};
use crate::canonical::{self, Finite, Value};
use crate::time::{TIMES_GIVEN, TimesGiven};
use crate::{Identity, Timestamp, hex_string};

/// Least and largest status of an HTTP answer.
const HTTP_STATUS: std::ops::RangeInclusive<i64> = 100..=599;

/// The body of an `evidence.provider`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProviderEvidence {
    /// The step.
    pub step_index: u32,
    /// E.g. `openai`.
    pub provider_name: String,
    /// The provider's id of the answer.
    pub provider_request_id: Option<String>,
    /// The model asked for.
    pub model_name: String,
    /// The model that served.
    pub model_version: Option<String>,
    /// All input tokens.
    pub input_tokens: Option<i64>,
    /// All output tokens.
    pub output_tokens: Option<i64>,
    /// Of the input, read from a cache.
    pub cache_read_tokens: i64,
    /// Of the input, written to a cache.
    pub cache_creation_tokens: i64,
    /// As given, else input + output.
    pub total_tokens: Option<i64>,
    /// Of the provider's interface.
    pub api_version: Option<String>,
    /// Milliseconds.
    pub provider_latency_ms: Option<Finite>,
    /// 100 to 599.
    pub provider_http_status: Option<i64>,
    /// The provider's error.
    pub provider_error_code: Option<String>,
    /// Earlier attempts.
    pub provider_retry_count: i64,
    /// When asked.
    pub requested_at: Option<Timestamp>,
    /// When answered.
    pub responded_at: Option<Timestamp>,
    /// These times as given, where they say more.
    pub times_given: TimesGiven,
}

impl ProviderEvidence {
    /// Whether it keeps to the rules of SPEC 6.1.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check(&self) -> Result<(), RuleBroken> {
        rule::identifier("provider_name", &self.provider_name)?;
        rule::identifier("model_name", &self.model_name)?;
        rule::identifiers(&[
            ("provider_request_id", &self.provider_request_id),
            ("model_version", &self.model_version),
            ("api_version", &self.api_version),
            ("provider_error_code", &self.provider_error_code),
        ])?;
        rule::counts(&[
            ("input_tokens", self.input_tokens),
            ("output_tokens", self.output_tokens),
            ("cache_read_tokens", Some(self.cache_read_tokens)),
            ("cache_creation_tokens", Some(self.cache_creation_tokens)),
            ("total_tokens", self.total_tokens),
            ("provider_retry_count", Some(self.provider_retry_count)),
        ])?;
        if self
            .provider_latency_ms
            .is_some_and(|latency| latency.get() < 0.0)
        {
            return Err(RuleBroken::new("provider_latency_ms", "must not be negative"));
        }
        if self
            .provider_http_status
            .is_some_and(|status| !HTTP_STATUS.contains(&status))
        {
            return Err(RuleBroken::new("provider_http_status", "must be 100 to 599"));
        }
        Ok(())
    }

    /// The canonical body. `content_mac` is [`crate::content_mac`] under the record's salt.
    pub fn encode(&self, content_mac: &[u8; 32]) -> Vec<u8> {
        let words = |word: &Option<String>| word.as_deref().map(text);
        let number = |number: i64| Some(Value::from(number));
        let time = |time: Option<Timestamp>| time.map(|time| Value::from(time.to_string()));
        let total = self.total_tokens.unwrap_or_else(|| {
            self.input_tokens
                .unwrap_or(0)
                .saturating_add(self.output_tokens.unwrap_or(0))
        });
        let mut object = Vec::with_capacity(19);
        put(&mut object, "api_version", words(&self.api_version));
        put(
            &mut object,
            "cache_creation_tokens",
            number(self.cache_creation_tokens),
        );
        put(&mut object, "cache_read_tokens", number(self.cache_read_tokens));
        put(
            &mut object,
            "content_mac",
            Some(Value::from(hex_string(content_mac))),
        );
        put(&mut object, "input_tokens", self.input_tokens.and_then(number));
        put(&mut object, "model_name", Some(text(&self.model_name)));
        put(&mut object, "model_version", words(&self.model_version));
        put(&mut object, "output_tokens", self.output_tokens.and_then(number));
        put(
            &mut object,
            "provider_error_code",
            words(&self.provider_error_code),
        );
        put(
            &mut object,
            "provider_http_status",
            self.provider_http_status.and_then(number),
        );
        put(
            &mut object,
            "provider_latency_ms",
            self.provider_latency_ms.map(Value::from),
        );
        put(&mut object, "provider_name", Some(text(&self.provider_name)));
        put(
            &mut object,
            "provider_request_id",
            words(&self.provider_request_id),
        );
        put(
            &mut object,
            "provider_retry_count",
            number(self.provider_retry_count),
        );
        put(&mut object, "requested_at", time(self.requested_at));
        put(&mut object, "responded_at", time(self.responded_at));
        put(
            &mut object,
            "step_index",
            Some(Value::Int(self.step_index.into())),
        );
        put(&mut object, TIMES_GIVEN, self.times_given.to_value());
        put(&mut object, "total_tokens", number(total));
        canonical::to_vec(&Value::Object(object))
    }

    /// Its identity within its run.
    pub fn identity(&self) -> Identity {
        Identity::provider(self.step_index)
    }
}

/// The identity of a stored body: that of its step.
pub(crate) fn provider_identity(body: &[u8]) -> Option<Identity> {
    #[derive(Deserialize)]
    struct Wire {
        step_index: u32,
    }
    let wire: Wire = serde_json::from_slice(body).ok()?;
    Some(Identity::provider(wire.step_index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> ProviderEvidence {
        ProviderEvidence {
            step_index: 2,
            provider_name: "p".into(),
            model_name: "m".into(),
            input_tokens: Some(3),
            output_tokens: Some(4),
            ..ProviderEvidence::default()
        }
    }

    /// Frozen: these bytes are committed to.
    #[test]
    fn body_bytes_are_these() {
        let whole = ProviderEvidence {
            provider_request_id: Some("r".into()),
            model_version: Some("m-1".into()),
            total_tokens: Some(0),
            api_version: Some("v1".into()),
            provider_latency_ms: Finite::new(1.5),
            provider_http_status: Some(200),
            provider_error_code: Some("e".into()),
            requested_at: Timestamp::from_micros(0),
            responded_at: Timestamp::from_micros(1),
            ..call()
        };
        whole.check().unwrap();
        let mac = "ab".repeat(32);
        assert_eq!(
            String::from_utf8(whole.encode(&[0xab; 32])).unwrap(),
            format!(
                r#"{{"api_version":"v1","cache_creation_tokens":0,"cache_read_tokens":0,"content_mac":"{mac}","input_tokens":3,"model_name":"m","model_version":"m-1","output_tokens":4,"provider_error_code":"e","provider_http_status":200,"provider_latency_ms":1.5,"provider_name":"p","provider_request_id":"r","provider_retry_count":0,"requested_at":"1970-01-01T00:00:00.000000Z","responded_at":"1970-01-01T00:00:00.000001Z","step_index":2,"total_tokens":0}}"#
            )
        );
        let body = call().encode(&[0; 32]);
        assert!(String::from_utf8_lossy(&body).ends_with(r#""total_tokens":7}"#));
        assert_eq!(provider_identity(&body), Some(call().identity()));
    }

    #[test]
    fn numbers_keep_to_their_bounds() {
        for (bad, field) in [
            (
                ProviderEvidence {
                    input_tokens: Some(-1),
                    ..call()
                },
                "input_tokens",
            ),
            (
                ProviderEvidence {
                    provider_http_status: Some(99),
                    ..call()
                },
                "provider_http_status",
            ),
            (
                ProviderEvidence {
                    provider_latency_ms: Finite::new(-0.5),
                    ..call()
                },
                "provider_latency_ms",
            ),
            (
                ProviderEvidence {
                    model_name: String::new(),
                    ..call()
                },
                "model_name",
            ),
        ] {
            assert_eq!(bad.check().unwrap_err().field, field);
        }
    }
}
