//! Tasks: the only place where they are spawned, so that drain can wait for them.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use evidence::Timestamp;
use ledger::Verifier;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::entry::{caught, panic_text};
use crate::oidc::Oidc;
use crate::{ApiError, App, bulk};

/// How often runs that are due are looked for: SPEC's `runs.seal_after` is kept to the second. Idle, it is
/// one look into two indexes.
const SETTLE_EVERY: Duration = Duration::from_secs(1);

/// While runs wait to be settled, it rests twice as long as it works.
const SETTLE_REST: u32 = 2;

/// How often new leaves are verified; SPEC 2.7 asks for a minute. Idle, it is one look at each head.
const VERIFY_EVERY: Duration = Duration::from_secs(20);

/// While leaves wait to be verified, it rests twice as long as it works, until the next pass is due: what ingest brings in
/// twenty seconds would keep a processor busy for four of them, and all else waiting.
const VERIFY_REST: u32 = 2;

/// How often what has been kept long enough is looked for. A pass that finds nothing is a few reads a tenant.
const RETAIN_EVERY: Duration = Duration::from_hours(1);

/// How soon a tenant that was made meanwhile is verified for the first time; until then nothing is ready.
const NEW_TENANT_EVERY: Duration = Duration::from_millis(500);

/// How often what was noted about callers is written: a crash takes at most a second's worth (SPEC 5.4), half of
/// it for the commit.
const RECORD_EVERY: Duration = Duration::from_millis(500);

/// Says when to stop. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// A pair: send `true` to stop.
    pub(crate) fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Waits until it is time to stop.
    pub(crate) async fn wait(&mut self) {
        // A sender that is gone means the same.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// Tasks that end together.
#[derive(Debug, Default)]
pub(crate) struct Tasks(JoinSet<()>);

impl Tasks {
    /// Spawns a task.
    pub(crate) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(task);
        // Those that have ended would pile up otherwise.
        while let Some(ended) = self.0.try_join_next() {
            report(ended);
        }
    }

    /// Waits for all of them until `deadline`, then aborts the rest; says how many those were.
    pub(crate) async fn finish(mut self, deadline: Instant) -> usize {
        while let Ok(Some(ended)) = timeout_at(deadline, self.0.join_next()).await {
            report(ended);
        }
        let left = self.0.len();
        self.0.shutdown().await;
        left
    }
}

/// Does something on a task of its own: what it blocks is not whoever waits for it.
#[allow(clippy::disallowed_methods)] // this is where tasks are spawned
pub(crate) async fn apart<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Ended<T> {
    match tokio::spawn(caught(work)).await {
        Ok(ended) => ended,
        Err(error) => Err(Box::new(error.to_string())),
    }
}

/// Does something to its end, even when who asked for it has gone meanwhile. The way down does not wait for it, unless
/// it blocks a thread just then: the ledger finishes what it was given, and nobody is left to be answered.
///
/// It becomes a task of its own only when who asked has gone: handing it over and back costs two waits for a processor.
pub(crate) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    let mut kept = Kept(Some(Box::pin(caught(work))));
    let ended = poll_fn(|context| kept.poll(context)).await;
    ended.unwrap_or_else(|panic| Err(ApiError::internal(&panic_text(&*panic))))
}

/// What becomes of work, or of its panic.
type Ended<T> = Result<T, Box<dyn Any + Send>>;

/// Work that goes on when it is dropped; `None`: it has ended.
struct Kept<T: Send + 'static>(Option<Pin<Box<dyn Future<Output = Ended<Result<T, ApiError>>> + Send>>>);

impl<T: Send + 'static> Kept<T> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Ended<Result<T, ApiError>>> {
        // Nobody polls what has ended.
        let Some(work) = &mut self.0 else {
            return Poll::Pending;
        };
        let polled = work.as_mut().poll(context);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Kept<T> {
    fn drop(&mut self) {
        // Without a runtime the process ends.
        if let (Some(work), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

/// Does something that nobody waits for. It ends by itself soon; the way down does not wait for it.
#[allow(clippy::disallowed_methods)] // this is where tasks are spawned
pub(crate) fn aside(work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(work);
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a task panicked");
    }
}

/// Settles runs whose root span ended, aborts those that fell silent, and seals those that have ended.
pub(crate) async fn settle(app: App, mut stop: Stop) {
    loop {
        let started = Instant::now();
        let mut pause = SETTLE_EVERY;
        if app.ledger.stopped().is_none() {
            let at = (app.clock)();
            let both = move |ledger: &ledger::Ledger| {
                let settled = ledger.settle_due(at).unwrap_or_else(|error| {
                    tracing::warn!(%error, "cannot find the runs that are due");
                    0
                });
                Ok(settled + ledger.seal_due(at))
            };
            match app.beside(both).await {
                // More wait: go on after a rest, so that a backlog takes a third of a core and not the ingest's.
                Ok(more) if more > 0 => pause = (started.elapsed() * SETTLE_REST).min(SETTLE_EVERY),
                Ok(_) => {}
                Err(error) => tracing::warn!(error = error.message, "cannot settle the runs that are due"),
            }
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.wait() => return,
        }
    }
}

/// Takes up what was interrupted, on a thread of its own: the way down tells it to stop, and does not wait for it.
pub(crate) fn resume(app: App) {
    let thread = std::thread::Builder::new().name("resume".into());
    if let Err(error) = thread.spawn(move || app.own_resume()) {
        tracing::error!(%error, "work that was interrupted cannot be taken up");
    }
}

/// Archives and prunes what has been kept long enough: first a while after the start, which has enough to do.
pub(crate) async fn retain(app: App, mut stop: Stop) {
    let mut pause = RETAIN_EVERY / 60;
    loop {
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.wait() => return,
        }
        pause = RETAIN_EVERY;
        if app.ledger.stopped().is_none() {
            let clock = app.own_clock();
            match app.beside(move |ledger| Ok(ledger.archive(clock))).await {
                Ok(Ok(0)) => {}
                Ok(Ok(pruned)) => tracing::info!(pruned, "bodies were archived and pruned"),
                Ok(Err(error)) => tracing::warn!(%error, "cannot archive what has been kept long enough"),
                Err(error) => tracing::warn!(
                    error = error.message,
                    "cannot archive what has been kept long enough"
                ),
            }
        }
    }
}

/// Writes what was noted about callers. The last of it is written by [`crate::serve`], when nobody calls any more.
pub(crate) async fn record(app: App, mut stop: Stop) {
    loop {
        tokio::select! {
            () = sleep(RECORD_EVERY) => {}
            () = stop.wait() => return,
        }
        if app.ledger.stopped().is_none()
            && let Err(error) = app.flush_access().await
        {
            tracing::warn!(
                error = error.message,
                "what was noted about callers cannot be written now"
            );
        }
    }
}

/// How often idempotency keys whose time is over are taken away when nobody asks for any: what they hold stays on
/// disk that much longer.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// Takes away idempotency keys whose time is over.
pub(crate) async fn sweep(app: App, mut stop: Stop) {
    loop {
        tokio::select! {
            () = sleep(SWEEP_EVERY) => {}
            () = stop.wait() => return,
        }
        app.once.sweep((app.clock)());
    }
}

/// How often the issuer's keys are fetched again: a key that the issuer takes back is good for that much longer.
const ISSUER_KEYS_EVERY: Duration = Duration::from_mins(5);

/// Keeps the issuer's keys fresh, so that requests need not wait for them.
pub(crate) async fn issuer_keys(app: App, oidc: Arc<Oidc>, mut stop: Stop) {
    loop {
        tokio::select! {
            () = oidc.refresh((app.clock)()) => {}
            () = stop.wait() => return,
        }
        tokio::select! {
            () = sleep(ISSUER_KEYS_EVERY) => {}
            () = stop.wait() => return,
        }
    }
}

/// Verifies what is new and, once a day, everything; says in [`App::verification`] how far it is.
pub(crate) async fn verify(app: App, mut stop: Stop) {
    let opener = app.clone();
    let verifier = match app.beside(move |_| opener.verifier()).await {
        Ok(verifier) => verifier,
        Err(error) => {
            tracing::error!(
                error = error.message,
                "verification in the background cannot begin"
            );
            return;
        }
    };
    // What an earlier process verified stands: nobody waits for a first pass again.
    let (known, publisher, at) = (Arc::clone(&verifier), app.clone(), (app.clock)());
    let published = app
        .beside(move |_| {
            publisher.publish_verification(&known, at);
            Ok(())
        })
        .await;
    if let Err(error) = published {
        tracing::warn!(
            error = error.message,
            "what was verified before cannot be said yet"
        );
    }
    let mut is_first = true;
    loop {
        let (at, next) = ((app.clock)(), Instant::now() + VERIFY_EVERY);
        if is_first {
            // Somebody waits for it: nothing is ready before.
            let pass = Arc::clone(&verifier);
            let passed = app.beside(move |_| {
                pass.incremental(at);
                Ok(())
            });
            told(passed.await);
        } else {
            pass_by_steps(&app, &verifier, at, next, &mut stop).await;
        }
        is_first = false;
        let (pass, publisher) = (Arc::clone(&verifier), app.clone());
        let passed = app
            .beside(move |_| {
                publisher.publish_verification(&pass, at);
                Ok(pass.scrub_due(at))
            })
            .await;
        if matches!(passed, Ok(true)) {
            // Rests nine times as long as it works, on a thread of its own; another does not begin meanwhile.
            let (scrub, publisher) = (Arc::clone(&verifier), app.clone());
            let spawned = std::thread::Builder::new().name("scrub".into()).spawn(move || {
                scrub.scrub(at);
                publisher.publish_verification(&scrub, (publisher.clock)());
            });
            if let Err(error) = spawned {
                tracing::error!(%error, "the full verification cannot begin");
            }
        }
        loop {
            tokio::select! {
                () = sleep(NEW_TENANT_EVERY) => {}
                () = stop.wait() => return,
            }
            if Instant::now() >= next || app.has_unknown_tenant() {
                break;
            }
        }
    }
}

/// One pass over what is new, a step at a time on the threads that give way to everything else, without rest once the next
/// is `due`. What has never been looked at comes first, and is not rested for: nothing is ready before. Behind it the pass
/// ends early while somebody is still to be told of such a tenant, or one was made meanwhile, which the next begins with.
async fn pass_by_steps(app: &App, verifier: &Arc<Verifier>, at: Timestamp, due: Instant, stop: &mut Stop) {
    let pass = Arc::clone(verifier);
    let Some(behind) = told(app.beside(move |_| Ok(pass.behind(at))).await) else {
        return;
    };
    for behind in behind {
        let is_new = behind.is_new();
        loop {
            let (pass, behind) = (Arc::clone(verifier), behind.clone());
            // Without what it waits for a thread: that is no work.
            let step = move || {
                let begun = Instant::now();
                Ok(pass.step(&behind, at).then(|| begun.elapsed()))
            };
            // Too many batches wait: what is left is left to the next pass.
            let Some(Some(worked)) = told(bulk::run(step).await) else {
                break;
            };
            if !is_new && app.has_unknown_tenant() {
                return;
            }
            let rested = if is_new {
                Instant::now()
            } else {
                due.min(Instant::now() + worked * VERIFY_REST)
            };
            tokio::select! {
                () = sleep_until(rested) => {}
                () = stop.wait() => return,
            }
        }
    }
}

fn told<T>(done: Result<T, ApiError>) -> Option<T> {
    done.inspect_err(|error| tracing::warn!(error = error.message, "verification of what is new is put off"))
        .ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::StatusCode;
    use evidence::Kind;
    use evidence::record::{Facts, SystemRecord};
    use ledger::{Draft, Ledger, Options};
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_goes_on_to_its_end() {
        let (go, gone) = oneshot::channel::<()>();
        let (said, hears) = oneshot::channel();
        let mut work = Box::pin(to_its_end(async move {
            let _ = gone.await;
            let _ = said.send(7);
            Ok(())
        }));
        // Begun, and waiting.
        assert!(
            tokio::time::timeout(Duration::from_millis(1), &mut work)
                .await
                .is_err()
        );
        drop(work);
        go.send(()).unwrap();
        assert_eq!(hears.await, Ok(7));
    }

    #[tokio::test]
    async fn what_panics_is_an_internal_error_and_does_not_go_on() {
        let ended = to_its_end(async {
            tokio::task::yield_now().await;
            panic!("{}", "on purpose");
            #[allow(unreachable_code)]
            Ok(())
        });
        let error = ended.await.unwrap_err();
        assert_eq!(error.status, StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn a_tenant_that_was_made_meanwhile_is_verified_in_one_pass_however_many_leaves_it_has() {
        fn clock() -> Timestamp {
            Timestamp::parse("2026-11-21T10:00:00Z").unwrap()
        }
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(Options::new(folder.path()), clock()).unwrap();
        let app = App::new(ledger, clock);
        let verifier = app.verifier().unwrap();
        verifier.incremental(clock());
        app.publish_verification(&verifier, clock());
        let tenant = app.ledger.tenant_create("new", clock()).unwrap();
        let record = SystemRecord {
            component: "host".into(),
            event_type: "LOG".into(),
            severity: "INFO".into(),
            summary: "one".into(),
            ..SystemRecord::default()
        };
        let mut salts = tenant.salts();
        let mut draft = || {
            let facts = Facts::System(record.facts());
            Draft::alone(Kind::SystemRecord, facts, &record.encode(), clock(), &mut salts).unwrap()
        };
        // As many leaves as a step has, and more blocks than it reads at once: two steps.
        for count in [1_050; 4].into_iter().chain([1; 60]) {
            let drafts: Vec<Draft> = (0..count).map(|_| draft()).collect();
            app.ledger
                .submit_blocking(&tenant, drafts, clock(), false)
                .unwrap();
        }
        assert!(app.has_unknown_tenant());
        let (_sender, mut stop) = Stop::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(pass_by_steps(&app, &verifier, clock(), Instant::now(), &mut stop));
        let progress = verifier.progress(&tenant.ledger().row.origin);
        assert_eq!(
            (progress.verified_size, progress.verified_at),
            (4_260, Some(clock()))
        );
    }
}
