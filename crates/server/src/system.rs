//! The server's own system records: what it did and what became of it, in the ledger.
//!
//! They go into the instance's ledger, or into that of the tenant they concern,
//! and are read like others (`/api/v1/logs/system`). Writing one never holds up
//! what it is about: what cannot be written now is logged and let go.
//!
//! Source: SPEC 5.3.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use evidence::canonical::Value;
use evidence::facet::facet;
use evidence::record::{Facts, SystemRecord};
use evidence::{ActorType, Kind, Origin, SourceDomain, Timestamp};
use ledger::{Bind, Draft, INSTANCE, Record, RecordError, Salts, SubmitError, Tenant};
use store::FacetQuery;

use crate::{ApiError, App};

/// The component that the server's own records name. Callers may use the word too; what they cannot set is
/// the `source_component` of the header.
pub(crate) const COMPONENT: &str = "server";

/// The `source_component` of the server's own records.
pub(crate) const SOURCE_COMPONENT: &str = evidence::record::SERVER_COMPONENT;

/// Records looked through together for the newest of the server's own.
const OWN_READ: u32 = 50;

/// So often at most. The first is ours, unless callers have written some in the same words: a thousand leaves are some
/// tenths of a second.
const OWN_READS_MAX: u32 = 20;

/// A value among the details.
#[derive(Clone, Debug)]
pub(crate) enum Word {
    /// A text.
    Text(String),
    /// A count.
    Number(u64),
    /// Texts by name.
    Map(BTreeMap<String, String>),
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// The event type.
    pub(crate) name: &'static str,
    pub(crate) severity: &'static str,
    pub(crate) summary: String,
    /// In the order of their names.
    pub(crate) details: Vec<(&'static str, Word)>,
}

impl Event {
    /// Something was done though the idempotency store could not say whether it was done before.
    pub(crate) fn bypassed(operation: &str, key: &str, hash: &[u8; 32]) -> Self {
        Self {
            name: "IDEMPOTENCY_BYPASSED",
            severity: "WARN",
            summary: "the idempotency store could not answer; the check passed".into(),
            details: vec![
                ("idempotency_key", Word::Text(key.into())),
                ("operation", Word::Text(operation.into())),
                ("request_hash", Word::Text(evidence::hex_string(hash))),
            ],
        }
    }

    fn record(&self) -> SystemRecord {
        let value = |word: &Word| match word {
            Word::Text(text) => Value::from(text.as_str()),
            Word::Number(number) => Value::from(*number),
            Word::Map(map) => Value::Object(
                map.iter()
                    .map(|(key, text)| (key.clone(), Value::from(text.as_str())))
                    .collect(),
            ),
        };
        let details = self
            .details
            .iter()
            .map(|(key, word)| ((*key).to_owned(), value(word)))
            .collect();
        SystemRecord {
            component: COMPONENT.into(),
            event_type: self.name.into(),
            severity: self.severity.into(),
            summary: self.summary.clone(),
            details: Some(Value::Object(details)),
            caused_by: Some("SYSTEM".into()),
            ..SystemRecord::default()
        }
    }

    pub(crate) fn draft(&self, at: Timestamp, salts: &mut Salts) -> Result<Draft, ledger::BodyTooLarge> {
        let record = self.record();
        let body = record.encode();
        Ok(Draft {
            kind: Kind::SystemRecord,
            bind: Bind::None,
            identity: None,
            content: None,
            trace_id: None,
            correlation_id: None,
            actor: (ActorType::System, Some(COMPONENT.into())),
            occurred_at: at,
            source_domain: SourceDomain::System,
            source_component: SOURCE_COMPONENT,
            origin: Origin::System,
            body: salts.seal(Kind::SystemRecord, &body)?,
            facts: Facts::System(record.facts()),
            expect_run_seq: None,
        })
    }
}

impl App {
    /// Writes a record of the server's own into a tenant's ledger. Blocks until it is durable.
    pub(crate) fn record(&self, tenant: &Arc<Tenant>, event: &Event, at: Timestamp) {
        if let Err(error) = self.try_record(tenant, event, at) {
            let (name, summary) = (event.name, &event.summary);
            tracing::warn!(name, summary, error, "a system record could not be written");
        }
    }

    /// The same, for what may not go on without its record.
    pub(crate) fn try_record(
        &self,
        tenant: &Arc<Tenant>,
        event: &Event,
        at: Timestamp,
    ) -> Result<(), String> {
        self.try_record_of(tenant, event, at, at)
    }

    /// The same of what happened earlier.
    pub(crate) fn try_record_of(
        &self,
        tenant: &Arc<Tenant>,
        event: &Event,
        occurred_at: Timestamp,
        at: Timestamp,
    ) -> Result<(), String> {
        let draft = event
            .draft(occurred_at, &mut tenant.built_in_salts())
            .map_err(|error| error.to_string())?;
        let outcomes = self
            .ledger
            .submit_blocking(tenant, vec![draft], at, false)
            .map_err(|error: SubmitError| error.to_string())?;
        match outcomes.into_iter().next() {
            Some(Err(rejection)) => Err(rejection.to_string()),
            _ => Ok(()),
        }
    }

    /// The same into the instance's own ledger.
    pub(crate) fn record_instance(&self, event: &Event, at: Timestamp) {
        if let Some(instance) = self.ledger.tenant(INSTANCE) {
            self.record(&instance, event, at);
        }
    }

    /// The newest record of an event type that the server itself wrote for a tenant. Blocks.
    ///
    /// # Errors
    /// It cannot be read, or callers have written so much in the same words that it was not found among that.
    pub(crate) fn newest_own(
        &self,
        tenant: &Arc<Tenant>,
        event_type: &str,
    ) -> Result<Option<Record>, ApiError> {
        let records = self.ledger.records(tenant);
        let mut query = FacetQuery {
            facets: vec![
                facet("system.component", COMPONENT),
                facet("system.event_type", event_type),
            ],
            newest_first: true,
            limit: OWN_READ,
            ..FacetQuery::default()
        };
        for _ in 0..OWN_READS_MAX {
            let page = self.ledger.store().facet_find(tenant.tenant_no, &query)?;
            let mut newest = None;
            records.each_of(
                &page.leaves,
                // Whose it is stands in the header.
                |_, header| header.source_component == SOURCE_COMPONENT,
                |record| {
                    newest = Some(record);
                    Ok::<_, RecordError>(ControlFlow::Break(()))
                },
            )?;
            if newest.is_some() {
                return Ok(newest);
            }
            let Some(next) = page.next.filter(|_| page.has_more) else {
                return Ok(None);
            };
            query.below = Some(next);
        }
        let hidden = format!("the server's own {event_type} is behind many records in the same words");
        Err(ApiError::internal(&hidden))
    }
}
