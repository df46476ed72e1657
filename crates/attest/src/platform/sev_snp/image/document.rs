//! `measurement.snp.cbor`: the image's part of the launch measurement.

use super::error::{MAX_SECTIONS, SevSnpError, VERSION};
use super::launch::{Image, Section};
use crate::codec::cbor::{CborError, Reader};

/// The fields found in a document; each must occur once.
#[derive(Default)]
struct Fields<'a> {
    version: Once<u64>,
    command_line: Once<&'a str>,
    ovmf_hash: Once<&'a [u8]>,
    kernel_hash: Once<&'a [u8]>,
    initrd_hash: Once<&'a [u8]>,
    hashes_table_gpa: Once<u64>,
    reset_eip: Once<u64>,
    sections: Once<Vec<SectionFields>>,
}

/// A section's `gpa`, `size` and `type`.
#[derive(Default)]
struct SectionFields {
    gpa: Once<u64>,
    size: Once<u64>,
    kind: Once<u64>,
}

/// A value that must occur exactly once.
#[derive(Default)]
enum Once<T> {
    #[default]
    Never,
    Met(T),
    Again,
}

impl<T> Once<T> {
    fn meet(&mut self, value: T) {
        *self = match self {
            Self::Never => Self::Met(value),
            Self::Met(_) | Self::Again => Self::Again,
        };
    }

    fn take(self, name: &'static str) -> Result<T, SevSnpError> {
        match self {
            Self::Met(value) => Ok(value),
            Self::Never | Self::Again => Err(SevSnpError::Field(name)),
        }
    }
}

pub(super) fn parse(document: &[u8]) -> Result<Image, SevSnpError> {
    let fields = Fields::read(document)?;
    match fields.version.take("version")? {
        VERSION => {}
        other => return Err(SevSnpError::Version(other)),
    }
    let sections = fields.sections.take("ovmf_sections")?;
    let sections = sections.into_iter().map(|section| {
        Ok(Section {
            gpa: section.gpa.take("gpa of a section")?,
            size: section.size.take("size of a section")?,
            kind: section.kind.take("type of a section")?,
        })
    });
    Ok(Image {
        command_line: fields.command_line.take("cmdline")?.to_owned(),
        ovmf_hash: exact(fields.ovmf_hash.take("ovmf_hash")?, "ovmf_hash")?,
        kernel_hash: exact(fields.kernel_hash.take("kernel_hash")?, "kernel_hash")?,
        initrd_hash: match fields.initrd_hash.take("initrd_hash")? {
            [] => None,
            hash => Some(exact(hash, "initrd_hash")?),
        },
        hashes_table_gpa: fields.hashes_table_gpa.take("hashes_table_gpa")?,
        reset_eip: u32::try_from(fields.reset_eip.take("reset_eip")?)
            .map_err(|_| SevSnpError::Field("reset_eip"))?,
        sections: sections.collect::<Result<_, SevSnpError>>()?,
    })
}

fn exact<const N: usize>(bytes: &[u8], name: &'static str) -> Result<[u8; N], SevSnpError> {
    bytes.try_into().map_err(|_| SevSnpError::Field(name))
}

impl<'a> Fields<'a> {
    fn read(document: &'a [u8]) -> Result<Self, CborError> {
        let mut fields = Self::default();
        let mut reader = Reader::new(document);
        reader.map(|reader| {
            match reader.text()? {
                "version" => fields.version.meet(reader.unsigned()?),
                "cmdline" => fields.command_line.meet(reader.text()?),
                "ovmf_hash" => fields.ovmf_hash.meet(reader.bytes()?),
                "kernel_hash" => fields.kernel_hash.meet(reader.bytes()?),
                "initrd_hash" => fields.initrd_hash.meet(reader.bytes()?),
                "hashes_table_gpa" => fields.hashes_table_gpa.meet(reader.unsigned()?),
                "reset_eip" => fields.reset_eip.meet(reader.unsigned()?),
                "ovmf_sections" => fields.sections.meet(sections(reader)?),
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        reader.end()?;
        Ok(fields)
    }
}

/// Reads one more than the maximum, so that too many can be reported.
fn sections(reader: &mut Reader<'_>) -> Result<Vec<SectionFields>, CborError> {
    let mut sections = Vec::new();
    reader.array(|reader| {
        let mut section = SectionFields::default();
        reader.map(|reader| {
            match reader.text()? {
                "gpa" => section.gpa.meet(reader.unsigned()?),
                "size" => section.size.meet(reader.unsigned()?),
                "type" => section.kind.meet(reader.unsigned()?),
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        if sections.len() <= MAX_SECTIONS {
            sections.push(section);
        }
        Ok(())
    })?;
    Ok(sections)
}
