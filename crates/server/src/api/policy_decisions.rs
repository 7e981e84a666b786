//! Policy decisions of a run, posted as evidence (class D). Each POST is a record.
//!
//! No run, no evidence: nothing is kept of a decision about a run that is not
//! there.
//!
//! Source: SPEC 6.1.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use evidence::record::{Facts, PolicyDecisionEvidence};
use evidence::{Kind, SourceDomain, Timestamp};
use ledger::{Bind, Draft, Rejection, Salts};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use store::RunRow;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReceiptOut, WriteProblems, created, placed};
use super::fields::{self, Num};
use super::records::ReceiptView;
use super::runs::first;
use crate::{ApiError, App, Caller, JsonBody, Path, Received};

/// The class as integrity knows it (SPEC 6.3).
const EVIDENCE_CLASS: &str = "policy_decisions";

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(record))
}

/// What a policy decided.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PolicyDecisionRecord)]
struct DecisionIn {
    /// An open word, e.g. `budget`, `rate_limit`, `capability`, `permission`.
    policy_type: String,
    policy_rule_id: Option<String>,
    policy_version: Option<String>,
    /// `GRANTED`, `DENIED`, `PENDING_APPROVAL`.
    decision: String,
    decision_reason: Option<String>,
    /// 0 to 1.
    #[schema(value_type = Option<f64>)]
    decision_confidence: Option<Num>,
    policies_evaluated: Option<Vec<String>>,
    /// `pass`, `warn`, `fail`, `skip`: an object by policy, or an array in the order of policies_evaluated.
    #[schema(value_type = Option<Object>)]
    policy_results: Option<Box<RawValue>>,
    #[schema(value_type = Option<Object>)]
    thresholds_used: Option<Box<RawValue>>,
    /// Text or an object.
    #[schema(value_type = Option<Object>)]
    customer_guardrail_result: Option<Box<RawValue>>,
    /// Text or an object.
    #[schema(value_type = Option<Object>)]
    provider_moderation_result: Option<Box<RawValue>>,
    decision_reason_codes: Option<Vec<String>>,
}

impl DecisionIn {
    fn decision(self) -> Result<PolicyDecisionEvidence, ApiError> {
        let value = |field, raw: &Option<Box<RawValue>>| fields::value_opt(field, raw.as_deref());
        let decision = PolicyDecisionEvidence {
            policy_type: self.policy_type,
            policy_rule_id: self.policy_rule_id,
            policy_version: self.policy_version,
            decision: self.decision,
            decision_reason: self.decision_reason,
            decision_confidence: self.decision_confidence.map(|number| number.0),
            policies_evaluated: self.policies_evaluated.unwrap_or_default(),
            policy_results: value("policy_results", &self.policy_results)?,
            thresholds_used: value("thresholds_used", &self.thresholds_used)?,
            customer_guardrail_result: value("customer_guardrail_result", &self.customer_guardrail_result)?,
            provider_moderation_result: value(
                "provider_moderation_result",
                &self.provider_moderation_result,
            )?,
            decision_reason_codes: self.decision_reason_codes.unwrap_or_default(),
        };
        decision.check()?;
        Ok(decision)
    }
}

fn draft(
    decision: &PolicyDecisionEvidence,
    run: &RunRow,
    at: Timestamp,
    salts: &mut Salts,
) -> Result<Draft, ApiError> {
    let body = decision.encode();
    let draft = Draft::alone(Kind::EvidencePolicyDecision, Facts::Other, &body, at, salts)?;
    Ok(Draft {
        bind: Bind::Run(run.state.run_id.as_str().into()),
        trace_id: Some(run.state.trace_id.as_str().into()),
        correlation_id: run.state.correlation_id.as_deref().map(Arc::from),
        source_domain: SourceDomain::Policy,
        ..draft
    })
}

/// 404, the same for foreign and absent but for the id that was asked for.
fn no_run(run_id: &str) -> ApiError {
    let mut error = ApiError::not_found();
    error.code = "evidence_context_missing";
    error.message = "no such run: evidence needs the run that it is about".into();
    error.with(json!({ "evidence_class": EVIDENCE_CLASS, "run_id": run_id }))
}

/// The decision is on record.
#[derive(Serialize, ToSchema)]
struct PolicyDecisionRecorded {
    evidence_class: &'static str,
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
    run_id: String,
}

/// Records what a policy decided about a run.
#[utoipa::path(
    post, path = "/api/v1/runs/{run_id}/evidence/policy-decision", tag = "evidence",
    operation_id = "evidence_policy_decision", params(("run_id" = String, Path, description = "The run")),
    request_body = DecisionIn,
    responses((status = 201, description = "The decision is in the ledger", body = PolicyDecisionRecorded), WriteProblems),
)]
async fn record(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(run_id): Path<String>,
    body: JsonBody<DecisionIn>,
) -> Result<Response, ApiError> {
    let tenant = Arc::clone(&caller.tenant);
    let id = run_id.clone();
    let draft = app
        .blocking(move |ledger| {
            let decision = body.value.decision()?;
            let run = ledger.store().run_find(tenant.tenant_no, &id)?;
            draft(
                &decision,
                &run.ok_or_else(|| no_run(&id))?,
                at,
                &mut tenant.salts(),
            )
        })
        .await?;
    let outcomes = app.ledger.submit(&caller.tenant, vec![draft], at).await?;
    if let Some(Err(Rejection::RunUnknown)) = outcomes.first() {
        return Err(no_run(&run_id));
    }
    let first = first(placed(outcomes)?)?;
    created(
        &first,
        &PolicyDecisionRecorded {
            evidence_class: EVIDENCE_CLASS,
            receipt: ReceiptOut(first.receipt),
            run_id,
        },
    )
}
