//! MessagePack, as used by evidence V1 and the app info extension.

mod read;
mod write;

pub(crate) use read::{Known, Reader, TextForm, required, set};
pub(crate) use write::Writer;
