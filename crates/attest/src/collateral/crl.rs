//! CRLs in each encoding that collateral services use, and their CRL numbers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

const BEGIN: &str = "-----BEGIN X509 CRL-----";
const END: &str = "-----END X509 CRL-----";

/// The DER of a CRL that comes as DER (Intel's PCS with `encoding=der`), as PEM (Intel's PCCS without it) or
/// as hex (`rootcacrl` of every PCCS, `pckcrl` of old ones), with optional white space or a terminating NUL.
/// The signature is not checked.
pub fn decode(body: Vec<u8>) -> Option<Vec<u8>> {
    let is_crl =
        |der: &Vec<u8>| CertificateRevocationList::from_der(der).is_ok_and(|(rest, _)| rest.is_empty());
    if body.first() == Some(&0x30) && is_crl(&body) {
        return Some(body);
    }
    let text = std::str::from_utf8(&body).ok()?;
    let text =
        text.trim_start_matches('\u{feff}').trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
    // One service sends the text as a JSON string.
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    // Unlike `pem::read`: the block is all of the text, because another one would not be verified.
    let der = match text.strip_prefix(BEGIN) {
        Some(rest) => STANDARD.decode(dense(rest.strip_suffix(END)?)).ok()?,
        None => hex::decode(dense(text)).ok()?,
    };
    is_crl(&der).then_some(der)
}

fn dense(text: &str) -> Vec<u8> {
    text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect()
}

/// The CRL number (RFC 5280, section 5.2.3), 0 if absent; `None` if it does not fit in 64 bits.
pub(super) fn number(der: &[u8]) -> Option<u64> {
    let (_, crl) = CertificateRevocationList::from_der(der).ok()?;
    let mut number = 0;
    for extension in crl.extensions() {
        if let ParsedExtension::CRLNumber(found) = extension.parsed_extension() {
            number = found.try_into().ok()?;
        }
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collateral::testing::real_collateral;

    #[test]
    fn a_list_is_read_in_each_form_that_a_service_has() {
        let der = real_collateral().parts().root_ca_crl.clone();
        let (lower, upper) = (hex::encode(&der), hex::encode_upper(&der));
        let base64 = STANDARD.encode(&der);
        let lines: Vec<&str> =
            base64.as_bytes().chunks(64).map(|l| std::str::from_utf8(l).unwrap()).collect();
        for (form, body) in [
            ("DER", der.clone()),
            ("hex", lower.clone().into_bytes()),
            ("upper case", upper.into_bytes()),
            ("a line", format!("{lower}\n").into_bytes()),
            ("a C string", format!("{lower}\0").into_bytes()),
            ("CRLF around", format!("\r\n {lower}\r\n").into_bytes()),
            ("lines", format!("{}\n{}", &lower[..64], &lower[64..]).into_bytes()),
            ("quoted", format!("\"{lower}\"").into_bytes()),
            ("byte order mark", format!("\u{feff}{lower}").into_bytes()),
            ("PEM", format!("{BEGIN}\n{}\n{END}\n", lines.join("\n")).into_bytes()),
            ("PEM, CRLF", format!("{BEGIN}\r\n{}\r\n{END}\r\n", lines.join("\r\n")).into_bytes()),
            ("PEM, no last line break", format!("{BEGIN}\n{}\n{END}", lines.join("\n")).into_bytes()),
        ] {
            assert_eq!(decode(body).as_ref(), Some(&der), "{form}");
        }
        for (form, body) in [
            ("nothing", Vec::new()),
            ("a page", b"<html></html>".to_vec()),
            ("half", lower.as_bytes()[..lower.len() / 2].to_vec()),
            ("more", format!("{lower}00").into_bytes()),
            ("DER and more", [&der[..], &[0]].concat()),
            ("another label", format!("-----BEGIN CRL-----\n{base64}\n-----END CRL-----").into_bytes()),
            ("two", format!("{BEGIN}\n{base64}\n{END}\n{BEGIN}\n{base64}\n{END}").into_bytes()),
            ("a certificate", real_collateral().parts().tcb_info_issuer_chain.clone().into_bytes()),
        ] {
            assert_eq!(decode(body), None, "{form}");
        }
    }

    #[test]
    fn the_number_is_that_of_the_extension() {
        let real = real_collateral();
        for crl in [&real.parts().root_ca_crl, &real.parts().pck_crl] {
            assert_eq!(number(crl), Some(1));
        }
        assert_eq!(number(b"no crl"), None);
    }
}
