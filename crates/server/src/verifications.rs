//! Verification as readers see it: how far it is, what it found, and a full one on demand.
//!
//! The verifier itself is the ledger's; here is who runs it, what is published of
//! it, and the bound on those that are asked for: one at a time for a tenant,
//! [`ASKED_AT_ONCE_MAX`] in the process.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evidence::{Finding, Severity, Timestamp};
use ledger::{FINDINGS_KEPT, Tenant, Verifier};
use tokio::sync::{Semaphore, watch};

use crate::system::{Event, Word};
use crate::{ApiError, App, Verification, ids};

/// Verifications on demand that run at once: each takes half of every core while it runs.
const ASKED_AT_ONCE_MAX: usize = 2;

/// Ended ones kept for each tenant: whoever asked reads the outcome soon or asks again.
const KEPT_MAX: usize = 16;

/// What a verification on demand came to.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// It runs.
    Running,
    /// It ended.
    Ended {
        at: Timestamp,
        tree_size: u64,
        tree_root: String,
        level: &'static str,
        /// Errors among the findings of this tenant.
        errors: u64,
        findings: Vec<Finding>,
    },
    /// The question could not be answered.
    Failed { at: Timestamp, reason: String },
}

/// A verification on demand.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) id: Arc<str>,
    pub(crate) requested_at: Timestamp,
    outcome: watch::Receiver<Outcome>,
}

impl Asked {
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
    /// The verifier, opened at first use. Blocks.
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
        *verifier = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// Says in [`App::verification`] how far the verifier is, and records what it found for the first time.
    /// Blocks.
    pub(crate) fn publish_verification(&self, verifier: &Verifier, at: Timestamp) {
        let tenants = self.ledger.tenants();
        let known: Vec<Verification> = tenants
            .iter()
            .map(|tenant| {
                let progress = verifier.progress(&tenant.ledger().row.origin);
                Verification {
                    tenant_id: Arc::clone(&tenant.tenant_id),
                    verified_size: progress.verified_size,
                    verified_at: progress.verified_at,
                    last_full_scrub_at: progress.last_full_scrub_at,
                    findings: progress.findings,
                    damaged: (progress.findings > 0)
                        .then(|| format!("verification has {} findings", progress.findings)),
                    pending: progress.verified_at.is_none(),
                }
            })
            .collect();
        let before = {
            let mut published = self.verification.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *published, known.clone())
        };
        for (tenant, now) in tenants.iter().zip(&known) {
            let was = before.iter().find(|was| was.tenant_id == now.tenant_id);
            if now.findings > 0 && was.is_none_or(|was| was.findings == 0) {
                self.record_failure(verifier, tenant, now.findings, at);
            }
        }
    }

    /// What is wrong with a ledger goes into it, where its tenant reads it; if it takes no more records, into
    /// the log only.
    fn record_failure(&self, verifier: &Verifier, tenant: &Arc<Tenant>, count: u64, at: Timestamp) {
        let findings = verifier.findings(&tenant.ledger().row.origin);
        let first = findings.first().map(ToString::to_string).unwrap_or_default();
        let event = Event {
            name: "VERIFICATION_FAILED",
            severity: "CRITICAL",
            summary: format!("verification has {count} findings"),
            details: vec![
                ("findings", Word::Number(count)),
                ("first_finding", Word::Text(first)),
                ("origin", Word::Text(tenant.ledger().row.origin.clone())),
            ],
        };
        self.record(tenant, &event, at);
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
        let (sender, outcome) = watch::channel(Outcome::Running);
        let begun = Asked {
            id: ids::uuid_v7(at).into(),
            requested_at: at,
            outcome,
        };
        let (app, tenant) = (self.clone(), Arc::clone(tenant));
        std::thread::Builder::new()
            .name("verification".into())
            .spawn(move || {
                let mut ending = Ending(&app, &sender);
                let outcome = app.verify_now(&tenant, at);
                ending.say(outcome);
                drop(slot);
            })
            .map_err(|error| ApiError::internal(&error))?;
        while of_tenant.len() >= KEPT_MAX {
            of_tenant.pop_front();
        }
        of_tenant.push_back(begun.clone());
        Ok(begun)
    }

    fn verify_now(&self, tenant: &Tenant, at: Timestamp) -> Outcome {
        let report = self.verifier().and_then(|verifier| {
            let report = verifier.scrub_tenant(tenant, at)?;
            self.publish_verification(&verifier, (self.clock)());
            Ok(report)
        });
        match report {
            Ok(report) => {
                let origin = &tenant.ledger().row.origin;
                let ledger = report.ledgers.iter().find(|ledger| ledger.origin == *origin);
                let errors = report
                    .findings
                    .iter()
                    .filter(|finding| finding.severity == Severity::Error);
                Outcome::Ended {
                    at: (self.clock)(),
                    tree_size: ledger.map_or(0, |ledger| ledger.tree_size),
                    tree_root: ledger.map(|ledger| ledger.tree_root.clone()).unwrap_or_default(),
                    level: report.level.as_str(),
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
