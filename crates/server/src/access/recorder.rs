//! Who was let in, who was refused, who read what: noted off the request path, written in batches.
//!
//! A note costs a request one lock. [`Recorder::flush`] makes records of what is noted: the background calls
//! it twice a second, so that a crash takes at most a second's worth; a clean shutdown calls it last, and who reads
//! the trail first ([`Recorder::flush_of`]).
//! What cannot be written is noted still, within bounds that are each tenant's own: a ledger that takes nothing stops
//! no other's. What repeats is counted: of equal notes of one period (a minute) the first few stand by
//! themselves, the rest as one record with a count when the period ends.
//!
//! Source: SPEC 5.4.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evidence::Timestamp;
use evidence::record::{Decision, Role};
use ledger::{Ledger, SubmitError, Tenant};

use super::draft::draft;
use super::principals;

/// Notes that wait to be written: half a second of 20,000 requests a second, 300 bytes each. What comes above it is counted,
/// and counts go on beyond their period.
const WAITING_MAX: usize = 10_000;

/// Of these for one tenant: it leaves room for others, also when its ledger takes nothing.
const WAITING_TENANT_MAX: usize = WAITING_MAX / 2;

/// Counts at once: a thousand keys times a dozen of action and topic. When full, all that are there end early; when
/// nothing can be written either, notes of what is not counted yet are lost, and their number is logged.
const COUNTS_MAX: usize = 20_000;

/// Counts of a tenant whose ledger takes nothing: a hundred keys times a dozen. What is not among them is lost, and
/// its number logged.
const COUNTS_HELD_MAX: usize = 1_000;

/// How long a ledger that is refused for writing is not asked again: it needs an operator.
const HELD_MICROS: i64 = MINUTE_MICROS;

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
pub(super) enum What {
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
        roles: Arc<[Role]>,
    },
    /// What a sign-in says of its principal; made as it is written ([`super::principals`]), and never counted.
    Principal {
        added: bool,
        roles: Arc<[Role]>,
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

/// A note, and so a record to be.
#[derive(Clone, Debug)]
pub(super) struct Noted {
    pub(super) tenant: Arc<Tenant>,
    pub(super) who: Who,
    pub(super) what: What,
    pub(super) detail: Detail,
    pub(super) at: Timestamp,
    pub(super) count: u64,
    /// With a count: when the first was.
    pub(super) since: Option<Timestamp>,
}

#[derive(Clone, Debug)]
struct Count {
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

/// What is noted for the ledger of one tenant.
#[derive(Debug)]
struct Book {
    tenant: Arc<Tenant>,
    waiting: Vec<Noted>,
    counts: HashMap<(Who, What), Count>,
    /// The ledger is refused for writing: until then it is not asked again, and everything is counted.
    held: Option<(Timestamp, SubmitError)>,
}

#[derive(Debug, Default)]
struct State {
    /// By number of tenant.
    books: HashMap<u32, Book>,
    /// Notes waiting and counts in all of them.
    waiting: usize,
    counts: usize,
    lost: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    state: Mutex<State>,
    /// One flush at a time: a second one returns when the first one's records are durable.
    flushing: Mutex<()>,
}

/// Why a tenant's notes could not be written.
#[derive(Debug)]
pub(crate) struct Unwritten {
    pub(crate) error: SubmitError,
    /// Seen now, not remembered.
    pub(crate) tried: bool,
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
        roles: Arc<[Role]>,
        detail: Detail,
        at: Timestamp,
    ) {
        self.note(tenant, who, What::SignedIn { roles }, detail, at, Listed::Each);
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
        let key = (who, what);
        let begun = Count {
            period: at.as_micros().div_euclid(period_micros),
            period_micros,
            listed: 0,
            more: 0,
            rows: 0,
            since: at,
            until: at,
        };
        let mut state = self.lock();
        let state = &mut *state;
        if !state.has_room_for(tenant, &key) {
            state.lost += 1;
            return;
        }
        let book = state
            .books
            .entry(tenant.tenant_no)
            .or_insert_with(|| Book::new(tenant));
        let room = book.has_room() && state.waiting < WAITING_MAX;
        let before = book.waiting.len();
        let count = book.counts.entry(key.clone()).or_insert_with(|| {
            state.counts += 1;
            begun.clone()
        });
        if count.period != begun.period && room {
            let over = std::mem::replace(count, begun);
            book.waiting.extend(ended(&book.tenant, key.clone(), &over));
        }
        if count.listed < listed_max && room {
            count.listed += 1;
            let (who, what) = key;
            book.waiting.push(Noted {
                tenant: Arc::clone(tenant),
                who,
                what,
                detail,
                at,
                count: 1,
                since: None,
            });
        } else {
            count.add(1, detail.rows, at, at);
        }
        state.waiting += book.waiting.len() - before;
    }

    /// Makes records of what is noted; with `end` also of counts whose period has not ended. Blocks.
    ///
    /// What cannot be written now is noted still. Says why, once for each piece that was not taken.
    pub(crate) fn flush(&self, ledger: &Ledger, at: Timestamp, end: bool) -> Vec<Unwritten> {
        self.write(ledger, at, end, None)
    }

    /// The same of one tenant, for who wants to read it: ingest makes way for him.
    pub(crate) fn flush_of(&self, ledger: &Ledger, at: Timestamp, tenant_no: u32) -> Vec<Unwritten> {
        self.write(ledger, at, false, Some(tenant_no))
    }

    fn write(&self, ledger: &Ledger, at: Timestamp, end: bool, only: Option<u32>) -> Vec<Unwritten> {
        let _one = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut taken, mut unwritten) = self.lock().take(at, end, only);
        for (tenant, notes) in &mut taken {
            principals::tell(ledger, tenant, notes);
        }
        // What one commit carries, whosoever's it is; the next when that is durable.
        let mut pieces: Vec<_> = taken
            .iter()
            .flat_map(|(tenant, notes)| notes.chunks(BATCH_RECORDS).map(move |piece| (tenant, piece)))
            .collect();
        while !pieces.is_empty() {
            let (mut count, mut records) = (0, 0);
            while let Some((_, piece)) = pieces
                .get(count)
                .filter(|(_, piece)| count == 0 || records + piece.len() <= BATCH_RECORDS)
            {
                (count, records) = (count + 1, records + piece.len());
            }
            let together: Vec<_> = pieces.drain(..count).collect();
            let drafts = together
                .iter()
                .map(|(tenant, piece)| {
                    // Notes name the requests that they are about themselves.
                    let mut salts = ledger::Salts::of(tenant.rules());
                    let drafts = piece
                        .iter()
                        .filter_map(|noted| draft(noted, &mut salts))
                        .collect();
                    (Arc::clone(tenant), drafts)
                })
                .collect();
            let answers = ledger.submit_ahead_blocking(drafts, at, only.is_some());
            for ((tenant, piece), answer) in together.into_iter().zip(answers) {
                match answer {
                    Ok(outcomes) => {
                        for rejection in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
                            tracing::error!(%rejection, "an access record was refused");
                        }
                    }
                    // It may stand there already: twice on record is better than never.
                    Err(error) => {
                        let tried = true;
                        self.lock().give_back(tenant, piece, &error, at);
                        unwritten.push(Unwritten { error, tried });
                    }
                }
            }
        }
        unwritten
    }
}

impl Book {
    fn new(tenant: &Arc<Tenant>) -> Self {
        Self {
            tenant: Arc::clone(tenant),
            waiting: Vec::new(),
            counts: HashMap::new(),
            held: None,
        }
    }

    fn has_room(&self) -> bool {
        self.held.is_none() && self.waiting.len() < WAITING_TENANT_MAX
    }

    /// Counts what cannot wait; how many notes are lost for it.
    fn fold(&mut self, noted: Noted) -> u64 {
        let since = noted.since.unwrap_or(noted.at);
        let full = self.counts.len() >= COUNTS_HELD_MAX;
        let count = match self.counts.entry((noted.who, noted.what)) {
            Entry::Occupied(count) => count.into_mut(),
            Entry::Vacant(_) if full => return noted.count,
            Entry::Vacant(vacant) => vacant.insert(Count {
                period: noted.at.as_micros().div_euclid(MINUTE_MICROS),
                period_micros: MINUTE_MICROS,
                listed: 0,
                more: 0,
                rows: 0,
                since,
                until: noted.at,
            }),
        };
        count.add(noted.count, noted.detail.rows, since, noted.at);
        0
    }
}

impl Count {
    fn add(&mut self, times: u64, rows: u64, since: Timestamp, until: Timestamp) {
        self.since = if self.more == 0 {
            since
        } else {
            self.since.min(since)
        };
        self.more = self.more.saturating_add(times);
        self.rows = self.rows.saturating_add(rows);
        self.until = self.until.max(until);
    }
}

impl State {
    /// Whether something can be counted; makes room for it where that is possible.
    fn has_room_for(&mut self, tenant: &Tenant, key: &(Who, What)) -> bool {
        let book = self.books.get(&tenant.tenant_no);
        if book.is_some_and(|book| book.counts.contains_key(key)) {
            return true;
        }
        let full = self.counts >= COUNTS_MAX;
        if let Some(book) = book.filter(|book| book.held.is_some()) {
            return !full && book.counts.len() < COUNTS_HELD_MAX;
        }
        if full && self.waiting >= WAITING_MAX {
            return false;
        }
        if full {
            // Counts of ledgers that take nothing stay: they are few each, and would come back.
            for book in self.books.values_mut().filter(|book| book.held.is_none()) {
                self.counts -= book.counts.len();
                let before = book.waiting.len();
                for (key, count) in book.counts.drain() {
                    book.waiting.extend(ended(&book.tenant, key, &count));
                }
                self.waiting += book.waiting.len() - before;
            }
        }
        true
    }

    /// Takes what is to be written, by tenant (`only` of one); says which are not to be asked yet.
    fn take(
        &mut self,
        at: Timestamp,
        end: bool,
        only: Option<u32>,
    ) -> (Vec<(Arc<Tenant>, Vec<Noted>)>, Vec<Unwritten>) {
        let lost = std::mem::take(&mut self.lost);
        if lost > 0 {
            tracing::error!(
                lost,
                "notes about callers are lost: too many while nothing could be written"
            );
        }
        let (mut taken, mut waits) = (Vec::new(), Vec::new());
        for (&tenant_no, book) in &mut self.books {
            if only.is_some_and(|only| only != tenant_no) {
                continue;
            }
            if let Some((until, error)) = &book.held
                && at < *until
                && !end
            {
                waits.push(Unwritten {
                    error: error.clone(),
                    tried: false,
                });
                continue;
            }
            book.held = None;
            let mut notes = std::mem::take(&mut book.waiting);
            self.waiting -= notes.len();
            let before = book.counts.len();
            let over = book
                .counts
                .extract_if(|_, count| end || at.as_micros().div_euclid(count.period_micros) > count.period);
            notes.extend(over.filter_map(|(key, count)| ended(&book.tenant, key, &count)));
            self.counts -= before - book.counts.len();
            if !notes.is_empty() {
                taken.push((Arc::clone(&book.tenant), notes));
            }
        }
        self.books
            .retain(|_, book| book.held.is_some() || !book.counts.is_empty() || !book.waiting.is_empty());
        taken.sort_unstable_by_key(|(tenant, _)| tenant.tenant_no);
        (taken, waits)
    }

    /// Notes again what could not be written: each as it was if the ledger may take it soon, counted if not, or if that
    /// would be too many.
    fn give_back(&mut self, tenant: &Arc<Tenant>, notes: &[Noted], error: &SubmitError, at: Timestamp) {
        let book = self
            .books
            .entry(tenant.tenant_no)
            .or_insert_with(|| Book::new(tenant));
        let later = std::mem::take(&mut book.waiting);
        let (waited, counted) = (later.len(), book.counts.len());
        let mut room = WAITING_TENANT_MAX;
        if matches!(error, SubmitError::Refused(_)) {
            let until = at.checked_add_micros(HELD_MICROS).unwrap_or(at);
            book.held = Some((until, error.clone()));
            room = 0;
        }
        // What a sign-in says is found out anew with it.
        let notes = notes
            .iter()
            .filter(|note| !matches!(note.what, What::Principal { .. }));
        for noted in notes.cloned().chain(later) {
            if book.waiting.len() < room {
                book.waiting.push(noted);
            } else {
                self.lost = self.lost.saturating_add(book.fold(noted));
            }
        }
        self.waiting = self.waiting + book.waiting.len() - waited;
        self.counts = self.counts + book.counts.len() - counted;
    }
}

/// What a count comes to when its period is over.
fn ended(tenant: &Arc<Tenant>, (who, what): (Who, What), count: &Count) -> Option<Noted> {
    (count.more > 0).then(|| Noted {
        tenant: Arc::clone(tenant),
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

#[cfg(test)]
mod tests;
