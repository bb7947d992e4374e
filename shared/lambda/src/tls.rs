//! TLS to AWS endpoints, with full verification (chain and host name) against embedded roots.
//!
//! The roots are embedded because the Lambda image lacks the RDS roots, and because no other authority may
//! issue a certificate for the database or for Secrets Manager.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use tokio_postgres_rustls::MakeRustlsConnect;

/// The roots that sign certificates of RDS instances, as PEM.
const RDS_ROOTS: &str = include_str!("../roots/rds.pem");
/// The roots that sign certificates of RDS Proxy and of every other AWS endpoint, as PEM.
pub(crate) const AMAZON_ROOTS: &str = include_str!("../roots/amazon-trust-services.pem");

/// Returns a TLS connector for PostgreSQL on RDS or behind RDS Proxy.
pub fn postgres_connector() -> MakeRustlsConnect {
    MakeRustlsConnect::new(client_config(&[RDS_ROOTS, AMAZON_ROOTS]))
}

/// Returns a TLS client configuration that trusts these roots, each a PEM file, and no others.
pub(crate) fn client_config(roots: &[&str]) -> ClientConfig {
    let mut trusted = RootCertStore::empty();
    for pem in roots {
        trusted.add_parsable_certificates(CertificateDer::pem_slice_iter(pem.as_bytes()).flatten());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|error| unreachable!("the provider supports TLS 1.2 and 1.3: {error}"))
        .with_root_certificates(trusted)
        .with_no_client_auth()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustls_accepts_every_embedded_root() {
        for pem in [RDS_ROOTS, AMAZON_ROOTS] {
            let certificates: Vec<_> =
                CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap();
            assert_eq!(certificates.len(), pem.matches("BEGIN CERTIFICATE").count());
            let (added, ignored) = RootCertStore::empty().add_parsable_certificates(certificates);
            assert!(added > 0);
            assert_eq!(ignored, 0);
        }
    }
}
