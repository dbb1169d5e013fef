//! Certificate authorities and leaves, in the files that k3s uses.
//!
//! A CA found on disk is used again, as k3s does: that is the trap of pre-seeded CAs. Its file is rebuilt from key and common
//! name, so only CAs of the stand-in's own form can be used again.

use crate::base::clock::unix_now;
use crate::base::paths::write;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot read {}: {source}", file.display())]
    Read { file: PathBuf, source: std::io::Error },
    #[error("cannot write {}: {source}", file.display())]
    Write { file: PathBuf, source: std::io::Error },
    #[error("cannot make or use the certificate {}: {source}", file.display())]
    Certificate { file: PathBuf, source: rcgen::Error },
    #[error("{} is no certificate of the stand-in's own form", file.display())]
    Foreign { file: PathBuf },
}

/// A certificate authority that can sign.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// Whom a leaf speaks for.
pub struct Leaf<'a> {
    pub name: &'a str,
    pub group: Option<&'a str>,
    pub sans: &'a [String],
}

impl Authority {
    /// Read `<stem>.crt` and `<stem>.key`, or make them; the name carries the second, as k3s does it.
    pub fn ensure(stem: &Path, name: &str) -> Result<Self, PkiError> {
        let (crt, key) = (stem.with_extension("crt"), stem.with_extension("key"));
        if crt.exists() && key.exists() { Self::load(&crt, &key) } else { Self::make(&crt, &key, name) }
    }

    fn load(crt: &Path, key_file: &Path) -> Result<Self, PkiError> {
        let pem = read(crt)?;
        let foreign = || PkiError::Foreign { file: crt.into() };
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| foreign())?;
        let name = common_name(&der).ok_or_else(foreign)?;
        let key = KeyPair::from_pem(&read(key_file)?)
            .map_err(|source| PkiError::Certificate { file: key_file.into(), source })?;
        Ok(Self { issuer: Issuer::new(ca_params(&name), key), pem })
    }

    fn make(crt: &Path, key_file: &Path, name: &str) -> Result<Self, PkiError> {
        let at = |source| PkiError::Certificate { file: crt.into(), source };
        let params = ca_params(&format!("{name}@{}", unix_now()));
        let key = KeyPair::generate().map_err(at)?;
        let pem = params.self_signed(&key).map_err(at)?.pem();
        store(key_file, 0o600, &key.serialize_pem())?;
        store(crt, 0o644, &pem)?;
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// A certificate and its key as PEM, good for both ends of TLS.
    pub fn leaf(&self, leaf: &Leaf<'_>) -> Result<(String, String), rcgen::Error> {
        let mut params = CertificateParams::new(leaf.sans.to_vec())?;
        params.distinguished_name = DistinguishedName::new();
        if let Some(group) = leaf.group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.distinguished_name.push(DnType::CommonName, leaf.name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (SystemTime::now() - HOUR).into();
        params.not_after = (SystemTime::now() + 365 * DAY).into();
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }

    /// A leaf written to `<stem>.crt` and `<stem>.key`.
    pub fn write_leaf(&self, stem: &Path, leaf: &Leaf<'_>) -> Result<(), PkiError> {
        let file = stem.with_extension("crt");
        let (crt, key) =
            self.leaf(leaf).map_err(|source| PkiError::Certificate { file: file.clone(), source })?;
        store(&stem.with_extension("key"), 0o600, &key)?;
        store(&file, 0o644, &crt)
    }
}

/// Valid from an hour before its making, for ten years: seen on a real k3s.
fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
    ];
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + 3650 * DAY).into();
    params
}

/// The last common name in a certificate, which is the subject's: issuer first, subject second, none after (RFC 5280, 4.1).
pub fn common_name(der: &[u8]) -> Option<String> {
    const OID: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];
    let at = der.windows(OID.len()).rposition(|w| w == OID)? + OID.len();
    let length = usize::from(*der.get(at + 1)?);
    let text = der.get(at + 2..at + 2 + length)?;
    (length < 128).then(|| String::from_utf8(text.to_vec()).ok())?
}

/// The hash in a K10 token: of the PEM as served when it is one certificate, of the root's DER for a bundle.
pub fn ca_hash(pem: &[u8]) -> [u8; 32] {
    let certs: Vec<_> = CertificateDer::pem_slice_iter(pem).flatten().collect();
    match certs.as_slice() {
        [_, .., root] => Sha256::digest(root).into(),
        [] | [_] => Sha256::digest(pem).into(),
    }
}

pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

pub fn read(file: &Path) -> Result<String, PkiError> {
    std::fs::read_to_string(file).map_err(|source| PkiError::Read { file: file.into(), source })
}

pub fn store(file: &Path, mode: u32, text: &str) -> Result<(), PkiError> {
    write(file, mode, text.as_bytes()).map_err(|source| PkiError::Write { file: file.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k3s_model::ids::CaHash;
    use k3s_model::token::Token;

    #[test]
    fn the_recorded_token_pins_the_recorded_ca() {
        let pem = include_bytes!("../../fixtures/cacerts.pem");
        let token = Token::parse(include_str!("../../fixtures/server-token.txt")).unwrap();
        assert_eq!(token.ca, Some(CaHash(ca_hash(pem))));
    }

    #[test]
    fn a_bundle_is_pinned_by_its_root_s_der() {
        let one = include_str!("../../fixtures/cacerts.pem");
        let der = CertificateDer::from_pem_slice(one.as_bytes()).unwrap();
        let want: [u8; 32] = Sha256::digest(&der).into();
        assert_eq!(ca_hash(format!("{one}{one}").as_bytes()), want);
    }

    #[test]
    fn the_recorded_ca_has_its_common_name() {
        let der = CertificateDer::from_pem_slice(include_bytes!("../../fixtures/cacerts.pem")).unwrap();
        assert_eq!(common_name(&der).as_deref(), Some("k3s-server-ca@1795489780"));
        assert_eq!(common_name(b"nonsense"), None);
    }

    #[test]
    fn a_ca_read_back_is_the_same_issuer() {
        let dir = tempfile::tempdir().unwrap();
        let stem = dir.path().join("server-ca");
        let made = Authority::ensure(&stem, "k3s-server-ca").unwrap();
        let read = Authority::ensure(&stem, "k3s-server-ca").unwrap();
        assert_eq!(made.pem, read.pem);
        let (crt, _) = read.leaf(&Leaf { name: "x", group: Some("g"), sans: &["127.0.0.1".into()] }).unwrap();
        let der = CertificateDer::from_pem_slice(crt.as_bytes()).unwrap();
        assert_eq!(common_name(&der).as_deref(), Some("x"));
    }
}
