//! `trace.step`: what a caller says of a step, checked, as a record.

use std::sync::Arc;

use evidence::canonical::{Finite, Value};
use evidence::record::{Facts, Step, StepStatus, TraceStep};
use evidence::{
    ActorType, GivenTime, Identity, Kind, Origin, SourceDomain, TimesGiven, Timestamp, content_mac,
};
use ledger::{Bind, Draft, Salts};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::ApiError;
use crate::api::fields::{self, Num};
use crate::api::runs::COMPONENT;

const SOURCES: [&str; 3] = ["engine", "external", "replay"];
const REPLAY_BEHAVIORS: [&str; 3] = ["execute", "skip", "check"];
const STATUSES: [&str; 4] = ["success", "failure", "retry", "skipped"];

/// A step to record.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StepRecord)]
pub(crate) struct StepIn {
    /// 0 to 2147483647.
    step_index: i64,
    skill_name: String,
    skill_id: Option<String>,
    /// `{}` when absent.
    #[schema(value_type = Option<Object>)]
    params: Option<Box<RawValue>>,
    /// `success`, `failure`, `retry`, `skipped`.
    status: String,
    /// `SUCCESS` when absent from a success or skipped step, else `FAILURE`.
    outcome_category: Option<String>,
    outcome_code: Option<String>,
    #[schema(value_type = Option<Object>)]
    outcome_data: Option<Box<RawValue>>,
    /// US cents; 0 when absent.
    #[schema(value_type = Option<f64>)]
    cost_cents: Option<Num>,
    /// 0 when absent.
    #[schema(value_type = Option<f64>)]
    duration_ms: Option<Num>,
    /// 0 when absent.
    retry_count: Option<i64>,
    /// The time of receipt when absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    timestamp: Option<GivenTime>,
    /// `engine`, `external` (default), `replay`.
    source: Option<String>,
    /// An empty one means none.
    idempotency_key: Option<String>,
    /// `execute`, `skip`, `check`.
    replay_behavior: Option<String>,
    input_hash: Option<String>,
    output_hash: Option<String>,
    #[schema(value_type = Option<Object>)]
    rng_state_before: Option<Box<RawValue>>,
    /// A count, or an object of counts.
    #[schema(value_type = Option<Object>)]
    tokens: Option<Box<RawValue>>,
}

/// The run that a step belongs to.
#[allow(clippy::struct_field_names)] // the names on the wire
pub(crate) struct StepRun<'a> {
    pub(crate) run_id: &'a Arc<str>,
    pub(crate) trace_id: &'a Arc<str>,
    pub(crate) correlation_id: Option<&'a Arc<str>>,
    pub(crate) agent_id: Option<&'a str>,
}

impl StepIn {
    /// The record's body, by SPEC 4.1's rules.
    pub(crate) fn check(&self) -> Result<TraceStep, ApiError> {
        let step_index = fields::count("step_index", self.step_index)?;
        fields::id("skill_name", &self.skill_name)?;
        let key = self.idempotency_key.clone().filter(|key| !key.is_empty());
        fields::ids(&[
            ("skill_id", &self.skill_id),
            ("outcome_category", &self.outcome_category),
            ("outcome_code", &self.outcome_code),
            ("idempotency_key", &key),
            ("input_hash", &self.input_hash),
            ("output_hash", &self.output_hash),
        ])?;
        let status = StepStatus::parse(fields::word("status", &self.status, &STATUSES)?)
            .ok_or_else(|| ApiError::internal(&"a status without value"))?;
        let outcome_category = match (&self.outcome_category, status) {
            (Some(category), _) => category.clone(),
            (None, StepStatus::Success | StepStatus::Skipped) => "SUCCESS".into(),
            (None, StepStatus::Failure | StepStatus::Retry) => "FAILURE".into(),
        };
        let source = match &self.source {
            Some(source) => fields::word("source", source, &SOURCES)?,
            None => "external",
        };
        if let Some(behavior) = &self.replay_behavior {
            fields::word("replay_behavior", behavior, &REPLAY_BEHAVIORS)?;
        }
        let params = match &self.params {
            Some(params) if params.get().starts_with('{') => params.get().as_bytes().to_vec(),
            Some(_) => return Err(ApiError::invalid("params", "must be an object")),
            None => b"{}".to_vec(),
        };
        let step = Step {
            step_index: Some(step_index),
            skill_name: self.skill_name.clone(),
            skill_id: self.skill_id.clone(),
            params,
            status,
            outcome_category,
            outcome_code: self.outcome_code.clone(),
            outcome_data: self
                .outcome_data
                .as_ref()
                .map(|data| data.get().as_bytes().to_vec()),
            cost_cents: self
                .cost_cents
                .map_or(Ok(Finite::default()), |n| fields::cents("cost_cents", n))?,
            duration_ms: self
                .duration_ms
                .map_or(Ok(Finite::default()), |n| fields::duration_ms("duration_ms", n))?,
            retry_count: fields::count("retry_count", self.retry_count.unwrap_or(0))?,
            source: source.into(),
            idempotency_key: key,
            replay_behavior: self.replay_behavior.clone(),
            input_hash: self.input_hash.clone(),
            output_hash: self.output_hash.clone(),
            rng_state_before: fields::value_opt("rng_state_before", self.rng_state_before.as_deref())?,
            tokens: self.tokens()?,
            inference: false,
            agent: None,
        };
        Ok(TraceStep {
            step,
            activity: None,
            provider: None,
            policy: None,
            otel: None,
        })
    }

    fn tokens(&self) -> Result<Option<Value>, ApiError> {
        let tokens = fields::value_opt("tokens", self.tokens.as_deref())?;
        let is_count = |value: &Value| value.as_u64().is_some();
        let counted = match &tokens {
            None => true,
            Some(Value::Object(members)) => members
                .iter()
                .all(|(_, value)| value.is_null() || is_count(value)),
            Some(value) => is_count(value),
        };
        if counted {
            Ok(tokens)
        } else {
            Err(ApiError::invalid("tokens", "must be a count, or counts by name"))
        }
    }

    /// The step's index, once checked.
    pub(crate) const fn index(&self) -> i64 {
        self.step_index
    }

    /// The record and its body's bytes. `content` is SHA-256 of what was sent.
    pub(crate) fn draft(
        &self,
        run: &StepRun<'_>,
        content: [u8; 32],
        at: Timestamp,
        salts: &mut Salts,
    ) -> Result<(Draft, Vec<u8>), ApiError> {
        let step = self.check()?;
        let salt = salts.next_salt();
        let mut body = Vec::with_capacity(512 + step.step.params.len());
        step.encode(&content_mac(&salt, &content), &mut body);
        let body = TimesGiven::of([("timestamp", self.timestamp.as_ref())]).put(body);
        let occurred_at = self.timestamp.as_ref().map_or(at, |given| given.time);
        let actor = match run.agent_id {
            Some(agent_id) => (ActorType::Agent, Some(agent_id.into())),
            None => (ActorType::Agent, None),
        };
        let draft = Draft {
            kind: Kind::TraceStep,
            bind: Bind::Run(Arc::clone(run.run_id)),
            identity: Some(Identity::step(step.step.step_index.unwrap_or(0))),
            content: Some(content),
            trace_id: Some(Arc::clone(run.trace_id)),
            correlation_id: run.correlation_id.map(Arc::clone),
            actor,
            occurred_at,
            source_domain: SourceDomain::Activity,
            source_component: COMPONENT,
            origin: if step.step.source == "replay" {
                Origin::Replay
            } else {
                Origin::Agent
            },
            body: salts.seal_under(Kind::TraceStep, salt, &body)?,
            facts: Facts::Step(step.facts(occurred_at)),
            expect_run_seq: None,
        };
        Ok((draft, body))
    }
}
