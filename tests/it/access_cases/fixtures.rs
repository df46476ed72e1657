//! The callers and their requests.

use std::sync::Arc;

use cvm_kms::api::Method;
use cvm_kms::proto::{
    AppId, BootstrapRequest, ClearImageCacheRequest, DESCRIPTORS, ExplainRequest, FreezeRequest,
    GetAppKeyRequest, GetKmsKeyRequest, LegacyClearImageCacheRequest, ListDenialsRequest,
    LowerClockFloorRequest, OnboardRequest, SignCertRequest, StartShadowRequest, UnfreezeRequest,
};
use kms_attest::binding::ReportData;
use kms_attest::csr::Csr;
use kms_attest::p256::P256Key;
use kms_simulator::Cvm;
use prost::Message as _;
use prost_types::FileDescriptorSet;

use super::codec::Message;
use crate::support::{ADMIN_TOKEN, DOMAIN, Identity, World};

/// The client certificate of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// No certificate.
    None,
    /// One of the temporary CA, without evidence.
    Unattested,
    /// One with the evidence of an allowed app.
    App,
    /// One with the evidence of an allowed KMS.
    Kms,
}

impl Certificate {
    /// All of them: the columns of a table.
    pub const ALL: [Self; 4] = [Self::None, Self::Unattested, Self::App, Self::Kms];

    /// Whether its evidence is that of an allowed identity.
    pub fn is_attested(self) -> bool {
        matches!(self, Self::App | Self::Kms)
    }
}

/// The operator's token that a caller sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// No token.
    None,
    /// A wrong token.
    Wrong,
    /// The right token.
    Right,
}

impl Credential {
    /// All of them: the columns of a table.
    pub const ALL: [Self; 3] = [Self::None, Self::Wrong, Self::Right];

    /// The value of `Authorization`.
    pub fn header(self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Wrong => Some("Bearer another token".to_owned()),
            Self::Right => Some(format!("Bearer {ADMIN_TOKEN}")),
        }
    }
}

/// The message of a row's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The message of an authorized caller.
    Valid,
    /// All fields have their defaults.
    Empty,
    /// Valid, with the evidence of an app that is not allowed.
    ByStranger,
    /// Valid, with evidence that is bound to another key.
    Unbound,
    /// Valid, with another token in the message.
    WrongToken,
    /// Valid, to a KMS that already has keys.
    Again,
}

/// A KMS that serves keys, and its callers.
pub struct Fixtures {
    /// The KMS.
    pub world: World,
    app: Arc<Cvm>,
    stranger: Arc<Cvm>,
    identities: [Identity; Certificate::ALL.len()],
}

impl Fixtures {
    /// With an allowed app, and with this KMS's measurement allowed.
    pub async fn gather() -> Self {
        let world = World::ready().await;
        let (app, stranger) = (world.app(1), world.app(2));
        world.allow_app(&app);
        let identities = [
            Identity::none(),
            world.unattested().await,
            world.attested(&app).await,
            world.attested(&world.replica()).await,
        ];
        Self { world, app, stranger, identities }
    }

    /// The certificate itself.
    pub fn identity(&self, certificate: Certificate) -> &Identity {
        &self.identities[certificate as usize]
    }

    /// The allowed app.
    pub fn app(&self) -> &Cvm {
        &self.app
    }

    /// The message of `method` for `ask`.
    pub fn message(&self, method: Method, ask: Ask) -> Message {
        use Method::*;
        let source_url = || format!("https://{DOMAIN}:{}", self.world.address().port());
        match (method, ask) {
            (_, Ask::Empty) => Message::empty(),
            (GetAppKey, Ask::Valid) => {
                Message::of(&GetAppKeyRequest { api_version: 1, ..Default::default() })
            }
            (KmsGetKmsKey | AdminGetKmsKey, Ask::Valid) => Message::of(&GetKmsKeyRequest::default()),
            (GetAppEnvEncryptPubKey, Ask::Valid) => {
                Message::of(&AppId { app_id: vec![1; 20], ..Default::default() })
            }
            (SignCert, Ask::Valid) => Message::of(&sign_request(&self.app, &P256Key::generate(), Bound::Yes)),
            (SignCert, Ask::ByStranger) => {
                Message::of(&sign_request(&self.stranger, &P256Key::generate(), Bound::Yes))
            }
            (SignCert, Ask::Unbound) => {
                Message::of(&sign_request(&self.app, &P256Key::generate(), Bound::No))
            }
            (KmsClearImageCache, Ask::Valid) => Message::of(&legacy_clear(ADMIN_TOKEN)),
            (KmsClearImageCache, Ask::WrongToken) => Message::of(&legacy_clear("another token")),
            (Bootstrap, Ask::Valid | Ask::Again) => {
                Message::of(&BootstrapRequest { domain: DOMAIN.to_owned() })
            }
            (Onboard, Ask::Valid | Ask::Again) => Message::of(&OnboardRequest {
                source_url: source_url(),
                domain: DOMAIN.to_owned(),
                source_token: String::new(),
                source_root_sha256: Vec::new(),
            }),
            (AdminClearImageCache, Ask::Valid) => Message::of(&ClearImageCacheRequest::default()),
            (Explain, Ask::Valid) => {
                let evidence = self.app.evidence(ReportData::ZERO).encode();
                Message::of(&ExplainRequest { evidence, ..Default::default() })
            }
            (ListDenials, Ask::Valid) => Message::of(&ListDenialsRequest::default()),
            (Freeze, Ask::Valid) => Message::of(&FreezeRequest {
                scope: "app".to_owned(),
                value: vec![9; 20],
                reason: "a test".to_owned(),
                expires_at: None,
                replace: false,
            }),
            (Unfreeze, Ask::Valid) => {
                let request =
                    UnfreezeRequest { scope: "app".to_owned(), value: vec![9; 20], ..Default::default() };
                Message::of(&request)
            }
            (LowerClockFloor, Ask::Valid) => {
                let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
                Message::of(&LowerClockFloorRequest { reason: "a test".to_owned(), now })
            }
            (StartShadow, Ask::Valid) => {
                let auth_config_json = "{}".to_owned();
                Message::of(&StartShadowRequest { auth_config_json, ..Default::default() })
            }
            (method, Ask::Valid) if takes_nothing(method) => Message::empty(),
            (method, ask) => panic!("{method:?} cannot be asked for {ask:?}"),
        }
    }
}

/// Whether the method's request has no field in the proto file.
fn takes_nothing(method: Method) -> bool {
    let row = method.row();
    let set = FileDescriptorSet::decode(DESCRIPTORS).expect("the descriptor set");
    let file = set.file.into_iter().find(|file| file.package() == "kms").expect("the API");
    let service = file.service.into_iter().find(|service| service.name() == row.service.name());
    let methods = service.expect("the service").method;
    let method = methods.iter().find(|method| method.name() == row.name).expect("the method");
    method.input_type() == ".google.protobuf.Empty"
}

fn legacy_clear(token: &str) -> LegacyClearImageCacheRequest {
    let mut request: LegacyClearImageCacheRequest = serde_json::from_str("{}").expect("the default message");
    request.token = token.to_owned();
    request
}

enum Bound {
    Yes,
    No,
}

fn sign_request(cvm: &Cvm, key: &P256Key, bound: Bound) -> SignCertRequest {
    let evidence = match bound {
        Bound::Yes => cvm.evidence(ReportData::ra_tls(&key.spki_der())),
        Bound::No => cvm.evidence(ReportData::ra_tls(&P256Key::generate().spki_der())),
    };
    let csr = Csr { usage_client_auth: true, ..Csr::plain(&key.spki_der(), "an app", evidence) };
    let csr = csr.encode_v2();
    SignCertRequest { api_version: 2, signature: Csr::sign(&csr, key), csr, ..Default::default() }
}
