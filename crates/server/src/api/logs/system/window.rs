//! System records that lie near a run: in its minutes, on its hosts, under its name.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use evidence::facet::facet;
use evidence::{Header, Timestamp};
use ledger::{INSTANCE, Ledger, Tenant};
use serde::Deserialize;
use store::{FacetQuery, LeafKey};
use utoipa::IntoParams;

use super::super::entries::Entry;
use super::super::shared::Item;
use super::SystemRecordOut;
use super::surroundings::{Stretch, recorded_around, surroundings, within};
use crate::ApiError;
use crate::api::facet_list::DamagedEntry;
use crate::api::run_list::{bad, instance_as_of};
use crate::api::run_steps::{Run, RunParams};

/// Records of one answer (SPEC 5).
pub(super) const EVENTS_MAX: usize = 10_000;

/// Longest time, in minutes, that is looked into minute by minute for records of a host: each is a search. Of longer
/// runs those are looked at that were recorded meanwhile.
const MINUTES_MAX: usize = 60;

/// Bodies read for a page whose records are shown whole; the one that passes it is the page's last.
const SHOWN_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bodies read for a page of which only a few words of each record are shown: some 0.2 s. The one that passes it is the
/// page's last.
const READ_BYTES_MAX: usize = 32 * 1024 * 1024;

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

    /// Its minutes as facets name them; none of more than [`MINUTES_MAX`].
    fn minutes(&self) -> Option<Vec<String>> {
        let first = self.start.as_micros().div_euclid(MINUTE_MICROS);
        let last = self.end.as_micros().div_euclid(MINUTE_MICROS);
        let short = usize::try_from(last - first).is_ok_and(|minutes| minutes < MINUTES_MAX);
        short.then(|| {
            (first..=last)
                .filter_map(|minute| Timestamp::from_micros(minute.checked_mul(MINUTE_MICROS)?))
                .map(|at| at.to_string().chars().take("2026-11-21T09:30".len()).collect())
                .collect()
        })
    }
}

/// Which part of what is near a run.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventParams {
    /// `next_cursor` of the answer before.
    pub(super) cursor: Option<String>,
    /// The tree size to read at; the present one when absent.
    #[param(minimum = 0)]
    pub(super) as_of: Option<u64>,
    /// The tree size of the instance's ledger to read at; the present one when absent.
    #[param(minimum = 0)]
    pub(super) instance_as_of: Option<u64>,
}

impl EventParams {
    pub(super) fn of_run(&self) -> RunParams {
        RunParams {
            cursor: self.cursor.clone(),
            as_of: self.as_of,
        }
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

/// The size of the instance's ledger that a read of one run is made at: that of its cursor, that asked for, or the
/// present one.
///
/// # Errors
/// 400 when they are not the same, or the ledger is not that large.
pub(in super::super) fn instance_size(
    ledger: &Ledger,
    run: &Run,
    is_first: bool,
    asked: Option<u64>,
) -> Result<u64, ApiError> {
    if !is_first {
        if asked.is_some_and(|asked| asked != run.beside) {
            return Err(bad(
                "query: instance_as_of: the cursor was made at another tree size",
            ));
        }
        return Ok(run.beside);
    }
    match ledger.tenant(INSTANCE) {
        Some(instance) => instance_as_of(ledger, &instance, asked),
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

/// Leaves that were recorded around a run, in the tenant's ledger and in the instance's.
#[derive(Clone, Copy)]
struct Recorded {
    own: Stretch,
    instance: Option<Stretch>,
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
        recorded: Option<Recorded>,
    ) -> Result<(), ApiError> {
        if !matches!(self.from, Begin::Instance(_)) {
            let below = match self.from {
                Begin::Own(leaf) => Some(leaf),
                _ => None,
            };
            let as_of = LeafKey::new(tenant.ledger().row.ledger_no, run.as_of);
            let range = within((below, as_of), recorded.map(|recorded| recorded.own));
            add(ledger, tenant, range, facets.to_vec(), &mut self.own)?;
        }
        let instance = ledger.tenant(INSTANCE).filter(|_| &*tenant.tenant_id != INSTANCE);
        if let Some(instance) = instance {
            let below = match self.from {
                Begin::Instance(leaf) => Some(leaf),
                _ => None,
            };
            let shared = std::iter::once("system".to_owned()).chain(facets.iter().cloned());
            let as_of = LeafKey::new(instance.ledger().row.ledger_no, instance_as_of);
            let range = within((below, as_of), recorded.and_then(|recorded| recorded.instance));
            add(ledger, &instance, range, shared.collect(), &mut self.instance)?;
        }
        Ok(())
    }

    /// What is kept of the first [`EVENTS_MAX`] found, or of fewer when their bodies come to `bytes_max`. The bodies of
    /// those that are `wanted` by their headers are read, of no others.
    fn read(
        mut self,
        ledger: &Ledger,
        tenant: &Arc<Tenant>,
        bytes_max: usize,
        wanted: impl Fn(LeafKey, &Header<'_>) -> bool,
        keep: impl Fn(SystemRecordOut) -> Option<SystemRecordOut>,
    ) -> Result<SystemPage, ApiError> {
        let next = self.cut(EVENTS_MAX);
        let (mut events, mut bytes, mut full) = (Vec::new(), 0, None);
        let lists = [
            (Some(Arc::clone(tenant)), &self.own, false),
            (ledger.tenant(INSTANCE), &self.instance, true),
        ];
        for (of, leaves, shared) in lists {
            let Some(of) = of.filter(|_| full.is_none()) else {
                continue;
            };
            let leaves: Vec<LeafKey> = leaves.iter().copied().collect();
            ledger.records(&of).each_listed(&leaves, &wanted, |record| {
                let leaf = record.leaf;
                bytes += record.body.bytes().map_or(0, <[u8]>::len);
                let entry = Entry { record };
                let kept = keep(SystemRecordOut::read(&entry)?);
                events.extend(kept.map(|record| SystemEvent { record }));
                if bytes > bytes_max {
                    full = Some(if shared {
                        Begin::Instance(leaf)
                    } else {
                        Begin::Own(leaf)
                    });
                    return Ok(ControlFlow::Break(()));
                }
                Ok::<_, ApiError>(ControlFlow::Continue(()))
            })?;
        }
        events.sort_by_key(|event| (event.record.occurred_at, event.record.leaf_index));
        // The last of all may be the one that passes it.
        let full = full.filter(|full| Some(*full) != self.last());
        Ok(SystemPage {
            events,
            next: full.or(next),
        })
    }

    /// The last of what was found.
    fn last(&self) -> Option<Begin> {
        let own = || self.own.last().map(|&leaf| Begin::Own(leaf));
        let instance = self.instance.last().map(|&leaf| Begin::Instance(leaf));
        instance.or_else(own)
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

/// The system records of a window of a minute.
pub(in super::super) fn in_window(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    run: &Run,
    instance_as_of: u64,
    window: Window,
    from: Begin,
) -> Result<SystemPage, ApiError> {
    let mut found = Found::from(from);
    for minute in window.minutes().unwrap_or_default() {
        let facets = [evidence::facet::facet("system.minute", &minute)];
        found.add(ledger, tenant, run, instance_as_of, &facets, None)?;
    }
    let wanted = |_, header: &Header<'_>| window.holds(header.occurred_at);
    found.read(ledger, tenant, READ_BYTES_MAX, wanted, |record| {
        // Nobody shows what else it says, and it may be long.
        Some(record.without_details())
    })
}

/// A page of the system records of a run: under its name or that of one of its traces, or on one of its hosts or from one
/// of its service instances while it ran, which is the window. And whether all of its traces and environments were looked at,
/// and which of those are damaged.
pub(super) fn of_run(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    run: &mut Run,
    instance_as_of: u64,
    window: Window,
) -> Result<(SystemPage, bool, Vec<DamagedEntry>), ApiError> {
    let (traces, all_traces) = run.traces(ledger)?;
    let (run, mut found) = (&*run, Found::from(Begin::decode(run.from)));
    let mut add =
        |facets: &[String], recorded| found.add(ledger, tenant, run, instance_as_of, facets, recorded);
    let state = &run.row.state;
    let mut names = BTreeSet::from([state.run_id.clone(), state.trace_id.clone()]);
    for name in &names {
        add(&[facet("system.run", name)], None)?;
    }
    names.extend(traces);
    for name in &names {
        add(&[facet("system.correlation", name)], None)?;
    }
    let named: BTreeSet<LeafKey> = found.own.union(&found.instance).copied().collect();
    let mut add =
        |facets: &[String], recorded| found.add(ledger, tenant, run, instance_as_of, facets, recorded);
    let around = surroundings(ledger, tenant, run)?;
    let places = [
        ("system.host", &around.hosts),
        ("system.instance", &around.instances),
    ];
    let places = places
        .into_iter()
        .flat_map(|(of, values)| values.iter().map(move |value| facet(of, value)));
    if let Some(minutes) = window.minutes() {
        for place in places {
            for minute in &minutes {
                add(&[place.clone(), facet("system.minute", minute)], None)?;
            }
        }
    } else {
        let instance = ledger.tenant(INSTANCE);
        let recorded = Recorded {
            own: recorded_around(ledger, tenant, window)?,
            instance: instance
                .map(|instance| recorded_around(ledger, &instance, window))
                .transpose()?,
        };
        for place in places {
            add(&[place], Some(recorded))?;
        }
    }
    // What only a place leads to is of the run while it lasted, which its header tells.
    let wanted = |leaf, header: &Header<'_>| named.contains(&leaf) || window.holds(header.occurred_at);
    let page = found.read(ledger, tenant, SHOWN_BYTES_MAX, wanted, |record| {
        let one_of = |name: &Option<String>, names: &BTreeSet<String>| {
            name.as_deref().is_some_and(|name| names.contains(name))
        };
        // Of one that is archived or damaged the facet alone says it, by which it was found.
        let of_run = record.gone
            || one_of(&record.correlation_id, &names)
            || one_of(&record.run_id, &names)
            || (window.holds(record.occurred_at)
                && (one_of(&record.host, &around.hosts) || one_of(&record.instance, &around.instances)));
        of_run.then_some(record)
    })?;
    Ok((page, all_traces && around.whole, around.damaged))
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
