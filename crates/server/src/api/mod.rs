//! The REST API, one file a resource. Each gives `routes()`, and the router has a line for it.

mod answer;
mod fields;
pub(crate) mod health;
pub(crate) mod logs;
mod run_list;
mod run_steps;
pub(crate) mod runs;
pub(crate) mod steps;
pub(crate) mod traces;
