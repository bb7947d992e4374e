//! TLS to AWS endpoints, with full verification (chain and host name) against embedded roots.
//!
//! The roots are embedded because the Lambda image lacks the RDS roots, and because no other authority may
//! issue a certificate for the database or for Secrets Manager.

use bakeoff_core::Error;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use tokio_postgres_rustls::MakeRustlsConnect;

/// The roots that sign certificates of RDS instances, as PEM.
const RDS_ROOTS: &str = include_str!("../roots/rds.pem");
/// The roots that sign certificates of RDS Proxy and of every other AWS endpoint, as PEM.
const AMAZON_ROOTS: &str = include_str!("../roots/amazon-trust-services.pem");

/// The certificate authorities that a connection trusts, and no others.
#[derive(Clone, Debug)]
pub enum Roots {
    /// The roots of AWS.
    Aws,
    /// The roots in a PEM file, for a server outside AWS with a private authority.
    File(String),
}

impl Roots {
    /// Returns a TLS connector for PostgreSQL.
    ///
    /// # Errors
    /// [`Error::Internal`] if the file cannot be read or holds no certificate.
    pub fn postgres_connector(&self) -> Result<MakeRustlsConnect, Error> {
        Ok(MakeRustlsConnect::new(self.client_config(&[RDS_ROOTS, AMAZON_ROOTS])?))
    }

    /// Returns the TLS configuration of a client of HTTPS endpoints.
    ///
    /// # Errors
    /// As [`Roots::postgres_connector`].
    pub fn https_client_config(&self) -> Result<ClientConfig, Error> {
        self.client_config(&[AMAZON_ROOTS])
    }

    fn client_config(&self, aws: &[&str]) -> Result<ClientConfig, Error> {
        let mut trusted = RootCertStore::empty();
        let mut trust = |pem: &str| {
            trusted.add_parsable_certificates(CertificateDer::pem_slice_iter(pem.as_bytes()).flatten()).0
        };
        match self {
            Self::Aws => {
                for pem in aws {
                    trust(pem);
                }
            }
            Self::File(path) => {
                let pem = std::fs::read_to_string(path)
                    .map_err(|error| Error::Internal(format!("reading the roots in {path}: {error}")))?;
                if trust(&pem) == 0 {
                    return Err(Error::Internal(format!("{path} holds no certificate in PEM")));
                }
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Ok(ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap_or_else(|error| unreachable!("the provider supports TLS 1.2 and 1.3: {error}"))
            .with_root_certificates(trusted)
            .with_no_client_auth())
    }
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
