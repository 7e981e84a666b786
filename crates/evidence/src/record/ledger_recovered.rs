//! `ledger.recovered`: the first leaf of an epoch that follows a rollback.
//!
//! Source: SPEC 2.4; docs/formats.md, "ledger.recovered".

use serde::Deserialize;

use super::{put, text};
use crate::canonical::{self, Value};

/// An epoch that has ended, as it is when the next one begins.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct EpochEnded {
    /// Its origin.
    pub origin: String,
    /// The leaves that it has; 0: the database does not know it any more.
    pub size: u64,
    /// The root over them, base64.
    pub root: String,
    /// How many had been signed or marked last.
    pub last_known_size: Option<u64>,
    /// The root over those, base64.
    pub last_known_root: Option<String>,
}

impl EpochEnded {
    fn to_value(&self) -> Value {
        let mut object = Vec::with_capacity(5);
        put(
            &mut object,
            "last_known_root",
            self.last_known_root.as_deref().map(text),
        );
        put(&mut object, "last_known_size", self.last_known_size.map(int));
        put(&mut object, "origin", Some(text(&self.origin)));
        put(&mut object, "root", Some(text(&self.root)));
        put(&mut object, "size", Some(int(self.size)));
        Value::Object(object)
    }
}

fn int(n: u64) -> Value {
    i64::try_from(n).map_or_else(|_| text(&n.to_string()), Value::Int)
}

/// The body of a `ledger.recovered`.
#[derive(Clone, Debug)]
pub struct LedgerRecovered {
    /// Every epoch before this one.
    pub epochs: Vec<EpochEnded>,
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
        let mut object = Vec::with_capacity(8);
        let epochs = self.epochs.iter().map(EpochEnded::to_value).collect();
        put(&mut object, "epochs", Some(Value::Array(epochs)));
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
