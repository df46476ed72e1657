//! Intel's SGX extension of a PCK certificate (OID 1.2.840.113741.1.13.1), encoded by hand because it needs
//! only four DER types.

pub(crate) const SGX_EXTENSION: &[u64] = &[1, 2, 840, 113741, 1, 13, 1];

/// DER contents of [`SGX_EXTENSION`].
const SGX_EXTENSION_DER: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const SEQUENCE: u8 = 0x30;

/// The facts about a platform in its PCK certificate.
pub(crate) struct PlatformFacts {
    pub(crate) ppid: [u8; 16],
    pub(crate) cpu_svn: [u8; 16],
    pub(crate) pce_svn: u16,
    pub(crate) pce_id: [u8; 2],
    pub(crate) fmspc: [u8; 6],
    /// Only platforms of several packages have an instance id and a configuration.
    pub(crate) scalable: Option<[u8; 16]>,
}

/// The extension's value: SEQUENCE of { OID, value }.
pub(crate) fn encode(facts: &PlatformFacts) -> Vec<u8> {
    let mut tcb: Vec<Vec<u8>> =
        (1u8..).zip(facts.cpu_svn).map(|(index, svn)| entry(&[2, index], &integer(svn.into()))).collect();
    tcb.push(entry(&[2, 17], &integer(facts.pce_svn)));
    tcb.push(entry(&[2, 18], &tlv(OCTET_STRING, &facts.cpu_svn)));

    let mut fields = vec![
        entry(&[1], &tlv(OCTET_STRING, &facts.ppid)),
        entry(&[2], &tlv(SEQUENCE, &tcb.concat())),
        entry(&[3], &tlv(OCTET_STRING, &facts.pce_id)),
        entry(&[4], &tlv(OCTET_STRING, &facts.fmspc)),
        entry(&[5], &tlv(ENUMERATED, &[u8::from(facts.scalable.is_some())])),
    ];
    if let Some(instance) = &facts.scalable {
        let configuration: Vec<u8> = [(1, 0xff), (2, 0xff), (3, 0xff)]
            .iter()
            .flat_map(|(i, v)| entry(&[7, *i], &tlv(BOOLEAN, &[*v])))
            .collect();
        fields.push(entry(&[6], &tlv(OCTET_STRING, instance)));
        fields.push(entry(&[7], &tlv(SEQUENCE, &configuration)));
    }
    tlv(SEQUENCE, &fields.concat())
}

fn entry(suffix: &[u8], value: &[u8]) -> Vec<u8> {
    let oid = tlv(OBJECT_IDENTIFIER, &[SGX_EXTENSION_DER, suffix].concat());
    tlv(SEQUENCE, &[oid, value.to_vec()].concat())
}

fn integer(value: u16) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    match bytes {
        [0, low] if low < 0x80 => tlv(INTEGER, &[low]),
        [0, low] => tlv(INTEGER, &[0, low]),
        [high, low] if high < 0x80 => tlv(INTEGER, &[high, low]),
        [high, low] => tlv(INTEGER, &[0, high, low]),
    }
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().position(|b| *b != 0).unwrap_or(length.len() - 1)..];
    let mut out = vec![tag];
    if content.len() >= 0x80 {
        out.push(0x80 | significant.len() as u8);
    }
    out.extend_from_slice(significant);
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_the_short_form_below_128_and_the_long_one_above() {
        for (length, header) in [
            (0usize, vec![0x04, 0x00]),
            (127, vec![0x04, 0x7f]),
            (128, vec![0x04, 0x81, 0x80]),
            (256, vec![0x04, 0x82, 0x01, 0x00]),
        ] {
            let encoded = tlv(OCTET_STRING, &vec![0; length]);
            assert_eq!(encoded[..header.len()], header, "{length}");
            assert_eq!(encoded.len(), header.len() + length);
        }
    }

    #[test]
    fn integers_are_never_negative() {
        for (value, encoded) in [
            (0, vec![2, 1, 0]),
            (127, vec![2, 1, 127]),
            (128, vec![2, 2, 0, 128]),
            (0x7fff, vec![2, 2, 0x7f, 0xff]),
            (0x8000, vec![2, 3, 0, 0x80, 0]),
        ] {
            assert_eq!(integer(value), encoded, "{value}");
        }
    }
}
