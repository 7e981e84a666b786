//! Sends the demo's runs to the server's own OTLP port.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Attempts at one request: the server may be starting, or busy with somebody else's.
const ATTEMPTS: u32 = 5;

/// Longest answer that is read. An export's answer is empty or one message.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// What was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub(crate) runs: usize,
    pub(crate) spans: usize,
}

/// Sends the requests one after another; returns when the last is durable.
///
/// # Errors
/// The server cannot be reached, or refuses. Sending the same again is harmless.
pub(crate) async fn load(
    listen: SocketAddr,
    requests: Vec<ExportTraceServiceRequest>,
) -> anyhow::Result<Loaded> {
    let mut loaded = Loaded { runs: 0, spans: 0 };
    for request in requests {
        let body = request.encode_to_vec();
        let mut attempt = 1;
        loop {
            match post(listen, &body).await {
                Ok((200, answer)) => {
                    let answer = ExportTraceServiceResponse::decode(answer.as_slice())?;
                    if let Some(partial) = answer
                        .partial_success
                        .filter(|partial| partial.rejected_spans > 0)
                    {
                        bail!(
                            "{} spans were refused: {}",
                            partial.rejected_spans,
                            partial.error_message
                        );
                    }
                    break;
                }
                Ok((429 | 503, _)) | Err(_) if attempt < ATTEMPTS => {
                    attempt += 1;
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Ok((status, answer)) => bail!("the server answers {status}: {}", reason(&answer)),
                Err(error) => return Err(error.context("the server did not answer")),
            }
        }
        let spans = |request: &ExportTraceServiceRequest| -> usize {
            request
                .resource_spans
                .iter()
                .flat_map(|r| &r.scope_spans)
                .map(|s| s.spans.len())
                .sum()
        };
        loaded.runs += request.resource_spans.len();
        loaded.spans += spans(&request);
    }
    Ok(loaded)
}

/// `google.rpc.Status`, by which OTLP says why a request was refused; the code is the HTTP status said otherwise.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
}

fn reason(answer: &[u8]) -> String {
    match Status::decode(answer) {
        Ok(status) if !status.message.is_empty() => status.message,
        _ => "no reason given".to_owned(),
    }
}

/// One request on a connection of its own, closed by the server: no framing to read.
async fn post(listen: SocketAddr, body: &[u8]) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(listen).await?;
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: {listen}\r\ncontent-type: application/x-protobuf\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    let end = answer
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .context("no head in the answer")?;
    let head = std::str::from_utf8(&answer[..end])?;
    let status = head
        .split(' ')
        .nth(1)
        .context("no status in the answer")?
        .parse()?;
    Ok((status, answer.split_off(end + 4)))
}
