use axum::body::Body;
use axum::http::{Method, Request, Uri};

use crate::server::TestServer;

#[test]
fn a_request_id_is_echoed_and_made_when_there_is_none() {
    let server = TestServer::new();
    let with = |id: &str| server.request(Method::GET, "/healthz", &[("x-request-id", id)], Body::empty());
    assert_eq!(with("abc-1").header("x-request-id"), "abc-1");
    assert_eq!(with(&"x".repeat(128)).header("x-request-id"), "x".repeat(128));
    for bad in ["", "a b", &"x".repeat(129)] {
        let made = with(bad).header("x-request-id").to_owned();
        assert_eq!((made.len(), made.as_bytes()[14]), (36, b'7'), "{made}");
    }
    assert_eq!(server.get("/nowhere").header("x-request-id").len(), 36);
}

#[test]
fn only_loopback_hosts_are_answered() {
    let server = TestServer::new();
    let with = |host: &str| server.request(Method::GET, "/healthz", &[("host", host)], Body::empty());
    for good in [
        "localhost",
        "localhost:4318",
        "127.0.0.1:1",
        "127.1.2.3",
        "[::1]:4318",
    ] {
        assert_eq!(with(good).status, 200, "{good}");
    }
    for bad in [
        "evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1:4318",
        "[::2]",
        "0.0.0.0:4318",
    ] {
        assert_eq!(with(bad).problem(403), "foreign_host", "{bad}");
    }
    // What ends local mode is said to who asks from another machine.
    let said = with("10.0.0.1:4318").json()["detail"].to_string();
    assert!(said.contains("`deponent key create`"), "{said}");
    let none = Request::builder().uri("/healthz").body(Body::empty()).unwrap();
    assert_eq!(server.send(none).problem(403), "foreign_host");
    // HTTP/2 names the host in the URI.
    let authority = Request::builder().uri(Uri::from_static("http://evil.example/healthz"));
    assert_eq!(
        server.send(authority.body(Body::empty()).unwrap()).problem(403),
        "foreign_host"
    );
}

#[test]
fn only_the_own_origin_is_answered() {
    let server = TestServer::new();
    let with = |origin: &str| {
        server.request(
            Method::GET,
            "/healthz",
            &[("host", "localhost:4318"), ("origin", origin)],
            Body::empty(),
        )
    };
    assert_eq!(with("http://localhost:4318").status, 200);
    for bad in [
        "https://evil.example",
        "null",
        "http://localhost:4319",
        "http://localhost:4318.evil.example",
        "",
    ] {
        assert_eq!(with(bad).problem(403), "foreign_origin", "{bad}");
    }
}

#[test]
fn unknown_routes_and_methods_are_problems() {
    let server = TestServer::new();
    assert_eq!(server.get("/nowhere").problem(404), "not_found");
    let nowhere = server.get("/api/v1/nowhere");
    assert_eq!(nowhere.problem(404), "not_found");
    // A path that was mistyped is told from a record that is not there.
    let absent = server.get("/api/v1/traces/nowhere");
    assert_eq!(absent.problem(404), "not_found");
    assert_ne!(nowhere.json()["detail"], absent.json()["detail"]);
    assert!(nowhere.json()["detail"].to_string().contains("/api/docs"));
    let answer = server.request(Method::DELETE, "/api/v1/ledger/head", &[], Body::empty());
    assert_eq!(answer.problem(405), "method_not_allowed");
    assert!(answer.header("allow").contains("GET"), "{:?}", answer.headers);
}

#[test]
fn a_uri_that_is_too_long_is_refused() {
    let server = TestServer::new();
    assert_eq!(
        server
            .get(&format!("/healthz?x={}", "a".repeat(9_000)))
            .problem(414),
        "uri_too_long"
    );
}
