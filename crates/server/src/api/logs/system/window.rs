//! System records that lie near a run: in its minutes, on its hosts, under its name.

use std::collections::BTreeSet;
use std::sync::Arc;

use evidence::{Kind, Timestamp};
use ledger::{INSTANCE, Ledger, Tenant};
use serde::Deserialize;
use store::{FacetQuery, LeafKey};

use super::super::entries::Entry;
use super::SystemRecordOut;
use crate::ApiError;
use crate::api::run_list::tree_size;
use crate::api::run_steps::{Run, damaged};

/// Rows of a run looked through for its environment: it is recorded with the first span of each resource,
/// so it stands near the start.
const ROWS_LOOKED_THROUGH: u32 = 2_000;

/// Environments of a run that are taken: one for each process that took part.
const ENVIRONMENTS_MAX: usize = 32;

/// Records of one answer (SPEC 5).
pub(super) const EVENTS_MAX: usize = 10_000;

/// Minutes looked into for records by host and time. A run of a week has as many; each is one search.
const MINUTES_MAX: usize = 10_080;

/// Records read at once.
const CHUNK: usize = 64;

const MINUTE_MICROS: i64 = 60 * 1_000_000;

/// A stretch of time, both ends inclusive.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Window {
    pub(in super::super) start: Timestamp,
    pub(in super::super) end: Timestamp,
}

/// Microseconds shown on each side of the inflection (SPEC 5).
const HALF_WINDOW_MICROS: i64 = 30 * 1_000_000;

impl Window {
    /// Half a minute on each side.
    pub(in super::super) fn around(inflection: Timestamp) -> Self {
        let moved = |by: i64| inflection.checked_add_micros(by);
        Self {
            start: moved(-HALF_WINDOW_MICROS).unwrap_or(Timestamp::MIN),
            end: moved(HALF_WINDOW_MICROS).unwrap_or(Timestamp::MAX),
        }
    }

    pub(in super::super) fn holds(&self, at: Timestamp) -> bool {
        self.start <= at && at <= self.end
    }

    /// Its minutes as facets name them, at most [`MINUTES_MAX`].
    fn minutes(&self) -> Vec<String> {
        let first = self.start.as_micros().div_euclid(MINUTE_MICROS);
        let last = self.end.as_micros().div_euclid(MINUTE_MICROS);
        (first..=last)
            .take(MINUTES_MAX)
            .filter_map(|minute| Timestamp::from_micros(minute.checked_mul(MINUTE_MICROS)?))
            .map(|at| at.to_string().chars().take("2026-11-21T09:30".len()).collect())
            .collect()
    }
}

/// A system record near a run.
pub(in super::super) struct SystemEvent {
    pub(in super::super) record: SystemRecordOut,
}

impl SystemEvent {
    pub(in super::super) fn occurred_at(&self) -> Timestamp {
        self.record.occurred_at
    }

    /// What happened, and how grave it is.
    pub(in super::super) fn shown(&self) -> (String, String) {
        (self.record.event_type.clone(), self.record.severity.clone())
    }

    pub(super) fn into_record(self) -> SystemRecordOut {
        self.record
    }
}

/// The leaves of a run's environment evidence, oldest first.
pub(super) fn environments(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    run: &Run,
) -> Result<Vec<LeafKey>, ApiError> {
    let rows = ledger
        .records(tenant)
        .of_run(run.row.key, 0, ROWS_LOOKED_THROUGH)?;
    Ok(rows
        .iter()
        .filter(|row| row.kind == Kind::EvidenceEnvironment && run.sees(tenant, row.leaf))
        .map(|row| row.leaf)
        .take(ENVIRONMENTS_MAX)
        .collect())
}

/// What the environments of a run say of where it ran, by the name of an attribute, each value once.
pub(super) fn attributes(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    run: &Run,
    name: &str,
) -> Result<Vec<String>, ApiError> {
    #[derive(Deserialize)]
    struct Wire {
        #[serde(default)]
        resource: serde_json::Map<String, serde_json::Value>,
    }
    let leaves = environments(ledger, tenant, run)?;
    let mut found = BTreeSet::new();
    for record in ledger.records(tenant).read(&leaves)? {
        let Some(body) = &record.body else { continue };
        let wire: Wire =
            serde_json::from_slice(body).map_err(|error| damaged(record.leaf.leaf_index(), &error))?;
        let value = wire.resource.get(name).and_then(serde_json::Value::as_str);
        found.extend(value.filter(|value| !value.is_empty()).map(str::to_owned));
    }
    Ok(found.into_iter().collect())
}

/// How long a run was, so far: to its last record while it runs.
pub(super) fn duration(run: &Run) -> Window {
    let state = &run.row.state;
    Window {
        start: state.started_at,
        end: state
            .completed_at
            .unwrap_or(state.last_recorded_at)
            .max(state.started_at),
    }
}

/// Leaves in the instance's ledger, now.
pub(in super::super) fn instance_size(ledger: &Ledger) -> Result<u64, ApiError> {
    match ledger.tenant(INSTANCE) {
        Some(instance) => tree_size(ledger, &instance),
        None => Ok(0),
    }
}

/// Leaves of the tenant and of the instance, each once.
#[derive(Default)]
pub(super) struct Found {
    own: BTreeSet<LeafKey>,
    instance: BTreeSet<LeafKey>,
    /// More were found than are taken.
    pub(super) over: bool,
}

impl Found {
    fn len(&self) -> usize {
        self.own.len() + self.instance.len()
    }

    /// Adds the records that have all these facets, the tenant's and the instance's.
    pub(super) fn add(
        &mut self,
        ledger: &Ledger,
        tenant: &Arc<Tenant>,
        run: &Run,
        instance_as_of: u64,
        facets: &[String],
    ) -> Result<(), ApiError> {
        let instance = ledger.tenant(INSTANCE).filter(|_| &*tenant.tenant_id != INSTANCE);
        let mut lists = vec![(Arc::clone(tenant), run.as_of, facets.to_vec(), false)];
        if let Some(instance) = instance {
            let shared = std::iter::once("system".to_owned())
                .chain(facets.iter().cloned())
                .collect();
            lists.push((instance, instance_as_of, shared, true));
        }
        for (of, size, facets, shared) in lists {
            let mut query = FacetQuery {
                facets,
                newest_first: true,
                as_of: Some(LeafKey::new(of.ledger().row.ledger_no, size)),
                ..FacetQuery::default()
            };
            loop {
                let room = EVENTS_MAX.saturating_sub(self.len());
                query.limit = u32::try_from(room + 1).unwrap_or(u32::MAX);
                let page = ledger.store().facet_find(of.tenant_no, &query)?;
                let leaves = if shared { &mut self.instance } else { &mut self.own };
                for leaf in page.leaves {
                    if leaves.len() >= EVENTS_MAX {
                        self.over = true;
                        break;
                    }
                    leaves.insert(leaf);
                }
                self.over |= self.len() > EVENTS_MAX;
                if self.over || !page.has_more || page.next.is_none() {
                    break;
                }
                query.below = page.next;
            }
        }
        Ok(())
    }

    /// The records, by when they happened, at most [`EVENTS_MAX`] of those wanted.
    pub(super) fn read(
        &self,
        ledger: &Ledger,
        tenant: &Arc<Tenant>,
        wanted: impl Fn(&SystemRecordOut) -> bool,
    ) -> Result<Vec<SystemEvent>, ApiError> {
        let mut events = Vec::new();
        let instance = ledger.tenant(INSTANCE);
        let lists = [
            (Some(Arc::clone(tenant)), &self.own, false),
            (instance, &self.instance, true),
        ];
        for (of, leaves, shared) in lists {
            let Some(of) = of else { continue };
            let leaves: Vec<LeafKey> = leaves.iter().copied().collect();
            for chunk in leaves.chunks(CHUNK) {
                for record in ledger.records(&of).read(chunk)? {
                    let entry = Entry {
                        record,
                        instance: shared,
                    };
                    let record = SystemRecordOut::read(&entry)?;
                    if wanted(&record) {
                        events.push(SystemEvent { record });
                    }
                }
            }
        }
        events.sort_by_key(|event| (event.record.occurred_at, event.record.leaf_index));
        events.truncate(EVENTS_MAX);
        Ok(events)
    }
}

/// The system records of a window, by when they happened, and whether that is all of them.
pub(in super::super) fn in_window(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    run: &Run,
    instance_as_of: u64,
    window: Window,
) -> Result<(Vec<SystemEvent>, bool), ApiError> {
    let mut found = Found::default();
    for minute in window.minutes() {
        let facets = [evidence::facet::facet("system.minute", &minute)];
        found.add(ledger, tenant, run, instance_as_of, &facets)?;
    }
    let events = found.read(ledger, tenant, |record| window.holds(record.occurred_at))?;
    Ok((events, !found.over))
}

/// The system records of a run: under its name, or on one of its hosts while it ran.
pub(super) fn of_run(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    run: &Run,
    instance_as_of: u64,
) -> Result<(Vec<SystemEvent>, bool), ApiError> {
    let state = &run.row.state;
    let mut found = Found::default();
    let names: BTreeSet<&str> = [state.run_id.as_str(), state.trace_id.as_str()].into();
    for name in &names {
        for facet in ["system.correlation", "system.run"] {
            found.add(
                ledger,
                tenant,
                run,
                instance_as_of,
                &[evidence::facet::facet(facet, name)],
            )?;
        }
    }
    let (hosts, window) = (attributes(ledger, tenant, run, "host.name")?, duration(run));
    for host in &hosts {
        for minute in window.minutes() {
            if found.over {
                break;
            }
            let facets = [
                evidence::facet::facet("system.host", host),
                evidence::facet::facet("system.minute", &minute),
            ];
            found.add(ledger, tenant, run, instance_as_of, &facets)?;
        }
    }
    let events = found.read(ledger, tenant, |record| {
        let named = |name: &Option<String>| name.as_deref().is_some_and(|name| names.contains(name));
        named(&record.correlation_id)
            || named(&record.run_id)
            || (window.holds(record.occurred_at)
                && record.host.as_ref().is_some_and(|host| hosts.contains(host)))
    })?;
    Ok((events, !found.over))
}
