//! Who was let in, who was refused, who read what: noted off the request path, written in batches.
//!
//! A note costs a request one lock. [`Recorder::flush`] makes records of what is noted: the background calls
//! it twice a second, so that a crash takes at most a second's worth; a clean shutdown calls it last.
//! What repeats is counted: of equal notes of one period (a minute) the first few stand by
//! themselves, the rest as one record with a count when the period ends.
//!
//! Source: SPEC 5.4.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evidence::record::{
    AccessEvent, AccessEventType, AuthorizationDecision, Decision, Facts, IdentityEvent, IdentityEventType,
    Role,
};
use evidence::{ActorType, Kind, Timestamp};
use ledger::{Draft, Ledger, Salts, SubmitError, Tenant};

/// Notes that wait to be written: half a second of 20,000 requests a second, 300 bytes each. What comes above it is counted,
/// and counts go on beyond their period.
const WAITING_MAX: usize = 10_000;

/// Counts at once: a thousand keys times a dozen of action and topic. When full, all that are there end early; when
/// nothing can be written either, notes of what is not counted yet are lost, and their number is logged.
const COUNTS_MAX: usize = 20_000;

/// Equal decisions and reads of a minute that stand by themselves: ten a second are nobody who reads; above it is a flood.
const LISTED_MAX: u64 = 600;

/// Records submitted at once.
const BATCH_RECORDS: usize = 2_000;

const MINUTE_MICROS: i64 = 60 * 1_000_000;
const HOUR_MICROS: i64 = 60 * MINUTE_MICROS;

/// How much of an operation class is left on record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// Nothing but what is denied.
    None,
    /// Who, what, when, which filters, how many rows.
    #[default]
    Metadata,
}

/// Levels by operation class.
#[derive(Clone, Copy, Debug, Default)]
pub struct Levels {
    /// Reads and downloads.
    pub reads: Level,
    /// Writes of evidence.
    pub writes: Level,
}

/// Who did it, as far as records say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Who {
    pub(crate) principal: Arc<str>,
    /// A person's name does not stand in a header.
    pub(crate) human: bool,
}

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum What {
    Decision {
        action: &'static str,
        topic: &'static str,
        /// Not its own tenant's: names of tenants are anybody's to make up, so they are not counted apart.
        foreign: bool,
        decision: &'static str,
        policy_ids: Arc<[String]>,
        role: Option<&'static str>,
        reason: Option<&'static str>,
    },
    Access {
        operation: &'static str,
        exported: bool,
    },
    Refused {
        subject_id: Arc<str>,
        reason: &'static str,
    },
    SignedIn {
        role: Option<Role>,
    },
}

/// What belongs to one note alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Detail {
    pub(crate) operation: Option<&'static str>,
    pub(crate) request_id: Option<Arc<str>>,
    /// The path read, or of a decision the foreign tenant that was asked for.
    pub(crate) resource: Option<String>,
    pub(crate) filters: Vec<(String, String)>,
    pub(crate) rows: u64,
}

#[derive(Clone, Debug)]
struct Noted {
    tenant: Arc<Tenant>,
    who: Who,
    what: What,
    detail: Detail,
    at: Timestamp,
    count: u64,
    /// With a count: when the first was.
    since: Option<Timestamp>,
}

#[derive(Clone, Debug)]
struct Count {
    tenant: Arc<Tenant>,
    /// The period, counted from 1970.
    period: i64,
    period_micros: i64,
    listed: u64,
    /// Beyond those listed.
    more: u64,
    rows: u64,
    since: Timestamp,
    until: Timestamp,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Noted>,
    counts: HashMap<(u32, Who, What), Count>,
    lost: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    state: Mutex<State>,
    /// One flush at a time: a second one returns when the first one's records are durable.
    flushing: Mutex<()>,
}

/// How often equal notes are listed before they are counted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Listed {
    /// Each, until it is a flood.
    Each,
    /// The first of a minute.
    First,
    /// None; counted by the hour.
    Hourly,
}

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a decision.
    #[allow(clippy::too_many_arguments)] // what a decision consists of
    pub(crate) fn decision(
        &self,
        tenant: &Arc<Tenant>,
        who: Who,
        (action, topic): (&'static str, &'static str),
        (decision, policy_ids): (Decision, Arc<[String]>),
        role: Option<&'static str>,
        reason: Option<&'static str>,
        detail: Detail,
        at: Timestamp,
        listed: Listed,
    ) {
        let what = What::Decision {
            action,
            topic,
            foreign: detail.resource.is_some(),
            decision: decision.as_str(),
            policy_ids,
            role,
            reason,
        };
        self.note(tenant, who, what, detail, at, listed);
    }

    /// Notes that evidence was read, or taken away.
    pub(crate) fn access(
        &self,
        tenant: &Arc<Tenant>,
        who: Who,
        operation: &'static str,
        exported: bool,
        detail: Detail,
        at: Timestamp,
    ) {
        self.note(
            tenant,
            who,
            What::Access { operation, exported },
            detail,
            at,
            Listed::Each,
        );
    }

    /// Notes that a credential was refused.
    pub(crate) fn refused(
        &self,
        tenant: &Arc<Tenant>,
        who: Who,
        subject_id: Arc<str>,
        reason: &'static str,
        detail: Detail,
        at: Timestamp,
    ) {
        self.note(
            tenant,
            who,
            What::Refused { subject_id, reason },
            detail,
            at,
            Listed::First,
        );
    }

    /// Notes that a token was seen for the first time, and let somebody in.
    pub(crate) fn signed_in(
        &self,
        tenant: &Arc<Tenant>,
        who: Who,
        role: Option<Role>,
        detail: Detail,
        at: Timestamp,
    ) {
        self.note(tenant, who, What::SignedIn { role }, detail, at, Listed::Each);
    }

    fn note(
        &self,
        tenant: &Arc<Tenant>,
        who: Who,
        what: What,
        detail: Detail,
        at: Timestamp,
        listed: Listed,
    ) {
        let (period_micros, listed_max) = match listed {
            Listed::Each => (MINUTE_MICROS, LISTED_MAX),
            Listed::First => (MINUTE_MICROS, 1),
            Listed::Hourly => (HOUR_MICROS, 0),
        };
        let period = at.as_micros().div_euclid(period_micros);
        let key = (tenant.tenant_no, who, what);
        let begun = Count {
            tenant: Arc::clone(tenant),
            period,
            period_micros,
            listed: 0,
            more: 0,
            rows: 0,
            since: at,
            until: at,
        };
        let mut state = self.lock();
        let state = &mut *state;
        let room = state.waiting.len() < WAITING_MAX;
        if state.counts.len() >= COUNTS_MAX && !state.counts.contains_key(&key) {
            if !room {
                state.lost += 1;
                return;
            }
            let ended = state.counts.drain().filter_map(|(key, count)| ended(key, &count));
            state.waiting.extend(ended);
        }
        let count = state.counts.entry(key.clone()).or_insert_with(|| begun.clone());
        if count.period != period && room {
            let before = std::mem::replace(count, begun);
            state.waiting.extend(ended(key.clone(), &before));
        }
        if count.listed < listed_max && room {
            count.listed += 1;
            let (_, who, what) = key;
            state.waiting.push(Noted {
                tenant: Arc::clone(tenant),
                who,
                what,
                detail,
                at,
                count: 1,
                since: None,
            });
        } else {
            if count.more == 0 {
                count.since = at;
            }
            count.more += 1;
            count.rows = count.rows.saturating_add(detail.rows);
            count.until = count.until.max(at);
        }
    }

    /// Makes records of what is noted; with `end` also of counts whose period has not ended. Blocks.
    ///
    /// What cannot be written now is noted still.
    ///
    /// # Errors
    /// The ledger takes nothing now.
    pub(crate) fn flush(&self, ledger: &Ledger, at: Timestamp, end: bool) -> Result<(), SubmitError> {
        let _one = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = {
            let mut state = self.lock();
            let state = &mut *state;
            let over = state
                .counts
                .extract_if(|_, count| end || at.as_micros().div_euclid(count.period_micros) > count.period);
            let lost = std::mem::take(&mut state.lost);
            if lost > 0 {
                tracing::error!(
                    lost,
                    "notes about callers are lost: too many while nothing could be written"
                );
            }
            let mut waiting = std::mem::take(&mut state.waiting);
            waiting.extend(over.filter_map(|(key, count)| ended(key, &count)));
            waiting
        };
        let mut result = Ok(());
        let mut kept = Vec::new();
        waiting.sort_by_key(|noted| noted.tenant.tenant_no);
        for of_tenant in waiting.chunk_by(|a, b| a.tenant.tenant_no == b.tenant.tenant_no) {
            let mut salts = of_tenant[0].tenant.salts();
            for batch in of_tenant.chunks(BATCH_RECORDS) {
                let drafts = batch
                    .iter()
                    .filter_map(|noted| draft(noted, &mut salts))
                    .collect();
                match ledger.submit_blocking(&batch[0].tenant, drafts, at, false) {
                    Ok(outcomes) => {
                        for rejection in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
                            tracing::error!(%rejection, "an access record was refused");
                        }
                    }
                    // It may stand there already: twice on record is better than never.
                    Err(error) => {
                        kept.extend_from_slice(batch);
                        result = Err(error);
                    }
                }
            }
        }
        if !kept.is_empty() {
            let mut state = self.lock();
            kept.append(&mut state.waiting);
            state.waiting = kept;
        }
        result
    }
}

/// What a count comes to when its period is over.
fn ended((_, who, what): (u32, Who, What), count: &Count) -> Option<Noted> {
    (count.more > 0).then(|| Noted {
        tenant: Arc::clone(&count.tenant),
        who,
        what,
        detail: Detail {
            rows: count.rows,
            ..Detail::default()
        },
        at: count.until,
        count: count.more,
        since: Some(count.since),
    })
}

fn draft(noted: &Noted, salts: &mut Salts) -> Option<Draft> {
    let Noted {
        tenant,
        who,
        what,
        detail,
        at,
        count,
        since,
        ..
    } = noted;
    let principal = who.principal.to_string();
    let request_id = detail.request_id.as_deref().map(ToOwned::to_owned);
    let (kind, facts, body) = match what {
        What::Decision {
            action,
            topic,
            foreign,
            decision,
            policy_ids,
            role,
            reason,
        } => {
            let tenant_id = match &detail.resource {
                Some(asked) => asked.as_str(),
                None if *foreign => "-",
                None => &tenant.tenant_id,
            };
            let decision = AuthorizationDecision {
                action: (*action).to_owned(),
                count: *count,
                decision: Decision::parse(decision)?,
                operation: detail.operation.map(ToOwned::to_owned),
                policy_ids: policy_ids.to_vec(),
                principal,
                reason: reason.map(ToOwned::to_owned),
                request_id,
                resource: format!("{tenant_id}/{topic}"),
                role: role.map(ToOwned::to_owned),
                since: *since,
            };
            let body = decision.encode();
            (Kind::AuthorizationDecision, Facts::Authorization(decision), body)
        }
        What::Access { operation, exported } => {
            let event = AccessEvent {
                count: *count,
                event_type: if *exported {
                    AccessEventType::Exported
                } else {
                    AccessEventType::Read
                },
                filters: detail.filters.clone(),
                operation: (*operation).to_owned(),
                principal,
                request_id,
                resource: detail.resource.clone(),
                row_count: detail.rows,
                since: *since,
            };
            let body = event.encode();
            (Kind::AccessEvent, Facts::Access(event), body)
        }
        What::Refused { subject_id, reason } => {
            let event = IdentityEvent {
                reason: Some((*reason).to_owned()),
                count: (*count > 1).then_some(*count),
                request_id,
                ..IdentityEvent::new(IdentityEventType::SigninRefused, &**subject_id, principal)
            };
            let body = event.encode();
            (Kind::IdentityEvent, Facts::Identity(event), body)
        }
        What::SignedIn { role } => {
            let event = IdentityEvent {
                role: *role,
                count: (*count > 1).then_some(*count),
                request_id,
                ..IdentityEvent::new(IdentityEventType::Signin, principal.clone(), principal)
            };
            let body = event.encode();
            (Kind::IdentityEvent, Facts::Identity(event), body)
        }
    };
    let actor = if who.human {
        (ActorType::Human, None)
    } else {
        (ActorType::System, Some(Arc::clone(&who.principal)))
    };
    Draft::of_no_run(facts, (kind, &body), actor, *at, salts)
        .inspect_err(|error| tracing::error!(%error, "an access record is too large"))
        .ok()
}
