//! Servers that are started here, each on a free port over a folder of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Time for a server to end: it finishes what waits and signs.
const STOP_TIME: Duration = Duration::from_secs(40);

/// A running server, killed if it is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) fn start(binary: &Path, data: &Path) -> Result<Self> {
        Self::start_with(binary, data, &[])
    }

    /// With settings from the environment.
    pub(crate) fn start_with(binary: &Path, data: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(data.with_extension("log"))?;
        let mut child = Command::new(binary)
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--grpc-listen",
                "off",
                "--data-dir",
            ])
            .arg(data)
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut lines = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut line = String::new();
        let address = loop {
            line.clear();
            if lines.read_line(&mut line)? == 0 {
                bail!(
                    "the server ended before it listened; see {}",
                    data.with_extension("log").display()
                );
            }
            if let Some(address) = line.trim().strip_prefix("listening on http://") {
                break address.parse()?;
            }
        };
        // What else it prints must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Ok(Self { child, address })
    }

    /// Highest resident memory so far, in bytes.
    pub(crate) fn memory_peak(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .context("no VmHWM")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1_024)
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        let end = Instant::now() + STOP_TIME;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the server ended with {status}");
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the server did not end within {} s", STOP_TIME.as_secs())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Stopped servers are gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A tenant in a new folder, and a key that may do everything in it.
pub(crate) fn tenant_with_key(binary: &Path, data: &Path) -> Result<String> {
    let ask = |args: &[&str]| -> Result<String> {
        let done = Command::new(binary)
            .args(args)
            .arg("--data-dir")
            .arg(data)
            .output()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let errors = String::from_utf8_lossy(&done.stderr);
        ensure!(
            done.status.success(),
            "{args:?} ended with {}: {errors}",
            done.status
        );
        Ok(String::from_utf8(done.stdout)?.trim().to_owned())
    };
    ask(&["tenant", "create", "bench"])?;
    ask(&["key", "create", "--tenant", "bench", "--role", "admin"])
}
