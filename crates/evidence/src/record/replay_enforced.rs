//! `replay.enforced`: what became of a step when a run was replayed.
//!
//! One record an enforcement: the step ran and this came out, or what was stored
//! stood for it, or the two disagreed, or its input was another one and nothing ran.
//!
//! Source: SPEC 8.3; docs/formats.md, "replay.enforced".

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{put, text};
use crate::canonical::{self, Value};
use crate::{Identity, Kind};

/// What a step does when it is replayed (SPEC 8.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplayBehavior {
    /// It always runs.
    #[default]
    Execute,
    /// Over a known key it does not run: the stored output stands for it.
    Skip,
    /// The output, stored or new, is compared with the hash that is given.
    Check,
}

impl ReplayBehavior {
    /// Every word.
    pub const WORDS: [&'static str; 3] = ["execute", "skip", "check"];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Execute => "execute",
            Self::Skip => "skip",
            Self::Check => "check",
        }
    }

    /// By its word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Execute, Self::Skip, Self::Check]
            .into_iter()
            .find(|behavior| behavior.as_str() == word)
    }
}

/// What became of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayOutcome {
    /// It ran.
    Executed,
    /// The stored output stood for it.
    UsedStored,
    /// The output is not the one that was expected.
    Mismatch,
    /// The key is known with another input: nothing ran.
    Violation,
}

impl ReplayOutcome {
    /// The word in bodies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Executed => "executed",
            Self::UsedStored => "used_stored",
            Self::Mismatch => "mismatch",
            Self::Violation => "violation",
        }
    }

    /// By its word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Executed, Self::UsedStored, Self::Mismatch, Self::Violation]
            .into_iter()
            .find(|outcome| outcome.as_str() == word)
    }
}

/// The body of a `replay.enforced`.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayEnforced {
    /// Made with the decision: the same result sent again is the same record. 32 hex digits.
    pub event_id: String,
    /// Which step of the run.
    pub step_index: u32,
    /// As given.
    pub behavior: ReplayBehavior,
    /// What became of it.
    pub outcome: ReplayOutcome,
    /// Whether an output was compared with the expected hash.
    pub checked: bool,
    /// The key, if the step has one.
    pub idempotency_key: Option<String>,
    /// As given.
    pub input_hash: Option<String>,
    /// Of a violation: the input hash that the key is known with.
    pub known_input_hash: Option<String>,
    /// The hash that was expected of the output.
    pub expected_hash: Option<String>,
    /// SHA-256 of the canonical output: of what ran, or of what was stored.
    pub output_hash: Option<String>,
    /// The hash of what is stored under the key, when the step ran all the same.
    pub stored_hash: Option<String>,
    /// What came out, if the step ran.
    pub output: Option<Value>,
}

impl ReplayEnforced {
    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        let word = |word: Option<&String>| word.map(|word| text(word));
        let mut object = Vec::with_capacity(12);
        put(&mut object, "behavior", Some(text(self.behavior.as_str())));
        put(&mut object, "checked", Some(Value::Bool(self.checked)));
        put(&mut object, "event_id", Some(text(&self.event_id)));
        put(&mut object, "expected_hash", word(self.expected_hash.as_ref()));
        put(
            &mut object,
            "idempotency_key",
            word(self.idempotency_key.as_ref()),
        );
        put(&mut object, "input_hash", word(self.input_hash.as_ref()));
        put(
            &mut object,
            "known_input_hash",
            word(self.known_input_hash.as_ref()),
        );
        put(&mut object, "outcome", Some(text(self.outcome.as_str())));
        put(&mut object, "output", self.output.clone());
        put(&mut object, "output_hash", word(self.output_hash.as_ref()));
        put(
            &mut object,
            "step_index",
            Some(Value::Int(i64::from(self.step_index))),
        );
        put(&mut object, "stored_hash", word(self.stored_hash.as_ref()));
        canonical::to_vec(&Value::Object(object))
    }

    /// Reads a stored body; `None`: it is none.
    pub fn read(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            behavior: String,
            checked: bool,
            event_id: String,
            expected_hash: Option<String>,
            idempotency_key: Option<String>,
            input_hash: Option<String>,
            known_input_hash: Option<String>,
            outcome: String,
            // Null is an output; `Option` alone would read it as none.
            #[serde(borrow, default, deserialize_with = "some")]
            output: Option<&'a RawValue>,
            output_hash: Option<String>,
            step_index: u32,
            stored_hash: Option<String>,
        }
        fn some<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
            <&RawValue>::deserialize(from).map(Some)
        }
        let wire: Wire<'_> = serde_json::from_slice(body).ok()?;
        let output = match wire.output {
            None => None,
            Some(raw) => Some(canonical::parse(raw.get().as_bytes(), canonical::Limits::default()).ok()?),
        };
        Some(Self {
            event_id: wire.event_id,
            step_index: wire.step_index,
            behavior: ReplayBehavior::parse(&wire.behavior)?,
            outcome: ReplayOutcome::parse(&wire.outcome)?,
            checked: wire.checked,
            idempotency_key: wire.idempotency_key,
            input_hash: wire.input_hash,
            known_input_hash: wire.known_input_hash,
            expected_hash: wire.expected_hash,
            output_hash: wire.output_hash,
            stored_hash: wire.stored_hash,
            output,
        })
    }

    /// Its identity within its run.
    pub fn identity(&self) -> Identity {
        Identity::noted(Kind::ReplayEnforced, "", &self.event_id)
    }
}

/// The identity of a stored body.
pub(crate) fn replay_identity(body: &[u8]) -> Option<Identity> {
    #[derive(Deserialize)]
    struct Wire {
        event_id: String,
    }
    let wire: Wire = serde_json::from_slice(body).ok()?;
    Some(Identity::noted(Kind::ReplayEnforced, "", &wire.event_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen: these bytes are committed to.
    #[test]
    fn body_bytes_are_these() {
        let ran = ReplayEnforced {
            event_id: "00112233445566778899aabbccddeeff".into(),
            step_index: 3,
            behavior: ReplayBehavior::Check,
            outcome: ReplayOutcome::Mismatch,
            checked: true,
            idempotency_key: Some("pay-7".into()),
            input_hash: Some("in".into()),
            known_input_hash: Some("other".into()),
            expected_hash: Some("aa".into()),
            output_hash: Some("bb".into()),
            stored_hash: Some("cc".into()),
            output: Some(Value::object([("ok", Value::Bool(true))])),
        };
        assert_eq!(
            String::from_utf8(ran.encode()).unwrap(),
            r#"{"behavior":"check","checked":true,"event_id":"00112233445566778899aabbccddeeff","expected_hash":"aa","idempotency_key":"pay-7","input_hash":"in","known_input_hash":"other","outcome":"mismatch","output":{"ok":true},"output_hash":"bb","step_index":3,"stored_hash":"cc"}"#
        );
        assert_eq!(ReplayEnforced::read(&ran.encode()), Some(ran.clone()));
        assert_eq!(replay_identity(&ran.encode()), Some(ran.identity()));
        let used = ReplayEnforced {
            behavior: ReplayBehavior::Skip,
            outcome: ReplayOutcome::UsedStored,
            checked: false,
            idempotency_key: None,
            input_hash: None,
            known_input_hash: None,
            expected_hash: None,
            output_hash: None,
            stored_hash: None,
            output: None,
            ..ran
        };
        assert_eq!(
            String::from_utf8(used.encode()).unwrap(),
            r#"{"behavior":"skip","checked":false,"event_id":"00112233445566778899aabbccddeeff","outcome":"used_stored","step_index":3}"#
        );
        assert_eq!(ReplayEnforced::read(&used.encode()), Some(used));
    }

    #[test]
    fn a_null_output_is_an_output() {
        let body = br#"{"behavior":"execute","checked":false,"event_id":"e","outcome":"executed","output":null,"step_index":0}"#;
        let read = ReplayEnforced::read(body).unwrap();
        assert_eq!(read.encode(), body);
    }
}
