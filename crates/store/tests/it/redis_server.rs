//! A Redis of one's own, in a temporary folder on a free port. The tests of three crates are compiled with this file, and
//! each uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a slow machine may take to start one.
const START_MAX: Duration = Duration::from_mins(2);

pub struct RedisServer {
    folder: TempDir,
    pub port: u16,
    more: Vec<String>,
    child: Child,
}

impl RedisServer {
    /// `None`: there is no redis-server on this machine.
    pub fn start(more: &[&str]) -> Option<Self> {
        if Command::new("redis-server").arg("--version").output().is_err() {
            eprintln!("redis-server is not installed: nothing was tested");
            return None;
        }
        // In memory, where there is such a folder: what keeps a disk busy for a second would pass for a Redis that is away.
        let folder = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap());
        let more: Vec<String> = more.iter().map(|word| (*word).to_owned()).collect();
        // Bound and let go: somebody else may take it in between.
        let spawned = |_| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            drop(listener);
            Some((port, spawn(&folder, port, &more)?))
        };
        let (port, child) = (0..20).find_map(spawned).expect("redis-server does not start");
        Some(Self {
            folder,
            port,
            more,
            child,
        })
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The same again, over what it left in its folder.
    pub fn restart_after_kill(&mut self) {
        let until = Instant::now() + START_MAX;
        self.child = loop {
            if let Some(child) = spawn(&self.folder, self.port, &self.more) {
                break child;
            }
            assert!(Instant::now() < until, "somebody else keeps its port");
            std::thread::sleep(Duration::from_millis(20));
        };
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([name, &pid]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `None`: it has ended, as somebody else has the port.
#[allow(clippy::zombie_processes)] // whoever gets it waits for it, when it is dropped
fn spawn(folder: &TempDir, port: u16, more: &[String]) -> Option<Child> {
    let mut child = Command::new("redis-server")
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
        ])
        .arg(folder.path())
        .args(more)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + START_MAX;
    while !answers(&child, port) {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        if Instant::now() > until {
            let _ = child.kill();
            let _ = child.wait();
            panic!("redis-server does not answer");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(child)
}

/// Whether it is this one that answers, and has read its data: another may have got the port meanwhile.
fn answers(child: &Child, port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    if stream.write_all(b"PING\r\nINFO server\r\n").is_err() {
        return false;
    }
    let own = format!("\r\nprocess_id:{}\r\n", child.id());
    let (mut said, mut part) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = stream.read(&mut part) {
        said.extend_from_slice(&part[..n]);
        let said = String::from_utf8_lossy(&said);
        if !said.starts_with("+PONG") {
            return false;
        }
        if said.contains(&own) {
            return true;
        }
    }
    false
}
