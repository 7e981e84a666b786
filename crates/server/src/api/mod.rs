//! The REST API, one file a resource. Each gives `routes()`, and the router has a line for it.

pub(crate) mod health;
