//! Progress: as JSON, or as server-sent events when asked for.
//!
//! A stream shows the progress now, then each change, and ends with the job. A
//! reader that is slow sees the newest; nobody waits for it.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use evidence::job::Progress;
use ledger::ProgressWatch;
use tokio::time::{Instant, sleep, timeout_at};

use super::view::ProgressView;
use super::with_job;
use crate::api::answer::{ReadProblems, canonical, ok};
use crate::api::logs::NoParams;
use crate::{ApiError, App, Caller, Path, Query};

/// A comment on a stream on which nothing happens, so that nobody in between takes it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A stream looks this often whether the server drains, as the way down takes 30 s at most, and whether its reader is
/// still let in.
const LOOK: Duration = Duration::from_secs(1);

/// Longest stream: a reader that is still there comes again. Each holds one of 1,024 connections.
const STREAM_TIME: Duration = Duration::from_mins(30);

/// Reads the progress of a job. With `Accept: text/event-stream`, events `progress` until the job has ended.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}/progress", tag = "jobs", operation_id = "job_progress_get",
    params(("id" = String, Path, description = "The job")),
    responses((status = 200, description = "The progress", content(
        (ProgressView = "application/json"), (String = "text/event-stream"))), ReadProblems),
)]
pub(super) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(job_id): Path<String>,
    Query(NoParams {}): Query<NoParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if !wants_events(&headers) {
        let job = with_job(&app, &caller, job_id, |guard, _| guard.view()).await?;
        return ok(&ProgressView::of(&job.job_id, &job.progress)?);
    }
    let watch = with_job(&app, &caller, job_id.clone(), |guard, _| guard.subscribe()).await?;
    let stream = Stream {
        watch,
        job_id,
        app,
        caller,
        until: Instant::now() + STREAM_TIME,
    };
    let events = futures_util::stream::unfold(stream, |mut stream| async move {
        let event = stream.next().await?;
        Some((Ok::<_, Infallible>(event), stream))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    let no_store = axum::http::HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    Ok(response)
}

/// Whether server-sent events are asked for. JSON is what is given otherwise.
fn wants_events(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| {
            let media = range.split(';').next().unwrap_or_default().trim();
            media.eq_ignore_ascii_case("text/event-stream")
        })
}

struct Stream {
    watch: ProgressWatch,
    job_id: String,
    app: App,
    caller: Caller,
    until: Instant,
}

impl Stream {
    /// The next event; `None`: the job has ended, the server drains, its reader's key or token is worth nothing any
    /// more, or the time is up.
    async fn next(&mut self) -> Option<Event> {
        let (app, caller) = (&self.app, &self.caller);
        let stopped = async {
            while !app.draining.load(Ordering::Relaxed) && caller.is_let_in(app) {
                sleep(LOOK).await;
            }
        };
        let progress = tokio::select! {
            progress = timeout_at(self.until, self.watch.next()) => progress.ok()??,
            () = stopped => return None,
        };
        // It may have been shut out since the last look.
        if !caller.is_let_in(app) {
            return None;
        }
        event(&self.job_id, &progress).ok()
    }
}

fn event(job_id: &str, progress: &Progress) -> Result<Event, ApiError> {
    let text = canonical(&ProgressView::of(job_id, progress)?)?;
    Ok(Event::default()
        .event("progress")
        .data(String::from_utf8_lossy(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_given_to_who_asks_for_them() {
        let wants = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            wants_events(&headers)
        };
        assert!(wants("text/event-stream") && wants("application/json, Text/Event-Stream;q=0.5"));
        assert!(!wants("application/json") && !wants("*/*") && !wants_events(&HeaderMap::new()));
    }
}
