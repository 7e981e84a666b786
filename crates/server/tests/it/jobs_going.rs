//! Jobs on their way, through HTTP: attempts, progress, what is seen of it.

use axum::body::Body;
use axum::http::Method;
use ledger::Changer;
use serde_json::{Value, json};

use crate::access::Keyed;
use crate::jobs::governed;
use crate::server::now;
use crate::support::ticking_server;

#[test]
fn a_failed_attempt_waits_and_its_history_is_kept() {
    let server = governed();
    server.created(
        "/api/v1/jobs",
        &json!({ "job_id": "j1", "handler": "x", "contract_id": "c1",
            "retry": { "strategy": "fixed", "base_delay_seconds": 30, "max_retries": 2, "jitter_factor": 0 } }),
    );
    server.acted("j1", "start", &json!({}));
    let failed = server.acted("j1", "fail", &json!({ "error": "timeout" }));
    assert_eq!(
        (&failed["stage"], &failed["attempt_number"], &failed["verdict"]),
        (&json!("queued"), &json!(2), &Value::Null)
    );
    assert!(failed["next_attempt_at"].is_string());
    server.acted("j1", "start", &json!({}));
    let ended = server.acted("j1", "fail", &json!({ "error": "timeout" }));
    assert_eq!(
        (&ended["stage"], ended["verdict"].is_string()),
        (&json!("failed"), true)
    );
    let retries = server.get("/api/v1/jobs/j1/retries").ok();
    let history: Vec<_> = retries["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            (
                it["attempt_number"].clone(),
                it["delay_seconds"].clone(),
                it["will_retry"].clone(),
            )
        })
        .collect();
    assert_eq!(
        history,
        [
            (json!(1), json!(30), json!(true)),
            (json!(2), json!(30), json!(false))
        ]
    );
    assert_eq!(retries["history"][1]["next_attempt_at"], Value::Null);
    let audit = server.get("/api/v1/audits/j1").ok();
    let of = |id: &str| {
        let checks = audit["checks"].as_array().unwrap();
        checks.iter().find(|check| check["check_id"] == id).unwrap()["result"].clone()
    };
    // A job that failed proves nothing about what it proposed, and signals do not decide it.
    assert_eq!((of("A-003"), of("A-006")), (json!("PASS"), json!("INCONCLUSIVE")));
}

#[test]
fn progress_is_computed_from_steps_and_never_goes_back() {
    let server = ticking_server();
    server.created(
        "/api/v1/jobs",
        &json!({ "job_id": "j1", "handler": "x", "total_steps": 4 }),
    );
    let path = "/api/v1/jobs/j1/progress";
    let queued = server.get(path).ok();
    assert_eq!(
        (&queued["stage"], &queued["percentage"]),
        (&json!("queued"), &json!(0))
    );
    assert_eq!(queued["started_at"], Value::Null);
    server.acted("j1", "start", &json!({}));
    let half = server.acted(
        "j1",
        "progress",
        &json!({ "percentage": 90, "current_step": 2, "metadata": { "a": 1 } }),
    );
    assert_eq!(
        (&half["stage"], &half["percentage"]),
        (&json!("running"), &json!(50))
    );
    assert!(half["eta_seconds"].is_u64());
    let back = server.acted(
        "j1",
        "progress",
        &json!({ "percentage": 10, "message": "m", "metadata": { "b": 2 } }),
    );
    assert_eq!((&back["percentage"], &back["message"]), (&json!(50), &json!("m")));
    assert_eq!(back["metadata"], json!({ "a": 1, "b": 2 }));
    let mut read = server.get(path).ok();
    read["receipt"] = back["receipt"].clone();
    assert_eq!(read, back);
    let done = server.acted("j1", "complete", &json!({}));
    assert_eq!(
        (&done["progress"]["percentage"], &done["progress"]["eta_seconds"]),
        (&json!(100), &json!(0))
    );
    assert_eq!(server.rollout("j1")["action"], "escalate");
    assert_eq!(server.rollout("j1")["verdict"], Value::Null);
    assert_eq!(
        server.get("/api/v1/jobs/nobody/progress").problem(404),
        "not_found"
    );
}

#[test]
fn progress_comes_as_events_when_asked_for_and_ends_with_the_job() {
    let server = governed();
    server.started("j1");
    let watcher = std::thread::scope(|scope| {
        let (began, begun) = std::sync::mpsc::channel();
        let router = server.router.clone();
        let runtime = &server.runtime;
        let watcher = scope.spawn(move || {
            use http_body_util::BodyExt;
            use tower::ServiceExt;
            runtime.block_on(async {
                let request = axum::http::Request::get("/api/v1/jobs/j1/progress")
                    .header("host", "localhost")
                    .header("accept", "text/event-stream")
                    .body(Body::empty())
                    .unwrap();
                let response = router.oneshot(request).await.unwrap();
                assert_eq!(response.headers()["content-type"], "text/event-stream");
                let mut body = response.into_body();
                let mut text = String::new();
                while let Some(frame) = body.frame().await {
                    text.push_str(&String::from_utf8_lossy(&frame.unwrap().into_data().unwrap()));
                    let _ = began.send(());
                }
                text
            })
        });
        begun.recv().unwrap();
        server.acted("j1", "progress", &json!({ "percentage": 40 }));
        server.acted("j1", "complete", &json!({}));
        watcher.join().unwrap()
    });
    let stages: Vec<Value> = watcher
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str::<Value>(data).unwrap()["stage"].clone())
        .collect();
    assert_eq!(stages.first(), Some(&json!("starting")));
    assert_eq!(stages.last(), Some(&json!("completed")));
    assert!(watcher.contains("event: progress\n"));
}

#[test]
fn a_stream_of_progress_ends_when_its_readers_key_does() {
    let keyed = Keyed::new();
    let act = |path: &str, body: &Value| {
        let answer = keyed.as_("writer", Method::POST, path, body);
        assert_eq!(answer.status, 201, "{path}");
    };
    act("/api/v1/jobs", &json!({ "job_id": "j1", "handler": "h" }));
    act("/api/v1/jobs/j1/start", &json!({}));
    let (_, key) = keyed.keys.iter().find(|(name, _)| *name == "reader").unwrap();
    let told = std::thread::scope(|scope| {
        let (began, begun) = std::sync::mpsc::channel();
        let (router, runtime) = (keyed.server.router.clone(), &keyed.server.runtime);
        let watcher = scope.spawn(move || {
            use http_body_util::BodyExt;
            use tower::ServiceExt;
            runtime.block_on(async {
                let request = axum::http::Request::get("/api/v1/jobs/j1/progress")
                    .header("host", "localhost")
                    .header("accept", "text/event-stream")
                    .header("authorization", format!("Bearer {key}"))
                    .body(Body::empty())
                    .unwrap();
                let mut body = router.oneshot(request).await.unwrap().into_body();
                let mut text = String::new();
                while let Some(frame) = body.frame().await {
                    text.push_str(&String::from_utf8_lossy(&frame.unwrap().into_data().unwrap()));
                    let _ = began.send(());
                }
                text
            })
        });
        begun.recv().unwrap();
        let id = key.split('_').nth(1).unwrap();
        let ledger = &keyed.server.app.ledger;
        ledger.key_revoke(None, id, &Changer::local(), now()).unwrap();
        act("/api/v1/jobs/j1/progress", &json!({ "message": "not for him" }));
        act("/api/v1/jobs/j1/complete", &json!({}));
        watcher.join().unwrap()
    });
    assert!(
        told.contains("\"starting\"") && !told.contains("not for him"),
        "{told}"
    );
}
