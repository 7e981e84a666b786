//! Replay: a step that was done before is done again, skipped, or compared.
//!
//! What comes out of a step is stored under its key, with the lease of [`crate::once`]:
//! so a step that may be done once is done once, across processes and crashes. Each
//! enforcement is a `replay.enforced` record of the run; the stored output is none.
//!
//! In scope: the decision, what is stored, the records, the report over a run.
//! Out of scope: HTTP (server). Nothing here passes when the store cannot answer:
//! a step that may have been done must not be done again.
//!
//! Start at [`ReplayEnforcer::enforce_step`]; who cannot hand over a closure uses
//! [`Replay::begin`] and [`Replay::finish`]. Source: SPEC 8.3.

mod enforcer;
mod forget;
mod pass;
mod record;
mod report;

use std::future::Future;
use std::sync::Arc;

use evidence::canonical::{self, Value};
use evidence::record::{ReplayBehavior, ReplayOutcome};
use evidence::{Timestamp, hex_string, sha256, unhex};

use self::pass::WirePass;
use self::record::{event_id, record_of};
use crate::once::{Check, Checked, KeyRefusal, Lease, Once, OnceError, OnceKey, OnceSpace, OnceStatus};
use crate::{BodyTooLarge, Ledger, Life, Placed, RecordError, Rejection, RunNames, SubmitError, Tenant};

pub use enforcer::{ReplayEnforcer, StepError, TraceReport};
pub use forget::forget_outputs;
pub use report::{ReplayReport, ReplayedStep, replay_report};

/// How long an output is kept (SPEC 8.3).
const OUTPUT_SECS: u32 = 86_400;

/// Longest output, as canonical JSON: it is stored, and stands in a record.
pub const OUTPUT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long the result of a step may be brought: as long as its output would be kept.
const TOKEN_SECS: i64 = 86_400;

/// A step that is about to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayStep {
    /// The run that is at it.
    pub run_id: String,
    /// Which of its steps.
    pub step_index: u32,
    /// What it does when its key is known.
    pub behavior: ReplayBehavior,
    /// What makes it the same step again; none or empty: nothing does.
    pub idempotency_key: Option<String>,
    /// Of its input: a known key with another one is refused.
    pub input_hash: Option<String>,
    /// What SHA-256 of its canonical output must be, for `check`.
    pub output_hash: Option<String>,
}

impl ReplayStep {
    /// No key and an empty key are none.
    fn key(&self) -> Option<&str> {
        self.idempotency_key.as_deref().filter(|key| !key.is_empty())
    }
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::struct_excessive_bools)] // members of an answer, each by itself
pub struct ReplayResult {
    /// It ran.
    pub executed: bool,
    /// It did not run, because its behaviour is `skip`.
    pub skipped: bool,
    /// Its output was compared with the expected hash.
    pub checked: bool,
    /// The output is the stored one.
    pub from_cache: bool,
    /// What came out.
    pub output: Value,
    /// SHA-256 of the canonical output.
    pub output_hash: String,
    /// Of the record of it.
    pub placed: Placed,
}

/// Why a step was not enforced.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The output is not the one that is expected.
    #[error("step {step_index}: the output's hash is {actual_hash}, expected {expected_hash}")]
    ReplayMismatch {
        /// Which step.
        step_index: u32,
        /// As given.
        expected_hash: String,
        /// What it is.
        actual_hash: String,
    },
    /// The key is known with another input; nothing ran.
    #[error("the key {key:?} is known with another input")]
    IdempotencyViolation {
        /// The key.
        key: String,
        /// The hash that it is known with.
        expected_hash: String,
        /// As given.
        actual_hash: String,
    },
    /// Another is at the same step now.
    #[error("the step is being done under the same key")]
    InProgress,
    /// Another has taken the step over meanwhile, or it is done; what came out is not kept.
    #[error(
        "the step is not its token's any more: another has taken it over, or it is done, with this output or another"
    )]
    LeaseLost,
    /// The step was done, and its output is not there any more.
    #[error(
        "the step was done; its output was erased, was too large to be kept, or cannot be decrypted: it is not there any more"
    )]
    OutputLost,
    /// No such run.
    #[error("no such run")]
    RunUnknown,
    /// The token is none of this tenant's, or too old.
    #[error("no such token")]
    TokenUnknown,
    /// The output is longer than it may be.
    #[error("the output has more than {OUTPUT_BYTES_MAX} bytes")]
    OutputTooLarge,
    /// The tenant has too many outputs.
    #[error("the tenant has as many stored outputs as it may have")]
    Full,
    /// Where outputs are stored.
    #[error(transparent)]
    Store(#[from] OnceError),
    /// The record of it is too large.
    #[error(transparent)]
    Body(#[from] BodyTooLarge),
    /// The ledger refused the record of it.
    #[error(transparent)]
    Rejected(Rejection),
    /// The ledger takes nothing now.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The run cannot be read.
    #[error(transparent)]
    Read(#[from] RecordError),
}

impl ReplayError {
    /// Whether the same may succeed a moment later: store or ledger could not be asked, or did not say.
    const fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Store(OnceError::Unavailable(_))
                | Self::Submit(SubmitError::Busy { .. } | SubmitError::Unknown(_))
        )
    }
}

impl From<KeyRefusal> for ReplayError {
    fn from(refusal: KeyRefusal) -> Self {
        match refusal {
            KeyRefusal::Unknown | KeyRefusal::LeaseLost => Self::LeaseLost,
            KeyRefusal::Full => Self::Full,
            KeyRefusal::Busy => Self::Store(OnceError::Unavailable(refusal.to_string())),
            KeyRefusal::Backend(error) => Self::Store(error),
        }
    }
}

/// What is to be done about a step.
#[derive(Debug)]
pub enum Begun {
    /// Nothing: the stored output stands for it.
    UseStored(Box<ReplayResult>),
    /// It must run; what comes out is brought to [`Replay::finish`].
    Execute(Box<Pass>),
}

/// Leave to run a step once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    step: ReplayStep,
    /// Of the key; `None`: without a key, or the key is known and the step runs all the same.
    lease: Option<Lease>,
    stored_hash: Option<String>,
    event_id: String,
    begun_at: Timestamp,
}

/// Enforces replays of one tenant.
#[derive(Clone, Debug)]
pub struct Replay {
    ledger: Ledger,
    once: Once,
    tenant: Arc<Tenant>,
    principal: Option<Arc<str>>,
}

impl Replay {
    /// For a tenant; `principal` is who does the steps.
    pub fn new(ledger: &Ledger, once: &Once, tenant: &Arc<Tenant>, principal: Option<Arc<str>>) -> Self {
        Self {
            ledger: ledger.clone(),
            once: once.clone(),
            tenant: Arc::clone(tenant),
            principal,
        }
    }

    /// Decides about a step of a run.
    ///
    /// # Errors
    /// Every [`ReplayError`] that is not about an output that was brought; [`Rejection::RunEnded`] of a run that takes no
    /// step any more, [`Rejection::RunSealed`] of a sealed one.
    pub async fn begin(&self, step: ReplayStep, at: Timestamp) -> Result<Begun, ReplayError> {
        // Nobody runs a step whose result could not be put on record then: it would be done again once it can.
        if let Some(refusal) = self.ledger.inner.refusal(&self.tenant.ledger()) {
            return Err(refusal.into());
        }
        let names = self.names(&step.run_id).await?;
        // What came out of a step that was begun before the end or the seal is recorded all the same: it was done.
        match self.life(&step.run_id).await? {
            Life::Open => {}
            Life::Ended => return Err(ReplayError::Rejected(Rejection::RunEnded)),
            Life::Sealed => return Err(ReplayError::Rejected(Rejection::RunSealed)),
        }
        let pass = |lease, stored_hash| -> Result<Begun, ReplayError> {
            Ok(Begun::Execute(Box::new(Pass {
                step: step.clone(),
                lease,
                stored_hash,
                event_id: event_id()?,
                begun_at: at,
            })))
        };
        let Some(key) = step.key() else {
            return pass(None, None);
        };
        let place = self.place(key);
        let check = Check {
            hash: step.input_hash.as_ref().map(|hash| sha256(hash.as_bytes())),
            label: step.input_hash.clone(),
            ttl_secs: OUTPUT_SECS,
        };
        // Nobody runs a step whose output could not be kept then.
        self.once.vault().ready()?;
        let entry = match self.once.check(&place, check, at).await? {
            Checked::New { lease, .. } => return pass(Some(lease), None),
            Checked::Conflict(entry) => return Err(self.violated(&step, &names, entry.label, at).await?),
            Checked::Duplicate(entry) => entry,
        };
        let stored_hash = entry.response_hash.as_ref().map(hex_string);
        if step.behavior == ReplayBehavior::Execute {
            return pass(None, stored_hash);
        }
        if entry.status == OnceStatus::Pending {
            return Err(ReplayError::InProgress);
        }
        let output_hash = stored_hash.ok_or(ReplayError::OutputLost)?;
        let expected = step.output_hash.as_ref();
        let checked = step.behavior == ReplayBehavior::Check && expected.is_some();
        let mut record = record_of(&step, event_id()?, ReplayOutcome::UsedStored);
        record.output_hash = Some(output_hash.clone());
        record.checked = checked;
        if checked && let Some(expected) = expected.filter(|expected| **expected != output_hash) {
            let mismatch = ReplayError::ReplayMismatch {
                step_index: step.step_index,
                expected_hash: expected.clone(),
                actual_hash: output_hash,
            };
            record.outcome = ReplayOutcome::Mismatch;
            self.write(self.draft(&step.run_id, &names, &record, at)?, at)
                .await?;
            return Err(mismatch);
        }
        let mut kept = self
            .once
            .kept(&place, &entry, at)
            .await?
            .ok_or(ReplayError::OutputLost)?;
        let output = self
            .once
            .vault()
            .open(&place, std::mem::take(&mut kept.payload))?;
        let output = output.and_then(|text| canonical::parse(&text, canonical::Limits::default()).ok());
        let output = output.ok_or(ReplayError::OutputLost)?;
        let placed = self
            .write(self.draft(&step.run_id, &names, &record, at)?, at)
            .await?;
        Ok(Begun::UseStored(Box::new(ReplayResult {
            executed: false,
            skipped: step.behavior == ReplayBehavior::Skip,
            checked,
            from_cache: true,
            output,
            output_hash,
            placed,
        })))
    }

    /// Takes what came out of a step that ran. The same again is the same result.
    ///
    /// # Errors
    /// [`ReplayError::ReplayMismatch`], [`ReplayError::LeaseLost`], [`Rejection::Conflict`] of another output than the
    /// first, unless that is erased, and those of the ledger and the store.
    pub async fn finish(
        &self,
        pass: &Pass,
        output: Value,
        at: Timestamp,
    ) -> Result<ReplayResult, ReplayError> {
        let step = &pass.step;
        let text = canonical::to_vec(&output);
        if text.len() > OUTPUT_BYTES_MAX {
            return Err(ReplayError::OutputTooLarge);
        }
        let names = self.names(&step.run_id).await?;
        let hash = sha256(&text);
        let output_hash = hex_string(&hash);
        let expected = step.output_hash.as_ref();
        let checked = step.behavior == ReplayBehavior::Check && expected.is_some();
        let mismatch = expected.filter(|expected| checked && **expected != output_hash);
        let outcome = if mismatch.is_some() {
            ReplayOutcome::Mismatch
        } else {
            ReplayOutcome::Executed
        };
        let mut record = record_of(step, pass.event_id.clone(), outcome);
        record.checked = checked;
        record.output_hash = Some(output_hash.clone());
        record.stored_hash.clone_from(&pass.stored_hash);
        record.output = Some(output.clone());
        // What cannot be put on record is not stored either.
        let draft = self.draft(&step.run_id, &names, &record, at)?;
        // A key that a mismatch has freed would take another output now, of which there is no record.
        if pass.lease.is_some() {
            self.refuse_other(pass, &output_hash).await?;
        }
        // Stored before it is on record: after a crash in between the step is not done again, and the result may be
        // brought again, which puts it on record then.
        if let (Some(lease), Some(key)) = (pass.lease, step.key()) {
            let place = self.place(key);
            let kept = if mismatch.is_some() {
                self.once.fail(&place, lease, "replay_mismatch", at).await
            } else {
                let sealed = self.once.vault().seal(&place, text)?;
                self.once
                    .complete(&place, lease, None, Some(hash), Some(sealed), at)
                    .await
            };
            if let Err(refusal) = kept {
                // Of what was erased the key says no more than that it was done.
                let is_over = matches!(refusal, KeyRefusal::LeaseLost | KeyRefusal::Unknown);
                if !is_over || !self.is_erased(pass).await? {
                    return Err(refusal.into());
                }
            }
        }
        let placed = self.write(draft, at).await?;
        if !placed.fresh {
            self.refuse_other(pass, &output_hash).await?;
        }
        if let Some(expected) = mismatch {
            return Err(ReplayError::ReplayMismatch {
                step_index: step.step_index,
                expected_hash: expected.clone(),
                actual_hash: output_hash,
            });
        }
        Ok(ReplayResult {
            executed: true,
            skipped: false,
            checked,
            from_cache: false,
            output,
            output_hash,
            placed,
        })
    }

    /// The step failed: nothing comes out. Its key may be tried again at once.
    ///
    /// # Errors
    /// [`ReplayError::LeaseLost`], [`Rejection::Conflict`] when something came out of it, and those of the store.
    pub async fn fail(&self, pass: &Pass, error: &str, at: Timestamp) -> Result<(), ReplayError> {
        if let Some(first) = self.brought(pass).await? {
            return Err(ReplayError::Rejected(Rejection::Conflict(first.receipt()?)));
        }
        if let (Some(lease), Some(key)) = (pass.lease, pass.step.key()) {
            self.once.fail(&self.place(key), lease, error, at).await?;
        }
        Ok(())
    }

    /// Seconds that the lease of a pass holds unless renewed; `None`: it has none.
    pub fn lease_secs(&self, pass: &Pass) -> Option<u32> {
        pass.lease.map(|_| self.once.options().lease_secs)
    }

    /// Does something for a pass and renews its lease meanwhile; see [`Once::holding`].
    async fn holding<T>(&self, pass: &Pass, clock: fn() -> Timestamp, work: impl Future<Output = T>) -> T {
        match (pass.lease, pass.step.key()) {
            (Some(lease), Some(key)) => self.once.holding(&self.place(key), lease, clock, work).await,
            _ => work.await,
        }
    }

    /// The step still runs.
    ///
    /// # Errors
    /// As [`Replay::fail`].
    pub async fn renew(&self, pass: &Pass, at: Timestamp) -> Result<(), ReplayError> {
        if let (Some(lease), Some(key)) = (pass.lease, pass.step.key()) {
            self.once.renew(&self.place(key), lease, at).await?;
        }
        Ok(())
    }

    /// A pass as a token that only this service can read: nothing is kept of it here.
    ///
    /// # Errors
    /// The key that encrypts cannot be had.
    pub fn token(&self, pass: &Pass) -> Result<String, ReplayError> {
        use base64::Engine;
        let plain = serde_json::to_vec(&WirePass::of(pass))
            .map_err(|error| ReplayError::Store(OnceError::Unavailable(error.to_string())))?;
        let sealed = self.once.vault().seal_to(&self.token_place(), plain)?;
        Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(sealed))
    }

    /// The pass of a token.
    ///
    /// # Errors
    /// [`ReplayError::TokenUnknown`]: it is none of this tenant's, or a day old.
    pub fn pass(&self, token: &str, at: Timestamp) -> Result<Pass, ReplayError> {
        use base64::Engine;
        let sealed = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(token)
            .map_err(|_| ReplayError::TokenUnknown)?;
        let plain = self.once.vault().open_at(&self.token_place(), sealed)?;
        let pass = plain
            .and_then(|plain| serde_json::from_slice::<WirePass>(&plain).ok()?.pass())
            .ok_or(ReplayError::TokenUnknown)?;
        let age = at.as_micros().saturating_sub(pass.begun_at.as_micros());
        if age > TOKEN_SECS * 1_000_000 {
            return Err(ReplayError::TokenUnknown);
        }
        Ok(pass)
    }

    fn token_place(&self) -> Vec<u8> {
        format!("replay token:{}", self.tenant.tenant_id).into_bytes()
    }

    fn place(&self, key: &str) -> OnceKey {
        OnceKey {
            space: OnceSpace::Output,
            tenant: Arc::clone(&self.tenant.tenant_id),
            key: key.into(),
        }
    }

    /// Reads what may have to wait for the disk, on a thread on which nothing else waits for it.
    async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Self) -> Result<T, ReplayError> + Send + 'static,
    ) -> Result<T, ReplayError> {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return read(self);
        };
        let replay = self.clone();
        match runtime.spawn_blocking(move || read(&replay)).await {
            Ok(found) => found,
            // It panicked, or the runtime is shutting down.
            Err(error) => Err(ReplayError::Store(OnceError::Unavailable(error.to_string()))),
        }
    }

    /// What each record of the run repeats; read when it is not at hand.
    async fn names(&self, run_id: &str) -> Result<RunNames, ReplayError> {
        let run_id: Arc<str> = run_id.into();
        if let Some(names) = self.ledger.run_names_at_hand(&self.tenant, &run_id) {
            return Ok(names);
        }
        let read = move |replay: &Self| {
            let names = replay.ledger.run_names(&replay.tenant, &run_id);
            names
                .map_err(|error| ReplayError::Read(error.into()))?
                .ok_or(ReplayError::RunUnknown)
        };
        self.reading(read).await
    }

    /// Whether a step of the run may be begun; read when it is not at hand.
    async fn life(&self, run_id: &str) -> Result<Life, ReplayError> {
        let run_id: Arc<str> = run_id.into();
        if let Some(life) = self.ledger.run_life_at_hand(&self.tenant, &run_id) {
            return Ok(life);
        }
        let read = move |replay: &Self| {
            let life = replay.ledger.run_life(&replay.tenant, &run_id);
            life.map_err(|error| ReplayError::Read(error.into()))?
                .ok_or(ReplayError::RunUnknown)
        };
        self.reading(read).await
    }
}

/// Whether a text is a SHA-256 in lower-case hex, as expected hashes must be.
pub fn is_output_hash(text: &str) -> bool {
    unhex(text.as_bytes()).is_some()
}
