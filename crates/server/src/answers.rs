//! Answers that wait to be read: counted while they do, and not for ever.
//!
//! An answer is made whole and handed over piece by piece, so that what its peer does not read is still here and counted.
//! Without room for another the request is told to come again, and a peer that takes nothing for a minute is cut off.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http_body_util::BodyExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::body::{Budget, Hold};
use crate::serve::Cut;
use crate::{ApiError, tasks};

/// Answers from this length on are counted: shorter ones are within what connections buffer anyway.
const COUNTED_FROM: u64 = 64 * 1024;

/// Bytes of all answers that wait at once: two of the longest, beside those that are being made.
pub(crate) const ANSWERS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What one answer counts for, at most: one that is longer still must find room at some time.
const ANSWER_BYTES_COUNTED: usize = ANSWERS_BYTES_MAX / 2;

/// What a peer is handed at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Longest time that a peer may take for a piece.
const PIECE_TIME: Duration = Duration::from_mins(1);

/// What is still to be handed over.
struct Rest {
    bytes: Bytes,
    due: watch::Sender<Instant>,
    _hold: Hold,
}

/// Counts an answer of a known length until its peer has taken it. What changed something is answered in any case
/// (`is_read`: it did not).
pub(crate) async fn counted(
    budget: &Budget,
    cut: Option<Cut>,
    is_read: bool,
    response: Response,
) -> Response {
    within(PIECE_TIME, budget, cut, is_read, response).await
}

async fn within(
    piece_time: Duration,
    budget: &Budget,
    cut: Option<Cut>,
    is_read: bool,
    response: Response,
) -> Response {
    let length = response.body().size_hint().exact();
    let Some(length) = length.filter(|length| *length >= COUNTED_FROM) else {
        return response;
    };
    let mut hold = budget.hold();
    let counted = usize::try_from(length).unwrap_or(usize::MAX);
    if !hold.more(counted.min(ANSWER_BYTES_COUNTED)) && is_read {
        let message = "the answers that wait to be read leave no room for this one; ask again";
        return ApiError::unavailable("busy", message).into_response();
    }
    let (mut parts, body) = response.into_parts();
    let bytes = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return ApiError::internal(&error).into_response(),
    };
    parts
        .headers
        .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    let rest = Rest {
        bytes,
        due: cut_when_due(cut, Instant::now() + piece_time),
        _hold: hold,
    };
    let pieces = stream::unfold(rest, move |mut rest| async move {
        // Asked for, so the piece before was taken.
        rest.due.send_replace(Instant::now() + piece_time);
        let piece = rest.bytes.split_to(rest.bytes.len().min(PIECE_BYTES));
        (!piece.is_empty()).then_some((Ok::<_, std::convert::Infallible>(piece), rest))
    });
    Response::from_parts(parts, Body::from_stream(pieces))
}

/// Cuts the client's connection when a moment passes that is said here, and nothing else comes before it: a client that
/// does not read lets nobody get to the stream, which then keeps what it holds. Ends with the sender.
pub(crate) fn cut_when_due(cut: Option<Cut>, until: Instant) -> watch::Sender<Instant> {
    let (due, mut told) = watch::channel(until);
    tasks::aside(async move {
        loop {
            let until = *told.borrow_and_update();
            tokio::select! {
                changed = told.changed() => if changed.is_err() { return },
                () = sleep_until(until) => {
                    if let Some(cut) = cut {
                        cut.cut();
                    }
                    return;
                }
            }
        }
    });
    due
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    fn answer(bytes: usize) -> Response {
        Bytes::from(vec![b'x'; bytes]).into_response()
    }

    #[tokio::test]
    async fn what_waits_is_counted_until_it_is_taken_and_arrives_whole() {
        let budget = Budget::new(300_000);
        let waiting = counted(&budget, None, true, answer(200_000)).await;
        assert_eq!(budget.free_bytes(), 100_000);
        assert_eq!(waiting.headers()[header::CONTENT_LENGTH], "200000");
        let refused = counted(&budget, None, true, answer(200_000)).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        // A short one finds its way, and so does what is done.
        let done = counted(&budget, None, false, answer(200_000)).await;
        assert_eq!(done.status(), StatusCode::OK);
        let short = counted(&budget, None, true, answer(1_000)).await;
        assert_eq!(short.status(), StatusCode::OK);
        let taken = waiting.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(taken, vec![b'x'; 200_000]);
        assert_eq!(budget.free_bytes(), 300_000);
    }

    #[tokio::test]
    async fn who_takes_nothing_in_the_time_of_a_piece_is_cut_off() {
        let (budget, cut) = (Budget::new(300_000), Cut::default());
        let time = Duration::from_millis(50);
        let waiting = within(time, &budget, Some(cut.clone()), true, answer(200_000)).await;
        let mut pieces = waiting.into_body();
        assert!(pieces.frame().await.is_some());
        assert!(tokio::time::timeout(PIECE_TIME, cut.wait()).await.is_ok());
        assert_eq!(budget.free_bytes(), 100_000, "until its connection is gone");
        drop(pieces);
        assert_eq!(budget.free_bytes(), 300_000);
    }
}
