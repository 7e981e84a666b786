//! placeholder
use evidence::Timestamp;
/// placeholder
pub(crate) struct Loaded { pub(crate) runs: usize, pub(crate) spans: usize }
pub(crate) fn requests(_now: Timestamp) -> Vec<u8> { Vec::new() }
#[allow(clippy::unused_async)]
pub(crate) async fn load(_listen: std::net::SocketAddr, _r: Vec<u8>) -> anyhow::Result<Loaded> { Ok(Loaded { runs: 0, spans: 0 }) }
