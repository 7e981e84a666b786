//! `trace.completed` and `trace.aborted`: a trace is closed, exactly once.
//!
//! The server writes it: it holds what the records before it add up to. Steps
//! that come later are recorded and counted as late; order, totals and root hash
//! stay as they are here.
//!
//! Source: SPEC 4.1–4.3; docs/formats.md, "trace.completed".

use serde::Deserialize;

use super::{BodyError, put, text};
use crate::canonical::{self, Value};
use crate::commitment::{hex_string, unhex};
use crate::{Header, Kind, TraceStatus};

/// The body of a `trace.completed` (no reason) or `trace.aborted` (a reason).
#[derive(Clone, Debug, PartialEq)]
pub struct TraceEnded {
    /// `completed`, `failed` or `aborted`.
    pub status: String,
    /// Why it was aborted.
    pub reason: Option<String>,
    /// SPEC 4.2; none when the body of a step was erased before.
    pub root_hash: Option<[u8; 32]>,
    /// SPEC 4.2.
    pub plan_hash: String,
    /// The run's seed.
    pub seed: i64,
    /// How many steps the root hash covers.
    pub total_steps: u32,
}

impl TraceEnded {
    /// The kind of the record.
    pub fn kind(&self) -> Kind {
        if self.reason.is_some() {
            Kind::TraceAborted
        } else {
            Kind::TraceCompleted
        }
    }

    /// The canonical body. `content_mac` stands only in an abort that a caller asked for.
    pub fn encode(&self, content_mac: Option<&[u8; 32]>) -> Vec<u8> {
        let mut object = Vec::with_capacity(8);
        put(
            &mut object,
            "content_mac",
            content_mac.map(|mac| text(&hex_string(mac))),
        );
        put(&mut object, "plan_hash", Some(text(&self.plan_hash)));
        put(&mut object, "reason", self.reason.as_deref().map(text));
        put(
            &mut object,
            "root_hash",
            self.root_hash.as_ref().map(|hash| text(&hex_string(hash))),
        );
        put(&mut object, "seed", Some(Value::Int(self.seed)));
        put(&mut object, "status", Some(text(&self.status)));
        put(
            &mut object,
            "total_steps",
            Some(Value::Int(i64::from(self.total_steps))),
        );
        canonical::to_vec(&Value::Object(object))
    }

    /// The facts of this end.
    pub fn facts(&self) -> TraceEndedFacts {
        TraceEndedFacts {
            aborted: self.reason.is_some(),
            status: TraceStatus::parse(&self.status),
            reason: self.reason.clone(),
            root_hash: self.root_hash,
        }
    }
}

/// What the end of a trace says to projections.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceEndedFacts {
    /// Aborted, by a caller or for silence.
    pub aborted: bool,
    /// How it ended; none when that is erased.
    pub status: Option<TraceStatus>,
    /// Why.
    pub reason: Option<String>,
    /// SPEC 4.2; none when a body that it covers is erased.
    pub root_hash: Option<[u8; 32]>,
}

impl TraceEndedFacts {
    pub(crate) fn read(header: &Header<'_>, body: &[u8]) -> Result<Self, BodyError> {
        let wire: Wire = serde_json::from_slice(body).map_err(|error| BodyError::new(header.kind, error))?;
        let root_hash = match &wire.root_hash {
            None => None,
            Some(hash) => {
                Some(unhex(hash.as_bytes()).ok_or_else(|| BodyError::new(header.kind, "root_hash"))?)
            }
        };
        Ok(Self {
            aborted: header.kind == Kind::TraceAborted,
            status: TraceStatus::parse(&wire.status),
            reason: wire.reason,
            root_hash,
        })
    }

    /// Of an erased one: that it ended, and whether it was aborted, which the kind says.
    pub(crate) fn erased(header: &Header<'_>) -> Self {
        let aborted = header.kind == Kind::TraceAborted;
        Self {
            aborted,
            status: aborted.then_some(TraceStatus::Aborted),
            reason: None,
            root_hash: None,
        }
    }
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    root_hash: Option<String>,
    status: String,
}
