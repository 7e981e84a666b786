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
        let Some(body) = record.body.bytes() else { continue };
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

/// Where a page begins: the tenant's records first, then the instance's, both as they were recorded, so that what comes
/// meanwhile shifts nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) enum Begin {
    #[default]
    Start,
    Own(LeafKey),
    Instance(LeafKey),
}

/// Stands in a cursor for a leaf of the instance.
const OF_INSTANCE: u64 = 1 << 63;

impl Begin {
    /// As a cursor says it; 0 is the start.
    pub(super) fn decode(from: u64) -> Self {
        let leaf = i64::try_from(from & !OF_INSTANCE).map(|leaf| LeafKey::from_i64(leaf.saturating_sub(1)));
        match (from, leaf) {
            (0, _) | (_, Err(_)) => Self::Start,
            (_, Ok(leaf)) if from & OF_INSTANCE == 0 => Self::Own(leaf),
            (_, Ok(leaf)) => Self::Instance(leaf),
        }
    }

    pub(super) fn encode(self) -> u64 {
        let number = |leaf: LeafKey| u64::try_from(leaf.as_i64()).unwrap_or(0) + 1;
        match self {
            Self::Start => 0,
            Self::Own(leaf) => number(leaf),
            Self::Instance(leaf) => number(leaf) | OF_INSTANCE,
        }
    }
}

/// Leaves of the tenant and of the instance, each once: the first of those that are found, and one more of each.
#[derive(Default)]
struct Found {
    from: Begin,
    own: BTreeSet<LeafKey>,
    instance: BTreeSet<LeafKey>,
}

/// A page of system records, by when they happened.
pub(in super::super) struct SystemPage {
    pub(in super::super) events: Vec<SystemEvent>,
    /// Where the next one begins.
    pub(in super::super) next: Option<Begin>,
}

impl Found {
    fn from(from: Begin) -> Self {
        Self {
            from,
            ..Self::default()
        }
    }

    /// Adds the records that have all these facets, the tenant's and the instance's.
    fn add(
        &mut self,
        ledger: &Ledger,
        tenant: &Arc<Tenant>,
        run: &Run,
        instance_as_of: u64,
        facets: &[String],
    ) -> Result<(), ApiError> {
        if !matches!(self.from, Begin::Instance(_)) {
            let below = match self.from {
                Begin::Own(leaf) => Some(leaf),
                _ => None,
            };
            let as_of = LeafKey::new(tenant.ledger().row.ledger_no, run.as_of);
            add(ledger, tenant, (below, as_of), facets.to_vec(), &mut self.own)?;
        }
        let instance = ledger.tenant(INSTANCE).filter(|_| &*tenant.tenant_id != INSTANCE);
        if let Some(instance) = instance {
            let below = match self.from {
                Begin::Instance(leaf) => Some(leaf),
                _ => None,
            };
            let shared = std::iter::once("system".to_owned()).chain(facets.iter().cloned());
            let as_of = LeafKey::new(instance.ledger().row.ledger_no, instance_as_of);
            add(
                ledger,
                &instance,
                (below, as_of),
                shared.collect(),
                &mut self.instance,
            )?;
        }
        Ok(())
    }

    /// The records that are wanted of the first [`EVENTS_MAX`] found.
    fn read(
        mut self,
        ledger: &Ledger,
        tenant: &Arc<Tenant>,
        wanted: impl Fn(&SystemRecordOut) -> bool,
    ) -> Result<SystemPage, ApiError> {
        let next = self.cut(EVENTS_MAX);
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
        Ok(SystemPage { events, next })
    }

    /// Leaves out what does not go into a page of so many; where the next page begins.
    fn cut(&mut self, max: usize) -> Option<Begin> {
        let of_own = self.own.len().min(max);
        let mut next = None;
        if self.instance.len() > max - of_own {
            while self.instance.len() > max - of_own {
                self.instance.pop_last();
            }
            let own = self.own.last().map_or(self.from, |&leaf| Begin::Own(leaf));
            next = Some(self.instance.last().map_or(own, |&leaf| Begin::Instance(leaf)));
        }
        if self.own.len() > max {
            while self.own.len() > max {
                self.own.pop_last();
            }
            self.instance.clear();
            next = self.own.last().map(|&leaf| Begin::Own(leaf));
        }
        next
    }
}

/// Adds the oldest leaves above the cursor, at most one more than a page holds.
fn add(
    ledger: &Ledger,
    of: &Tenant,
    (below, as_of): (Option<LeafKey>, LeafKey),
    facets: Vec<String>,
    leaves: &mut BTreeSet<LeafKey>,
) -> Result<(), ApiError> {
    let mut query = FacetQuery {
        facets,
        as_of: Some(as_of),
        below,
        limit: u32::try_from(EVENTS_MAX + 1).unwrap_or(u32::MAX),
        ..FacetQuery::default()
    };
    let mut taken = 0;
    loop {
        let page = ledger.store().facet_find(of.tenant_no, &query)?;
        taken += page.leaves.len();
        leaves.extend(page.leaves);
        while leaves.len() > EVENTS_MAX + 1 {
            leaves.pop_last();
        }
        if taken > EVENTS_MAX || !page.has_more || page.next.is_none() {
            return Ok(());
        }
        query.below = page.next;
    }
}

/// The system records of a window.
pub(in super::super) fn in_window(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    run: &Run,
    instance_as_of: u64,
    window: Window,
    from: Begin,
) -> Result<SystemPage, ApiError> {
    let mut found = Found::from(from);
    for minute in window.minutes() {
        let facets = [evidence::facet::facet("system.minute", &minute)];
        found.add(ledger, tenant, run, instance_as_of, &facets)?;
    }
    found.read(ledger, tenant, |record| window.holds(record.occurred_at))
}

/// A page of the system records of a run: under its name, or on one of its hosts while it ran.
pub(super) fn of_run(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    run: &Run,
    instance_as_of: u64,
) -> Result<SystemPage, ApiError> {
    let state = &run.row.state;
    let mut found = Found::from(Begin::decode(run.from));
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
            let facets = [
                evidence::facet::facet("system.host", host),
                evidence::facet::facet("system.minute", &minute),
            ];
            found.add(ledger, tenant, run, instance_as_of, &facets)?;
        }
    }
    found.read(ledger, tenant, |record| {
        let named = |name: &Option<String>| name.as_deref().is_some_and(|name| names.contains(name));
        named(&record.correlation_id)
            || named(&record.run_id)
            || (window.holds(record.occurred_at)
                && record.host.as_ref().is_some_and(|host| hosts.contains(host)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(ledger_no: u32, indexes: std::ops::Range<u64>) -> BTreeSet<LeafKey> {
        indexes.map(|index| LeafKey::new(ledger_no, index)).collect()
    }

    /// What pages of so many show, one after the other, of so many leaves.
    fn pages(max: usize, own: u64, instance: u64) -> Vec<(usize, usize)> {
        let (mut from, mut shown) = (Begin::Start, Vec::new());
        loop {
            let (own_from, instance_from) = match from {
                Begin::Start => (0, 0),
                Begin::Own(leaf) => (leaf.leaf_index() + 1, 0),
                Begin::Instance(leaf) => (own, leaf.leaf_index() + 1),
            };
            let mut found = Found {
                from,
                own: leaves(3, own_from..own),
                instance: leaves(0, instance_from..instance),
            };
            let next = found.cut(max);
            shown.push((found.own.len(), found.instance.len()));
            let Some(next) = next else { return shown };
            assert_eq!(Begin::decode(next.encode()), next);
            assert_ne!(next, from, "a page leads on");
            from = next;
        }
    }

    #[test]
    fn pages_show_every_leaf_once_the_instances_last() {
        assert_eq!(pages(3, 0, 0), [(0, 0)]);
        assert_eq!(pages(3, 2, 1), [(2, 1)]);
        assert_eq!(pages(3, 3, 0), [(3, 0)]);
        assert_eq!(pages(3, 3, 1), [(3, 0), (0, 1)]);
        assert_eq!(pages(3, 7, 4), [(3, 0), (3, 0), (1, 2), (0, 2)]);
        assert_eq!(pages(3, 0, 7), [(0, 3), (0, 3), (0, 1)]);
    }
}
