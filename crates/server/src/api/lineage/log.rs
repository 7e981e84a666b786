//! The audit log of a run, as JSON Lines: a stream of any length, of which a page is held at a time.
//!
//! A stream that cannot go on is cut off, never ended: a reader must not take a part for the whole.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use evidence::facet::facet;
use evidence::record::lineage_type;
use ledger::lineage::log_page;
use store::{FacetQuery, RunKey, Store, StoreError};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use crate::answers::cut_when_due;
use crate::api::answer::ReadProblems;
use crate::api::logs::NoParams;
use crate::serve::Cut;
use crate::{ApiError, App, Caller, Path, Query};

/// Longest stream. A log of four million lines, 8 GB, takes a quarter of it over a line of 100 Mbit/s; each stream holds
/// one of 1,024 connections.
const STREAM_TIME: Duration = Duration::from_hours(1);

/// Longest time that a client may take for a page: the largest, 17 MiB, in it are 2.4 Mbit/s, as of a request's body.
const PAGE_TIME: Duration = Duration::from_mins(1);

/// Streams of a server at once: each holds a page, 28 MB where lines are the longest that there are, so that together they
/// stay below half of the memory that a server may take.
pub(crate) const STREAMS_MAX: usize = 4;

/// How many lines the stream has, so that a part is none even where only the connection's end ends it (HTTP/1.0).
const LINES: HeaderName = HeaderName::from_static("deponent-lines");

/// Reads the audit log of a run: its lineage records as lines, in the order in which they were recorded.
///
/// Each line is canonical JSON, with the fields of the line that was imported or posted, and its `type`. Where a body is
/// erased or archived, a line of type `deponent.gone` says so. What is recorded after the request has begun is not told. A
/// stream that is cut off, or has fewer lines than `deponent-lines` says, was not told to its end: a client compares.
#[utoipa::path(
    get, path = "/api/v1/lineage/runs/{run_id}", tag = "lineage", operation_id = "lineage_log",
    params(("run_id" = String, Path, description = "The run")),
    responses((status = 200, description = "JSON Lines; empty when the run has no lineage", body = String,
        content_type = "application/x-ndjson",
        headers(("deponent-lines" = u64, description = "How many lines the whole log has, those of what is gone included"))),
        ReadProblems),
)]
pub(super) async fn get(
    State(app): State<App>,
    caller: Caller,
    cut: Option<Extension<Cut>>,
    Path(run_id): Path<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    let tenant_no = caller.tenant.tenant_no;
    let (run, lines) = app
        .blocking(move |ledger| {
            let run = ledger.store().run_find(tenant_no, &run_id)?;
            let run = run.ok_or_else(ApiError::not_found)?;
            let lines = lines_of(
                ledger.store(),
                tenant_no,
                &run_id,
                run.key,
                run.state.record_count,
            )?;
            Ok((run, lines))
        })
        .await?;
    let permit = Arc::clone(&app.lineage_logs)
        .try_acquire_owned()
        .map_err(|_| ApiError::unavailable("busy", "other logs are being read; ask again"))?;
    caller.answered(usize::try_from(lines).unwrap_or(usize::MAX));
    let log = Log {
        app,
        caller,
        run: run.key,
        next: 0,
        until: run.state.record_count,
        ends: Instant::now() + STREAM_TIME,
        due: cut_when_due(cut.map(|Extension(cut)| cut), Instant::now() + PAGE_TIME),
        _permit: permit,
    };
    let stream = futures_util::stream::unfold(Some(log), |log| async move {
        let mut log = log?;
        match log.next().await {
            Ok(lines) => Some((Ok(lines?), Some(log))),
            Err(error) => Some((Err(error), None)),
        }
    });
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-ndjson"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (LINES, HeaderValue::from(lines)),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}

/// How many of the first `until` records of a run are lines, exactly: those up to the last of them, whatever is recorded
/// meanwhile.
fn lines_of(
    store: &dyn Store,
    tenant_no: u32,
    run_id: &str,
    run: RunKey,
    until: u64,
) -> Result<u64, StoreError> {
    let Some(before_last) = until.checked_sub(1) else {
        return Ok(0);
    };
    let last = store.run_records(run, before_last, 1)?;
    let query = |as_of| FacetQuery {
        facets: vec![facet("lineage.run", run_id)],
        as_of,
        ..FacetQuery::default()
    };
    let Some(last) = last.first() else { return Ok(0) };
    // A single facet is counted exactly whatever its size.
    let (before, _) = store.facet_count(tenant_no, &query(Some(last.leaf)), u32::MAX)?;
    Ok(before + u64::from(lineage_type(last.kind).is_some()))
}

/// What is still to be told.
struct Log {
    app: App,
    caller: Caller,
    run: RunKey,
    next: u64,
    until: u64,
    ends: Instant,
    /// When the client must have taken what it was handed.
    due: watch::Sender<Instant>,
    _permit: OwnedSemaphorePermit,
}

impl Log {
    /// The next lines; `None`: it is told to its end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        // What it takes to read is not the client's time.
        self.due.send_replace(self.ends);
        while self.next < self.until {
            if Instant::now() > self.ends {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // Whoever is shut out meanwhile is told no more.
            if !self.caller.is_let_in(&self.app) {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            let (run, from, until) = (self.run, self.next, self.until);
            let page = self
                .app
                .blocking(move |ledger| Ok(log_page(ledger.store(), run, from, until)?))
                .await
                // The cause is in the log.
                .map_err(|error| io::Error::other(error.message))?;
            self.next = page.next;
            if !page.lines.is_empty() {
                self.due.send_replace(self.ends.min(Instant::now() + PAGE_TIME));
                return Ok(Some(Bytes::from(page.lines)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn who_takes_what_he_is_handed_in_time_is_not_cut_off_and_who_does_not_is() {
        const SOON: Duration = Duration::from_millis(50);
        const LONG: Duration = Duration::from_secs(20);
        let (reads, ended, stalls) = (Cut::default(), Cut::default(), Cut::default());
        let due = cut_when_due(Some(reads.clone()), Instant::now() + SOON);
        due.send_replace(Instant::now() + LONG);
        drop(cut_when_due(Some(ended.clone()), Instant::now() + SOON));
        let kept = cut_when_due(Some(stalls.clone()), Instant::now() + LONG);
        kept.send_replace(Instant::now() + SOON);
        timeout(LONG, stalls.wait()).await.unwrap();
        assert!(timeout(SOON * 2, reads.wait()).await.is_err());
        assert!(timeout(SOON, ended.wait()).await.is_err());
        drop((due, kept));
    }
}
