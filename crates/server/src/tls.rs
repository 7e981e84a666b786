//! TLS of both ports, by rustls: versions 1.2 and 1.3, a certificate chain and its key in PEM.
//!
//! Read once: another certificate needs a restart.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why the certificate or its key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

/// What both ports need to speak TLS.
#[derive(Clone, Debug)]
pub struct Tls(Arc<ServerConfig>);

impl Tls {
    /// Of a chain, the server's certificate first, and the private key of that one.
    ///
    /// # Errors
    /// [`TlsError`]: no PEM, nothing in it, or a key that is not the certificate's.
    pub fn new(chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, TlsError> {
        let wrong = |what: &str, error: &dyn std::fmt::Display| TlsError(format!("{what}: {error}"));
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem)
            .collect::<Result<_, _>>()
            .map_err(|error| wrong("certificate", &error))?;
        if chain.is_empty() {
            return Err(TlsError("certificate: there is none in PEM".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| wrong("key", &error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong("versions", &error))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| wrong("certificate and key", &error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    pub(crate) fn http(&self) -> tokio_rustls::TlsAcceptor {
        Arc::clone(&self.0).into()
    }

    /// gRPC is HTTP/2 and nothing else.
    pub(crate) fn grpc(&self) -> tokio_rustls::TlsAcceptor {
        let mut config = ServerConfig::clone(&self.0);
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config).into()
    }
}
