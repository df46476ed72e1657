//! The admin service: for callers that its listener has authenticated.

use crate::{error::Result, os_image::ImageCache, proto::ClearImageCacheRequest};

/// `service Admin` of the proto file.
#[derive(Debug)]
pub struct AdminService {
    images: ImageCache,
}

impl AdminService {
    /// The service over the caches of this KMS.
    pub fn new(images: ImageCache) -> Self {
        Self { images }
    }

    /// `Admin.ClearImageCache`.
    ///
    /// # Errors
    /// A hash that is not one, or a cache that cannot be cleared.
    pub async fn clear_image_cache(&self, request: ClearImageCacheRequest) -> Result<()> {
        super::kms::clear(&self.images, &request.image_hash, &request.config_hash).await
    }
}
