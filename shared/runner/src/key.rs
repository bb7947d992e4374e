//! The runner's Ed25519 key: one file, PKCS#8 PEM (RFC 8410), which the harness reads too.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};

use crate::error::{Error, Result, While as _};

/// The DER that precedes the 32 secret bytes in an Ed25519 `PrivateKeyInfo` (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

/// A runner's key pair. `Debug` shows the public half only.
#[derive(Clone)]
pub struct RunnerKey(SigningKey);

impl RunnerKey {
    /// Makes a key and writes it to `path` with mode 0600.
    ///
    /// # Errors
    /// When the file exists: a key that is on the allowlist must not be overwritten by mistake.
    pub fn create(path: &Path) -> Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)
            .map_err(|error| Error::Failed(format!("the system gives no random bytes: {error}")))?;
        let key = Self(SigningKey::from_bytes(&seed));
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).while_(|| format!("create {}", folder.display()))?;
        }
        let doing = || format!("write the key to {}", path.display());
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).while_(doing)?;
        file.write_all(key.to_pem().as_bytes()).and_then(|()| file.sync_all()).while_(doing)?;
        Ok(key)
    }

    /// Reads a key file. Refuses one that other users can read.
    ///
    /// # Errors
    /// When there is none, or it is not an Ed25519 key; the text says what to type.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::Failed(format!(
                "there is no key at {}. Make one: bakeoff-runner key new --out {}",
                path.display(),
                path.display()
            )),
            _ => Error::Io { doing: format!("read the key {}", path.display()), source: error },
        })?;
        let mode =
            std::fs::metadata(path).while_(|| format!("read {}", path.display()))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(Error::Failed(format!(
                "other users can read the key {0}. Close it: chmod 600 {0}",
                path.display()
            )));
        }
        Self::from_pem(&text).ok_or_else(|| {
            Error::Failed(format!("{} is not an Ed25519 private key in PKCS#8 PEM", path.display()))
        })
    }

    /// Reads PKCS#8 PEM. OpenSSL and Python write version 1 without the public key, and so do we; a version 2
    /// key (RFC 5958), which appends the public key, is read as well.
    fn from_pem(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once(BEGIN)?;
        let (body, _) = rest.split_once(END)?;
        let der = STANDARD.decode(body.split_whitespace().collect::<String>()).ok()?;
        // Only the outer length and the version differ between the two.
        let seed = der.get(16..48)?.try_into().ok()?;
        let known = der[2..4] == PKCS8_PREFIX[2..4] && der[4] <= 1 && der[5..16] == PKCS8_PREFIX[5..];
        known.then(|| Self(SigningKey::from_bytes(&seed)))
    }

    fn to_pem(&self) -> String {
        let mut der = PKCS8_PREFIX.to_vec();
        der.extend(self.0.to_bytes());
        format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(der))
    }

    /// Base64 of the 32 raw bytes of the public key, as an admin enters it.
    pub fn public_base64(&self) -> String {
        STANDARD.encode(self.0.verifying_key().as_bytes())
    }

    /// The `x` of the public key's JWK (RFC 8037, section 2).
    pub fn jwk_x(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.verifying_key().as_bytes())
    }

    /// Signs a message (RFC 8032, no pre-hash, no context).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl std::fmt::Debug for RunnerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RunnerKey({})", self.public_base64())
    }
}

/// Where the key lies unless `--key` says otherwise: `$XDG_CONFIG_HOME/bakeoff/runner.pem`.
///
/// # Errors
/// When neither `XDG_CONFIG_HOME` nor `HOME` is set.
pub fn default_path() -> Result<PathBuf> {
    home_folder("XDG_CONFIG_HOME", ".config").map(|folder| folder.join("bakeoff/runner.pem"))
}

/// A folder of the XDG Base Directory Specification: the variable's, else the one below the home folder.
///
/// # Errors
/// When neither is set.
pub fn home_folder(variable: &str, below_home: &str) -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set(variable)
        .or_else(|| set("HOME").map(|home| home.join(below_home)))
        .ok_or_else(|| Error::Failed(format!("neither {variable} nor HOME is set")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8410, section 10.3: the same key in both versions.
    const VERSION_1: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";

    #[test]
    fn the_key_of_rfc_8410_is_read_and_written() {
        let key = RunnerKey::from_pem(VERSION_1).unwrap();
        assert_eq!(key.public_base64(), PUBLIC);
        assert_eq!(key.to_pem(), VERSION_1);
    }

    #[test]
    fn a_version_2_key_is_read() {
        let mut der = STANDARD.decode(VERSION_1.lines().nth(1).unwrap()).unwrap();
        (der[1], der[4]) = (0x51, 1);
        der.extend([0x81, 0x21, 0x00]);
        der.extend(STANDARD.decode(PUBLIC).unwrap());
        let pem = format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(der));
        assert_eq!(RunnerKey::from_pem(&pem).unwrap().public_base64(), PUBLIC);
    }

    #[test]
    fn other_keys_are_refused() {
        assert!(RunnerKey::from_pem("").is_none());
        let p256 = VERSION_1.replace("MC4CAQAwBQYDK2Vw", "MC4CAQAwBQYDK2Vu");
        assert!(RunnerKey::from_pem(&p256).is_none());
        let short = format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode([0x30; 20]));
        assert!(RunnerKey::from_pem(&short).is_none());
    }
}
