//! Policy decisions of a run, posted as evidence (class D). Each POST is a record.
//!
//! No run, no evidence: nothing is kept of a decision about a run that is not
//! there.
//!
//! Source: SPEC 6.1.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use evidence::record::{EvidenceClass, PolicyDecisionEvidence};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::WriteProblems;
use super::evidence::{EvidenceRecorded, recorded};
use super::fields::{self, Num};
use crate::{ApiError, App, Caller, JsonBody, Path, Received};

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

/// Records what a policy decided about a run.
#[utoipa::path(
    post, path = "/api/v1/runs/{run_id}/evidence/policy-decision", tag = "evidence",
    operation_id = "evidence_policy_decision", params(("run_id" = String, Path, description = "The run")),
    request_body = DecisionIn,
    responses((status = 201, description = "The decision is in the ledger", body = EvidenceRecorded), WriteProblems),
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
    let placed = app
        .blocking(move |ledger| {
            let decision = body.value.decision()?;
            Ok(ledger.capture_policy_decision(&tenant, &id, &decision, at)?)
        })
        .await?;
    recorded(EvidenceClass::PolicyDecisions, &placed, run_id)
}
