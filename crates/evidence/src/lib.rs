//! placeholder

pub mod canonical;
pub mod time;
