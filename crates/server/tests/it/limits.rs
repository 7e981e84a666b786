use std::convert::Infallible;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ::server::Limits;
use axum::body::{Body, HttpBody};
use axum::http::{Method, Request};
use bytes::Bytes;
use evidence::record::Role;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::Frame;
use serde_json::json;
use tower::ServiceExt;

use crate::access::key;
use crate::server::{Answer, TestServer, export, span};

const MIB: usize = 1024 * 1024;

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn traces(server: &TestServer, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
    let mut all = vec![("content-type", "application/json")];
    all.extend_from_slice(headers);
    server.request(Method::POST, "/v1/traces", &all, body)
}

#[test]
fn a_body_above_the_limit_is_refused_whether_its_length_is_said_or_not() {
    let server = TestServer::new();
    let body = vec![b' '; 65 * MIB];
    assert_eq!(
        traces(
            &server,
            &[("content-length", &body.len().to_string())],
            body.clone()
        )
        .status,
        413
    );
    assert_eq!(traces(&server, &[], body).status, 413);
    assert_eq!(traces(&server, &[], vec![b' '; 16 * MIB + 1]).status, 413);
    // What fits is read: it is refused for what it says.
    assert_eq!(traces(&server, &[], vec![b' '; 16 * MIB]).status, 400);
}

#[test]
fn an_array_is_no_object_whatever_is_in_it() {
    let server = TestServer::new();
    let (event, state) = ("LimitCreated", json!({ "v": 1 }));
    for (path, body) in [
        ("runs", json!([])),
        (
            "runs",
            json!([
                "r1", "a", null, null, null, null, null, null, null, null, null, null, null, null, null,
                null, null
            ]),
        ),
        (
            "audit-events",
            json!([event, "LIMIT", "l1", "SYSTEM", null, null, null, state, null]),
        ),
        ("holds", json!(["tenant", null, null, "why"])),
        ("signals", json!(["t", "search", "allow", null])),
        ("jobs", json!(["h", "j1", null, null, null, null])),
        ("idempotency/k/check", json!([{ "a": 1 }, "t", 60])),
        ("fingerprint", json!(["hello"])),
        (
            "traces",
            json!({ "run_id": "r2", "status": "completed", "steps": [[0, "search", "success"]] }),
        ),
    ] {
        let answer = server.post(&format!("/api/v1/{path}"), &body);
        assert_eq!(answer.problem(422), "invalid", "{path} {body}");
        assert!(answer.text().contains("expected an object"), "{}", answer.text());
    }
    let held = server.get("/api/v1/holds").ok();
    assert_eq!(held["items"], json!([]));
}

#[test]
fn a_gzip_bomb_is_refused() {
    let server = TestServer::new();
    let mut inner = gzip(&vec![0; 64 * MIB]);
    assert!(inner.len() < MIB);
    assert_eq!(
        traces(&server, &[("content-encoding", "gzip")], inner.clone()).status,
        413
    );
    // Members end to end count together.
    inner = gzip(&vec![b' '; 9 * MIB]).repeat(2);
    assert_eq!(
        traces(&server, &[("content-encoding", "gzip")], inner).status,
        413
    );
    assert!(
        server
            .get("/metrics")
            .text()
            .contains("\ndeponent_bodies_bytes 0\n"),
        "all is given back"
    );
}

#[test]
fn gzip_is_unpacked_and_what_is_none_is_malformed() {
    let server = TestServer::new();
    let body = gzip(export(&[span(1, 1)]).to_string().as_bytes());
    assert_eq!(
        traces(&server, &[("content-encoding", "gzip")], body.clone()).text(),
        "{}"
    );
    assert_eq!(
        traces(
            &server,
            &[("content-encoding", "gzip")],
            body[..body.len() - 9].to_vec()
        )
        .status,
        400
    );
    assert_eq!(traces(&server, &[("content-encoding", "gzip")], "{}").status, 400);
    for other in ["deflate", "br", "zstd", "gzip, gzip"] {
        assert_eq!(
            traces(&server, &[("content-encoding", other)], "{}").status,
            415,
            "{other}"
        );
    }
}

#[test]
fn bodies_in_flight_beyond_the_budget_are_refused_and_may_come_again() {
    let server = TestServer::with_limits(Limits {
        bodies_in_flight_bytes_max: MIB,
        ..Limits::default()
    });
    let answer = traces(&server, &[], vec![b' '; MIB + 1]);
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "1"));
    assert!(answer.text().contains("\"code\":14"), "{}", answer.text());
    assert_eq!(
        traces(&server, &[], export(&[span(1, 1)]).to_string()).status,
        200
    );
    // Unpacked bytes count too.
    let packed = gzip(&vec![b' '; 2 * MIB]);
    assert_eq!(
        traces(&server, &[("content-encoding", "gzip")], packed).status,
        503
    );
}

#[test]
fn a_body_that_stalls_is_given_up() {
    let limits = Limits {
        body_idle: Duration::from_millis(50),
        ..Limits::default()
    };
    let server = TestServer::with_limits(limits);
    assert_eq!(traces(&server, &[], Body::new(Stalling(None))).status, 408);
}

/// A request of so many values, about.
fn zeros(count: usize) -> String {
    let zeros = ",0".repeat(count - 1);
    format!(
        r#"{{"component":"c","event_type":"e","severity":"INFO","summary":"s","details":{{"x":[0{zeros}]}}}}"#
    )
}

#[test]
fn a_body_of_more_values_than_there_is_room_for_is_refused_before_it_is_read() {
    let server = TestServer::new();
    for key in [None, Some("\"a\"")] {
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(key.map(|key| ("idempotency-key", key)));
        let send = |body: String| server.request(Method::POST, "/api/v1/system-records", &headers, body);
        assert_eq!(send(zeros(500_000)).problem(413), "body_too_large");
        let taken = send(zeros(300_000));
        assert_eq!(taken.status, 201, "{}", taken.text());
        wait_for_bodies(&server, 0);
    }
}

/// Waits until bodies take so many bytes.
#[track_caller]
pub(crate) fn wait_for_bodies(server: &TestServer, bytes: usize) {
    let line = format!("\ndeponent_bodies_bytes {bytes}\n");
    let began = Instant::now();
    while !server.get("/metrics").text().contains(&line) {
        assert!(
            began.elapsed() < Duration::from_mins(2),
            "bodies never take {bytes} bytes"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn who_is_slow_to_send_takes_room_from_himself_before_others() {
    let server = TestServer::with_limits(Limits {
        bodies_in_flight_bytes_max: MIB,
        body_idle: Duration::from_hours(1),
        body_time: Duration::from_hours(1),
        ..Limits::default()
    });
    let bearer = |role: Role| format!("Bearer {}", key(&server, "default", role));
    let (slow, other) = (bearer(Role::Writer), bearer(Role::Writer));
    let slow_request = Request::builder()
        .method(Method::POST)
        .uri("/v1/traces")
        .header("host", "localhost:4318")
        .header("content-type", "application/json")
        .header("authorization", &slow)
        .body(Body::new(Stalling(Some(vec![b' '; 400 * 1024].into()))))
        .unwrap();
    let slow_request = server.runtime.spawn(server.router.clone().oneshot(slow_request));
    wait_for_bodies(&server, 400 * 1024);

    let send = |who: &str| traces(&server, &[("authorization", who)], vec![b' '; 200 * 1024]);
    let refused = send(&slow);
    assert_eq!(
        (refused.status.as_u16(), refused.header("retry-after")),
        (503, "1")
    );
    assert!(refused.text().contains("half of all room"), "{}", refused.text());
    // Of the other's it is read what they say.
    assert_eq!(send(&other).status, 400);

    // What a body is read as takes of the same room.
    let headers = [
        ("content-type", "application/json"),
        ("authorization", other.as_str()),
    ];
    let record = |values| server.request(Method::POST, "/api/v1/system-records", &headers, zeros(values));
    assert_eq!(record(4_000).problem(503), "busy");
    assert_eq!(record(7_000).problem(413), "body_too_large");
    slow_request.abort();
    wait_for_bodies(&server, 0);
    assert_eq!(record(4_000).status, 201);
}

/// A body that brings this, if anything, and then never goes on.
struct Stalling(Option<Bytes>);

impl HttpBody for Stalling {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None => Poll::Pending,
        }
    }
}
