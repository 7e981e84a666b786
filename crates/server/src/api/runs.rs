//! Runs: started, completed, aborted.
//!
//! Each request becomes one record (the end of a run two). What "the same
//! content again" means is what was sent, before defaults.
//!
//! Source: SPEC 4.1.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use evidence::canonical::Value;
use evidence::record::{Facts, RUN_SOURCES, RunCompleted, RunStarted};
use evidence::{ActorType, Identity, Kind, Origin, SourceDomain, Timestamp, content_mac};
use ledger::{Bind, Draft, EndRun, Ledger, Placed, Salts, SealedBody, Tenant};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReceiptOut, WriteProblems, created, placed};
use super::fields::{self, Num};
use super::records::ReceiptView;
use crate::{ApiError, App, Caller, JsonBody, Path, Received, ids};

/// Most entries of a plan. A plan is read whole with its run; 10,000 entries are as many as the steps that
/// one answer shows.
pub(crate) const PLAN_ENTRIES_MAX: usize = 10_000;

/// Stands in the header of what comes by REST.
pub(crate) const COMPONENT: &str = "api";

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(start))
        .routes(routes!(complete))
        .routes(routes!(abort))
}

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
    frozen_timestamp: Option<Timestamp>,
    replay_mode: Option<String>,
    replay_attempt_id: Option<String>,
    replay_artifact_version: Option<String>,
    policy_snapshot_id: Option<String>,
    /// The time of receipt when absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
}

/// How a run ended.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RunComplete)]
pub(crate) struct EndIn {
    /// `completed` or `failed`.
    status: String,
    provider: Option<String>,
    model: Option<String>,
    input_tokens: Option<i64>,
    output_tokens: Option<i64>,
    /// US cents.
    #[schema(value_type = Option<f64>)]
    cost_cents: Option<Num>,
    /// `timeout` makes the execution status TIMEOUT.
    termination_reason: Option<String>,
    #[schema(value_type = Option<Object>)]
    metadata: Option<Box<RawValue>>,
    declared_steps: Option<i64>,
    /// The time of receipt when absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    completed_at: Option<Timestamp>,
}

/// Why a run is aborted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RunAbort)]
pub(crate) struct AbortIn {
    reason: String,
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
            frozen_timestamp: self.frozen_timestamp,
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
        let body = started.encode(Some(&content_mac(&salt, &content)));
        let started_at = self.started_at.unwrap_or(at);
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
            body: SealedBody::seal(Kind::RunStarted, salt, &body)?,
            facts: Facts::RunStarted(facts),
            expect_run_seq: None,
        })
    }
}

impl EndIn {
    /// The record's body, by SPEC 4.1's rules.
    pub(crate) fn check(&self, at: Timestamp) -> Result<RunCompleted, ApiError> {
        let status = fields::word("status", &self.status, &["completed", "failed"])?;
        fields::ids(&[("provider", &self.provider), ("model", &self.model)])?;
        fields::not_negative("input_tokens", self.input_tokens)?;
        fields::not_negative("output_tokens", self.output_tokens)?;
        fields::prose("termination_reason", self.termination_reason.as_deref())?;
        let metadata = fields::value_opt("metadata", self.metadata.as_deref())?;
        if metadata
            .as_ref()
            .is_some_and(|metadata| !matches!(metadata, Value::Object(_)))
        {
            return Err(ApiError::invalid("metadata", "must be an object"));
        }
        Ok(RunCompleted {
            failed: status == "failed",
            provider: self.provider.clone(),
            model: self.model.clone(),
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            cost_cents: self
                .cost_cents
                .map(|cost| fields::cents("cost_cents", cost))
                .transpose()?,
            termination_reason: self.termination_reason.clone(),
            metadata,
            declared_steps: self
                .declared_steps
                .map(|n| fields::count("declared_steps", n))
                .transpose()?,
            // The run's end is shown by it; what was sent, and so its content, stays as it was.
            completed_at: Some(self.completed_at.unwrap_or(at)),
        })
    }
}

impl AbortIn {
    pub(crate) fn check(&self) -> Result<&str, ApiError> {
        if self.reason.is_empty() {
            return Err(ApiError::invalid("reason", "must not be empty"));
        }
        fields::prose("reason", Some(&self.reason))?;
        Ok(&self.reason)
    }
}

/// A run was started.
#[derive(Serialize, ToSchema)]
struct RunStartedOut<'a> {
    correlation_id: &'a str,
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
    run_id: &'a str,
    /// Never re-derived by callers.
    trace_id: &'a str,
}

/// A run has ended.
#[derive(Serialize, ToSchema)]
struct RunEndedOut {
    execution_status: &'static str,
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
    /// SPEC 4.2, lower-case hex.
    root_hash: Option<String>,
    run_id: String,
    status: &'static str,
    trace_id: String,
}

/// Starts a run.
#[utoipa::path(
    post, path = "/api/v1/runs", tag = "runs", operation_id = "run_start", request_body = RunIn,
    responses(
        (status = 201, description = "The run is in the ledger", body = RunStartedOut),
        (status = 200, description = "It was, with the same content; the first receipt", body = RunStartedOut),
        WriteProblems,
    ),
)]
async fn start(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    body: JsonBody<RunIn>,
) -> Result<Response, ApiError> {
    let (draft, names) = app
        .blocking(move |_| {
            let names = body.value.names(at)?;
            let started = body.value.check()?;
            Ok((
                body.value
                    .draft(&names, &started, body.content, at, &mut Salts::default())?,
                names,
            ))
        })
        .await?;
    let outcomes = app.ledger.submit(&caller.tenant, vec![draft], at).await?;
    let first = first(placed(outcomes)?)?;
    let RunNames {
        run_id,
        trace_id,
        correlation_id,
    } = &names;
    created(
        &first,
        &RunStartedOut {
            correlation_id,
            receipt: ReceiptOut(first.receipt),
            run_id,
            trace_id,
        },
    )
}

/// The receipt of a submission of one.
pub(crate) fn first(placed: Vec<Placed>) -> Result<Placed, ApiError> {
    placed
        .into_iter()
        .next()
        .ok_or_else(|| ApiError::internal(&"a submission without outcome"))
}

/// Completes a run, well or not.
#[utoipa::path(
    post, path = "/api/v1/runs/{run_id}/complete", tag = "runs", operation_id = "run_complete",
    params(("run_id" = String, Path, description = "The run")), request_body = EndIn,
    responses(
        (status = 201, description = "The run has ended", body = RunEndedOut),
        (status = 200, description = "It had, with the same content; the first receipt", body = RunEndedOut),
        WriteProblems,
    ),
)]
async fn complete(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(run_id): Path<String>,
    body: JsonBody<EndIn>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let how = EndRun::Completed(body.value.check(at)?, body.content);
        end(ledger, &caller.tenant, &run_id, &how, at)
    })
    .await
}

/// Aborts a run.
#[utoipa::path(
    post, path = "/api/v1/runs/{run_id}/abort", tag = "runs", operation_id = "run_abort",
    params(("run_id" = String, Path, description = "The run")), request_body = AbortIn,
    responses(
        (status = 201, description = "The run has ended", body = RunEndedOut),
        (status = 200, description = "It had, for the same reason; the first receipt", body = RunEndedOut),
        WriteProblems,
    ),
)]
async fn abort(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(run_id): Path<String>,
    body: JsonBody<AbortIn>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let how = EndRun::Aborted(body.value.check()?.to_owned(), body.content);
        end(ledger, &caller.tenant, &run_id, &how, at)
    })
    .await
}

fn end(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    run_id: &str,
    how: &EndRun,
    at: Timestamp,
) -> Result<Response, ApiError> {
    let placed = ledger.end_run(tenant, run_id, how, at)?;
    let run = ledger
        .store()
        .run_find(tenant.tenant_no, run_id)?
        .ok_or_else(ApiError::not_found)?;
    let state = run.state;
    created(
        &placed,
        &RunEndedOut {
            execution_status: state.execution_status.as_str(),
            receipt: ReceiptOut(placed.receipt),
            root_hash: state.root_hash.as_ref().map(evidence::hex_string),
            run_id: state.run_id,
            status: state.status.as_str(),
            trace_id: state.trace_id,
        },
    )
}
