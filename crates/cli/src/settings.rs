//! Settings: flags over `DEPONENT_*` over `deponent.toml` over defaults.
//!
//! They are read as written, then resolved once into types that cannot be wrong.
//! Unknown keys are errors, in the file and in the environment.

mod duration;
mod environment;
mod file;
mod idempotency;
mod oidc;

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use ledger::once::{OnOutage, OnceOptions};
use store::redis::RedisAof;

use duration::bounded;
use environment::{either, environment};
use file::{File, read_file};

use crate::output::Usage;

pub(crate) use duration::parse_duration;
pub(crate) use environment::{client_environment, secret_file};
pub(crate) use oidc::OidcSettings;

/// Shortest `runs.abandon_after`, in seconds: runs are looked at each second, and with less every run that has begun
/// would be aborted at the next look.
const ABANDON_AFTER_SECS_MIN: i64 = 1;

/// What flags say.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    pub(crate) listen: Option<String>,
    pub(crate) grpc_listen: Option<String>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) config: Option<PathBuf>,
}

/// Resolved settings.
#[derive(Debug)]
#[cfg_attr(not(feature = "serve"), allow(dead_code))]
pub(crate) struct Settings {
    pub(crate) listen: SocketAddr,
    /// `None`: off.
    pub(crate) grpc_listen: Option<SocketAddr>,
    pub(crate) log: String,
    pub(crate) ledger: ledger::Options,
    /// Where idempotency keys are kept; `None`: in the data folder.
    pub(crate) redis_url: Option<String>,
    /// Whether a Redis without an append-only file is refused.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    pub(crate) redis_aof: RedisAof,
    /// How idempotency keys are held and what is kept with them encrypted.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    pub(crate) once: OnceOptions,
    /// The operator's own policies, a file or folder.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    pub(crate) policies: Option<PathBuf>,
    /// Requests a second and key; `None`: any number.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    pub(crate) rate_limit: Option<u32>,
    /// Whether allowed reads, and writes, are left on record.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    pub(crate) record: (bool, bool),
    /// Sign-in by token.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    pub(crate) oidc: Option<OidcSettings>,
    /// Certificate chain and key, both in PEM files.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    /// `/tlog` needs no key.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    pub(crate) tlog_public: bool,
}

impl Settings {
    /// Reads and resolves.
    pub(crate) fn load(flags: Flags) -> Result<Self> {
        Self::resolve(flags, &environment()?)
    }

    /// Whether both ports can be listened on: asked where they are.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    pub(crate) fn check_ports(&self) -> Result<()> {
        // Port 0 is another one each time.
        if self.grpc_listen == Some(self.listen) && self.listen.port() != 0 {
            bail!(Usage(format!(
                "grpc_listen: {} is that of listen, too; give it another port, or say off",
                self.listen
            )));
        }
        Ok(())
    }

    /// The settings that a start puts on record, where every tenant reads them: no secrets, no paths, no tenants.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    pub(crate) fn on_record(&self) -> BTreeMap<String, String> {
        let millis = |micros: i64| format!("{}ms", micros / 1_000);
        let grpc = self.grpc_listen.map_or_else(|| "off".into(), |at| at.to_string());
        let level = |on| if on { "metadata" } else { "none" };
        let rate = self
            .rate_limit
            .map_or_else(|| "none".into(), |rate| rate.to_string());
        let oidc = self.oidc.as_ref();
        let issuer = oidc.map_or_else(|| "none".into(), |oidc| oidc.issuer.clone());
        [
            ("grpc_listen", grpc),
            (
                "idempotency.on_outage",
                match self.once.on_outage {
                    OnOutage::Refuse => "refuse",
                    OnOutage::Allow => "allow",
                }
                .into(),
            ),
            (
                "idempotency.redis_aof",
                match self.redis_aof {
                    RedisAof::Required => "required",
                    RedisAof::Optional => "optional",
                }
                .into(),
            ),
            (
                "idempotency.store",
                if self.redis_url.is_some() {
                    "redis"
                } else {
                    "embedded"
                }
                .into(),
            ),
            ("ledger.origin", self.ledger.origin.clone()),
            ("listen", self.listen.to_string()),
            ("log", self.log.clone()),
            ("oidc.issuer", issuer),
            ("rate_limit", rate),
            ("record.reads", level(self.record.0).into()),
            ("record.writes", level(self.record.1).into()),
            ("retention.minimum", millis(self.ledger.minimum_retention_micros)),
            ("retention.runs", millis(self.ledger.retention.runs_micros)),
            (
                "retention.synthetic",
                millis(self.ledger.retention.synthetic_micros),
            ),
            ("retention.system", millis(self.ledger.retention.system_micros)),
            ("runs.abandon_after", millis(self.ledger.abandon_after_micros)),
            ("runs.seal_after", millis(self.ledger.seal_after_micros)),
            ("tlog.public", self.tlog_public.to_string()),
            ("tls", if self.tls.is_some() { "on" } else { "off" }.into()),
        ]
        .into_iter()
        .chain(oidc.map(OidcSettings::on_record).into_iter().flatten())
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    fn resolve(flags: Flags, environment: &BTreeMap<String, String>) -> Result<Self> {
        let variable = |name: &str| environment.get(name).cloned();
        let path = flags
            .config
            .or_else(|| variable("DEPONENT_CONFIG").map(PathBuf::from));
        if path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            bail!(Usage(
                "config: it is empty; name a file, or leave it unset".into()
            ));
        }
        let file = match &path {
            Some(path) => read_file(path)?,
            None if Path::new("deponent.toml").exists() => read_file(Path::new("deponent.toml"))?,
            None => File::default(),
        };
        if variable("DEPONENT_DATABASE_URL")
            .or(file.database_url)
            .is_some_and(|url| !url.is_empty())
        {
            bail!(Usage(
                "DEPONENT_DATABASE_URL: this version keeps everything in SQLite in the data folder; unset it"
                    .into()
            ));
        }
        let pick = |flag: Option<String>, name: &str, file: Option<String>, default: &str| {
            flag.or_else(|| variable(name))
                .or(file)
                .unwrap_or_else(|| default.to_owned())
        };
        let listen = pick(flags.listen, "DEPONENT_LISTEN", file.listen, "127.0.0.1:4318");
        let grpc = pick(
            flags.grpc_listen,
            "DEPONENT_GRPC_LISTEN",
            file.grpc_listen,
            "127.0.0.1:4317",
        );
        let data_dir = flags
            .data_dir
            .or_else(|| variable("DEPONENT_DATA_DIR").map(PathBuf::from))
            .or(file.data_dir)
            .unwrap_or_else(|| "deponent-data".into());
        if data_dir.as_os_str().is_empty() {
            // It would be the working folder, and the database would lie among whatever else is there.
            bail!(Usage(
                "data_dir: it is empty; name a folder, or leave it unset for deponent-data".into()
            ));
        }
        let mut options = ledger::Options::new(data_dir);
        options.origin = pick(
            None,
            "DEPONENT_LEDGER_ORIGIN",
            file.ledger.origin,
            &options.origin,
        );
        if !ledger::is_origin(&options.origin) || options.origin.contains("://") {
            bail!(Usage(format!(
                "ledger.origin: {:?} is not a schema-less URL without spaces and '+'",
                options.origin
            )));
        }
        let duration =
            |name: &str, variable_name: &str, file: Option<String>, least_secs: i64, default: i64| {
                match variable(variable_name).or(file) {
                    None => Ok(default),
                    Some(text) => bounded(name, &text, least_secs),
                }
            };
        options.seal_after_micros = duration(
            "runs.seal_after",
            "DEPONENT_RUNS_SEAL_AFTER",
            file.runs.seal_after,
            0,
            options.seal_after_micros,
        )?;
        options.abandon_after_micros = duration(
            "runs.abandon_after",
            "DEPONENT_RUNS_ABANDON_AFTER",
            file.runs.abandon_after,
            ABANDON_AFTER_SECS_MIN,
            options.abandon_after_micros,
        )?;
        options.minimum_retention_micros = duration(
            "retention.minimum",
            "DEPONENT_RETENTION_MINIMUM",
            file.retention.minimum,
            0,
            options.minimum_retention_micros,
        )?;
        for (name, variable_name, file, micros) in [
            (
                "retention.runs",
                "DEPONENT_RETENTION_RUNS",
                file.retention.runs,
                &mut options.retention.runs_micros,
            ),
            (
                "retention.synthetic",
                "DEPONENT_RETENTION_SYNTHETIC",
                file.retention.synthetic,
                &mut options.retention.synthetic_micros,
            ),
            (
                "retention.system",
                "DEPONENT_RETENTION_SYSTEM",
                file.retention.system,
                &mut options.retention.system_micros,
            ),
        ] {
            *micros = duration(name, variable_name, file, 0, *micros)?;
        }
        let record = |name: &str, variable_name: &str, file: Option<String>| -> Result<bool> {
            match variable(variable_name).or(file).as_deref() {
                None | Some("metadata") => Ok(true),
                Some("none") => Ok(false),
                Some(other) => Err(Usage(format!("{name}: {other:?} is neither metadata nor none")).into()),
            }
        };
        let record = (
            record("record.reads", "DEPONENT_RECORD_READS", file.record.reads)?,
            record("record.writes", "DEPONENT_RECORD_WRITES", file.record.writes)?,
        );
        let tls = match (
            named_path("tls.cert", variable("DEPONENT_TLS_CERT"), file.tls.cert)?,
            named_path("tls.key", variable("DEPONENT_TLS_KEY"), file.tls.key)?,
        ) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => bail!(Usage(
                "tls: cert and key belong together, one of them is missing".into()
            )),
        };
        let tlog_public = match variable("DEPONENT_TLOG_PUBLIC").as_deref() {
            None => file.tlog.public.unwrap_or(false),
            Some("true") => true,
            Some("false") => false,
            Some(other) => bail!(Usage(format!("tlog.public: {other:?} is neither true nor false"))),
        };
        let rate_limit = match variable("DEPONENT_RATE_LIMIT") {
            None => file.rate_limit,
            Some(text) => Some(
                text.parse()
                    .map_err(|_| Usage(format!("rate_limit: {text:?} is no number of requests a second")))?,
            ),
        };
        if rate_limit == Some(0) {
            bail!(Usage(
                "rate_limit: 0 would let no request in; leave it unset for no limit".into()
            ));
        }
        let redis_url = either(
            ("DEPONENT_REDIS_URL", variable("DEPONENT_REDIS_URL")),
            ("DEPONENT_REDIS_URL_FILE", variable("DEPONENT_REDIS_URL_FILE")),
        )?
        .or(file.redis_url);
        let redis_url = redis_url.filter(|url| !url.is_empty());
        if let Some(url) = &redis_url {
            // The address may hold a password, so that it is not said.
            store::redis::check_address(url).map_err(|error| Usage(format!("redis_url: {error}")))?;
        }
        let idempotency = file.idempotency.resolve(variable, &options.data_dir)?;
        let listen = address("listen", &listen)?;
        let grpc_listen = if grpc == "off" {
            None
        } else {
            Some(address("grpc_listen", &grpc)?)
        };
        Ok(Self {
            redis_url,
            redis_aof: idempotency.redis_aof,
            once: idempotency.once,
            policies: named_path("policies", variable("DEPONENT_POLICIES"), file.policies)?,
            rate_limit,
            record,
            tls,
            tlog_public,
            oidc: file.oidc.resolve(variable)?,
            listen,
            grpc_listen,
            log: pick(None, "DEPONENT_LOG", file.log, "info"),
            ledger: options,
        })
    }
}

/// A path that a variable or the file says; it is not empty.
fn named_path(name: &str, variable: Option<String>, file: Option<PathBuf>) -> Result<Option<PathBuf>> {
    let path = variable.map(PathBuf::from).or(file);
    if path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
        bail!(Usage(format!(
            "{name}: it is empty; name a path, or leave it unset"
        )));
    }
    Ok(path)
}

fn address(name: &str, text: &str) -> Result<SocketAddr> {
    let mut found = text.to_socket_addrs().map_err(|_| {
        Usage(format!(
            "{name}: {text:?} is no address; write e.g. 127.0.0.1:4318"
        ))
    })?;
    found
        .next()
        .ok_or_else(|| Usage(format!("{name}: {text:?} has no address")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(pairs: &[(&str, &str)]) -> Result<Settings> {
        let environment = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Settings::resolve(Flags::default(), &environment)
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let settings = resolve(&[]).unwrap();
        assert_eq!(settings.listen.to_string(), "127.0.0.1:4318");
        assert_eq!(settings.grpc_listen.unwrap().to_string(), "127.0.0.1:4317");
        assert_eq!(settings.ledger.origin, "deponent.local");
        assert_eq!(settings.ledger.seal_after_micros, 30_000_000);
        assert_eq!(settings.redis_aof, RedisAof::Required);
    }

    #[test]
    fn flags_win_over_the_environment_and_mistakes_are_named() {
        let flags = Flags {
            listen: Some("127.0.0.1:0".into()),
            ..Flags::default()
        };
        let environment = BTreeMap::from([("DEPONENT_LISTEN".to_owned(), "127.0.0.1:9".to_owned())]);
        assert_eq!(Settings::resolve(flags, &environment).unwrap().listen.port(), 0);
        for (name, value) in [
            ("DEPONENT_LISTEN", "nowhere"),
            ("DEPONENT_RUNS_SEAL_AFTER", "soon"),
            ("DEPONENT_RUNS_ABANDON_AFTER", "0s"),
            ("DEPONENT_RETENTION_MINIMUM", "for ever"),
            ("DEPONENT_LEDGER_ORIGIN", "a b"),
            ("DEPONENT_LEDGER_ORIGIN", "https://log.example"),
            ("DEPONENT_DATABASE_URL", "postgres://x"),
            ("DEPONENT_OIDC_ISSUER", "https://issuer.example"),
            ("DEPONENT_OIDC_AUDIENCE", "deponent"),
            ("DEPONENT_OIDC_TENANT", "acme"),
            ("DEPONENT_OIDC_TENANT_CLAIM", "org"),
            ("DEPONENT_OIDC_ROLE_CLAIM", "groups"),
            ("DEPONENT_CONFIG", ""),
            ("DEPONENT_POLICIES", ""),
            ("DEPONENT_IDEMPOTENCY_KEY_FILE", ""),
            ("DEPONENT_TLS_CERT", "cert.pem"),
            ("DEPONENT_TLOG_PUBLIC", "perhaps"),
            ("DEPONENT_IDEMPOTENCY_REDIS_AOF", "sometimes"),
            ("DEPONENT_IDEMPOTENCY_LEASE", "1500ms"),
            ("DEPONENT_IDEMPOTENCY_LEASE", "3600999ms"),
            ("DEPONENT_RATE_LIMIT", "0"),
            ("DEPONENT_DATA_DIR", ""),
        ] {
            assert!(
                resolve(&[(name, value)])
                    .unwrap_err()
                    .downcast_ref::<Usage>()
                    .is_some(),
                "{name}"
            );
        }
        let both = [
            ("DEPONENT_LISTEN", "127.0.0.1:0"),
            ("DEPONENT_GRPC_LISTEN", "127.0.0.1:0"),
        ];
        let settings = resolve(&both).unwrap();
        assert!(settings.check_ports().is_ok(), "each gets a port of its own");
        // Who listens on neither does not mind.
        let settings = resolve(&[("DEPONENT_LISTEN", "127.0.0.1:4317")]).unwrap();
        let refused = settings.check_ports().unwrap_err();
        assert!(refused.downcast_ref::<Usage>().is_some(), "{refused}");
    }

    #[test]
    fn a_limit_of_nothing_and_a_folder_without_a_name_are_refused_wherever_they_stand() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("deponent.toml");
        for (text, name) in [
            ("rate_limit = 0", "rate_limit"),
            ("data_dir = ''", "data_dir"),
            ("policies = ''", "policies"),
            ("[tls]\ncert = ''\nkey = 'key.pem'", "tls.cert"),
            ("[idempotency]\nkey_file = ''", "idempotency.key_file"),
            ("[oidc.roles]\nauditors = 'auditor'", "oidc.issuer"),
        ] {
            std::fs::write(&config, text).unwrap();
            let refused = resolve(&[("DEPONENT_CONFIG", config.to_str().unwrap())]).unwrap_err();
            assert!(refused.downcast_ref::<Usage>().is_some(), "{refused}");
            assert!(refused.to_string().starts_with(name), "{refused}");
        }
        std::fs::write(&config, b"log = '\xff'").unwrap();
        let refused = resolve(&[("DEPONENT_CONFIG", config.to_str().unwrap())]).unwrap_err();
        assert!(refused.downcast_ref::<Usage>().is_some(), "{refused}");
        assert!(refused.to_string().ends_with("is not UTF-8"), "{refused}");
        let flags = Flags {
            data_dir: Some(PathBuf::new()),
            ..Flags::default()
        };
        let refused = Settings::resolve(flags, &BTreeMap::new()).unwrap_err();
        assert!(refused.to_string().starts_with("data_dir"), "{refused}");
    }

    #[test]
    fn a_duration_out_of_bounds_is_told_with_its_setting_its_value_and_what_is_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("deponent.toml");
        for (table, key, wrong, bounds) in [
            ("runs", "abandon_after", "0s", "between 1s and 36500d"),
            ("runs", "abandon_after", "999ms", "between 1s and 36500d"),
            ("runs", "abandon_after", "36501d", "between 1s and 36500d"),
            ("runs", "seal_after", "106751991d", "between 0s and 36500d"),
            ("retention", "minimum", "876001h", "between 0s and 36500d"),
            ("retention", "runs", "99999999999999d", "between 0s and 36500d"),
            (
                "retention",
                "synthetic",
                "9223372036854775807",
                "between 0s and 36500d",
            ),
            ("retention", "system", "-1s", "between 0s and 36500d"),
            ("idempotency", "lease", "0s", "between 1s and 3600s"),
            ("idempotency", "lease", "1500ms", "between 1s and 3600s"),
            ("idempotency", "lease", "2h", "between 1s and 3600s"),
        ] {
            std::fs::write(&config, format!("[{table}]\n{key} = '{wrong}'")).unwrap();
            let refused = resolve(&[("DEPONENT_CONFIG", config.to_str().unwrap())]).unwrap_err();
            assert!(refused.downcast_ref::<Usage>().is_some(), "{refused}");
            let said = refused.to_string();
            assert!(said.starts_with(&format!("{table}.{key}: {wrong:?} ")), "{said}");
            assert!(said.contains(bounds), "{said}");
        }
    }

    #[test]
    fn a_secret_is_said_once_and_its_file_is_not_empty() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("url");
        let named = ("DEPONENT_REDIS_URL_FILE", file.to_str().unwrap());
        std::fs::write(&file, "redis://localhost:6379/0\n").unwrap();
        let url = resolve(&[named]).unwrap().redis_url;
        assert_eq!(url.as_deref(), Some("redis://localhost:6379/0"));
        let both = resolve(&[named, ("DEPONENT_REDIS_URL", "redis://other")]).unwrap_err();
        assert!(both.downcast_ref::<Usage>().is_some(), "{both}");
        // Empty is how some say that it is not set.
        let url = resolve(&[named, ("DEPONENT_REDIS_URL", "")]).unwrap().redis_url;
        assert_eq!(url.as_deref(), Some("redis://localhost:6379/0"));
        let said = [
            ("DEPONENT_REDIS_URL_FILE", ""),
            ("DEPONENT_REDIS_URL", "redis://other:6379/0"),
        ];
        let url = resolve(&said).unwrap().redis_url;
        assert_eq!(url.as_deref(), Some("redis://other:6379/0"));
        std::fs::write(&file, "\n").unwrap();
        let empty = resolve(&[named]).unwrap_err();
        assert!(empty.to_string().ends_with("is empty"), "{empty}");
    }

    #[test]
    fn what_widens_access_is_among_the_settings_on_record_and_no_tenant_or_path_is() {
        let issuer = [
            ("DEPONENT_OIDC_ISSUER", "https://issuer.example"),
            ("DEPONENT_OIDC_AUDIENCE", "deponent"),
            ("DEPONENT_OIDC_TENANT", "acme"),
            ("DEPONENT_OIDC_JWKS", "/etc/deponent/keys.json"),
        ];
        let of = |more: (&str, &str)| {
            let pairs: Vec<_> = issuer
                .iter()
                .copied()
                .filter(|(name, _)| *name != more.0)
                .chain([more])
                .collect();
            resolve(&pairs).unwrap().on_record()
        };
        let before = of(("DEPONENT_RECORD_READS", "metadata"));
        let text = format!("{before:?}");
        assert!(!text.contains("acme") && !text.contains("/etc"), "{text}");
        for (changed, name) in [
            (("DEPONENT_RECORD_READS", "none"), "record.reads"),
            (("DEPONENT_RECORD_WRITES", "none"), "record.writes"),
            (("DEPONENT_RATE_LIMIT", "5"), "rate_limit"),
            (("DEPONENT_OIDC_AUDIENCE", "other"), "oidc.audience"),
            (("DEPONENT_OIDC_TENANT", "other"), "oidc.source"),
            (("DEPONENT_OIDC_JWKS", "/tmp/keys.json"), "oidc.source"),
            (("DEPONENT_OIDC_ROLE_CLAIM", "groups"), "oidc.role_claim"),
        ] {
            let after = of(changed);
            let differ: Vec<_> = after
                .iter()
                .filter(|(key, value)| before.get(*key) != Some(value))
                .collect();
            assert_eq!(differ.len(), 1, "{changed:?}: {differ:?}");
            assert_eq!(differ[0].0, name);
        }
    }

    #[test]
    fn an_issuer_needs_an_audience_and_its_roles_are_ours() {
        assert!(resolve(&[]).unwrap().oidc.is_none());
        let both = [
            ("DEPONENT_OIDC_ISSUER", "https://issuer.example"),
            ("DEPONENT_OIDC_AUDIENCE", "deponent"),
        ];
        let oidc = resolve(&both).unwrap().oidc.unwrap();
        assert_eq!(
            (oidc.tenant_claim.as_str(), oidc.role_claim.as_str()),
            ("tenant", "role")
        );
        let table: File = toml::from_str(
            "[oidc]\nissuer = \"https://i\"\naudience = \"a\"\n[oidc.roles]\nauditors = \"auditor\"",
        )
        .unwrap();
        let oidc = table.oidc.resolve(|_| None).unwrap().unwrap();
        assert_eq!(oidc.roles["auditors"], evidence::record::Role::Auditor);
        let table: File =
            toml::from_str("[oidc]\nissuer = \"https://i\"\naudience = \"a\"\nroles = { x = \"god\" }")
                .unwrap();
        assert!(table.oidc.resolve(|_| None).is_err());
    }
}
