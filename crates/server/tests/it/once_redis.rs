//! What each policy promises over a real Redis: away, back again, emptied, and one that may forget.
//!
//! Without `redis-server` on the path these tests say so and end; `scripts/test` installs it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ledger::once::{OnOutage, Once, OnceOptions};
use serde_json::{Value, json};
use store::redis::{RedisAof, RedisClock, RedisOnce};
use store::sqlite::StateDb;
use tempfile::TempDir;

use crate::server::TestServer;

const CHECK: &str = "/api/v1/idempotency/k/check";

struct Redis {
    folder: TempDir,
    port: u16,
    aof: &'static str,
    child: Child,
}

impl Redis {
    /// `None`: there is no redis-server on this machine.
    fn start(aof: &'static str) -> Option<Self> {
        if Command::new("redis-server").arg("--version").output().is_err() {
            eprintln!("redis-server is not installed: nothing was tested");
            return None;
        }
        let folder = folder_of_redis();
        // Bound and let go: somebody else may take it in between.
        let spawned = |_| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            drop(listener);
            Some((port, spawn(&folder, port, aof)?))
        };
        let (port, child) = (0..20).find_map(spawned).expect("redis-server does not start");
        Some(Self {
            folder,
            port,
            aof,
            child,
        })
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self) {
        let until = Instant::now() + Duration::from_mins(2);
        self.child = loop {
            if let Some(child) = spawn(&self.folder, self.port, self.aof) {
                break child;
            }
            assert!(Instant::now() < until, "somebody else keeps its port");
            std::thread::sleep(Duration::from_millis(20));
        };
    }

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
        let url = format!("redis://127.0.0.1:{}", self.port);
        let backend = RedisOnce::new(&url, RedisClock::Redis, aof, StateDb::open(&state).unwrap()).unwrap();
        let options = OnceOptions {
            on_outage,
            ..server.app.once.options().clone()
        };
        server.app.once = Once::new(Box::new(backend), options);
        server.router = ::server::router(server.app.clone());
        server
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In memory, where there is such a folder: what keeps a disk busy for a second would pass for a Redis that is away.
fn folder_of_redis() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// `None`: it has ended, as somebody else has the port.
#[allow(clippy::zombie_processes)] // whoever gets it waits for it, when it is dropped
fn spawn(folder: &TempDir, port: u16, aof: &str) -> Option<Child> {
    let mut child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .args(["--appendonly", aof, "--appendfsync", "always", "--dir"])
        .arg(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_mins(2);
    while !answers(&child, port) {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        if Instant::now() > until {
            let _ = child.kill();
            let _ = child.wait();
            panic!("redis-server does not answer");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(child)
}

/// Whether it is this one that answers, and has read its data: another may have got the port meanwhile.
fn answers(child: &Child, port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    if stream.write_all(b"PING\r\nINFO server\r\n").is_err() {
        return false;
    }
    let own = format!("\r\nprocess_id:{}\r\n", child.id());
    let (mut said, mut part) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = stream.read(&mut part) {
        said.extend_from_slice(&part[..n]);
        let said = String::from_utf8_lossy(&said);
        if !said.starts_with("+PONG") {
            return false;
        }
        if said.contains(&own) {
            return true;
        }
    }
    false
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
    let Some(mut redis) = Redis::start("yes") else {
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
    redis.start_again();
    assert_eq!(until_answered(&server, &request)["result"], "duplicate");
}

#[test]
fn what_the_operator_lets_pass_is_on_record_and_what_was_known_is_known_again() {
    let Some(mut redis) = Redis::start("yes") else {
        return;
    };
    let server = redis.server(RedisAof::Required, OnOutage::Allow);
    let request = json!({ "request": 1 });
    assert_eq!(server.post(CHECK, &request).ok()["result"], "new");
    redis.kill();
    let said = server.post(CHECK, &request).ok();
    assert_eq!((&said["is_new"], &said["bypassed"]), (&json!(true), &json!(true)));
    assert_eq!(bypassed(&server), 1);
    redis.start_again();
    assert_eq!(until_answered(&server, &request)["result"], "duplicate");
}

#[test]
fn a_redis_that_was_emptied_is_no_outage_that_could_pass() {
    let Some(redis) = Redis::start("yes") else { return };
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
    let Some(redis) = Redis::start("no") else { return };
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
