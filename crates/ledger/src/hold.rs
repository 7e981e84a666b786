//! Legal holds: placed, released, and what they keep from being erased and pruned.
//!
//! What is held follows from two lists, the holds placed over something and those released, whose lengths are
//! known without reading them. A release is decided and written as one task of the sequencer, so that of two one
//! is told that it was done.
//!
//! Source: SPEC 11.6.

use std::collections::BTreeSet;
use std::sync::Arc;

use evidence::canonical::Value;
use evidence::facet::facet;
use evidence::record::{Facts, Hold, HoldScope, RuleBroken};
use evidence::redact::{self, Redactor};
use evidence::{Header, Timestamp};
use store::{FacetQuery, LeafKey, Store, StoreError, TraceKey};

use crate::sequencer::Sequencer;
use crate::{BodyTooLarge, Draft, Ledger, Receipt, RecordError, Rejection, Salts, SubmitError, Tenant};

/// A hold, folded from its two records.
#[derive(Clone, Debug)]
pub struct HoldRead {
    /// As it was placed.
    pub placed: HoldMark,
    /// What it is about.
    pub scope: HoldScope,
    /// Its id.
    pub hold_id: String,
    /// As it was released, if it was.
    pub released: Option<HoldMark>,
}

/// One record of a hold.
#[derive(Clone, Debug)]
pub struct HoldMark {
    /// Who.
    pub principal: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// The record.
    pub receipt: Receipt,
}

/// Why a hold was not placed or released.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// No such hold, or nothing of the tenant's that it could be about.
    #[error("the hold, or what it is about, does not exist")]
    Unknown,
    /// It was released before.
    #[error("the hold is released")]
    Released,
    /// A rule is broken.
    #[error(transparent)]
    Rule(#[from] RuleBroken),
    /// The body is too large.
    #[error(transparent)]
    Body(#[from] BodyTooLarge),
    /// The ledger refused the record.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Nothing was written, as far as is known.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// Its records cannot be read.
    #[error(transparent)]
    Read(#[from] RecordError),
}

impl From<StoreError> for HoldError {
    fn from(error: StoreError) -> Self {
        RecordError::from(error).into()
    }
}

/// A reason as it is kept: redacted, and what redaction counts in it. Ids beside it stay as they are.
pub(crate) fn reason_kept(rules: &Redactor, reason: &str) -> (String, Option<Value>) {
    let reason = rules.text(reason).unwrap_or_else(|| reason.to_owned());
    let tally = redact::tally(&Value::String(reason.clone()));
    let counted = tally.get("count").and_then(Value::as_u64).unwrap_or(0) > 0;
    (reason, counted.then_some(tally))
}

fn draft(hold: Hold, at: Timestamp, salts: &mut Salts) -> Result<Draft, HoldError> {
    hold.check()?;
    let (reason, redactions) = reason_kept(salts.rules(), &hold.reason);
    let hold = Hold {
        reason,
        redactions,
        ..hold
    };
    let (kind, body) = (hold.kind(), hold.encode());
    Ok(Draft::alone_clean(kind, Facts::Hold(hold), &body, at, salts)?)
}

impl Ledger {
    /// Places a hold under a new id. Blocks until it is durable.
    ///
    /// # Errors
    /// [`HoldError::Unknown`] when there is no such run or record.
    pub fn hold_place(
        &self,
        tenant: &Arc<Tenant>,
        hold_id: &str,
        scope: HoldScope,
        (principal, reason): (&str, &str),
        at: Timestamp,
    ) -> Result<Receipt, HoldError> {
        let there = match &scope {
            HoldScope::Tenant => true,
            HoldScope::Run(run_id) => self.store().run_find(tenant.tenant_no, run_id)?.is_some(),
            // Also one whose body is altered: that is what a hold is for.
            HoldScope::Record(id) => self.records(tenant).place(*id)?.is_some(),
        };
        if !there {
            return Err(HoldError::Unknown);
        }
        let hold = Hold {
            hold_id: hold_id.to_owned(),
            released: false,
            principal: principal.to_owned(),
            reason: reason.to_owned(),
            scope,
            redactions: None,
        };
        let draft = draft(hold, at, &mut tenant.salts())?;
        let outcome = self.submit_blocking(tenant, vec![draft], at, false)?.pop();
        Ok(outcome.ok_or(SubmitError::Closing)??.receipt)
    }

    /// A hold as it is now; `None`: there is none of that id.
    ///
    /// # Errors
    /// Its records cannot be read.
    pub fn hold(&self, tenant: &Arc<Tenant>, hold_id: &str) -> Result<Option<HoldRead>, RecordError> {
        let query = FacetQuery {
            facets: vec![facet("hold", hold_id)],
            limit: 2,
            ..FacetQuery::default()
        };
        let leaves = self.store().facet_find(tenant.tenant_no, &query)?.leaves;
        let mut found: Option<HoldRead> = None;
        for record in self.records(tenant).read(&leaves)? {
            let header = record.header()?;
            let unreadable = |reason: String| RecordError::Body {
                leaf: record.leaf.leaf_index(),
                reason,
            };
            let body = record
                .body
                .bytes()
                .ok_or_else(|| unreadable("it is missing".into()))?;
            let hold = Hold::read(&header, body).map_err(|error| unreadable(error.to_string()))?;
            let mark = HoldMark {
                principal: hold.principal,
                reason: hold.reason,
                at: header.occurred_at,
                receipt: record.receipt()?,
            };
            match &mut found {
                None if !hold.released => {
                    found = Some(HoldRead {
                        placed: mark,
                        scope: hold.scope,
                        hold_id: hold.hold_id,
                        released: None,
                    });
                }
                Some(found) if hold.released => found.released = Some(mark),
                _ => {}
            }
        }
        Ok(found)
    }

    /// Releases a hold. Blocks.
    ///
    /// # Errors
    /// [`HoldError::Unknown`], [`HoldError::Released`].
    pub fn hold_release(
        &self,
        tenant: &Arc<Tenant>,
        hold_id: &str,
        (principal, reason): (&str, &str),
        at: Timestamp,
    ) -> Result<HoldRead, HoldError> {
        let placed = self.hold(tenant, hold_id)?.ok_or(HoldError::Unknown)?;
        let hold = Hold {
            hold_id: hold_id.to_owned(),
            released: true,
            principal: principal.to_owned(),
            reason: reason.to_owned(),
            scope: placed.scope,
            redactions: None,
        };
        let draft = draft(hold, at, &mut tenant.salts())?;
        let (reply, answer) = std::sync::mpsc::channel();
        let (ledger, of, id) = (self.clone(), Arc::clone(tenant), hold_id.to_owned());
        let queued = self.inner.queue.push_task(Box::new(move |sequencer| {
            // The asker may have gone; the release stays.
            let _ = reply.send(release(sequencer, &ledger, &of, &id, draft, at));
        }));
        if !queued {
            return Err(SubmitError::Closing.into());
        }
        answer.recv().map_err(|_| self.unanswered())??;
        self.hold(tenant, hold_id)?.ok_or(HoldError::Unknown)
    }

    /// The holds placed at those leaves, as they are now.
    ///
    /// # Errors
    /// Their records cannot be read.
    pub fn holds_at(&self, tenant: &Arc<Tenant>, leaves: &[LeafKey]) -> Result<Vec<HoldRead>, RecordError> {
        let mut holds = Vec::with_capacity(leaves.len());
        for record in self.records(tenant).read(leaves)? {
            let header = record.header()?;
            let Some(hold) = record
                .body
                .bytes()
                .and_then(|body| Hold::read(&header, body).ok())
            else {
                continue;
            };
            holds.extend(self.hold(tenant, &hold.hold_id)?);
        }
        Ok(holds)
    }
}

/// On the sequencer's thread: looks again, and writes.
fn release(
    sequencer: &mut Sequencer,
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    hold_id: &str,
    draft: Draft,
    at: Timestamp,
) -> Result<Receipt, HoldError> {
    let hold = ledger.hold(tenant, hold_id)?.ok_or(HoldError::Unknown)?;
    if hold.released.is_some() {
        return Err(HoldError::Released);
    }
    Ok(sequencer.submit_now(tenant, draft, at)??.receipt)
}

/// The lists of holds over something: those placed and those released.
#[derive(Clone, Debug)]
pub(crate) struct HeldBy {
    what: &'static str,
    placed: String,
    released: String,
}

impl HeldBy {
    pub(crate) fn scope(scope: &HoldScope) -> Self {
        Self {
            what: scope.as_str(),
            placed: scope.placed(),
            released: scope.released(),
        }
    }

    /// Whether more holds were placed than released; then over what.
    pub(crate) fn holds(
        &self,
        store: &dyn Store,
        tenant_no: u32,
    ) -> Result<Option<&'static str>, StoreError> {
        let count = |facet: &String| -> Result<u64, StoreError> {
            let query = FacetQuery {
                facets: vec![facet.clone()],
                ..FacetQuery::default()
            };
            Ok(store.facet_count(tenant_no, &query, 0)?.0)
        };
        Ok((count(&self.placed)? > count(&self.released)?).then_some(self.what))
    }
}

/// What a record says of what it is about, and so of whose hold keeps it.
#[derive(Clone, Debug)]
pub(crate) struct Holders {
    scopes: Vec<HeldBy>,
    /// Of whose runs the holds are asked for, too. Which runs those are may change until then.
    traces: BTreeSet<String>,
}

impl Holders {
    /// Everything whose hold keeps this record: the tenant, the record, the runs that it is of or names, by their ids or
    /// by a trace of theirs. It names them as reads find it by (SPEC 5, O3): by its correlation or trace in the header,
    /// and in its facets, under `<area>.run` and `<area>.trace`.
    pub(crate) fn of(header: &Header<'_>, facets: &[String]) -> Self {
        let mut scopes = vec![
            HeldBy::scope(&HoldScope::Tenant),
            HeldBy::scope(&HoldScope::Record(header.id)),
        ];
        let mut traces = BTreeSet::new();
        if let Some(run) = &header.run {
            // What is of a run names no other by these: a correlation may be that of many.
            scopes.push(HeldBy::scope(&HoldScope::Run(run.run_id.to_string())));
        } else {
            let given = [&header.trace_id, &header.correlation_id];
            for name in given.into_iter().flatten() {
                scopes.push(HeldBy::scope(&HoldScope::Run(name.to_string())));
                traces.insert(name.to_string());
            }
        }
        for facet in facets {
            let Some((name, value)) = facet.split_once('=') else {
                continue;
            };
            let last = name.rsplit_once('.').map(|(_, last)| last);
            if last == Some("trace") || (last == Some("run") && !name.starts_with("hold.")) {
                // As it stands there: long ids are hashed, and hashed once.
                scopes.push(HeldBy {
                    what: "run",
                    placed: format!("hold.on.run={value}"),
                    released: format!("hold.off.run={value}"),
                });
                traces.insert(value.to_owned());
            }
        }
        Self { scopes, traces }
    }

    /// Whether a hold keeps it, as of now; then over what.
    pub(crate) fn holds(
        &self,
        store: &dyn Store,
        tenant_no: u32,
    ) -> Result<Option<&'static str>, StoreError> {
        for scope in &self.scopes {
            if let Some(what) = scope.holds(store, tenant_no)? {
                return Ok(Some(what));
            }
        }
        for trace in &self.traces {
            let Some(run) = store.run_find_by_trace(tenant_no, &TraceKey::parse(trace))? else {
                continue;
            };
            if let Some(what) = HeldBy::scope(&HoldScope::Run(run.state.run_id)).holds(store, tenant_no)? {
                return Ok(Some(what));
            }
        }
        Ok(None)
    }
}
