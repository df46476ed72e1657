//! The kernel command line: the root file system's hash in it.

/// The word with the hash of the image's root file system.
const ROOTFS_HASH: &str = "dstack.rootfs_hash=";

/// Why a command line does not determine the root file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootfsHashError {
    /// None or several. The guest uses the last of several.
    #[error("cmdline must have exactly one dstack.rootfs_hash, found {0}")]
    Count(usize),
    /// The value is not a SHA-256 value.
    #[error("dstack.rootfs_hash in cmdline must be 64 hex digits")]
    NotAHash,
}

/// The root file system's hash: the value of the only such word.
///
/// # Errors
/// [`RootfsHashError`].
pub fn rootfs_hash(command_line: &str) -> Result<[u8; 32], RootfsHashError> {
    let mut named = command_line.split_whitespace().filter_map(|word| word.strip_prefix(ROOTFS_HASH));
    let (Some(value), 0) = (named.next(), named.clone().count()) else {
        let count = command_line.split_whitespace().filter(|word| word.starts_with(ROOTFS_HASH)).count();
        return Err(RootfsHashError::Count(count));
    };
    let mut hash = [0; 32];
    hex::decode_to_slice(value, &mut hash).map_err(|_| RootfsHashError::NotAHash)?;
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_names_the_root_file_system() {
        let (aa, bb) = ("aa".repeat(32), "BB".repeat(32));
        for (text, hash) in [
            (format!("quiet dstack.rootfs_hash={aa} ro"), Ok([0xaa; 32])),
            (format!("\tdstack.rootfs_hash={bb}\n"), Ok([0xbb; 32])),
            (String::new(), Err(RootfsHashError::Count(0))),
            (format!("dstack.rootfs_hash {aa}"), Err(RootfsHashError::Count(0))),
            (format!("xdstack.rootfs_hash={aa}"), Err(RootfsHashError::Count(0))),
            (format!("dstack.rootfs_hash={aa} dstack.rootfs_hash={aa}"), Err(RootfsHashError::Count(2))),
            (format!("dstack.rootfs_hash={aa} dstack.rootfs_hash="), Err(RootfsHashError::Count(2))),
            (format!("dstack.rootfs_hash={aa}0"), Err(RootfsHashError::NotAHash)),
            (format!("dstack.rootfs_hash={}", &aa[2..]), Err(RootfsHashError::NotAHash)),
            (format!("dstack.rootfs_hash=0x{}", &aa[2..]), Err(RootfsHashError::NotAHash)),
        ] {
            assert_eq!(rootfs_hash(&text), hash, "{text}");
        }
    }
}
