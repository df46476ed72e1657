//! What the program `minisign` made: the files of `tests/vectors/minisign`.

macro_rules! vector {
    ($name:literal) => {
        include_str!(concat!("../../../../../tests/vectors/minisign/", $name))
    };
}

/// A public key.
pub const ONE: &str = vector!("one.pub");
/// Another one.
pub const TWO: &str = vector!("two.pub");
/// The text of a bundle.
pub const FIRST: &str = vector!("prod-1.bundle");
/// The text of the next one.
pub const SECOND: &str = vector!("prod-2.bundle");
/// The signature of [`FIRST`] by [`ONE`].
pub const BY_ONE: &str = vector!("prod-1.one.minisig");
/// The signature of [`FIRST`] by [`TWO`].
pub const BY_TWO: &str = vector!("prod-1.two.minisig");
/// The signature of [`FIRST`] by [`ONE`], without hashing first.
pub const LEGACY: &str = vector!("prod-1.one.legacy.minisig");
/// The signature of [`SECOND`] by [`ONE`].
pub const SECOND_BY_ONE: &str = vector!("prod-2.one.minisig");
/// The signature of [`SECOND`] by [`ONE`], without hashing first.
pub const SECOND_BY_ONE_LEGACY: &str = vector!("prod-2.one.legacy.minisig");
