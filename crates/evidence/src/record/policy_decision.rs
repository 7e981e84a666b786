//! `evidence.policy_decision`: what a policy decided about a run (class D).
//!
//! A decision posted by itself. One that a span carries stands in the section
//! `policy` of its step.
//!
//! Source: SPEC 6.1; docs/formats.md, "evidence.policy_decision".

use super::rule::{self, RuleBroken};
use super::{put, text};
use crate::canonical::{self, Finite, Value};

/// What a policy may decide (SPEC 6.1).
pub const POLICY_DECISIONS: [&str; 3] = ["GRANTED", "DENIED", "PENDING_APPROVAL"];

/// What one evaluated policy may say (SPEC 6.1).
pub const POLICY_RESULTS: [&str; 4] = ["pass", "warn", "fail", "skip"];

/// The body of an `evidence.policy_decision`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyDecisionEvidence {
    /// An open word: `budget`, `rate_limit`, `capability`, `permission` …
    pub policy_type: String,
    /// The rule that decided.
    pub policy_rule_id: Option<String>,
    /// Its version.
    pub policy_version: Option<String>,
    /// One of [`POLICY_DECISIONS`].
    pub decision: String,
    /// Why.
    pub decision_reason: Option<String>,
    /// 0 to 1.
    pub decision_confidence: Option<Finite>,
    /// The policies that were asked.
    pub policies_evaluated: Vec<String>,
    /// What each of them said: an object by policy, or an array in the order of `policies_evaluated`.
    pub policy_results: Option<Value>,
    /// A JSON object.
    pub thresholds_used: Option<Value>,
    /// As given: text or an object.
    pub customer_guardrail_result: Option<Value>,
    /// As given: text or an object.
    pub provider_moderation_result: Option<Value>,
    /// Words for programs.
    pub decision_reason_codes: Vec<String>,
}

impl PolicyDecisionEvidence {
    /// Whether it keeps to the rules of SPEC 6.1.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check(&self) -> Result<(), RuleBroken> {
        rule::identifier("policy_type", &self.policy_type)?;
        rule::identifiers(&[
            ("policy_rule_id", &self.policy_rule_id),
            ("policy_version", &self.policy_version),
        ])?;
        rule::word("decision", &self.decision, &POLICY_DECISIONS)?;
        rule::prose("decision_reason", self.decision_reason.as_deref())?;
        if let Some(confidence) = self.decision_confidence {
            rule::fraction("decision_confidence", confidence.get())?;
        }
        rule::list("policies_evaluated", &self.policies_evaluated)?;
        self.check_results()?;
        rule::object("thresholds_used", self.thresholds_used.as_ref())?;
        for (field, value) in [
            ("customer_guardrail_result", &self.customer_guardrail_result),
            ("provider_moderation_result", &self.provider_moderation_result),
        ] {
            match value {
                None | Some(Value::Object(_)) => {}
                Some(Value::String(said)) => rule::prose(field, Some(said))?,
                Some(_) => return Err(RuleBroken::new(field, "must be text or an object")),
            }
        }
        rule::list("decision_reason_codes", &self.decision_reason_codes)
    }

    fn check_results(&self) -> Result<(), RuleBroken> {
        const FIELD: &str = "policy_results";
        let said: Vec<&Value> = match &self.policy_results {
            None => return Ok(()),
            Some(Value::Object(by_policy)) => by_policy.iter().map(|(_, result)| result).collect(),
            Some(Value::Array(in_order)) if in_order.len() == self.policies_evaluated.len() => {
                in_order.iter().collect()
            }
            Some(Value::Array(_)) => {
                return Err(RuleBroken::new(
                    FIELD,
                    "must have one entry for each of policies_evaluated",
                ));
            }
            Some(_) => {
                let rule = "must be an object by policy, or an array in the order of policies_evaluated";
                return Err(RuleBroken::new(FIELD, rule));
            }
        };
        if said.len() > rule::ENTRIES_MAX {
            let rule = format!("must have at most {} entries", rule::ENTRIES_MAX);
            return Err(RuleBroken::new(FIELD, rule));
        }
        said.into_iter()
            .try_for_each(|result| rule::word(FIELD, result.as_str().unwrap_or_default(), &POLICY_RESULTS))
    }

    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        let texts = |all: &[String]| Value::Array(all.iter().map(|one| text(one)).collect());
        let mut object = Vec::with_capacity(12);
        put(
            &mut object,
            "customer_guardrail_result",
            self.customer_guardrail_result.clone(),
        );
        put(&mut object, "decision", Some(text(&self.decision)));
        put(
            &mut object,
            "decision_confidence",
            self.decision_confidence.map(Value::from),
        );
        put(
            &mut object,
            "decision_reason",
            self.decision_reason.as_deref().map(text),
        );
        put(
            &mut object,
            "decision_reason_codes",
            Some(texts(&self.decision_reason_codes)),
        );
        put(
            &mut object,
            "policies_evaluated",
            Some(texts(&self.policies_evaluated)),
        );
        put(&mut object, "policy_results", self.policy_results.clone());
        put(
            &mut object,
            "policy_rule_id",
            self.policy_rule_id.as_deref().map(text),
        );
        put(&mut object, "policy_type", Some(text(&self.policy_type)));
        put(
            &mut object,
            "policy_version",
            self.policy_version.as_deref().map(text),
        );
        put(
            &mut object,
            "provider_moderation_result",
            self.provider_moderation_result.clone(),
        );
        put(&mut object, "thresholds_used", self.thresholds_used.clone());
        canonical::to_vec(&Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision() -> PolicyDecisionEvidence {
        PolicyDecisionEvidence {
            policy_type: "budget".into(),
            decision: "DENIED".into(),
            policies_evaluated: vec!["p1".into(), "p2".into()],
            ..PolicyDecisionEvidence::default()
        }
    }

    /// Frozen: these bytes are committed to.
    #[test]
    fn body_bytes_are_these() {
        let text = |text: &str| Value::String(text.into());
        let whole = PolicyDecisionEvidence {
            policy_rule_id: Some("rule".into()),
            policy_version: Some("3".into()),
            decision_reason: Some("too much".into()),
            decision_confidence: Finite::new(0.75),
            policy_results: Some(Value::object([("p1", text("pass")), ("p2", text("fail"))])),
            thresholds_used: Some(Value::object([("max", Value::Int(266))])),
            customer_guardrail_result: Some(text("blocked")),
            provider_moderation_result: Some(Value::object([("flagged", Value::Bool(false))])),
            decision_reason_codes: vec!["OVER".into()],
            ..decision()
        };
        whole.check().unwrap();
        assert_eq!(
            String::from_utf8(whole.encode()).unwrap(),
            r#"{"customer_guardrail_result":"blocked","decision":"DENIED","decision_confidence":0.75,"decision_reason":"too much","decision_reason_codes":["OVER"],"policies_evaluated":["p1","p2"],"policy_results":{"p1":"pass","p2":"fail"},"policy_rule_id":"rule","policy_type":"budget","policy_version":"3","provider_moderation_result":{"flagged":false},"thresholds_used":{"max":266}}"#
        );
        assert_eq!(
            String::from_utf8(decision().encode()).unwrap(),
            r#"{"decision":"DENIED","decision_reason_codes":[],"policies_evaluated":["p1","p2"],"policy_type":"budget"}"#
        );
    }

    #[test]
    fn words_are_those_of_the_lists() {
        let results = |value| PolicyDecisionEvidence {
            policy_results: Some(value),
            ..decision()
        };
        let words =
            |words: &[&str]| Value::Array(words.iter().map(|word| Value::String((*word).into())).collect());
        results(words(&["warn", "skip"])).check().unwrap();
        for (bad, field) in [
            (results(words(&["warn"])), "policy_results"),
            (results(words(&["warn", "maybe"])), "policy_results"),
            (
                results(Value::object([("p1", Value::Bool(true))])),
                "policy_results",
            ),
            (results(Value::String("pass".into())), "policy_results"),
            (
                PolicyDecisionEvidence {
                    decision: "granted".into(),
                    ..decision()
                },
                "decision",
            ),
            (
                PolicyDecisionEvidence {
                    decision_confidence: Finite::new(1.5),
                    ..decision()
                },
                "decision_confidence",
            ),
            (
                PolicyDecisionEvidence {
                    thresholds_used: Some(Value::Int(1)),
                    ..decision()
                },
                "thresholds_used",
            ),
            (
                PolicyDecisionEvidence {
                    policy_type: String::new(),
                    ..decision()
                },
                "policy_type",
            ),
            (
                PolicyDecisionEvidence {
                    decision_reason_codes: vec![String::new()],
                    ..decision()
                },
                "decision_reason_codes",
            ),
        ] {
            assert_eq!(bad.check().unwrap_err().field, field);
        }
    }
}
