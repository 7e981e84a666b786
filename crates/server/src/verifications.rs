//! Verification as readers see it: how far it is, what it found, and a full one on demand.
//!
//! The verifier itself is the ledger's; here is who runs it, what is published of
//! it, and the bound on those that are asked for: one at a time for a tenant,
//! [`ASKED_AT_ONCE_MAX`] in the process. Each of these is a job ([`ledger::own`]) of the same id.
//!
//! What of it goes on record stands in `record`.

mod record;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evidence::canonical::Value;
use evidence::{Finding, Severity, Timestamp};
use ledger::own::{OwnEnd, OwnJob, OwnWork, Watch, untold};
use ledger::verify::Level;
use ledger::{FINDINGS_KEPT, Tenant, Verifier};
use tokio::sync::{Semaphore, watch};

use crate::{ApiError, App, Verification, ids};

/// Verifications on demand that run at once: each takes half of every core while it runs.
const ASKED_AT_ONCE_MAX: usize = 2;

/// Ended ones kept for each tenant: whoever asked reads the outcome soon or asks again.
const KEPT_MAX: usize = 16;

/// What the jobs of verifications on demand are.
const ABOUT: (OwnWork, Option<&str>) = (OwnWork::Verification, None);

/// What a verification on demand came to.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// It runs.
    Running,
    /// It ended.
    Ended {
        at: Timestamp,
        /// Size and root; `None`: damage has kept it from being read to its end.
        tree: Option<(u64, String)>,
        level: &'static str,
        /// Errors among the findings of this tenant.
        errors: u64,
        findings: Vec<Finding>,
    },
    /// The question could not be answered.
    Failed { at: Timestamp, reason: String },
    /// Somebody called it off.
    Cancelled { at: Timestamp },
}

impl Outcome {
    /// What the job of a verification says that came of it.
    fn result(&self) -> Option<Value> {
        let Self::Ended {
            tree, level, errors, ..
        } = self
        else {
            return None;
        };
        let (size, root) = tree.as_ref().map(|(size, root)| (*size, root.as_str())).unzip();
        Some(Value::object([
            ("anomalies_detected", Value::from(*errors)),
            ("level", Value::from(*level)),
            ("tree_root", root.map(Value::from).unwrap_or_default()),
            ("tree_size", size.map(Value::from).unwrap_or_default()),
        ]))
    }
}

/// A verification on demand.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) id: Arc<str>,
    pub(crate) requested_at: Timestamp,
    pub(crate) watch: Arc<Watch>,
    outcome: watch::Receiver<Outcome>,
}

impl Asked {
    fn new(id: Arc<str>, requested_at: Timestamp) -> (Self, watch::Sender<Outcome>) {
        let (sender, outcome) = watch::channel(Outcome::Running);
        let asked = Self {
            id,
            requested_at,
            watch: Arc::default(),
            outcome,
        };
        (asked, sender)
    }

    /// What it came to so far.
    pub(crate) fn outcome(&self) -> Outcome {
        self.outcome.borrow().clone()
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&mut self) {
        // The sender is dropped only after it has said how it ended.
        let _ = self
            .outcome
            .wait_for(|outcome| !matches!(outcome, Outcome::Running))
            .await;
    }
}

/// The verifier, and the verifications asked for.
#[derive(Debug)]
pub(crate) struct Verifications {
    /// Opened at first use: it has a database of its own.
    verifier: Mutex<Option<Arc<Verifier>>>,
    /// By tenant, oldest first.
    asked: Mutex<HashMap<u32, VecDeque<Asked>>>,
    slots: Arc<Semaphore>,
}

impl Default for Verifications {
    fn default() -> Self {
        Self {
            verifier: Mutex::default(),
            asked: Mutex::default(),
            slots: Arc::new(Semaphore::new(ASKED_AT_ONCE_MAX)),
        }
    }
}

impl Verifications {
    fn asked(&self) -> MutexGuard<'_, HashMap<u32, VecDeque<Asked>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The verification of that id, of this tenant.
    pub(crate) fn find(&self, tenant: &Tenant, id: &str) -> Option<Asked> {
        let asked = self.asked();
        let mut of_tenant = asked.get(&tenant.tenant_no)?.iter();
        of_tenant.find(|asked| &*asked.id == id).cloned()
    }
}

impl App {
    /// The verifier, opened at first use, when what it kept is held against what is on record. Blocks.
    ///
    /// # Errors
    /// Its database can neither be read nor set aside.
    pub(crate) fn verifier(&self) -> Result<Arc<Verifier>, ApiError> {
        let mut verifier = self
            .verifications
            .verifier
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(verifier) = &*verifier {
            return Ok(Arc::clone(verifier));
        }
        let opened = Arc::new(Verifier::open(&self.ledger)?);
        for tenant in self.ledger.tenants() {
            opened.hold_to_record(&tenant.ledger().row, self.on_record(&tenant));
        }
        *verifier = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// Says in [`App::verification`] how far the verifier is, and records that it found something, once, and once that
    /// it does no more. Blocks.
    pub(crate) fn publish_verification(&self, verifier: &Verifier, at: Timestamp) {
        let tenants = self.ledger.tenants();
        let known: Vec<Verification> = tenants
            .iter()
            .filter_map(|tenant| {
                let origin = tenant.ledger().row.origin.clone();
                // One that came meanwhile stays unknown, so that the next pass does not wait for its time.
                if !verifier.knows(&origin) {
                    return None;
                }
                let progress = verifier.progress(&origin);
                Some(Verification {
                    tenant_id: Arc::clone(&tenant.tenant_id),
                    origin,
                    verified_size: progress.verified_size,
                    verified_at: progress.verified_at,
                    last_full_scrub_at: progress.last_full_scrub_at,
                    findings: progress.findings,
                    damaged: (progress.findings > 0)
                        .then(|| format!("verification has {} findings", progress.findings)),
                    // One that has found something is not waited for: it is damaged.
                    pending: progress.verified_at.is_none() && progress.findings == 0,
                })
            })
            .collect();
        *self.verification.write().unwrap_or_else(PoisonError::into_inner) = known;
        for tenant in &tenants {
            verifier.record_found(&tenant.ledger().row, at, |count, found_at| {
                self.record_verification(verifier, tenant, count, (found_at, at))
            });
        }
    }

    /// Begins a full verification of a tenant's ledgers, or joins the one that runs.
    ///
    /// # Errors
    /// 503 while as many run for others as may.
    pub(crate) fn verification_begin(&self, tenant: &Arc<Tenant>, at: Timestamp) -> Result<Asked, ApiError> {
        let mut asked = self.verifications.asked();
        let of_tenant = asked.entry(tenant.tenant_no).or_default();
        if let Some(running) = of_tenant
            .back()
            .filter(|asked| matches!(asked.outcome(), Outcome::Running))
        {
            return Ok(running.clone());
        }
        let slot = Arc::clone(&self.verifications.slots)
            .try_acquire_owned()
            .map_err(|_| ApiError::unavailable("busy", "other verifications are running"))?;
        let (begun, sender) = Asked::new(ids::uuid_v7(at).into(), at);
        let (app, tenant, asked) = (self.clone(), Arc::clone(tenant), begun.clone());
        std::thread::Builder::new()
            .name("verification".into())
            .spawn(move || {
                let mut ending = Ending(&app, &sender);
                let (id, clock) = (Some(&asked.id), app.own_clock());
                let outcome = match OwnJob::begin(&app.ledger, &tenant, ABOUT, id, &asked.watch, clock) {
                    Ok(job) => app.verify_as(job, &tenant, &asked.watch, at),
                    Err(busy) => Outcome::Failed {
                        at,
                        reason: busy.to_string(),
                    },
                };
                ending.say(outcome);
                drop(slot);
            })
            .map_err(|error| ApiError::internal(&error))?;
        keep(of_tenant, begun.clone());
        Ok(begun)
    }

    /// Takes up work of Deponent's own that a crash or a stop of the server has interrupted, one after the other, beside
    /// what is asked for. Blocks for long.
    pub(crate) fn own_resume(&self) {
        for work in OwnWork::ALL {
            for tenant in self.ledger.tenants() {
                for job_id in self.ledger.own_without_end(&tenant, work) {
                    if self.ledger.own_interrupted() {
                        return;
                    }
                    if work == OwnWork::Verification {
                        self.verification_resume(&tenant, &job_id);
                    } else {
                        self.ledger.own_resume(&tenant, work, &job_id, self.own_clock());
                    }
                }
            }
        }
    }

    fn verification_resume(&self, tenant: &Arc<Tenant>, job_id: &Arc<str>) {
        let (at, clock) = ((self.clock)(), self.own_clock());
        let (asked, sender) = Asked::new(Arc::clone(job_id), at);
        {
            let mut all = self.verifications.asked();
            let of_tenant = all.entry(tenant.tenant_no).or_default();
            if of_tenant.iter().any(|known| known.id == asked.id) {
                // It was begun a moment ago, and runs.
                return;
            }
            if of_tenant.is_empty() {
                keep(of_tenant, asked.clone());
            } else {
                drop(all);
                // Somebody was quicker: one of a tenant runs at a time.
                let reason = "another verification began".to_owned();
                if let Err(error) = self.ledger.own_cancel(tenant, job_id, reason, clock) {
                    tracing::warn!(%job_id, %error, "an interrupted verification cannot be ended");
                }
                return;
            }
        }
        let mut ending = Ending(self, &sender);
        let outcome = match OwnJob::take_up(&self.ledger, tenant, ABOUT, job_id, &asked.watch, clock) {
            Ok(Some(job)) => self.verify_as(job, tenant, &asked.watch, at),
            _ => Outcome::Failed {
                at,
                reason: "it was interrupted, and cannot be begun again".into(),
            },
        };
        ending.say(outcome);
    }

    /// Verifies, and says in its job how far it is and what came of it.
    fn verify_as(&self, job: OwnJob, tenant: &Tenant, watch: &Watch, at: Timestamp) -> Outcome {
        let size = |ledger_no| {
            self.ledger
                .store()
                .head_read(ledger_no)
                .map_or(0, |head| head.size.as_u64())
        };
        let epochs = tenant.epochs();
        let leaves = epochs.iter().map(|epoch| size(epoch.row.ledger_no)).sum();
        watch.total.store(leaves, Ordering::Relaxed);
        let outcome = job.during(&mut untold, |watch| self.verify_now(tenant, watch, at));
        job.end(match &outcome {
            Outcome::Failed { reason, .. } => OwnEnd::Failed(reason.clone()),
            outcome => outcome.result().map_or(OwnEnd::Stopped, OwnEnd::Done),
        });
        outcome
    }

    fn verify_now(&self, tenant: &Tenant, watch: &Watch, at: Timestamp) -> Outcome {
        let report = self.verifier().and_then(|verifier| {
            let report = verifier.scrub_tenant(tenant, at, &watch.done, &watch.stop)?;
            self.publish_verification(&verifier, (self.clock)());
            Ok(report)
        });
        if watch.is_stopped() {
            return Outcome::Cancelled { at: (self.clock)() };
        }
        match report {
            // Damage that ended it is an answer, as it is to `deponent verify`.
            Ok(report)
                if report.errors_of(&tenant.tenant_id) == 0
                    && !report.is_decided(&tenant.tenant_id, &tenant.ledger().row.origin) =>
            {
                Outcome::Failed {
                    at: (self.clock)(),
                    reason: report.undecided.join("; "),
                }
            }
            Ok(report) => {
                let origin = &tenant.ledger().row.origin;
                let ledger = report.ledgers.iter().find(|ledger| ledger.origin == *origin);
                let errors = report
                    .findings
                    .iter()
                    .filter(|finding| finding.severity == Severity::Error);
                Outcome::Ended {
                    at: (self.clock)(),
                    tree: ledger.map(|ledger| (ledger.tree_size, ledger.tree_root.clone())),
                    // What is decided has a level, and damage is one.
                    level: report
                        .level
                        .filter(|_| ledger.is_some())
                        .unwrap_or(Level::Invalid)
                        .as_str(),
                    errors: u64::try_from(errors.count()).unwrap_or(u64::MAX),
                    findings: report.findings.into_iter().take(FINDINGS_KEPT).collect(),
                }
            }
            Err(error) => Outcome::Failed {
                at: (self.clock)(),
                reason: error.message,
            },
        }
    }
}

/// Keeps a verification for its readers; the oldest goes.
fn keep(of_tenant: &mut VecDeque<Asked>, asked: Asked) {
    while of_tenant.len() >= KEPT_MAX {
        of_tenant.pop_front();
    }
    of_tenant.push_back(asked);
}

/// Says how a verification ended, also when its thread panics: nobody may wait for ever.
struct Ending<'a>(&'a App, &'a watch::Sender<Outcome>);

impl Ending<'_> {
    fn say(&mut self, outcome: Outcome) {
        self.1.send_replace(outcome);
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if matches!(*self.1.borrow(), Outcome::Running) {
            self.say(Outcome::Failed {
                at: (self.0.clock)(),
                reason: "the verification panicked; the server's log has the cause".into(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use evidence::job::Stage;
    use ledger::{JobView, Ledger, Options};

    use super::*;

    fn clock() -> Timestamp {
        Timestamp::parse("2026-11-21T10:00:00Z").unwrap()
    }

    struct Bed {
        app: App,
        tenant: Arc<Tenant>,
        id: Arc<str>,
        _folder: tempfile::TempDir,
    }

    impl Bed {
        /// With a verification that a crash has interrupted.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let ledger = Ledger::open(Options::new(folder.path()), clock()).unwrap();
            let tenant = ledger.tenant_create("default", clock()).unwrap();
            let bed = Self {
                app: App::new(ledger, clock),
                tenant,
                id: "v-1".into(),
                _folder: folder,
            };
            let watch = Arc::<Watch>::default();
            let job = OwnJob::begin(
                &bed.app.ledger,
                &bed.tenant,
                ABOUT,
                Some(&bed.id),
                &watch,
                bed.app.own_clock(),
            );
            watch.stop.store(true, Ordering::Relaxed);
            job.unwrap().end(OwnEnd::Stopped);
            bed
        }

        fn job(&self, id: &str) -> JobView {
            self.app.ledger.job(&self.tenant, id).unwrap()
        }
    }

    #[test]
    fn a_verification_that_was_interrupted_is_done_at_the_next_start() {
        let bed = Bed::new();
        bed.app.own_resume();
        let ended = bed.job(&bed.id);
        assert_eq!(
            (ended.progress.stage, ended.attempt_number),
            (Stage::Completed, 2)
        );
        assert!(bed.app.verifications.find(&bed.tenant, &bed.id).is_some());
    }

    #[test]
    fn a_verification_that_is_asked_for_at_the_start_takes_the_place_of_the_one_before() {
        let bed = Bed::new();
        let asked = bed.app.verification_begin(&bed.tenant, clock()).unwrap();
        bed.app.own_resume();
        // The old one is given up; the new one goes on as it was.
        assert_eq!(bed.job(&bed.id).progress.stage, Stage::Cancelled);
        let mut waiting = asked.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(waiting.ended());
        let new = bed.job(&asked.id);
        assert_eq!((new.progress.stage, new.attempt_number), (Stage::Completed, 1));
    }

    #[test]
    fn a_verification_that_is_called_off_ends_with_its_reason() {
        let bed = Bed::new();
        bed.app.own_resume();
        let (asked, sender) = Asked::new("v-2".into(), clock());
        let begin = || {
            OwnJob::begin(
                &bed.app.ledger,
                &bed.tenant,
                ABOUT,
                Some(&asked.id),
                &asked.watch,
                bed.app.own_clock(),
            )
        };
        let job = begin().unwrap();
        let again = begin().unwrap_err();
        assert_eq!(again.job_id, asked.id);
        bed.app
            .ledger
            .own_cancel(&bed.tenant, &asked.id, "too long".into(), bed.app.own_clock())
            .unwrap();
        let outcome = bed.app.verify_as(job, &bed.tenant, &asked.watch, clock());
        assert!(matches!(outcome, Outcome::Cancelled { .. }));
        let ended = bed.job("v-2");
        assert_eq!(ended.progress.stage, Stage::Cancelled);
        assert_eq!(ended.cancel_reason.as_deref(), Some("too long"));
        drop(sender);
    }
}
