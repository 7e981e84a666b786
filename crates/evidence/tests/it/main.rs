//! Tests of the crate from outside, as one binary.

#![allow(clippy::unwrap_used)] // a test that cannot go on fails

mod corpus;
mod job_vectors;
