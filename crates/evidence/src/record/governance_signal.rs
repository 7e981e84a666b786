//! `governance.signal`: somebody allowed or blocked something about a capability.
//!
//! Source: SPEC 7.1, 7.2; docs/formats.md, "governance.signal".

use serde::Deserialize;

use super::rule::{self, RuleBroken};
use super::{BodyError, put, text};
use crate::canonical::{self, Value};
use crate::facet::{facet, push_facet};
use crate::header::words;
use crate::{Kind, Timestamp};

words! {
    /// What a signal says.
    SignalDecision {
        /// Go on.
        Allow = "allow",
        /// Do not.
        Block = "block",
    }
}

/// The body of a `governance.signal`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GovernanceSignal {
    /// Made by the server.
    pub signal_id: String,
    /// What it is about, an open word.
    pub signal_type: String,
    /// The capability that it is about.
    pub scope: String,
    /// What it says.
    pub decision: SignalDecision,
    /// When it was given.
    pub at: Timestamp,
}

impl GovernanceSignal {
    /// Whether it keeps to the rules of SPEC 7.1.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check(&self) -> Result<(), RuleBroken> {
        rule::identifier("signal_id", &self.signal_id)?;
        rule::identifier("signal_type", &self.signal_type)?;
        rule::identifier("scope", &self.scope)
    }

    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        let mut object = Vec::with_capacity(5);
        put(&mut object, "at", Some(text(&self.at.to_string())));
        put(&mut object, "decision", Some(text(self.decision.as_str())));
        put(&mut object, "scope", Some(text(&self.scope)));
        put(&mut object, "signal_id", Some(text(&self.signal_id)));
        put(&mut object, "signal_type", Some(text(&self.signal_type)));
        canonical::to_vec(&Value::Object(object))
    }

    /// Reads a stored body.
    ///
    /// # Errors
    /// The bytes are no such body.
    pub fn read(body: &[u8]) -> Result<Self, BodyError> {
        serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::GovernanceSignal, error))
    }

    /// The facet of a capability's signals that were given on the day of a moment.
    pub fn day_facet(scope: &str, at: Timestamp) -> String {
        // A time's text begins with its day, always 10 bytes.
        let day: String = at.to_string().chars().take(10).collect();
        facet("signal.day", &format!("{day} {scope}"))
    }

    pub(crate) fn facets(&self, out: &mut Vec<String>) {
        out.push("signal".to_owned());
        push_facet(out, "signal", &self.signal_id);
        push_facet(out, "signal.scope", &self.scope);
        push_facet(out, "signal.type", &self.signal_type);
        out.push(Self::day_facet(&self.scope, self.at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen: these bytes are committed to.
    #[test]
    fn body_bytes_are_these() {
        let signal = GovernanceSignal {
            signal_id: "s1".into(),
            signal_type: "change_freeze".into(),
            scope: "search".into(),
            decision: SignalDecision::Block,
            at: Timestamp::parse("2026-11-21T09:30:59.999999Z").unwrap(),
        };
        signal.check().unwrap();
        let body = signal.encode();
        assert_eq!(
            String::from_utf8(body.clone()).unwrap(),
            r#"{"at":"2026-11-21T09:30:59.999999Z","decision":"block","scope":"search","signal_id":"s1","signal_type":"change_freeze"}"#
        );
        assert_eq!(GovernanceSignal::read(&body).unwrap(), signal);
        let mut facets = Vec::new();
        signal.facets(&mut facets);
        assert_eq!(
            facets.join(" "),
            "signal signal=s1 signal.scope=search signal.type=change_freeze signal.day=2026-11-21 search"
        );
        let nameless = GovernanceSignal {
            scope: String::new(),
            ..signal
        };
        assert_eq!(nameless.check().unwrap_err().field, "scope");
    }
}
