//! A certificate for `localhost` that nobody trusts unless told to.

use anyhow::Context;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto::ring};

/// Self-signed, PEM.
pub const CERTIFICATE: &str = include_str!("../tls/cert.pem");
/// Its private key, PEM.
pub const KEY: &str = include_str!("../tls/key.pem");

/// Serves with the certificate.
pub fn acceptor() -> anyhow::Result<TlsAcceptor> {
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).context("certificate")?;
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).context("key")?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
