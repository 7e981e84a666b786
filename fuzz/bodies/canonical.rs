//! Canonical JSON: what is accepted is written and read back unchanged, and `serde_json` agrees on what is
//! JSON at all.

use evidence::canonical::{JsonErrorClass, Limits, canonicalize, from_serde, is_canonical, parse, to_vec};

/// Shallower than the depth at which `serde_json` gives up, so that the two are comparable.
const LIMITS: Limits = Limits {
    depth_max: 100,
    nodes_max: 1_000_000,
};

/// Checks one input.
pub fn run(data: &[u8]) {
    let theirs = serde_json::from_slice::<serde_json::Value>(data);
    let value = match parse(data, LIMITS) {
        Ok(value) => value,
        Err(error) => {
            assert!(error.offset() <= data.len(), "{error}");
            assert!(!error.to_string().contains('\n'), "{error}");
            assert!(
                theirs.is_err() || error.class() != JsonErrorClass::Syntax,
                "serde_json accepts what is refused here: {error}"
            );
            return;
        }
    };
    let bytes = to_vec(&value);
    assert_eq!(parse(&bytes, LIMITS), Ok(value.clone()), "written and read back");
    assert_eq!(
        canonicalize(data, LIMITS).as_deref(),
        Ok(&bytes[..]),
        "written again"
    );
    assert!(is_canonical(&bytes));

    let theirs = theirs.expect("serde_json refuses what is accepted here");
    // serde_json reads doubles to within a unit in the last place, so texts with doubles are not compared.
    if !may_hold_double(data) {
        assert_eq!(from_serde(&theirs), Ok(value), "read by serde_json");
    }
}

/// Whether a digit is followed by a fraction or an exponent, in a string or out of it.
fn may_hold_double(data: &[u8]) -> bool {
    data.windows(2)
        .any(|pair| pair[0].is_ascii_digit() && matches!(pair[1], b'.' | b'e' | b'E'))
}
