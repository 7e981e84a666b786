//! The integrity of a run: facts gathered from its records, judged, and sealed once.
//!
//! What is judged, and how, stands in the crate `audit`; here it is counted. A seal is placed only if no record of
//! the run came in between, so it stands on exactly the records before it.
//!
//! Runs seal themselves: a run of spans when it is settled, others `runs.seal_after` after their end. Who seals a run of
//! spans before that settles it. Ended runs are found by a facet, oldest first; where to begin after a start is looked
//! for backwards, until so many runs in a row are sealed that no others can be expected behind them.
//!
//! Source: SPEC 6.3.

mod tally;

use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError};

use ::audit::completeness::{self, Counted};
use ::audit::integrity::{Class, Facts as Gathered, Judgement, Policy, judge};
use evidence::canonical::{self, Finite, Value};
use evidence::record::{Facts, RunDigest, SealFacts};
use evidence::{ActorType, Header, Identity, Kind, Origin, SourceDomain, Timestamp};
use store::{FacetQuery, Gone, LeafKey, RunRecordRow, RunRow, StoreError};

use self::tally::{Tally, counts};
use crate::settings::Setting;
use crate::{
    Bind, BodyTooLarge, Changer, Draft, EndRun, Ledger, Placed, Receipt, Record, RecordError, Rejection,
    RunSeen, Salts, SettingError, SettleError, SubmitError, Tenant,
};

/// The facet of records that end a trace.
const ENDED: &str = "ended";

/// Rows of a run read at once.
const ROWS_READ: u32 = 10_000;

/// Leaves of a run held at once: 64 of the longest are 4 MiB, and a part of a block holds some of them.
const HEADERS_READ: usize = 64;

/// Most records of one run that are judged: 100 bytes each are kept of a span, 100 MB.
const RUN_RECORDS_MAX: usize = 1_000_000;

/// Attempts to seal a run while records keep coming.
const SEAL_ATTEMPTS: u32 = 50;

/// Ended runs looked at in one pass: two look-ups each, some 10 ms.
const SEAL_RUNS: u32 = 500;

/// Sealed runs in a row behind which no unsealed one is looked for after a start: runs are sealed in the order of
/// their ends, but for those that could not be.
const SEALED_IN_A_ROW: usize = 1_000;

/// Why a run was not judged or sealed.
#[derive(Debug, thiserror::Error)]
pub enum IntegrityError {
    /// No such run.
    #[error("the run does not exist")]
    RunUnknown,
    /// It has not ended: there is nothing to close.
    #[error("the run has not ended")]
    RunRunning,
    /// It is sealed; the seal's receipt.
    #[error("the run is sealed")]
    Sealed(Receipt),
    /// It is sealed, and what its seal says is not at hand.
    #[error("the run is sealed, and its seal is {}", .0.as_str())]
    SealGone(Gone),
    /// Its records, or the tenant's policy, cannot be read.
    #[error(transparent)]
    Read(#[from] RecordError),
    /// The ledger refused the seal.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Nothing was written, as far as is known.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The seal is too large.
    #[error(transparent)]
    Body(#[from] BodyTooLarge),
}

impl IntegrityError {
    /// Whether it is the run's own records that cannot be read or judged, which is so the next time too.
    fn is_damage(&self) -> bool {
        match self {
            Self::Read(error) => error.is_damage(),
            Self::Body(_) => true,
            _ => false,
        }
    }
}

impl From<StoreError> for IntegrityError {
    fn from(error: StoreError) -> Self {
        Self::Read(error.into())
    }
}

impl From<SettleError> for IntegrityError {
    fn from(error: SettleError) -> Self {
        match error {
            SettleError::RunUnknown => Self::RunUnknown,
            SettleError::Rejected(rejection) => Self::Rejected(rejection),
            SettleError::Submit(error) => Self::Submit(error),
            SettleError::Read(error) => Self::Read(error),
            SettleError::Body(error) => Self::Body(error),
        }
    }
}

/// The integrity of a run.
#[derive(Clone, Debug)]
pub struct RunIntegrity {
    /// As SPEC 6.3 answers it, with the completeness facts beside it. Of a sealed run what the seal says.
    pub answer: Value,
    /// The seal.
    pub seal: Option<Receipt>,
    /// Steps that came after the end of the trace.
    pub late: u32,
}

/// Where sealing stands for a tenant.
#[derive(Debug, Default)]
pub(crate) struct Sealing {
    /// All ended runs up to this leaf are dealt with.
    done: Option<LeafKey>,
    /// The start was looked for.
    begun: bool,
    /// Nothing was left at this size of the ledger.
    idle_at: Option<(u32, u64)>,
}

impl Ledger {
    /// Judges a run as it stands, or gives what its seal says. Blocks.
    ///
    /// # Errors
    /// [`IntegrityError::RunUnknown`], [`IntegrityError::Read`].
    pub fn run_integrity(&self, tenant: &Arc<Tenant>, run_id: &str) -> Result<RunIntegrity, IntegrityError> {
        let run = self
            .store()
            .run_find(tenant.tenant_no, run_id)?
            .ok_or(IntegrityError::RunUnknown)?;
        if let Some(record) = self.seal_of(tenant, &run)? {
            let answer = match record.body.bytes() {
                Some(body) => canonical::parse(body, canonical::Limits::default()).map_err(|error| {
                    RecordError::Body {
                        leaf: record.leaf.leaf_index(),
                        reason: error.to_string(),
                    }
                })?,
                // Seals are neither erased nor archived, but for those that an older build archived.
                None => {
                    return Err(IntegrityError::SealGone(
                        record.body.gone().unwrap_or(Gone::Missing),
                    ));
                }
            };
            return Ok(RunIntegrity {
                answer,
                seal: Some(record.receipt()?),
                late: run.state.late_count,
            });
        }
        let policy = self.policy_in_force(tenant)?;
        let (mut gathered, counted) = self.gather(&run)?;
        gathered.terminal = false;
        let mut answer = judge(&gathered, &policy).to_value();
        answer.insert("completeness", completeness::to_value(&counted));
        Ok(RunIntegrity {
            answer,
            seal: None,
            late: run.state.late_count,
        })
    }

    /// Judges a run that has ended and closes its evidence; one whose end is not settled yet is settled first. Blocks.
    ///
    /// # Errors
    /// [`IntegrityError::Sealed`] when it is closed already.
    pub fn run_seal(
        &self,
        tenant: &Arc<Tenant>,
        run_id: &str,
        by: (ActorType, Option<&str>),
        at: Timestamp,
    ) -> Result<(Placed, Value), IntegrityError> {
        let policy = self.policy_in_force(tenant)?;
        for _ in 0..SEAL_ATTEMPTS {
            let run = self
                .store()
                .run_find(tenant.tenant_no, run_id)?
                .ok_or(IntegrityError::RunUnknown)?;
            if let Some(record) = self.seal_of(tenant, &run)? {
                return Err(IntegrityError::Sealed(record.receipt()?));
            }
            if !run.state.ended() {
                return Err(IntegrityError::RunRunning);
            }
            if !run.state.settled {
                // Not one submission with the seal, which stands on this record's leaf. What stops in between leaves
                // a settled run, which is due at once.
                self.end_run(tenant, run_id, &EndRun::Settled, at)?;
                continue;
            }
            let drafted = self.seal_draft(tenant, &run, &policy, by, at, &mut seal_salts());
            let (draft, answer) = match drafted {
                Err(IntegrityError::Rejected(Rejection::RunMoved)) => continue,
                drafted => drafted?,
            };
            match self.submit_blocking(tenant, vec![draft], at, false)?.pop() {
                Some(Err(Rejection::RunMoved)) => {}
                Some(Ok(placed)) if placed.fresh => return Ok((placed, answer)),
                Some(Ok(placed)) => return Err(IntegrityError::Sealed(placed.receipt)),
                Some(Err(rejection)) => return Err(rejection.into()),
                None => break,
            }
        }
        Err(Rejection::RunMoved.into())
    }

    /// Seals runs whose end lies `runs.seal_after` back, at most [`SEAL_RUNS`] a tenant; says how many. Blocks.
    ///
    /// What keeps one tenant's runs from being sealed is logged, and keeps no other's.
    pub fn seal_due(&self, at: Timestamp) -> usize {
        let mut sealed = 0;
        for tenant in self.tenants() {
            if tenant.ledger().refusal().is_some() {
                continue;
            }
            match self.seal_due_of(&tenant, at) {
                Ok(more) => sealed += more,
                Err(error) => {
                    tracing::error!(tenant_id = &*tenant.tenant_id, %error, "cannot seal the runs that are due");
                }
            }
        }
        sealed
    }

    fn seal_due_of(&self, tenant: &Arc<Tenant>, at: Timestamp) -> Result<usize, IntegrityError> {
        let ledger_no = tenant.ledger().row.ledger_no;
        let head = (ledger_no, self.store().head_read(ledger_no)?.size.as_u64());
        let mut all = self.inner.sealing.lock().unwrap_or_else(PoisonError::into_inner);
        let sealing = all.entry(tenant.tenant_no).or_default();
        if sealing.idle_at == Some(head) {
            return Ok(0);
        }
        if !sealing.begun {
            sealing.done = self.sealed_before(tenant)?;
            sealing.begun = true;
        }
        let query = FacetQuery {
            facets: vec![ENDED.to_owned()],
            below: sealing.done,
            limit: SEAL_RUNS,
            ..FacetQuery::default()
        };
        let page = self.store().facet_find(tenant.tenant_no, &query)?;
        if page.leaves.is_empty() && !page.has_more {
            sealing.idle_at = Some(head);
            return Ok(0);
        }
        let policy = self.policy_in_force(tenant)?;
        let due = at
            .checked_add_micros(-self.options().seal_after_micros)
            .unwrap_or(Timestamp::MIN);
        let mut salts = seal_salts();
        let (mut drafts, mut all_done) = (Vec::new(), true);
        for (leaf, header) in page
            .leaves
            .iter()
            .zip(self.records(tenant).headers(&page.leaves)?)
        {
            match self.seal_if_due(tenant, &header, due, &policy, at, &mut salts) {
                Ok(Due::Draft(draft)) => {
                    drafts.push(*draft);
                    // Done when its seal is found the next time: a late span may come in between.
                    all_done = false;
                }
                Ok(Due::Done) => {}
                Ok(Due::Later) => all_done = false,
                // Damage does not heal: it must not keep the others from being sealed. All else may be over the
                // next time.
                Err(error) => {
                    all_done &= error.is_damage();
                    tracing::error!(leaf = leaf.leaf_index(), %error, "cannot seal a run");
                }
            }
            if all_done {
                sealing.done = Some(*leaf);
            }
        }
        drop(all);
        let outcomes = self.submit_blocking(tenant, drafts, at, false)?;
        for rejection in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            // A run that moved is found due again.
            if *rejection != Rejection::RunMoved {
                tracing::error!(tenant_id = &*tenant.tenant_id, %rejection, "a seal is refused");
            }
        }
        Ok(outcomes
            .iter()
            .filter(|outcome| outcome.as_ref().is_ok_and(|placed| placed.fresh))
            .count())
    }

    fn seal_if_due(
        &self,
        tenant: &Arc<Tenant>,
        header: &[u8],
        due: Timestamp,
        policy: &Policy,
        at: Timestamp,
        salts: &mut Salts,
    ) -> Result<Due, IntegrityError> {
        let Some((run_id, recorded_at, by_server)) = ended(header) else {
            return Ok(Due::Done);
        };
        let Some(run) = self.store().run_find(tenant.tenant_no, &run_id)? else {
            return Ok(Due::Done);
        };
        let seal = Identity::once(Kind::EvidenceIntegrity);
        if self.store().run_record_find(run.key, &seal)?.is_some() {
            return Ok(Due::Done);
        }
        // What the server ended was waited for already.
        if !by_server && recorded_at > due {
            return Ok(Due::Later);
        }
        let by = (ActorType::System, None);
        match self.seal_draft(tenant, &run, policy, by, at, salts) {
            Ok((draft, _)) => Ok(Due::Draft(Box::new(draft))),
            Err(IntegrityError::Rejected(Rejection::RunMoved)) => Ok(Due::Later),
            Err(error) => Err(error),
        }
    }

    /// The newest ended run behind which all seem to be sealed.
    fn sealed_before(&self, tenant: &Arc<Tenant>) -> Result<Option<LeafKey>, IntegrityError> {
        let (mut below, mut in_a_row) = (None, 0);
        let seal = Identity::once(Kind::EvidenceIntegrity);
        let mut newest_sealed = None;
        loop {
            let query = FacetQuery {
                facets: vec![ENDED.to_owned()],
                below,
                limit: SEAL_RUNS,
                newest_first: true,
                ..FacetQuery::default()
            };
            let page = self.store().facet_find(tenant.tenant_no, &query)?;
            for (leaf, header) in page
                .leaves
                .iter()
                .zip(self.records(tenant).headers(&page.leaves)?)
            {
                let run = match ended(&header) {
                    Some((run_id, ..)) => self.store().run_find(tenant.tenant_no, &run_id)?,
                    None => None,
                };
                let sealed = match run {
                    Some(run) => self.store().run_record_find(run.key, &seal)?.is_some(),
                    None => true,
                };
                if sealed {
                    newest_sealed = newest_sealed.or(Some(*leaf));
                    in_a_row += 1;
                } else {
                    (newest_sealed, in_a_row) = (None, 0);
                }
                if in_a_row == SEALED_IN_A_ROW {
                    return Ok(newest_sealed);
                }
            }
            match page.next.or(page.leaves.last().copied()) {
                Some(next) if page.has_more => below = Some(next),
                _ => return Ok(newest_sealed),
            }
        }
    }

    fn seal_of(&self, tenant: &Arc<Tenant>, run: &RunRow) -> Result<Option<Record>, RecordError> {
        let seal = Identity::once(Kind::EvidenceIntegrity);
        let Some(row) = self.store().run_record_find(run.key, &seal)? else {
            return Ok(None);
        };
        Ok(self.records(tenant).read(&[row.leaf])?.pop())
    }

    /// The seal of a run as it stood when `run` was read, placed only if it still stands so.
    ///
    /// # Errors
    /// [`Rejection::RunMoved`] when it does not already.
    fn seal_draft(
        &self,
        tenant: &Tenant,
        run: &RunRow,
        policy: &Policy,
        by: (ActorType, Option<&str>),
        at: Timestamp,
        salts: &mut Salts,
    ) -> Result<(Draft, Value), IntegrityError> {
        let erasures = tenant.erasures();
        let (mut gathered, counted) = self.gather(run)?;
        gathered.terminal = true;
        // Read last: if these are the records that the run had at first, they are those that were judged.
        let facts = self.stands_on(run)?;
        if facts.count != run.state.record_count {
            return Err(Rejection::RunMoved.into());
        }
        let judgement: Judgement = judge(&gathered, policy);
        let body = facts.encode(judgement.to_value(), completeness::to_value(&counted));
        let answer = canonical::parse(&body, canonical::Limits::default()).unwrap_or_default();
        let state = &run.state;
        let draft = Draft::alone(Kind::EvidenceIntegrity, Facts::Seal(facts), &body, at, salts)?;
        let draft = Draft {
            bind: Bind::Run(state.run_id.as_str().into()),
            identity: Some(Identity::once(Kind::EvidenceIntegrity)),
            trace_id: Some(state.trace_id.as_str().into()),
            correlation_id: state.correlation_id.as_deref().map(Arc::from),
            source_domain: SourceDomain::Activity,
            source_component: "ledger",
            expect_run_seq: Some(RunSeen {
                run_seq: facts.count,
                erasures,
            }),
            ..draft.by(by.0, by.1)
        };
        Ok((
            Draft {
                origin: Origin::System,
                ..draft
            },
            answer,
        ))
    }

    /// Count and digest of a run's records.
    fn stands_on(&self, run: &RunRow) -> Result<SealFacts, RecordError> {
        let mut digest = RunDigest::default();
        self.each_page(run, |rows| {
            for part in rows.chunks(HEADERS_READ) {
                let leaves: Vec<LeafKey> = part.iter().map(|row| row.leaf).collect();
                for header in crate::records::headers(self.store(), &leaves)? {
                    digest.push(tlog::leaf_hash(&header).as_bytes());
                }
            }
            Ok(())
        })?;
        Ok(digest.finish())
    }

    fn each_page(
        &self,
        run: &RunRow,
        mut each: impl FnMut(&[RunRecordRow]) -> Result<(), RecordError>,
    ) -> Result<(), RecordError> {
        let (mut from, mut seen) = (0, 0);
        loop {
            let page = self.store().run_records(run.key, from, ROWS_READ)?;
            let Some(last) = page.last() else { return Ok(()) };
            from = last.run_seq + 1;
            seen += page.len();
            if seen > RUN_RECORDS_MAX {
                return Err(RecordError::Body {
                    leaf: run.started_leaf.leaf_index(),
                    reason: format!("the run has more than {RUN_RECORDS_MAX} records"),
                });
            }
            let whole = page.len() < ROWS_READ as usize;
            each(&page)?;
            if whole {
                return Ok(());
            }
        }
    }

    /// What is on record about a run.
    fn gather(&self, run: &RunRow) -> Result<(Gathered, Counted), RecordError> {
        let mut tally = Tally::new(run);
        self.each_page(run, |rows| {
            let counted: Vec<LeafKey> = rows
                .iter()
                .filter(|row| counts(row.kind))
                .map(|row| row.leaf)
                .collect();
            let mut rows = rows.iter();
            crate::records::each(self.store(), &counted, |record| {
                for row in rows.by_ref() {
                    if row.leaf != record.leaf {
                        tally.take(row, None);
                        continue;
                    }
                    if tally.may_be_ahead(row) {
                        tally.recorded(row, record.header()?.recorded_at);
                    }
                    let body = if row.kind == Kind::EvidenceCaptureFailure {
                        record.kept_body(self.store(), run.key.tenant_no())?
                    } else {
                        record.body.bytes()
                    };
                    tally.take(row, body);
                    break;
                }
                Ok::<_, RecordError>(ControlFlow::Continue(()))
            })?;
            for row in rows {
                tally.take(row, None);
            }
            Ok(())
        })?;
        Ok(tally.finish(run))
    }

    /// How the tenant's runs are judged.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn integrity_policy(&self, tenant: &Arc<Tenant>) -> Result<Value, RecordError> {
        Ok(policy_value(&self.policy_in_force(tenant)?))
    }

    fn policy_in_force(&self, tenant: &Arc<Tenant>) -> Result<Policy, RecordError> {
        match self.setting(tenant, Setting::IntegrityPolicy)? {
            None => Ok(Policy::default()),
            Some(value) => Policy::read(&value).map_err(|error| RecordError::Body {
                leaf: 0,
                reason: format!("the integrity policy: {error}"),
            }),
        }
    }

    /// Changes how runs are judged from now on; absent members have their defaults. Blocks. Gives the policy in force.
    ///
    /// # Errors
    /// [`SettingError`]; then nothing was changed, as far as is known.
    pub fn integrity_policy_change(
        &self,
        tenant: &Arc<Tenant>,
        policy: &Value,
        by: &Changer,
        at: Timestamp,
    ) -> Result<(Value, Receipt), SettingError> {
        let policy = Policy::read(policy).map_err(|error| SettingError::Rule {
            field: "policy",
            rule: error.to_string(),
        })?;
        let states = (policy_value(&Policy::default()), policy_value(&policy));
        let receipt = self.setting_change(tenant, Setting::IntegrityPolicy, states, by, at)?;
        Ok((policy_value(&policy), receipt))
    }
}

/// What seals are sealed with: the built-in rules of redaction alone. All in a seal is Deponent's own, but for what
/// failures say, which was redacted when they were recorded; a tenant's pattern must not replace a grade.
fn seal_salts() -> Salts {
    Salts::default()
}

enum Due {
    Draft(Box<Draft>),
    Done,
    Later,
}

/// Run, time and whether the server ended it, of a record that ends a trace.
pub(crate) fn ended(header: &[u8]) -> Option<(String, Timestamp, bool)> {
    let header = Header::decode(header).ok()?;
    let run_id = header.run.as_ref()?.run_id.to_string();
    Some((run_id, header.recorded_at, header.source_component == "ledger"))
}

fn policy_value(policy: &Policy) -> Value {
    let names = |classes: &[Class]| -> Value {
        Value::from(
            classes
                .iter()
                .map(|class| Value::from(class.as_str()))
                .collect::<Vec<_>>(),
        )
    };
    let number = |number: f64| Value::from(Finite::new(number).unwrap_or_default());
    Value::object([
        ("expected", names(&policy.expected)),
        ("pass_at", number(policy.pass_at)),
        ("required", names(&policy.required)),
        ("warn_at", number(policy.warn_at)),
    ])
}
