//! OS images that are for apps or for development, a server that has them, and CVMs that have booted them.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_attest::platform::tdx::image::BootRegisters;
use kms_simulator::{CvmBuilder, Registers};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// An image of `tests/vectors/os_image_v4.json`.
pub struct OsImage {
    /// SHA-256 of its list of files.
    pub hash: [u8; 32],
    archive: Vec<u8>,
    vm_config: String,
    registers: Registers,
}

impl OsImage {
    /// One that says `is_dev` false.
    pub fn release() -> Self {
        Self::of(|metadata| metadata)
    }

    /// The same, but that it says `is_dev` true. The registers do not tell that, its hash does.
    pub fn development() -> Self {
        Self::of(|metadata| metadata.replace("\"is_dev\": false", "\"is_dev\": true"))
    }

    fn of(change: impl Fn(String) -> String) -> Self {
        let vectors = kms_attest::test_vectors::json("os_image_v4.json");
        let (image, case) = (&vectors["images"][0], &vectors["legacy"][0]);
        assert_eq!(case["image"], image["name"]);
        let mut files: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        for (name, content) in image["files_base64"].as_object().expect("files") {
            files.insert(name, STANDARD.decode(content.as_str().expect("text")).expect("base64"));
        }
        let metadata = files.get_mut("metadata.json").expect("metadata");
        let before = hex::encode(Sha256::digest(&metadata));
        *metadata = change(String::from_utf8(metadata.clone()).expect("text")).into_bytes();
        let after = hex::encode(Sha256::digest(&metadata));
        let list = image["sha256sum_txt"].as_str().expect("text").replace(&before, &after);
        let hash: [u8; 32] = Sha256::digest(&list).into();
        let named = image["os_image_hash"].as_str().expect("text");
        let vm_config = case["vm_config"].as_str().expect("text").replace(named, &hex::encode(hash));
        assert!(vm_config.contains(&hex::encode(hash)), "{vm_config}");
        let BootRegisters { mrtd, rtmr0, rtmr1, rtmr2 } =
            serde_json::from_value(case["expected"].clone()).expect("registers");
        let registers = Registers { mr_td: mrtd, rt_mr0: rtmr0, rt_mr1: rtmr1, rt_mr2: rtmr2 };
        Self { hash, archive: archive(&list, &files), vm_config, registers }
    }

    /// The CVM has booted this image.
    pub fn booted(&self, cvm: CvmBuilder) -> CvmBuilder {
        self.named(cvm).registers(self.registers)
    }

    /// The CVM says that it has booted this image.
    pub fn named(&self, cvm: CvmBuilder) -> CvmBuilder {
        cvm.os_image_hash(self.hash).vm_config(&self.vm_config)
    }
}

fn archive(list: &str, files: &BTreeMap<&str, Vec<u8>>) -> Vec<u8> {
    let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut builder = tar::Builder::new(encoder);
    let listed = [("sha256sum.txt", list.as_bytes())];
    for (name, content) in listed.into_iter().chain(files.iter().map(|(name, file)| (*name, &**file))) {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content).expect("file");
    }
    builder.into_inner().expect("tar").finish().expect("gzip")
}

/// TOML of a KMS that verifies images, of a server that has only these.
pub async fn verified_by_download(images: &[&OsImage]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("address");
    let files: BTreeMap<String, Vec<u8>> =
        images.iter().map(|image| (hex::encode(image.hash), image.archive.clone())).collect();
    let files = Arc::new(files);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("connection");
            let files = Arc::clone(&files);
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap_or_default();
                let text = String::from_utf8_lossy(&request[..length]).into_owned();
                let found = files.iter().find(|(hash, _)| text.contains(&**hash));
                let (status, body) = found.map_or((404, &[][..]), |(_, archive)| (200, &archive[..]));
                let head = format!(
                    "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(body).await;
            });
        }
    });
    format!("core.image = {{ verify = true, download_url = 'http://{address}/{{OS_IMAGE_HASH}}' }}")
}
