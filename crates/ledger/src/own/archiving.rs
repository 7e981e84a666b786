//! Archiving as jobs: one of each tenant that has something due.

use std::sync::Arc;

use evidence::Timestamp;
use evidence::canonical::Value;

use super::{Clock, OwnEnd, OwnJob, OwnWork, Watch, untold};
use crate::retention::DueNow;
use crate::{Ledger, RetentionError, Tenant};

const ABOUT: (OwnWork, Option<&str>) = (OwnWork::Archiving, None);

impl Ledger {
    /// Archives and prunes what is due, of every tenant, each as a job; says how many bodies. Where nothing is due there
    /// is no job. Blocks.
    ///
    /// # Errors
    /// The first that came up; what was archived is pruned, and other tenants are not kept from it.
    pub fn archive(&self, clock: Clock) -> Result<u64, RetentionError> {
        let (mut pruned, mut failed) = (0, None);
        if let Err(error) = self.sweep_archives() {
            tracing::warn!(%error, "cannot look for archives that no record names");
        }
        for tenant in self.tenants() {
            if self.own_interrupted() {
                break;
            }
            if let Err(error) = self.archive_tenant(&tenant, clock, &mut pruned) {
                tracing::warn!(tenant_id = %tenant.tenant_id, %error, "retention of a tenant ended early");
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(pruned), Err)
    }

    fn archive_tenant(
        &self,
        tenant: &Arc<Tenant>,
        clock: Clock,
        pruned: &mut u64,
    ) -> Result<(), RetentionError> {
        let at = (clock.now)();
        let due = self.retention_due(tenant, at)?;
        if due == DueNow::default() {
            return Ok(());
        }
        // One that runs already, of an earlier start, does the same.
        match OwnJob::begin(self, tenant, ABOUT, None, &Arc::default(), clock) {
            Ok(job) => self.archive_as(job, tenant, due, at, pruned),
            Err(_) => Ok(()),
        }
    }

    fn archive_as(
        &self,
        job: OwnJob,
        tenant: &Arc<Tenant>,
        due: DueNow,
        at: Timestamp,
        pruned: &mut u64,
    ) -> Result<(), RetentionError> {
        let before = *pruned;
        let result = job.during(&mut untold, |watch| {
            self.retain_of(tenant, due, at, watch, pruned)
        });
        let how = match &result {
            _ if job.watch.is_stopped() => OwnEnd::Stopped,
            Ok(()) => OwnEnd::Done(Value::object([("bodies", Value::from(*pruned - before))])),
            Err(error) => OwnEnd::Failed(error.to_string()),
        };
        job.end_with_counts(how);
        result
    }

    /// Goes on: what was archived before is pruned, the rest is still due.
    pub(super) fn archiving_resume(&self, tenant: &Arc<Tenant>, job_id: &Arc<str>, clock: Clock) {
        let watch = Arc::<Watch>::default();
        // One that began meanwhile does the same; this one is looked at again at the next start.
        let Ok(Some(job)) = OwnJob::take_up(self, tenant, ABOUT, job_id, &watch, clock) else {
            return;
        };
        let at = (clock.now)();
        let archived = match self.retention_due(tenant, at) {
            Ok(due) => self.archive_as(job, tenant, due, at, &mut 0),
            Err(error) => {
                job.end(OwnEnd::Failed(error.to_string()));
                Err(error)
            }
        };
        if let Err(error) = archived {
            tracing::warn!(%error, "cannot archive what has been kept long enough");
        }
    }
}
