//! 32 secret bytes that are overwritten when dropped and cannot be printed or cloned.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// 32 secret bytes. They leave through [`expose`](Self::expose) only and compare in constant time.
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// Takes secret bytes over.
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Secret(bytes)
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.0.ct_eq(&other.0[..]).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_print_nothing_and_compare_by_value() {
        let secret = |byte| Secret::new(Zeroizing::new([byte; 32]));
        assert_eq!(format!("{:?}", secret(7)), "Secret(..)");
        assert_eq!(secret(7), secret(7));
        assert_ne!(secret(7), secret(8));
    }
}
