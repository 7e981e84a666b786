//! What every handler is given.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use evidence::Timestamp;
use ledger::once::{LEASE_SECS_DEFAULT, OnOutage, Once, OnceOptions};
use ledger::own::Clock;
use ledger::{Ledger, LedgerInfo, Salts, Tenant};
use store::sqlite::SqliteOnce;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;

use crate::ApiError;
use crate::access::{Access, Levels, Policies};
use crate::answers::ANSWERS_BYTES_MAX;
use crate::api::lineage::LOGS_MAX;
use crate::body::Budget;
use crate::ids;
use crate::metrics::RequestCounts;
use crate::oidc::Oidc;
use crate::tls::Tls;
use crate::turns::Turns;
use crate::verifications::Verifications;

/// Limits of requests, each with its reason.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest request body after decompression: an OTLP exporter's default batch of 512 spans is near
    /// 1 MiB, so 16 MiB refuses nothing that is meant (SPEC 11.5).
    pub body_bytes_max: usize,
    /// Bodies in flight, all together, and the values that those of JSON are read as: with the queue and the caches the server stays below 256 MiB (SPEC 11.5).
    pub bodies_in_flight_bytes_max: usize,
    /// Longest wait for the next bytes of a body: a client that stalls holds what it has sent so far.
    pub body_idle: Duration,
    /// Longest time a body may take: 16 MiB in it are 2.2 Mbit/s.
    pub body_time: Duration,
    /// How long an HTTP/2 connection may stay on which nothing goes on: clients keep one for all they do, and exporters of
    /// metrics export each minute. Who is silent for longer just connects anew, a round trip or two.
    pub http2_idle: Duration,
    /// Longest URI: an id of 256 bytes percent-encoded thrice is below 1 KiB, a cursor too.
    pub uri_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 16 * 1024 * 1024,
            bodies_in_flight_bytes_max: 64 * 1024 * 1024,
            body_idle: Duration::from_secs(10),
            body_time: Duration::from_mins(1),
            http2_idle: Duration::from_mins(2),
            uri_bytes_max: 8 * 1024,
        }
    }
}

/// What is known of the verification of one tenant's ledger. Filled by the background verifier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// The tenant.
    pub tenant_id: Arc<str>,
    /// The origin of the ledger that was verified: after a recovery the tenant's is another.
    pub origin: String,
    /// Leaves verified.
    pub verified_size: u64,
    /// When the last pass over new leaves ended that found nothing.
    pub verified_at: Option<Timestamp>,
    /// When the last full scrub ended.
    pub last_full_scrub_at: Option<Timestamp>,
    /// Findings of the last pass that found any.
    pub findings: u64,
    /// What a pass found wrong, in a few words; `None`: nothing.
    pub damaged: Option<String>,
    /// No incremental pass has ended yet, nor found anything: the server is not ready.
    pub pending: bool,
}

/// What every handler is given: one pointer, as each layer before a handler takes a copy.
#[derive(Clone, Debug)]
pub struct App(Arc<Shared>);

/// What an [`App`] points to. Its fields are set before the first request; who sets one later sets it for his own copy.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The ledger service.
    pub ledger: Ledger,
    /// Limits of requests.
    pub limits: Limits,
    /// Reads the clock: called once a request, at its entry.
    pub clock: fn() -> Timestamp,
    /// Only loopback addresses are listened on: while there are no keys this is local mode.
    pub local: bool,
    /// What decides and notes.
    pub access: Arc<Access>,
    /// Keys that are used once: idempotency and replay.
    pub once: Once,
    /// Whose tokens let people in; `None`: only keys do.
    pub oidc: Option<Arc<Oidc>>,
    /// `/tlog` needs no key, of any tenant but the instance.
    pub tlog_public: bool,
    /// What ports speak TLS by; `None`: clear text.
    pub tls: Option<Tls>,
    /// Verification by tenant, written by the background verifier; empty while there is none.
    pub verification: Arc<RwLock<Vec<Verification>>>,
    /// Why the server is not ready though its ledger is, e.g. while it drains. Written by [`crate::serve`].
    pub(crate) draining: Arc<std::sync::atomic::AtomicBool>,
    /// Settings by name, as the server's start puts them on record: nothing secret.
    pub settings: Arc<BTreeMap<String, String>>,
    pub(crate) verifications: Arc<Verifications>,
    pub(crate) budget: Budget,
    /// Of answers that wait to be read.
    pub(crate) answers: Budget,
    pub(crate) turns: Turns,
    /// Large JSON bodies are parsed one at a time: one may need most of the budget for its values.
    pub(crate) large_bodies: Arc<Semaphore>,
    /// Large jobs are judged, and their evidence gathered, one at a time: that takes several times what they say. Who
    /// holds a job waits for it, so it is none that who waits for a job may hold.
    pub(crate) large_audits: Arc<Semaphore>,
    /// Audit logs that are read as streams.
    pub(crate) lineage_logs: Arc<Semaphore>,
    pub(crate) requests: Arc<RequestCounts>,
}

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl std::ops::DerefMut for App {
    fn deref_mut(&mut self) -> &mut Shared {
        Arc::make_mut(&mut self.0)
    }
}

impl App {
    /// An app in local mode over a ledger, with the default limits.
    pub fn new(ledger: Ledger, clock: fn() -> Timestamp) -> Self {
        Self::with_limits(ledger, clock, Limits::default())
    }

    /// An app in local mode over a ledger.
    ///
    /// # Panics
    /// Never: the shipped policies are valid, which a test sees to.
    #[allow(clippy::expect_used)]
    pub fn with_limits(ledger: Ledger, clock: fn() -> Timestamp, limits: Limits) -> Self {
        let policies = Policies::load(None).expect("the shipped policies are valid");
        Self(Arc::new(Shared {
            access: Access::new(policies, Levels::default(), None),
            once: embedded_once(&ledger),
            ledger,
            limits,
            clock,
            local: true,
            oidc: None,
            tls: None,
            tlog_public: false,
            verification: Arc::default(),
            draining: Arc::default(),
            settings: Arc::default(),
            verifications: Arc::default(),
            budget: Budget::new(limits.bodies_in_flight_bytes_max),
            answers: Budget::new(ANSWERS_BYTES_MAX),
            turns: Turns::default(),
            large_bodies: Arc::new(Semaphore::new(1)),
            large_audits: Arc::new(Semaphore::new(1)),
            lineage_logs: Arc::new(Semaphore::new(LOGS_MAX)),
            requests: Arc::default(),
        }))
    }

    /// For Deponent's own work.
    pub(crate) fn own_clock(&self) -> Clock {
        Clock {
            now: self.clock,
            new_id: ids::uuid_v7,
        }
    }

    /// What is known of the verification of a ledger that is written to. Of an epoch before it nothing is: what was
    /// verified then says nothing of the ledger that came after a recovery.
    pub fn verification_of(&self, ledger: &LedgerInfo) -> Option<Verification> {
        let all = self.verification.read().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .find(|one| *one.tenant_id == *ledger.row.tenant_id && one.origin == ledger.row.origin)
            .cloned()
    }

    /// Whether a tenant was made, or began its next epoch, since the verifier last said how far it is.
    pub(crate) fn has_unknown_tenant(&self) -> bool {
        let tenants = self.ledger.tenants();
        tenants
            .iter()
            .any(|tenant| self.verification_of(&tenant.ledger()).is_none())
    }

    /// Local mode: no keys were ever made, nobody signs in by token, and only a loopback host is answered.
    pub fn is_local(&self) -> bool {
        self.local && self.oidc.is_none() && !self.ledger.api_keys().any()
    }

    /// Makes records of what the recorder has noted so far.
    ///
    /// # Errors
    /// 503: some tenant's ledger takes nothing now. The others' notes are written all the same.
    pub async fn flush_access(&self) -> Result<(), ApiError> {
        let (access, at) = (Arc::clone(&self.access), (self.clock)());
        self.blocking(move |ledger| {
            let mut unwritten = access.recorder.flush(ledger, at, false).into_iter();
            match unwritten.find(|unwritten| unwritten.tried) {
                Some(unwritten) => Err(unwritten.error.into()),
                None => Ok(()),
            }
        })
        .await
    }

    /// The same for who reads what is noted of a tenant: other tenants' ledgers are no concern of his.
    pub(crate) async fn flush_access_of(&self, tenant: &Tenant) -> Result<(), ApiError> {
        let (access, at, tenant_no) = (Arc::clone(&self.access), (self.clock)(), tenant.tenant_no);
        self.blocking(move |ledger| {
            match access.recorder.flush_of(ledger, at, tenant_no).into_iter().next() {
                Some(unwritten) => Err(unwritten.error.into()),
                None => Ok(()),
            }
        })
        .await
    }

    /// Makes a record of what was sent. That takes some ten microseconds, less than leaving the thread and coming back;
    /// of a large body, and where a tenant's own patterns are looked for, it is done beside the async threads.
    ///
    /// # Errors
    /// Those of the work; a panic in it is an internal error.
    pub(crate) async fn packing<T: Send + 'static>(
        &self,
        mut salts: Salts,
        is_large: bool,
        work: impl FnOnce(&mut Salts) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        if is_large || salts.rules().has_own_patterns() {
            self.blocking(move |_| work(&mut salts)).await
        } else {
            work(&mut salts)
        }
    }

    /// Reads a whole run, or bodies of any length: in turn with others of the tenant.
    ///
    /// # Errors
    /// As [`App::blocking`].
    pub(crate) async fn reading<T: Send + 'static>(
        &self,
        tenant_no: u32,
        work: impl FnOnce(&Ledger) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let _turn = self.turns.reading(tenant_no).await?;
        self.blocking(work).await
    }

    /// Runs something that blocks (the store, hashing) beside the async threads, when it is its turn.
    ///
    /// # Errors
    /// [`ApiError`] of the work itself; a panic in it is an internal error.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Ledger) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let _turn = self.turns.blocking().await?;
        self.beside(work).await
    }

    /// The same of the server's own passes, which wait for no turn: there are few.
    pub(crate) async fn beside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Ledger) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let multi =
            Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
        if multi {
            // On this thread, while another takes over what else it has to do: going to another thread and back
            // costs two waits for a processor, which on a busy machine are longer than most reads.
            let work = std::panic::AssertUnwindSafe(|| work(&self.ledger));
            return tokio::task::block_in_place(|| std::panic::catch_unwind(work))
                .unwrap_or_else(|_| Err(ApiError::internal(&"a handler panicked")));
        }
        let ledger = self.ledger.clone();
        match tokio::task::spawn_blocking(move || work(&ledger)).await {
            Ok(result) => result,
            Err(error) => Err(ApiError::internal(&error)),
        }
    }
}

/// Idempotency keys in the data folder's `state.db`.
fn embedded_once(ledger: &Ledger) -> Once {
    let folder = &ledger.options().data_dir;
    let options = OnceOptions {
        key_file: folder.join("keys").join("once.key"),
        key_is_named: false,
        lease_secs: LEASE_SECS_DEFAULT,
        on_outage: OnOutage::Refuse,
    };
    Once::new(Box::new(SqliteOnce::new(&folder.join("state.db"))), options)
}

/// When the request was received; put there by the outermost layer.
#[derive(Clone, Copy, Debug)]
pub struct Received(pub Timestamp);

/// The request's id, given by the client or made by the outermost layer; echoed as `x-request-id`.
#[derive(Clone, Debug)]
pub struct RequestId(pub Arc<str>);

impl<S: Send + Sync> FromRequestParts<S> for Received {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts
            .extensions
            .get::<Self>()
            .copied()
            .ok_or_else(|| ApiError::internal(&"no entry layer"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RequestId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| ApiError::internal(&"no entry layer"))
    }
}
