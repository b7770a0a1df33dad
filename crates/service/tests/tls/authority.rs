//! A certificate authority in a folder.

use std::{fs, path::PathBuf};

use linkmail_service::tls::{IdentityFiles, ServerFiles};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate with its key, in files.
pub(crate) struct Issued {
    pub(crate) files: IdentityFiles,
    pub(crate) der: CertificateDer<'static>,
    /// SubjectPublicKeyInfo.
    pub(crate) spki: Vec<u8>,
}

impl Issued {
    pub(crate) fn server(&self) -> ServerFiles {
        ServerFiles {
            default: self.files.clone(),
            by_name: Vec::new(),
            client_roots: None,
        }
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("root.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn roots(&self) -> PathBuf {
        self.path("root.pem")
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// Its SubjectPublicKeyInfo.
    pub(crate) fn spki(&self) -> Vec<u8> {
        rcgen::PublicKeyData::subject_public_key_info(self.issuer.key())
    }

    pub(crate) fn issue(&self, name: &str) -> Issued {
        self.issue_with(name, |_| {})
    }

    pub(crate) fn expired(&self, name: &str) -> Issued {
        self.issue_with(name, |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 2, 3);
        })
    }

    /// The chain in the file holds the authority, too.
    pub(crate) fn issue_with(
        &self,
        name: &str,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        edit(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = IdentityFiles {
            certificate: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
        };
        let chain = certificate.pem() + &self.issuer.pem();
        fs::write(&files.certificate, chain).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        Issued {
            files,
            der: certificate.der().clone(),
            spki: rcgen::PublicKeyData::subject_public_key_info(&key),
        }
    }
}
