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

/// Between two of them where the server does not say how long.
const PAUSE: Duration = Duration::from_millis(200);

/// Longest pause that the server is granted. A rate limit of one request a second asks for a second.
const PAUSE_MAX: Duration = Duration::from_secs(10);

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
                Ok(Answer {
                    status: 200, body, ..
                }) => {
                    let answer = ExportTraceServiceResponse::decode(body.as_slice())?;
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
                Ok(Answer {
                    status: 429 | 503,
                    retry_after,
                    ..
                }) if attempt < ATTEMPTS => {
                    attempt += 1;
                    tokio::time::sleep(retry_after.unwrap_or(PAUSE).min(PAUSE_MAX)).await;
                }
                Err(_) if attempt < ATTEMPTS => {
                    attempt += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(Answer { status, body, .. }) => {
                    bail!("the server answers {status}: {}", reason(&body))
                }
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

/// What the server answered.
struct Answer {
    status: u16,
    /// How long it asks to wait.
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

/// One request on a connection of its own, closed by the server: no framing to read.
async fn post(listen: SocketAddr, body: &[u8]) -> anyhow::Result<Answer> {
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
    let retry_after = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("retry-after"))
        .and_then(|(_, secs)| secs.trim().parse().ok())
        .map(Duration::from_secs);
    Ok(Answer {
        status,
        retry_after,
        body: answer.split_off(end + 4),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_rate_limit_is_waited_for_as_long_as_the_server_asks() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            // Later than five attempts without a pause of its own would take.
            let free = Instant::now() + Duration::from_millis(950);
            loop {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                let is_free = Instant::now() >= free;
                let head = if is_free {
                    "200 OK"
                } else {
                    "429 Too Many Requests\r\nRetry-After: 1"
                };
                let answer = format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).unwrap();
                if is_free {
                    break;
                }
            }
        });
        let loaded = load(address, vec![ExportTraceServiceRequest::default()]).await;
        assert_eq!(loaded.unwrap(), Loaded { runs: 0, spans: 0 });
        server.join().unwrap();
    }
}
