//! The headers by which callers name a request: `X-Request-Id` and `traceparent`.

use cvm_kms::request::{HEADER, Ids, Remote};
use http::{HeaderMap, HeaderName, HeaderValue};

/// An id has at most 64 plain characters, also in logs, where that of a caller begins with `caller:`; the caller's span is
/// written as it was read.
pub fn request_headers(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(HEADER, value.clone());
    headers.insert(HeaderName::from_static("traceparent"), value);
    let id = Ids::default().of(&headers);
    let (text, logged) = (id.to_string(), id.logged().to_string());
    assert!(
        text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    );
    assert_eq!(id.header().as_bytes(), text.as_bytes());
    match logged.strip_prefix("caller:") {
        Some(given) => assert_eq!((given, data), (&*text, text.as_bytes())),
        None => assert!(logged == text && text.len() == 32),
    }
    if let Some(Remote { trace, span, is_sampled }) = Remote::of(&headers) {
        assert!(trace != 0 && span != 0);
        let written = format!("-{trace:032x}-{span:016x}-");
        assert_eq!(&data[2..53], written.as_bytes());
        let flags = std::str::from_utf8(&data[53..55]).expect("digits");
        assert_eq!(u8::from_str_radix(flags, 16).expect("digits") & 1 == 1, is_sampled);
    }
}
