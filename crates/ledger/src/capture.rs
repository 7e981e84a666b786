//! Capture: evidence about a run that is posted by itself, and evidence that could not be captured.
//!
//! No run, no evidence: about a run that is not there, or is sealed, nothing is kept ([`CaptureError::Context`]).
//! Environment and provider evidence have an identity and are written once; an activity may be completed; policy
//! decisions and failures are a record each.
//!
//! Source: SPEC 6.1, 6.2.

use std::sync::Arc;

use evidence::record::{
    ACTIVITY_COMPLETIONS_MAX, ActivityEvidence, CaptureFailure, EnvironmentEvidence, EvidenceClass, Facts,
    PolicyDecisionEvidence, ProviderEvidence, RuleBroken,
};
use evidence::{Identity, Kind, Salt, SourceDomain, Timestamp};
use store::{Gone, RunRow};

use crate::{
    Bind, BodyTooLarge, Draft, Ledger, Placed, RecordError, Rejection, Salts, SealedBody, SubmitError, Tenant,
};

/// Why a run takes no evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextMissing {
    /// There is no such run.
    RunUnknown,
    /// It is sealed.
    RunSealed,
}

/// Why evidence was not captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The run that it is about does not take it.
    #[error("{} needs a run that takes it: {run_id}", .class.as_str())]
    Context {
        /// Of which class it is.
        class: EvidenceClass,
        /// The run asked for.
        run_id: String,
        /// Why it does not take it.
        why: ContextMissing,
    },
    /// It breaks a rule of SPEC 6.1 or 6.2.
    #[error(transparent)]
    Rule(#[from] RuleBroken),
    /// It is too large.
    #[error(transparent)]
    Body(#[from] BodyTooLarge),
    /// What is on record already cannot be read.
    #[error(transparent)]
    Read(#[from] RecordError),
    /// The ledger refused it.
    #[error(transparent)]
    Rejected(Rejection),
    /// Nothing was written, as far as is known.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

impl From<store::StoreError> for CaptureError {
    fn from(error: store::StoreError) -> Self {
        Self::Read(error.into())
    }
}

/// An activity after it was captured.
#[derive(Clone, Debug)]
pub struct ActivityCaptured {
    /// The receipt of what was written, or of the first record.
    pub placed: Placed,
    /// As it stands now.
    pub activity: ActivityEvidence,
    /// Fields that were given with another value than stands: first truth has won.
    pub kept: Vec<&'static str>,
}

/// Evidence on its way to a run.
struct Piece<'a> {
    ledger: &'a Ledger,
    tenant: &'a Arc<Tenant>,
    class: EvidenceClass,
    run_id: &'a str,
    at: Timestamp,
}

impl Ledger {
    /// Captures the environment of a run, once. Blocks. `content` is SHA-256 of what was sent.
    ///
    /// # Errors
    /// [`CaptureError`]; [`Rejection::Conflict`] when the run has another one.
    pub fn capture_environment(
        &self,
        tenant: &Arc<Tenant>,
        run_id: &str,
        environment: &EnvironmentEvidence,
        content: Option<[u8; 32]>,
        at: Timestamp,
    ) -> Result<Placed, CaptureError> {
        environment.check()?;
        let kind = Kind::EvidenceEnvironment;
        let piece = self.piece(tenant, EvidenceClass::Environment, run_id, at);
        piece.once(kind, Identity::once(kind), content, |mac| environment.encode(mac))
    }

    /// Captures a provider's call, once a step. Blocks. `content` is SHA-256 of what was sent.
    ///
    /// # Errors
    /// [`CaptureError`]; [`Rejection::Conflict`] when the step has another one.
    pub fn capture_provider(
        &self,
        tenant: &Arc<Tenant>,
        run_id: &str,
        call: &ProviderEvidence,
        content: Option<[u8; 32]>,
        at: Timestamp,
    ) -> Result<Placed, CaptureError> {
        call.check()?;
        let piece = self.piece(tenant, EvidenceClass::Provider, run_id, at);
        piece.once(Kind::EvidenceProvider, call.identity(), content, |mac| {
            call.encode(mac)
        })
    }

    /// Captures a policy's decision. Blocks.
    ///
    /// # Errors
    /// [`CaptureError`]; then nothing was written, as far as is known.
    pub fn capture_policy_decision(
        &self,
        tenant: &Arc<Tenant>,
        run_id: &str,
        decision: &PolicyDecisionEvidence,
        at: Timestamp,
    ) -> Result<Placed, CaptureError> {
        decision.check()?;
        let piece = self.piece(tenant, EvidenceClass::PolicyDecisions, run_id, at);
        let run = piece.run()?;
        let body = tenant
            .salts()
            .seal(Kind::EvidencePolicyDecision, &decision.encode())?;
        let mut draft = piece.draft(&run, Kind::EvidencePolicyDecision, body);
        draft.source_domain = SourceDomain::Policy;
        piece.submit(draft)
    }

    /// Captures that evidence could not be captured. Blocks.
    ///
    /// # Errors
    /// [`CaptureError`]; then nothing was written, as far as is known.
    pub fn capture_failure(
        &self,
        tenant: &Arc<Tenant>,
        run_id: &str,
        failure: &CaptureFailure,
        at: Timestamp,
    ) -> Result<Placed, CaptureError> {
        let piece = self.piece(tenant, failure.evidence_class, run_id, at);
        let run = piece.run()?;
        let body = tenant
            .salts()
            .seal(Kind::EvidenceCaptureFailure, &failure.encode())?;
        let mut draft = piece.draft(&run, Kind::EvidenceCaptureFailure, body);
        draft.identity = failure.identity();
        piece.submit(draft)
    }

    /// Captures an activity of a step: its first record, or what completes the response of it. Blocks.
    ///
    /// # Errors
    /// [`CaptureError`]; then nothing was written, as far as is known. [`Rejection::Archived`] when what the step has
    /// is archived.
    pub fn capture_activity(
        &self,
        tenant: &Arc<Tenant>,
        run_id: &str,
        given: &ActivityEvidence,
        at: Timestamp,
    ) -> Result<ActivityCaptured, CaptureError> {
        given.check_given()?;
        let piece = self.piece(tenant, EvidenceClass::Activity, run_id, at);
        // Each attempt that another one was quicker than finds one completion more.
        for _ in 0..=u32::from(ACTIVITY_COMPLETIONS_MAX) + 1 {
            let run = piece.run()?;
            let draft = match piece.activity(&run, given.step_index)? {
                None => {
                    given.check()?;
                    let first = ActivityEvidence {
                        completion: 0,
                        ..given.clone()
                    };
                    (first.clone(), first)
                }
                // First truth wins, and what it was is erased: nothing can complete it.
                Some((first, standing, true)) => {
                    return Ok(ActivityCaptured {
                        placed: first,
                        kept: Vec::new(),
                        activity: standing,
                    });
                }
                Some((first, standing, false)) => match standing.completed_by(given) {
                    None => {
                        return Ok(ActivityCaptured {
                            placed: first,
                            kept: standing.differing(given),
                            activity: standing,
                        });
                    }
                    Some(added) => {
                        let added = ActivityEvidence {
                            completion: standing.completion + 1,
                            ..added
                        };
                        let mut standing = standing;
                        standing.complete(&added);
                        (added, standing)
                    }
                },
            };
            let (written, standing) = draft;
            let body = tenant.salts().seal(Kind::EvidenceActivity, &written.encode())?;
            let mut draft = piece.draft(&run, Kind::EvidenceActivity, body);
            draft.identity = Some(written.identity());
            // What was read must still be all there is.
            match piece.submit(draft) {
                Ok(placed) if placed.fresh => {
                    return Ok(ActivityCaptured {
                        placed,
                        kept: standing.differing(given),
                        activity: standing,
                    });
                }
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Err(CaptureError::Rejected(Rejection::RunMoved))
    }

    fn piece<'a>(
        &'a self,
        tenant: &'a Arc<Tenant>,
        class: EvidenceClass,
        run_id: &'a str,
        at: Timestamp,
    ) -> Piece<'a> {
        Piece {
            ledger: self,
            tenant,
            class,
            run_id,
            at,
        }
    }
}

impl Piece<'_> {
    fn missing(&self, why: ContextMissing) -> CaptureError {
        CaptureError::Context {
            class: self.class,
            run_id: self.run_id.to_owned(),
            why,
        }
    }

    fn run(&self) -> Result<RunRow, CaptureError> {
        self.ledger
            .store()
            .run_find(self.tenant.tenant_no, self.run_id)?
            .ok_or_else(|| self.missing(ContextMissing::RunUnknown))
    }

    /// A record that its identity makes the only one.
    fn once(
        &self,
        kind: Kind,
        identity: Identity,
        content: Option<[u8; 32]>,
        encode: impl Fn(&[u8; 32]) -> Vec<u8>,
    ) -> Result<Placed, CaptureError> {
        let run = self.run()?;
        let content = content.unwrap_or_else(|| evidence::sha256(&encode(&[0; 32])));
        let mut salts: Salts = self.tenant.salts();
        let salt: Salt = salts.next_salt();
        let body = encode(&evidence::content_mac(&salt, &content));
        let body = salts.seal_under(kind, salt, &body)?;
        let mut draft = self.draft(&run, kind, body);
        draft.identity = Some(identity);
        draft.content = Some(content);
        self.submit(draft)
    }

    fn draft(&self, run: &RunRow, kind: Kind, body: SealedBody) -> Draft {
        Draft {
            kind,
            bind: Bind::Run(run.state.run_id.as_str().into()),
            identity: None,
            content: None,
            trace_id: Some(run.state.trace_id.as_str().into()),
            correlation_id: run.state.correlation_id.as_deref().map(Arc::from),
            actor: (evidence::ActorType::System, None),
            occurred_at: self.at,
            source_domain: SourceDomain::Activity,
            source_component: "api",
            origin: evidence::Origin::System,
            body,
            facts: Facts::Other,
            expect_run_seq: None,
        }
    }

    fn submit(&self, draft: Draft) -> Result<Placed, CaptureError> {
        let outcome = self
            .ledger
            .submit_blocking(self.tenant, vec![draft], self.at, false)?
            .pop();
        match outcome.ok_or(SubmitError::Closing)? {
            Ok(placed) => Ok(placed),
            Err(Rejection::RunUnknown) => Err(self.missing(ContextMissing::RunUnknown)),
            Err(Rejection::RunSealed) => Err(self.missing(ContextMissing::RunSealed)),
            Err(rejection) => Err(CaptureError::Rejected(rejection)),
        }
    }

    /// The first record's receipt, the activity of a step as it stands, and whether some of it is erased.
    fn activity(
        &self,
        run: &RunRow,
        step_index: u32,
    ) -> Result<Option<(Placed, ActivityEvidence, bool)>, CaptureError> {
        let mut found: Option<(Placed, ActivityEvidence, bool)> = None;
        for completion in 0..=ACTIVITY_COMPLETIONS_MAX {
            let identity = Identity::activity(step_index, completion);
            let Some(row) = self.ledger.store().run_record_find(run.key, &identity)? else {
                break;
            };
            let Some(record) = self.ledger.records(self.tenant).read(&[row.leaf])?.pop() else {
                break;
            };
            // What is given cannot be held against a part that is archived, and must not be dropped without a word.
            if let Some(Gone::Archived | Gone::Missing) = record.body.gone() {
                let first = match &found {
                    Some((first, ..)) => first.receipt,
                    None => record.receipt()?,
                };
                return Err(CaptureError::Rejected(Rejection::Archived(first)));
            }
            // An erased part says nothing, and still stands in its place.
            let gone = record.body.gone().is_some();
            let said = record.body.bytes().and_then(ActivityEvidence::read);
            match (&mut found, said) {
                (None, said) => {
                    let placed = Placed {
                        receipt: record.receipt()?,
                        fresh: false,
                    };
                    let said = said.unwrap_or(ActivityEvidence {
                        step_index,
                        ..ActivityEvidence::default()
                    });
                    found = Some((placed, said, gone));
                }
                (Some((_, standing, _)), Some(added)) => standing.complete(&added),
                (Some((_, standing, erased)), None) => {
                    (standing.completion, *erased) = (completion, *erased || gone);
                }
            }
        }
        Ok(found)
    }
}
