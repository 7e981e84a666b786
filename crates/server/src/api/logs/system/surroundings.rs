//! Where a run ran: its environment evidence, the hosts and service instances that this names, and how long.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use evidence::redact::is_redacted;
use evidence::{Identity, Kind, Timestamp};
use ledger::{Ledger, Record, Tenant};
use serde::Deserialize;
use serde_json::{Map, Value};
use store::LeafKey;

use super::window::Window;
use crate::ApiError;
use crate::api::facet_list::{DamagedEntry, is_unexplained};
use crate::api::run_steps::Run;

/// Environments of a run that are looked at: one for each resource, mostly a process, that took part. Their bodies
/// are a few hundred bytes each.
const ENVIRONMENTS_MAX: usize = 256;

/// How far apart a time by the sender's clock and that by which the record came are taken to be, where records are found
/// by when they were recorded: the exporter of an SDK gives up after a minute, that of a collector after five.
const APART_MICROS: i64 = 10 * 60 * 1_000_000;

/// The environment evidence of a run.
pub(super) struct Environments {
    /// Oldest first.
    pub(super) leaves: Vec<LeafKey>,
    /// The one that was posted, which names no host and no instance.
    posted: Option<LeafKey>,
    /// There are no more than [`ENVIRONMENTS_MAX`].
    pub(super) whole: bool,
}

/// Finds the environment evidence of a run.
pub(super) fn environments(ledger: &Ledger, run: &Run) -> Result<Environments, ApiError> {
    let limit = u32::try_from(ENVIRONMENTS_MAX + 1).unwrap_or(u32::MAX);
    let rows = ledger.store().run_environments(run.row.key, limit)?;
    let mut leaves: Vec<LeafKey> = rows
        .iter()
        .map(|row| row.leaf)
        .filter(|leaf| run.sees(*leaf))
        .collect();
    let once = Some(Identity::once(Kind::EvidenceEnvironment));
    let posted = rows.iter().find(|row| row.identity == once);
    let whole = leaves.len() <= ENVIRONMENTS_MAX;
    leaves.truncate(ENVIRONMENTS_MAX);
    Ok(Environments {
        leaves,
        posted: posted.map(|row| row.leaf),
        whole,
    })
}

/// What the environments of a run name, but for names of which redaction has left a marker: they tell nobody apart.
pub(super) struct Surroundings {
    pub(super) hosts: BTreeSet<String>,
    pub(super) instances: BTreeSet<String>,
    /// All of the run's environments were looked at, and still say what they name.
    pub(super) whole: bool,
    /// Of these environments those that say nothing because they were altered or taken away.
    pub(super) damaged: Vec<DamagedEntry>,
}

/// Reads what the environments of a run name.
pub(super) fn surroundings(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    run: &Run,
) -> Result<Surroundings, ApiError> {
    #[derive(Deserialize)]
    struct Wire {
        #[serde(default)]
        resource: Map<String, Value>,
    }
    let Environments {
        leaves,
        posted,
        mut whole,
    } = environments(ledger, run)?;
    let (mut hosts, mut instances) = (BTreeSet::new(), BTreeSet::new());
    let mut damaged = Vec::new();
    // What names the run itself is told whatever has become of one: none ends the read.
    let each = |record: Record| {
        let said = record.body.bytes().map(serde_json::from_slice::<Wire>);
        if let Some(Ok(wire)) = said {
            let text = |name: &str| {
                let value = wire.resource.get(name).and_then(Value::as_str);
                // Two hosts may have left the same marker.
                let named = value.filter(|value| !value.is_empty() && !is_redacted(value));
                named.map(str::to_owned)
            };
            hosts.extend(text("host.name"));
            instances.extend(text("service.instance.id"));
        } else {
            // Where the run ran is gone with it.
            whole &= posted == Some(record.leaf);
            if said.is_some() || is_unexplained(ledger, tenant, &record)? {
                damaged.push(DamagedEntry::of(tenant, &record)?);
            }
        }
        Ok::<_, ApiError>(ControlFlow::Continue(()))
    };
    ledger.records(tenant).each_listed(&leaves, |_, _| true, each)?;
    Ok(Surroundings {
        hosts,
        instances,
        whole,
        damaged,
    })
}

/// How long a run was, so far: to its last record while it runs. Pages after the first are about the same time.
pub(super) fn duration(ledger: &Ledger, run: &mut Run) -> Result<Window, ApiError> {
    let (start, end) = run.stretch(ledger, |run| {
        let state = &run.row.state;
        let end = state.completed_at.unwrap_or(state.last_recorded_at);
        Ok((state.started_at, end.max(state.started_at)))
    })?;
    Ok(Window { start, end })
}

/// Leaves, the first and the one behind the last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub(super) first: LeafKey,
    pub(super) end: LeafKey,
}

/// The leaves of a tenant that were recorded while something happened, and [`APART_MICROS`] before and after. Whatever
/// is found among them says itself when it happened.
pub(super) fn recorded_around(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    window: Window,
) -> Result<Stretch, ApiError> {
    let records = ledger.records(tenant);
    let moved = |at: Timestamp, by: i64| at.checked_add_micros(by);
    Ok(Stretch {
        first: records.recorded_since(moved(window.start, -APART_MICROS).unwrap_or(Timestamp::MIN))?,
        end: records.recorded_since(moved(window.end, APART_MICROS).unwrap_or(Timestamp::MAX))?,
    })
}

/// Leaves above the first and below the second, of those in a stretch.
pub(super) fn within(
    (below, end): (Option<LeafKey>, LeafKey),
    stretch: Option<Stretch>,
) -> (Option<LeafKey>, LeafKey) {
    let Some(stretch) = stretch else {
        return (below, end);
    };
    // What lies above the leaf before the first; leaves of a ledger before are no harm.
    let first = LeafKey::from_i64(stretch.first.as_i64().saturating_sub(1));
    (below.max(Some(first)), end.min(stretch.end))
}
