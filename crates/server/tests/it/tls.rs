//! Both ports by TLS, with a certificate made here and clients that check it.

use std::sync::Arc;
use std::time::Duration;

use ::server::Tls;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::otlp::request;
use crate::server::TestServer;

fn connector(trusted: Option<&CertificateDer<'static>>, alpn: &[&str]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    if let Some(der) = trusted {
        roots.add(der.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config).into()
}

#[test]
fn both_ports_speak_tls_to_who_trusts_the_certificate_and_nothing_else() {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let mut server = TestServer::new();
    server.app.tls = Some(Tls::new(cert.pem().as_bytes(), signing_key.serialize_pem().as_bytes()).unwrap());
    let (http, grpc) = server.runtime.block_on(async {
        let bind = || TcpListener::bind("127.0.0.1:0");
        (bind().await.unwrap(), bind().await.unwrap())
    });
    let (http_at, grpc_at) = (http.local_addr().unwrap(), grpc.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = ::server::serve(server.app.clone(), http, Some(grpc), async {
        let _ = stopped.await;
    });
    let serving = server.runtime.spawn(serving);

    // A plain client of HTTP/1.1.
    let agent = |roots: Vec<Certificate<'static>>| {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::from(roots))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        ureq::Agent::config_builder()
            .tls_config(tls)
            .timeout_global(Some(Duration::from_mins(1)))
            .proxy(None)
            .build()
            .new_agent()
    };
    let url = format!("https://localhost:{}", http_at.port());
    let trusting = agent(vec![Certificate::from_der(cert.der()).to_owned()]);
    let mut answer = trusting.get(format!("{url}/healthz")).call().unwrap();
    assert_eq!(answer.body_mut().read_to_string().unwrap(), "ok\n");
    let me = trusting
        .get(format!("{url}/api/v1/me"))
        .call()
        .unwrap()
        .body_mut()
        .read_to_string()
        .unwrap();
    assert!(me.contains("\"local\""), "{me}");
    assert!(agent(Vec::new()).get(format!("{url}/healthz")).call().is_err());

    server.runtime.block_on(async {
        // Clear text is answered with an alert, by which the command line knows whom it asked.
        let mut plain = TcpStream::connect(http_at).await.unwrap();
        plain
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer).await;
        assert_eq!(answer.first(), Some(&0x15), "{answer:?}");

        // HTTP/2 is chosen when it is offered, on the gRPC port nothing else is.
        let name = || ServerName::try_from("localhost").unwrap();
        for (at, alpn, expected) in [
            (http_at, &["h2", "http/1.1"][..], Some(&b"h2"[..])),
            (http_at, &["http/1.1"][..], Some(&b"http/1.1"[..])),
            (http_at, &[][..], None),
            (grpc_at, &["http/1.1", "h2"][..], Some(&b"h2"[..])),
        ] {
            let stream = TcpStream::connect(at).await.unwrap();
            let stream = connector(Some(cert.der()), alpn)
                .connect(name(), stream)
                .await
                .unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), expected);
        }
        let stream = TcpStream::connect(grpc_at).await.unwrap();
        let refused = connector(Some(cert.der()), &["http/1.1"])
            .connect(name(), stream)
            .await;
        assert!(refused.is_err());

        let connect = {
            let der = cert.der().clone();
            tower::service_fn(move |_: axum::http::Uri| {
                let tls = connector(Some(&der), &["h2"]);
                async move {
                    let stream = TcpStream::connect(grpc_at).await?;
                    let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
                    tls.connect(name, stream).await.map(TokioIo::new)
                }
            })
        };
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(connect)
            .await
            .unwrap();
        let answer = TraceServiceClient::new(channel)
            .export(request(false))
            .await
            .unwrap();
        assert!(answer.into_inner().partial_success.is_none());
    });
    let _ = stop.send(());
    server.runtime.block_on(async {
        tokio::time::timeout(Duration::from_mins(1), serving)
            .await
            .expect("drains in time")
            .unwrap()
            .unwrap();
    });
}

#[test]
fn a_certificate_without_its_key_is_refused_at_the_start() {
    let make = || generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let (one, other) = (make(), make());
    let cert = one.cert.pem();
    for (cert, key, why) in [
        (
            cert.as_str(),
            other.signing_key.serialize_pem(),
            "certificate and key",
        ),
        (cert.as_str(), String::new(), "key"),
        (cert.as_str(), cert.clone(), "key"),
        ("", one.signing_key.serialize_pem(), "certificate"),
        ("nonsense", one.signing_key.serialize_pem(), "certificate"),
    ] {
        let error = Tls::new(cert.as_bytes(), key.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(why), "{why}: {error}");
    }
}
