//! TDX quotes: their TD report, and their verification with collateral and a root.

mod error;
mod evidence;
mod identity;
pub mod image;
mod quote;
mod quoted;
mod refusal;
mod rejection;
mod report;
mod shortfall;
mod verified;

pub use self::error::TdxError;
pub use self::evidence::Tdx;
pub use self::identity::tdx_identity;
pub use self::quote::TdQuote;
pub use self::quoted::{Quoted, QuotedError};
pub use self::rejection::Rejection;
pub use self::report::TdReport;
pub use self::shortfall::Shortfall;
pub use self::verified::{VerifiedQuote, verify_quote};
