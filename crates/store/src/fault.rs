//! placeholder
/// placeholder
#[derive(Debug, Clone, Copy)]
pub enum Fault {}
/// placeholder
#[derive(Debug)]
pub struct FaultStore;
