//! Incidents: opened, acknowledged, resolved, closed.
//!
//! What an incident is now is folded from its records, which its facet finds.
//! A step after the first is decided and written as one task of the sequencer:
//! nothing can come between what was read and what is written, so of two people
//! who acknowledge at once one is told that it was done. Each such step writes the
//! audit event with it, both or neither.
//!
//! Source: SPEC 5.6.

use std::sync::Arc;

use evidence::canonical::Value;
use evidence::facet::facet;
use evidence::record::{
    AuditEvent, ErasedIncident, Facts, IncidentAct, IncidentEvent, IncidentOpened, IncidentStatus,
    IncidentStep, RuleBroken,
};
use evidence::{ActorType, Kind, RecordId, SourceDomain, Timestamp};
use store::{FacetQuery, LeafKey};

use crate::audit;
use crate::sequencer::Sequencer;
use crate::{
    BodyTooLarge, Draft, Ledger, Receipt, RecordError, Rejection, Salts, SubmitError, Tenant, WriteError,
};

/// Most records of one incident: each of the four steps is taken once.
const INCIDENT_RECORDS_MAX: u32 = 4;

/// An incident, folded from its records.
#[derive(Clone, Debug)]
pub struct Incident {
    /// Its id.
    pub incident_id: String,
    /// What it is about; `None`: that is erased.
    pub opened: Option<IncidentOpened>,
    /// Where it stands.
    pub status: IncidentStatus,
    /// Its steps in order, the first its opening.
    pub history: Vec<IncidentMark>,
}

/// One step of an incident.
#[derive(Clone, Debug)]
pub struct IncidentMark {
    /// Which.
    pub step: IncidentStep,
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub actor_type: ActorType,
    /// His id; none of an opening.
    pub actor_id: Option<String>,
    /// Why; none of an opening.
    pub reason: Option<String>,
    /// The record.
    pub record_id: RecordId,
    /// Its leaf.
    pub leaf_index: u64,
    /// Its body is erased, and what it said of whom and why with it.
    pub erased: bool,
}

/// What a step after the first wrote.
#[derive(Clone, Copy, Debug)]
pub struct IncidentReceipts {
    /// Of the step.
    pub event: Receipt,
    /// Of the audit event beside it.
    pub audit: Receipt,
}

/// Why nothing was done with an incident.
#[derive(Debug, thiserror::Error)]
pub enum IncidentError {
    /// No such incident.
    #[error("the incident does not exist")]
    Unknown,
    /// The step may not follow.
    #[error("the incident is {}; it cannot be {} any more", .status.as_str(), .step.as_str())]
    Step {
        /// Where it stands.
        status: IncidentStatus,
        /// What was asked for.
        step: IncidentStep,
    },
    /// A rule of SPEC 5.6 is broken.
    #[error(transparent)]
    Rule(#[from] RuleBroken),
    /// The body is too large.
    #[error(transparent)]
    Body(#[from] BodyTooLarge),
    /// The ledger refused the record.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Nothing was written, as far as is known.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The incident cannot be read.
    #[error(transparent)]
    Read(#[from] RecordError),
}

impl From<WriteError> for IncidentError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Rule(error) => error.into(),
            WriteError::Body(error) => error.into(),
            WriteError::Rejected(error) => error.into(),
            WriteError::Read(error) => error.into(),
            WriteError::Submit(error) => error.into(),
        }
    }
}

/// The record that opens an incident. Its id must be a new one.
///
/// # Errors
/// [`IncidentError::Rule`] or [`IncidentError::Body`].
pub fn opened_draft(
    incident_id: &str,
    opened: IncidentOpened,
    at: Timestamp,
    salts: &mut Salts,
) -> Result<Draft, IncidentError> {
    draft(&IncidentEvent::Opened(incident_id.to_owned(), opened), at, salts)
}

fn draft(event: &IncidentEvent, at: Timestamp, salts: &mut Salts) -> Result<Draft, IncidentError> {
    event.check()?;
    let facts = Facts::Incident(event.facts());
    let draft = Draft::alone(Kind::IncidentEvent, facts, &event.encode(), at, salts)?;
    let draft = Draft {
        source_domain: SourceDomain::Incidents,
        ..draft
    };
    Ok(match event {
        IncidentEvent::Opened(..) => draft,
        IncidentEvent::Act(_, _, act) => draft.by(act.actor_type, act.actor_id.as_deref()),
    })
}

impl Ledger {
    /// Opens an incident under a new id. Blocks until it is durable.
    ///
    /// # Errors
    /// [`IncidentError`]; then nothing was written, as far as is known.
    pub fn incident_open(
        &self,
        tenant: &Arc<Tenant>,
        incident_id: &str,
        opened: IncidentOpened,
        at: Timestamp,
    ) -> Result<Receipt, IncidentError> {
        let draft = opened_draft(incident_id, opened, at, &mut tenant.salts())?;
        let outcome = self.submit_blocking(tenant, vec![draft], at, false)?.pop();
        Ok(outcome.ok_or(SubmitError::Closing)??.receipt)
    }

    /// An incident as it was before that leaf, or as it is now; `None`: there is none of that id.
    ///
    /// # Errors
    /// Its records cannot be read.
    pub fn incident(
        &self,
        tenant: &Arc<Tenant>,
        incident_id: &str,
        as_of: Option<LeafKey>,
    ) -> Result<Option<Incident>, RecordError> {
        let query = FacetQuery {
            facets: vec![facet("incident", incident_id)],
            as_of,
            limit: INCIDENT_RECORDS_MAX,
            ..FacetQuery::default()
        };
        let leaves = self.store().facet_find(tenant.tenant_no, &query)?.leaves;
        let mut incident: Option<Incident> = None;
        for record in self.records(tenant).read(&leaves)? {
            let header = record.header()?;
            let leaf_index = record.leaf.leaf_index();
            // Erased by an older build, or taken away: only what a record says is passed over.
            record.kept_body(self.store(), tenant.tenant_no)?;
            let event =
                match record.body.bytes() {
                    Some(body) => Some(IncidentEvent::read(header.actor.kind, body).map_err(|error| {
                        RecordError::Body {
                            leaf: leaf_index,
                            reason: error.to_string(),
                        }
                    })?),
                    None => None,
                };
            // That an erased step was taken stays; what it said does not.
            let step = match &event {
                Some(event) => event.step(),
                None => match self.incident_kept(tenant, header.id)? {
                    Some(kept) => kept.step,
                    None => continue,
                },
            };
            let Some(status) = IncidentStatus::after(incident.as_ref().map(|it| it.status), step) else {
                continue;
            };
            let mut mark = IncidentMark {
                step,
                at: header.occurred_at,
                actor_type: header.actor.kind,
                actor_id: None,
                reason: None,
                record_id: header.id,
                leaf_index,
                erased: event.is_none(),
            };
            let mut about = None;
            match event {
                Some(IncidentEvent::Opened(_, opened)) => about = Some(opened),
                Some(IncidentEvent::Act(_, _, act)) => {
                    (mark.actor_id, mark.reason) = (act.actor_id, Some(act.reason));
                }
                None => {}
            }
            match &mut incident {
                None => {
                    incident = Some(Incident {
                        incident_id: incident_id.to_owned(),
                        opened: about,
                        status,
                        history: vec![mark],
                    });
                }
                Some(incident) => {
                    incident.status = status;
                    incident.history.push(mark);
                }
            }
        }
        Ok(incident)
    }

    /// The incident that was opened at that leaf, as it was before `as_of`; `None`: none was.
    ///
    /// # Errors
    /// Its records cannot be read.
    pub fn incident_at(
        &self,
        tenant: &Arc<Tenant>,
        leaf: LeafKey,
        as_of: LeafKey,
    ) -> Result<Option<Incident>, RecordError> {
        let Some(record) = self.records(tenant).read(&[leaf])?.pop() else {
            return Ok(None);
        };
        let header = record.header()?;
        record.kept_body(self.store(), tenant.tenant_no)?;
        let incident_id = match record.body.bytes() {
            Some(body) => match IncidentEvent::read(header.actor.kind, body) {
                Ok(event) => event.incident_id().to_owned(),
                Err(error) => {
                    return Err(RecordError::Body {
                        leaf: leaf.leaf_index(),
                        reason: error.to_string(),
                    });
                }
            },
            None => match self.incident_kept(tenant, header.id)? {
                Some(kept) => kept.incident_id,
                None => return Ok(None),
            },
        };
        self.incident(tenant, &incident_id, Some(as_of))
    }

    /// What the erasure of an incident's event kept of it.
    fn incident_kept(
        &self,
        tenant: &Arc<Tenant>,
        id: RecordId,
    ) -> Result<Option<ErasedIncident>, RecordError> {
        let Some((_, erasure)) = self.erasure_of(tenant, id)? else {
            return Ok(None);
        };
        let mut erased = erasure.erased.into_iter();
        Ok(erased
            .find(|record| record.record_id == id)
            .and_then(|record| record.incident))
    }

    /// Acknowledges, resolves or closes an incident, and records that as an audit event with it. Blocks.
    ///
    /// # Errors
    /// [`IncidentError::Unknown`], [`IncidentError::Step`] when it is past that step already.
    pub fn incident_act(
        &self,
        tenant: &Arc<Tenant>,
        incident_id: &str,
        step: IncidentStep,
        act: &IncidentAct,
        at: Timestamp,
    ) -> Result<IncidentReceipts, IncidentError> {
        // A status only rises, twice at most before none is left to take, and what it is about is erased once.
        for _ in 0..INCIDENT_RECORDS_MAX {
            // What is plainly wrong does not get as far as the sequencer.
            let seen = decide(self, tenant, incident_id, step)?;
            let drafts = act_drafts(&seen, step, act.clone(), at, &mut tenant.salts())?;
            let (reply, answer) = std::sync::mpsc::channel();
            let (ledger, of, id) = (self.clone(), Arc::clone(tenant), incident_id.to_owned());
            let queued = self.inner.queue.push_task(Box::new(move |sequencer| {
                // The asker may have gone; the step stays.
                let _ = reply.send(write(sequencer, &ledger, &of, &id, &seen, step, drafts, at));
            }));
            if !queued {
                return Err(SubmitError::Closing.into());
            }
            if let Some(receipts) = answer.recv().map_err(|_| self.unanswered())?? {
                return Ok(receipts);
            }
        }
        Err(IncidentError::Unknown)
    }
}

/// The incident, which may take that step.
fn decide(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    incident_id: &str,
    step: IncidentStep,
) -> Result<Incident, IncidentError> {
    let incident = ledger
        .incident(tenant, incident_id, None)?
        .ok_or(IncidentError::Unknown)?;
    let status = incident.status;
    IncidentStatus::after(Some(status), step).ok_or(IncidentError::Step { status, step })?;
    Ok(incident)
}

/// The step's record and the audit event that stands beside it.
fn act_drafts(
    incident: &Incident,
    step: IncidentStep,
    act: IncidentAct,
    at: Timestamp,
    salts: &mut Salts,
) -> Result<Vec<Draft>, IncidentError> {
    let state = |status: IncidentStatus| {
        let mut state = Value::object([("status", Value::from(status.as_str()))]);
        let run = incident
            .opened
            .as_ref()
            .and_then(|opened| opened.source_run_id.as_deref());
        if let Some(run) = run {
            state.insert("source_run_id", Value::from(run));
        }
        state
    };
    let status = incident.status;
    let next = IncidentStatus::after(Some(status), step).ok_or(IncidentError::Step { status, step })?;
    let event_of = match step {
        IncidentStep::Acknowledged => audit::incident_acknowledged,
        IncidentStep::Resolved => audit::incident_resolved,
        IncidentStep::Closed => audit::incident_manually_closed,
        IncidentStep::Opened => return Err(IncidentError::Step { status, step }),
    };
    // Why he did it is all that a caller writes freely here; states and steps are words that are decided by.
    let reason = salts.rules().text_under("reason", &act.reason);
    let event = AuditEvent {
        actor_type: act.actor_type,
        actor_id: act.actor_id.clone(),
        action_reason: Some(salts.rules().text_under("action_reason", &reason)),
        ..event_of(&incident.incident_id, state(status), state(next))
    };
    let act = IncidentAct { reason, ..act };
    let step = IncidentEvent::Act(incident.incident_id.clone(), step, act);
    Ok(vec![
        draft(&step, at, salts)?,
        audit::draft_clean(&event, at, salts)?,
    ])
}

/// On the sequencer's thread: looks again, and writes if nothing came in between; `None`: something did.
fn write(
    sequencer: &mut Sequencer,
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    incident_id: &str,
    seen: &Incident,
    step: IncidentStep,
    drafts: Vec<Draft>,
    at: Timestamp,
) -> Result<Option<IncidentReceipts>, IncidentError> {
    let now = decide(ledger, tenant, incident_id, step)?;
    // What an erasure took away meanwhile is not written again.
    if now.status != seen.status || now.opened != seen.opened {
        return Ok(None);
    }
    let mut receipts = Vec::with_capacity(2);
    for outcome in sequencer.submit_group_now(tenant, drafts, at)? {
        receipts.push(outcome?.receipt);
    }
    match receipts[..] {
        [event, audit] => Ok(Some(IncidentReceipts { event, audit })),
        _ => Err(SubmitError::Unknown("the commit answered nothing".into()).into()),
    }
}
