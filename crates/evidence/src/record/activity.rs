//! `evidence.activity`: what went to a model or tool and what came back, by fingerprint (class B).
//!
//! Posted by itself; what a span says of it stands in the section `activity` of its step. A step has one. What
//! its first record does not say of the response, a later one may complete: it holds what it adds, and no more.
//! First truth wins, field by field.
//!
//! Source: SPEC 6.1; docs/formats.md, "evidence.activity".

use serde::Deserialize;

use super::rule::{self, RuleBroken};
use super::{put, text};
use crate::canonical::{self, Value};
use crate::{Identity, hex_string, unhex};

/// How often the response of an activity can be completed: it has so many fields, and each time adds one at least.
pub const ACTIVITY_COMPLETIONS_MAX: u8 = 3;

/// The body of an `evidence.activity`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActivityEvidence {
    /// The step.
    pub step_index: u32,
    /// 0: the first record. Else the how manieth completion it is.
    pub completion: u8,
    /// Absent from completions, as all that follow up to the response.
    pub skill_id: Option<String>,
    /// The model.
    pub model_name: Option<String>,
    /// SHA-256 of the UTF-8 text sent.
    pub prompt_fingerprint: Option<[u8; 32]>,
    /// Tokens sent.
    pub prompt_token_length: Option<i64>,
    /// The template that the prompt was made from.
    pub prompt_template_id: Option<String>,
    /// Its version.
    pub prompt_template_version: Option<String>,
    /// An open word.
    pub sensitivity_class: Option<String>,
    /// An open word.
    pub redaction_status: Option<String>,
    /// SHA-256 of the UTF-8 text received.
    pub response_fingerprint: Option<[u8; 32]>,
    /// Tokens received.
    pub response_token_length: Option<i64>,
    /// Why the answer ended, e.g. `stop`.
    pub completion_type: Option<String>,
}

impl ActivityEvidence {
    /// Whether the first record of a step keeps to the rules of SPEC 6.1.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check(&self) -> Result<(), RuleBroken> {
        let missing = [
            ("skill_id", self.skill_id.is_none()),
            ("model_name", self.model_name.is_none()),
            ("prompt_fingerprint", self.prompt_fingerprint.is_none()),
            ("prompt_token_length", self.prompt_token_length.is_none()),
        ];
        match missing.into_iter().find(|(_, missing)| *missing) {
            Some((field, _)) => Err(RuleBroken::new(field, "missing")),
            None => self.check_given(),
        }
    }

    /// Whether what is given keeps to the rules.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check_given(&self) -> Result<(), RuleBroken> {
        rule::identifiers(&[
            ("skill_id", &self.skill_id),
            ("model_name", &self.model_name),
            ("prompt_template_id", &self.prompt_template_id),
            ("prompt_template_version", &self.prompt_template_version),
            ("sensitivity_class", &self.sensitivity_class),
            ("redaction_status", &self.redaction_status),
            ("completion_type", &self.completion_type),
        ])?;
        rule::counts(&[
            ("prompt_token_length", self.prompt_token_length),
            ("response_token_length", self.response_token_length),
        ])
    }

    /// The part of `given` that this does not say yet of the response; `None`: it says all of it.
    pub fn completed_by(&self, given: &Self) -> Option<Self> {
        let added = Self {
            step_index: self.step_index,
            response_fingerprint: given
                .response_fingerprint
                .filter(|_| self.response_fingerprint.is_none()),
            response_token_length: given
                .response_token_length
                .filter(|_| self.response_token_length.is_none()),
            completion_type: given
                .completion_type
                .clone()
                .filter(|_| self.completion_type.is_none()),
            ..Self::default()
        };
        let adds = added.response_fingerprint.is_some()
            || added.response_token_length.is_some()
            || added.completion_type.is_some();
        adds.then_some(added)
    }

    /// Takes over what a completion adds.
    pub fn complete(&mut self, added: &Self) {
        self.response_fingerprint = self.response_fingerprint.or(added.response_fingerprint);
        self.response_token_length = self.response_token_length.or(added.response_token_length);
        if self.completion_type.is_none() {
            self.completion_type.clone_from(&added.completion_type);
        }
        self.completion = self.completion.max(added.completion);
    }

    /// Fields that are given with another value than stands here.
    pub fn differing(&self, given: &Self) -> Vec<&'static str> {
        let mut fields = Vec::new();
        macro_rules! compare {
            ($($field:ident)*) => {$(
                if given.$field.is_some() && given.$field != self.$field {
                    fields.push(stringify!($field));
                }
            )*};
        }
        compare!(completion_type model_name prompt_fingerprint prompt_template_id prompt_template_version
            prompt_token_length redaction_status response_fingerprint response_token_length sensitivity_class skill_id);
        fields
    }

    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        canonical::to_vec(&self.to_value())
    }

    /// The body as a value.
    pub fn to_value(&self) -> Value {
        let words = |word: &Option<String>| word.as_deref().map(text);
        let print = |print: &Option<[u8; 32]>| print.map(|print| Value::from(hex_string(&print)));
        let mut object = Vec::with_capacity(13);
        let completion = (self.completion > 0).then(|| Value::Int(self.completion.into()));
        put(&mut object, "completion", completion);
        put(&mut object, "completion_type", words(&self.completion_type));
        put(&mut object, "model_name", words(&self.model_name));
        put(&mut object, "prompt_fingerprint", print(&self.prompt_fingerprint));
        put(&mut object, "prompt_template_id", words(&self.prompt_template_id));
        put(
            &mut object,
            "prompt_template_version",
            words(&self.prompt_template_version),
        );
        put(
            &mut object,
            "prompt_token_length",
            self.prompt_token_length.map(Value::from),
        );
        put(&mut object, "redaction_status", words(&self.redaction_status));
        put(
            &mut object,
            "response_fingerprint",
            print(&self.response_fingerprint),
        );
        put(
            &mut object,
            "response_token_length",
            self.response_token_length.map(Value::from),
        );
        put(&mut object, "sensitivity_class", words(&self.sensitivity_class));
        put(&mut object, "skill_id", words(&self.skill_id));
        put(
            &mut object,
            "step_index",
            Some(Value::Int(self.step_index.into())),
        );
        Value::Object(object)
    }

    /// Reads a stored body; `None`: it is none.
    pub fn read(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Wire {
            #[serde(default)]
            completion: u8,
            completion_type: Option<String>,
            model_name: Option<String>,
            prompt_fingerprint: Option<String>,
            prompt_template_id: Option<String>,
            prompt_template_version: Option<String>,
            prompt_token_length: Option<i64>,
            redaction_status: Option<String>,
            response_fingerprint: Option<String>,
            response_token_length: Option<i64>,
            sensitivity_class: Option<String>,
            skill_id: Option<String>,
            step_index: u32,
        }
        let wire: Wire = serde_json::from_slice(body).ok()?;
        let print = |print: Option<String>| print.and_then(|print| unhex(print.as_bytes()));
        Some(Self {
            step_index: wire.step_index,
            completion: wire.completion,
            skill_id: wire.skill_id,
            model_name: wire.model_name,
            prompt_fingerprint: print(wire.prompt_fingerprint),
            prompt_token_length: wire.prompt_token_length,
            prompt_template_id: wire.prompt_template_id,
            prompt_template_version: wire.prompt_template_version,
            sensitivity_class: wire.sensitivity_class,
            redaction_status: wire.redaction_status,
            response_fingerprint: print(wire.response_fingerprint),
            response_token_length: wire.response_token_length,
            completion_type: wire.completion_type,
        })
    }

    /// Its identity within its run.
    pub fn identity(&self) -> Identity {
        Identity::activity(self.step_index, self.completion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first() -> ActivityEvidence {
        ActivityEvidence {
            step_index: 3,
            skill_id: Some("llm".into()),
            model_name: Some("m".into()),
            prompt_fingerprint: Some([0xab; 32]),
            prompt_token_length: Some(5),
            ..ActivityEvidence::default()
        }
    }

    /// Frozen: these bytes are committed to.
    #[test]
    fn body_bytes_are_these() {
        let print = "ab".repeat(32);
        assert_eq!(
            String::from_utf8(first().encode()).unwrap(),
            format!(
                r#"{{"model_name":"m","prompt_fingerprint":"{print}","prompt_token_length":5,"skill_id":"llm","step_index":3}}"#
            )
        );
        let completion = ActivityEvidence {
            step_index: 3,
            completion: 1,
            completion_type: Some("stop".into()),
            ..ActivityEvidence::default()
        };
        assert_eq!(
            String::from_utf8(completion.encode()).unwrap(),
            r#"{"completion":1,"completion_type":"stop","step_index":3}"#
        );
        for one in [first(), completion] {
            assert_eq!(ActivityEvidence::read(&one.encode()), Some(one));
        }
    }

    #[test]
    fn first_truth_wins_field_by_field() {
        let mut stands = ActivityEvidence {
            response_token_length: Some(9),
            ..first()
        };
        let given = ActivityEvidence {
            model_name: Some("other".into()),
            response_token_length: Some(10),
            completion_type: Some("stop".into()),
            ..first()
        };
        assert_eq!(
            stands.differing(&given),
            ["completion_type", "model_name", "response_token_length"]
        );
        let added = stands.completed_by(&given).unwrap();
        assert_eq!(
            (added.response_token_length, added.completion_type.as_deref()),
            (None, Some("stop"))
        );
        stands.complete(&added);
        assert_eq!(stands.completed_by(&given), None);
        assert_eq!(
            (stands.response_token_length, stands.model_name.as_deref()),
            (Some(9), Some("m"))
        );
    }

    #[test]
    fn the_first_record_says_what_was_sent() {
        first().check().unwrap();
        let bad = ActivityEvidence {
            prompt_fingerprint: None,
            ..first()
        };
        assert_eq!(bad.check().unwrap_err().field, "prompt_fingerprint");
        let bad = ActivityEvidence {
            prompt_token_length: Some(-1),
            ..first()
        };
        assert_eq!(bad.check().unwrap_err().field, "prompt_token_length");
    }
}
