//! A client of a running server: one request at a time. An answer is read whole, or handed on as it comes.
//!
//! https trusts what this machine trusts; `SSL_CERT_FILE` names other roots.

use std::cell::Cell;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::output::{self, Usage};
use crate::settings;

/// Where a server is asked for when nothing else is said.
const SERVER_DEFAULT: &str = "http://127.0.0.1:4318";

/// Longest wait for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Longest answer that is handed on as it comes: as long as the server tells one.
const STREAM_TIME: Duration = Duration::from_hours(1);

/// Longest answer that is read: the report of a replay names up to 10,000 steps, each in less than 1 KiB.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What an answer says of a ledger that is refused for writing.
const LEDGER_STATUS: &str = "deponent-ledger-status";

/// Longest key file.
const KEY_BYTES_MAX: usize = 4 * 1024;

/// Which server, and as whom.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// The server's URL [env: DEPONENT_URL; default: http://127.0.0.1:4318; with `lineage`: none, the data folder]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// A file with the API key [env: DEPONENT_API_KEY, DEPONENT_API_KEY_FILE]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

/// A server that can be asked.
pub(crate) struct Client {
    agent: ureq::Agent,
    base: String,
    key: Option<String>,
    /// That the ledger is not in order has been said.
    told: Cell<bool>,
}

/// What a server answers at length.
pub(crate) enum Streamed {
    /// 200: its body, of any length, and the header that was asked for. A body that breaks off is an error of the reader,
    /// unless only the connection's end says where it ends (HTTP/1.0): the header must say how much there is.
    Body(ureq::BodyReader<'static>, Option<String>),
    /// Anything else.
    Refused(Answer),
}

/// What a server answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// After how many seconds it is worth asking again, where the server says so.
    pub(crate) retry_after: Option<u64>,
    pub(crate) body: String,
}

impl ServerArgs {
    /// Whether a server was typed.
    pub(crate) fn is_given(&self) -> bool {
        self.server.is_some()
    }

    /// Whether a server was typed, or is named by the environment.
    pub(crate) fn is_named(&self) -> Result<bool> {
        Ok(self.is_given() || settings::client_environment()?.url.is_some())
    }

    pub(crate) fn client(&self) -> Result<Client> {
        let environment = settings::client_environment()?;
        let base = self.server.clone().or_else(|| environment.url.clone());
        let base = base.unwrap_or_else(|| SERVER_DEFAULT.to_owned());
        if !base.starts_with("http://") && !base.starts_with("https://") {
            bail!(Usage(format!(
                "--server: {base:?} begins neither with http:// nor with https://"
            )));
        }
        let key = match &self.key_file {
            Some(file) => Some(settings::secret_file(file)?),
            None => environment.key()?,
        };
        let printable =
            |key: &String| key.len() <= KEY_BYTES_MAX && key.bytes().all(|byte| byte.is_ascii_graphic());
        if key.as_ref().is_some_and(|key| !printable(key)) {
            bail!(Usage("the API key is no key: one line, dpn_…".into()));
        }
        Ok(Client {
            agent: agent(&base),
            base: base.trim_end_matches('/').to_owned(),
            key: key.filter(|key| !key.is_empty()),
            told: Cell::new(false),
        })
    }
}

fn agent(base: &str) -> ureq::Agent {
    let mut config = ureq::Agent::config_builder()
        .timeout_global(Some(ANSWER_TIME))
        .http_status_as_error(false)
        // A key must not follow to another host.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None);
    if base.starts_with("https://") {
        // Roots that cannot be read are not trusted; without any, the request says what is wrong.
        let roots: Vec<Certificate<'static>> = rustls_native_certs::load_native_certs()
            .certs
            .iter()
            .map(|der| Certificate::from_der(der).to_owned())
            .collect();
        config = config.tls_config(
            TlsConfig::builder()
                .root_certs(RootCerts::from(roots))
                .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .build(),
        );
    }
    config.build().new_agent()
}

impl Client {
    /// Asks for a path.
    pub(crate) fn get(&self, path: &str) -> Result<Answer> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        self.read(request.call())
    }

    /// Asks for a path whose answer may be of any length, with a header of it.
    pub(crate) fn get_stream(&self, path: &str, header: &str) -> Result<Streamed> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let request = request
            .config()
            .timeout_global(Some(STREAM_TIME))
            .timeout_connect(Some(ANSWER_TIME))
            .timeout_recv_response(Some(ANSWER_TIME))
            .build();
        match request.call() {
            Ok(answer) if answer.status() == 200 => {
                self.tell(answer.headers());
                let said = answer.headers().get(header);
                let said = said.and_then(|said| Some(said.to_str().ok()?.to_owned()));
                let body = answer.into_body().into_with_config().limit(u64::MAX);
                Ok(Streamed::Body(body.reader(), said))
            }
            answer => self.read(answer).map(Streamed::Refused),
        }
    }

    /// Sends JSON to a path.
    pub(crate) fn post(&self, path: &str, body: &serde_json::Value) -> Result<Answer> {
        self.post_bytes(path, serde_json::to_vec(body)?)
    }

    /// Sends JSON that is written already.
    pub(crate) fn post_bytes(&self, path: &str, body: Vec<u8>) -> Result<Answer> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let request = request.header("content-type", "application/json");
        self.read(request.send(body))
    }

    fn read(&self, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Answer> {
        let mut answer = answer.map_err(|error| {
            let base = &self.base;
            match other_scheme(base, &error) {
                Some(said) => anyhow!("cannot ask {base}: {said}"),
                None => anyhow::Error::new(error).context(format!(
                    "cannot ask {base} (--server or DEPONENT_URL names another)"
                )),
            }
        })?;
        self.tell(answer.headers());
        let status = answer.status().as_u16();
        let retry_after = answer.headers().get("retry-after");
        let retry_after = retry_after.and_then(|secs| secs.to_str().ok()?.parse().ok());
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX);
        let body = body
            .read_to_string()
            .with_context(|| format!("cannot read the answer of {}", self.base))?;
        Ok(Answer {
            status,
            retry_after,
            body,
        })
    }

    /// Says once what is wrong with the ledger that the answer is from: it must not pass for one of a ledger in order.
    fn tell(&self, headers: &ureq::http::HeaderMap) {
        let status = headers.get(LEDGER_STATUS).and_then(|status| status.to_str().ok());
        if let Some(status) = status
            && !self.told.replace(true)
        {
            output::note(format_args!("deponent: {}: ledger status {status}", self.base));
        }
    }
}

/// What to say when the server speaks TLS and was asked without, or the other way round; `None`: it is something else.
fn other_scheme(base: &str, error: &ureq::Error) -> Option<String> {
    match error {
        // What answers a handshake is no TLS.
        ureq::Error::Io(error) => {
            let error: &rustls::Error = error.get_ref()?.downcast_ref()?;
            let is_foreign =
                *error == rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
            let host = base.strip_prefix("https://").filter(|_| is_foreign)?;
            let mut said = "the server does not seem to speak TLS".to_owned();
            // Whoever stands between could answer so, and would be sent the key in clear.
            if is_loopback(base) {
                let _ = write!(said, "; try http://{host}");
            }
            Some(said)
        }
        // The answer begins with something else than `HTTP/`: a server that speaks TLS sends an alert.
        ureq::Error::Protocol(error) => {
            let is_foreign = error.to_string().contains("invalid HTTP version");
            let host = base.strip_prefix("http://").filter(|_| is_foreign)?;
            Some(format!(
                "the server does not answer in plain HTTP; try https://{host}"
            ))
        }
        _ => None,
    }
}

/// Whether a URL names this machine, which nobody stands before.
fn is_loopback(url: &str) -> bool {
    let url: Option<ureq::http::Uri> = url.parse().ok();
    let host = url.as_ref().and_then(ureq::http::Uri::host).unwrap_or_default();
    let address = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// What a server's refusal is to who typed the command.
pub(crate) fn refusal(status: u16, detail: &str) -> String {
    let key = if status == 401 {
        "; --key-file, DEPONENT_API_KEY or DEPONENT_API_KEY_FILE gives the key"
    } else {
        ""
    };
    format!("the server answers {status}: {detail}{key}")
}

/// A text as one segment of a path.
pub(crate) fn segment(text: &str) -> String {
    text.bytes().fold(String::new(), |mut path, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            path.push(char::from(byte));
        } else {
            let _ = write!(path, "%{byte:02X}");
        }
        path
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{other_scheme, refusal, segment};

    #[test]
    fn a_key_is_advised_to_go_in_clear_to_this_machine_alone() {
        let no_tls = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let error = ureq::Error::Io(io::Error::other(no_tls));
        let said = |base: &str| other_scheme(base, &error).unwrap();
        for here in ["localhost:4318", "127.0.0.1:4318", "127.1.2.3", "[::1]:4318"] {
            let said = said(&format!("https://{here}"));
            assert!(said.ends_with(&format!("; try http://{here}")), "{said}");
        }
        for elsewhere in [
            "deponent.example",
            "192.0.2.1:4318",
            "localhost.example",
            "127.0.0.1@deponent.example",
            "[2001:db8::1]:4318",
        ] {
            let said = said(&format!("https://{elsewhere}"));
            assert_eq!(said, "the server does not seem to speak TLS");
        }
    }

    #[test]
    fn who_has_no_key_is_told_where_one_is_given() {
        assert_eq!(refusal(404, "no"), "the server answers 404: no");
        assert!(refusal(401, "no").contains("--key-file"));
    }

    #[test]
    fn any_id_is_one_segment() {
        assert_eq!(segment("job-1_a.~"), "job-1_a.~");
        assert_eq!(segment("a/b?c d%ä"), "a%2Fb%3Fc%20d%25%C3%A4");
    }
}
