//! Collateral, the documents Intel signs about platforms (TCB info, QE identity, CRLs): fetched, checked, and
//! cached while valid.

mod authentic;
mod cache;
mod chain;
mod clock;
mod crl;
mod crypto;
mod endpoint;
mod error;
mod floor_kind;
mod floors;
mod http;
mod options;
mod origin;
mod pccs;
mod pck_chain;
mod platform;
mod set;
mod signed;
mod store;
#[cfg(test)]
pub(crate) mod testing;

pub use cache::{
    BundleError, CacheStats, CollateralBundle, CollateralCache, EntryStats, FetchObserver, Import,
    RefreshTask, Refreshed, RefusedSet, Source, StoredStats,
};
pub use chain::{ChainError, certificates as read_chain};
pub use clock::Clock;
pub use crl::decode as read_crl;
pub(crate) use crypto::Dcap;
pub use endpoint::EndpointStats;
pub use error::{CollateralError, EndpointError, FetchFailure, Resource, ServiceFailure};
pub use floor_kind::{FloorKind, TcbSet};
pub use floors::{Floors, FloorsFileError};
pub use http::Http;
pub use options::CacheOptions;
pub use origin::{named_model, platform_is_rooted};
pub use pccs::{DEFAULT_PCCS_URL, Pccs};
pub(crate) use pck_chain::PckChain;
pub use platform::{CaKind, PlatformKey};
pub(crate) use set::unix_seconds;
pub use set::{Collateral, Numbers};
pub use store::{
    CollateralStore, Damage, RefusedFile, StoredChain, StoredProblem, StoredSet, parse as read_stored,
    seal as seal_stored,
};
