//! What a sign-in says of its principal: that it is new to the tenant, or has other roles.
//!
//! Issuers tell nobody whom they let in and whose roles they change; it shows when
//! he signs in. Who is removed does not sign in again, so nothing shows it.
//!
//! Source: SPEC 5.4.

use std::collections::HashMap;
use std::sync::Arc;

use ledger::{LastSignin, Ledger, Tenant};

use super::recorder::{Noted, What};

/// Puts a note before each sign-in that says something new of its principal.
pub(super) fn tell(ledger: &Ledger, tenant: &Arc<Tenant>, notes: &mut Vec<Noted>) {
    if !notes
        .iter()
        .any(|note| matches!(note.what, What::SignedIn { .. }))
    {
        return;
    }
    // Counts that ended stand behind what came after them.
    notes.sort_by_key(|note| note.at);
    let records = ledger.records(tenant);
    let mut known: HashMap<Arc<str>, LastSignin> = HashMap::new();
    let mut told = Vec::with_capacity(notes.len() + 1);
    for note in notes.drain(..) {
        if let What::SignedIn { roles } = &note.what {
            let principal = &note.who.principal;
            let last = known.entry(Arc::clone(principal)).or_insert_with(|| {
                records.last_signin(principal).unwrap_or_else(|error| {
                    tracing::warn!(%error, "whether a principal is new or has other roles cannot be said");
                    LastSignin::Unknown
                })
            });
            let now = LastSignin::With(roles.to_vec());
            if let Some(added) = news(last, &now) {
                let roles = Arc::clone(roles);
                told.push(Noted {
                    what: What::Principal { added, roles },
                    count: 1,
                    since: None,
                    ..note.clone()
                });
            }
            *last = now;
        }
        told.push(note);
    }
    *notes = told;
}

/// `true`: the principal is new. `false`: it has other roles.
fn news(last: &LastSignin, now: &LastSignin) -> Option<bool> {
    match last {
        LastSignin::Never => Some(true),
        LastSignin::Unknown => None,
        LastSignin::With(_) => (last != now).then_some(false),
    }
}
