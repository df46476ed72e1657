//! Media types of requests: compared ignoring case and parameters (RFC 9110, section 8.3.1).

use http::{HeaderMap, header};

/// The media type of the body, in lower case; empty if it is missing or not text.
pub fn of_body(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    essence(value.unwrap_or_default())
}

/// The media types that the caller accepts, in its order.
pub fn accepted(headers: &HeaderMap) -> impl Iterator<Item = String> {
    let lines = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(essence)
}

fn essence(value: &str) -> String {
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_white_space_and_parameters_do_not_matter() {
        for (value, expected) in [
            ("application/json", "application/json"),
            ("Application/JSON; charset=utf-8", "application/json"),
            (" application/grpc-web+proto ;x=\"a,b\"", "application/grpc-web+proto"),
            ("application/jsonx", "application/jsonx"),
            ("", ""),
            (";", ""),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, value.parse().expect("a value"))]);
            assert_eq!(of_body(&headers), expected, "{value}");
        }
        assert_eq!(of_body(&HeaderMap::new()), "");
    }

    #[test]
    fn what_is_accepted_may_be_several_lists() {
        let mut headers = HeaderMap::new();
        headers.append(header::ACCEPT, "Application/grpc-web-text;q=0.9, */*".parse().expect("a value"));
        headers.append(header::ACCEPT, "text/html".parse().expect("a value"));
        assert_eq!(accepted(&headers).collect::<Vec<_>>(), ["application/grpc-web-text", "*/*", "text/html"]);
    }
}
