//! `hold.placed`, `hold.released`: a legal hold, which keeps bodies from being erased and pruned.
//!
//! Whether something is held is the difference of two counts: holds placed over it and holds released. So a
//! release repeats what its hold is about, and stands there once.
//!
//! Source: SPEC 11.6; docs/formats.md, "hold.placed, hold.released".

use serde::Deserialize;

use super::rule::{self, RuleBroken};
use super::{BodyError, put, text};
use crate::canonical::{self, Value};
use crate::facet::{facet, push_facet};
use crate::{Header, Kind, RecordId};

/// What a hold is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldScope {
    /// Everything of the tenant.
    Tenant,
    /// What is of a run, or names it.
    Run(String),
    /// One record.
    Record(RecordId),
}

impl HoldScope {
    /// The word on the wire.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Run(_) => "run",
            Self::Record(_) => "record",
        }
    }

    /// Under which a hold on this is found: `on` while it is placed, `off` when it is released.
    fn facet(&self, side: &str) -> String {
        match self {
            Self::Tenant => format!("hold.{side}.tenant"),
            Self::Run(run_id) => facet(&format!("hold.{side}.run"), run_id),
            Self::Record(id) => facet(&format!("hold.{side}.record"), &id.to_string()),
        }
    }

    /// The facet of every hold that was placed over this.
    pub fn placed(&self) -> String {
        self.facet("on")
    }

    /// The facet of every one of them that was released.
    pub fn released(&self) -> String {
        self.facet("off")
    }
}

/// The body of a `hold.placed` or `hold.released`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The hold.
    pub hold_id: String,
    /// Released; else placed.
    pub released: bool,
    /// Who did it.
    pub principal: String,
    /// Why.
    pub reason: String,
    /// What it is about.
    pub scope: HoldScope,
    /// What redaction took out of the reason.
    pub redactions: Option<Value>,
}

impl Hold {
    /// The kind of the record.
    pub const fn kind(&self) -> Kind {
        if self.released {
            Kind::HoldReleased
        } else {
            Kind::HoldPlaced
        }
    }

    /// Whether it keeps to the rules of SPEC 11.6.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check(&self) -> Result<(), RuleBroken> {
        if let HoldScope::Run(run_id) = &self.scope {
            rule::identifier("run_id", run_id)?;
        }
        rule::prose_given("reason", &self.reason)
    }

    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        let mut object = Vec::with_capacity(7);
        put(&mut object, "hold_id", Some(text(&self.hold_id)));
        put(&mut object, "principal", Some(text(&self.principal)));
        put(&mut object, "reason", Some(text(&self.reason)));
        let (run_id, record_id) = match &self.scope {
            HoldScope::Tenant => (None, None),
            HoldScope::Run(run_id) => (Some(text(run_id)), None),
            HoldScope::Record(id) => (None, Some(Value::String(id.to_string()))),
        };
        put(&mut object, "record_id", record_id);
        put(&mut object, "redactions", self.redactions.clone());
        put(&mut object, "run_id", run_id);
        put(&mut object, "scope", Some(text(self.scope.as_str())));
        // Names in canonical order, whatever is left out.
        object.sort_by(|a, b| a.0.cmp(&b.0));
        canonical::to_vec(&Value::Object(object))
    }

    /// Reads a stored body.
    ///
    /// # Errors
    /// The bytes are no such body.
    pub fn read(header: &Header<'_>, body: &[u8]) -> Result<Self, BodyError> {
        let bad = |reason: &str| BodyError::new(header.kind, reason);
        let wire: Wire = serde_json::from_slice(body).map_err(|error| BodyError::new(header.kind, error))?;
        let scope = match (wire.scope.as_str(), wire.run_id, wire.record_id) {
            ("tenant", None, None) => HoldScope::Tenant,
            ("run", Some(run_id), None) => HoldScope::Run(run_id),
            ("record", None, Some(id)) => {
                HoldScope::Record(RecordId::parse(&id).ok_or_else(|| bad("record_id"))?)
            }
            _ => return Err(bad("scope")),
        };
        Ok(Self {
            hold_id: wire.hold_id,
            released: header.kind == Kind::HoldReleased,
            principal: wire.principal,
            reason: wire.reason,
            scope,
            redactions: None,
        })
    }

    pub(crate) fn facets(&self, out: &mut Vec<String>) {
        push_facet(out, "hold", &self.hold_id);
        if self.released {
            out.push(self.scope.released());
        } else {
            out.push("hold".to_owned());
            out.push(self.scope.placed());
        }
    }
}

#[derive(Deserialize)]
struct Wire {
    hold_id: String,
    principal: String,
    reason: String,
    record_id: Option<String>,
    run_id: Option<String>,
    scope: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen: these bytes are committed to.
    #[test]
    fn body_bytes_are_these_and_a_release_is_found_beside_its_hold() {
        let hold = Hold {
            hold_id: "h1".into(),
            released: false,
            principal: "local".into(),
            reason: "case 7".into(),
            scope: HoldScope::Run("r1".into()),
            redactions: None,
        };
        hold.check().unwrap();
        assert_eq!(
            String::from_utf8(hold.encode()).unwrap(),
            r#"{"hold_id":"h1","principal":"local","reason":"case 7","run_id":"r1","scope":"run"}"#
        );
        let facets = |hold: &Hold| {
            let mut out = Vec::new();
            hold.facets(&mut out);
            out.join(" ")
        };
        assert_eq!(facets(&hold), "hold=h1 hold hold.on.run=r1");
        let released = Hold {
            released: true,
            ..hold
        };
        assert_eq!(facets(&released), "hold=h1 hold.off.run=r1");
        let tenant = Hold {
            scope: HoldScope::Tenant,
            ..released
        };
        assert_eq!(
            String::from_utf8(tenant.encode()).unwrap(),
            r#"{"hold_id":"h1","principal":"local","reason":"case 7","scope":"tenant"}"#
        );
        assert_eq!(facets(&tenant), "hold=h1 hold.off.tenant");
    }
}
