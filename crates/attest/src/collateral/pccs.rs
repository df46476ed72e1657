//! Requests to one collateral service (a PCCS or Intel's PCS), in the order in which the peer makes them, and
//! the parsing of its responses.

use dcap_qvl::QuoteCollateralV3;
use percent_encoding::percent_decode_str;
use reqwest::Url;
use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::value::RawValue;
use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::chain::certificates;
use super::crl;
use super::http::{MAX_CRL, MAX_DOCUMENT, Response};
use super::origin::{Origin, PckRequest};
use super::{
    Clock, Collateral, CollateralError, EndpointError, FetchFailure, Http, PckChain, PlatformKey, Resource,
    authentic, signed,
};
use crate::trust::TrustAnchors;

/// The service if none is configured.
pub const DEFAULT_PCCS_URL: &str = "https://pccs.phala.network";

/// Intel's own service, which has no `rootcacrl`.
const INTEL_PCS_URL: &str = "https://api.trustedservices.intel.com";

/// Maximum length of a percent-encoded issuer chain in a header, bytes. Intel's have about 3 KiB.
const MAX_CHAIN_HEADER: usize = 32 * 1024;

const PCK_CHAIN: &str = "SGX-PCK-Certificate-Issuer-Chain";
const PCK_TCBM: &str = "SGX-TCBm";
const PCK_CRL_CHAIN: &str = "SGX-PCK-CRL-Issuer-Chain";
const TCB_INFO_CHAINS: [&str; 2] = ["SGX-TCB-Info-Issuer-Chain", "TCB-Info-Issuer-Chain"];
const QE_IDENTITY_CHAIN: &str = "SGX-Enclave-Identity-Issuer-Chain";

/// A collateral service at one address.
#[derive(Clone)]
pub struct Pccs {
    base: String,
    http: Http,
    root: CertificateDer<'static>,
}

impl Pccs {
    /// The service at `url`; [`DEFAULT_PCCS_URL`] if blank.
    ///
    /// Trailing slashes and a trailing `/sgx/certification/v4` or `/tdx/certification/v4` are removed.
    pub fn new(url: &str, http: Http, anchors: &TrustAnchors) -> Result<Self, EndpointError> {
        Self::numbered(0, url, http, anchors)
    }

    /// [`Pccs::new`] for the service at position `index` of the configuration, which errors name.
    pub(super) fn numbered(
        index: usize,
        url: &str,
        http: Http,
        anchors: &TrustAnchors,
    ) -> Result<Self, EndpointError> {
        let url = match url.trim() {
            "" => DEFAULT_PCCS_URL,
            url => url,
        };
        let parsed = Url::parse(url).map_err(|_| EndpointError::NotHttp { index })?;
        if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() {
            return Err(EndpointError::NotHttp { index });
        }
        if parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(EndpointError::HasQuery { index });
        }
        if let Some(version) = api_version(&parsed).filter(|version| *version != 4) {
            return Err(EndpointError::Version { index, version });
        }
        let base = url
            .trim_end_matches('/')
            .trim_end_matches("/sgx/certification/v4")
            .trim_end_matches("/tdx/certification/v4");
        Ok(Self { base: base.to_owned(), http, root: anchors.tdx_root().clone() })
    }

    /// The base address.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Fetches collateral for `quote`, with the PCK certificate chain. Signatures and dates are not checked
    /// here: the quote verifier does that.
    pub async fn fetch(&self, quote: &[u8]) -> Result<Collateral, CollateralError> {
        let chain = match Origin::of(quote)? {
            Origin::Certificate(chain) => chain,
            Origin::EncryptedPpid(request) => {
                self.pck_chain(&request).await.map_err(CollateralError::unavailable)?
            }
        };
        let parts = self.parts(chain.platform()).await.map_err(CollateralError::unavailable)?;
        Ok(Collateral::new(parts)?.with_pck_certificate_chain(chain.pem()))
    }

    /// Fetches collateral for `platform`, signed up to the trusted root and valid now.
    pub(super) async fn platform(
        &self,
        platform: PlatformKey,
        clock: &Clock,
    ) -> Result<Collateral, FetchFailure> {
        let parts = self.parts(platform).await?;
        authentic::admit(parts, platform, &self.root, clock)
    }

    /// Fetches the chain of a PCK certificate.
    pub(super) async fn pck_chain(&self, request: &PckRequest) -> Result<PckChain, FetchFailure> {
        let resource = Resource::PckCertificate;
        let PckRequest { qe_id, parameters } = request;
        let url = format!(
            "{}/sgx/certification/v4/pckcert?qeid={}&encrypted_ppid={}&cpusvn={}&pcesvn={}&pceid={}",
            self.base,
            hex::encode_upper(qe_id),
            hex::encode_upper(&parameters.encrypted_ppid),
            hex::encode_upper(parameters.cpusvn),
            hex::encode_upper(parameters.pcesvn.to_le_bytes()),
            hex::encode_upper(parameters.pceid),
        );
        let response = self.http.get(resource, &url, MAX_DOCUMENT).await?;
        if let Some(level) = response.headers.get(PCK_TCBM) {
            let asked = [&parameters.cpusvn[..], &parameters.pcesvn.to_le_bytes()].concat();
            if hex::decode(level).is_ok_and(|level| !level.starts_with(&asked)) {
                return Err(FetchFailure::TcbLevel);
            }
            hex::decode(level).map_err(|_| malformed(resource, "SGX-TCBm is not hex"))?;
        }
        let issuers = issuer_chain(&response, resource, &[PCK_CHAIN])?;
        let leaf = text(response, resource)?;
        PckChain::read(format!("{leaf}\n{issuers}").as_bytes())
            .map_err(|_| malformed(resource, "chain does not parse"))
    }

    async fn parts(&self, platform: PlatformKey) -> Result<QuoteCollateralV3, FetchFailure> {
        let url =
            format!("{}/sgx/certification/v4/pckcrl?ca={}&encoding=der", self.base, platform.ca.as_str());
        let response = self.http.get(Resource::PckCrl, &url, MAX_CRL).await?;
        let pck_crl_issuer_chain = issuer_chain(&response, Resource::PckCrl, &[PCK_CRL_CHAIN])?;
        let pck_crl = crl(response, Resource::PckCrl)?;

        let (tcb_info_issuer_chain, tcb_info) = self.tcb_info(platform, "").await?;
        let (qe_identity_issuer_chain, qe_identity) = self.qe_identity("standard").await?;
        let root_ca_crl = self.root_crl(&qe_identity_issuer_chain).await?;

        let (tcb_info, tcb_info_signature) = TcbInfoBody::read(&tcb_info)?;
        let (qe_identity, qe_identity_signature) = QeIdentityBody::read(&qe_identity)?;
        Ok(QuoteCollateralV3 {
            pck_crl_issuer_chain,
            root_ca_crl,
            pck_crl,
            tcb_info_issuer_chain,
            tcb_info,
            tcb_info_signature,
            qe_identity_issuer_chain,
            qe_identity,
            qe_identity_signature,
            pck_certificate_chain: None,
        })
    }

    /// The issuer chain and the body. `update` is appended to the query; the peer appends nothing.
    async fn tcb_info(&self, platform: PlatformKey, update: &str) -> Result<(String, String), FetchFailure> {
        let fmspc = hex::encode_upper(platform.fmspc);
        let url = format!("{}/tdx/certification/v4/tcb?fmspc={fmspc}{update}", self.base);
        let response = self.http.get(Resource::TcbInfo, &url, MAX_DOCUMENT).await?;
        let chain = issuer_chain(&response, Resource::TcbInfo, &TCB_INFO_CHAINS)?;
        Ok((chain, text(response, Resource::TcbInfo)?))
    }

    /// The issuer chain and the body.
    async fn qe_identity(&self, update: &str) -> Result<(String, String), FetchFailure> {
        let url = format!("{}/tdx/certification/v4/qe/identity?update={update}", self.base);
        let response = self.http.get(Resource::QeIdentity, &url, MAX_DOCUMENT).await?;
        let chain = issuer_chain(&response, Resource::QeIdentity, &[QE_IDENTITY_CHAIN])?;
        Ok((chain, text(response, Resource::QeIdentity)?))
    }

    /// `standard` with Intel's early TCB info and QE identity in place of its own, signed up to the trusted
    /// root and valid now.
    pub(super) async fn early(
        &self,
        platform: PlatformKey,
        standard: &Collateral,
        clock: &Clock,
    ) -> Result<Collateral, FetchFailure> {
        let (tcb_info_issuer_chain, tcb_info) = self.tcb_info(platform, "&update=early").await?;
        let (qe_identity_issuer_chain, qe_identity) = self.qe_identity("early").await?;
        let (tcb_info, tcb_info_signature) = TcbInfoBody::read(&tcb_info)?;
        let (qe_identity, qe_identity_signature) = QeIdentityBody::read(&qe_identity)?;
        let parts = QuoteCollateralV3 {
            tcb_info_issuer_chain,
            tcb_info,
            tcb_info_signature,
            qe_identity_issuer_chain,
            qe_identity,
            qe_identity_signature,
            ..standard.parts().clone()
        };
        authentic::admit(parts, platform, &self.root, clock)
    }

    fn has_root_crl(&self) -> bool {
        !self.base.starts_with(INTEL_PCS_URL)
    }

    /// The root CA's CRL from the service, otherwise from the distribution point in the root certificate.
    async fn root_crl(&self, qe_identity_issuer_chain: &str) -> Result<Vec<u8>, FetchFailure> {
        if self.has_root_crl() {
            let url = format!("{}/sgx/certification/v4/rootcacrl", self.base);
            match self.http.get(Resource::RootCrl, &url, MAX_CRL).await {
                Ok(response) => return crl(response, Resource::RootCrl),
                Err(too_large @ FetchFailure::TooLarge { .. }) => return Err(too_large),
                Err(_) => {}
            }
        }
        let chain = certificates(qe_identity_issuer_chain.as_bytes()).unwrap_or_default();
        // Only a certificate of the trusted root may name the address: otherwise a service could make us send
        // requests to any host.
        let url = chain
            .last()
            .filter(|last| signed::is_rooted(last, &self.root))
            .and_then(|last| distribution_point(last))
            .ok_or(FetchFailure::NoDistributionPoint)?;
        crl(self.http.get_distribution_point(&url).await?, Resource::DistributionPoint)
    }
}

/// The API version in a path: `4` in `/sgx/certification/v4` or `/tdx/certification/v4`.
fn api_version(url: &Url) -> Option<u32> {
    let segments: Vec<&str> = url.path_segments()?.collect();
    segments.windows(3).find_map(|window| match window {
        ["sgx" | "tdx", "certification", version] => version.strip_prefix('v')?.parse().ok(),
        _ => None,
    })
}

/// The first `http` or `https` URL in a certificate's CRL distribution points.
fn distribution_point(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let points =
        certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::CRLDistributionPoints(points) => Some(points),
            _ => None,
        })?;
    points
        .iter()
        .filter_map(|point| match &point.distribution_point {
            Some(DistributionPointName::FullName(names)) => Some(names),
            _ => None,
        })
        .flatten()
        .find_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .filter(|uri| Url::parse(uri).is_ok_and(|url| matches!(url.scheme(), "http" | "https")))
        .map(str::to_owned)
}

#[derive(Deserialize)]
struct TcbInfoBody<'a> {
    #[serde(borrow, rename = "tcbInfo")]
    document: &'a RawValue,
    signature: String,
}

#[derive(Deserialize)]
struct QeIdentityBody<'a> {
    #[serde(borrow, rename = "enclaveIdentity")]
    document: &'a RawValue,
    signature: String,
}

impl TcbInfoBody<'_> {
    fn read(response: &str) -> Result<(String, Vec<u8>), FetchFailure> {
        let response: TcbInfoBody<'_> = serde_json::from_str(response)
            .map_err(|_| malformed(Resource::TcbInfo, "is not the expected json"))?;
        signed_document(Resource::TcbInfo, response.document, &response.signature)
    }
}

impl QeIdentityBody<'_> {
    fn read(response: &str) -> Result<(String, Vec<u8>), FetchFailure> {
        let response: QeIdentityBody<'_> = serde_json::from_str(response)
            .map_err(|_| malformed(Resource::QeIdentity, "is not the expected json"))?;
        signed_document(Resource::QeIdentity, response.document, &response.signature)
    }
}

fn signed_document(
    resource: Resource,
    document: &RawValue,
    signature: &str,
) -> Result<(String, Vec<u8>), FetchFailure> {
    let signature = hex::decode(signature).map_err(|_| malformed(resource, "signature is not hex"))?;
    Ok((compact(document.get()), signature))
}

/// Removes the white space between tokens of valid JSON, which gives the form that is signed. The order of
/// keys and the spelling of numbers and characters stay.
fn compact(json: &str) -> String {
    let mut compact = String::with_capacity(json.len());
    let mut in_string = false;
    let mut escaped = false;
    for c in json.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if matches!(c, ' ' | '\t' | '\n' | '\r') {
            continue;
        } else {
            in_string = c == '"';
        }
        compact.push(c);
    }
    compact
}

fn issuer_chain(
    response: &Response,
    resource: Resource,
    names: &[&'static str],
) -> Result<String, FetchFailure> {
    let header = names.last().copied().unwrap_or_default();
    let value = names
        .iter()
        .find_map(|name| response.headers.get(*name))
        .ok_or(FetchFailure::MissingHeader { resource, header })?;
    if value.len() > MAX_CHAIN_HEADER {
        return Err(malformed(resource, "issuer chain is too long"));
    }
    let value = value.to_str().map_err(|_| malformed(resource, "issuer chain is not ascii"))?;
    let chain = percent_decode_str(value)
        .decode_utf8()
        .map_err(|_| malformed(resource, "issuer chain is not percent-encoded utf-8"))?;
    Ok(chain.into_owned())
}

/// The body as text, without a byte order mark.
fn text(response: Response, resource: Resource) -> Result<String, FetchFailure> {
    let text = String::from_utf8(response.body).map_err(|_| malformed(resource, "is not utf-8"))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn crl(response: Response, resource: Resource) -> Result<Vec<u8>, FetchFailure> {
    crl::decode(response.body).ok_or(malformed(resource, "is not a crl in DER, PEM or hex"))
}

fn malformed(resource: Resource, problem: &'static str) -> FetchFailure {
    FetchFailure::Malformed { resource, problem }
}

#[cfg(test)]
mod tests;
