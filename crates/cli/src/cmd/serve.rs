//! `deponent serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use ledger::once::{Once, OnceOptions, Vault};
use ledger::{Ledger, LoadError, admin};
use server::{Access, App, Claims, KeySource, LOCAL_TENANT, Level, Levels, Oidc, Policies, Rate, Tls};
use store::once::OnceStore;
use store::redis::{RedisAof, RedisClock, RedisOnce};
use store::sqlite::{SqliteOnce, SqliteStore, StateDb};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::output::{self, Usage};
use crate::settings::{Flags, OidcSettings, Settings};
use crate::{brought, clock, demo};

/// Threads for what blocks: what handlers do, and four for the server's own passes. More than a few wait for the same
/// two cores; without a spare one the runtime stands still.
const BLOCKING_THREADS: usize = server::BLOCKING_AT_ONCE + 4;

/// Longest file of certificates or of their key: some hundred of the longest.
const TLS_BYTES_MAX: u64 = 1024 * 1024;

/// Marks a data folder that has had its demo runs.
const DEMO_MARK: &str = "demo-loaded";

/// Serve the API, OTLP/HTTP and OTLP/gRPC.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 it was told to stop, or the settings are in order, 64 a flag or setting makes no sense, \
    69 a port, file or folder cannot be used"
)]
pub(crate) struct Serve {
    /// API and OTLP/HTTP [env: DEPONENT_LISTEN; default: 127.0.0.1:4318]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// OTLP/gRPC, or `off` [env: DEPONENT_GRPC_LISTEN; default: 127.0.0.1:4317]
    #[arg(long, value_name = "ADDRESS")]
    grpc_listen: Option<String>,
    /// The data folder [env: DEPONENT_DATA_DIR; default: deponent-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The settings file [env: DEPONENT_CONFIG; default: deponent.toml when it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Load a few hundred made-up agent runs through the OTLP port, once per data folder.
    #[arg(long)]
    demo: bool,
    /// Read the settings, say what is wrong with them, and end.
    #[arg(long)]
    check_config: bool,
}

impl Serve {
    pub(crate) fn run(self) -> Result<u8> {
        let settings = Settings::load(Flags {
            listen: self.listen,
            grpc_listen: self.grpc_listen,
            data_dir: self.data_dir,
            config: self.config,
        })?;
        settings.check_ports()?;
        let addresses = [
            ("listen", Some(settings.listen)),
            ("grpc_listen", settings.grpc_listen),
        ];
        let open = addresses
            .iter()
            .find_map(|(name, address)| Some((name, address.filter(|address| !address.ip().is_loopback())?)));
        let oidc = oidc(settings.oidc.as_ref())?;
        if let Some((name, address)) = open
            && oidc.is_none()
            && !has_keys(&settings.ledger)?
        {
            bail!(Usage(format!(
                "{name}: {address} is no loopback address; without API keys the server only listens on loopback. \
                 Make one first: deponent key create --tenant T --role R --data-dir D"
            )));
        }
        let access = access(&settings)?;
        let tls = tls(settings.tls.as_ref())?;
        once_key(&settings)?;
        if tls.is_some() && self.demo {
            bail!(Usage(
                "--demo: its runs are sent in clear text; load them without tls first".into()
            ));
        }
        let log = tracing_subscriber::EnvFilter::try_new(&settings.log)
            .map_err(|error| Usage(format!("log: {:?} is no filter: {error}", settings.log)))?;
        if self.check_config {
            output::line("the settings are in order");
            return Ok(0);
        }
        log_to_stderr(log);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .build()
            .context("cannot start the runtime")?;
        let who = Who {
            access,
            oidc,
            tls,
            tlog_public: settings.tlog_public,
            local: open.is_none(),
        };
        runtime.block_on(serve(settings, who, self.demo))?;
        Ok(0)
    }
}

fn log_to_stderr(filter: tracing_subscriber::EnvFilter) {
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}

/// Whether keys were ever made in the folder.
fn has_keys(options: &ledger::Options) -> Result<bool> {
    if !options.database().exists() {
        return Ok(false);
    }
    let store = SqliteStore::open(&options.database(), store::sqlite::Access::ReadOnly)?;
    match ledger::read_keys(&store) {
        Ok(keys) => Ok(keys.any()),
        Err(LoadError::Store(error)) => Err(error.into()),
        // A record of a key is there. Its tenant is let in by none of its keys, and the others' are not kept out.
        Err(_) => Ok(true),
    }
}

/// What decides and notes, as the settings say.
fn access(settings: &Settings) -> Result<Arc<Access>> {
    let policies = Policies::load(settings.policies.as_deref()).map_err(|error| Usage(error.to_string()))?;
    let level = |on| if on { Level::Metadata } else { Level::None };
    let levels = Levels {
        reads: level(settings.record.0),
        writes: level(settings.record.1),
    };
    // Two seconds' worth at once: exporters send in bursts.
    let rate = settings.rate_limit.map(|per_second| Rate {
        per_second,
        burst: per_second.saturating_mul(2),
    });
    Ok(Access::new(policies, levels, rate))
}

/// Whose tokens let people in, as the settings say.
fn oidc(settings: Option<&OidcSettings>) -> Result<Option<Arc<Oidc>>> {
    let Some(settings) = settings else {
        return Ok(None);
    };
    let claims = Claims {
        issuer: settings.issuer.clone(),
        audience: settings.audience.clone(),
        tenant: settings.tenant.clone(),
        tenant_claim: settings.tenant_claim.clone(),
        role_claim: settings.role_claim.clone(),
        roles: settings.roles.clone(),
    };
    let source = match &settings.jwks {
        None => KeySource::Discovery,
        Some(url) if url.starts_with("https://") || url.starts_with("http://") => KeySource::Url(url.clone()),
        Some(path) => KeySource::File(path.into()),
    };
    let oidc = Oidc::new(claims, source, clock::now()).map_err(|error| Usage(format!("oidc: {error}")))?;
    Ok(Some(Arc::new(oidc)))
}

/// What the ports speak TLS by, as the settings say.
fn tls(paths: Option<&(PathBuf, PathBuf)>) -> Result<Option<Tls>> {
    let Some((cert, key)) = paths else {
        return Ok(None);
    };
    let read = |path: &PathBuf| {
        let wrong = |why: String| Usage(format!("tls: {}: {why}", path.display()));
        brought::read(path, TLS_BYTES_MAX)
            .map_err(|error| wrong(error.to_string()))?
            .ok_or_else(|| wrong("longer than any chain of certificates".into()))
    };
    let tls = Tls::new(&read(cert)?, &read(key)?).map_err(|error| Usage(format!("tls: {error}")))?;
    Ok(Some(tls))
}

/// Refuses a file of `idempotency.key_file` that holds no key. One that is named and not there is not made: kept answers
/// could not be opened under another, and what was done would be a conflict.
fn once_key(settings: &Settings) -> Result<()> {
    if !settings.once.key_is_named {
        return Ok(());
    }
    Vault::new(&settings.once.key_file).look().map_err(|error| {
        let then = if error.kind() == std::io::ErrorKind::NotFound {
            "; write 64 hexadecimal digits into it, mode 0600, or leave the setting unset"
        } else {
            ""
        };
        Usage(format!("idempotency.key_file: {error}{then}")).into()
    })
}

/// Who may call, and how.
struct Who {
    access: Arc<Access>,
    oidc: Option<Arc<Oidc>>,
    tls: Option<Tls>,
    tlog_public: bool,
    /// Only loopback addresses are listened on.
    local: bool,
}

async fn serve(settings: Settings, who: Who, with_demo: bool) -> Result<()> {
    let data_dir = settings.ledger.data_dir.clone();
    let mut on_record = settings.on_record();
    for (name, hash) in who.access.policies().files() {
        on_record.insert(
            format!("policies.{name}"),
            format!("sha256:{}", evidence::hex_string(hash)),
        );
    }
    // Ports first: a port in use is said before the folder is touched.
    let flags = ("--listen", "DEPONENT_LISTEN");
    let http = bind("listen", settings.listen, flags).await?;
    let grpc = match settings.grpc_listen {
        Some(address) => {
            let flags = ("--grpc-listen", "DEPONENT_GRPC_LISTEN");
            Some(bind("grpc_listen", address, flags).await?)
        }
        None => None,
    };
    let options = settings.ledger;
    let ledger = tokio::task::spawn_blocking(move || -> Result<Ledger> {
        let ledger = Ledger::open(options, clock::now())?;
        ledger
            .tenant_create(LOCAL_TENANT, clock::now())
            .or_else(|error| match error {
                // A refused ledger is served for reading; every writer is told.
                ledger::TenantError::Submit(_) => ledger.tenant(LOCAL_TENANT).ok_or(error),
                error => Err(error),
            })?;
        admin::listen(ledger.clone(), clock::clock())?;
        Ok(ledger)
    })
    .await??;
    let listen = http.local_addr()?;
    let scheme = if who.tls.is_some() { "https" } else { "http" };
    output::line(format_args!("listening on {scheme}://{listen}"));
    if let Some(grpc) = &grpc {
        output::line(format_args!("grpc on {}", grpc.local_addr()?));
    }
    output::line(format_args!("data in {}", data_dir.display()));
    let mut app = App::new(ledger, clock::now);
    (app.local, app.access, app.oidc, app.tls) = (who.local, who.access, who.oidc, who.tls);
    app.once = once(
        settings.redis_url.as_deref(),
        settings.redis_aof,
        settings.once,
        &data_dir,
    )?;
    let asked_at_once = settings.redis_url.is_some().then(|| app.once.clone());
    app.tlog_public = who.tlog_public;
    app.settings = Arc::new(on_record);
    let is_local = app.is_local();
    if is_local {
        output::line(
            "LOCAL MODE: no API keys. Whoever reaches this port on this machine reads and writes as 'local' of tenant 'default'.",
        );
    } else {
        output::line(match settings.oidc {
            Some(oidc) => format!(
                "API keys or tokens of {} are demanded: Authorization: Bearer …",
                oidc.issuer
            ),
            None => "API keys are demanded: Authorization: Bearer dpn_…".into(),
        });
        if !app.local && app.tls.is_none() {
            output::note(
                "deponent: keys travel in clear text; set tls.cert and tls.key, or put a proxy that speaks TLS before this port",
            );
        }
    }
    output::line(format_args!(
        "API: {scheme}://{listen}/api/docs   runs: {scheme}://{listen}/api/v1/logs/llm-runs"
    ));
    let demo = async {
        // Who starts a server is told at once, and not by the first agent that is refused. It serves all the same:
        // a Redis that is away or not set up takes nothing from evidence.
        if let Some(once) = asked_at_once
            && let Err(error) = once.answers(clock::now()).await
        {
            output::note(format_args!(
                "deponent: {error}; until it can, keys are not checked"
            ));
        }
        if with_demo && let Err(error) = load_demo(listen, is_local, &data_dir.join(DEMO_MARK)).await {
            output::note(format_args!("deponent: the demo could not be loaded: {error:#}"));
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = server::serve(app, http, grpc, shutdown()) => served?,
        () = demo => {}
    }
    Ok(())
}

/// Where idempotency keys are kept, as the settings say.
fn once(
    redis_url: Option<&str>,
    redis_aof: RedisAof,
    options: OnceOptions,
    data_dir: &std::path::Path,
) -> Result<Once> {
    let path = data_dir.join("state.db");
    // A damaged one is set aside here, before anything has it open.
    let state = StateDb::open_or_begin_anew(&path)?;
    let backend: Box<dyn OnceStore> = match redis_url {
        None => Box::new(SqliteOnce::new(&path)),
        Some(url) => Box::new(
            RedisOnce::new(url, RedisClock::Redis, redis_aof, state)
                .map_err(|error| Usage(format!("redis_url: {error}")))?,
        ),
    };
    Ok(Once::new(backend, options))
}

async fn bind(name: &str, address: SocketAddr, (flag, variable): (&str, &str)) -> Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| {
        anyhow!(
            "{name}: cannot listen on {address}: {error}; \
             {flag}, {variable} or {name} in deponent.toml names another address"
        )
    })
}

/// Resolves at the first SIGTERM or SIGINT.
async fn shutdown() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    output::note("deponent: shutting down");
}

/// Once per data folder. Crash before the mark: the runs are loaded once more, under other ids.
async fn load_demo(listen: SocketAddr, is_local: bool, mark: &std::path::Path) -> Result<()> {
    if mark.exists() {
        output::line("demo: loaded earlier into this data folder");
        return Ok(());
    }
    if !is_local {
        bail!(
            "its runs are sent without a key, and this server demands one: \
             start it with a --data-dir that has no keys, and without oidc.issuer"
        );
    }
    let mut seed = [0; 16];
    getrandom::fill(&mut seed).map_err(std::io::Error::other)?;
    let loaded = demo::load(listen, demo::requests(clock::now(), seed)).await?;
    std::fs::write(mark, "")?;
    output::line(format_args!(
        "demo: {} agent runs, {} spans, all acknowledged on disk",
        loaded.runs, loaded.spans
    ));
    output::line(format_args!(
        "try: curl 'http://{listen}/api/v1/logs/llm-runs?limit=5'    deponent verify --data-dir {}",
        mark.parent().unwrap_or(mark).display()
    ));
    Ok(())
}
