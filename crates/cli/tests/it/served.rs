//! A server of the binary on a free port, killed when it is dropped.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A running `deponent serve`.
pub(crate) struct Served {
    child: Child,
    address: String,
    folder: Option<TempDir>,
}

impl Served {
    /// Over the folder `data` in a folder of its own.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut served = Self::over(&folder.path().join("data"), folder.path());
        served.folder = Some(folder);
        served
    }

    /// Over a data folder, started in another.
    pub(crate) fn over(data: &Path, working: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_deponent"))
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--grpc-listen",
                "off",
                "--data-dir",
            ])
            .arg(data)
            .env_clear()
            .env("DEPONENT_LOG", "error")
            .current_dir(working)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let address = first.strip_prefix("listening on http://").unwrap().to_owned();
        // What follows is read, so that the server never waits for a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            address,
            folder: None,
        }
    }

    /// The folder of its own.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.as_ref().unwrap().path()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The JSON of an answer.
    pub(crate) fn get(&self, path: &str) -> Value {
        let mut answer = ureq::get(format!("{}{path}", self.url())).call().unwrap();
        serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap()
    }

    /// Posts JSON; the status and JSON of the answer, whatever it is.
    pub(crate) fn ask(&self, path: &str, body: &Value) -> (u16, Value) {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .into();
        let mut answer = agent
            .post(format!("{}{path}", self.url()))
            .header("content-type", "application/json")
            .send(body.to_string())
            .unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        (answer.status().as_u16(), serde_json::from_str(&text).unwrap())
    }

    /// Posts JSON that must be taken.
    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &str) -> String {
        let answer = self.send("POST", path, body);
        assert!(answer.starts_with("HTTP/1.1 201"), "{path}: {answer}");
        answer
    }

    /// Sends JSON that must not be refused.
    #[track_caller]
    pub(crate) fn send(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 20"), "{path}: {answer}");
        answer
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
