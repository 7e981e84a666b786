//! Lists of records found by facets, of one ledger, or of a tenant's and the instance's merged, newest first.
//!
//! A page reads its own rows and no others: the store finds leaves by index, and
//! two lists are merged by when their records were recorded. The cursor carries
//! the sizes of both trees and where each list goes on.
//!
//! Source: SPEC 5.

use std::ops::ControlFlow;
use std::sync::Arc;

use evidence::{Header, SourceDomain, Timestamp};
use ledger::{INSTANCE, Ledger, Record, Tenant};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{FacetQuery, Gone, LeafKey};

use super::metadata::Metadata;
use super::shared::{Item, Shared};
use crate::api::run_list::{
    Filters, LIMIT_DEFAULT, LIMIT_MAX, OFFSET_MAX, PageParams, TOTAL_EXACT_MAX, as_of, bad, instance_as_of,
    offset,
};
use crate::api::run_steps::damaged;
use crate::{ApiError, cursor, extract};

/// Bodies of one page, all together; a page of larger ones is shorter, and goes on by its cursor.
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Records chosen at once, and headers read at once: of the longest, 4 MiB.
const CHUNK: usize = 64;

/// A list to read from.
pub(super) struct Source {
    pub(super) tenant: Arc<Tenant>,
    /// All must hold.
    pub(super) facets: Vec<String>,
}

/// Which part of a list.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) page: PageParams,
    pub(super) instance_as_of: Option<u64>,
    pub(super) created_after: Option<Timestamp>,
    pub(super) created_before: Option<Timestamp>,
}

/// A record on its way into an answer.
pub(super) struct Entry {
    pub(super) record: Record,
}

impl Entry {
    pub(super) fn header(&self) -> Result<Header<'_>, ApiError> {
        Ok(self.record.header()?)
    }

    /// What stands where the body said something, when it is gone, or is not the one that was recorded.
    pub(super) fn gone_word(&self) -> &'static str {
        if self.record.is_altered() {
            return "damaged";
        }
        self.record.body.gone().map_or("", Gone::as_str)
    }

    /// The body as `T`; `None`: it is gone, or altered.
    pub(super) fn body<'a, T: Deserialize<'a>>(&'a self) -> Result<Option<T>, ApiError> {
        let read = |body: &'a [u8]| {
            serde_json::from_slice(body).map_err(|error| damaged(self.record.leaf.leaf_index(), &error))
        };
        self.record.body.bytes().map(read).transpose()
    }
}

/// What every list says beside its entries.
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    pub(super) as_of: u64,
    /// Of the instance's ledger, when the list reads it.
    pub(super) instance_as_of: u64,
    pub(super) total: u64,
    pub(super) total_exact: bool,
    pub(super) has_more: bool,
    pub(super) next_cursor: Option<String>,
    pub(super) filters_applied: Filters,
    pub(super) metadata: Metadata,
}

/// Where a page ended: each list's last leaf, records still to pass over, the instance's size, and the total.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Position(Vec<Option<i64>>, u32, u64, u64, bool);

/// The tenant's list, and the instance's beside it unless the tenant is the instance.
pub(super) fn with_instance(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    own: Vec<String>,
    shared: Vec<String>,
) -> Vec<Source> {
    let mut sources = vec![Source {
        tenant: Arc::clone(tenant),
        facets: own,
    }];
    if let Some(instance) = ledger.tenant(INSTANCE).filter(|_| &*tenant.tenant_id != INSTANCE) {
        sources.push(Source {
            tenant: instance,
            facets: shared,
        });
    }
    sources
}

/// Reads a page of the list of that name; the first source is the caller's own tenant.
#[allow(clippy::too_many_arguments)] // one use case, told in full
pub(super) fn page<T: Item>(
    ledger: &Ledger,
    list: &str,
    sources: &[Source],
    filters: Filters,
    asked: &Asked,
    mut metadata: Metadata,
) -> Result<Page<T>, ApiError> {
    let tenant = &sources[0].tenant;
    let limit = extract::limit(asked.page.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let mut skip = offset(asked.page.offset, asked.page.cursor.is_some())?;
    let mut filters_applied = Filters::new();
    filters_applied.insert("tenant_id".into(), Value::from(&*tenant.tenant_id));
    filters_applied.extend(filters);
    let ledger_no = tenant.ledger().row.ledger_no;
    // Both trees count: a cursor says how large each was.
    let instance_no = sources.get(1).map(|source| source.tenant.ledger().row.ledger_no);
    let scope = (list, &filters_applied, instance_no);

    let (sizes, mut below, counted) = if let Some(cursor) = &asked.page.cursor {
        let (size, Position(below, left, instance, total, exact)) =
            cursor::decode::<Position>(&scope, ledger_no, cursor)?;
        let other = |asked: Option<u64>, made: u64| asked.is_some_and(|asked| asked != made);
        for (name, asked, made) in [
            ("as_of", asked.page.as_of, size),
            ("instance_as_of", asked.instance_as_of, instance),
        ] {
            if other(asked, made) {
                let message = format!("query: {name}: the cursor was made at another tree size");
                return Err(bad(message));
            }
        }
        // A cursor is no secret: whoever forges one gets no further than an offset does.
        if u64::from(left) > OFFSET_MAX {
            return Err(bad("query: cursor: passes over too many"));
        }
        skip = left;
        let below: Vec<Option<LeafKey>> = below
            .into_iter()
            .map(|leaf| leaf.map(LeafKey::from_i64))
            .collect();
        (vec![size, instance], below, Some((total, exact)))
    } else {
        let own = as_of(ledger, tenant, asked.page.as_of)?;
        let instance = match sources.get(1) {
            Some(instance) => instance_as_of(ledger, &instance.tenant, asked.instance_as_of)?,
            None => 0,
        };
        (vec![own, instance], vec![None; sources.len()], None)
    };
    below.resize(sources.len(), None);
    let query = |place: usize| FacetQuery {
        facets: sources[place].facets.clone(),
        after: asked.created_after,
        before: asked.created_before,
        as_of: Some(LeafKey::new(
            sources[place].tenant.ledger().row.ledger_no,
            sizes[place],
        )),
        newest_first: true,
        ..FacetQuery::default()
    };
    let (total, total_exact) = match counted {
        Some(counted) => counted,
        None => total(ledger, sources, query)?,
    };

    // One list passes over in the store; of two nobody knows yet which gives how many.
    let merged = sources.len() > 1;
    let mut lists = Vec::with_capacity(sources.len());
    for place in 0..sources.len() {
        let wanted = FacetQuery {
            below: below[place],
            offset: if merged { 0 } else { skip },
            limit: limit + 1 + if merged { skip } else { 0 },
            ..query(place)
        };
        let found = ledger
            .store()
            .facet_find(sources[place].tenant.tenant_no, &wanted)?;
        if !merged {
            skip = found.offset;
        }
        lists.push(List {
            ledger,
            tenant: &sources[place].tenant,
            next: found.next.filter(|_| found.has_more),
            more: found.has_more,
            leaves: found.leaves,
            at: 0,
        });
    }
    if merged {
        skip = pass_over(&mut lists, skip)?;
        // The next page does not begin with them again.
        for (list, below) in lists.iter().zip(&mut below) {
            let last = list.at.checked_sub(1).and_then(|last| list.leaves.get(last));
            *below = last.copied().or(*below);
        }
    }
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut items = Vec::with_capacity(wanted.min(64));
    let mut bytes = 0;
    let mut shared = Shared::default();
    let records = ledger.records(tenant);
    while skip == 0 && items.len() < wanted && bytes < PAGE_BYTES_MAX {
        let chosen = choose(&lists, CHUNK.min(wanted - items.len()))?;
        if chosen.is_empty() {
            break;
        }
        // Leaves say themselves of which ledger they are.
        let leaves: Vec<LeafKey> = chosen.iter().map(|(_, leaf)| *leaf).collect();
        let mut places = chosen.iter().map(|(place, _)| *place);
        // Whoever alters one body would hide all that stands behind it.
        records.each_listed(
            &leaves,
            |_, _| true,
            |record| {
                let Some(place) = places.next() else {
                    return Ok::<_, ApiError>(ControlFlow::Break(()));
                };
                bytes += record.body.bytes().map_or(0, <[u8]>::len) + record.header.len();
                lists[place].at += 1;
                below[place] = Some(record.leaf);
                let entry = Entry { record };
                let item = T::read(&entry)?;
                shared.add(&entry, &item, &mut metadata)?;
                items.push(item);
                Ok(if bytes < PAGE_BYTES_MAX {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                })
            },
        )?;
    }
    shared.finish(&mut metadata);
    let has_more = lists.iter().any(|list| list.at < list.leaves.len() || list.more);
    let next_cursor = if has_more {
        let ends = lists.iter().zip(&below).map(|(list, below)| {
            // A search that ended early goes on where it was, not at the last it found.
            let end = list.next.filter(|_| list.at == list.leaves.len());
            end.or(*below).map(LeafKey::as_i64)
        });
        let at = Position(ends.collect(), skip, sizes[1], total, total_exact);
        Some(cursor::encode(&scope, (ledger_no, sizes[0]), &at)?)
    } else {
        None
    };
    Ok(Page {
        items,
        as_of: sizes[0],
        instance_as_of: sizes[1],
        total,
        total_exact,
        has_more,
        next_cursor,
        filters_applied,
        metadata,
    })
}

fn total(
    ledger: &Ledger,
    sources: &[Source],
    query: impl Fn(usize) -> FacetQuery,
) -> Result<(u64, bool), ApiError> {
    let mut sum = (0, true);
    for (place, source) in sources.iter().enumerate() {
        let (count, exact) =
            ledger
                .store()
                .facet_count(source.tenant.tenant_no, &query(place), TOTAL_EXACT_MAX)?;
        sum = (sum.0 + count, sum.1 && exact);
    }
    Ok(sum)
}

/// One of the lists that are merged.
struct List<'a> {
    ledger: &'a Ledger,
    tenant: &'a Arc<Tenant>,
    leaves: Vec<LeafKey>,
    /// Leaves taken.
    at: usize,
    more: bool,
    next: Option<LeafKey>,
}

impl List<'_> {
    /// Reads the next leaves, that they are kept: each is looked at alone when lists are merged.
    fn read_ahead(&self, most: usize) -> Result<(), ApiError> {
        let end = self.leaves.len().min(self.at + most.min(CHUNK));
        self.ledger
            .records(self.tenant)
            .headers(&self.leaves[self.at..end])?;
        Ok(())
    }

    fn recorded_at(&self, at: usize) -> Result<Timestamp, ApiError> {
        let headers = self.ledger.records(self.tenant).headers(&self.leaves[at..=at])?;
        let header = headers.first().map(Vec::as_slice).unwrap_or_default();
        let header = Header::decode(header).map_err(|error| damaged(self.leaves[at].leaf_index(), &error))?;
        Ok(header.recorded_at)
    }

    /// Nothing is left, and what comes after it is not known yet: no other list may go past it.
    fn is_open_end(&self, at: usize) -> bool {
        at == self.leaves.len() && self.more
    }

    /// How many of the next `most` were recorded at `time` or later.
    fn newer(&self, most: usize, time: Timestamp) -> Result<usize, ApiError> {
        let (mut low, mut high) = (0, most.min(self.leaves.len() - self.at));
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.recorded_at(self.at + middle)? >= time {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

/// Passes over the first `skip` of two merged lists; gives how many are still to be passed over.
///
/// The instance's list is short: for each of its records one search in the tenant's.
fn pass_over(lists: &mut [List<'_>], skip: u32) -> Result<u32, ApiError> {
    let mut skip = usize::try_from(skip).unwrap_or(usize::MAX);
    let [own, instance] = lists else { return Ok(0) };
    while skip > 0 {
        if instance.at == instance.leaves.len() {
            if !instance.more {
                let step = skip.min(own.leaves.len() - own.at);
                own.at += step;
                skip -= step;
            }
            break;
        }
        let step = own.newer(skip, instance.recorded_at(instance.at)?)?;
        own.at += step;
        skip -= step;
        if skip == 0 || own.is_open_end(own.at) {
            break;
        }
        instance.at += 1;
        skip -= 1;
    }
    // Lists that are at their end have nothing more to pass over.
    let over = lists.iter().any(|list| list.is_open_end(list.at));
    Ok(if over {
        u32::try_from(skip).unwrap_or(u32::MAX)
    } else {
        0
    })
}

/// The next leaves of the lists merged, at most `wanted`, each with its list. They are not taken yet.
fn choose(lists: &[List<'_>], wanted: usize) -> Result<Vec<(usize, LeafKey)>, ApiError> {
    if lists.len() > 1 {
        for list in lists {
            list.read_ahead(wanted)?;
        }
    }
    let mut at: Vec<usize> = lists.iter().map(|list| list.at).collect();
    let mut chosen = Vec::with_capacity(wanted);
    while chosen.len() < wanted {
        if (0..lists.len()).any(|place| lists[place].is_open_end(at[place])) {
            break;
        }
        let left: Vec<usize> = (0..lists.len())
            .filter(|&place| at[place] < lists[place].leaves.len())
            .collect();
        let place = match left.as_slice() {
            [] => break,
            [one] => *one,
            [own, instance, ..] => {
                if lists[*own].recorded_at(at[*own])? >= lists[*instance].recorded_at(at[*instance])? {
                    *own
                } else {
                    *instance
                }
            }
        };
        chosen.push((place, lists[place].leaves[at[place]]));
        at[place] += 1;
    }
    Ok(chosen)
}

/// Metadata of a list, until its entries say more.
pub(super) fn metadata(
    tenant: &Tenant,
    component: &'static str,
    domain: SourceDomain,
    at: Timestamp,
) -> Metadata {
    Metadata::new(tenant, component, domain, at)
}
