//! Tasks: the only place where they are spawned, so that drain can wait for them.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use crate::App;

/// How often runs that are due are looked for: SPEC's `runs.seal_after` is kept to the second. Idle, it is
/// one look into two indexes.
const SETTLE_EVERY: Duration = Duration::from_secs(1);

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

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a task panicked");
    }
}

/// Settles runs whose root span ended and aborts those that fell silent.
pub(crate) async fn settle(app: App, mut stop: Stop) {
    let mut ticks = interval(SETTLE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.wait() => return,
        }
        if app.ledger.stopped().is_some() {
            continue;
        }
        let at = (app.clock)();
        let settled = app.blocking(move |service| Ok(service.settle_due(at)?)).await;
        match settled {
            Ok(0) => {}
            Ok(runs) => tracing::debug!(runs, "settled"),
            Err(error) => tracing::warn!(error = error.message, "cannot settle the runs that are due"),
        }
    }
}
