//! `run.completed` and the end of a trace: what a caller says of a run's end, checked.

use evidence::canonical::Value;
use evidence::record::{RunCompleted, is_blank};
use evidence::{GivenTime, TimesGiven, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::ApiError;
use crate::api::fields::{self, Num};

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
    completed_at: Option<GivenTime>,
}

/// Why a run is aborted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RunAbort)]
pub(crate) struct AbortIn {
    reason: String,
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
            completed_at: Some(self.completed_at.as_ref().map_or(at, |given| given.time)),
            times_given: TimesGiven::of([("completed_at", self.completed_at.as_ref())]),
        })
    }
}

impl AbortIn {
    pub(crate) fn check(&self) -> Result<&str, ApiError> {
        if is_blank(&self.reason) {
            return Err(ApiError::invalid("reason", "must say something"));
        }
        fields::prose("reason", Some(&self.reason))?;
        Ok(&self.reason)
    }
}
