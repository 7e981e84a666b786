//! What becomes of the server itself, put on record: start, migration, health, stop.
//!
//! These records stand in the instance's ledger, which every tenant may read:
//! none of them names a tenant or a path.
//!
//! Source: SPEC 5.3.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use evidence::Timestamp;
use evidence::redact::Redactor;
use ledger::INSTANCE;
use serde::Deserialize;
use tokio::time::sleep;

use crate::api::health::{Wrong, unhealthy};
use crate::system::{Event, Word};
use crate::tasks::Stop;
use crate::{ApiError, App};

/// How often health is looked at. Idle, it is a look at a few flags.
const HEALTH_EVERY: Duration = Duration::from_secs(1);

/// Records the start, then every change of health, until it is time to stop.
pub(crate) async fn lifecycle(app: App, mut stop: Stop) {
    let at = (app.clock)();
    on_record(&app, move |app| started(app, at)).await;
    let mut known = HashSet::new();
    loop {
        let wrong: HashSet<Wrong> = unhealthy(&app).into_iter().collect();
        for new in wrong.difference(&known) {
            tracing::error!(class = new.class, "{}", new.detail);
        }
        if known.is_empty() != wrong.is_empty() {
            let (count, at) = (wrong.len(), (app.clock)());
            on_record(&app, move |app| app.record_instance(&health(count), at)).await;
        }
        known = wrong;
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
    let written = app.beside(move |_| {
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
    let settings = as_recorded(&app.settings);
    match last_settings(app) {
        Ok(Some(before)) => {
            if let Some(event) = changed(&before, &settings) {
                app.record_instance(&event, at);
            }
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(
            error = error.message,
            "the settings of the last start cannot be read, so what changed of them is not on record"
        ),
    }
    let event = Event {
        name: "STARTUP",
        severity: "INFO",
        summary: format!("deponent {} started", env!("CARGO_PKG_VERSION")),
        details: vec![("settings", Word::Map(settings)), ("version", version())],
    };
    app.record_instance(&event, at);
}

/// The settings as they stand on record. Of a name or text that redaction would change (a group that is an address) there
/// is a hash alone: what it was shows by it at the next start, and a marker would look like a change each time.
fn as_recorded(settings: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let rules = Redactor::standard();
    let shown = |text: &str, stays: bool| {
        if stays && rules.text(text).is_none() {
            return text.to_owned();
        }
        format!(
            "sha256:{}",
            evidence::hex_string(&evidence::sha256(text.as_bytes()))
        )
    };
    settings
        .iter()
        .map(|(name, text)| (shown(name, !rules.is_secret_name(name)), shown(text, true)))
        .collect()
}

/// The settings of the last start on record, if there was one.
fn last_settings(app: &App) -> Result<Option<BTreeMap<String, String>>, ApiError> {
    #[derive(Deserialize)]
    struct Body {
        details: Details,
    }
    #[derive(Deserialize)]
    struct Details {
        settings: BTreeMap<String, String>,
    }
    let Some(instance) = app.ledger.tenant(INSTANCE) else {
        return Ok(None);
    };
    let started = app.newest_own(&instance, "STARTUP")?;
    let body = started.and_then(|record| record.body.into_bytes());
    let body = body.and_then(|body| serde_json::from_slice::<Body>(&body).ok());
    Ok(body.map(|body| body.details.settings))
}

/// What was set otherwise at the last start: each as it was, and as it is.
fn changed(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Option<Event> {
    let of =
        |settings: &BTreeMap<String, String>, other: &BTreeMap<String, String>| -> BTreeMap<String, String> {
            settings
                .iter()
                .filter(|(name, value)| other.get(*name) != Some(value))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect()
        };
    let (was, is) = (of(before, after), of(after, before));
    let names: BTreeSet<&str> = was.keys().chain(is.keys()).map(String::as_str).collect();
    (!names.is_empty()).then(|| Event {
        name: "CONFIG_CHANGE",
        severity: "WARN",
        summary: format!("{} settings differ from those of the last start", names.len()),
        details: vec![
            ("after", Word::Map(is.clone())),
            ("before", Word::Map(was.clone())),
        ],
    })
}

/// How many things are wrong. What they are names ledgers, so it stands in the log, not here.
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
