//! What the older implementation answered, held against ours.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a test that cannot go on fails; the folder comes from outside

mod vectors;
