//! What becomes of the server itself, put on record: start, migration, health, stop.
//!
//! These records stand in the instance's ledger, which every tenant may read:
//! none of them names a tenant or a path.
//!
//! Source: SPEC 5.3.

use std::time::Duration;

use evidence::Timestamp;
use tokio::time::sleep;

use crate::App;
use crate::api::health::unhealthy;
use crate::system::{Event, Word};
use crate::tasks::Stop;

/// How often health is looked at. Idle, it is a look at a few flags.
const HEALTH_EVERY: Duration = Duration::from_secs(1);

/// Records the start, then every change of health, until it is time to stop.
pub(crate) async fn lifecycle(app: App, mut stop: Stop) {
    let at = (app.clock)();
    on_record(&app, move |app| started(app, at)).await;
    let mut healthy = true;
    loop {
        let wrong = unhealthy(&app).len();
        if healthy != (wrong == 0) {
            healthy = wrong == 0;
            let at = (app.clock)();
            on_record(&app, move |app| app.record_instance(&health(wrong), at)).await;
        }
        tokio::select! {
            () = sleep(HEALTH_EVERY) => {}
            () = stop.wait() => return,
        }
    }
}

/// Records the stop. The ledger still takes records.
pub(crate) async fn stopping(app: &App) {
    let at = (app.clock)();
    let event = Event {
        name: "SHUTDOWN",
        severity: "INFO",
        summary: "the server stops as asked".into(),
        details: vec![("version", version())],
    };
    on_record(app, move |app| app.record_instance(&event, at)).await;
}

async fn on_record(app: &App, work: impl FnOnce(&App) + Send + 'static) {
    let own = app.clone();
    let written = app.blocking(move |_| {
        work(&own);
        Ok(())
    });
    if let Err(error) = written.await {
        tracing::warn!(error = error.message, "a system record could not be written");
    }
}

fn started(app: &App, at: Timestamp) {
    if let Some((from, to)) = app.ledger.migrated() {
        let number = |version: usize| Word::Number(u64::try_from(version).unwrap_or(u64::MAX));
        let event = Event {
            name: "MIGRATION",
            severity: "INFO",
            summary: format!("the database's schema went from version {from} to {to}"),
            details: vec![("from_version", number(from)), ("to_version", number(to))],
        };
        app.record_instance(&event, at);
    }
    let event = Event {
        name: "STARTUP",
        severity: "INFO",
        summary: format!("deponent {} started", env!("CARGO_PKG_VERSION")),
        details: vec![
            ("settings", Word::Map((*app.settings).clone())),
            ("version", version()),
        ],
    };
    app.record_instance(&event, at);
}

/// How many things are wrong. What they are names ledgers, so it stands in the log and in `/readyz`, not here.
fn health(wrong: usize) -> Event {
    let (severity, status, summary) = if wrong == 0 {
        (
            "INFO",
            "healthy",
            "writing and ledgers are in order again".to_owned(),
        )
    } else {
        (
            "ERROR",
            "unhealthy",
            format!("{wrong} things are wrong with writing or ledgers"),
        )
    };
    Event {
        name: "HEALTH_CHANGE",
        severity,
        summary,
        details: vec![
            ("reasons", Word::Number(u64::try_from(wrong).unwrap_or(u64::MAX))),
            ("status", Word::Text(status.into())),
        ],
    }
}

fn version() -> Word {
    Word::Text(env!("CARGO_PKG_VERSION").into())
}
