//! A draft: a record before it has a place.
//!
//! What costs time is done here, in the sender's thread: the body is encoded,
//! committed to and packed before the sequencer sees it. What depends on the
//! place (leaf index, run_seq, the run of a known trace) is not part of the body.

use std::borrow::Cow;
use std::sync::Arc;

use evidence::record::{BODY_BYTES_MAX, Facts, RunStarted};
use evidence::redact::{Redactor, TooDeep};
use evidence::{
    Actor, ActorType, Header, Identity, Kind, Origin, RecordId, RunPlace, Salt, SourceDomain, Timestamp,
    canonical,
};
use store::codec;

/// A record before it has a place in the ledger.
#[derive(Debug)]
pub struct Draft {
    /// What it is.
    pub kind: Kind,
    /// The run it belongs to.
    pub bind: Bind,
    /// By which it is known when sent again; `None`: each submission is a record of its own.
    pub identity: Option<Identity>,
    /// SHA-256 of what was sent, compared when the identity is known already.
    pub content: Option<[u8; 32]>,
    /// Stands in the header: a W3C id in hex, or `trace_<run_id>`.
    pub trace_id: Option<Arc<str>>,
    /// Stands in the header.
    pub correlation_id: Option<Arc<str>>,
    /// Stands in the header, without id for a human.
    pub actor: (ActorType, Option<Arc<str>>),
    /// When it happened.
    pub occurred_at: Timestamp,
    /// Stands in the header.
    pub source_domain: SourceDomain,
    /// Stands in the header, e.g. `otlp`, `api`.
    pub source_component: &'static str,
    /// Stands in the header.
    pub origin: Origin,
    /// The body, sealed.
    pub body: SealedBody,
    /// What the body says to projections.
    pub facts: Facts,
    /// The run as the writer saw it; as another it is a rejection ([`crate::Rejection::RunMoved`]).
    pub expect_run_seq: Option<RunSeen>,
}

/// What a record that is made of a run's other records was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunSeen {
    /// The run's records, and so the record's own run_seq.
    pub run_seq: u64,
    /// [`crate::Tenant::erasures`] before the first of them was read. An erasure adds nothing to the run; what is made of
    /// a body must not be written after it has gone. One from another run does not matter.
    pub erasures: u64,
}

/// How a draft finds its run.
#[derive(Debug)]
pub enum Bind {
    /// A record of no run.
    None,
    /// The run must exist ([`crate::Rejection::RunUnknown`]).
    Run(Arc<str>),
    /// This is the run's first record; the trace named in the draft becomes its own.
    NewRun(Arc<str>),
    /// The trace's run; if the trace is new, `run_id` (made with a `run.started` of its own when absent too).
    Trace(Arc<TraceBind>),
}

/// How the spans of one trace find their run.
#[derive(Debug)]
pub struct TraceBind {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The run of a trace not seen before: named by resource or span, else the trace id in hex.
    pub run_id: Arc<str>,
    /// The first record of a run not seen before.
    pub start: RunStarted,
    /// Its start, by the sender's clock.
    pub started_at: Timestamp,
    /// Stands in its header.
    pub correlation_id: Option<Arc<str>>,
}

/// A body that is ready to be stored: encoded, committed to, packed.
#[derive(Debug)]
pub struct SealedBody {
    /// Key of the commitment.
    pub salt: Salt,
    /// Stands in the header.
    pub commitment: [u8; 32],
    /// As stored.
    pub packed: Vec<u8>,
    /// Redaction changed it, so that what its maker knew of it ([`Draft::facts`]) must be read anew.
    pub redacted: bool,
}

/// A body that a record cannot hold.
#[derive(Debug, thiserror::Error)]
pub enum BodyTooLarge {
    /// Longer than [`BODY_BYTES_MAX`].
    #[error("the body has {0} bytes, a record holds at most {BODY_BYTES_MAX}")]
    Bytes(usize),
    /// It cannot be looked through for secrets.
    #[error("the body is {0}")]
    Depth(#[from] TooDeep),
}

impl SealedBody {
    /// Seals canonical bytes under a fresh salt, after redaction by the built-in rules.
    pub fn seal(kind: Kind, salt: Salt, body: &[u8]) -> Result<Self, BodyTooLarge> {
        Self::seal_by(Redactor::standard(), kind, salt, body)
    }

    /// Seals canonical bytes under a fresh salt, after redaction: the one place that every body passes.
    pub fn seal_by(rules: &Redactor, kind: Kind, salt: Salt, body: &[u8]) -> Result<Self, BodyTooLarge> {
        match rules.body(kind, body)? {
            None => Self::seal_clean(kind, salt, body),
            Some(redacted) => Ok(Self {
                redacted: true,
                ..Self::seal_clean(kind, salt, &redacted)?
            }),
        }
    }

    /// Seals canonical bytes of which [`Redactor::suspects`] has said that there is nothing to replace.
    pub fn seal_clean(kind: Kind, salt: Salt, body: &[u8]) -> Result<Self, BodyTooLarge> {
        if body.len() > BODY_BYTES_MAX {
            return Err(BodyTooLarge::Bytes(body.len()));
        }
        Ok(Self {
            salt,
            commitment: evidence::commitment(&salt, kind, body),
            packed: codec::pack(body),
            redacted: false,
        })
    }
}

impl Draft {
    /// A record of no run and without identity, made by the system `at` that moment.
    pub fn alone(
        kind: Kind,
        facts: Facts,
        body: &[u8],
        at: Timestamp,
        salts: &mut Salts,
    ) -> Result<Self, BodyTooLarge> {
        Ok(Self::sealed(kind, facts, salts.seal(kind, body)?, at))
    }

    /// The same of a body whose free texts were redacted before: of one whose ids must stay as they are.
    pub(crate) fn alone_clean(
        kind: Kind,
        facts: Facts,
        body: &[u8],
        at: Timestamp,
        salts: &mut Salts,
    ) -> Result<Self, BodyTooLarge> {
        let body = salts.seal_clean(kind, body)?;
        Ok(Self::sealed(kind, facts, body, at))
    }

    /// The same of a body that is sealed already.
    pub(crate) fn sealed(kind: Kind, facts: Facts, body: SealedBody, at: Timestamp) -> Self {
        Self {
            kind,
            bind: Bind::None,
            identity: None,
            content: None,
            trace_id: None,
            correlation_id: None,
            actor: (ActorType::System, None),
            occurred_at: at,
            source_domain: SourceDomain::System,
            source_component: "api",
            origin: Origin::System,
            body,
            facts,
            expect_run_seq: None,
        }
    }

    /// What the body says to projections: what its maker knew, or what redaction has left of it.
    pub(crate) fn facts(&self, header: &Header<'_>) -> Result<Cow<'_, Facts>, crate::Rejection> {
        if !self.body.redacted {
            return Ok(Cow::Borrowed(&self.facts));
        }
        let unreadable = |_| crate::Rejection::Redacted;
        let body =
            codec::unpack(&self.body.packed, BODY_BYTES_MAX).map_err(|_| crate::Rejection::Redacted)?;
        Facts::read(header, &body).map(Cow::Owned).map_err(unreadable)
    }

    /// The header of its record, in its place.
    pub(crate) fn header<'d>(
        &'d self,
        id: RecordId,
        tenant_id: &'d str,
        run: Option<RunPlace<'d>>,
        recorded_at: Timestamp,
    ) -> Header<'d> {
        Header {
            id,
            tenant_id: tenant_id.into(),
            kind: self.kind,
            run,
            trace_id: self.trace_id.as_deref().map(Into::into),
            correlation_id: self.correlation_id.as_deref().map(Into::into),
            actor: Actor {
                kind: self.actor.0,
                id: self.actor.1.as_deref().map(Into::into),
            },
            occurred_at: self.occurred_at,
            recorded_at,
            source_domain: self.source_domain,
            source_component: self.source_component.into(),
            origin: self.origin,
            commitment: self.body.commitment,
        }
    }

    /// Gives a draft whose body redaction changed the identity that verification will find there. Of these kinds it is
    /// made of texts, and its maker made it of those that were sent; of all others, of what no rule touches.
    pub(crate) fn know_by_body(&mut self) {
        let is_of_texts = matches!(
            self.kind,
            Kind::EvidenceEnvironment | Kind::EvidenceCaptureFailure | Kind::ReplayEnforced
        );
        if !is_of_texts || !self.body.redacted || self.identity.is_none() {
            return;
        }
        let body = codec::unpack(&self.body.packed, BODY_BYTES_MAX).ok();
        self.identity = body.and_then(|body| Identity::of_body(self.kind, &body));
    }

    /// Bytes that the draft holds in memory while it waits, about.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.body.packed.len()
    }
}

/// What bodies are sealed with: fresh salts, drawn from the operating system a few at first, then a few hundred at
/// a time, and the rules of redaction (the built-in ones unless made by [`Salts::of`]).
#[derive(Debug, Default)]
pub struct Salts {
    rules: Option<Arc<Redactor>>,
    /// The request that the records are made of.
    request_id: Option<Arc<str>>,
    drawn: Vec<Salt>,
    /// How many the next draw takes.
    next_draw: usize,
}

/// The member of a body that names the request it was made of.
pub(crate) const REQUEST_ID: &str = "request_id";

/// Whether its bodies have room for it: not those that are hashed, compared or given back whole.
const fn may_name_request(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::JobEvent
            | Kind::GovernanceAudit
            | Kind::GovernanceContract
            | Kind::EvidenceIntegrity
            | Kind::LineageEvidence
            | Kind::LineageDeterministic
            | Kind::LineageAiOutput
            | Kind::LineageAiMetrics
    )
}

/// Salts drawn at once at most: 8 KiB, one system call for half an OTLP request of 500 spans.
const SALTS_DRAWN_MAX: usize = 256;

impl Salts {
    /// With a tenant's rules.
    pub fn of(rules: Arc<Redactor>) -> Self {
        Self {
            rules: Some(rules),
            ..Self::default()
        }
    }

    /// The same for records made of a request: their bodies name it.
    pub fn of_request(rules: Arc<Redactor>, request_id: Option<Arc<str>>) -> Self {
        Self {
            request_id,
            ..Self::of(rules)
        }
    }

    /// The rules of redaction.
    pub fn rules(&self) -> &Redactor {
        self.rules.as_deref().unwrap_or_else(|| Redactor::standard())
    }

    /// Seals a body under the next salt and these rules.
    pub fn seal(&mut self, kind: Kind, body: &[u8]) -> Result<SealedBody, BodyTooLarge> {
        let salt = self.next_salt();
        self.seal_under(kind, salt, body)
    }

    /// Seals a body under a salt that something in it was made with.
    pub fn seal_under(&self, kind: Kind, salt: Salt, body: &[u8]) -> Result<SealedBody, BodyTooLarge> {
        let seal = |body: &[u8]| SealedBody::seal_by(self.rules(), kind, salt, body);
        // A body is not refused for what was put into it here.
        self.named(kind, body)
            .and_then(|named| seal(&named).ok())
            .map_or_else(|| seal(body), Ok)
    }

    /// Seals a body that was redacted before.
    fn seal_clean(&mut self, kind: Kind, body: &[u8]) -> Result<SealedBody, BodyTooLarge> {
        let salt = self.next_salt();
        // The id was not, and is left out where it would be.
        let alone = self.named(kind, b"{}");
        let is_clean = alone.is_some_and(|alone| matches!(self.rules().body(kind, &alone), Ok(None)));
        let named = is_clean.then(|| self.named(kind, body)).flatten();
        let named = named.filter(|named| named.len() <= BODY_BYTES_MAX);
        SealedBody::seal_clean(kind, salt, named.as_deref().unwrap_or(body))
    }

    /// The body with the request's id in it, if there is one and the body has room for it.
    fn named(&self, kind: Kind, body: &[u8]) -> Option<Vec<u8>> {
        self.request_id
            .as_deref()
            .filter(|_| may_name_request(kind))
            .and_then(|id| canonical::with_text(body, REQUEST_ID, id))
    }

    /// The next salt, never given twice.
    ///
    /// # Panics
    /// When the operating system has no randomness to give, without which nothing may be written.
    #[allow(clippy::expect_used)]
    pub fn next_salt(&mut self) -> Salt {
        if self.drawn.is_empty() {
            // One record needs one; a request of many is known by its going on.
            let count = self.next_draw.clamp(1, SALTS_DRAWN_MAX);
            self.next_draw = count * 8;
            let mut bytes = vec![0; count * 32];
            getrandom::fill(&mut bytes).expect("the operating system gives randomness");
            self.drawn.extend(bytes.chunks_exact(32).map(|chunk| {
                let mut salt = [0; 32];
                salt.copy_from_slice(chunk);
                salt
            }));
        }
        self.drawn.pop().unwrap_or_default()
    }
}

impl Draft {
    /// A draft of what the service itself notes about who calls, in the audit ledger's name.
    ///
    /// # Errors
    /// The body is longer than a record may be.
    pub fn of_no_run(
        facts: Facts,
        (kind, body): (Kind, &[u8]),
        actor: (ActorType, Option<Arc<str>>),
        occurred_at: Timestamp,
        salts: &mut Salts,
    ) -> Result<Self, BodyTooLarge> {
        Ok(Self {
            actor,
            source_domain: SourceDomain::Logs,
            source_component: "access",
            ..Self::sealed(kind, facts, salts.seal(kind, body)?, occurred_at)
        })
    }
}
