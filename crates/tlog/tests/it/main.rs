//! Integration tests of `tlog`: published values, other implementations, laws.
