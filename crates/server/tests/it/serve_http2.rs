//! Connections of HTTP/2 that nobody uses any more.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ::server::Limits;

use crate::serve::Served;
use crate::server::TestServer;

/// Kinds of HTTP/2 frames (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A peer that speaks HTTP/2 frame by frame, and answers each ping.
struct Peer(TcpStream);

impl Peer {
    fn new(served: &Served, settings: &[u8]) -> Self {
        let mut peer = Self(served.connect());
        peer.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        peer.send(SETTINGS, 0, 0, settings);
        peer
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        // The server may be closing.
        let _ = self.0.write_all(&frame);
    }

    fn ask_health(&mut self) {
        // GET, http, :path and :authority as literals.
        let head = b"\x82\x86\x04\x08/healthz\x01\x09localhost";
        self.send(HEADERS, END_STREAM | END_HEADERS, 1, head);
    }

    /// The next frame, its kind and payload; `None` once the server has closed.
    fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 9];
        match self.0.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) => {
                let closed = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
                assert!(closed.contains(&error.kind()), "it is not closed: {error}");
                return None;
            }
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).unwrap();
        let (kind, flags) = (head[3], head[4]);
        if flags & ACK == 0 && kind == SETTINGS {
            self.send(SETTINGS, ACK, 0, &[]);
        }
        if flags & ACK == 0 && kind == PING {
            self.send(PING, ACK, 0, &payload);
        }
        Some((kind, payload))
    }

    fn until_closed(&mut self) -> Vec<(u8, Vec<u8>)> {
        std::iter::from_fn(|| self.receive()).collect()
    }
}

/// Long enough that a slow machine asks before it is over.
const IDLE: Duration = Duration::from_secs(1);

fn idle_for(http2_idle: Duration) -> Served {
    Served::of(TestServer::with_limits(Limits {
        http2_idle,
        ..Limits::default()
    }))
}

#[test]
fn an_idle_http_2_connection_ends_though_its_peer_answers_pings() {
    let mut served = idle_for(IDLE);
    let mut asked = Peer::new(&served, &[]);
    asked.ask_health();
    let frames = asked.until_closed();
    assert!(frames.contains(&(DATA, b"ok\n".to_vec())), "{frames:?}");
    assert!(frames.iter().any(|(kind, _)| *kind == GOAWAY), "{frames:?}");
    // One that never asks.
    let frames = Peer::new(&served, &[]).until_closed();
    assert!(frames.iter().any(|(kind, _)| *kind == GOAWAY), "{frames:?}");
    // One that takes nothing of its answer: SETTINGS_INITIAL_WINDOW_SIZE is 0.
    let mut shut = Peer::new(&served, &[0, 4, 0, 0, 0, 0]);
    shut.ask_health();
    let frames = shut.until_closed();
    assert!(frames.iter().any(|(kind, _)| *kind == HEADERS), "{frames:?}");
    assert!(frames.iter().any(|(kind, _)| *kind == GOAWAY), "{frames:?}");
    // HTTP/1.1 has its own time.
    let mut kept = served.connect();
    for _ in 0..2 {
        kept.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nok\n") {
            let mut byte = [0];
            kept.read_exact(&mut byte).expect("it stays open");
            answer.extend(byte);
        }
        std::thread::sleep(2 * IDLE);
    }
    served.stop();
}

#[test]
fn an_http_2_connection_with_a_request_under_way_is_not_idle() {
    let mut served = idle_for(IDLE);
    let mut peer = Peer::new(&served, &[]);
    // POST, http, and :path, :authority and content-type as literals.
    let head = b"\x83\x86\x04\x0a/v1/traces\x01\x09localhost\x0f\x10\x10application/json";
    peer.send(HEADERS, END_HEADERS, 1, head);
    std::thread::sleep(3 * IDLE);
    peer.send(DATA, END_STREAM, 1, b"{}");
    let frames = peer.until_closed();
    let place = |wanted: u8| frames.iter().position(|(kind, _)| *kind == wanted);
    let (answered, ended) = (place(HEADERS).unwrap(), place(GOAWAY).unwrap());
    assert!(answered < ended, "{frames:?}");
    // `:status: 200` is one byte.
    assert_eq!(frames[answered].1.first(), Some(&0x88), "{frames:?}");
    served.stop();
}
