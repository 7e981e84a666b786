//! `authorization.decision`: what was allowed or denied to whom, and by which policies.
//!
//! One record stands for one decision, or, counted, for many of the same kind within a period: floods and
//! allowed writes.
//!
//! Source: SPEC 5.4; docs/formats.md, "authorization.decision".

use serde::Deserialize;

use super::{BodyError, put, text};
use crate::canonical::{self, Value};
use crate::facet::push_facet;
use crate::header::words;
use crate::{Kind, Timestamp};

words! {
    /// What was decided.
    Decision {
        /// It may.
        Allow = "ALLOW",
        /// It may not.
        Deny = "DENY",
    }
}

/// The body of an `authorization.decision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationDecision {
    /// The class of operation, e.g. `read`, `write`.
    pub action: String,
    /// How many decisions stand here, at least 1.
    pub count: u64,
    /// What was decided.
    pub decision: Decision,
    /// The operation asked for; absent when several stand here.
    pub operation: Option<String>,
    /// The policies that determined it; none when nothing permits.
    pub policy_ids: Vec<String>,
    /// Who asked.
    pub principal: String,
    /// Why, when no policy says so: the credential was refused.
    pub reason: Option<String>,
    /// The request; absent when several stand here.
    pub request_id: Option<String>,
    /// What was asked for: the tenant and topic, `acme/runs`.
    pub resource: String,
    /// The role that it was decided for.
    pub role: Option<String>,
    /// When several stand here: the first of them; the last is the header's `occurred_at`.
    pub since: Option<Timestamp>,
}

impl AuthorizationDecision {
    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        let mut object = Vec::with_capacity(11);
        put(&mut object, "action", Some(text(&self.action)));
        put(
            &mut object,
            "count",
            Some(Value::Int(
                i64::try_from(self.count).unwrap_or(canonical::INTEGER_MAX),
            )),
        );
        put(&mut object, "decision", Some(text(self.decision.as_str())));
        put(&mut object, "operation", self.operation.as_deref().map(text));
        let policy_ids = self.policy_ids.iter().map(|id| text(id)).collect();
        put(&mut object, "policy_ids", Some(Value::Array(policy_ids)));
        put(&mut object, "principal", Some(text(&self.principal)));
        put(&mut object, "reason", self.reason.as_deref().map(text));
        put(&mut object, "request_id", self.request_id.as_deref().map(text));
        put(&mut object, "resource", Some(text(&self.resource)));
        put(&mut object, "role", self.role.as_deref().map(text));
        put(&mut object, "since", self.since.map(|at| text(&at.to_string())));
        canonical::to_vec(&Value::Object(object))
    }

    /// Reads a stored body.
    ///
    /// # Errors
    /// The bytes are no body of this kind.
    pub fn read(body: &[u8]) -> Result<Self, BodyError> {
        let wire: Wire = serde_json::from_slice(body)
            .map_err(|error| BodyError::new(Kind::AuthorizationDecision, error))?;
        Ok(Self {
            action: wire.action,
            count: wire.count,
            decision: wire.decision,
            operation: wire.operation,
            policy_ids: wire.policy_ids,
            principal: wire.principal,
            reason: wire.reason,
            request_id: wire.request_id,
            resource: wire.resource,
            role: wire.role,
            since: wire.since,
        })
    }

    /// By which lists find it.
    pub(crate) fn facets(&self, out: &mut Vec<String>) {
        out.push("authorization".into());
        push_facet(out, "authorization.decision", self.decision.as_str());
        push_facet(out, "authorization.principal", &self.principal);
    }
}

#[derive(Deserialize)]
struct Wire {
    action: String,
    count: u64,
    decision: Decision,
    #[serde(default)]
    operation: Option<String>,
    policy_ids: Vec<String>,
    principal: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    request_id: Option<String>,
    resource: String,
    #[serde(default)]
    role: Option<String>,
    #[serde(default)]
    since: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_these_for_ever() {
        let decision = AuthorizationDecision {
            action: "read".into(),
            count: 1,
            decision: Decision::Deny,
            operation: Some("list_audit_entries".into()),
            policy_ids: vec!["tenant-boundary".into()],
            principal: "key:k3y".into(),
            reason: None,
            request_id: Some("r-1".into()),
            resource: "acme/audit".into(),
            role: Some("reader".into()),
            since: None,
        };
        let bytes = decision.encode();
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            r#"{"action":"read","count":1,"decision":"DENY","operation":"list_audit_entries","policy_ids":["tenant-boundary"],"principal":"key:k3y","request_id":"r-1","resource":"acme/audit","role":"reader"}"#
        );
        assert!(canonical::is_canonical(&bytes));
        assert_eq!(AuthorizationDecision::read(&bytes).unwrap(), decision);
        let counted = AuthorizationDecision {
            count: 1_000,
            decision: Decision::Allow,
            operation: None,
            policy_ids: Vec::new(),
            reason: Some("expired".into()),
            request_id: None,
            role: None,
            since: Timestamp::from_micros(1_767_323_045_000_006),
            ..decision
        };
        let bytes = counted.encode();
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            r#"{"action":"read","count":1000,"decision":"ALLOW","policy_ids":[],"principal":"key:k3y","reason":"expired","resource":"acme/audit","since":"2026-01-02T03:04:05.000006Z"}"#
        );
        assert_eq!(AuthorizationDecision::read(&bytes).unwrap(), counted);
        let mut facets = Vec::new();
        counted.facets(&mut facets);
        assert_eq!(
            facets,
            [
                "authorization",
                "authorization.decision=ALLOW",
                "authorization.principal=key:k3y"
            ]
        );
    }
}
