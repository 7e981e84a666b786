//! `run.started`: what a caller says of a run, checked, as a record.

use std::borrow::Cow;
use std::sync::Arc;

use evidence::canonical::Value;
use evidence::record::{Facts, RUN_SOURCES, RunStarted};
use evidence::{
    ActorType, GivenTime, Identity, Kind, Origin, SourceDomain, TimesGiven, Timestamp, content_mac,
};
use ledger::{Bind, Draft, Salts};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::COMPONENT;
use crate::api::fields;
use crate::{ApiError, ids};

/// Most entries of a plan. A plan is read whole with its run; 10,000 entries are as many as the steps that
/// one answer shows.
pub(crate) const PLAN_ENTRIES_MAX: usize = 10_000;

/// A run to start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RunStart)]
pub(crate) struct RunIn {
    /// Absent: a new UUIDv7, so that every POST is a run of its own.
    pub(crate) run_id: Option<String>,
    agent_id: Option<String>,
    goal: Option<String>,
    /// The planned steps.
    #[schema(value_type = Option<Vec<Object>>)]
    plan: Option<Box<RawValue>>,
    /// Absent: the run_id.
    correlation_id: Option<String>,
    parent_run_id: Option<String>,
    /// `API` (default), `SDK`, `SYSTEM`, `SYNTHETIC`, `WORKER`.
    source: Option<String>,
    is_synthetic: Option<bool>,
    /// If and only if is_synthetic.
    synthetic_scenario_id: Option<String>,
    incident_id: Option<String>,
    /// 42 when absent.
    seed: Option<i64>,
    #[schema(value_type = Option<String>, format = DateTime)]
    frozen_timestamp: Option<GivenTime>,
    replay_mode: Option<String>,
    replay_attempt_id: Option<String>,
    replay_artifact_version: Option<String>,
    policy_snapshot_id: Option<String>,
    /// The time of receipt when absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<GivenTime>,
}

/// The names of a run.
#[derive(Clone, Debug)]
#[allow(clippy::struct_field_names)] // the names on the wire
pub(crate) struct RunNames {
    pub(crate) run_id: Arc<str>,
    pub(crate) trace_id: Arc<str>,
    pub(crate) correlation_id: Arc<str>,
}

impl RunIn {
    /// The names of the run; one without id gets a new one.
    pub(crate) fn names(&self, at: Timestamp) -> Result<RunNames, ApiError> {
        fields::ids(&[("run_id", &self.run_id), ("correlation_id", &self.correlation_id)])?;
        let run_id: Arc<str> = self.run_id.clone().unwrap_or_else(|| ids::uuid_v7(at)).into();
        let correlation_id = self
            .correlation_id
            .as_deref()
            .map_or_else(|| Arc::clone(&run_id), Arc::from);
        Ok(RunNames {
            trace_id: format!("trace_{run_id}").into(),
            run_id,
            correlation_id,
        })
    }

    /// The record's body, by SPEC 4.1's rules.
    pub(crate) fn check(&self) -> Result<RunStarted, ApiError> {
        fields::ids(&[
            ("agent_id", &self.agent_id),
            ("parent_run_id", &self.parent_run_id),
            ("synthetic_scenario_id", &self.synthetic_scenario_id),
            ("incident_id", &self.incident_id),
            ("replay_mode", &self.replay_mode),
            ("replay_attempt_id", &self.replay_attempt_id),
            ("replay_artifact_version", &self.replay_artifact_version),
            ("policy_snapshot_id", &self.policy_snapshot_id),
        ])?;
        fields::prose("goal", self.goal.as_deref())?;
        let source = match &self.source {
            Some(source) => fields::word("source", source, &RUN_SOURCES)?,
            None => "API",
        };
        let is_synthetic = self.is_synthetic.unwrap_or(false);
        if is_synthetic != self.synthetic_scenario_id.is_some() {
            let rule = "must be given if and only if is_synthetic is true";
            return Err(ApiError::invalid("synthetic_scenario_id", rule));
        }
        Ok(RunStarted {
            agent_id: self.agent_id.clone(),
            goal: self.goal.clone(),
            plan: self.plan()?,
            parent_run_id: self.parent_run_id.clone(),
            source: Cow::Borrowed(source),
            is_synthetic,
            synthetic_scenario_id: self.synthetic_scenario_id.clone(),
            incident_id: self.incident_id.clone(),
            seed: self.seed,
            frozen_timestamp: self.frozen_timestamp.as_ref().map(|given| given.time),
            replay_mode: self.replay_mode.clone(),
            replay_attempt_id: self.replay_attempt_id.clone(),
            replay_artifact_version: self.replay_artifact_version.clone(),
            policy_snapshot_id: self.policy_snapshot_id.clone(),
        })
    }

    fn plan(&self) -> Result<Vec<Value>, ApiError> {
        let plan = match fields::value_opt("plan", self.plan.as_deref())? {
            None => Vec::new(),
            Some(Value::Array(plan)) => plan,
            Some(_) => return Err(ApiError::invalid("plan", "must be an array")),
        };
        if plan.len() > PLAN_ENTRIES_MAX {
            let rule = format_args!("must have at most {PLAN_ENTRIES_MAX} entries").to_string();
            return Err(ApiError::invalid("plan", rule));
        }
        Ok(plan)
    }

    /// The record. `content` is SHA-256 of what was sent.
    pub(crate) fn draft(
        &self,
        names: &RunNames,
        started: &RunStarted,
        content: [u8; 32],
        at: Timestamp,
        salts: &mut Salts,
    ) -> Result<Draft, ApiError> {
        let salt = salts.next_salt();
        let times = TimesGiven::of([
            ("frozen_timestamp", self.frozen_timestamp.as_ref()),
            ("started_at", self.started_at.as_ref()),
        ]);
        let body = times.put(started.encode(Some(&content_mac(&salt, &content))));
        let started_at = self.started_at.as_ref().map_or(at, |given| given.time);
        let facts = started.facts(
            &names.run_id,
            &names.trace_id,
            Some(&names.correlation_id),
            started_at,
            false,
        );
        let (actor, origin) = match &self.agent_id {
            Some(agent_id) => ((ActorType::Agent, Some(agent_id.as_str().into())), Origin::Agent),
            None => ((ActorType::System, None), Origin::System),
        };
        Ok(Draft {
            kind: Kind::RunStarted,
            bind: Bind::NewRun(Arc::clone(&names.run_id)),
            identity: Some(Identity::once(Kind::RunStarted)),
            content: Some(content),
            trace_id: Some(Arc::clone(&names.trace_id)),
            correlation_id: Some(Arc::clone(&names.correlation_id)),
            actor,
            occurred_at: started_at,
            source_domain: SourceDomain::Activity,
            source_component: COMPONENT,
            origin,
            body: salts.seal_under(Kind::RunStarted, salt, &body)?,
            facts: Facts::RunStarted(facts),
            expect_run_seq: None,
        })
    }
}
