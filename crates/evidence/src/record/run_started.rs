//! `run.started`: a run begins.
//!
//! Source: SPEC 4.1, 4.2; docs/formats.md, "run.started".

use std::borrow::Cow;

use serde::Deserialize;

use super::{BodyError, put, text};
use crate::canonical::{self, Value};
use crate::commitment::{hex_string, sha256};
use crate::time::Timestamp;
use crate::{Header, Kind};

/// The sources a run may name (SPEC 4.1).
pub const RUN_SOURCES: [&str; 5] = ["API", "SDK", "SYSTEM", "SYNTHETIC", "WORKER"];

/// The seed of a run that names none (SPEC 4.1).
pub const SEED_DEFAULT: i64 = 42;

/// The body of a `run.started`. Its run, trace and correlation ids and start stand in the header.
#[derive(Clone, Debug, Default)]
pub struct RunStarted {
    /// Who runs.
    pub agent_id: Option<String>,
    /// What for.
    pub goal: Option<String>,
    /// The planned steps, a JSON array.
    pub plan: Vec<Value>,
    /// The run that this one belongs to.
    pub parent_run_id: Option<String>,
    /// One of [`RUN_SOURCES`].
    pub source: Cow<'static, str>,
    /// Whether the run was made up, for tests and drills.
    pub is_synthetic: bool,
    /// Which drill; if and only if synthetic.
    pub synthetic_scenario_id: Option<String>,
    /// The incident that the run answers.
    pub incident_id: Option<String>,
    /// The seed of its randomness.
    pub seed: Option<i64>,
    /// The time the run was told.
    pub frozen_timestamp: Option<Timestamp>,
    /// As given.
    pub replay_mode: Option<String>,
    /// As given.
    pub replay_attempt_id: Option<String>,
    /// As given.
    pub replay_artifact_version: Option<String>,
    /// The policies in force, as the caller names them.
    pub policy_snapshot_id: Option<String>,
}

impl RunStarted {
    /// The canonical body.
    pub fn encode(&self, content_mac: Option<&[u8; 32]>) -> Vec<u8> {
        let mut object = Vec::with_capacity(16);
        put(&mut object, "agent_id", self.agent_id.as_deref().map(text));
        put(
            &mut object,
            "content_mac",
            content_mac.map(|mac| text(&hex_string(mac))),
        );
        put(
            &mut object,
            "frozen_timestamp",
            self.frozen_timestamp.map(|at| text(&at.to_string())),
        );
        put(&mut object, "goal", self.goal.as_deref().map(text));
        put(&mut object, "incident_id", self.incident_id.as_deref().map(text));
        put(&mut object, "is_synthetic", Some(Value::Bool(self.is_synthetic)));
        put(
            &mut object,
            "parent_run_id",
            self.parent_run_id.as_deref().map(text),
        );
        put(&mut object, "plan", Some(Value::Array(self.plan.clone())));
        put(&mut object, "plan_hash", Some(text(&self.plan_hash())));
        put(
            &mut object,
            "policy_snapshot_id",
            self.policy_snapshot_id.as_deref().map(text),
        );
        put(
            &mut object,
            "replay_artifact_version",
            self.replay_artifact_version.as_deref().map(text),
        );
        put(
            &mut object,
            "replay_attempt_id",
            self.replay_attempt_id.as_deref().map(text),
        );
        put(&mut object, "replay_mode", self.replay_mode.as_deref().map(text));
        put(
            &mut object,
            "seed",
            Some(Value::Int(self.seed.unwrap_or(SEED_DEFAULT))),
        );
        put(&mut object, "source", Some(text(&self.source)));
        put(
            &mut object,
            "synthetic_scenario_id",
            self.synthetic_scenario_id.as_deref().map(text),
        );
        canonical::to_vec(&Value::Object(object))
    }

    /// SHA-256 of the plan's canonical JSON (SPEC 4.2).
    pub fn plan_hash(&self) -> String {
        hex_string(&sha256(&canonical::to_vec(&Value::Array(self.plan.clone()))))
    }

    /// The facts of this run, given what its header will say.
    pub fn facts(
        &self,
        run_id: &str,
        trace_id: &str,
        correlation_id: Option<&str>,
        started_at: Timestamp,
        otlp: bool,
    ) -> RunStartedFacts {
        RunStartedFacts {
            run_id: run_id.to_owned(),
            trace_id: trace_id.to_owned(),
            correlation_id: correlation_id.map(str::to_owned),
            agent_id: self.agent_id.clone(),
            parent_run_id: self.parent_run_id.clone(),
            source: self.source.to_string(),
            is_synthetic: self.is_synthetic,
            seed: self.seed.unwrap_or(SEED_DEFAULT),
            plan_hash: self.plan_hash(),
            started_at,
            otlp,
        }
    }
}

/// What a run's start says to projections.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the fields of `RunStarted` and of the header
pub struct RunStartedFacts {
    pub run_id: String,
    pub trace_id: String,
    pub correlation_id: Option<String>,
    pub agent_id: Option<String>,
    pub parent_run_id: Option<String>,
    pub source: String,
    pub is_synthetic: bool,
    pub seed: i64,
    pub plan_hash: String,
    pub started_at: Timestamp,
    /// Made from spans: the root span's end completes it.
    pub otlp: bool,
}

/// The source component of records that were made from OTLP.
pub(crate) const OTLP_COMPONENT: &str = "otlp";

impl RunStartedFacts {
    pub(crate) fn read(header: &Header<'_>, body: &[u8]) -> Result<Self, BodyError> {
        let wire: Wire =
            serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::RunStarted, error))?;
        let run = header
            .run
            .as_ref()
            .ok_or_else(|| BodyError::new(Kind::RunStarted, "no run_id in the header"))?;
        Ok(Self {
            agent_id: wire.agent_id,
            parent_run_id: wire.parent_run_id,
            source: wire.source,
            is_synthetic: wire.is_synthetic,
            seed: wire.seed,
            plan_hash: wire.plan_hash,
            ..Self::of_header(header, run.run_id.to_string())
        })
    }

    /// Of an erased one: what was in the body is empty.
    pub(crate) fn erased(header: &Header<'_>) -> Self {
        let run_id = header.run.as_ref().map(|run| run.run_id.to_string());
        Self::of_header(header, run_id.unwrap_or_default())
    }

    fn of_header(header: &Header<'_>, run_id: String) -> Self {
        Self {
            run_id,
            trace_id: header.trace_id.as_deref().unwrap_or_default().to_owned(),
            correlation_id: header.correlation_id.as_deref().map(str::to_owned),
            agent_id: None,
            parent_run_id: None,
            source: String::new(),
            is_synthetic: false,
            seed: 0,
            plan_hash: String::new(),
            started_at: header.occurred_at,
            otlp: header.source_component == OTLP_COMPONENT,
        }
    }
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    agent_id: Option<String>,
    is_synthetic: bool,
    #[serde(default)]
    parent_run_id: Option<String>,
    plan_hash: String,
    seed: i64,
    source: String,
}
