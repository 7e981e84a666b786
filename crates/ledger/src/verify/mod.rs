//! Verification: everything that is stored, recomputed from its bytes.
//!
//! Leaves are hashed, bodies are held against their commitments, roots against
//! blocks, nodes and checkpoints, and every projected row against the records
//! that it stems from. All findings are collected; each names its place.
//!
//! It may run beside a process that writes: heads and counts are fixed at one
//! moment, and rows that are ahead of them are derived anew from their records.
//!
//! Start at [`verify`].

mod checkpoints;
mod chunk;
mod compare;
mod derive;
mod erased;
mod examine;
mod incremental;
mod owners;
mod pipeline;
mod report;
mod seals;

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use evidence::{Finding, FindingCode};
use store::{LedgerRow, Snapshot, Store, StoreError, TenantRow};
use tlog::VerifierKey;

pub use report::{FINDINGS_MAX, LedgerReport, Level, Report};

pub(crate) use derive::{Derived, Deriver};
pub(crate) use erased::{Erasures, Gone, erasures_listed};
pub(crate) use examine::Examiner;
pub use incremental::incremental;

use crate::archive::ArchiveError;
use crate::epochs::{Ended, Epochs, NOTHING, no_ledger_of_key};
use crate::{HighWater, KeyFolder, no_tenant};

/// How often a tenant is verified anew because bodies were erased while it was, or its newest epoch got its first leaf.
const ERASURES_MEANWHILE_MAX: u32 = 3;

/// What to hold the ledgers against, and how much of them.
#[derive(Clone, Debug, Default)]
pub struct Question<'a> {
    /// Only this tenant.
    pub tenant_id: Option<String>,
    /// Leaves, bodies, roots and checkpoints, and whether each tenant that was made has its ledger; no projections.
    pub only_ledger: bool,
    /// Keys that the verifier brings.
    pub vkeys: Vec<VerifierKey>,
    /// Checkpoints that the verifier kept, as signed notes.
    pub kept: Vec<Vec<u8>>,
    /// Where archives lie: what was pruned is read from them.
    pub archive: Option<std::path::PathBuf>,
    /// An archive that is not there is no finding: what it holds is counted as pruned.
    pub archive_may_be_away: bool,
    /// The data folder's own marks.
    pub marks: Option<&'a HighWater>,
    /// The data folder's own keys, compared with those that the ledgers name.
    pub keys: Option<&'a KeyFolder>,
    /// A process has the folder: what it is about to write is waited for longer.
    pub served: bool,
    /// Counts leaves as they are done, for a progress bar.
    pub progress: Option<&'a AtomicU64>,
    /// Ends the verification without an answer once it is set.
    pub stop: Option<&'a AtomicBool>,
    /// Sleeps this many times as long as it worked, between chunks: 9 is a tenth of a core.
    pub rest_factor: u32,
}

impl Question<'_> {
    /// Threads that look at once.
    fn cores(&self) -> usize {
        if self.rest_factor > 0 {
            // Who rests in between wants a part of one core.
            return 1;
        }
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    }

    /// Whether something is there, or comes while it is waited for.
    fn comes(&self, is_there: impl Fn() -> Result<bool, StoreError>) -> Result<bool, StoreError> {
        let looks = if self.served { LOOKS_SERVED } else { LOOKS };
        for _ in 0..looks {
            if is_there()? {
                return Ok(true);
            }
            self.goes_on()?;
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(false)
    }

    /// Whether nobody has called it off.
    fn goes_on(&self) -> Result<(), StoreError> {
        if self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return Err(StoreError::Unavailable("the verification was called off".into()));
        }
        Ok(())
    }
}

/// Between mark and checkpoint, and between an epoch's key and its row, lie two fsyncs: a second of looks is enough for
/// slow disks where nobody is known to write, and ten for a disk that is busy.
const LOOKS: u32 = 10;
const LOOKS_SERVED: u32 = 100;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Verifies what a store holds.
///
/// # Errors
/// The store cannot answer, and nothing was found until then. What is wrong with its content is a finding, and is not
/// unfound by a read that fails: then it is undecided what else there is.
pub fn verify(store: &dyn Store, question: &Question<'_>) -> Result<Report, StoreError> {
    let mut report = Report::new();
    let answered = std::thread::scope(|scope| {
        // The database's own structure is looked at beside the records: neither needs the other.
        let structure = scope.spawn(|| store.self_check(question.only_ledger));
        let verified = records(store, question, &mut report);
        let panicked = |_| {
            Err(StoreError::Unavailable(
                "the look at the database's structure panicked".into(),
            ))
        };
        let structure = or_finding(structure.join().unwrap_or_else(panicked), None, &mut report);
        let told = structure.map(|findings| findings.into_iter().for_each(|finding| report.add(finding)));
        verified.and(told)
    });
    if let Err(error) = answered {
        if report.errors == 0 || question.goes_on().is_err() {
            return Err(error);
        }
        report.cut_short(&error);
    }
    // What a ledger is held against may be as it should, and the ledger not.
    for place in 0..report.ledgers.len() {
        if report.errors_of(&report.ledgers[place].tenant_id) > 0 {
            report.ledgers[place].level = Level::Invalid;
        }
    }
    report.level = report.ledgers.iter().map(|ledger| ledger.level).min();
    if report.errors > 0 {
        report.level = Some(Level::Invalid);
    }
    let erased: u64 = report.ledgers.iter().map(|ledger| ledger.erased).sum();
    if erased > 0 {
        report.flags.push(format!("ERASED {erased}"));
    }
    let pruned: u64 = report.ledgers.iter().map(|ledger| ledger.pruned).sum();
    if pruned > 0 {
        report.flags.push(format!("PRUNED {pruned}"));
    }
    let unsigned: u64 = report.ledgers.iter().map(|ledger| ledger.unsigned).sum();
    if unsigned > 0 {
        report.flags.push(format!("UNSIGNED {unsigned}"));
    }
    Ok(report)
}

fn records(store: &dyn Store, question: &Question<'_>, report: &mut Report) -> Result<(), StoreError> {
    // Before the ledgers: a tenant's ledger is older than its record.
    let mut made = Vec::new();
    if !question.only_ledger {
        made = or_finding(store.tenants_list(), None, report)?;
    }
    let ledgers = or_finding(store.ledgers_list(), None, report)?;
    let mut tenants: Vec<u32> = ledgers.iter().map(|row| row.tenant_no).collect();
    tenants.sort_unstable();
    tenants.dedup();
    let mut looked_at: Vec<&LedgerRow> = Vec::new();
    let mut chains = Vec::with_capacity(tenants.len());
    for tenant_no in tenants {
        let mut epochs: Vec<LedgerRow> = ledgers
            .iter()
            .filter(|row| row.tenant_no == tenant_no)
            .cloned()
            .collect();
        epochs.sort_by_key(|row| row.epoch);
        if question
            .tenant_id
            .as_ref()
            .is_some_and(|id| epochs.iter().all(|row| row.tenant_id != *id))
        {
            continue;
        }
        looked_at.extend(ledgers.iter().filter(|row| row.tenant_no == tenant_no));
        let verified = tenant(store, question, &epochs, report);
        let by_leaves = or_finding(verified, Some(&epochs[0].tenant_id), report)?;
        if question.only_ledger {
            made.extend(by_leaves);
        }
        chains.push(Epochs::read(store, &epochs)?);
    }
    owners::check(store, question, &made, &ledgers, report)?;
    if question.tenant_id.is_none() {
        marks_without_ledger(question, &ledgers, &chains, report);
    } else if looked_at.is_empty() {
        report
            .undecided
            .push(no_tenant(question.tenant_id.as_deref().unwrap_or_default()));
    }
    for kept in &question.kept {
        checkpoints::unused(kept, &ledgers, &looked_at, &chains, question, report);
    }
    checkpoints::unused_keys(&ledgers, &looked_at, &chains, question, report);
    let away = chains
        .iter()
        .flat_map(|chain| chain.away().into_values().collect::<Vec<_>>());
    let lost: u64 = away.filter_map(Ended::lost).map(|(first, end)| end - first).sum();
    if lost > 0 {
        report.flags.push(format!("LOST {lost}"));
    }
    Ok(())
}

/// Damage that ends a read is a finding like others, and what comes after it is verified all the same.
fn or_finding<T: Default>(
    result: Result<T, StoreError>,
    tenant_id: Option<&str>,
    report: &mut Report,
) -> Result<T, StoreError> {
    match result {
        Err(StoreError::Damaged { place, reason }) => {
            let finding = Finding::new(FindingCode::Unreadable, place, reason);
            report.add(match tenant_id {
                Some(tenant_id) => finding.with_tenant(tenant_id),
                None => finding,
            });
            Ok(T::default())
        }
        other => other,
    }
}

/// Gives the tenants that its records made, where no projection is read.
fn tenant(
    store: &dyn Store,
    question: &Question<'_>,
    epochs: &[LedgerRow],
    report: &mut Report,
) -> Result<Vec<TenantRow>, StoreError> {
    // The report is copied for each tenant, and what was said of those before it would be the most of it.
    let mut ledgers = std::mem::take(&mut report.ledgers);
    let made = tenant_undisturbed(store, question, epochs, report);
    ledgers.append(&mut report.ledgers);
    report.ledgers = ledgers;
    made
}

fn tenant_undisturbed(
    store: &dyn Store,
    question: &Question<'_>,
    epochs: &[LedgerRow],
    report: &mut Report,
) -> Result<Vec<TenantRow>, StoreError> {
    let tenant_no = epochs[0].tenant_no;
    // An erasure changes rows that may have been read before it and compared after it, and the first leaf of an epoch says
    // what became of those before it. Both are rare, and so is a finding: with both, what was found is looked at once more.
    let meanwhile = || {
        let newest = epochs.last().and_then(|row| store.head_read(row.ledger_no).ok());
        let begun = newest.map(|head| head.size.as_u64() > 0);
        (Erasures::count(store, tenant_no).ok(), begun)
    };
    let (mut disturbed, mut cut_short) = (None, None);
    let mut made = Vec::new();
    for _ in 0..ERASURES_MEANWHILE_MAX {
        let before = meanwhile();
        let mut seen = report.clone();
        let looked = tenant_once(store, question, epochs, &mut seen);
        let quiet = seen.errors == report.errors || meanwhile() == before;
        if quiet {
            *report = seen;
            return looked;
        }
        disturbed = Some(seen);
        match looked {
            Ok(tenants) => made = tenants,
            Err(error) => {
                cut_short = Some(error);
                break;
            }
        }
    }
    // What no erasure can cause is as true as ever: who can erase must not be able to hide it.
    if let Some(seen) = disturbed {
        for finding in seen.findings.into_iter().skip(report.findings.len()) {
            if !may_come_of_an_erasure(finding.code) {
                report.add(finding);
            }
        }
        report.ledgers = seen.ledgers;
        report.undecided = seen.undecided;
    }
    if let Some(error) = cut_short {
        return Err(error);
    }
    report.undecide(&epochs[0].tenant_id, "its bodies were erased all the while");
    Ok(made)
}

/// Whether an erasure between two reads can look so.
fn may_come_of_an_erasure(code: FindingCode) -> bool {
    matches!(
        code,
        FindingCode::BodyMissing
            | FindingCode::ProjectionMissing
            | FindingCode::ProjectionMismatch
            | FindingCode::ProjectionUnexpected
    )
}

fn tenant_once(
    store: &dyn Store,
    question: &Question<'_>,
    epochs: &[LedgerRow],
    report: &mut Report,
) -> Result<Vec<TenantRow>, StoreError> {
    let tenant_no = epochs[0].tenant_no;
    let (mut erasures, damage) = Erasures::load(store, tenant_no)?;
    for finding in damage {
        report.add(finding.with_tenant(&epochs[0].tenant_id));
    }
    for error in question
        .archive
        .iter()
        .flat_map(|folder| erasures.open_archives(folder))
    {
        match error {
            ArchiveError::Missing(_) if question.archive_may_be_away => {}
            ArchiveError::Missing(finding) | ArchiveError::Wrong(finding) => {
                report.add(finding.with_tenant(&epochs[0].tenant_id));
            }
            ArchiveError::Unread(why) => report.undecide(&epochs[0].tenant_id, &why),
        }
    }
    let erasures = erasures;
    // Where projections cannot be counted they are not compared; leaves and bodies are looked at all the same.
    let (snapshot, counted) = match store.snapshot(tenant_no, question.only_ledger) {
        Ok(snapshot) => (snapshot, true),
        Err(StoreError::Damaged { place, reason }) => {
            report
                .add(Finding::new(FindingCode::Unreadable, place, reason).with_tenant(&epochs[0].tenant_id));
            (heads_alone(store, epochs, report)?, false)
        }
        Err(error) => return Err(error),
    };
    let question = &Question {
        only_ledger: question.only_ledger || !counted,
        ..question.clone()
    };
    let mut deriver = Deriver::new(tenant_no).with_ledgers(erasures.ledgers());
    let mut derived = Derived::default();
    let mut deferred = compare::Deferred::new();
    // After the heads, which say whether an epoch has a first leaf.
    let chain = Epochs::read(store, epochs)?;
    for (origin, ended) in chain.away() {
        if let Some(why) = ended.differs(NOTHING) {
            let finding = Finding::new(FindingCode::RolledBack, "ledgers", format!("{origin}: {why}"));
            report.add(finding.with_tenant(&epochs[0].tenant_id));
        }
    }
    if let Some(finding) = key_without_ledger(store, question, &chain, epochs)? {
        report.add(finding.with_tenant(&epochs[0].tenant_id));
    }
    for (place, row) in epochs.iter().enumerate() {
        let Some((_, head)) = snapshot.heads.iter().find(|(no, _)| *no == row.ledger_no) else {
            continue;
        };
        if let Some(why) = chain.misplaced(place).filter(|_| head.size.as_u64() > 0) {
            let finding = Finding::new(FindingCode::LeafMalformed, "leaf_blocks", why);
            report.add(finding.with_tenant(&row.tenant_id).with_leaf(0));
        }
        let ledger = pipeline::ledger(
            store,
            question,
            row,
            *head,
            &snapshot,
            &mut deriver,
            &mut deferred,
            chain.ended(&row.origin),
            &erasures,
            report,
        )?;
        report.ledgers.push(ledger);
    }
    if let Some(finding) = undeclared(store, question, epochs, &snapshot)? {
        report.add(finding.with_tenant(&epochs[0].tenant_id));
    }
    let made = std::mem::take(&mut deriver.made);
    if !question.only_ledger {
        let (pruned, archived) = (deriver.counts.pruned, deriver.archived);
        let (late, mut counts) = deriver.finish(&mut derived);
        if erasures.unsaid().is_some() {
            counts = None;
        }
        let mut snapshot = snapshot;
        if archived > 0 && counts.is_some() {
            let names = (epochs[0].tenant_id.as_str(), tenant_no);
            snapshot.rows.facets = compare::facets_known(store, names, &snapshot, &erasures, report)?;
        }
        compare::finish(
            store,
            question.cores(),
            &epochs[0].tenant_id,
            &derived,
            &late,
            deferred,
            counts,
            &snapshot,
            &erasures,
            report,
        )?;
        compare::pruned(&epochs[0].tenant_id, pruned, &snapshot, report);
    }
    if let Some(why) = erasures.unsaid() {
        report.undecide(&epochs[0].tenant_id, &why);
    }
    Ok(made)
}

/// What is said of an epoch without its first leaf, behind its origin.
const UNDECLARED: &str = " has no first leaf, which says what came before it: its recovery was not finished, or its \
                          leaves are gone; recover again";

/// Whether a finding of a full verification says that an epoch has no first leaf.
pub(crate) fn is_undeclared(finding: &Finding) -> bool {
    finding.code == FindingCode::RolledBack && finding.detail.ends_with(UNDECLARED)
}

/// The newest epoch, if it is not the first and has no leaf: a crash ended its recovery, or somebody emptied it. Either
/// way it takes no record, as at the next start.
fn undeclared(
    store: &dyn Store,
    question: &Question<'_>,
    epochs: &[LedgerRow],
    snapshot: &Snapshot,
) -> Result<Option<Finding>, StoreError> {
    let Some(last) = epochs.last().filter(|row| row.epoch > 0) else {
        return Ok(None);
    };
    let head = snapshot.heads.iter().find(|(no, _)| *no == last.ledger_no);
    if head.is_none_or(|(_, head)| head.size.as_u64() > 0) {
        return Ok(None);
    }
    // A serving process may be about to write it: an epoch has its row first.
    if question.comes(|| Ok(store.head_read(last.ledger_no)?.size.as_u64() > 0))? {
        return Ok(None);
    }
    let detail = format!("{}{UNDECLARED}", last.origin);
    Ok(Some(Finding::new(FindingCode::RolledBack, "leaf_blocks", detail)))
}

/// A key of an epoch behind the newest, of which there is no row and no word: the database is older than the key.
fn key_without_ledger(
    store: &dyn Store,
    question: &Question<'_>,
    chain: &Epochs,
    epochs: &[LedgerRow],
) -> Result<Option<Finding>, StoreError> {
    let Some(keys) = question.keys else {
        return Ok(None);
    };
    let origin = match chain.key_alone(epochs, question.marks, keys) {
        Ok(Some(origin)) => origin,
        Ok(None) => return Ok(None),
        // Who brings keys need not be able to read those that sign.
        Err(error) if !question.vkeys.is_empty() && error.kind() == io::ErrorKind::PermissionDenied => {
            return Ok(None);
        }
        Err(error) => {
            let finding = Finding::new(FindingCode::Unreadable, "keys", error.to_string());
            return Ok(Some(finding));
        }
    };
    // A serving process may be about to make the row: an epoch has its key first.
    if question.comes(|| Ok(store.ledgers_list()?.iter().any(|row| row.origin == origin)))? {
        return Ok(None);
    }
    let detail = no_ledger_of_key(&origin);
    Ok(Some(Finding::new(FindingCode::RolledBack, "ledgers", detail)))
}

/// The heads that can be read.
fn heads_alone(store: &dyn Store, epochs: &[LedgerRow], report: &mut Report) -> Result<Snapshot, StoreError> {
    let mut snapshot = Snapshot::default();
    for row in epochs {
        let head = store.head_read(row.ledger_no).map(Some);
        let head = or_finding(head, Some(&row.tenant_id), report)?;
        snapshot.heads.extend(head.map(|head| (row.ledger_no, head)));
    }
    Ok(snapshot)
}

/// A mark of a ledger that the database does not know: the ledger's row, and all with it, is gone.
/// A later epoch may have declared that.
fn marks_without_ledger(
    question: &Question<'_>,
    ledgers: &[LedgerRow],
    chains: &[Epochs],
    report: &mut Report,
) {
    let there: BTreeSet<&str> = ledgers.iter().map(|row| row.origin.as_str()).collect();
    for (origin, mark) in question.marks.into_iter().flat_map(HighWater::iter) {
        let size = mark.size.as_u64();
        if size > 0 && !there.contains(origin) {
            let mut declared = chains.iter().filter_map(|chain| chain.ended(origin));
            if declared.any(|ended| ended.explains(size, mark.root)) {
                continue;
            }
            let detail = format!(
                "{} leaves of {origin} were signed, the database has no such ledger",
                mark.size
            );
            report.add(Finding::new(FindingCode::RolledBack, "ledgers", detail));
        }
    }
}
