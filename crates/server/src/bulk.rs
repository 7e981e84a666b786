//! Work on whole batches, on threads that give way to everything else.
//!
//! A batch of spans keeps a processor busy for ten milliseconds. When as many come
//! as the machine can take, a read that needs half a millisecond would wait behind
//! them; so they are lowered by threads of low priority, one for each processor.
//!
//! Start at [`run`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{LazyLock, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::ApiError;

/// Jobs that wait. Each holds a body, and those have a budget of their own (`bodies_in_flight_bytes_max`), so
/// only very small ones come to so many.
const JOBS_MAX: usize = 1_024;

/// Steps down in priority (nice): a tenth of the share of others when both want the processor.
const NICE: i32 = 10;

type Job = Box<dyn FnOnce() + Send>;

static JOBS: LazyLock<SyncSender<Job>> = LazyLock::new(|| {
    let (jobs, waiting) = sync_channel(JOBS_MAX);
    // One pool a process: processors are what it stands for.
    let waiting: &'static Mutex<Receiver<Job>> = Box::leak(Box::new(Mutex::new(waiting)));
    for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
        let thread = std::thread::Builder::new().name("bulk".into());
        if let Err(error) = thread.spawn(move || work(waiting)) {
            tracing::error!(%error, "a thread for batches cannot be started");
        }
    }
    jobs
});

fn work(waiting: &Mutex<Receiver<Job>>) {
    // Of this thread alone. Where it is not allowed the thread is as urgent as others.
    let _ = rustix::process::setpriority_process(None, NICE);
    loop {
        let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        job();
    }
}

/// Runs `job` on such a thread.
///
/// # Errors
/// Its own; 503 when too many wait; a panic in it is an internal error.
pub(crate) async fn run<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let (done, answer) = oneshot::channel();
    let job = Box::new(move || {
        let result = catch_unwind(AssertUnwindSafe(job))
            .unwrap_or_else(|_| Err(ApiError::internal(&"the work on a batch panicked")));
        // Who has gone does not want the answer.
        drop(done.send(result));
    });
    match JOBS.try_send(job) {
        Ok(()) => answer
            .await
            .unwrap_or_else(|_| Err(ApiError::internal(&"the work on a batch was given up"))),
        Err(TrySendError::Full(_)) => Err(ApiError::unavailable(
            "busy",
            "too many batches wait; send it again",
        )),
        Err(TrySendError::Disconnected(_)) => Err(ApiError::internal(&"no thread works on batches")),
    }
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::ApiError;

    #[tokio::test]
    async fn a_job_that_panics_is_an_error_and_the_next_one_runs() {
        let panicked = run::<()>(|| panic!("on purpose")).await;
        assert!(panicked.is_err());
        for n in 0..100 {
            assert_eq!(run(move || Ok::<_, ApiError>(n)).await.ok(), Some(n));
        }
    }

    #[tokio::test]
    async fn batches_give_way() {
        let priority =
            run(|| rustix::process::getpriority_process(None).map_err(|error| ApiError::internal(&error)));
        assert!(priority.await.is_ok_and(|priority| priority >= super::NICE));
    }
}
