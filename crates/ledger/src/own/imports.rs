//! Imports of files as jobs.
//!
//! A file is read from its beginning by every attempt: what is on record already is passed over, so nothing is written
//! twice. Where the file lies is kept in `state.db` while the job has not ended; without that it is imported by hand.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use evidence::canonical::Value;
use store::StoreError;
use store::sqlite::StateDb;

use super::{Clock, OwnBusy, OwnEnd, OwnJob, OwnWork, Tell, Watch, untold};
use crate::lineage::{LineageImportError, LineageImported};
use crate::provenance::file::{ImportError, Imported};
use crate::{Ledger, Tenant};

/// How often an import that waits for another of its kind looks again.
const WAIT: Duration = Duration::from_secs(1);

/// What came of an import, and its job.
#[derive(Debug)]
pub struct ImportedAsJob<T, E> {
    /// Its job.
    pub job_id: Arc<str>,
    /// What came of it.
    pub result: Result<T, E>,
}

type AsJob<T, E> = Result<ImportedAsJob<T, E>, OwnBusy>;

impl Ledger {
    /// Makes records of a file of provenance logs, as a job. Blocks.
    ///
    /// # Errors
    /// [`OwnBusy`].
    pub fn provenance_import_job(
        &self,
        tenant: &Arc<Tenant>,
        path: &Path,
        clock: Clock,
        tell: Tell<'_>,
    ) -> AsJob<Imported, ImportError> {
        let job = self.import_begin(tenant, OwnWork::ProvenanceImport, path, clock)?;
        Ok(self.provenance_import_as(job, tenant, path, tell))
    }

    /// Makes a run of an audit log, as a job. Blocks.
    ///
    /// # Errors
    /// [`OwnBusy`].
    pub fn lineage_import_job(
        &self,
        tenant: &Arc<Tenant>,
        path: &Path,
        clock: Clock,
        tell: Tell<'_>,
    ) -> AsJob<LineageImported, LineageImportError> {
        let job = self.import_begin(tenant, OwnWork::LineageImport, path, clock)?;
        Ok(self.lineage_import_as(job, tenant, path, tell))
    }

    fn provenance_import_as(
        &self,
        job: OwnJob,
        tenant: &Arc<Tenant>,
        path: &Path,
        tell: Tell<'_>,
    ) -> ImportedAsJob<Imported, ImportError> {
        let at = (job.clock.now)();
        self.import_as(
            job,
            tell,
            |watch| self.provenance_import_watched(tenant, path, at, watch),
            |imported| {
                let counts = Value::object([
                    ("disagreeing", Value::from(imported.disagreeing)),
                    ("logs", Value::from(imported.logs)),
                    ("malformed", Value::from(imported.malformed)),
                    ("on_record", Value::from(imported.on_record)),
                    ("redacted", Value::from(imported.redacted)),
                    ("refused", Value::from(imported.refused)),
                    ("without_run", Value::from(imported.without_run)),
                ]);
                imported.complete.then_some(counts)
            },
        )
    }

    fn lineage_import_as(
        &self,
        job: OwnJob,
        tenant: &Arc<Tenant>,
        path: &Path,
        tell: Tell<'_>,
    ) -> ImportedAsJob<LineageImported, LineageImportError> {
        let at = (job.clock.now)();
        self.import_as(
            job,
            tell,
            |watch| self.lineage_import_watched(tenant, path, at, watch),
            |imported| {
                let counts = Value::object([
                    ("known", Value::from(imported.known)),
                    ("malformed", Value::from(imported.malformed)),
                    ("other", Value::from(imported.other)),
                    ("run_id", Value::from(imported.run_id.as_str())),
                    ("written", Value::from(imported.written)),
                ]);
                imported.complete.then_some(counts)
            },
        )
    }

    /// Does an import, and ends its job; `counts` gives none of one that was told to stop.
    fn import_as<T, E: std::fmt::Display>(
        &self,
        job: OwnJob,
        tell: Tell<'_>,
        import: impl FnOnce(&Watch) -> Result<T, E>,
        counts: impl FnOnce(&T) -> Option<Value>,
    ) -> ImportedAsJob<T, E> {
        let job_id = Arc::clone(job.job_id());
        let result = job.during(tell, import);
        let interrupted = job.watch.is_stopped() && job.watch.reason.get().is_none();
        let how = match &result {
            Ok(imported) => counts(imported).map_or(OwnEnd::Stopped, OwnEnd::Done),
            // What a process that ends does not write any more is no failure.
            Err(_) if interrupted => OwnEnd::Stopped,
            Err(error) => OwnEnd::Failed(error.to_string()),
        };
        let goes_on = interrupted && matches!(how, OwnEnd::Stopped);
        job.end_with_counts(how);
        if !goes_on {
            self.import_forget(&job_id);
        }
        ImportedAsJob { job_id, result }
    }

    /// A job for the file: the one that was interrupted at it, else a new one.
    fn import_begin(
        &self,
        tenant: &Arc<Tenant>,
        work: OwnWork,
        path: &Path,
        clock: Clock,
    ) -> Result<OwnJob, OwnBusy> {
        let name = name_of(path);
        let about = (work, name.as_deref());
        let watch = Arc::<Watch>::default();
        for job_id in self.own_without_end(tenant, work) {
            if self.import_path(&job_id).as_deref() != Some(path) {
                continue;
            }
            if let Some(job) = OwnJob::take_up(self, tenant, about, &job_id, &watch, clock)? {
                return Ok(job);
            }
        }
        let job = OwnJob::begin(self, tenant, about, None, &watch, clock)?;
        // Crash before this: nobody knows which file it was; the job is given up at the next start.
        self.import_remember(job.job_id(), path);
        Ok(job)
    }

    /// Takes up an import that was interrupted, after those of its kind that run.
    pub(super) fn import_resume(&self, tenant: &Arc<Tenant>, work: OwnWork, job_id: &Arc<str>, clock: Clock) {
        let path = self.import_path(job_id).filter(|path| path.is_file());
        let name = path.as_deref().and_then(name_of);
        let watch = Arc::<Watch>::default();
        let job = loop {
            match OwnJob::take_up(self, tenant, (work, name.as_deref()), job_id, &watch, clock) {
                Ok(job) => break job,
                // Somebody began it again meanwhile.
                Err(busy) if busy.job_id == *job_id => return,
                Err(_) if self.own_interrupted() => return,
                Err(_) => std::thread::sleep(WAIT),
            }
        };
        match (job, path, work) {
            (Some(job), None, _) => {
                job.give_up("it was interrupted, and its file is not there any more: import it again");
                self.import_forget(job_id);
            }
            (Some(job), Some(path), OwnWork::LineageImport) => {
                self.lineage_import_as(job, tenant, &path, &mut untold);
            }
            (Some(job), Some(path), _) => {
                self.provenance_import_as(job, tenant, &path, &mut untold);
            }
            (None, ..) => self.import_forget(job_id),
        }
    }

    fn state(&self) -> Result<StateDb, StoreError> {
        StateDb::open(&self.options().data_dir.join("state.db"))
    }

    fn import_path(&self, job_id: &str) -> Option<PathBuf> {
        let path = self.state().and_then(|state| state.import_path(job_id));
        path.unwrap_or_else(|error| {
            tracing::warn!(%error, "which file an import was of cannot be read");
            None
        })
    }

    fn import_remember(&self, job_id: &str, path: &Path) {
        if let Err(error) = self.state().and_then(|state| state.import_keep(job_id, path)) {
            tracing::warn!(%error, "which file an import is of cannot be kept: it is not taken up after a crash");
        }
    }

    fn import_forget(&self, job_id: &str) {
        if let Err(error) = self.state().and_then(|state| state.import_forget(job_id)) {
            tracing::warn!(%error, "which file an import was of cannot be forgotten");
        }
    }
}

/// The name of a file, for people: where it lies is nobody's business but the operator's.
fn name_of(path: &Path) -> Option<String> {
    path.file_name().map(|name| name.to_string_lossy().into_owned())
}
