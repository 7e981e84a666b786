//! `run.completed`: the caller says how a run ended.
//!
//! Source: SPEC 4.1; docs/formats.md, "run.completed".

use serde::Deserialize;

use super::{BodyError, put, text};
use crate::Kind;
use crate::canonical::{self, Finite, Value};
use crate::commitment::hex_string;
use crate::cost::NanoCents;
use crate::time::{TIMES_GIVEN, TimesGiven, Timestamp};

/// The body of a `run.completed`. What is absent is taken from the steps.
#[derive(Clone, Debug, Default)]
pub struct RunCompleted {
    /// Failed, else completed.
    pub failed: bool,
    /// The provider, over the first inference step's.
    pub provider: Option<String>,
    /// The model, over the first inference step's.
    pub model: Option<String>,
    /// Over the sum of the inference steps.
    pub input_tokens: Option<i64>,
    /// Over the sum of the inference steps.
    pub output_tokens: Option<i64>,
    /// US cents, over the sum of the steps.
    pub cost_cents: Option<Finite>,
    /// E.g. `timeout`, which makes the run's execution status TIMEOUT.
    pub termination_reason: Option<String>,
    /// The caller's own, kept as given.
    pub metadata: Option<Value>,
    /// How many steps the caller made.
    pub declared_steps: Option<u32>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// That time as given, where it says more.
    pub times_given: TimesGiven,
}

impl RunCompleted {
    /// The canonical body.
    pub fn encode(&self, content_mac: &[u8; 32]) -> Vec<u8> {
        let mut object = Vec::with_capacity(12);
        put(
            &mut object,
            "completed_at",
            self.completed_at.map(|at| text(&at.to_string())),
        );
        put(&mut object, "content_mac", Some(text(&hex_string(content_mac))));
        put(&mut object, "cost_cents", self.cost_cents.map(Value::from));
        put(
            &mut object,
            "declared_steps",
            self.declared_steps.map(|n| Value::Int(i64::from(n))),
        );
        put(&mut object, "input_tokens", self.input_tokens.map(Value::Int));
        put(&mut object, "metadata", self.metadata.clone());
        put(&mut object, "model", self.model.as_deref().map(text));
        put(&mut object, "output_tokens", self.output_tokens.map(Value::Int));
        put(&mut object, "provider", self.provider.as_deref().map(text));
        put(
            &mut object,
            "status",
            Some(text(if self.failed { "failed" } else { "completed" })),
        );
        put(
            &mut object,
            "termination_reason",
            self.termination_reason.as_deref().map(text),
        );
        put(&mut object, TIMES_GIVEN, self.times_given.to_value());
        canonical::to_vec(&Value::Object(object))
    }

    /// The facts of this end.
    pub fn facts(&self) -> RunCompletedFacts {
        RunCompletedFacts {
            failed: self.failed,
            provider: self.provider.clone(),
            model: self.model.clone(),
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            cost: self
                .cost_cents
                .and_then(|cents| NanoCents::from_cents(cents.get())),
            termination_reason: self.termination_reason.clone(),
            completed_at: self.completed_at,
        }
    }
}

/// What a run's end says to projections.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the fields of `RunCompleted`
pub struct RunCompletedFacts {
    pub failed: bool,
    pub provider: Option<String>,
    pub model: Option<String>,
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub cost: Option<NanoCents>,
    pub termination_reason: Option<String>,
    pub completed_at: Option<Timestamp>,
}

impl RunCompletedFacts {
    pub(crate) fn read(body: &[u8]) -> Result<Self, BodyError> {
        let wire: Wire =
            serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::RunCompleted, error))?;
        let cost = match wire.cost_cents {
            Some(cents) => Some(
                NanoCents::from_cents(cents)
                    .ok_or_else(|| BodyError::new(Kind::RunCompleted, "cost_cents"))?,
            ),
            None => None,
        };
        Ok(Self {
            failed: wire.status == "failed",
            provider: wire.provider,
            model: wire.model,
            input_tokens: wire.input_tokens,
            output_tokens: wire.output_tokens,
            cost,
            termination_reason: wire.termination_reason,
            completed_at: wire.completed_at,
        })
    }
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    completed_at: Option<Timestamp>,
    #[serde(default)]
    cost_cents: Option<f64>,
    #[serde(default)]
    input_tokens: Option<i64>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    output_tokens: Option<i64>,
    #[serde(default)]
    provider: Option<String>,
    status: String,
    #[serde(default)]
    termination_reason: Option<String>,
}
