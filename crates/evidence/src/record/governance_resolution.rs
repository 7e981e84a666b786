//! `governance.resolution`: a named human decided what the evidence could not.
//!
//! His id stands in the body, as no human's stands in a header.
//!
//! Source: SPEC 7.2; docs/formats.md, "governance.resolution".

use serde::Deserialize;

use super::rule::{self, RuleBroken};
use super::{BodyError, put, text};
use crate::Kind;
use crate::canonical::{self, Value};
use crate::facet::push_facet;
use crate::header::words;

words! {
    /// What was decided.
    ResolutionDecision {
        /// The change may go on.
        Proceed = "proceed",
        /// It may not.
        Stop = "stop",
    }
}

/// The body of a `governance.resolution`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GovernanceResolution {
    /// The audit that was INCONCLUSIVE.
    pub audit_id: String,
    /// Its job.
    pub job_id: String,
    /// What was decided.
    pub decision: ResolutionDecision,
    /// By whom.
    pub actor_id: String,
    /// Why.
    pub reason: String,
}

impl GovernanceResolution {
    /// Whether it keeps to the rules of SPEC 7.2.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check(&self) -> Result<(), RuleBroken> {
        rule::identifier("job_id", &self.job_id)?;
        rule::name("actor_id", &self.actor_id)?;
        rule::prose_given("reason", &self.reason)
    }

    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        let mut object = Vec::with_capacity(5);
        put(&mut object, "actor_id", Some(text(&self.actor_id)));
        put(&mut object, "audit_id", Some(text(&self.audit_id)));
        put(&mut object, "decision", Some(text(self.decision.as_str())));
        put(&mut object, "job_id", Some(text(&self.job_id)));
        put(&mut object, "reason", Some(text(&self.reason)));
        canonical::to_vec(&Value::Object(object))
    }

    /// Reads a stored body.
    ///
    /// # Errors
    /// The bytes are no such body.
    pub fn read(body: &[u8]) -> Result<Self, BodyError> {
        serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::GovernanceResolution, error))
    }

    pub(crate) fn facets(&self, out: &mut Vec<String>) {
        push_facet(out, "job", &self.job_id);
        push_facet(out, "job.audit", &self.job_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen: these bytes are committed to.
    #[test]
    fn body_bytes_are_these() {
        let resolution = GovernanceResolution {
            audit_id: "a1".into(),
            job_id: "j1".into(),
            decision: ResolutionDecision::Proceed,
            actor_id: "ada".into(),
            reason: "seen".into(),
        };
        resolution.check().unwrap();
        let body = resolution.encode();
        assert_eq!(
            String::from_utf8(body.clone()).unwrap(),
            r#"{"actor_id":"ada","audit_id":"a1","decision":"proceed","job_id":"j1","reason":"seen"}"#
        );
        assert_eq!(GovernanceResolution::read(&body).unwrap(), resolution);
        let mut facets = Vec::new();
        resolution.facets(&mut facets);
        assert_eq!(facets, ["job=j1", "job.audit=j1"]);
        for nobody in ["", " ", "\u{200b}"] {
            let nameless = GovernanceResolution {
                actor_id: nobody.into(),
                ..resolution.clone()
            };
            assert_eq!(nameless.check().unwrap_err().field, "actor_id", "{nobody:?}");
        }
    }
}
