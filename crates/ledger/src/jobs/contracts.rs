//! Contracts and signals: what a job may do, and what was said about it meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;

use audit::governance::Signal;
use evidence::facet::facet;
use evidence::record::{Facts, GovernanceContract, GovernanceSignal, SignalDecision};
use evidence::{Kind, SourceDomain, TimesGiven, Timestamp};
use store::{FacetQuery, LeafKey};

use super::slots::ContractGuard;
use super::{JobError, Moment};
use crate::{
    BodyTooLarge, Draft, Ledger, Placed, Receipt, Record, RecordError, SubmitError, Tenant, records,
};

/// Days looked at one by one; a longer time is read whole.
const DAYS_MAX: i64 = 32;

/// Most signals that an audit reads, and lists that it looks into, to find those that count. It reads them while it
/// holds the job, and in some seconds; what it has not read it cannot judge, so the check is INCONCLUSIVE.
const SIGNAL_READS_MAX: usize = 100_000;

/// Signals read at once: 200 bytes each.
const SIGNALS_PAGE: u32 = 500;

const DAY_MICROS: i64 = 86_400 * 1_000_000;

impl Ledger {
    /// Records a contract. The same again gives the first receipt. Blocks until it is durable.
    ///
    /// # Errors
    /// [`JobError::Conflict`] when the id is another contract's: a contract is never changed.
    /// [`JobError::NameRedacted`].
    pub fn contract_record(
        &self,
        tenant: &Arc<Tenant>,
        contract: &GovernanceContract,
        moment: &Moment,
    ) -> Result<Placed, JobError> {
        let guard = self.contract_guard(tenant, &contract.contract_id);
        self.contract_record_under(&guard, tenant, contract, &TimesGiven::default(), moment)
    }

    /// The same, by who holds [`Ledger::contract_lock`] already, with its times as they were given.
    ///
    /// # Errors
    /// As [`Ledger::contract_record`].
    pub fn contract_record_under(
        &self,
        _: &ContractGuard,
        tenant: &Arc<Tenant>,
        contract: &GovernanceContract,
        times: &TimesGiven,
        moment: &Moment,
    ) -> Result<Placed, JobError> {
        contract.check()?;
        let mut salts = tenant.salts();
        let body = times.put(contract.encode());
        // What was sent is looked at as it would be kept: redacted, its markers counted.
        let kept = salts
            .rules()
            .body(Kind::GovernanceContract, &body)
            .map_err(BodyTooLarge::from)?;
        // Between the look and the commit nobody else writes a contract of that id.
        if let Some(first) = self.contract_record_of(tenant, &contract.contract_id)? {
            let receipt = first.receipt()?;
            let there = first.kept_body(self.store(), tenant.tenant_no)?;
            // A pattern of the tenant may be younger than the contract: what stands there as it was sent is the same.
            let is_as_sent = there == Some(body.as_slice());
            if let Some(kept) = kept.as_deref().filter(|_| !is_as_sent) {
                contract_names_stay(contract, kept)?;
            }
            let same = |there: &[u8]| there == kept.as_deref().unwrap_or(&body);
            return if is_as_sent || there.is_none_or(same) {
                Ok(Placed {
                    receipt,
                    fresh: false,
                })
            } else {
                Err(JobError::Conflict(receipt))
            };
        }
        if let Some(kept) = &kept {
            contract_names_stay(contract, kept)?;
        }
        let facts = Facts::Contract(contract.facts());
        let draft = Draft::alone(Kind::GovernanceContract, facts, &body, moment.at, &mut salts)?;
        self.one(tenant, of_policy(draft), moment.at)
    }

    /// The record of a contract.
    fn contract_record_of(&self, tenant: &Tenant, contract_id: &str) -> Result<Option<Record>, RecordError> {
        let query = FacetQuery {
            facets: vec![facet("contract", contract_id)],
            limit: 1,
            ..FacetQuery::default()
        };
        let leaves = self.store().facet_find(tenant.tenant_no, &query)?.leaves;
        Ok(records::read(self.store(), &leaves)?.pop())
    }

    /// A contract with its receipt; `None`: there is none of that id, or an older build erased it. Blocks.
    ///
    /// # Errors
    /// Its record cannot be read, or its body was taken away.
    pub fn contract(
        &self,
        tenant: &Tenant,
        contract_id: &str,
    ) -> Result<Option<(GovernanceContract, Receipt, Timestamp)>, JobError> {
        let Some(record) = self.contract_record_of(tenant, contract_id)? else {
            return Ok(None);
        };
        let Some(body) = record.kept_body(self.store(), tenant.tenant_no)? else {
            return Ok(None);
        };
        let contract = GovernanceContract::read(body).map_err(|error| unreadable(&record, &error))?;
        found_as(&record, contract_id, &contract.contract_id)?;
        let recorded_at = record.header()?.recorded_at;
        Ok(Some((contract, record.receipt()?, recorded_at)))
    }

    /// The same, of those in use without reading again: a contract is never changed.
    pub(super) fn contract_of(
        &self,
        tenant: &Tenant,
        contract_id: &str,
    ) -> Result<Option<Arc<GovernanceContract>>, JobError> {
        let key = (tenant.tenant_no, Arc::from(contract_id));
        if let Some(contract) = self.inner.jobs.contract(&key) {
            return Ok(Some(contract));
        }
        let Some((contract, ..)) = self.contract(tenant, contract_id)? else {
            return Ok(None);
        };
        let contract = Arc::new(contract);
        self.inner.jobs.contract_keep(key, &contract);
        Ok(Some(contract))
    }

    /// Records a signal, with its time as it was given; each is a record of its own. Blocks until it is durable.
    ///
    /// # Errors
    /// [`JobError::Rule`], [`JobError::NameRedacted`], or nothing was written, as far as is known.
    pub fn signal_record(
        &self,
        tenant: &Arc<Tenant>,
        signal: &GovernanceSignal,
        times: &TimesGiven,
        moment: &Moment,
    ) -> Result<Placed, JobError> {
        signal.check()?;
        let mut salts = tenant.salts();
        let body = times.put(signal.encode());
        let kept = salts
            .rules()
            .body(Kind::GovernanceSignal, &body)
            .map_err(BodyTooLarge::from)?;
        if let Some(kept) = &kept {
            signal_names_stay(signal, kept)?;
        }
        let facts = Facts::Signal(signal.clone());
        let draft = Draft::alone(Kind::GovernanceSignal, facts, &body, moment.at, &mut salts)?;
        let draft = Draft {
            occurred_at: signal.at,
            ..of_policy(draft)
        };
        self.one(tenant, draft, moment.at)
    }

    /// A signal with its receipt; `None`: there is none of that id, or an older build erased it. Blocks.
    ///
    /// # Errors
    /// Its record cannot be read, or its body was taken away.
    pub fn signal(
        &self,
        tenant: &Tenant,
        signal_id: &str,
    ) -> Result<Option<(GovernanceSignal, Receipt)>, JobError> {
        let query = FacetQuery {
            facets: vec![facet("signal", signal_id)],
            limit: 1,
            ..FacetQuery::default()
        };
        let leaves = self.store().facet_find(tenant.tenant_no, &query)?.leaves;
        let Some(record) = records::read(self.store(), &leaves)?.pop() else {
            return Ok(None);
        };
        let Some(body) = record.kept_body(self.store(), tenant.tenant_no)? else {
            return Ok(None);
        };
        let signal = GovernanceSignal::read(body).map_err(|error| unreadable(&record, &error))?;
        found_as(&record, signal_id, &signal.signal_id)?;
        Ok(Some((signal, record.receipt()?)))
    }

    /// Signals about capabilities, given within a time (inclusive), of the records before `as_of`, in ledger order;
    /// `None`: more than an audit reads.
    pub(super) fn signals_about(
        &self,
        tenant: &Tenant,
        scopes: &BTreeSet<&str>,
        (from, to): (Timestamp, Timestamp),
        as_of: LeafKey,
    ) -> Result<Option<Vec<Signal>>, RecordError> {
        let all = FacetQuery {
            facets: vec!["signal".to_owned()],
            as_of: Some(as_of),
            ..FacetQuery::default()
        };
        let (total, _) = self.store().facet_count(tenant.tenant_no, &all, u32::MAX)?;
        if total == 0 {
            return Ok(Some(Vec::new()));
        }
        let mut found: Vec<(LeafKey, Signal)> = Vec::new();
        let mut reads = 0;
        for facet in lists(scopes, from, to, total) {
            let mut query = FacetQuery {
                facets: vec![facet],
                as_of: Some(as_of),
                limit: SIGNALS_PAGE,
                ..FacetQuery::default()
            };
            loop {
                let page = self.store().facet_find(tenant.tenant_no, &query)?;
                reads += 1 + page.leaves.len();
                if reads > SIGNAL_READS_MAX {
                    return Ok(None);
                }
                for record in records::read(self.store(), &page.leaves)? {
                    let Some(body) = record.kept_body(self.store(), tenant.tenant_no)? else {
                        continue;
                    };
                    let signal = GovernanceSignal::read(body).map_err(|error| RecordError::Body {
                        leaf: record.leaf.leaf_index(),
                        reason: error.to_string(),
                    })?;
                    if !scopes.contains(signal.scope.as_str()) || signal.at < from || signal.at > to {
                        continue;
                    }
                    let given = Signal {
                        signal_type: signal.signal_type,
                        scope: signal.scope,
                        block: signal.decision == SignalDecision::Block,
                        at: signal.at,
                    };
                    found.push((record.leaf, given));
                }
                if !page.has_more {
                    break;
                }
                query.below = page.next;
            }
        }
        found.sort_by_key(|(leaf, _)| *leaf);
        Ok(Some(found.into_iter().map(|(_, signal)| signal).collect()))
    }

    /// Submits one draft of its own.
    pub(super) fn one(&self, tenant: &Arc<Tenant>, draft: Draft, at: Timestamp) -> Result<Placed, JobError> {
        let outcome = self.submit_blocking(tenant, vec![draft], at, false)?.pop();
        Ok(outcome.ok_or(SubmitError::Closing)??)
    }
}

/// Refuses a contract whose names, by which jobs are judged, are others in its redacted body.
fn contract_names_stay(contract: &GovernanceContract, kept: &[u8]) -> Result<(), JobError> {
    // What redaction has made unreadable it has changed.
    let Ok(kept) = GovernanceContract::read(kept) else {
        return Err(JobError::NameRedacted("contract".to_owned()));
    };
    let mut scope = contract.scope.iter().zip(&kept.scope);
    if let Some(place) = scope.position(|(given, kept)| given != kept) {
        return Err(JobError::NameRedacted(format!("scope[{place}]")));
    }
    let (given, kept) = (contract.proposed_targets(), kept.proposed_targets());
    let Some(place) = given.iter().zip(&kept).position(|(given, kept)| given != kept) else {
        return Ok(());
    };
    let field = match contract.proposed_changes.as_array() {
        Some(_) => format!("proposed_changes[{place}]"),
        None => "proposed_changes".to_owned(),
    };
    Err(JobError::NameRedacted(field))
}

/// The same of a signal.
fn signal_names_stay(signal: &GovernanceSignal, kept: &[u8]) -> Result<(), JobError> {
    let field = match GovernanceSignal::read(kept) {
        Err(_) => "signal",
        Ok(kept) if kept.scope != signal.scope => "scope",
        Ok(kept) if kept.signal_type != signal.signal_type => "signal_type",
        Ok(_) => return Ok(()),
    };
    Err(JobError::NameRedacted(field.to_owned()))
}

/// The lists that hold all signals asked for, chosen so that few are read: by capability and day, by capability,
/// or all there are.
fn lists(scopes: &BTreeSet<&str>, from: Timestamp, to: Timestamp, total: u64) -> Vec<String> {
    let first = from.as_micros().div_euclid(DAY_MICROS);
    let days = to.as_micros().div_euclid(DAY_MICROS) - first + 1;
    let scopes_len = u64::try_from(scopes.len()).unwrap_or(u64::MAX);
    if total <= scopes_len.saturating_mul(2) {
        return vec!["signal".to_owned()];
    }
    if days > DAYS_MAX || scopes.len() > 1_000 {
        return scopes.iter().map(|scope| facet("signal.scope", scope)).collect();
    }
    let mut lists = Vec::new();
    for scope in scopes {
        for day in first..first + days {
            if let Some(at) = Timestamp::from_micros(day * DAY_MICROS) {
                lists.push(GovernanceSignal::day_facet(scope, at));
            }
        }
    }
    lists
}

pub(super) fn of_policy(draft: Draft) -> Draft {
    Draft {
        source_domain: SourceDomain::Policy,
        ..draft
    }
}

/// Holds what a record says that it is of against what it was found by: nobody signs the lists that it is found in.
pub(super) fn found_as(record: &Record, asked: &str, said: &str) -> Result<(), RecordError> {
    if asked == said {
        return Ok(());
    }
    Err(unreadable(
        record,
        &"it is of something else than it was found by",
    ))
}

pub(super) fn unreadable(record: &Record, error: &dyn std::fmt::Display) -> RecordError {
    RecordError::Body {
        leaf: record.leaf.leaf_index(),
        reason: error.to_string(),
    }
}
