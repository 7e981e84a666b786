//! `governance.audit`: the verdict over a job, with everything it rests on.
//!
//! What stands in it is decided by the auditor (the crate `audit`); here is what
//! projections and readers rely on, whatever the auditor's version.
//!
//! Source: SPEC 7.2; docs/formats.md, "governance.audit".

use serde::Deserialize;

use super::BodyError;
use crate::Kind;
use crate::canonical::{self, Value};
use crate::facet::push_facet;
use crate::redact;

/// The body of a `governance.audit`: an AuditResult.
#[derive(Clone, Debug, PartialEq)]
pub struct GovernanceAudit {
    /// The fifteen fields and `evidence_hash`.
    pub result: Value,
}

impl GovernanceAudit {
    /// Counts the markers of redaction in it. What it rests on was redacted before, and nothing in it is from here on: a
    /// verdict is a word that is decided by.
    pub fn count_markers(&mut self) {
        self.result.remove(redact::MEMBER);
        let tally = redact::tally(&self.result);
        if tally.get("count").and_then(Value::as_i64) != Some(0) {
            self.result.insert(redact::MEMBER, tally);
        }
    }

    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        canonical::to_vec(&self.result)
    }

    /// Reads a stored body.
    ///
    /// # Errors
    /// The bytes are no such body.
    pub fn read(body: &[u8]) -> Result<Self, BodyError> {
        GovernanceAuditFacts::read(body)?;
        let result = canonical::parse(body, canonical::Limits::default())
            .map_err(|error| BodyError::new(Kind::GovernanceAudit, error))?;
        Ok(Self { result })
    }

    /// What it says to projections.
    ///
    /// # Errors
    /// It has no `job_id`, `audit_id` or `verdict`.
    pub fn facts(&self) -> Result<GovernanceAuditFacts, BodyError> {
        let text = |name: &str| {
            let member = self.result.get(name).and_then(Value::as_str);
            let missing = || BodyError::new(Kind::GovernanceAudit, format!("{name} is missing"));
            member.map(str::to_owned).ok_or_else(missing)
        };
        Ok(GovernanceAuditFacts {
            audit_id: text("audit_id")?,
            job_id: text("job_id")?,
            verdict: text("verdict")?,
        })
    }
}

/// What a verdict says to projections.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GovernanceAuditFacts {
    /// The audit.
    pub audit_id: String,
    /// The job.
    pub job_id: String,
    /// PASS, FAIL or INCONCLUSIVE.
    pub verdict: String,
}

impl GovernanceAuditFacts {
    pub(crate) fn read(body: &[u8]) -> Result<Self, BodyError> {
        serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::GovernanceAudit, error))
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
    fn body_bytes_are_those_of_the_result() {
        let body = br#"{"audit_id":"a1","audited_at":"2026-11-21T09:30:00.000000Z","auditor_version":"1.0.0","checks":[],"checks_failed":0,"checks_inconclusive":0,"checks_passed":0,"contract_id":"c1","duration_ms":0,"evidence_hash":"00","evidence_summary":{},"health_snapshot_after":null,"health_snapshot_before":null,"job_id":"j1","verdict":"PASS","verdict_reason":"all"}"#;
        let audit = GovernanceAudit::read(body).unwrap();
        assert_eq!(audit.encode(), body);
        assert_eq!(audit.facts().unwrap(), GovernanceAuditFacts::read(body).unwrap());
        let mut facets = Vec::new();
        audit.facts().unwrap().facets(&mut facets);
        assert_eq!(facets, ["job=j1", "job.audit=j1"]);
        assert!(GovernanceAudit::read(br#"{"job_id":"j1"}"#).is_err());
        let mut counted = audit.clone();
        counted.count_markers();
        assert_eq!(counted, audit, "without markers it has no member for them");
    }

    #[test]
    fn markers_are_counted_once() {
        let body = br#"{"audit_id":"a1","job_id":"j1","verdict":"FAIL","verdict_reason":"<REDACTED_EMAIL>"}"#;
        let mut audit = GovernanceAudit::read(body).unwrap();
        audit.count_markers();
        let once = audit.encode();
        let text = String::from_utf8(once.clone()).unwrap();
        assert!(
            text.contains(r#""redactions":{"count":1,"patterns":["email"]}"#),
            "{text}"
        );
        audit.count_markers();
        assert_eq!(audit.encode(), once);
    }
}
