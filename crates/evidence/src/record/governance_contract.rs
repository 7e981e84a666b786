//! `governance.contract`: what a job may change, and when.
//!
//! A contract is written once. Another one has another id.
//!
//! Source: SPEC 7.1; docs/formats.md, "governance.contract".

use serde::Deserialize;

use super::rule::{self, RuleBroken};
use super::{BodyError, put, text};
use crate::canonical::{self, Value};
use crate::facet::push_facet;
use crate::{Kind, Timestamp};

/// Most capabilities of a contract: each is compared with each target once, by lookup.
pub const CONTRACT_SCOPE_MAX: usize = 10_000;

/// What a proposed change is judged by: the first of them that is there.
const TARGET_NAMES: [&str; 2] = ["capability_name", "scope"];

/// The body of a `governance.contract`.
#[derive(Clone, Debug, PartialEq)]
pub struct GovernanceContract {
    /// Given by the caller, or made.
    pub contract_id: String,
    /// Capabilities that may be affected.
    pub scope: Vec<String>,
    /// What will be changed: an object, a list of objects, or null.
    pub proposed_changes: Value,
    /// Not before, inclusive.
    pub activation_window_start: Option<Timestamp>,
    /// Not after, inclusive.
    pub activation_window_end: Option<Timestamp>,
}

impl GovernanceContract {
    /// Whether it keeps to the rules of SPEC 7.1.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check(&self) -> Result<(), RuleBroken> {
        rule::identifier("contract_id", &self.contract_id)?;
        if self.scope.len() > CONTRACT_SCOPE_MAX {
            let rule = format!("must have at most {CONTRACT_SCOPE_MAX} entries");
            return Err(RuleBroken::new("scope", rule));
        }
        for entry in &self.scope {
            rule::identifier("scope", entry)?;
        }
        let one = std::slice::from_ref(&self.proposed_changes);
        let changes = self.proposed_changes.as_array().unwrap_or(one);
        if !self.proposed_changes.is_null() && changes.iter().any(|change| change.as_object().is_none()) {
            return Err(RuleBroken::new(
                "proposed_changes",
                "must be an object or a list of objects",
            ));
        }
        let is_no_text = |target: &Value| !target.is_null() && target.as_str().is_none();
        let targets = changes
            .iter()
            .flat_map(|change| TARGET_NAMES.map(|name| change.get(name)));
        if targets.flatten().any(is_no_text) {
            return Err(RuleBroken::new(
                "proposed_changes",
                "must have text as capability_name and scope",
            ));
        }
        // What an audit lists of them. As long as an entry of the scope, which they are compared with.
        for target in self.proposed_targets().into_iter().flatten() {
            rule::identifier("proposed_changes", target)?;
        }
        match (self.activation_window_start, self.activation_window_end) {
            (Some(start), Some(end)) if end < start => Err(RuleBroken::new(
                "activation_window_end",
                "must not be before activation_window_start",
            )),
            _ => Ok(()),
        }
    }

    /// Of each proposed change what it is judged by: `capability_name`, else `scope`.
    pub fn proposed_targets(&self) -> Vec<Option<&str>> {
        let one = std::slice::from_ref(&self.proposed_changes);
        let changes = self.proposed_changes.as_array().unwrap_or(one);
        changes
            .iter()
            .map(|change| {
                TARGET_NAMES
                    .iter()
                    .filter_map(|name| change.get(name).and_then(Value::as_str))
                    .find(|target| !target.is_empty())
            })
            .collect()
    }

    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        let time = |at: Timestamp| text(&at.to_string());
        let mut object = Vec::with_capacity(5);
        put(
            &mut object,
            "activation_window_end",
            self.activation_window_end.map(time),
        );
        put(
            &mut object,
            "activation_window_start",
            self.activation_window_start.map(time),
        );
        put(&mut object, "contract_id", Some(text(&self.contract_id)));
        let changes = Some(&self.proposed_changes).filter(|changes| !changes.is_null());
        put(&mut object, "proposed_changes", changes.cloned());
        let scope: Vec<Value> = self.scope.iter().map(|entry| text(entry)).collect();
        put(&mut object, "scope", Some(Value::from(scope)));
        canonical::to_vec(&Value::Object(object))
    }

    /// Reads a stored body.
    ///
    /// # Errors
    /// The bytes are no such body.
    pub fn read(body: &[u8]) -> Result<Self, BodyError> {
        #[derive(Deserialize)]
        struct Wire {
            activation_window_end: Option<Timestamp>,
            activation_window_start: Option<Timestamp>,
            contract_id: String,
            scope: Vec<String>,
        }
        let wire: Wire =
            serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::GovernanceContract, error))?;
        let mut value = canonical::parse(body, canonical::Limits::default())
            .map_err(|error| BodyError::new(Kind::GovernanceContract, error))?;
        Ok(Self {
            contract_id: wire.contract_id,
            scope: wire.scope,
            proposed_changes: value.remove("proposed_changes").unwrap_or_default(),
            activation_window_start: wire.activation_window_start,
            activation_window_end: wire.activation_window_end,
        })
    }

    /// What it says to projections.
    pub fn facts(&self) -> GovernanceContractFacts {
        GovernanceContractFacts {
            contract_id: self.contract_id.clone(),
        }
    }
}

/// What a contract says to projections.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GovernanceContractFacts {
    /// The contract.
    pub contract_id: String,
}

impl GovernanceContractFacts {
    pub(crate) fn read(body: &[u8]) -> Result<Self, BodyError> {
        serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::GovernanceContract, error))
    }

    pub(crate) fn facets(&self, out: &mut Vec<String>) {
        out.push("contract".to_owned());
        push_facet(out, "contract", &self.contract_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract() -> GovernanceContract {
        GovernanceContract {
            contract_id: "c1".into(),
            scope: vec!["search".into(), "export".into()],
            proposed_changes: Value::object([("capability_name", Value::from("search"))]),
            activation_window_start: Some(Timestamp::parse("2026-11-21T09:00:00Z").unwrap()),
            activation_window_end: Some(Timestamp::parse("2026-11-21T10:00:00Z").unwrap()),
        }
    }

    /// Frozen: these bytes are committed to.
    #[test]
    fn body_bytes_are_these() {
        let body = contract().encode();
        assert_eq!(
            String::from_utf8(body.clone()).unwrap(),
            r#"{"activation_window_end":"2026-11-21T10:00:00.000000Z","activation_window_start":"2026-11-21T09:00:00.000000Z","contract_id":"c1","proposed_changes":{"capability_name":"search"},"scope":["search","export"]}"#
        );
        assert_eq!(GovernanceContract::read(&body).unwrap(), contract());
        let facts = GovernanceContractFacts::read(&body).unwrap();
        assert_eq!(facts, contract().facts());
        let mut facets = Vec::new();
        facts.facets(&mut facets);
        assert_eq!(facets, ["contract", "contract=c1"]);
        let open = GovernanceContract {
            scope: Vec::new(),
            proposed_changes: Value::Null,
            activation_window_start: None,
            activation_window_end: None,
            ..contract()
        };
        assert_eq!(open.encode(), br#"{"contract_id":"c1","scope":[]}"#);
        assert_eq!(GovernanceContract::read(&open.encode()).unwrap(), open);
    }

    #[test]
    fn rules_are_named_by_their_field() {
        contract().check().unwrap();
        let turned = GovernanceContract {
            activation_window_end: Some(Timestamp::UNIX_EPOCH),
            ..contract()
        };
        let endless = GovernanceContract {
            scope: vec!["x".into(); CONTRACT_SCOPE_MAX + 1],
            ..contract()
        };
        let nameless = GovernanceContract {
            scope: vec![String::new()],
            ..contract()
        };
        let vague = GovernanceContract {
            proposed_changes: Value::from("everything"),
            ..contract()
        };
        for (contract, field) in [
            (turned, "activation_window_end"),
            (endless, "scope"),
            (nameless, "scope"),
            (vague, "proposed_changes"),
        ] {
            assert_eq!(contract.check().unwrap_err().field, field);
        }
        let changes = |json: &str| GovernanceContract {
            proposed_changes: canonical::parse(json.as_bytes(), canonical::Limits::default()).unwrap(),
            ..contract()
        };
        for numbered in [
            r#"{"scope":["billing"]}"#,
            r#"{"capability_name":7}"#,
            r#"[{"scope":"search"},{"capability_name":"export","scope":{}}]"#,
        ] {
            let refused = changes(numbered);
            assert_eq!(
                refused.check().unwrap_err().field,
                "proposed_changes",
                "{numbered}"
            );
            // One of before is read all the same.
            assert_eq!(GovernanceContract::read(&refused.encode()).unwrap(), refused);
        }
        changes(r#"{"capability_name":null,"scope":"search"}"#)
            .check()
            .unwrap();
        let most = GovernanceContract {
            scope: vec!["x".into(); CONTRACT_SCOPE_MAX],
            ..contract()
        };
        most.check().unwrap();
    }
}
