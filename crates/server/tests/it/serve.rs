use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use evidence::record::Role;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::codec::CompressionEncoding;

use crate::access::key;
use crate::limits::wait_for_bodies;
use crate::otlp::request;
use crate::server::TestServer;

pub(crate) struct Served {
    pub(crate) server: TestServer,
    http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
}

impl Served {
    pub(crate) fn new() -> Self {
        Self::of(TestServer::new())
    }

    pub(crate) fn of(server: TestServer) -> Self {
        let (http, grpc) = server.runtime.block_on(async {
            let bind = || TcpListener::bind("127.0.0.1:0");
            (bind().await.unwrap(), bind().await.unwrap())
        });
        let addresses = (http.local_addr().unwrap(), grpc.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = ::server::serve(server.app.clone(), http, Some(grpc), async {
            let _ = stopped.await;
        });
        let serving = server.runtime.handle().spawn(async { serving.await.unwrap() });
        Self {
            server,
            http: addresses.0,
            grpc: addresses.1,
            stop: Some(stop),
            serving: Some(serving),
        }
    }

    pub(crate) fn server(&self) -> &TestServer {
        &self.server
    }

    pub(crate) fn grpc_url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    pub(crate) fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        let served = self.serving.take().unwrap();
        self.server.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(25), served)
                .await
                .expect("drains in time")
                .unwrap();
        });
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.http).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(2))).unwrap();
        stream
    }

    /// Sends bytes and reads until the server closes.
    pub(crate) fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

#[test]
fn http_1_is_answered_on_the_main_port() {
    let mut served = Served::new();
    let answer = served.exchange(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("ok\n"),
        "{answer}"
    );
    let answer = served.exchange(b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let answer = served.exchange(b"nonsense\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let long = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "a".repeat(200_000)
    );
    let mut stream = served.connect();
    // The server may stop reading before the end.
    let _ = stream.write_all(long.as_bytes());
    let mut answer = [0; 12];
    if stream.read_exact(&mut answer).is_ok() {
        assert_eq!(&answer, b"HTTP/1.1 431");
    }
    served.stop();
}

#[test]
fn a_large_body_gets_its_answer_on_the_wire() {
    let mut served = Served::new();
    let mut stream = served.connect();
    let length = 65 * 1024 * 1024;
    write!(stream, "POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n").unwrap();
    let part = vec![b' '; 1024 * 1024];
    for _ in 0..65 {
        stream.write_all(&part).expect("the server reads on");
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    served.stop();
}

#[test]
fn an_exporter_of_http_at_the_port_of_grpc_is_told_so() {
    let mut served = Served::new();
    let mut stream = TcpStream::connect(served.grpc).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(2))).unwrap();
    let post =
        b"POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    stream.write_all(post).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
    assert!(answer.contains("gRPC") && answer.contains("--listen"), "{answer}");
    served.stop();
}

#[test]
fn grpc_spans_are_taken_plain_and_gzipped() {
    let mut served = Served::new();
    let url = format!("http://{}", served.grpc);
    served.server.runtime.block_on(async {
        let plain = TraceServiceClient::connect(url).await.unwrap();
        let mut zipped = plain.clone().send_compressed(CompressionEncoding::Gzip);
        let answer = plain.clone().export(request(true)).await.unwrap().into_inner();
        assert_eq!(answer.partial_success.unwrap().rejected_spans, 1);
        let answer = zipped.export(request(false)).await.unwrap().into_inner();
        assert_eq!(answer.partial_success, None);
        let mut large = request(false);
        large.resource_spans[0].scope_spans[0].spans[0].name = "x".repeat(17 * 1024 * 1024);
        let refusal = zipped.export(large.clone()).await.unwrap_err();
        assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal}");
        let refusal = plain.clone().export(large).await.unwrap_err();
        assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal}");
    });
    let steps = served.server.get("/api/v1/records?kind=trace.step").ok();
    assert_eq!(steps["items"].as_array().unwrap().len(), 1);
    served.stop();
}

#[test]
fn drain_finishes_the_request_that_is_under_way() {
    let mut served = Served::new();
    let mut slow = served.connect();
    let mut idle = served.connect();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut first = [0; 15];
    idle.read_exact(&mut first).unwrap();
    write!(slow, "POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{").unwrap();
    wait_for_bodies(&served.server, 1);
    let finishing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        slow.write_all(b"}").unwrap();
        let mut answer = String::new();
        slow.read_to_string(&mut answer).unwrap();
        answer
    });
    served.stop();
    let answer = finishing.join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(TcpStream::connect(served.http).is_err(), "no more is accepted");
}

#[test]
fn a_start_is_on_record_and_read_by_every_tenant() {
    let mut served = Served::new();
    let page = soon(&served.server, "STARTUP");
    assert_eq!(page["total"], 1);
    crate::schema::Schema::committed().assert("SystemRecordsResult", &page);
    let started = &page["items"][0];
    assert_eq!(
        (&started["component"], &started["severity"], &started["caused_by"]),
        (&"server".into(), &"INFO".into(), &"SYSTEM".into())
    );
    assert!(started["tenant_id"].is_null(), "it is the instance's");
    let made = served.server.get("/api/v1/logs/system?event_type=MIGRATION").ok();
    assert_eq!(made["items"][0]["details"]["from_version"], 0);
    let tenants = served
        .server
        .get("/api/v1/logs/system?event_type=TENANT_CREATED")
        .ok();
    assert_eq!(tenants["total"], 0, "which tenants there are is not told");
    served.stop();
}

#[test]
fn a_page_behind_an_offset_goes_on_where_it_ended_also_where_lists_are_merged() {
    let server = TestServer::new();
    for number in 0..5 {
        let record = serde_json::json!({ "component": "c", "event_type": "HEALTH", "severity": "INFO",
            "summary": number.to_string() });
        server.created("/api/v1/system-records", &record);
    }
    // The instance's records of its start are newer than all of the tenant's.
    let mut served = Served::of(server);
    let list = "/api/v1/logs/system";
    soon(&served.server, "STARTUP");
    let ids = |page: &serde_json::Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap().iter();
        items
            .map(|item| item["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let as_of = served.server.get(list).ok()["as_of"].clone();
    let all = ids(&served.server.get(&format!("{list}?limit=100&as_of={as_of}")).ok());
    assert!(all.len() >= 7, "{all:?}");
    for offset in 0..all.len() {
        let mut page = served
            .server
            .get(&format!("{list}?limit=2&as_of={as_of}&offset={offset}"))
            .ok();
        let mut paged = ids(&page);
        while let Some(cursor) = page["next_cursor"].as_str() {
            page = served.server.get(&format!("{list}?limit=2&cursor={cursor}")).ok();
            paged.extend(ids(&page));
        }
        assert_eq!(paged, all[offset..], "behind {offset}");
    }
    served.stop();
}

#[test]
fn settings_that_differ_from_those_of_the_last_start_are_on_record() {
    let start = |mut server: TestServer, settings: &[(&str, &str)]| {
        let settings = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        server.app.settings = Arc::new(settings.collect());
        let mut served = Served::of(server);
        served.stop();
        served.server.reopen_after(|_| {})
    };
    let changes = |server: &TestServer| server.get("/api/v1/logs/system?event_type=CONFIG_CHANGE").ok();
    let hash = |text: &str| "sha256:".to_owned() + &evidence::hex_string(&evidence::sha256(text.as_bytes()));
    // Redaction would leave markers of the first two, which differ from what is set and not from one another.
    let first = [
        ("oidc.roles", "admins@corp.example=admin"),
        ("policies.token", "sha256:00"),
        ("rate_limit", "none"),
        ("record.reads", "metadata"),
    ];
    let mut server = start(TestServer::new(), &first);
    server = start(server, &first);
    assert_eq!(changes(&server)["total"], 0, "nothing has changed");
    let second = [
        ("oidc.roles", "others@corp.example=admin"),
        ("policies.own", "sha256:00"),
        ("policies.token", "sha256:01"),
        ("record.reads", "none"),
    ];
    let server = start(server, &second);
    let page = changes(&server);
    assert_eq!(page["total"], 1);
    assert_eq!(
        page["items"][0]["details"],
        serde_json::json!({
            "after": { "oidc.roles": hash("others@corp.example=admin"), "policies.own": "sha256:00",
                "record.reads": "none", (hash("policies.token")): "sha256:01" },
            "before": { "oidc.roles": hash("admins@corp.example=admin"), "rate_limit": "none",
                "record.reads": "metadata", (hash("policies.token")): "sha256:00" },
        })
    );
}

#[test]
fn grpc_takes_keys_as_metadata() {
    let server = TestServer::new();
    let writer = key(&server, "default", Role::Writer);
    let reader = key(&server, "default", Role::Reader);
    let mut served = Served::of(server);
    let url = format!("http://{}", served.grpc);
    let (none, small, good) = served.server.runtime.block_on(async {
        let mut client = TraceServiceClient::connect(url).await.unwrap();
        let mut export = async |key: Option<&str>| {
            let mut asked = tonic::Request::new(request(false));
            if let Some(key) = key {
                let value = format!("Bearer {key}").parse().unwrap();
                asked.metadata_mut().insert("authorization", value);
            }
            client.export(asked).await.map_err(|refusal| refusal.code())
        };
        (
            export(None).await,
            export(Some(&reader)).await,
            export(Some(&writer)).await,
        )
    });
    assert_eq!(none.unwrap_err(), Code::Unauthenticated);
    assert_eq!(small.unwrap_err(), Code::PermissionDenied);
    assert!(good.unwrap().into_inner().partial_success.is_none());
    served.stop();
}

#[test]
fn what_was_noted_about_callers_is_in_the_ledger_after_a_clean_end() {
    let server = TestServer::new();
    let admin = key(&server, "default", Role::Admin);
    let mut served = Served::of(server);
    for _ in 0..20 {
        let asked = format!(
            "POST /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {admin}\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
        );
        assert!(served.exchange(asked.as_bytes()).starts_with("HTTP/1.1 201 "));
    }
    let asked = format!(
        "GET /api/v1/logs/llm-runs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {admin}\r\nConnection: close\r\n\r\n"
    );
    assert!(served.exchange(asked.as_bytes()).starts_with("HTTP/1.1 200 "));
    served.stop();
    // The ledger is closed; its store can still be read.
    let ledger = &served.server.app.ledger;
    let tenant = ledger.tenant("default").unwrap();
    let kinds = ["authorization.decision", "access.event"];
    let bodies: Vec<Vec<serde_json::Value>> = kinds
        .iter()
        .map(|kind| {
            let query = store::FacetQuery {
                facets: vec![evidence::facet::facet("kind", kind)],
                limit: 100,
                ..store::FacetQuery::default()
            };
            let leaves = ledger
                .store()
                .facet_find(tenant.tenant_no, &query)
                .unwrap()
                .leaves;
            let records = ledger.records(&tenant).read(&leaves).unwrap();
            records
                .iter()
                .map(|record| serde_json::from_slice(record.body.bytes().unwrap()).unwrap())
                .collect()
        })
        .collect();
    let writes: u64 = bodies[0]
        .iter()
        .filter(|body| body["action"] == "write")
        .map(|body| body["count"].as_u64().unwrap())
        .sum();
    assert_eq!(writes, 20);
    assert!(
        bodies[1]
            .iter()
            .any(|body| body["operation"] == "list_llm_run_records")
    );
}

/// What a list of system records holds once it holds something.
fn soon(server: &TestServer, event_type: &str) -> serde_json::Value {
    let list = format!("/api/v1/logs/system?event_type={event_type}");
    let mut page = serde_json::Value::Null;
    let found = comes(|| {
        page = server.get(&list).ok();
        page["total"] != 0
    });
    assert!(found, "{event_type} is not recorded");
    page
}

/// Whether it comes to hold: within seconds, which a slow machine has more of.
fn comes(mut holds: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > Duration::from_mins(2) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    true
}

#[test]
fn a_clean_stop_is_on_record() {
    let mut served = Served::new();
    soon(&served.server, "STARTUP");
    served.stop();
    let server = served.server.reopen_after(|_| {});
    let stops = server.get("/api/v1/logs/system?event_type=SHUTDOWN").ok();
    assert_eq!(stops["total"], 1);
    let stop = &stops["items"][0];
    assert_eq!(
        (&stop["severity"], &stop["tenant_id"]),
        (&"INFO".into(), &serde_json::Value::Null)
    );
}

#[test]
fn a_damaged_row_is_on_record_once_changes_health_and_is_known_after_a_restart() {
    let server = TestServer::new();
    server.run("r");
    server.complete("r");
    let server = server.reopen_after(|folder| {
        let connection = rusqlite::Connection::open(folder.join("deponent.db")).unwrap();
        let changed = connection
            .execute("UPDATE runs SET model = 'another'", [])
            .unwrap();
        assert_eq!(changed, 1);
    });
    let mut served = Served::of(server);
    let begun = served
        .server
        .post("/api/v1/verifications", &serde_json::json!({}));
    assert!(matches!(begun.status.as_u16(), 200 | 202), "{}", begun.text());
    let failed = soon(&served.server, "VERIFICATION_FAILED");
    let event = &failed["items"][0];
    assert_eq!(
        (&failed["total"], &event["severity"], &event["tenant_id"]),
        (&1.into(), &"CRITICAL".into(), &"default".into())
    );
    let first = event["details"]["first_finding"].as_str().unwrap();
    assert!(first.contains("runs.model"), "{first}");
    let health = soon(&served.server, "HEALTH_CHANGE");
    assert_eq!(health["items"][0]["details"]["status"], "unhealthy");
    served.stop();
    let changes = |server: &TestServer| {
        let page = server.get("/api/v1/logs/system?event_type=HEALTH_CHANGE").ok();
        page["total"].as_u64().unwrap()
    };
    let before = changes(&served.server);

    let mut served = Served::of(served.server.reopen_after(|_| {}));
    // Health is looked at after verification has said what it knows.
    let again = comes(|| changes(&served.server) > before);
    assert!(again, "it is still unhealthy");
    let failed = served
        .server
        .get("/api/v1/logs/system?event_type=VERIFICATION_FAILED")
        .ok();
    assert_eq!(failed["total"], 1, "what was on record is not recorded again");
    let integrity = served.server.get("/api/v1/logs/audit/integrity").ok();
    assert_eq!(integrity["integrity"]["status"], "tampered");
    let findings = integrity["integrity"]["findings"].to_string();
    assert!(findings.contains("runs.model"), "{findings}");
    served.stop();
}

#[test]
fn what_was_verified_before_a_recovery_is_not_said_of_the_ledger_after_it() {
    let server = TestServer::new();
    server.fill(20);
    let mut served = Served::of(server.without_mark());
    let head = |served: &Served| served.server.get("/api/v1/ledger/head").ok();
    let verified = comes(|| head(&served)["verified_size"].as_u64() >= Some(20));
    assert!(verified, "{}", head(&served));
    let app = &served.server.app;
    app.ledger
        .recover("default", "a copy was put back", (app.clock)())
        .unwrap();
    // Within seconds, not with the next pass; and at no time more is verified than there is.
    let known = comes(|| {
        let shown = head(&served);
        assert_eq!(shown["origin"], "deponent.local/default/1");
        let verified = shown["verified_size"].as_u64();
        assert!(verified <= shown["tree_size"].as_u64(), "{shown}");
        verified.is_some_and(|verified| verified > 0)
    });
    assert!(known, "{}", head(&served));
    served.stop();
}
