//! Writes files without holding up other requests.

use std::io;

/// Waits for a disk on a thread that may wait.
///
/// # Errors
/// Those of `write`; it has ended in a panic.
pub async fn written<T: Send + 'static>(
    write: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let written = tokio::task::spawn_blocking(write).await;
    written.unwrap_or_else(|_| Err(io::Error::other("the writer ended in a panic")))
}
