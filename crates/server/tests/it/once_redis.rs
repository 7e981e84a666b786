//! What each policy promises over a real Redis: away, back again, emptied, and one that may forget.
//!
//! Without `redis-server` on the path these tests say so and end; `scripts/test` installs it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ledger::once::{OnOutage, Once, OnceOptions};
use serde_json::{Value, json};
use store::redis::{RedisAof, RedisClock, RedisOnce};
use store::sqlite::StateDb;

use crate::redis_server::RedisServer;
use crate::server::TestServer;

const CHECK: &str = "/api/v1/idempotency/k/check";

/// With an append-only file (`yes`) or not, each write on disk.
fn redis(aof: &str) -> Option<RedisServer> {
    RedisServer::start(&["--appendonly", aof, "--appendfsync", "always"])
}

impl RedisServer {
    fn flush(&self) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(b"FLUSHALL\r\n").unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"+OK\r\n");
    }

    /// A server whose keys are kept there.
    fn server(&self, aof: RedisAof, on_outage: OnOutage) -> TestServer {
        let mut server = TestServer::new();
        let state = server.app.ledger.options().data_dir.join("state.db");
        let backend = RedisOnce::new(
            &self.url(),
            RedisClock::Redis,
            aof,
            StateDb::open(&state).unwrap(),
        )
        .unwrap();
        let options = OnceOptions {
            on_outage,
            ..server.app.once.options().clone()
        };
        server.app.once = Once::new(Box::new(backend), options);
        server.router = ::server::router(server.app.clone());
        server
    }
}

fn bypassed(server: &TestServer) -> Value {
    let path = "/api/v1/logs/system?event_type=IDEMPOTENCY_BYPASSED";
    server.get(path).ok()["total"].clone()
}

/// Asks until the server has found its Redis again.
fn until_answered(server: &TestServer, request: &Value) -> Value {
    let until = Instant::now() + Duration::from_mins(2);
    loop {
        let answer = server.post(CHECK, request);
        if answer.status == 200 && answer.json()["bypassed"] != true {
            return answer.json();
        }
        assert!(Instant::now() < until, "{}", answer.text());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn by_default_nothing_passes_while_redis_is_away() {
    let Some(mut redis) = redis("yes") else {
        return;
    };
    let server = redis.server(RedisAof::Required, OnOutage::Refuse);
    let request = json!({ "request": 1 });
    assert_eq!(server.post(CHECK, &request).ok()["result"], "new");
    redis.kill();
    for _ in 0..3 {
        assert_eq!(
            server.post(CHECK, &request).problem(503),
            "idempotency_unavailable"
        );
    }
    assert_eq!(bypassed(&server), 0);
    redis.restart_after_kill();
    assert_eq!(until_answered(&server, &request)["result"], "duplicate");
}

#[test]
fn what_the_operator_lets_pass_is_on_record_and_what_was_known_is_known_again() {
    let Some(mut redis) = redis("yes") else {
        return;
    };
    let server = redis.server(RedisAof::Required, OnOutage::Allow);
    let request = json!({ "request": 1 });
    assert_eq!(server.post(CHECK, &request).ok()["result"], "new");
    redis.kill();
    let said = server.post(CHECK, &request).ok();
    assert_eq!((&said["is_new"], &said["bypassed"]), (&json!(true), &json!(true)));
    assert_eq!(bypassed(&server), 1);
    redis.restart_after_kill();
    assert_eq!(until_answered(&server, &request)["result"], "duplicate");
}

#[test]
fn a_redis_that_was_emptied_is_no_outage_that_could_pass() {
    let Some(redis) = redis("yes") else { return };
    let server = redis.server(RedisAof::Required, OnOutage::Allow);
    let request = json!({ "request": 1 });
    assert_eq!(server.post(CHECK, &request).ok()["result"], "new");
    redis.flush();
    for _ in 0..3 {
        assert_eq!(server.post(CHECK, &request).problem(503), "idempotency_data_lost");
    }
    assert_eq!(bypassed(&server), 0);
}

#[test]
fn a_redis_that_may_forget_answers_nothing_unless_the_operator_accepts_it() {
    let Some(redis) = redis("no") else { return };
    let request = json!({ "request": 1 });
    let strict = redis.server(RedisAof::Required, OnOutage::Refuse);
    assert_eq!(
        strict.post(CHECK, &request).problem(503),
        "idempotency_unavailable"
    );
    let why = strict
        .runtime
        .block_on(strict.app.once.answers(crate::server::now()));
    assert!(why.unwrap_err().to_string().contains("appendonly yes"));
    let lenient = redis.server(RedisAof::Optional, OnOutage::Refuse);
    assert_eq!(lenient.post(CHECK, &request).ok()["result"], "new");
}
