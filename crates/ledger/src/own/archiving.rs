//! Archiving as jobs: one of each tenant that has something due.

use std::sync::Arc;

use evidence::Timestamp;
use evidence::canonical::Value;

use super::{Clock, OwnEnd, OwnJob, OwnWork, Watch, untold};
use crate::{Ledger, RetentionError, Tenant};

const ABOUT: (OwnWork, Option<&str>) = (OwnWork::Archiving, None);

impl Ledger {
    /// Archives and prunes what is due, of every tenant, each as a job; says how many bodies. Where nothing is due there
    /// is no job. Blocks.
    ///
    /// # Errors
    /// The last that ended a tenant's; the others' is done all the same.
    pub fn archive(&self, clock: Clock) -> Result<u64, RetentionError> {
        let (mut pruned, mut failed) = (0, None);
        for tenant in self.tenants() {
            if self.own_interrupted() {
                break;
            }
            match self.archive_tenant(&tenant, clock) {
                Ok(count) => pruned += count,
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(pruned), Err)
    }

    fn archive_tenant(&self, tenant: &Arc<Tenant>, clock: Clock) -> Result<u64, RetentionError> {
        let at = (clock.now)();
        if self.retention_due(tenant, at)? == [0; 3] {
            return Ok(0);
        }
        // One that runs already, of an earlier start, does the same.
        match OwnJob::begin(self, tenant, ABOUT, None, &Arc::default(), clock) {
            Ok(job) => self.archive_as(job, tenant, at),
            Err(_) => Ok(0),
        }
    }

    fn archive_as(&self, job: OwnJob, tenant: &Arc<Tenant>, at: Timestamp) -> Result<u64, RetentionError> {
        let result = job.during(&mut untold, |watch| self.retain_tenant(tenant, at, watch));
        let how = match &result {
            _ if job.watch.is_stopped() => OwnEnd::Stopped,
            Ok(pruned) => OwnEnd::Done(Value::object([("bodies", Value::from(*pruned))])),
            Err(error) => OwnEnd::Failed(error.to_string()),
        };
        job.end_with_counts(how);
        result
    }

    /// Goes on: what was archived before is pruned, the rest is still due.
    pub(super) fn archiving_resume(&self, tenant: &Arc<Tenant>, job_id: &Arc<str>, clock: Clock) {
        let watch = Arc::<Watch>::default();
        // One that began meanwhile does the same; this one is looked at again at the next start.
        if let Ok(Some(job)) = OwnJob::take_up(self, tenant, ABOUT, job_id, &watch, clock)
            && let Err(error) = self.archive_as(job, tenant, (clock.now)())
        {
            tracing::warn!(%error, "cannot archive what has been kept long enough");
        }
    }
}
