//! Collateral with later documents of other models.
//!
//! QE identity and CRLs are of many models, and TCB info of two CAs. A model that was not fetched since their numbers rose would be
//! refused as older than seen before, so it takes the later documents that came with another one.

use dcap_qvl::QuoteCollateralV3;

use crate::collateral::floors::numbers_of;
use crate::collateral::{Collateral, FloorKind, TcbSet};

/// One of the four documents: what shares it, the number by which one is later, and its end (Unix seconds).
#[derive(Clone, Copy)]
struct Document {
    kind: FloorKind,
    number: u64,
    end: u64,
}

/// In the order of [`numbers_of`].
fn documents(collateral: &Collateral) -> [Document; 4] {
    let ends = collateral.ends;
    let mut ends = [ends.tcb_info, ends.qe_identity, ends.root_crl, ends.pck_crl].into_iter();
    numbers_of(collateral, TcbSet::Standard).map(|(kind, number)| Document {
        kind,
        number,
        end: ends.next().unwrap_or_default(),
    })
}

/// The documents to use instead of those of `own`: from `others`, as far as they are valid at `now`, where the number is higher, or
/// the same and the own document has expired. `None` if its own are to be used. All collateral is signed up to the root.
pub(super) fn complete<'a>(
    own: &Collateral,
    others: impl IntoIterator<Item = &'a Collateral>,
    now: u64,
) -> Option<QuoteCollateralV3> {
    let mut latest = documents(own).map(|document| (document, None));
    for other in others.into_iter().filter(|other| other.begins() <= now) {
        for ((held, from), document) in latest.iter_mut().zip(documents(other)) {
            let is_longer = (held.end < now || from.is_some()) && document.end > held.end;
            let is_later = document.number > held.number || (document.number == held.number && is_longer);
            if document.kind == held.kind && document.end >= now && is_later {
                (*held, *from) = (document, Some(other));
            }
        }
    }
    let mut parts = None;
    for (document, from) in latest {
        if let Some(from) = from {
            take(document.kind, from.parts(), parts.get_or_insert_with(|| own.parts().clone()));
        }
    }
    parts
}

/// Whether one of `sets` has a document with this floor or a higher number, valid or not.
pub(super) fn knows<'a>(mut sets: impl Iterator<Item = &'a Collateral>, kind: FloorKind, floor: u64) -> bool {
    sets.any(|set| documents(set).iter().any(|document| document.kind == kind && document.number >= floor))
}

fn take(kind: FloorKind, from: &QuoteCollateralV3, into: &mut QuoteCollateralV3) {
    match kind {
        FloorKind::TcbInfo(..) => {
            into.tcb_info.clone_from(&from.tcb_info);
            into.tcb_info_signature.clone_from(&from.tcb_info_signature);
            into.tcb_info_issuer_chain.clone_from(&from.tcb_info_issuer_chain);
        }
        FloorKind::QeIdentity(_) => {
            into.qe_identity.clone_from(&from.qe_identity);
            into.qe_identity_signature.clone_from(&from.qe_identity_signature);
            into.qe_identity_issuer_chain.clone_from(&from.qe_identity_issuer_chain);
        }
        FloorKind::RootCrl => into.root_ca_crl.clone_from(&from.root_ca_crl),
        FloorKind::PckCrl(_) => {
            into.pck_crl.clone_from(&from.pck_crl);
            into.pck_crl_issuer_chain.clone_from(&from.pck_crl_issuer_chain);
        }
    }
}
