//! Cursors of lists: opaque, bound to the query they continue.
//!
//! A cursor carries the tree size that the first page was read at, so that a
//! list does not shift while it is paged, and a digest over everything it was
//! made of: a cut, changed or foreign one is refused instead of giving a page
//! of something else, and so is one of the ledger before a recovery, whose tree
//! was another. It is no secret and grants nothing.

use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ApiError;

/// Longest cursor taken: positions are a few numbers and an id.
const CURSOR_BYTES_MAX: usize = 2_048;

const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<P> {
    v: u8,
    /// First 8 bytes of SHA-256 over query, ledger, `as_of` and position, in hex.
    d: String,
    as_of: u64,
    at: P,
}

/// Writes a cursor. `query` is everything that must be the same on the next page: list, tenant, filters. `tree` is the
/// number of the ledger that is written to, and the size of its tree.
///
/// # Errors
/// None that a client can cause.
pub(crate) fn encode<P: Serialize>(
    query: &impl Serialize,
    tree: (u32, u64),
    at: &P,
) -> Result<String, ApiError> {
    let (_, as_of) = tree;
    let d = digest(query, tree, at).map_err(|error| ApiError::internal(&error))?;
    let wire = Wire {
        v: VERSION,
        d,
        as_of,
        at,
    };
    let text = serde_json::to_vec(&wire).map_err(|error| ApiError::internal(&error))?;
    Ok(URL_SAFE_NO_PAD.encode(text))
}

/// Reads a cursor: the tree size of the first page, and the position to go on from.
///
/// # Errors
/// 400 `bad_cursor` when it is none, or one of another query or ledger.
pub(crate) fn decode<P: Serialize + DeserializeOwned>(
    query: &impl Serialize,
    ledger_no: u32,
    cursor: &str,
) -> Result<(u64, P), ApiError> {
    let bad = || {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "bad_cursor",
            "cursor: not one that this query was given",
        )
    };
    if cursor.len() > CURSOR_BYTES_MAX {
        return Err(bad());
    }
    let text = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| bad())?;
    let wire: Wire<P> = serde_json::from_slice(&text).map_err(|_| bad())?;
    let expected = digest(query, (ledger_no, wire.as_of), &wire.at).map_err(|_| bad())?;
    if wire.v != VERSION || wire.d != expected {
        return Err(bad());
    }
    Ok((wire.as_of, wire.at))
}

fn digest<P: Serialize>(query: &impl Serialize, tree: (u32, u64), at: &P) -> serde_json::Result<String> {
    let text = serde_json::to_vec(&(VERSION, query, tree, at))?;
    let mut digest = evidence::hex_string(&evidence::sha256(&text));
    digest.truncate(16);
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_by_its_own_query_only() {
        let cursor = encode(&("runs", "default"), (1, 7), &(1_u64, "x")).unwrap();
        let read = |query: (&str, &str), cursor: &str| decode::<(u64, String)>(&query, 1, cursor);
        assert_eq!(
            read(("runs", "default"), &cursor).unwrap(),
            (7, (1, "x".to_owned()))
        );
        assert_eq!(read(("runs", "other"), &cursor).unwrap_err().code, "bad_cursor");
        let of_another_ledger = decode::<(u64, String)>(&("runs", "default"), 2, &cursor);
        assert_eq!(of_another_ledger.unwrap_err().code, "bad_cursor");
        for cut in 0..cursor.len() {
            assert_eq!(
                read(("runs", "default"), &cursor[..cut]).unwrap_err().code,
                "bad_cursor"
            );
        }
    }

    #[test]
    fn a_changed_cursor_is_refused() {
        let cursor = encode(&"q", (1, 7), &3_u64).unwrap();
        for position in 0..cursor.len() {
            for letter in [b'A', b'b', b'0', b'_'] {
                let mut changed = cursor.clone().into_bytes();
                if changed[position] == letter {
                    continue;
                }
                changed[position] = letter;
                assert!(decode::<u64>(&"q", 1, std::str::from_utf8(&changed).unwrap()).is_err());
            }
        }
    }
}
