//! One turn of a job: events that follow its last one, what stands beside them, and the commit of both.

use std::sync::Arc;

use evidence::canonical::Value;
use evidence::job::{JobState, Stage};
use evidence::record::{Facts, JobEvent, JobEventType};
use evidence::{Kind, SourceDomain, Timestamp};
use store::LeafKey;

use super::slots::Held;
use super::{JOB_EVENTS_MAX, JobDone, JobError, JobVerdict, JobView, Moment};
use crate::{Draft, Ledger, Placed, Salts, SubmitError, Tenant};

/// What is about to be written of one job.
pub(super) struct Turn {
    pub(super) tenant: Arc<Tenant>,
    pub(super) moment: Moment,
    /// Now, but not before the job's last event.
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
            at: moment.at,
            salts: Salts::default(),
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
        Self {
            at: moment.at.max(state.last_at),
            attempt_number: state.attempt_number,
            tip: Some(state.tip.clone()),
            ..Self::first(tenant, &state.job_id, moment)
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
        };
        fill(&mut event);
        event.check()?;
        let (body, hash) = event.encode();
        let facts = Facts::Job(event.facts(&hash));
        let draft = Draft::alone(Kind::JobEvent, facts, &body, self.at, &mut self.salts)?;
        self.drafts.push(Draft {
            source_domain: SourceDomain::Activity,
            ..draft
        });
        self.tip = Some(hash.clone());
        self.events.push((event, hash));
        Ok(())
    }
}

impl Ledger {
    /// Commits a turn: all of it or nothing. Blocks, with the job's lock held, so that nothing comes in between.
    pub(super) fn job_commit(&self, held: &mut Held, turn: Turn) -> Result<JobDone, JobError> {
        let Turn {
            tenant,
            moment,
            mut drafts,
            events,
            beside,
            verdict,
            ..
        } = turn;
        if held
            .state
            .as_ref()
            .is_some_and(|state| state.events >= JOB_EVENTS_MAX)
            && events
                .iter()
                .all(|(event, _)| event.event_type == JobEventType::Progress)
        {
            return Err(JobError::Full("the job has as many events as it may"));
        }
        drafts.extend(beside);
        let ledger_no = tenant.ledger().row.ledger_no;
        // Taken out: whatever happens from here on but success leaves the job to be folded again from what is
        // stored, which alone says whether the commit happened.
        let state = held.state.take();
        let outcomes = match self.submit_blocking(&tenant, drafts, moment.at, true) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                if matches!(error, SubmitError::Busy { .. } | SubmitError::Refused(_)) {
                    held.state = state;
                }
                return Err(error.into());
            }
        };
        let placed: Vec<Placed> = outcomes.into_iter().collect::<Result<_, _>>()?;
        let mut state = state;
        for ((event, hash), placed) in events.iter().zip(&placed) {
            let place = LeafKey::new(ledger_no, placed.receipt.leaf_index).as_i64();
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
        let verdict = match verdict {
            None => None,
            Some(verdict) => Some(JobVerdict {
                audit_id: verdict.audit_id,
                verdict: verdict.word,
                incident_id: verdict.incident_id,
                receipt: placed.get(events.len()).ok_or_else(unanswered)?.receipt,
            }),
        };
        Ok(JobDone {
            placed: *placed.first().ok_or_else(unanswered)?,
            job,
            verdict,
        })
    }
}
