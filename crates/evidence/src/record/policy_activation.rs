//! `policy.activation`: a policy was put into force, and how sure the one who did it was.
//!
//! Each activation is a record of its own; the newest of a policy is current.
//!
//! Source: SPEC 5.5; docs/formats.md, "policy.activation".

use serde::Deserialize;

use super::rule::{self, RuleBroken};
use super::{BodyError, put, text};
use crate::Kind;
use crate::canonical::{self, Finite, Value};
use crate::facet::push_facet;

/// How confidence is measured unless said otherwise.
pub const CONFIDENCE_VERSION_DEFAULT: &str = "CONFIDENCE_V1";

/// The body of a `policy.activation`. When stands in the header.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyActivation {
    /// The policy.
    pub policy_id: String,
    /// The pattern that it came from.
    pub source_pattern_id: String,
    /// The recovery that it came from.
    pub source_recovery_id: String,
    /// 0 to 1, when it was activated.
    pub confidence_at_activation: Finite,
    /// How confidence was measured.
    pub confidence_version: String,
    /// Who or what let it pass, e.g. `auto`, `human:ada`.
    pub approval_path: String,
    /// The trace of the loop that brought it forth.
    pub loop_trace_id: String,
}

impl PolicyActivation {
    /// Whether it keeps to the rules of SPEC 5.5.
    ///
    /// # Errors
    /// The first rule broken; the confidence is named as callers give it.
    pub fn check(&self) -> Result<(), RuleBroken> {
        for (field, id) in [
            ("policy_id", &self.policy_id),
            ("source_pattern_id", &self.source_pattern_id),
            ("source_recovery_id", &self.source_recovery_id),
            ("confidence_version", &self.confidence_version),
            ("approval_path", &self.approval_path),
            ("loop_trace_id", &self.loop_trace_id),
        ] {
            rule::identifier(field, id)?;
        }
        rule::fraction("confidence", self.confidence_at_activation.get())
    }

    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        let mut object = Vec::with_capacity(7);
        put(&mut object, "approval_path", Some(text(&self.approval_path)));
        put(
            &mut object,
            "confidence_at_activation",
            Some(Value::from(self.confidence_at_activation)),
        );
        put(
            &mut object,
            "confidence_version",
            Some(text(&self.confidence_version)),
        );
        put(&mut object, "loop_trace_id", Some(text(&self.loop_trace_id)));
        put(&mut object, "policy_id", Some(text(&self.policy_id)));
        put(
            &mut object,
            "source_pattern_id",
            Some(text(&self.source_pattern_id)),
        );
        put(
            &mut object,
            "source_recovery_id",
            Some(text(&self.source_recovery_id)),
        );
        canonical::to_vec(&Value::Object(object))
    }

    /// What it says to projections.
    pub fn facts(&self) -> PolicyActivationFacts {
        PolicyActivationFacts {
            policy_id: self.policy_id.clone(),
        }
    }
}

/// What an activation says to projections.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PolicyActivationFacts {
    /// The policy.
    pub policy_id: String,
}

impl PolicyActivationFacts {
    pub(crate) fn read(body: &[u8]) -> Result<Self, BodyError> {
        serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::PolicyActivation, error))
    }

    pub(crate) fn facets(&self, out: &mut Vec<String>) {
        push_facet(out, "policy", &self.policy_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activation(confidence: f64) -> PolicyActivation {
        PolicyActivation {
            policy_id: "p1".into(),
            source_pattern_id: "pat".into(),
            source_recovery_id: "rec".into(),
            confidence_at_activation: Finite::new(confidence).unwrap(),
            confidence_version: CONFIDENCE_VERSION_DEFAULT.into(),
            approval_path: "human:u1".into(),
            loop_trace_id: "lt".into(),
        }
    }

    /// Frozen: these bytes are committed to.
    #[test]
    fn body_bytes_are_these() {
        let body = activation(0.898).encode();
        assert_eq!(
            String::from_utf8(body.clone()).unwrap(),
            r#"{"approval_path":"human:u1","confidence_at_activation":0.898,"confidence_version":"CONFIDENCE_V1","loop_trace_id":"lt","policy_id":"p1","source_pattern_id":"pat","source_recovery_id":"rec"}"#
        );
        let facts = PolicyActivationFacts::read(&body).unwrap();
        assert_eq!(facts, activation(0.898).facts());
        let mut facets = Vec::new();
        facts.facets(&mut facets);
        assert_eq!(facets, ["policy=p1"]);
    }

    #[test]
    fn confidence_is_a_fraction() {
        for good in [0.0, 0.5, 1.0] {
            activation(good).check().unwrap();
        }
        for bad in [-0.1, 1.000_001, 1.5] {
            assert_eq!(activation(bad).check().unwrap_err().field, "confidence");
        }
        let nameless = PolicyActivation {
            policy_id: String::new(),
            ..activation(0.5)
        };
        assert_eq!(nameless.check().unwrap_err().field, "policy_id");
    }
}
