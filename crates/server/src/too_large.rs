//! Evidence that was refused because it is too large: the run that it was about is told.
//!
//! Source: SPEC 6.2 ("Deponent records its own: … a body over the limit").

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::StatusCode;
use axum::http::request::Parts;
use evidence::Timestamp;
use evidence::record::{CaptureFailure, EvidenceClass};

use crate::access::operation::Operation;
use crate::{App, Caller, Received};

/// What would be missing, and of which run.
pub(crate) struct AboutRun {
    class: EvidenceClass,
    run_id: String,
    operation: &'static str,
    at: Timestamp,
}

/// Of a request that brings evidence about a run; others are not told of.
pub(crate) async fn about(parts: &mut Parts, operation: &Operation) -> Option<AboutRun> {
    let class = match operation.name {
        "step_record" => EvidenceClass::TraceSteps,
        "evidence_environment" => EvidenceClass::Environment,
        "evidence_activity" => EvidenceClass::Activity,
        "evidence_provider" => EvidenceClass::Provider,
        "evidence_policy_decision" => EvidenceClass::PolicyDecisions,
        _ => return None,
    };
    let at = parts.extensions.get::<Received>()?.0;
    let params = RawPathParams::from_request_parts(parts, &()).await.ok()?;
    let (_, run_id) = params.iter().find(|(name, _)| *name == "run_id")?;
    Some(AboutRun {
        class,
        run_id: run_id.to_owned(),
        operation: operation.name,
        at,
    })
}

/// Records that it was refused, before that is answered: once a run and operation, however often it is sent. A run
/// that is not there or is sealed is told nothing.
pub(crate) async fn note(app: &App, caller: &Caller, about: AboutRun, status: StatusCode) {
    if status != StatusCode::PAYLOAD_TOO_LARGE {
        return;
    }
    let tenant = Arc::clone(&caller.tenant);
    let noted = app
        .blocking(move |ledger| {
            let message = "refused: larger than evidence may be";
            let failure = CaptureFailure::noted(about.class, about.operation, message);
            Ok(ledger
                .capture_failure(&tenant, &about.run_id, &failure, about.at)
                .map(drop))
        })
        .await;
    match noted {
        Ok(Ok(()) | Err(ledger::CaptureError::Context { .. })) => {}
        Ok(Err(error)) => tracing::warn!(%error, "a refusal is not on record"),
        Err(error) => tracing::warn!(error = error.message, "a refusal is not on record"),
    }
}
