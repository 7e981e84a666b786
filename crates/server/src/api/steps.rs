//! Steps of a run: recorded one by one, found again by their idempotency key.
//!
//! Source: SPEC 4.1.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use evidence::canonical::{self, Finite, Value};
use evidence::record::{Facts, Step, StepStatus, StepView, TraceStep};
use evidence::{ActorType, Identity, Kind, Origin, SourceDomain, Timestamp, content_mac};
use ledger::{Bind, Draft, Salts, SealedBody};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReadProblems, ReceiptOut, WriteProblems, created, ok, placed};
use super::fields::{self, Num};
use super::records::ReceiptView;
use super::runs::{COMPONENT, first};
use crate::{ApiError, App, Caller, JsonBody, Path, Query, Received};

const SOURCES: [&str; 3] = ["engine", "external", "replay"];
const REPLAY_BEHAVIORS: [&str; 3] = ["execute", "skip", "check"];
const STATUSES: [&str; 4] = ["success", "failure", "retry", "skipped"];

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(record)).routes(routes!(find))
}

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
    timestamp: Option<Timestamp>,
    /// `engine`, `external` (default), `replay`.
    source: Option<String>,
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
        fields::ids(&[
            ("skill_id", &self.skill_id),
            ("outcome_category", &self.outcome_category),
            ("outcome_code", &self.outcome_code),
            ("idempotency_key", &self.idempotency_key),
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
            idempotency_key: self.idempotency_key.clone(),
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
        let occurred_at = self.timestamp.unwrap_or(at);
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
            body: SealedBody::seal(Kind::TraceStep, salt, &body)?,
            facts: Facts::Step(step.facts(occurred_at)),
            expect_run_seq: None,
        };
        Ok((draft, body))
    }
}

/// A step was recorded.
#[derive(Serialize, ToSchema)]
struct StepRecordedOut<'a> {
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
    run_id: &'a str,
    step_index: i64,
    trace_id: &'a str,
}

/// Records a step.
#[utoipa::path(
    post, path = "/api/v1/runs/{run_id}/steps", tag = "runs", operation_id = "step_record",
    params(("run_id" = String, Path, description = "The run")), request_body = StepIn,
    responses(
        (status = 201, description = "The step is in the ledger", body = StepRecordedOut),
        (status = 200, description = "It was, with the same content; the first receipt", body = StepRecordedOut),
        WriteProblems,
    ),
)]
async fn record(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(run_id): Path<String>,
    body: JsonBody<StepIn>,
) -> Result<Response, ApiError> {
    let tenant = Arc::clone(&caller.tenant);
    let step_index = body.value.index();
    let (draft, run_id, trace_id) = app
        .blocking(move |ledger| {
            // Trace, correlation and agent stand in the header too; a run's do not change but for an agent
            // or conversation that its spans name later.
            let run = ledger
                .store()
                .run_find(tenant.tenant_no, &run_id)?
                .ok_or_else(ApiError::not_found)?;
            let (run_id, trace_id): (Arc<str>, Arc<str>) = (run_id.into(), run.state.trace_id.into());
            let correlation_id: Option<Arc<str>> = run.state.correlation_id.map(Arc::from);
            let of = StepRun {
                run_id: &run_id,
                trace_id: &trace_id,
                correlation_id: correlation_id.as_ref(),
                agent_id: run.state.agent_id.as_deref(),
            };
            let (draft, _) = body.value.draft(&of, body.content, at, &mut Salts::default())?;
            Ok((draft, run_id, trace_id))
        })
        .await?;
    let outcomes = app.ledger.submit(&caller.tenant, vec![draft], at).await?;
    let first = first(placed(outcomes)?)?;
    let receipt = ReceiptOut(first.receipt);
    created(
        &first,
        &StepRecordedOut {
            receipt,
            run_id: &run_id,
            step_index,
            trace_id: &trace_id,
        },
    )
}

/// Which step.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct StepQuery {
    /// The caller's key.
    idempotency_key: String,
}

/// A step found by its key: what an engine needs to know before it acts again.
#[derive(Serialize, ToSchema)]
struct StepFoundOut<'a> {
    leaf_index: u64,
    #[schema(value_type = Option<Object>)]
    outcome_data: Option<&'a RawValue>,
    output_hash: Option<&'a str>,
    record_id: String,
    run_id: &'a str,
    /// Absent of a span, which is numbered with its run's steps.
    step_index: Option<u32>,
    status: &'static str,
    trace_id: Option<&'a str>,
}

/// Finds the newest step with an idempotency key.
#[utoipa::path(
    get, path = "/api/v1/steps", tag = "runs", operation_id = "step_find",
    responses((status = 200, description = "The step", body = StepFoundOut), ReadProblems),
)]
async fn find(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<StepQuery>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let tenant = &caller.tenant;
        let leaf = ledger
            .store()
            .step_key_find(tenant.tenant_no, &query.idempotency_key)?;
        let leaf = leaf.ok_or_else(ApiError::not_found)?;
        let record = ledger
            .records(tenant)
            .read(&[leaf])?
            .pop()
            .ok_or_else(ApiError::not_found)?;
        let header = record.header()?;
        // An erased step says nothing any more, its key included.
        let body = record.body.as_deref().ok_or_else(ApiError::not_found)?;
        let view = StepView::read(body).map_err(|error| ApiError::internal(&error))?;
        ok(&StepFoundOut {
            leaf_index: leaf.leaf_index(),
            outcome_data: view.step.outcome_data,
            output_hash: view.step.output_hash.as_deref(),
            record_id: header.id.to_string(),
            run_id: header.run.as_ref().map_or("", |run| &run.run_id),
            step_index: view.step.step_index,
            status: view.step.status.as_str(),
            trace_id: header.trace_id.as_deref(),
        })
    })
    .await
}

/// The canonical JSON of the members that were sent, given in canonical order.
pub(crate) fn object_of<'a>(members: impl Iterator<Item = (&'a String, &'a Box<RawValue>)>) -> String {
    let mut text = String::from("{");
    for (key, raw) in members {
        if text.len() > 1 {
            text.push(',');
        }
        let key = canonical::to_vec(&Value::String(key.clone()));
        text.push_str(&String::from_utf8_lossy(&key));
        text.push(':');
        text.push_str(raw.get());
    }
    text.push('}');
    text
}
