//! What has been kept long enough.
//!
//! Runs stand in the order in which they began, system records and telemetry in that of their leaves, and a walk
//! goes along them. What is archived is not looked at again while the process lives, unless something came to its run
//! or was erased from it. What is held, or due later, is passed over and looked at again once the walk has come to its
//! end: it keeps nothing behind it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use evidence::record::{ARCHIVED_RECORDS_MAX, Facts, RetentionClass, is_erasable};
use evidence::{Header, Identity, Kind, Timestamp, facet};
use store::{Batch, FacetQuery, LeafKey, RunKey, RunRow, Store};

use super::RetentionError;
use crate::hold::Holders;
use crate::{Ledger, Tenant};

/// Rows read at once.
const ROWS_READ: u32 = 1_000;

/// The last rows of a run among which one that goes is looked for: its seal, which stays, and some failures before it.
const TAIL_ROWS: u32 = 8;

/// Whether a run's records of that kind are archived with it. What the run was judged to be, and what it was judged
/// by that nothing else shows, stays: small, and asked for as long as the run is listed.
const fn goes(kind: Kind) -> bool {
    !matches!(kind, Kind::EvidenceIntegrity | Kind::EvidenceCaptureFailure)
}

/// The kinds of the class `system`.
const KINDS: [Kind; 2] = [Kind::SystemRecord, Kind::SystemTelemetry];

/// How far along a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Walk<P> {
    /// Everything before it is archived, or never is.
    passed: P,
    /// Where to look next.
    next: P,
    /// Nothing old enough is behind `next`.
    ended: bool,
}

impl<P: Copy + PartialEq> Walk<P> {
    /// Goes on behind what was looked at; `done`: it need not be looked at again.
    fn step(&mut self, behind: P, done: bool) {
        if done && self.passed == self.next {
            self.passed = behind;
        }
        self.next = behind;
    }

    /// A pass begins: one that has ended begins anew.
    fn begin(&mut self) {
        if self.ended {
            self.next = self.passed;
            self.ended = false;
        }
    }
}

/// A tenant's walks since the process began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Walks {
    /// Of runs and of made up ones, by ordinal.
    runs: [Walk<u64>; 2],
    /// The first run, by ordinal, that something came to or was erased from since the walk of a class began.
    changed: [Option<u64>; 2],
    /// Of system records and of telemetry, by the leaf before.
    records: [Walk<Option<LeafKey>>; 2],
}

impl Walks {
    /// A run is no longer what it was when it was passed: something late came, or the word that it is made up went.
    fn run_changed(&mut self, ordinal: u64) {
        for changed in &mut self.changed {
            *changed = Some(changed.map_or(ordinal, |first| first.min(ordinal)));
        }
    }

    /// The walk of a class of runs goes back to what has changed.
    fn begin_runs(&mut self, class: usize) {
        let walk = &mut self.runs[class];
        // Taken before anything is looked at: what changes meanwhile is left to the next pass.
        if let Some(first) = self.changed[class].take() {
            walk.passed = walk.passed.min(first);
        }
        walk.begin();
    }
}

/// By tenant.
pub(crate) type AllWalks = HashMap<u32, Walks>;

/// A batch was committed: its runs are looked at again, also those that were passed for good.
pub(crate) fn committed(walks: &Mutex<AllWalks>, batch: &Batch) {
    let came = batch.run_records.iter().map(|row| row.run.ordinal());
    let erased = batch.refolded.iter().map(|row| row.key.ordinal());
    let Some(first) = came.chain(erased).min() else {
        return;
    };
    let mut walks = walks.lock().unwrap_or_else(PoisonError::into_inner);
    // Where there is none, nothing was passed yet.
    if let Some(walks) = walks.get_mut(&batch.tenant_no) {
        walks.run_changed(first);
    }
}

fn walks<T>(ledger: &Ledger, tenant: &Tenant, body: impl FnOnce(&mut Walks) -> T) -> T {
    let mut walks = ledger
        .inner
        .retention
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    body(walks.entry(tenant.tenant_no).or_default())
}

/// A pass begins: walks that have ended begin anew.
pub(super) fn begin(ledger: &Ledger, tenant: &Tenant, class: RetentionClass) {
    walks(ledger, tenant, |walks| match class {
        RetentionClass::Runs => walks.begin_runs(0),
        RetentionClass::Synthetic => walks.begin_runs(1),
        RetentionClass::System => walks.records.iter_mut().for_each(Walk::begin),
    });
}

/// What was found.
pub(super) struct Found {
    pub(super) leaves: Vec<LeafKey>,
    /// The walk has come to its end.
    pub(super) ended: bool,
    pub(super) walked: Walked,
}

/// Where a walk stood before it found anything: what is not archived of it is to be found again.
pub(super) enum Walked {
    Runs(usize, u64),
    Records([Option<LeafKey>; 2]),
}

/// What becomes of a run.
enum OfRun {
    /// Nothing now: it is young, not sealed, or held.
    Stays,
    /// Nothing any more.
    Done,
    /// These bodies are archived.
    Goes(Vec<LeafKey>),
}

/// What is due.
pub(super) struct Due<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) tenant: &'a Arc<Tenant>,
    pub(super) older_than: Timestamp,
    /// Runs, or records, looked at.
    pub(super) looked_max: u32,
    /// There are holds to ask for.
    pub(super) holds: bool,
}

impl Due<'_> {
    fn store(&self) -> &dyn Store {
        self.ledger.store()
    }

    fn walks<T>(&self, body: impl FnOnce(&mut Walks) -> T) -> T {
        walks(self.ledger, self.tenant, body)
    }

    /// Leaves of a class whose bodies go into the next archive.
    pub(super) fn find(&self, class: RetentionClass) -> Result<Found, RetentionError> {
        match class {
            RetentionClass::System => self.records(),
            RetentionClass::Runs => self.runs(false),
            RetentionClass::Synthetic => self.runs(true),
        }
    }

    /// Not all of what was found is archived.
    pub(super) fn again(&self, walked: &Walked) {
        fn back<P: Copy>(walk: &mut Walk<P>, to: P) {
            walk.next = to;
            walk.ended = false;
        }
        self.walks(|walks| match *walked {
            Walked::Runs(class, from) => back(&mut walks.runs[class], from),
            Walked::Records(from) => {
                for (walk, from) in walks.records.iter_mut().zip(from) {
                    back(walk, from);
                }
            }
        });
    }

    /// Leaves of whole runs.
    fn runs(&self, synthetic: bool) -> Result<Found, RetentionError> {
        let class = usize::from(synthetic);
        let mut walk = self.walks(|walks| walks.runs[class]);
        let (mut leaves, mut first, mut looked) = (Vec::new(), None, 0);
        'all: while !walk.ended {
            let rows = self
                .store()
                .runs_read(RunKey::new(self.tenant.tenant_no, walk.next), ROWS_READ)?;
            walk.ended = rows.len() < ROWS_READ as usize;
            for run in rows {
                // Runs stand in the order of their first records: those behind a young one are younger.
                if run.key.tenant_no() != self.tenant.tenant_no || run.state.created_at >= self.older_than {
                    walk.ended = true;
                    break 'all;
                }
                if looked >= self.looked_max || leaves.len() >= ARCHIVED_RECORDS_MAX / 2 {
                    walk.ended = false;
                    break 'all;
                }
                looked += 1;
                let of_run = if run.state.is_synthetic == synthetic {
                    self.of_run(&run)?
                } else {
                    OfRun::Done
                };
                let done = matches!(of_run, OfRun::Done);
                if let OfRun::Goes(of_run) = of_run {
                    first.get_or_insert(run.key.ordinal());
                    leaves.extend(of_run);
                }
                walk.step(run.key.ordinal() + 1, done);
            }
        }
        if leaves.len() > ARCHIVED_RECORDS_MAX {
            leaves.truncate(ARCHIVED_RECORDS_MAX);
            // The last run is longer than an archive: what is left of it goes into the next.
            walk.next = first.unwrap_or(walk.next);
            walk.ended = false;
        }
        self.walks(|walks| walks.runs[class] = walk);
        Ok(Found {
            leaves,
            ended: walk.ended,
            walked: Walked::Runs(class, first.unwrap_or(walk.next)),
        })
    }

    /// A run goes when it is sealed, silent for long enough, and nothing of it is held.
    fn of_run(&self, run: &RunRow) -> Result<OfRun, RetentionError> {
        if !run.state.settled || run.state.last_recorded_at >= self.older_than {
            return Ok(OfRun::Stays);
        }
        // It was archived in order: with the last record that goes all are. Where it is not among the last few, they
        // are looked for one by one.
        let tail = run.state.record_count.saturating_sub(TAIL_ROWS.into());
        let mut tail = self.store().run_records(run.key, tail, TAIL_ROWS)?;
        tail.retain(|row| goes(row.kind));
        if let Some(last) = tail.last()
            && self.store().is_pruned(last.leaf)?
        {
            return Ok(OfRun::Done);
        }
        let seal = Identity::once(Kind::EvidenceIntegrity);
        if self.store().run_record_find(run.key, &seal)?.is_none() {
            return Ok(OfRun::Stays);
        }
        let mut leaves = Vec::new();
        let mut from = 0;
        loop {
            let rows = self.store().run_records(run.key, from, ROWS_READ)?;
            let Some(last) = rows.last() else { break };
            from = last.run_seq + 1;
            let page: Vec<LeafKey> = rows
                .iter()
                .filter(|row| goes(row.kind))
                .map(|row| row.leaf)
                .collect();
            let there = self.store().bodies_there(&page)?;
            if self.holds {
                for leaf in &there {
                    if self.is_held(*leaf, false)? {
                        return Ok(OfRun::Stays);
                    }
                }
            }
            leaves.extend(there);
            // Of a longer run no more than an archive takes; but a hold on a later record is asked for.
            if rows.len() < ROWS_READ as usize || (!self.holds && leaves.len() > ARCHIVED_RECORDS_MAX) {
                break;
            }
        }
        Ok(if leaves.is_empty() {
            OfRun::Done
        } else {
            OfRun::Goes(leaves)
        })
    }

    /// System records and telemetry.
    fn records(&self) -> Result<Found, RetentionError> {
        let mut all = self.walks(|walks| walks.records);
        let before = all.map(|walk| walk.next);
        let (mut leaves, mut looked) = (Vec::new(), 0);
        for (kind, walk) in KINDS.into_iter().zip(&mut all) {
            while !walk.ended && looked < self.looked_max && leaves.len() < ARCHIVED_RECORDS_MAX {
                let query = FacetQuery {
                    facets: vec![facet::facet("kind", kind.as_str())],
                    before: Some(self.older_than),
                    below: walk.next,
                    limit: ROWS_READ.min(self.looked_max - looked),
                    ..FacetQuery::default()
                };
                let page = self.store().facet_find(self.tenant.tenant_no, &query)?;
                walk.ended = !page.has_more;
                let there = self.store().bodies_there(&page.leaves)?;
                let mut there = there.into_iter().peekable();
                for leaf in page.leaves {
                    if leaves.len() >= ARCHIVED_RECORDS_MAX {
                        walk.ended = false;
                        break;
                    }
                    looked += 1;
                    let done = there.next_if_eq(&leaf).is_none() || !self.is_erasable(leaf)?;
                    let stays = done || self.holds && self.is_held(leaf, true)?;
                    if !stays {
                        leaves.push(leaf);
                    }
                    walk.step(Some(leaf), done);
                }
            }
        }
        self.walks(|walks| walks.records = all);
        Ok(Found {
            leaves,
            ended: all.iter().all(|walk| walk.ended),
            walked: Walked::Records(before),
        })
    }

    /// What makes a tenant is never pruned.
    fn is_erasable(&self, leaf: LeafKey) -> Result<bool, RetentionError> {
        let header = self.header(leaf)?;
        Ok(Header::decode(&header).is_ok_and(|header| is_erasable(&header)))
    }

    fn header(&self, leaf: LeafKey) -> Result<Vec<u8>, RetentionError> {
        let header = crate::records::headers(self.store(), &[leaf])?.pop();
        Ok(header.unwrap_or_default())
    }

    /// Whether a hold keeps a record; `named`: its body may name the run of one.
    fn is_held(&self, leaf: LeafKey, named: bool) -> Result<bool, RetentionError> {
        let header = self.header(leaf)?;
        let Ok(header) = Header::decode(&header) else {
            return Ok(true);
        };
        let mut facets = Vec::new();
        if named && let Some(row) = self.store().bodies_get(&[leaf])?.pop() {
            let mut body = Vec::new();
            let opened = crate::body::open(&header, &row, &mut body).ok();
            let facts = opened.and_then(|()| Facts::read(&header, &body).ok());
            // What cannot be read may name it.
            let Some(facts) = facts else { return Ok(true) };
            facets = facts.facets(&header);
        }
        let held = Holders::of(&header, &facets).holds(self.store(), self.tenant.tenant_no)?;
        Ok(held.is_some())
    }
}
