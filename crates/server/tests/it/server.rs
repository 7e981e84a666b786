//! A server in a temporary folder, asked in process.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use bytes::Bytes;
use evidence::record::{Facts, TenantCreated};
use evidence::{ActorType, Kind, Origin, SourceDomain, Timestamp};
use http_body_util::BodyExt;
use ledger::{Bind, Draft, Ledger, Options, Receipt, Salts, SealedBody};
use serde_json::{Value, json};
use server::{App, Limits};
use store::sqlite::{Access, SqliteStore};
use store::{FaultStore, Store};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// 2026-01-02T03:04:05.000006Z
pub(crate) fn now() -> Timestamp {
    Timestamp::from_micros(1_767_323_045_000_006).unwrap()
}

pub(crate) struct TestServer {
    pub(crate) app: App,
    pub(crate) router: Router,
    pub(crate) runtime: Runtime,
    folder: Arc<TempDir>,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The JSON of a success.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        self.json()
    }

    /// The code of a refusal of that status, which is a whole problem document.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert!(problem["title"].is_string() && problem["detail"].is_string() && problem["type"].is_string());
        problem["code"].as_str().unwrap().to_owned()
    }
}

impl TestServer {
    pub(crate) fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    pub(crate) fn with_limits(limits: Limits) -> Self {
        Self::open(Arc::new(tempfile::tempdir().unwrap()), limits)
    }

    /// Closes it, does something to its folder, and opens that again.
    pub(crate) fn reopen_after(self, between: impl FnOnce(&Path)) -> Self {
        let folder = Arc::clone(&self.folder);
        drop(self);
        between(folder.path());
        Self::open(folder, Limits::default())
    }

    /// Opens it again without the mark of what was signed of `default`: that ledger counts as rolled back.
    pub(crate) fn without_mark(self) -> Self {
        self.without_mark_of("default")
    }

    /// The same of another tenant's ledger.
    pub(crate) fn without_mark_of(self, tenant_id: &str) -> Self {
        let name = format!("/{tenant_id}");
        self.reopen_after(|folder| {
            let path = folder.join("high-water.json");
            let mut marks: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let ledgers = marks["ledgers"].as_object_mut().unwrap();
            ledgers.retain(|origin, _| !origin.ends_with(&name));
            std::fs::write(&path, marks.to_string()).unwrap();
        })
    }

    fn open(folder: Arc<TempDir>, limits: Limits) -> Self {
        // The thread that takes up interrupted work is not waited for: it may hold the folder a moment longer.
        for _ in 0..100 {
            match Ledger::open(Options::new(folder.path()), now()) {
                Err(ledger::OpenError::Locked(_)) => std::thread::sleep(Duration::from_millis(50)),
                ledger => return Self::over(ledger.unwrap(), folder, limits),
            }
        }
        panic!("the folder stays locked");
    }

    /// A server whose store fails where it is told to, and waits.
    pub(crate) fn failing() -> (Self, Arc<FaultStore>) {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let options = Options::new(folder.path());
        let store = SqliteStore::open(&options.database(), Access::ReadWrite).unwrap();
        let fault = Arc::new(FaultStore::new(Arc::new(store)));
        let ledger = Ledger::open_with(options, Arc::clone(&fault) as Arc<dyn Store>, None, now()).unwrap();
        (Self::over(ledger, folder, Limits::default()), fault)
    }

    fn over(ledger: Ledger, folder: Arc<TempDir>, limits: Limits) -> Self {
        ledger.tenant_create("default", now()).unwrap();
        let app = App::with_limits(ledger, now, limits);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        Self {
            router: server::router(app.clone()),
            app,
            runtime,
            folder,
        }
    }

    pub(crate) fn send(&self, request: Request<Body>) -> Answer {
        self.runtime.block_on(async {
            let response = self.router.clone().oneshot(request).await.unwrap();
            let (parts, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            Answer {
                status: parts.status,
                headers: parts.headers,
                body,
            }
        })
    }

    pub(crate) fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "localhost:4318");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap())
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, &[], Body::empty())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.request(
            Method::POST,
            path,
            &[("content-type", "application/json")],
            body.to_string(),
        )
    }

    /// Sends spans of one trace to the server's OTLP door.
    #[track_caller]
    pub(crate) fn spans(&self, spans: &[Value]) -> Answer {
        let answer = self.post("/v1/traces", &export(spans));
        assert_eq!(answer.ok(), json!({}), "nothing is refused");
        answer
    }

    /// Adds so many records of no run, each a commit of its own.
    pub(crate) fn fill(&self, count: u32) -> Vec<Receipt> {
        let tenant = self.app.ledger.tenant("default").unwrap();
        (0..count)
            .map(|number| {
                let drafts = vec![system_record(number)];
                let outcomes = self
                    .app
                    .ledger
                    .submit_blocking(&tenant, drafts, now(), false)
                    .unwrap();
                outcomes[0].as_ref().unwrap().receipt
            })
            .collect()
    }

    /// Adds so many records of no run at once: in one commit, when nobody reads the trail.
    pub(crate) fn fill_at_once(&self, count: u32) {
        let tenant = self.app.ledger.tenant("default").unwrap();
        let drafts = (0..count).map(system_record).collect();
        self.app
            .ledger
            .submit_blocking(&tenant, drafts, now(), false)
            .unwrap();
    }

    pub(crate) fn sign(&self) {
        self.app
            .ledger
            .checkpoint_now(&self.app.ledger.tenant("default").unwrap());
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.app.ledger.close();
    }
}

fn system_record(number: u32) -> Draft {
    let created = TenantCreated {
        tenant_id: format!("t{number}"),
        tenant_no: number,
    };
    let body = created.to_record().encode();
    Draft {
        kind: Kind::SystemRecord,
        bind: Bind::None,
        identity: None,
        content: None,
        trace_id: None,
        correlation_id: None,
        actor: (ActorType::System, None),
        occurred_at: now(),
        source_domain: SourceDomain::System,
        source_component: "test",
        origin: Origin::System,
        body: SealedBody::seal(Kind::SystemRecord, Salts::default().next_salt(), &body).unwrap(),
        facts: Facts::System(created.to_record().facts()),
        expect_run_seq: None,
    }
}

/// An OTLP/JSON request of these spans.
pub(crate) fn export(spans: &[Value]) -> Value {
    json!({ "resourceSpans": [{
        "resource": { "attributes": [{ "key": "service.name", "value": { "stringValue": "agent" } }] },
        "scopeSpans": [{ "scope": { "name": "test" }, "spans": spans }],
    }] })
}

/// A span with a parent, so that it does not end its run.
pub(crate) fn span(trace: u8, span: u16) -> Value {
    json!({
        "traceId": format!("{trace:02x}").repeat(16),
        "spanId": format!("{span:016x}"),
        "parentSpanId": "ffffffffffffffff",
        "name": format!("step {span}"),
        "startTimeUnixNano": (1_767_323_000_000_000_000_u64 + u64::from(span)).to_string(),
        "endTimeUnixNano": (1_767_323_001_000_000_000_u64 + u64::from(span)).to_string(),
        "attributes": [{ "key": "gen_ai.tool.name", "value": { "stringValue": "search" } }],
    })
}
