//! The header `Idempotency-Key` of every POST.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use evidence::canonical::{Limits, canonicalize};
use ledger::once::{Once, OnceOptions};
use serde_json::json;
use store::sqlite::SqliteOnce;

use crate::access::Keyed;
use crate::limits::gzip;
use crate::server::{TestServer, now};
use crate::support::running;

/// Where answers are kept.
const STATE_FILES: [&str; 4] = [
    "state.db",
    "state.db-wal",
    "state.db-answers",
    "state.db-answers-2",
];

#[test]
fn a_post_that_is_sent_again_is_answered_again() {
    let server = TestServer::new();
    let (path, body) = (
        "/api/v1/audit-events",
        json!({ "event_type": "SignalAcknowledged", "entity_type": "SIGNAL",
        "entity_id": "s", "actor_type": "HUMAN", "actor_id": "ada" }),
    );
    let first = server.keyed(path, "\"key 1\"", &body);
    assert_eq!(first.status, 201, "{}", first.text());
    assert_eq!(first.header("idempotent-replayed"), "");
    let size = server.tree_size();
    // The same value in other bytes is the same request.
    let text = format!(" {}\n", body.to_string().replace(":\"s\"", ": \"\\u0073\""));
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "\"key 1\""),
    ];
    let again = server.request(Method::POST, path, &headers, text);
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.header("content-type"), first.header("content-type"));
    assert_eq!(server.tree_size(), size, "nothing was written");
    let mut other = body.clone();
    other["entity_id"] = json!("other");
    assert_eq!(
        server.keyed(path, "\"key 1\"", &other).problem(422),
        "idempotency_key_reused"
    );
    assert_eq!(
        server.keyed("/api/v1/runs", "\"key 1\"", &body).problem(422),
        "idempotency_key_reused"
    );
    assert_eq!(server.keyed(path, "key-2", &other).status, 201);
    assert_eq!(
        server.post(path, &body).status,
        201,
        "without a key each is a record"
    );
    assert_eq!(server.tree_size(), size + 2);
}

#[test]
fn who_has_an_answer_and_asks_again_at_once_has_it_again() {
    let server = TestServer::new();
    for number in 0..200 {
        let (key, body) = (format!("k{number}"), json!({ "run_id": format!("r{number}") }));
        let first = server.keyed("/api/v1/runs", &key, &body);
        assert_eq!(first.status, 201, "{}", first.text());
        let again = server.keyed("/api/v1/runs", &key, &body);
        assert_eq!(
            (again.status, &again.body),
            (first.status, &first.body),
            "{}",
            again.text()
        );
        assert_eq!(again.header("idempotent-replayed"), "true");
    }
}

#[test]
fn what_is_kept_of_a_request_does_not_tell_which_of_few_it_was() {
    let server = TestServer::new();
    let path = "/api/v1/system-records";
    let record = |answer: bool| json!({ "component": "c", "event_type": "e", "severity": "INFO", "summary": "s", "details": { "smokes": answer } });
    assert_eq!(server.keyed(path, "k", &record(true)).status, 201);
    assert_eq!(
        server
            .keyed(path, "k", &record(true))
            .header("idempotent-replayed"),
        "true"
    );
    assert_eq!(
        server.keyed(path, "k", &record(false)).problem(422),
        "idempotency_key_reused"
    );
    let folder = &server.app.ledger.options().data_dir;
    let kept: Vec<u8> = STATE_FILES
        .iter()
        .flat_map(|name| std::fs::read(folder.join(name)).unwrap_or_default())
        .collect();
    // The key is there, and none of what a guesser would try.
    let holds = |needle: &[u8]| kept.windows(needle.len()).any(|window| window == needle);
    assert!(holds(b":k"));
    for answer in [true, false] {
        let body = record(answer).to_string();
        let body = canonicalize(body.as_bytes(), Limits::default()).unwrap();
        for guess in [[path.as_bytes(), b"\0", &body].concat(), body] {
            assert!(!holds(&evidence::sha256(&guess)), "{answer}");
        }
    }
}

#[test]
fn what_was_refused_is_decided_again() {
    let server = TestServer::new();
    let step = json!({ "step_index": 0, "skill_name": "s", "status": "success" });
    assert_eq!(
        server.keyed("/api/v1/runs/r/steps", "k", &step).problem(404),
        "not_found"
    );
    server.run("r");
    let answer = server.keyed("/api/v1/runs/r/steps", "k", &step);
    assert_eq!(
        (answer.status.as_u16(), answer.header("idempotent-replayed")),
        (201, "")
    );
    assert_eq!(
        server
            .keyed("/api/v1/runs/r/steps", "k", &step)
            .header("idempotent-replayed"),
        "true"
    );
    // A body that is no JSON is refused as ever, and may be mended under the same key.
    let headers = [("content-type", "application/json"), ("idempotency-key", "k-2")];
    assert_eq!(
        server
            .request(Method::POST, "/api/v1/runs", &headers, "{")
            .problem(400),
        "malformed"
    );
    assert_eq!(server.keyed("/api/v1/runs", "k-2", &json!({})).status, 201);
}

#[test]
fn where_what_was_made_is_stands_in_the_second_answer_too() {
    let server = TestServer::new();
    let made = || server.keyed("/api/v1/verifications", "verify-1", &json!({}));
    let (first, again) = (made(), made());
    assert!(first.status.is_success(), "{}", first.text());
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert!(first.header("location").starts_with("/api/v1/verifications/"));
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!((again.status, &again.body), (first.status, &first.body));
}

#[test]
fn a_malformed_key_is_refused_before_anything_is_done() {
    let server = TestServer::new();
    let size = server.tree_size();
    for bad in ["", "a b", "\"open", "\"\"", "a,b", &"k".repeat(256), "\"a\"; p=1"] {
        let answer = server.keyed("/api/v1/runs", bad, &json!({}));
        assert_eq!(answer.problem(400), "bad_idempotency_key", "{bad}");
    }
    let twice = [
        ("content-type", "application/json"),
        ("idempotency-key", "a"),
        ("idempotency-key", "a"),
    ];
    let answer = server.request(Method::POST, "/api/v1/runs", &twice, "{}");
    assert_eq!(answer.problem(400), "bad_idempotency_key");
    assert_eq!(server.tree_size(), size);
    assert_eq!(
        server.keyed("/api/v1/runs", &"k".repeat(255), &json!({})).status,
        201
    );
    // Reads do not look at it.
    let answer = server.request(
        Method::GET,
        "/api/v1/ledger/head",
        &[("idempotency-key", "a b")],
        Body::empty(),
    );
    assert_eq!(answer.status, 200);
}

#[test]
fn while_a_request_is_answered_the_same_is_told_to_wait() {
    let server = TestServer::new();
    let server = Arc::new(server);
    // Held as a handler that has not answered yet holds it.
    let key = ledger::once::OnceKey {
        space: ledger::once::OnceSpace::Answer,
        tenant: "default".into(),
        key: "5:local:k".into(),
    };
    let check = ledger::once::Check {
        hash: None,
        label: None,
        ttl_secs: 60,
    };
    let held = server
        .runtime
        .block_on(server.app.once.check(&key, check, now()))
        .unwrap();
    assert!(held.is_new());
    let answer = server.keyed("/api/v1/runs", "k", &json!({}));
    assert_eq!(answer.problem(409), "idempotency_in_progress");
    assert_eq!(answer.header("retry-after"), "1");
    // Of many that come at once one is done.
    let size = server.tree_size();
    let body = json!({ "run_id": "once" });
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (server, body) = (Arc::clone(&server), body.clone());
            std::thread::spawn(move || server.keyed("/api/v1/runs", "many", &body).status.as_u16())
        })
        .collect();
    let mut statuses: Vec<u16> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    statuses.sort_unstable();
    assert!(
        statuses.iter().all(|status| matches!(status, 201 | 409)),
        "{statuses:?}"
    );
    assert_eq!(statuses[0], 201);
    assert_eq!(server.tree_size(), size + 1);
}

#[test]
fn nobody_is_answered_with_what_another_was_told() {
    let keyed = Keyed::new();
    let post = |who: &str, run_id: &str| {
        let key = &keyed.keys.iter().find(|(name, _)| *name == who).unwrap().1;
        let bearer = format!("Bearer {key}");
        let headers = [
            ("content-type", "application/json"),
            ("authorization", bearer.as_str()),
            ("idempotency-key", "k"),
        ];
        keyed.server.request(
            Method::POST,
            "/api/v1/runs",
            &headers,
            json!({ "run_id": run_id }).to_string(),
        )
    };
    assert_eq!(post("writer", "r-1").status, 201);
    assert_eq!(
        post("admin", "r-2").status,
        201,
        "another principal's key is another key"
    );
    assert_eq!(post("foreign", "r-3").status, 201);
    assert_eq!(post("writer", "r-1").header("idempotent-replayed"), "true");
    assert_eq!(
        post("reader", "r-1").problem(403),
        "forbidden",
        "who may not is not answered from what is kept"
    );
}

#[test]
fn a_secret_that_is_shown_once_is_not_in_a_replayed_answer() {
    let keyed = Keyed::new();
    let admin = &keyed.keys.iter().find(|(name, _)| *name == "admin").unwrap().1;
    let bearer = format!("Bearer {admin}");
    let headers = [
        ("content-type", "application/json"),
        ("authorization", bearer.as_str()),
        ("idempotency-key", "k"),
    ];
    let make = || {
        keyed
            .server
            .request(Method::POST, "/api/v1/keys", &headers, r#"{"role":"reader"}"#)
    };
    let (first, again) = (make(), make());
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (201, 201));
    let secret = first.json()["key"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("dpn_"));
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.json()["key_id"], first.json()["key_id"]);
    assert!(!again.text().contains(&secret) && again.json().get("key").is_none());
    // Nor is it on disk.
    let folder = &keyed.server.app.ledger.options().data_dir;
    for file in STATE_FILES {
        let bytes = std::fs::read(folder.join(file)).unwrap_or_default();
        assert!(
            !bytes.windows(secret.len()).any(|part| part == secret.as_bytes()),
            "{file}"
        );
    }
}

#[test]
fn a_large_body_and_a_packed_one_are_the_same_request_again() {
    let server = TestServer::new();
    let goal = "word ".repeat(12_000);
    let body = json!({ "run_id": "r", "goal": goal, "plan": [{ "x": "y ".repeat(20_000) }] });
    assert_eq!(server.keyed("/api/v1/runs", "k", &body).status, 201);
    assert_eq!(
        server
            .keyed("/api/v1/runs", "k", &body)
            .header("idempotent-replayed"),
        "true"
    );
    let mut packed = flate2_like(body.to_string().as_bytes());
    let headers = [
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
        ("idempotency-key", "k"),
    ];
    let answer = server.request(Method::POST, "/api/v1/runs", &headers, packed.clone());
    assert_eq!(answer.header("idempotent-replayed"), "true", "{}", answer.text());
    packed.truncate(packed.len() / 2);
    assert_eq!(
        server
            .request(Method::POST, "/api/v1/runs", &headers, packed)
            .problem(400),
        "malformed"
    );
}

/// The body of a request that takes none, with the key and as it is packed.
#[test]
fn a_request_that_takes_no_body_is_done_once_and_may_be_packed() {
    let keyed = Keyed::new();
    let text = |who: &str| &keyed.keys.iter().find(|(name, _)| *name == who).unwrap().1;
    let id = text("reader").split('_').nth(1).unwrap();
    let bearer = format!("Bearer {}", text("admin"));
    let post = |what: &str, headers: &[(&str, &str)], body: Vec<u8>| {
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        let path = format!("/api/v1/keys/{id}/{what}");
        keyed.server.request(Method::POST, &path, &all, body)
    };
    let once = ("idempotency-key", "k");
    let packed = ("content-encoding", "gzip");
    let some = br#"{"expires_at":"2027-01-01T00:00:00Z"}"#;
    let blank = vec![b' '; 1024 * 1024];
    for headers in [&[packed][..], &[packed, once]] {
        for (body, why) in [
            (gzip(some), "takes none"),
            (gzip(b"null"), "takes none"),
            (gzip(&blank), "takes none"),
            (b"{}".to_vec(), "not gzip"),
        ] {
            let refused = post("revoke", headers, body);
            assert_eq!(refused.problem(400), "malformed");
            assert!(refused.text().contains(why), "{}", refused.text());
        }
    }
    let refused = post("revoke", &[once], some.to_vec());
    assert_eq!(refused.problem(400), "malformed");
    assert!(refused.text().contains("takes none"), "{}", refused.text());
    let reader = keyed.get_as("reader", "/api/v1/me");
    assert_eq!(reader.status, 200, "nothing was done: {}", reader.text());

    // What was refused has not used the key.
    let first = post("rotate", &[once], Vec::new());
    assert!(first.ok()["key"].is_string(), "{}", first.text());
    let again = post("rotate", &[once], Vec::new());
    assert_eq!(again.header("idempotent-replayed"), "true", "{}", again.text());
    assert!(again.ok()["key"].is_null(), "it was shown once");
    for (key, body) in [
        ("none", Vec::new()),
        ("empty", gzip(b"")),
        ("object", gzip(b" {}\n")),
    ] {
        for replayed in ["", "true"] {
            let headers = [packed, ("idempotency-key", key)];
            let done = post("revoke", &headers, body.clone());
            assert_eq!(done.status, 200, "{key}: {}", done.text());
            assert_eq!(done.header("idempotent-replayed"), replayed, "{key}");
        }
        assert_eq!(post("revoke", &[packed], body).status, 200, "{key}");
    }
}

#[test]
fn a_request_that_takes_longer_than_a_lease_is_not_done_by_another() {
    let (mut server, fault) = TestServer::failing();
    let options = OnceOptions {
        lease_secs: 4,
        ..server.app.once.options().clone()
    };
    let state = server.app.ledger.options().data_dir.join("state.db");
    server.app.once = Once::new(Box::new(SqliteOnce::new(&state)), options);
    server.app.clock = running;
    server.router = ::server::router(server.app.clone());
    let size = server.tree_size();
    let post = || server.keyed("/api/v1/runs", "k", &json!({}));
    std::thread::scope(|scope| {
        let hold = fault.hold();
        let first = scope.spawn(post);
        assert!(hold.met(), "it is never done");
        // Longer than the lease, which is long enough to be renewed in time on a slow machine.
        for _ in 0..10 {
            assert_eq!(post().problem(409), "idempotency_in_progress");
            std::thread::sleep(Duration::from_millis(500));
        }
        drop(hold);
        assert_eq!(first.join().unwrap().status, 201);
    });
    assert_eq!(post().header("idempotent-replayed"), "true");
    assert_eq!(server.tree_size(), size + 1);
}

/// A gzip member of stored blocks: no packer is needed for that.
fn flate2_like(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut parts = bytes.chunks(65_535).peekable();
    while let Some(part) = parts.next() {
        let length = u16::try_from(part.len()).unwrap();
        out.push(u8::from(parts.peek().is_none()));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(part);
    }
    let crc = bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    });
    out.extend_from_slice(&(!crc).to_le_bytes());
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
    out
}
