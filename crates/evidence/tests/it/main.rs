//! Tests of the crate from outside, as one binary.

mod corpus;
mod job_vectors;
