//! The test bed: a ledger on a folder of its own, drafts with sensible silence, and the whole auditor.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use evidence::canonical::Finite;
use evidence::record::{
    Environment, Facts, Otel, Provider, RunCompleted, RunStarted, Step, StepStatus, SystemRecord, TraceStep,
};
use evidence::{ActorType, Identity, Kind, Origin, SourceDomain, Timestamp, sha256};
use ledger::verify::{Level, Question, Report, verify};
use ledger::{
    Bind, Draft, EndRun, HighWater, INSTANCE, KeyFolder, Ledger, Options, Outcomes, Placed, Salts,
    SealedBody, SettleError, SubmitError, Tenant, TraceBind,
};
use store::sqlite::{Access, SqliteStore};
use store::{FaultStore, Store};
use tempfile::TempDir;

/// A ledger over a store that can be made to fail.
pub struct TestLedger {
    pub ledger: Ledger,
    pub fault: Arc<FaultStore>,
    clock: Arc<AtomicI64>,
    folder: Arc<TempDir>,
}

impl TestLedger {
    /// On a fresh folder.
    pub fn new() -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let clock = Arc::new(AtomicI64::new(time("2026-11-21T09:00:00Z").as_micros()));
        Self::open(folder, clock)
    }

    fn open(folder: Arc<TempDir>, clock: Arc<AtomicI64>) -> Self {
        Self::open_as(folder, clock, |_| {})
    }

    fn open_as(folder: Arc<TempDir>, clock: Arc<AtomicI64>, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::new(folder.path());
        change(&mut options);
        let lock = ledger::lock(&options).unwrap();
        let sqlite = SqliteStore::open(&options.database(), Access::ReadWrite).unwrap();
        let fault = Arc::new(FaultStore::new(Arc::new(sqlite)));
        let now = Timestamp::from_micros(clock.load(Ordering::Relaxed)).unwrap();
        let ledger =
            Ledger::open_with(options, Arc::clone(&fault) as Arc<dyn Store>, Some(lock), now).unwrap();
        Self {
            ledger,
            fault,
            clock,
            folder,
        }
    }

    /// Closes and opens again, as a restart does.
    pub fn reopen(self) -> Self {
        let (folder, clock) = (Arc::clone(&self.folder), Arc::clone(&self.clock));
        drop(self);
        Self::open(folder, clock)
    }

    /// Closes and opens again with other options.
    pub fn reopen_with(self, change: impl FnOnce(&mut Options)) -> Self {
        let (folder, clock) = (Arc::clone(&self.folder), Arc::clone(&self.clock));
        drop(self);
        Self::open_as(folder, clock, change)
    }

    /// Closes, lets `between` loose on the folder, opens again.
    pub fn reopen_after(self, between: impl FnOnce(&Path)) -> Self {
        let (folder, clock) = (Arc::clone(&self.folder), Arc::clone(&self.clock));
        drop(self);
        between(folder.path());
        Self::open(folder, clock)
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A moment later than all before, by a millisecond.
    pub fn now(&self) -> Timestamp {
        self.later(1)
    }

    /// A moment later than all before.
    pub fn later(&self, millis: i64) -> Timestamp {
        let micros = self.clock.fetch_add(millis * 1_000, Ordering::Relaxed) + millis * 1_000;
        Timestamp::from_micros(micros).unwrap()
    }

    pub fn tenant(&self, name: &str) -> Arc<Tenant> {
        self.ledger.tenant_create(name, self.now()).unwrap()
    }

    pub fn try_submit(&self, tenant: &Arc<Tenant>, drafts: Vec<Draft>) -> Result<Outcomes, SubmitError> {
        self.ledger.submit_blocking(tenant, drafts, self.now(), false)
    }

    pub fn submit(&self, tenant: &Arc<Tenant>, drafts: Vec<Draft>) -> Outcomes {
        self.try_submit(tenant, drafts).unwrap()
    }

    /// Submits one draft that must be taken.
    pub fn one(&self, tenant: &Arc<Tenant>, draft: Draft) -> Placed {
        self.submit(tenant, vec![draft]).remove(0).unwrap()
    }

    /// Submits drafts that must all be taken.
    pub fn all(&self, tenant: &Arc<Tenant>, drafts: Vec<Draft>) -> Vec<Placed> {
        self.submit(tenant, drafts)
            .into_iter()
            .map(Result::unwrap)
            .collect()
    }

    pub fn end(&self, tenant: &Arc<Tenant>, run_id: &str, how: &EndRun) -> Result<Placed, SettleError> {
        self.ledger.end_run(tenant, run_id, how, self.now())
    }

    pub fn complete(&self, tenant: &Arc<Tenant>, run_id: &str) -> Placed {
        self.end(tenant, run_id, &completed(RunCompleted::default()))
            .unwrap()
    }

    pub fn run_row(&self, tenant: &Tenant, run_id: &str) -> store::RunRow {
        self.ledger
            .store()
            .run_find(tenant.tenant_no, run_id)
            .unwrap()
            .unwrap()
    }

    /// Number of leaves.
    pub fn size(&self, tenant: &Tenant) -> u64 {
        self.ledger
            .store()
            .head_read(tenant.ledger().row.ledger_no)
            .unwrap()
            .size
            .as_u64()
    }

    /// Signs all that is not covered yet, of every ledger, so that nobody does half a second later.
    pub fn sign(&self) {
        for tenant in self.ledger.tenants() {
            self.ledger.checkpoint_now(&tenant);
        }
        let instance = self.ledger.tenant(INSTANCE).unwrap();
        self.ledger.checkpoint_now(&instance);
    }

    /// The whole auditor, over what is on disk.
    pub fn report(&self) -> Report {
        report(self.path())
    }

    /// The whole auditor must find nothing.
    #[track_caller]
    pub fn check(&self) {
        let report = self.report();
        assert_clean(&report);
        assert_eq!(report.level, Some(Level::ValidSelfSigned));
    }
}

impl Drop for TestLedger {
    fn drop(&mut self) {
        self.ledger.close();
    }
}

#[track_caller]
pub fn assert_clean(report: &Report) {
    let lines: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
    assert_eq!(
        (report.errors, report.warnings, report.undecided.len()),
        (0, 0, 0)
    );
    assert_eq!(report.exit_code(None), 0);
}

/// Verifies a data folder as `deponent verify --data-dir` does.
pub fn report(folder: &Path) -> Report {
    try_report(folder).unwrap()
}

pub fn try_report(folder: &Path) -> Result<Report, store::StoreError> {
    let options = Options::new(folder);
    let marks = HighWater::open(&options.high_water()).unwrap();
    let keys = KeyFolder::open(&options.keys()).unwrap();
    let store = SqliteStore::open(&options.database(), Access::ReadOnly)?;
    verify(
        &store,
        &Question {
            marks: Some(&marks),
            keys: Some(&keys),
            ..Question::default()
        },
    )
}

/// Copies a data folder as a backup does, while nobody submits to it. What is called `.new` is about to be renamed
/// into its place by who writes it, and may be gone.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else if target.extension().is_none_or(|end| end != "new") {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Replaces the database, and nothing else, by the one of another folder.
pub fn copy_database(from: &Path, to: &Path) {
    for name in ["deponent.db", "deponent.db-wal", "deponent.db-shm"] {
        let _ = std::fs::remove_file(to.join(name));
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

/// Every row of every projection, as text.
pub fn projections(folder: &Path) -> Vec<String> {
    let connection = rusqlite::Connection::open(database(folder)).unwrap();
    let mut dump = Vec::new();
    for table in ["tenants", "runs", "run_records", "traces", "facets", "pruned"] {
        let mut statement = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = statement.column_count();
        let mut rows = statement
            .query_map([], |row| {
                let values: Vec<rusqlite::types::Value> = (0..columns).map(|i| row.get(i).unwrap()).collect();
                Ok(format!("{table} {values:?}"))
            })
            .unwrap()
            .collect::<Result<Vec<_>, _>>()
            .unwrap();
        rows.sort();
        dump.append(&mut rows);
    }
    dump
}

pub fn database(folder: &Path) -> PathBuf {
    Options::new(folder).database()
}

/// Runs SQL on the database behind the program's back, triggers out of the way and back again.
pub fn tamper(folder: &Path, sql: &str) {
    let connection = rusqlite::Connection::open(database(folder)).unwrap();
    connection.pragma_update(None, "synchronous", "off").unwrap();
    tamper_on(&connection, |connection| connection.execute_batch(sql).unwrap());
}

/// The same with a closure.
pub fn tamper_on<T>(connection: &rusqlite::Connection, body: impl FnOnce(&rusqlite::Connection) -> T) -> T {
    let triggers: Vec<(String, String)> = connection
        .prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    for (name, _) in &triggers {
        connection.execute_batch(&format!("DROP TRIGGER {name}")).unwrap();
    }
    let out = body(connection);
    for (_, sql) in &triggers {
        connection.execute_batch(sql).unwrap();
    }
    out
}

pub fn time(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

pub fn salt() -> evidence::Salt {
    thread_local! {
        static SALTS: std::cell::RefCell<Salts> = std::cell::RefCell::default();
    }
    SALTS.with_borrow_mut(Salts::next_salt)
}

pub fn draft(kind: Kind, bind: Bind, facts: Facts, body: SealedBody) -> Draft {
    Draft {
        kind,
        bind,
        identity: None,
        content: None,
        trace_id: None,
        correlation_id: None,
        actor: (ActorType::Agent, None),
        occurred_at: time("2026-11-21T08:59:00Z"),
        source_domain: SourceDomain::Activity,
        source_component: "api",
        origin: Origin::Agent,
        body,
        facts,
        expect_run_seq: None,
    }
}

/// A run started by REST.
pub fn run(run_id: &str) -> Draft {
    run_of(
        run_id,
        RunStarted {
            agent_id: Some("planner".into()),
            source: "SDK".into(),
            ..RunStarted::default()
        },
    )
}

/// A run started by REST, as given.
pub fn run_of(run_id: &str, start: RunStarted) -> Draft {
    let content = sha256(&start.encode(None));
    let salt = salt();
    let body = start.encode(Some(&evidence::content_mac(&salt, &content)));
    let trace_id = format!("trace_{run_id}");
    let started_at = time("2026-11-21T08:59:00Z");
    let facts = start.facts(run_id, &trace_id, Some(run_id), started_at, false);
    let body = SealedBody::seal(Kind::RunStarted, salt, &body).unwrap();
    Draft {
        identity: Some(Identity::once(Kind::RunStarted)),
        content: Some(content),
        trace_id: Some(trace_id.into()),
        correlation_id: Some(run_id.into()),
        ..draft(
            Kind::RunStarted,
            Bind::NewRun(run_id.into()),
            Facts::RunStarted(facts),
            body,
        )
    }
}

fn step_body() -> Step {
    Step {
        step_index: None,
        skill_name: "search".into(),
        skill_id: None,
        params: b"{\"q\":1}".to_vec(),
        status: StepStatus::Success,
        outcome_category: "SUCCESS".into(),
        outcome_code: None,
        outcome_data: Some(b"{\"ok\":true}".to_vec()),
        cost_cents: Finite::new(0.5).unwrap(),
        duration_ms: Finite::new(12.5).unwrap(),
        retry_count: 0,
        source: "engine".into(),
        idempotency_key: None,
        replay_behavior: None,
        input_hash: None,
        output_hash: None,
        rng_state_before: None,
        tokens: None,
        inference: false,
        agent: None,
    }
}

/// A REST step.
pub fn step(run_id: &str, index: u32) -> Draft {
    step_of(run_id, index, |_| {})
}

/// A REST step, changed.
pub fn step_of(run_id: &str, index: u32, change: impl FnOnce(&mut TraceStep)) -> Draft {
    let mut step = TraceStep {
        step: step_body(),
        activity: None,
        provider: None,
        policy: None,
        otel: None,
    };
    step.step.step_index = Some(index);
    change(&mut step);
    let mut draft = step_draft(&step, Bind::Run(run_id.into()), time("2026-11-21T09:00:00Z"));
    draft.trace_id = Some(format!("trace_{run_id}").into());
    draft
}

fn step_draft(step: &TraceStep, bind: Bind, occurred_at: Timestamp) -> Draft {
    let mut content = Vec::new();
    step.encode(&[0; 32], &mut content);
    let content = sha256(&content);
    let salt = salt();
    let mut body = Vec::new();
    step.encode(&evidence::content_mac(&salt, &content), &mut body);
    let facts = step.facts(occurred_at);
    let identity = facts.identity();
    let body = SealedBody::seal(Kind::TraceStep, salt, &body).unwrap();
    Draft {
        identity: Some(identity),
        content: Some(content),
        occurred_at,
        ..draft(Kind::TraceStep, bind, Facts::Step(facts), body)
    }
}

/// A span, by what differs from another.
#[derive(Clone, Debug)]
pub struct Span {
    /// The trace, by one byte.
    pub trace: u8,
    pub span: u8,
    pub parent: Option<u8>,
    /// Milliseconds after 09:00:00.
    pub start: u64,
    /// 0: it has no end.
    pub end: u64,
    /// Names its run; else the trace id in hex.
    pub run_id: Option<String>,
    pub inference: bool,
    pub failed: bool,
    /// Anything, so that content differs.
    pub note: String,
    pub correlation_id: Option<String>,
}

impl Default for Span {
    fn default() -> Self {
        Self {
            trace: 1,
            span: 1,
            parent: None,
            start: 10,
            end: 20,
            run_id: None,
            inference: false,
            failed: false,
            note: String::new(),
            correlation_id: None,
        }
    }
}

impl Span {
    pub fn trace_id(&self) -> [u8; 16] {
        [self.trace; 16]
    }

    pub fn trace_hex(&self) -> String {
        format!("{:02x}", self.trace).repeat(16)
    }

    pub fn run_id(&self) -> String {
        self.run_id.clone().unwrap_or_else(|| self.trace_hex())
    }

    fn bind(&self) -> Bind {
        Bind::Trace(Arc::new(TraceBind {
            trace_id: self.trace_id(),
            run_id: self.run_id().into(),
            start: RunStarted {
                source: "SDK".into(),
                ..RunStarted::default()
            },
            started_at: self.at(self.start),
            correlation_id: self.correlation_id.as_deref().map(Into::into),
        }))
    }

    fn at(&self, millis: u64) -> Timestamp {
        time("2026-11-21T09:00:00Z")
            .checked_add_micros(i64::try_from(millis).unwrap() * 1_000)
            .unwrap()
    }

    fn nanos(&self, millis: u64) -> u64 {
        if millis == 0 {
            0
        } else {
            u64::try_from(self.at(millis).as_micros()).unwrap() * 1_000
        }
    }

    pub fn draft(&self) -> Draft {
        let mut step = step_body();
        step.source = "otlp".into();
        step.inference = self.inference;
        step.cost_cents = Finite::new(if self.inference { 0.25 } else { 0.0 }).unwrap();
        step.duration_ms = Finite::new(10.0).unwrap();
        if self.failed {
            (step.status, step.outcome_category) = (StepStatus::Failure, "ERROR".into());
        }
        let provider = self.inference.then(|| Provider {
            provider_name: "openai".into(),
            model_name: "gpt-5".into(),
            input_tokens: Some(100),
            output_tokens: Some(20),
            ..Provider::default()
        });
        let otel = Otel {
            trace_id: self.trace_id(),
            span_id: [self.span; 8],
            parent_span_id: self.parent.map(|parent| [parent; 8]),
            name: format!("span{}", self.note),
            kind: 1,
            start_unix_nano: self.nanos(self.start),
            end_unix_nano: self.nanos(self.end),
            attributes: b"{}".to_vec(),
            mapping: "otel-genai/1.41".into(),
            ..Otel::default()
        };
        let body = TraceStep {
            step,
            activity: None,
            provider,
            policy: None,
            otel: Some(otel),
        };
        Draft {
            trace_id: Some(self.trace_hex().into()),
            correlation_id: self.correlation_id.as_deref().map(Into::into),
            source_component: "otlp",
            ..step_draft(&body, self.bind(), self.at(self.start))
        }
    }

    /// What the span's trace ran in.
    pub fn environment(&self, service: &str) -> Draft {
        let environment = Environment {
            resource: format!("{{\"service.name\":\"{service}\"}}").into_bytes(),
            environment: Some("prod".into()),
            sdk_version: None,
            dropped_attributes_count: 0,
        };
        let mut body = Vec::new();
        environment.encode(&mut body);
        let kind = Kind::EvidenceEnvironment;
        Draft {
            identity: Some(environment.identity()),
            trace_id: Some(self.trace_hex().into()),
            source_component: "otlp",
            occurred_at: self.at(self.start),
            ..draft(
                kind,
                self.bind(),
                Facts::Other,
                SealedBody::seal(kind, salt(), &body).unwrap(),
            )
        }
    }
}

/// A record of no run.
pub fn system(summary: &str) -> Draft {
    let record = SystemRecord {
        component: "host".into(),
        event_type: "LOG".into(),
        severity: "INFO".into(),
        summary: summary.into(),
        ..SystemRecord::default()
    };
    system_of(&record)
}

/// A record of no run, as given.
pub fn system_of(record: &SystemRecord) -> Draft {
    let kind = Kind::SystemRecord;
    Draft {
        source_domain: SourceDomain::System,
        ..draft(
            kind,
            Bind::None,
            Facts::System(record.facts()),
            SealedBody::seal(kind, salt(), &record.encode()).unwrap(),
        )
    }
}

pub fn completed(end: RunCompleted) -> EndRun {
    let content = sha256(&end.encode(&[0; 32]));
    EndRun::Completed(end, content)
}

pub fn aborted(reason: &str) -> EndRun {
    EndRun::Aborted(reason.into(), sha256(reason.as_bytes()))
}
