//! The contents of a certificate, and why one cannot be issued or read.

/// The contents of a certificate.
#[derive(Debug, Clone)]
pub struct CertificateSpec<'a> {
    /// Subject `O`, omitted if `None`.
    pub organization: Option<&'a str>,
    /// Subject `CN`.
    pub common_name: &'a str,
    /// Subject alternative names: an IP address becomes an iPAddress, anything else a dNSName.
    pub names: &'a [String],
    /// The validity period.
    pub validity: Validity,
    /// Authority or end entity.
    pub role: Role,
    /// App id: the payload of extension `.3` of the peer's arc ([`oid`](super::oid)).
    pub app_id: Option<&'a [u8]>,
    /// App info: the payload of `.9`.
    pub app_info: Option<&'a [u8]>,
    /// Special usage: the payload of `.4`.
    pub usage: Option<&'a str>,
    /// Evidence: the payload of `.8`.
    pub evidence: Option<&'a [u8]>,
}

/// A validity period, both ends included, Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub not_before: u64,
    /// Last second.
    pub not_after: u64,
}

/// What the key of a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Signs certificates, with at most `path_len` CAs below it.
    Ca {
        /// The path length constraint.
        path_len: u8,
    },
    /// Signs handshakes. With neither flag there is no extended key usage, which means no restriction.
    Leaf {
        /// Extended key usage serverAuth.
        server_auth: bool,
        /// Extended key usage clientAuth.
        client_auth: bool,
    },
}

impl Role {
    /// A leaf without extended key usage.
    pub const LEAF: Role = Role::Leaf { server_auth: false, client_auth: false };
}

/// Why a certificate cannot be issued or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// A date that X.509 cannot express.
    #[error("certificate date {0} is after 9999-12-31T23:59:59Z")]
    Date(u64),
    /// A subject alternative name that is not ASCII.
    #[error("subject alternative name is not ASCII")]
    Name,
    /// The subject's public key is not SubjectPublicKeyInfo DER.
    #[error("public key is not SubjectPublicKeyInfo DER")]
    PublicKey,
    /// Not exactly one X.509 certificate in DER.
    #[error("not an X.509 certificate in DER")]
    Certificate,
    /// No `CERTIFICATE` block, or its content is not base64.
    #[error("no certificate in the PEM text")]
    Pem,
    /// A CA's certificate and private key do not match.
    #[error("CA certificate does not match private key")]
    KeyMismatch,
}
