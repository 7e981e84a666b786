//! The audit log of a run as a stream of lines: whole and in order, or visibly broken off.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request};
use axum::response::Response;
use evidence::record::LineageRecord;
use http_body_util::BodyExt;
use ledger::Changer;
use serde_json::{Value, json};
use store::Fault;
use tower::ServiceExt;

use crate::access::Keyed;
use crate::erasure::{because, erase};
use crate::serve::Served;
use crate::server::{TestServer, now};

const LOG: &str = "/api/v1/lineage/runs/r";

fn lines(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn the_lines_of_a_run_are_read_back_in_the_order_in_which_they_were_posted() {
    let server = TestServer::new();
    server.run("r");
    server.run("other");
    let posted = [
        (
            "evidence",
            json!({ "id": "ev-1", "evidence_type": "csv", "uri": null, "input_row_ids": ["a|b"] }),
        ),
        ("ai-metrics", json!({ "tokens": 5, "cost_usd": 0.10 })),
        (
            "deterministic",
            json!({ "fn": "f", "evidence_id": "ev-1", "params": { "period": "2026-01" } }),
        ),
        ("ai-output", json!({ "kind": "flux", "by": "ada@example.com" })),
    ];
    let mut made = Vec::new();
    for (path, body) in &posted {
        let mut body = body.clone();
        body["deponent.run"] = json!("r");
        made.push(server.created(&format!("/api/v1/lineage/{path}"), &body));
        server.step("r", u32::try_from(made.len()).unwrap() - 1, "success");
    }
    // Of another run, and of none.
    server.created(
        "/api/v1/lineage/ai-output",
        &json!({ "run_id": "other", "kind": "x" }),
    );
    server.created("/api/v1/lineage/ai-output", &json!({ "kind": "x" }));
    let answer = server.get(LOG);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("deponent-lines"), "4");
    let read = lines(&answer.text());
    let mut expected: Vec<Value> = posted.iter().map(|(_, line)| line.clone()).collect();
    for ((path, _), line) in posted.iter().zip(&mut expected) {
        line["type"] = json!(path.replace('-', "_"));
    }
    expected[3]["by"] = json!("<REDACTED_EMAIL>");
    expected[3]["redactions"] = json!({ "count": 1, "patterns": ["email"] });
    assert_eq!(read, expected);
    // What is erased keeps its place.
    let id = made[0]["receipt"]["record_id"].as_str().unwrap();
    assert_eq!(erase(&server, id, &because()).status, 200);
    let read = lines(&server.get(LOG).text());
    assert_eq!(
        [
            &read[0]["type"],
            &read[0]["line_type"],
            &read[0]["erased"],
            &read[0]["record_id"]
        ],
        [
            &json!("deponent.gone"),
            &json!("evidence"),
            &json!(true),
            &json!(id)
        ]
    );
    assert_eq!(read[1..], expected[1..]);
    assert_eq!(server.get(LOG).header("deponent-lines"), "4");
    // A run without lineage has an empty log; what is no run has none.
    server.run("empty");
    let empty = server.get("/api/v1/lineage/runs/empty");
    assert_eq!((empty.status.as_u16(), empty.text().as_str()), (200, ""));
    assert_eq!(empty.header("deponent-lines"), "0");
    assert_eq!(
        server.get("/api/v1/lineage/runs/nosuch").problem(404),
        "not_found"
    );
    assert_eq!(
        server.get(&format!("{LOG}?limit=5")).problem(400),
        "bad_parameter"
    );
}

#[test]
fn a_log_of_many_lines_comes_whole_over_the_wire() {
    let server = TestServer::new();
    fill(&server, 40);
    let mut served = Served::of(server);
    let request = format!("GET {LOG} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let answer = served.exchange(request.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{}", &answer[..80]);
    assert!(answer.contains("transfer-encoding: chunked\r\n"));
    assert!(answer.ends_with("\r\n0\r\n\r\n"), "ended, not broken off");
    for n in 0..40 {
        assert!(answer.contains(&format!("\"n\":{n},")), "{n}");
    }
    served.stop();
}

/// So many lines, ten of which are a page.
fn fill(server: &TestServer, lines: u32) {
    server.run("r");
    let long = "x".repeat(120_000);
    for n in 0..lines {
        server.created(
            "/api/v1/lineage/ai-output",
            &json!({ "run_id": "r", "n": n, "of": long }),
        );
    }
}

#[test]
fn a_log_that_cannot_be_read_to_its_end_is_broken_off_and_not_ended() {
    let (server, fault) = TestServer::failing();
    fill(&server, 25);
    let request = || {
        let request = Request::builder().uri(LOG).header("host", "localhost:4318");
        request.body(Body::empty()).unwrap()
    };
    let whole = server.send(request());
    assert_eq!(lines(&whole.text()).len(), 25);
    let arm = Arc::clone(&fault);
    // The first read is of the count, the second of the first page.
    fault.before("run_records", 3, move || arm.arm(Fault::ReadBy("run_records")));
    let (status, part) = server.runtime.block_on(async {
        let response = server.router.clone().oneshot(request()).await.unwrap();
        let (status, mut body) = (response.status(), response.into_body());
        let mut part = 0;
        loop {
            match body.frame().await {
                Some(Ok(frame)) => part += frame.data_ref().map_or(0, bytes::Bytes::len),
                Some(Err(_)) => break (status, part),
                None => panic!("a part passes for the whole"),
            }
        }
    });
    assert_eq!(status, 200, "the first page was good");
    assert!(part > 0 && part < whole.body.len(), "{part}");
    // Before the first page a failure is an answer.
    fault.arm(Fault::ReadBy("run_find"));
    assert_eq!(server.get(LOG).status, 503);
}

#[test]
fn a_log_is_read_by_who_may_read_records_and_by_no_other_tenant() {
    let keyed = Keyed::new();
    let post = |path: &str, body: &Value| {
        let answer = keyed.as_("writer", Method::POST, path, body);
        assert!(answer.status.is_success(), "{}", answer.text());
    };
    post("/api/v1/runs", &json!({ "run_id": "r" }));
    post(
        "/api/v1/lineage/ai-output",
        &json!({ "run_id": "r", "kind": "x" }),
    );
    let asked = |who: &str| keyed.get_as(who, LOG).status.as_u16();
    assert_eq!(
        ["nobody", "reader", "auditor", "admin", "writer", "foreign"].map(asked),
        [401, 200, 200, 200, 403, 404]
    );
    let foreign = keyed.get_as("foreign", LOG);
    assert_eq!(
        foreign.text(),
        keyed.get_as("foreign", "/api/v1/lineage/runs/nosuch").text()
    );
}

#[test]
fn the_number_of_lines_is_that_of_the_log_as_it_was_when_it_was_asked_for() {
    let (server, fault) = TestServer::failing();
    fill(&server, 3);
    server.step("r", 0, "success");
    // A line that is recorded between finding the run and counting its lines is neither counted nor told.
    let (app, tenant) = (server.app.clone(), server.app.ledger.tenant("default").unwrap());
    fault.before("run_records", 1, move || {
        let line = LineageRecord::of_line(b"{\"type\":\"ai_output\",\"late\":true}");
        let line = line.unwrap().unwrap();
        app.ledger
            .lineage_write(&tenant, &line, Some("r"), 0, now())
            .unwrap();
    });
    let asked = server.get(LOG);
    assert_eq!(asked.header("deponent-lines"), "3");
    assert_eq!(lines(&asked.text()).len(), 3);
    assert_eq!(server.get(LOG).header("deponent-lines"), "4");
}

#[test]
fn only_so_many_logs_are_read_at_once_and_one_that_is_given_up_makes_room() {
    let server = TestServer::new();
    fill(&server, 1);
    let request = || {
        let request = Request::builder().uri(LOG).header("host", "localhost:4318");
        request.body(Body::empty()).unwrap()
    };
    let ask = || {
        server
            .runtime
            .block_on(async { server.router.clone().oneshot(request()).await.unwrap() })
    };
    let mut held: Vec<_> = (0..4).map(|_| ask()).collect();
    assert!(held.iter().all(|answer| answer.status() == 200));
    let busy = server.get(LOG);
    assert_eq!(busy.problem(503), "busy");
    assert!(!busy.header("retry-after").is_empty());
    held.pop();
    assert_eq!(server.get(LOG).status, 200);
    assert_eq!(
        server.get(LOG).status,
        200,
        "one that was read to its end holds nothing"
    );
}

#[test]
fn a_log_is_cut_off_when_its_readers_key_is_revoked() {
    let keyed = Keyed::new();
    for (path, body) in [
        ("/api/v1/runs", json!({ "run_id": "r" })),
        (
            "/api/v1/lineage/ai-output",
            json!({ "kind": "flux", "deponent.run": "r" }),
        ),
    ] {
        assert_eq!(
            keyed.as_("writer", Method::POST, path, &body).status,
            201,
            "{path}"
        );
    }
    let (_, key) = keyed.keys.iter().find(|(name, _)| *name == "reader").unwrap();
    let read = || {
        let request = Request::get(LOG)
            .header("host", "localhost")
            .header("authorization", format!("Bearer {key}"))
            .body(Body::empty())
            .unwrap();
        let router = keyed.server.router.clone();
        keyed.server.runtime.block_on(router.oneshot(request)).unwrap()
    };
    let told = |response: Response| keyed.server.runtime.block_on(response.into_body().collect());
    assert!(told(read()).is_ok());
    let begun = read();
    assert_eq!(begun.status(), 200);
    let id = key.split('_').nth(1).unwrap();
    let ledger = &keyed.server.app.ledger;
    ledger.key_revoke(None, id, &Changer::local(), now()).unwrap();
    assert!(told(begun).is_err(), "a part is not the whole");
}
