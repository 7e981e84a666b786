//! Everything HTTP.

pub mod otlp;
