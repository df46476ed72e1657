//! A dry run releases nothing: an explanation passes no release guard.

use cvm_kms::admission::{App, SelfAuthorization};
use cvm_kms::lifecycle::{ReleaseGuards, Ready, Released};
use cvm_kms::proto::ExplainResponse;

async fn steal(ready: &Ready, guards: ReleaseGuards<'_>, explanation: ExplainResponse, self_authorization: &SelfAuthorization) {
    let _ = ready.app_keys(&explanation);
    let _ = Released::<App>::app(guards, explanation, self_authorization, [127, 0, 0, 1].into()).await;
}

fn main() {}
