//! A keep-alive HTTP/1.1 client, as little as the server's answers need.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for an answer.
const ANSWER_TIME: Duration = Duration::from_mins(1);

/// A connection that stays open between requests.
#[derive(Debug)]
pub(crate) struct Connection {
    address: SocketAddr,
    /// The line of the key; empty without.
    authorization: String,
    stream: Option<TcpStream>,
    read: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// What the lines before an answer's body say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Where the body begins.
    pub(crate) end: usize,
    /// 0 when it is not told.
    pub(crate) length: usize,
    pub(crate) chunked: bool,
    pub(crate) close: bool,
}

impl Head {
    /// Of what was read; `None`: it is not all there.
    pub(crate) fn of(read: &[u8]) -> Option<io::Result<Self>> {
        let end = read.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
        let header = |name: &str| {
            head.split("\r\n")
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Some(match status {
            Some(status) => Ok(Self {
                status,
                end,
                length: header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0),
                chunked: header("transfer-encoding") == Some("chunked"),
                close: header("connection") == Some("close"),
            }),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer")),
        })
    }
}

impl Connection {
    pub(crate) fn new(address: SocketAddr, key: Option<&str>) -> Self {
        Self {
            address,
            authorization: key
                .map(|key| format!("authorization: Bearer {key}\r\n"))
                .unwrap_or_default(),
            stream: None,
            read: Vec::new(),
        }
    }

    pub(crate) fn get(&mut self, path: &str) -> io::Result<Answer> {
        let (host, authorization) = (self.address, &self.authorization);
        let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{authorization}\r\n");
        self.send(head.as_bytes(), &[])
    }

    pub(crate) fn post(&mut self, path: &str, content_type: &str, body: &[u8]) -> io::Result<Answer> {
        let (host, authorization, length) = (self.address, &self.authorization, body.len());
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\n{authorization}content-type: {content_type}\r\ncontent-length: {length}\r\n\r\n",
        );
        self.send(head.as_bytes(), body)
    }

    fn send(&mut self, head: &[u8], body: &[u8]) -> io::Result<Answer> {
        let result = self.exchange(head, body);
        if result.is_err() {
            self.stream = None;
        }
        result
    }

    fn exchange(&mut self, head: &[u8], body: &[u8]) -> io::Result<Answer> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream = TcpStream::connect(self.address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(ANSWER_TIME))?;
                self.read.clear();
                none.insert(stream)
            }
        };
        if body.len() < 16 * 1024 {
            stream.write_all(&[head, body].concat())?;
        } else {
            stream.write_all(head)?;
            stream.write_all(body)?;
        }
        let head = loop {
            if let Some(head) = Head::of(&self.read) {
                break head?;
            }
            more(stream, &mut self.read)?;
        };
        let (end, status) = (head.end, head.status);
        let body = if head.chunked {
            self.read.drain(..end);
            chunked(stream, &mut self.read)?
        } else {
            let length = head.length;
            while self.read.len() < end + length {
                more(stream, &mut self.read)?;
            }
            let body = self.read[end..end + length].to_vec();
            self.read.drain(..end + length);
            body
        };
        if head.close {
            self.stream = None;
        }
        Ok(Answer { status, body })
    }
}

fn more(stream: &mut TcpStream, into: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    let n = stream.read(&mut buffer)?;
    if n == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    into.extend_from_slice(&buffer[..n]);
    Ok(())
}

fn chunked(stream: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = loop {
            if let Some(at) = read.windows(2).position(|bytes| bytes == b"\r\n") {
                break at;
            }
            more(stream, read)?;
        };
        let bad = |_| io::Error::new(io::ErrorKind::InvalidData, "not a chunk");
        let length = usize::from_str_radix(String::from_utf8_lossy(&read[..line]).trim(), 16).map_err(bad)?;
        while read.len() < line + 2 + length + 2 {
            more(stream, read)?;
        }
        body.extend_from_slice(&read[line + 2..line + 2 + length]);
        read.drain(..line + 2 + length + 2);
        if length == 0 {
            return Ok(body);
        }
    }
}
