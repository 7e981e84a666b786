//! Verification in the background: what is new within a minute, everything once a day.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use evidence::{Finding, FindingCode, Severity, Timestamp};
use store::sqlite::{LedgerProgress, StateDb};
use store::{LedgerRow, StoreError};
use tlog::TreeSize;

use crate::verify::{Question, Report, incremental, is_undeclared, verify};
use crate::{HighWater, Ledger, Tenant};

/// At latest this long after the last, everything is verified.
pub const SCRUB_MICROS: i64 = 24 * 3_600 * 1_000_000;

/// A full scrub rests nine times as long as it works: a tenth of a core.
const SCRUB_REST: u32 = 9;

/// A full verification that somebody waits for rests as long as it works: half of each core stays for others.
const ASKED_REST: u32 = 1;

/// Leaves of a step, which gives way to others after it: a twentieth of a second at most, also where each stands in a
/// block of its own.
const STEP_LEAVES: u64 = 4_096;

/// The same where somebody waits for the end: what a step begins with (erasures, the right edge) is read seldom, and
/// what is done is kept now and then.
const WAITED_LEAVES: u64 = 1 << 20;

/// Findings of one ledger that are kept for readers; all are counted.
pub const FINDINGS_KEPT: usize = 100;

/// Findings logged of one pass; the rest is counted.
const FINDINGS_LOGGED: usize = 20;

/// What the newest record about verifications says, in the ledger that is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRecord {
    /// No findings: there is no such record, or it says that there are none any more.
    Clean,
    /// Findings, and no later verification is on record that found none.
    Findings {
        /// How many, as far as is known.
        count: u64,
        /// When the first of them was found.
        found_at: Timestamp,
    },
    /// It cannot be read.
    Unknown,
}

/// A ledger with leaves that are not verified. See [`Verifier::behind`].
#[derive(Clone, Debug)]
pub struct Behind {
    row: LedgerRow,
    /// No pass of this process has looked at it.
    is_new: bool,
    /// Its size when it was looked at: what is added meanwhile is left to the next time.
    until: TreeSize,
}

impl Behind {
    /// Whether no pass of this process has looked at it: nothing is ready until one has.
    pub const fn is_new(&self) -> bool {
        self.is_new
    }
}

/// Background verification of a running ledger.
#[derive(Debug)]
pub struct Verifier {
    ledger: Ledger,
    state: StateDb,
    known: Mutex<HashMap<String, LedgerProgress>>,
    /// By origin, what the last verification that found anything found first.
    found: Mutex<HashMap<String, Vec<Finding>>>,
    /// Origins that a pass of this process has looked at, whatever came of it.
    looked_at: Mutex<HashSet<String>>,
    scrubbing: AtomicBool,
    /// Held while progress is changed and kept: an incremental pass and a full verification may end at once.
    keeping: Mutex<()>,
    /// Held while findings are put on record, so that two that end at once do not both do it.
    recording: Mutex<()>,
}

/// Says that the scrub has ended, also when it panics: no other would ever begin.
struct Scrubbing<'a>(&'a AtomicBool);

impl Drop for Scrubbing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Verifier {
    /// Takes up where the last process stopped. It opens the state database plainly: idempotency keys may be in use in
    /// it, so who starts sets a damaged one aside before.
    pub fn open(ledger: &Ledger) -> Result<Self, StoreError> {
        let path = ledger.options().data_dir.join("state.db");
        let state = StateDb::open(&path)?;
        let mut found = HashMap::new();
        for tenant in ledger.tenants() {
            let origin = &tenant.ledger().row.origin;
            let count = state.progress(origin).unwrap_or_default().findings;
            if count > 0 {
                found.insert(origin.clone(), kept_findings(&state, origin));
            }
        }
        Ok(Self {
            ledger: ledger.clone(),
            state,
            known: Mutex::default(),
            found: Mutex::new(found),
            looked_at: Mutex::default(),
            scrubbing: AtomicBool::new(false),
            keeping: Mutex::default(),
            recording: Mutex::default(),
        })
    }

    /// How far a ledger has been verified.
    pub fn progress(&self, origin: &str) -> LedgerProgress {
        if let Some(progress) = self.lock().get(origin) {
            return *progress;
        }
        self.state.progress(origin).unwrap_or_default()
    }

    /// Holds what `state.db` says of a ledger against what is on record in it. Who can write files can also change that
    /// one, take it away or put an older one back; the ledger is signed. So findings on record stand until a full
    /// verification finds none. Of a row that knows of none nothing else is believed either: all leaves are verified
    /// anew, and a scrub is due, which ends a false alarm too. For a server that starts: what this process verifies
    /// itself it knows.
    pub fn hold_to_record(&self, row: &LedgerRow, on_record: OnRecord) {
        let _keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let mut progress = self.progress(&row.origin);
        match on_record {
            OnRecord::Clean => {
                // Findings of which the row alone says that they are on record are put there; a scrub tells whether
                // they stand.
                if progress.findings > 0 && progress.recorded {
                    progress.last_full_scrub_at = None;
                }
                progress.recorded = false;
            }
            OnRecord::Findings { count, found_at } if progress.findings == 0 => {
                tracing::warn!(
                    origin = row.origin,
                    count,
                    "findings are on record of which state.db does not know: everything is verified anew"
                );
                progress = LedgerProgress {
                    findings: count.max(1),
                    found_at: Some(found_at),
                    recorded: true,
                    ..LedgerProgress::default()
                };
                let kept = kept_findings(&self.state, &row.origin);
                let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
                found.insert(row.origin.clone(), kept);
            }
            OnRecord::Findings { found_at, .. } => progress.recorded |= progress.found_at == Some(found_at),
            OnRecord::Unknown => progress.last_full_scrub_at = None,
        }
        self.lock().insert(row.origin.clone(), progress);
    }

    /// Whether anything is known of a ledger. Nothing is of one that came while a pass was ending.
    pub fn knows(&self, origin: &str) -> bool {
        let progress = self.progress(origin);
        progress.verified_at.is_some() || progress.findings > 0 || self.looked_at().contains(origin)
    }

    fn looked_at(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.looked_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts findings on record that are not, once for all that stand since there were none; and, once these are on record,
    /// that a full verification found none any more. `record` is told how many there are and since when, and says whether
    /// that is durable in the ledger; if not, the next call tries again, also after a restart. After a crash between the
    /// two `record` is asked again, and finds that it was done.
    pub fn record_found(&self, row: &LedgerRow, at: Timestamp, record: impl FnOnce(u64, Timestamp) -> bool) {
        let _recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        let progress = self.progress(&row.origin);
        let are_there = progress.findings > 0;
        if are_there == progress.recorded {
            return;
        }
        let since = if are_there {
            progress.found_at
        } else {
            progress.last_full_scrub_at
        };
        let since = since.unwrap_or(at);
        if record(progress.findings, since) {
            self.keep(row, since, |now| {
                now.recorded = if are_there {
                    // If they were mended meanwhile that is yet to be recorded; if others came, they are.
                    now.findings == 0 || now.found_at == progress.found_at || now.recorded
                } else {
                    now.recorded && now.findings > 0
                };
            });
        }
    }

    /// What was found last in a ledger, the first [`FINDINGS_KEPT`].
    pub fn findings(&self, origin: &str) -> Vec<Finding> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.get(origin).cloned().unwrap_or_default()
    }

    /// Verifies what is new in every ledger. Blocks; a pass over nothing new costs one read a ledger.
    pub fn incremental(&self, at: Timestamp) {
        for behind in self.behind(at) {
            while self.advance(&behind, at, WAITED_LEAVES) {}
        }
    }

    /// Ledgers of which not all leaves are verified, in the order in which to verify them: none waits for a first time
    /// until others are done again, and of these the one that waits longest is the first, as a pass may be broken off.
    /// One read a ledger.
    pub fn behind(&self, at: Timestamp) -> Vec<Behind> {
        let mut behind = Vec::new();
        for tenant in self.ledger.tenants() {
            let row = tenant.ledger().row.clone();
            let progress = self.progress(&row.origin);
            let verified = TreeSize::new(progress.verified_size);
            // What cannot be read is told by the step.
            let until = match self.ledger.store().head_read(row.ledger_no) {
                // A time that is still to come was under another clock, or is made up: it would stay for ever.
                Ok(head) if head.size == verified && progress.verified_at.is_some_and(|last| last <= at) => {
                    self.looked_at().insert(row.origin);
                    continue;
                }
                Ok(head) => head.size,
                Err(_) => verified,
            };
            let is_new = !self.looked_at().contains(&row.origin);
            behind.push((progress.verified_at, Behind { row, is_new, until }));
        }
        behind.sort_by_key(|(verified_at, behind)| (!behind.is_new, *verified_at));
        behind.into_iter().map(|(_, behind)| behind).collect()
    }

    /// Verifies the next leaves of one, a twentieth of a second's work, and says whether some are left.
    pub fn step(&self, behind: &Behind, at: Timestamp) -> bool {
        self.advance(behind, at, STEP_LEAVES)
    }

    /// The same of so many leaves, and of those in the blocks that are read with them.
    fn advance(&self, behind: &Behind, at: Timestamp, leaves: u64) -> bool {
        let Behind { row, until, .. } = behind;
        let progress = self.progress(&row.origin);
        let from = TreeSize::new(progress.verified_size);
        let end = TreeSize::new(progress.verified_size.saturating_add(leaves)).min(*until);
        // It comes to `end`, which is beyond `from` while some are left, or finds something: this ends.
        let is_left = match incremental(self.ledger.store(), row, from, end) {
            Ok((head, findings)) => {
                let is_left = findings.is_empty() && head.size < *until;
                Self::log(row, &findings);
                self.keep(row, at, |progress| {
                    if findings.is_empty() {
                        progress.verified_size = progress.verified_size.max(head.size.as_u64());
                        if !is_left {
                            progress.verified_at = Some(at);
                        }
                    } else {
                        // What a full verification found beyond these still stands.
                        progress.findings = progress.findings.max(count(&findings));
                        // It came no further, so no time is newer; one that is still to come is none.
                        progress.verified_at = progress.verified_at.filter(|last| *last <= at);
                    }
                });
                if !findings.is_empty() {
                    self.keep_findings_beside(row, findings);
                }
                is_left
            }
            Err(error) => {
                tracing::error!(origin = row.origin, %error, "incremental verification failed");
                false
            }
        };
        if !is_left {
            self.looked_at().insert(row.origin.clone());
        }
        is_left
    }

    /// Whether a full scrub is due.
    pub fn scrub_due(&self, at: Timestamp) -> bool {
        self.ledger.tenants().iter().any(|tenant| {
            let ledger = tenant.ledger();
            // Of an epoch that waits for its first leaf nothing is kept, and it would be due for ever.
            if ledger.row.epoch > 0 && ledger.refusal().is_some() && self.leaves(&ledger.row) == Some(0) {
                return false;
            }
            let last = self.progress(&ledger.row.origin).last_full_scrub_at;
            // One that is still to come was under another clock, or is made up: it would put off all others.
            last.is_none_or(|last| last > at || at.micros_since(last) >= SCRUB_MICROS)
        })
    }

    /// Verifies everything, resting most of the time. Blocks for long; one at a time.
    pub fn scrub(&self, at: Timestamp) {
        if self.scrubbing.swap(true, Ordering::AcqRel) {
            return;
        }
        let _scrubbing = Scrubbing(&self.scrubbing);
        self.scrub_all(at);
    }

    fn scrub_all(&self, at: Timestamp) {
        // Of the ledgers as they are now: what is found is not of an epoch that a recovery begins meanwhile.
        let rows: Vec<LedgerRow> = self
            .ledger
            .tenants()
            .iter()
            .map(|tenant| tenant.ledger().row.clone())
            .collect();
        match self.full(Question {
            rest_factor: SCRUB_REST,
            ..Question::default()
        }) {
            Ok(report) => {
                for row in &rows {
                    self.keep_report(row, &report, at);
                }
            }
            Err(error) => tracing::error!(%error, "full verification failed"),
        }
    }

    /// Verifies everything of one tenant, now; counts leaves as they are done, and gives up once `stop` is set.
    /// Blocks; the caller sees to it that few run at once.
    ///
    /// # Errors
    /// The store cannot answer, or it was stopped. What is wrong with its content is a finding.
    pub fn scrub_tenant(
        &self,
        tenant: &Tenant,
        at: Timestamp,
        done: &AtomicU64,
        stop: &AtomicBool,
    ) -> Result<Report, StoreError> {
        let row = tenant.ledger().row.clone();
        let report = self.full(Question {
            tenant_id: Some(tenant.tenant_id.to_string()),
            progress: Some(done),
            stop: Some(stop),
            rest_factor: ASKED_REST,
            ..Question::default()
        })?;
        self.keep_report(&row, &report, at);
        Ok(report)
    }

    fn full(&self, question: Question<'_>) -> Result<Report, StoreError> {
        let keys = crate::KeyFolder::at(&self.ledger.options().keys());
        // Read before the heads are fixed: a mark never runs ahead of what is committed.
        let path = self.ledger.options().high_water();
        let marks = HighWater::open(&path);
        let question = Question {
            marks: marks.as_ref().ok(),
            keys: Some(&keys),
            archive: Some(self.ledger.options().archive()),
            // Its operator may keep it elsewhere.
            archive_may_be_away: true,
            served: true,
            ..question
        };
        let mut report = verify(self.ledger.store(), &question)?;
        if let Err(error) = &marks {
            let place = path.file_name().map(|name| name.to_string_lossy().into_owned());
            report.add(Finding::new(
                FindingCode::Unreadable,
                place.unwrap_or_default(),
                error.to_string(),
            ));
        }
        Ok(report)
    }

    /// What a full verification says of one ledger.
    fn keep_report(&self, row: &LedgerRow, report: &Report, at: Timestamp) {
        // What names no tenant concerns all.
        let concerns = |finding: &&Finding| finding.tenant_id.as_ref().is_none_or(|id| *id == row.tenant_id);
        let findings: Vec<Finding> = report.findings.iter().filter(concerns).cloned().collect();
        Self::log(row, &findings);
        if findings.iter().any(is_undeclared) && self.is_settled_by_recovery(row) {
            return;
        }
        // A missing trigger warns; it does not make evidence false. All are counted, also those not kept.
        let errors = report.errors_of(&row.tenant_id);
        if !report.is_decided(&row.tenant_id, &row.origin) {
            // It says nothing new, but for what it found.
            tracing::warn!(origin = row.origin, undecided = ?report.undecided, "verification could not tell");
            if errors > 0 {
                self.keep(row, at, |progress| {
                    progress.findings = progress.findings.max(errors);
                });
                self.keep_findings_beside(row, findings);
            }
            return;
        }
        let verified = report.ledgers.iter().find(|ledger| ledger.origin == row.origin);
        self.keep(row, at, |progress| {
            progress.last_full_scrub_at = Some(at);
            progress.findings = errors;
            if let Some(verified) = verified.filter(|_| errors == 0) {
                // An incremental pass may have come further meanwhile. Who says that it was beyond what is there is wrong, and
                // would be found to be so again and again.
                let so_far = Some(progress.verified_size)
                    .filter(|so_far| self.leaves(row).is_some_and(|leaves| *so_far <= leaves));
                progress.verified_size = verified.tree_size.max(so_far.unwrap_or_default());
                progress.verified_at = progress.verified_at.max(Some(at));
            }
        });
        self.keep_findings(row, findings);
    }

    /// Whether an epoch that had no first leaf is refused for it, of which every reader is told, or has one by now. A
    /// recovery goes on with that epoch, under the same origin: what was found before its first leaf would be held
    /// against it, and put on record in it, though that leaf declares what was lost.
    fn is_settled_by_recovery(&self, row: &LedgerRow) -> bool {
        let tenant = self.ledger.tenant(&row.tenant_id);
        tenant.is_some_and(|tenant| tenant.refusal().is_some())
            || self.leaves(row).is_some_and(|leaves| leaves > 0)
    }

    /// How many leaves a ledger has, if that can be told.
    fn leaves(&self, row: &LedgerRow) -> Option<u64> {
        let head = self.ledger.store().head_read(row.ledger_no).ok()?;
        Some(head.size.as_u64())
    }

    /// Keeps findings beside those that still stand: the longer list, as the larger number is told. Warnings are not counted.
    fn keep_findings_beside(&self, row: &LedgerRow, findings: Vec<Finding>) {
        let errors = |findings: &[Finding]| {
            let is_error = |finding: &&Finding| finding.severity == Severity::Error;
            findings.iter().filter(is_error).count()
        };
        if errors(&findings) >= errors(&self.findings(&row.origin)) {
            self.keep_findings(row, findings);
        }
    }

    fn keep_findings(&self, row: &LedgerRow, mut findings: Vec<Finding>) {
        findings.truncate(FINDINGS_KEPT);
        let text = serde_json::to_string(&findings).unwrap_or_else(|_| "[]".into());
        if let Err(error) = self.state.found_set(&row.origin, &text) {
            tracing::warn!(%error, "findings cannot be kept: after a restart only their number is known");
        }
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.insert(row.origin.clone(), findings);
    }

    /// Changes what is known of a ledger as it is now: others may have changed it since it was looked at.
    fn keep(&self, row: &LedgerRow, at: Timestamp, change: impl FnOnce(&mut LedgerProgress)) {
        let _keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let mut progress = self.progress(&row.origin);
        let were_there = progress.findings > 0;
        change(&mut progress);
        if progress.findings == 0 {
            progress.found_at = None;
        } else {
            progress.found_at.get_or_insert(at);
            // New ones are recorded for themselves, also when it is not on record yet that those before are gone.
            progress.recorded &= were_there;
        }
        self.lock().insert(row.origin.clone(), progress);
        if let Err(error) = self.state.progress_set(&row.origin, &progress) {
            tracing::warn!(%error, "verification progress cannot be kept: it begins anew after a restart");
        }
    }

    fn log(row: &LedgerRow, findings: &[Finding]) {
        for finding in findings.iter().take(FINDINGS_LOGGED) {
            tracing::error!(origin = row.origin, %finding, "verification found");
        }
        if findings.len() > FINDINGS_LOGGED {
            tracing::error!(
                origin = row.origin,
                more = findings.len() - FINDINGS_LOGGED,
                "verification found more"
            );
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, LedgerProgress>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was found last in a ledger. What cannot be read is found again by the next full verification.
fn kept_findings(state: &StateDb, origin: &str) -> Vec<Finding> {
    let kept = state.found(origin).ok().flatten();
    kept.and_then(|kept| serde_json::from_str(&kept).ok())
        .unwrap_or_default()
}

fn count(findings: &[Finding]) -> u64 {
    u64::try_from(findings.len()).unwrap_or(u64::MAX)
}
