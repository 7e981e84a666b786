//! What a token of a step holds, as it is written.

use evidence::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Lease, Pass, ReplayBehavior, ReplayStep};

/// A pass within a token.
#[derive(Serialize, Deserialize)]
pub(super) struct WirePass {
    run_id: String,
    step_index: u32,
    behavior: String,
    key: Option<String>,
    input_hash: Option<String>,
    output_hash: Option<String>,
    lease: Option<Lease>,
    stored_hash: Option<String>,
    event_id: String,
    begun_at: i64,
}

impl WirePass {
    pub(super) fn of(pass: &Pass) -> Self {
        let step = pass.step.clone();
        Self {
            run_id: step.run_id,
            step_index: step.step_index,
            behavior: step.behavior.as_str().to_owned(),
            key: step.idempotency_key,
            input_hash: step.input_hash,
            output_hash: step.output_hash,
            lease: pass.lease,
            stored_hash: pass.stored_hash.clone(),
            event_id: pass.event_id.clone(),
            begun_at: pass.begun_at.as_micros(),
        }
    }

    pub(super) fn pass(self) -> Option<Pass> {
        Some(Pass {
            step: ReplayStep {
                run_id: self.run_id,
                step_index: self.step_index,
                behavior: ReplayBehavior::parse(&self.behavior)?,
                idempotency_key: self.key,
                input_hash: self.input_hash,
                output_hash: self.output_hash,
            },
            lease: self.lease,
            stored_hash: self.stored_hash,
            event_id: self.event_id,
            begun_at: Timestamp::from_micros(self.begun_at)?,
        })
    }
}
