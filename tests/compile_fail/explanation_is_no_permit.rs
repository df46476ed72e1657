//! A dry run releases nothing: what an explanation says opens no door.

use cvm_kms::{
    admission::{App, Standing},
    lifecycle::{Door, Ready, Released},
    proto::ExplainResponse,
};

async fn steal(ready: &Ready, door: Door<'_>, explanation: ExplainResponse, standing: &Standing) {
    let _ = ready.app_keys(&explanation);
    let _ = Released::<App>::app(door, explanation, standing, [127, 0, 0, 1].into()).await;
}

fn main() {}
