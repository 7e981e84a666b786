//! How something is done with a job: one after the other, and each to its end.

use axum::response::Response;
use evidence::Timestamp;
use ledger::own::OWN_PREFIX;
use ledger::{JobAct, JobDone, JobError, JobGuard, JobNext, Ledger, Moment};

use super::view::JobView;
use crate::api::answer::created;
use crate::extract::Holds;
use crate::tasks::to_its_end;
use crate::{ApiError, App, Caller, ids};

/// When a request does something with a job, and by what chance.
pub(crate) fn moment(at: Timestamp) -> Moment {
    Moment {
        at,
        draw: ids::draw(),
        new_id: ids::uuid_v7,
    }
}

/// Whose job something is to be done with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// A caller's; one of Deponent's own is refused.
    Callers,
    /// One of Deponent's own.
    Deponents,
}

/// Does something with a job, to its end: a caller that goes away does not let the next one in before the commit is
/// answered. Nobody waits for a job on a thread that blocks.
pub(super) async fn done(
    app: &App,
    caller: &Caller,
    job_id: String,
    at: Timestamp,
    act: JobAct,
    held: Option<Holds>,
    whose: Whose,
) -> Result<JobDone, ApiError> {
    let (app, tenant) = (app.clone(), caller.tenant.clone());
    let (hold, parsing) = held.map_or((None, None), |(hold, parsing)| (Some(hold), parsing));
    let ready = {
        let rules = tenant.rules();
        move || Ok(act.ready(&rules)?)
    };
    // What is left is small; others may parse large bodies while this one waits for its job.
    let act = match parsing {
        None => ready()?,
        Some(parsing) => {
            let act = app.blocking(move |_| ready()).await?;
            drop(parsing);
            act
        }
    };
    to_its_end(async move {
        let mut guard = app.ledger.job_lock(&tenant, &job_id).await?;
        guard = app
            .blocking(move |_| {
                guard.load()?;
                Ok(guard)
            })
            .await?;
        let is_own = |handler: &str| handler.starts_with(OWN_PREFIX);
        if whose == Whose::Callers && guard.handler().is_some_and(is_own) {
            let message = "the job is Deponent's own; what it is about ends it";
            return Err(ApiError::conflict("job_own", message));
        }
        let permit = if act.judges() && guard.is_large() {
            let permit = app.large_audits.clone().acquire_owned().await;
            Some(permit.map_err(|error| ApiError::internal(&error))?)
        } else {
            None
        };
        let (mut guard, next) = app
            .blocking(move |_| {
                let next = guard.decide(&act, &moment(at))?;
                Ok((guard, next))
            })
            .await?;
        drop((permit, hold));
        match next {
            JobNext::Write(turn) => Ok(guard.commit(*turn).await?),
            JobNext::Done(done) => Ok(*done),
        }
    })
    .await
}

/// The same, answered with the job.
pub(super) async fn act(
    app: &App,
    caller: &Caller,
    job_id: String,
    at: Timestamp,
    act: JobAct,
    held: Option<Holds>,
) -> Result<Response, ApiError> {
    let done = done(app, caller, job_id, at, act, held, Whose::Callers).await?;
    let judged = done.job.contract_id.is_some() && done.job.ended_at.is_some();
    let verdict = if judged && !done.placed.fresh {
        // It was there and has ended: it has the verdict that reading it tells.
        let (tenant, job_id) = (caller.tenant.clone(), done.job.job_id.clone());
        let glance = app
            .blocking(move |ledger| Ok(ledger.job_glance(&tenant, &job_id, None)?))
            .await?;
        glance.and_then(|glance| glance.verdict)
    } else {
        None
    };
    let mut view = JobView::done(&caller.tenant, &done)?;
    view.verdict = view.verdict.or(verdict);
    created(&done.placed, &view)
}

/// Looks at a job while nobody does anything with it.
pub(crate) async fn with_job<T: Send + 'static>(
    app: &App,
    caller: &Caller,
    job_id: String,
    look: impl FnOnce(&mut JobGuard, &Ledger) -> Result<T, JobError> + Send + 'static,
) -> Result<T, ApiError> {
    let (app, tenant) = (app.clone(), caller.tenant.clone());
    to_its_end(async move {
        let mut guard = app.ledger.job_lock(&tenant, &job_id).await?;
        app.blocking(move |ledger| {
            guard.load()?;
            Ok(look(&mut guard, ledger)?)
        })
        .await
    })
    .await
}
