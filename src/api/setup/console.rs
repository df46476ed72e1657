//! Where the console is, so that the setup page can lead there.

use std::net::IpAddr;

use serde::Serialize;

use crate::config::Admin;

/// The address of the console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Console {
    /// `https`, or `http` without TLS.
    scheme: &'static str,
    /// The address of the listener; null if it listens on all addresses of this machine.
    address: Option<IpAddr>,
    /// The port of the listener.
    port: u16,
}

impl Console {
    /// The console of the admin listener. `None` without one, and if the system chooses its port.
    pub fn of(admin: &Admin) -> Option<Self> {
        (admin.enabled && admin.port != 0).then(|| Self {
            scheme: if admin.tls.is_some() { "https" } else { "http" },
            address: (!admin.address.is_unspecified()).then_some(admin.address),
            port: admin.port,
        })
    }
}
