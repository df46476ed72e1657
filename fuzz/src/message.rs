//! The messages of the API, requests and responses, in each of their encodings.

use cvm_kms::net::prpc;
use cvm_kms::proto;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Decodes one type of message.
type Read = fn(&[u8]);

macro_rules! messages {
    ($($message:ident)*) => { &[$(read::<proto::$message>),*] };
}

const MESSAGES: &[Read] = messages! {
    GetAppKeyRequest AppId PublicKeyResponse AppKeyResponse GetMetaResponse GetKmsKeyRequest KmsKeys KmsKeyResponse
    GetTempCaCertResponse SignCertRequest SignCertResponse LegacyClearImageCacheRequest ClearImageCacheRequest
    BootstrapRequest BootstrapResponse OnboardRequest OnboardResponse AttestationInfoResponse PrpcError
    ExplainRequest ExplainResponse ListDenialsRequest ListDenialsResponse FreezeRequest FreezeResponse UnfreezeRequest
    UnfreezeResponse ListFrozenResponse StartShadowRequest StartShadowResponse ShadowReportResponse
    RefreshCollateralResponse
    GetChallengeResponse RecentReleasesResponse LowerClockFloorRequest LowerClockFloorResponse
};

/// The first byte chooses the type; the others are the message in protobuf, in JSON and as a query string.
pub fn message(data: &[u8]) {
    let Some((choice, message)) = data.split_first() else { return };
    MESSAGES[usize::from(*choice) % MESSAGES.len()](message);
}

fn read<M: Message + Default + PartialEq + Serialize + DeserializeOwned>(data: &[u8]) {
    let protobuf = M::decode(data).ok();
    let json = serde_json::from_slice(data).ok();
    let query = std::str::from_utf8(data).ok().and_then(|query| prpc::from_query(query).ok());
    for message in [protobuf, json, query].into_iter().flatten() {
        survives::<M>(&message);
    }
}

/// A message survives protobuf and JSON.
fn survives<M: Message + Default + PartialEq + Serialize + DeserializeOwned>(message: &M) {
    let protobuf = M::decode(message.encode_to_vec().as_slice()).expect("our own protobuf reads");
    assert!(&protobuf == message, "protobuf lost something");
    let json = serde_json::to_vec(message).expect("a message has a JSON form");
    let json: M = serde_json::from_slice(&json).expect("our own JSON reads");
    assert!(&json == message, "JSON lost something");
}
