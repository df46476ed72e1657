//! `--pin`: what a KMS without keys must prove with the attestation in its TLS certificate before it is sent
//! anything.

use std::time::Duration;

use clap::Args;
use kms_attest::identity::Registers;
use kms_attest::ra_tls;
use kms_attest::verify::{Binding, Verifier};
use kms_client::Connection;
use kms_client::proof::pins::UP_TO_DATE;

use crate::exit::{Failure, Outcome};
use crate::input::Hex;
use crate::output::printable;

/// For fetching collateral; without any nothing is proven.
const VERIFY_TIME: Duration = Duration::from_secs(30);

/// Arguments of commands that send secrets to a KMS without keys.
#[derive(Args, Debug)]
pub(crate) struct Pin {
    /// Over https: the server's certificate must prove this mrAggregated; may be given more than once
    #[arg(
        long = "pin",
        value_name = "HEX",
        conflicts_with_all = ["root_ca", "server_spki", "dangerous_any_server"]
    )]
    registers: Vec<Hex<32>>,
    /// With --pin: accepted TCB statuses
    #[arg(long = "pin-tcb", value_name = "STATUS", value_delimiter = ',', default_value = UP_TO_DATE)]
    tcb: Vec<String>,
}

impl Pin {
    /// Whether anything is pinned.
    pub(crate) fn is_given(&self) -> bool {
        !self.registers.is_empty()
    }

    /// Requires that the server of `connection` proves the pinned values.
    pub(crate) async fn check(&self, connection: &Connection, verifier: &Verifier) -> Outcome<()> {
        prove(connection, verifier, &self.registers, &self.tcb).await.map(|_| ())
    }
}

/// What a server has proved about itself.
#[derive(Debug)]
pub(crate) struct Proven {
    /// Its measurement, one of those that are pinned.
    pub(crate) mr_aggregated: [u8; 32],
    /// Intel's verdict about its platform, one of those that are accepted.
    pub(crate) tcb_status: String,
}

/// Requires that the server of `connection` proves by the attestation in its TLS certificate that it runs one of the
/// measurements in `registers`, on a platform with one of the TCB statuses in `tcb`.
pub(crate) async fn prove(
    connection: &Connection,
    verifier: &Verifier,
    registers: &[Hex<32>],
    tcb: &[String],
) -> Outcome<Proven> {
    let unproven = |why: &dyn std::fmt::Display| {
        Failure::unproven(format_args!("{}: {why}; nothing was sent", connection.url()))
    };
    let evidence = ra_tls::evidence_in(connection.server_certificate()).map_err(|error| unproven(&error))?;
    let evidence = evidence.ok_or_else(|| unproven(&"its TLS certificate carries no attestation"))?;
    let verifying = verifier.verify(&evidence, Binding::PublicKey(connection.server_public_key()));
    let verified = match tokio::time::timeout(VERIFY_TIME, verifying).await {
        Ok(verified) => verified.map_err(|error| unproven(&error))?,
        Err(_) => {
            return Err(unproven(&format_args!("no collateral within {} s", VERIFY_TIME.as_secs())));
        }
    };
    let status = verified.tcb_status();
    if !tcb.iter().any(|accepted| accepted == status) {
        let status = printable(status);
        return Err(unproven(&format_args!("its TCB status is {status}, which --pin-tcb does not name")));
    }
    let shown = verified.app_info(Registers::RunTime, "").map_err(|error| unproven(&error))?;
    if !registers.iter().any(|pinned| pinned.0 == shown.mr_aggregated) {
        let found = hex::encode(shown.mr_aggregated);
        return Err(unproven(&format_args!("its mrAggregated is {found}, which is not pinned")));
    }
    Ok(Proven { mr_aggregated: shown.mr_aggregated, tcb_status: status.to_owned() })
}
