//! TCB info and QE identity, standard or early: how far a platform is behind.

use kms_attest::collateral::{CaKind, PlatformKey};
use kms_attest::tcb::{PlatformTcb, TcbGap, TcbStatus};

/// The two documents, separated by a zero byte.
///
/// The same documents give the same result, and each advisory that an update settles is in them.
pub fn tcb_info(data: &[u8]) {
    let Some(border) = data.iter().position(|byte| *byte == 0) else { return };
    let (Ok(tcb_info), Ok(qe_identity)) =
        (std::str::from_utf8(&data[..border]), std::str::from_utf8(&data[border + 1..]))
    else {
        return;
    };
    let gap = |svn: u8, module: u8| {
        let platform = PlatformTcb {
            model: PlatformKey { fmspc: [0; 6], ca: CaKind::Platform },
            cpu_svn: [svn; 16],
            pce_svn: svn.into(),
            tee_tcb_svn: [[svn, module].as_slice(), &[svn; 14]].concat().try_into().expect("16 bytes"),
            tee_tcb_svn2: None,
            qe_isv_svn: svn.into(),
        };
        TcbGap::read(&platform, TcbStatus::OutOfDate, tcb_info, qe_identity)
    };
    for module in [0, 1] {
        for svn in [0, 3, u8::MAX] {
            let read = gap(svn, module);
            assert_eq!(gap(svn, module), read, "the same documents say the same");
            for advisory in read.iter().flat_map(|gap| gap.settled_by_update(|_| true)) {
                let is_there = |text: &str| text.contains(advisory) || text.contains('\\');
                assert!(is_there(tcb_info) || is_there(qe_identity), "{advisory:?}");
            }
        }
    }
}
