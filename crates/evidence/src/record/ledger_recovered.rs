//! `ledger.recovered`: the first leaf of an epoch that follows a rollback.
//!
//! Source: SPEC 2.4; docs/formats.md, "ledger.recovered".

use super::{put, text};
use crate::canonical::{self, Value};

/// The body of a `ledger.recovered`.
#[derive(Clone, Debug)]
pub struct LedgerRecovered {
    /// Why the operator recovered, in his words.
    pub reason: String,
    /// The origin of the epoch that ended.
    pub previous_origin: String,
    /// The last checkpoint of that epoch that the database still has, a signed note.
    pub last_checkpoint: Option<String>,
    /// The size and root (base64) that had been signed or marked last.
    pub last_known: Option<(u64, String)>,
    /// Leaves that were promised and are gone: first and one past the last; none when nothing is known lost.
    pub lost: Option<(u64, u64)>,
}

impl LedgerRecovered {
    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        let int = |n: u64| i64::try_from(n).map_or_else(|_| text(&n.to_string()), Value::Int);
        let mut object = Vec::with_capacity(6);
        put(
            &mut object,
            "last_checkpoint",
            self.last_checkpoint.as_deref().map(text),
        );
        if let Some((size, root)) = &self.last_known {
            put(&mut object, "last_known_root", Some(text(root)));
            put(&mut object, "last_known_size", Some(int(*size)));
        }
        if let Some((first, end)) = self.lost {
            put(&mut object, "lost_end", Some(int(end)));
            put(&mut object, "lost_first", Some(int(first)));
        }
        put(&mut object, "previous_origin", Some(text(&self.previous_origin)));
        put(&mut object, "reason", Some(text(&self.reason)));
        canonical::to_vec(&Value::Object(object))
    }
}
