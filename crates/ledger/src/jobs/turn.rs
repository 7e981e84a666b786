//! One turn of a job: events that follow its last one, what stands beside them, and the commit of both.

use std::sync::Arc;

use evidence::canonical::Value;
use evidence::job::{JobState, Stage};
use evidence::record::{Facts, JobEvent, JobEventType};
use evidence::{Kind, SourceDomain, Timestamp};
use store::LeafKey;

use super::slots::JobGuard;
use super::{JOB_EVENTS_MAX, JobDone, JobError, JobVerdict, JobView, Moment};
use crate::{Draft, Outcomes, Placed, Salts, SealedBody, SubmitError, Tenant};

/// What is about to be written of one job.
#[derive(Debug)]
pub struct Turn {
    pub(super) tenant: Arc<Tenant>,
    pub(super) moment: Moment,
    /// Now (`Tenant::now`), and not before the job's last event, which may stand in an epoch before.
    pub(super) at: Timestamp,
    pub(super) salts: Salts,
    pub(super) job_id: String,
    pub(super) attempt_number: u32,
    tip: Option<String>,
    events: Vec<(JobEvent, String)>,
    drafts: Vec<Draft>,
    /// Drafts that stand after the events.
    pub(super) beside: Vec<Draft>,
    pub(super) verdict: Option<Verdict>,
}

/// A verdict that stands beside the events.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) audit_id: String,
    pub(super) word: &'static str,
    pub(super) incident_id: Option<String>,
}

impl Turn {
    /// The first turn of a job.
    pub(super) fn first(tenant: &Arc<Tenant>, job_id: &str, moment: &Moment) -> Self {
        Self {
            tenant: Arc::clone(tenant),
            moment: *moment,
            at: tenant.now(moment.at),
            salts: tenant.salts(),
            job_id: job_id.to_owned(),
            attempt_number: 1,
            tip: None,
            events: Vec::with_capacity(2),
            drafts: Vec::with_capacity(2),
            beside: Vec::new(),
            verdict: None,
        }
    }

    /// The next one.
    pub(super) fn of(tenant: &Arc<Tenant>, state: &JobState, moment: &Moment) -> Self {
        let first = Self::first(tenant, &state.job_id, moment);
        Self {
            at: first.at.max(state.last_at),
            attempt_number: state.attempt_number,
            tip: Some(state.tip.clone()),
            ..first
        }
    }

    /// A new id.
    pub(super) fn new_id(&self) -> String {
        (self.moment.new_id)(self.moment.at)
    }

    /// Adds an event; `stage` is where the job stands after it, for readers of single events.
    pub(super) fn event(
        &mut self,
        event_type: JobEventType,
        stage: Stage,
        fill: impl FnOnce(&mut JobEvent),
    ) -> Result<(), JobError> {
        let mut event = JobEvent {
            event_id: self.new_id(),
            event_type,
            job_id: self.job_id.clone(),
            tenant_id: self.tenant.tenant_id.to_string(),
            timestamp: self.at,
            handler: None,
            attempt_number: self.attempt_number,
            duration_ms: None,
            error: None,
            payload_hash: None,
            result_hash: None,
            previous_event_hash: self.tip.clone(),
            metadata: Value::object([("stage", stage.as_str())]),
            redactions: None,
        };
        fill(&mut event);
        event.check()?;
        // What a client says was redacted when the act was looked at (`act.rs`). Nothing may change from here on:
        // all of it is under the event's hash.
        event.count_markers();
        let (body, hash) = event.encode();
        let facts = Facts::Job(event.facts(&hash));
        let sealed = SealedBody::seal_clean(Kind::JobEvent, self.salts.next_salt(), &body)?;
        let draft = Draft::sealed(Kind::JobEvent, facts, sealed, self.at);
        self.drafts.push(Draft {
            source_domain: SourceDomain::Activity,
            ..draft
        });
        self.tip = Some(hash.clone());
        self.events.push((event, hash));
        Ok(())
    }
}

/// What comes of an act.
#[derive(Debug)]
pub enum Next {
    /// It is to be written: [`JobGuard::commit`].
    Write(Box<Turn>),
    /// It was recorded before.
    Done(Box<JobDone>),
}

impl JobGuard {
    /// Commits a turn: all of it or nothing.
    ///
    /// # Errors
    /// Nothing was written, as far as is known.
    pub async fn commit(&mut self, turn: Turn) -> Result<JobDone, JobError> {
        let (tenant, ledger) = (Arc::clone(&self.tenant), self.ledger.clone());
        let at = turn.moment.at;
        let (drafts, written, state) = self.begin(turn)?;
        let outcomes = ledger.submit_group(&tenant, drafts, at).await;
        self.finish(outcomes, written, state)
    }

    /// The same; blocks.
    pub(super) fn commit_blocking(&mut self, turn: Turn) -> Result<JobDone, JobError> {
        let (tenant, ledger) = (Arc::clone(&self.tenant), self.ledger.clone());
        let at = turn.moment.at;
        let (drafts, written, state) = self.begin(turn)?;
        let outcomes = ledger.submit_blocking(&tenant, drafts, at, true);
        self.finish(outcomes, written, state)
    }

    /// Takes the state out: whatever happens from here on but success leaves the job to be folded again from what
    /// is stored, which alone says whether the commit happened.
    fn begin(&mut self, turn: Turn) -> Result<(Vec<Draft>, Written, Option<JobState>), JobError> {
        let Turn {
            mut drafts,
            events,
            beside,
            verdict,
            ..
        } = turn;
        let goes_on = |(event, _): &(JobEvent, String)| event.event_type == JobEventType::Progress;
        if self.state().is_some_and(|state| state.events >= JOB_EVENTS_MAX) && events.iter().all(goes_on) {
            return Err(JobError::Full("the job has as many events as it may"));
        }
        drafts.extend(beside);
        let written = Written {
            events,
            verdict,
            ledger_no: self.tenant.ledger().row.ledger_no,
        };
        let state = self.held().and_then(|held| held.state.take());
        Ok((drafts, written, state))
    }

    fn finish(
        &mut self,
        outcomes: Result<Outcomes, SubmitError>,
        written: Written,
        mut state: Option<JobState>,
    ) -> Result<JobDone, JobError> {
        let held = self.held().ok_or(JobError::Unknown)?;
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) => {
                if matches!(error, SubmitError::Busy { .. } | SubmitError::Refused(_)) {
                    held.state = state;
                }
                return Err(error.into());
            }
        };
        let placed: Vec<Placed> = outcomes.into_iter().collect::<Result<_, _>>()?;
        for ((event, hash), placed) in written.events.iter().zip(&placed) {
            let place = LeafKey::new(written.ledger_no, placed.receipt.leaf_index).as_i64();
            match &mut state {
                Some(state) => state.apply(event, hash, place),
                None => state = JobState::begin(event, hash, place),
            }
        }
        if let Some(state) = state.as_mut().filter(|state| state.stage().is_terminal()) {
            state.forget_steps();
        }
        let job = state.as_ref().map(JobView::of).ok_or(JobError::Unknown)?;
        held.state = state;
        held.show();
        let unanswered = || SubmitError::Unknown("the commit answered nothing".into());
        let verdict = match written.verdict {
            None => None,
            Some(verdict) => Some(JobVerdict {
                audit_id: verdict.audit_id,
                verdict: verdict.word,
                incident_id: verdict.incident_id,
                receipt: placed.get(written.events.len()).ok_or_else(unanswered)?.receipt,
            }),
        };
        Ok(JobDone {
            placed: *placed.first().ok_or_else(unanswered)?,
            job,
            verdict,
        })
    }
}

/// What is known of a turn while its commit is waited for.
struct Written {
    events: Vec<(JobEvent, String)>,
    verdict: Option<Verdict>,
    ledger_no: u32,
}
